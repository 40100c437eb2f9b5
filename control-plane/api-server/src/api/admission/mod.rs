//! What Kubernetes' admission fills into objects that are created, from other objects.
//!
//! Pods get their ServiceAccount's name, the priority of their PriorityClass, and the tolerations by
//! which a node that is not ready keeps them for five minutes.

use serde_json::{Value, json};

use super::{Api, Place};
use crate::object;
use crate::options::ReadOptions;
use crate::status::{Result, Status};

/// How long a pod stays on a node that is not ready, unless it says otherwise.
const TOLERATION_SECONDS: u64 = 300;
/// The taints of nodes that are not ready, or say nothing.
const UNREADY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Api {
    /// Fills in what other objects say, or refuses what they forbid.
    pub(super) async fn admit_create(&self, place: &Place, object: &mut Value) -> Result<()> {
        match (place.resource.group, place.resource.plural) {
            ("", "pods") if object["spec"].is_object() => {
                object::set_default(&mut object["spec"], "serviceAccountName", "default");
                tolerate(&mut object["spec"]);
                self.prioritize(place, object).await
            }
            _ => Ok(()),
        }
    }

    /// Sets a pod's priority to that of its class, or of the default one.
    async fn prioritize(&self, place: &Place, pod: &mut Value) -> Result<()> {
        let Some(classes) = self.registry.find("scheduling.k8s.io", "v1", "priorityclasses") else {
            return Ok(());
        };
        let classes = Place::new(&classes, None);
        let name = object::text(&pod["spec"], "priorityClassName").to_owned();
        let class = if name.is_empty() {
            let all = self.list(&classes, &ReadOptions::default()).await?.items;
            let defaults = all.into_iter().filter(|class| class["globalDefault"] == true);
            // Of several the lowest, as in Kubernetes.
            defaults.min_by_key(|class| class["value"].as_i64())
        } else {
            match self.get(&classes, &name).await {
                Ok(class) => Some(class),
                Err(error) if error.code == 404 => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(Status::forbidden("", "pods", object::name(pod), &why));
                }
                Err(error) => return Err(error),
            }
        };
        let value = class.as_ref().map_or(json!(0), |class| class["value"].clone());
        let said = &pod["spec"]["priority"];
        if !said.is_null() && *said != value {
            let why = format!(
                "the integer value of priority ({said}) must not be provided in pod spec; priority \
                 admission controller computed {value} from the given PriorityClass name"
            );
            return Err(Status::forbidden("", place.resource.plural, object::name(pod), &why));
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
}

fn tolerate(spec: &mut Value) {
    let mut tolerations = object::list(spec, "tolerations").to_vec();
    for taint in UNREADY {
        let tolerated = tolerations.iter().any(|toleration| {
            let (key, effect) =
                (object::text(toleration, "key"), object::text(toleration, "effect"));
            (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    spec["tolerations"] = tolerations.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_what_it_does_not_yet() {
        let keys = |spec: Value| {
            let mut spec = spec;
            tolerate(&mut spec);
            object::list(&spec, "tolerations").len()
        };
        assert_eq!(keys(json!({})), 2);
        assert_eq!(keys(json!({"tolerations": [{"key": UNREADY[0], "operator": "Exists"}]})), 2);
        assert_eq!(keys(json!({"tolerations": [{"operator": "Exists"}]})), 1);
        let other = json!({"key": UNREADY[0], "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(keys(json!({"tolerations": [other]})), 3);
    }
}
