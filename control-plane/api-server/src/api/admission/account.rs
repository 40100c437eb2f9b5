//! Pods run as a ServiceAccount of their namespace, and find its token, the cluster's authority and
//! their namespace in `/var/run/secrets/kubernetes.io/serviceaccount`, unless the pod or the account
//! does not want that.
//! <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>

use serde_json::{Value, json};

use super::{Api, Place, forbidden};
use crate::api::directory::Table;
use crate::object;
use crate::status::Result;

/// The account of pods that name none. Every namespace gets it, a moment after it is made.
const DEFAULT: &str = "default";
/// Where containers look for it.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// An hour and a few seconds, by which such tokens are told from those that were asked for.
const TOKEN_SECONDS: u64 = 3607;
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

impl Api {
    /// Gives a pod its ServiceAccount, that account's token and its secrets for registries.
    pub(super) async fn give_account(&self, place: &Place, pod: &mut Value) -> Result<()> {
        let spec = &mut pod["spec"];
        // What older clients say.
        let said = object::text(spec, "serviceAccount").to_owned();
        object::set_default(spec, "serviceAccountName", said);
        object::set_default(spec, "serviceAccountName", DEFAULT);
        let name = object::text(spec, "serviceAccountName").to_owned();
        spec["serviceAccount"] = name.as_str().into();
        let (table, namespace) = (Table::ServiceAccounts, place.namespace.as_deref());
        let account = if name == DEFAULT {
            self.directory.awaited(&self.store, table, namespace, &name).await?
        } else {
            self.directory.get(&self.store, table, namespace, &name).await?
        };
        let Some(account) = account else {
            let namespace = namespace.unwrap_or_default();
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            );
            return Err(forbidden(place, pod, &why));
        };
        if object::list(spec, "imagePullSecrets").is_empty()
            && !object::list(&account, "imagePullSecrets").is_empty()
        {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        let says = |one: &Value| one["automountServiceAccountToken"].as_bool();
        let automount = says(&pod["spec"]).or_else(|| says(&account));
        if automount.unwrap_or(true) {
            mount(&mut pod["spec"]);
        }
        Ok(())
    }
}

/// Mounts the token into the containers that have nothing there.
fn mount(spec: &mut Value) {
    let lacks = |container: &Value| {
        let mut mounts = object::list(container, "volumeMounts").iter();
        container.is_object() && !mounts.any(|mount| mount["mountPath"] == MOUNT_PATH)
    };
    let mut all = CONTAINERS.iter().flat_map(|list| object::list(spec, list));
    if !all.any(lacks) {
        return;
    }
    // A pod that was copied from another brings the volume along.
    let volumes = object::list(spec, "volumes").iter();
    let mut names = volumes.map(|volume| object::text(volume, "name"));
    let present = names.find(|name| name.starts_with(VOLUME)).map(str::to_owned);
    let name = present.clone().unwrap_or_else(|| format!("{VOLUME}{}", object::name_suffix()));
    for list in CONTAINERS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if lacks(container) {
                let mount = json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true});
                push(container, "volumeMounts", mount);
            }
        }
    }
    if present.is_none() {
        push(spec, "volumes", volume(&name));
    }
}

fn volume(name: &str) -> Value {
    let authority =
        json!({"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    let namespace = json!({"items": [{
        "path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
    }]});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": authority},
        {"downwardAPI": namespace},
    ]}})
}

fn push(object: &mut Value, field: &str, element: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.push(element),
        None => object[field] = json!([element]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_is() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b",
            "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
            "initContainers": [{"name": "i"}], "volumes": [{"name": "own", "emptyDir": {}}]});
        mount(&mut spec);
        let volumes = object::list(&spec, "volumes");
        let name = object::text(&volumes[1], "name");
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5, "{name}");
        assert_eq!(object::list(&volumes[1], "projected.sources").len(), 3);
        for (container, mounted) in [
            (&spec["containers"][0], name),
            (&spec["containers"][1], "own"),
            (&spec["initContainers"][0], name),
        ] {
            let mounts = object::list(container, "volumeMounts");
            assert_eq!((mounts.len(), object::text(&mounts[0], "name")), (1, mounted));
        }
        let before = spec.clone();
        mount(&mut spec);
        assert_eq!(spec, before);
    }
}
