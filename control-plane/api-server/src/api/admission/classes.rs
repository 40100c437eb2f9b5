//! What classes say of those who name them, and which class those get who name none.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, Place, forbidden};
use crate::api::directory::Table;
use crate::kinds;
use crate::object;
use crate::status::Result;

impl Api {
    /// Sets a pod's priority to that of its class, or of the default one.
    pub(super) async fn prioritize(&self, place: &Place, pod: &mut Value) -> Result<()> {
        let table = Table::PriorityClasses;
        let name = object::text(&pod["spec"], "priorityClassName").to_owned();
        let class = if name.is_empty() {
            let all = self.directory.all(&self.store, table, None).await?;
            let defaults = all.into_iter().filter(|class| class["globalDefault"] == true);
            // Of several the lowest, as in Kubernetes.
            defaults.min_by_key(|class| class["value"].as_i64())
        } else {
            let class = self.directory.get(&self.store, table, None, &name).await?;
            if class.is_none() {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(forbidden(place, pod, &why));
            }
            class
        };
        let value = class.as_ref().map_or(json!(0), |class| class["value"].clone());
        let said = &pod["spec"]["priority"];
        if !said.is_null() && *said != value {
            let why = format!(
                "the integer value of priority ({said}) must not be provided in pod spec; priority \
                 admission controller computed {value} from the given PriorityClass name"
            );
            return Err(forbidden(place, pod, &why));
        }
        let policy = class.as_ref().map(|class| object::text(class, "preemptionPolicy").to_owned());
        let policy = policy.filter(|policy| !policy.is_empty());
        let spec = &mut pod["spec"];
        spec["priority"] = value;
        if let Some(class) = &class {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
        }
        let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
        object::set_default(spec, "preemptionPolicy", policy);
        Ok(())
    }

    /// Gives a pod what its RuntimeClass costs and where that runs.
    pub(super) async fn choose_runtime(&self, place: &Place, pod: &mut Value) -> Result<()> {
        let name = object::text(&pod["spec"], "runtimeClassName").to_owned();
        let said = pod["spec"]["overhead"].clone();
        if name.is_empty() {
            if said.as_object().is_some_and(|said| !said.is_empty()) {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                return Err(forbidden(place, pod, why));
            }
            return Ok(());
        }
        let table = Table::RuntimeClasses;
        let Some(class) = self.directory.get(&self.store, table, None, &name).await? else {
            let why = format!("pod rejected: RuntimeClass \"{name}\" not found");
            return Err(forbidden(place, pod, &why));
        };
        let overhead = &class["overhead"]["podFixed"];
        if !said.is_null() && said != *overhead {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(forbidden(place, pod, why));
        }
        if !overhead.is_null() {
            pod["spec"]["overhead"] = overhead.clone();
        }
        let scheduling = &class["scheduling"];
        for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
            let Some(selector) = object::map(&mut pod["spec"], "nodeSelector") else { break };
            match selector.get(key).filter(|said| *said != value).cloned() {
                Some(said) => {
                    let why = format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                         pod.spec.nodeSelector[{key}] = {said}"
                    );
                    return Err(forbidden(place, pod, &why));
                }
                None => selector.insert(key.clone(), value.clone()),
            };
        }
        let mut tolerations = object::list(&pod["spec"], "tolerations").to_vec();
        for more in object::list(scheduling, "tolerations") {
            if !tolerations.contains(more) {
                tolerations.push(more.clone());
            }
        }
        if !tolerations.is_empty() {
            pod["spec"]["tolerations"] = tolerations.into();
        }
        Ok(())
    }

    /// Gives a claim that names no StorageClass the default one, if there is one.
    pub(super) async fn choose_storage(&self, claim: &mut Value) -> Result<()> {
        const OLD: &str = "volume.beta.kubernetes.io/storage-class";
        self.choose(claim, Table::StorageClasses, "storageClassName", OLD).await
    }

    /// Gives an Ingress that names no class the default one, if there is one.
    pub(super) async fn choose_ingress(&self, ingress: &mut Value) -> Result<()> {
        const OLD: &str = "kubernetes.io/ingress.class";
        self.choose(ingress, Table::IngressClasses, "ingressClassName", OLD).await
    }

    /// Gives an object the default class, unless `field` of its spec or the annotation `old` names one.
    async fn choose(&self, one: &mut Value, table: Table, field: &str, old: &str) -> Result<()> {
        let says = !one["spec"][field].is_null() || !one["metadata"]["annotations"][old].is_null();
        if !says && let Some(class) = self.default_class(table).await? {
            one["spec"][field] = object::name(&class).into();
        }
        Ok(())
    }

    /// The class that is marked as the default; of several the newest, as in Kubernetes.
    async fn default_class(&self, table: Table) -> Result<Option<Arc<Value>>> {
        let all = self.directory.all(&self.store, table, None).await?;
        let defaults = all.into_iter().filter(|class| kinds::is_default_class(class));
        let age = |class: &Arc<Value>| {
            let made = object::text(class, "metadata.creationTimestamp").to_owned();
            (made, std::cmp::Reverse(object::name(class).to_owned()))
        };
        Ok(defaults.max_by_key(age))
    }
}
