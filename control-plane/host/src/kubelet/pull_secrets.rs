//! A pod's `imagePullSecrets`: what registries want from who pulls its images.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bulkhead_images::{Keyring, KeyringError};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{Context, data, events};

/// Where Secrets of these types have what they are about.
const TYPES: [(&str, &str, Add); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", Keyring::add_config),
    ("kubernetes.io/dockercfg", ".dockercfg", Keyring::add_legacy),
];

type Add = fn(&mut Keyring, &[u8]) -> Result<(), KeyringError>;

/// Those of one pod, read when the first image is to be pulled.
pub(super) struct PullSecrets<'a> {
    context: &'a Context,
    pod: &'a Value,
    keyring: OnceCell<Result<Keyring, String>>,
}

impl<'a> PullSecrets<'a> {
    pub(super) fn new(context: &'a Context, pod: &'a Value) -> Self {
        Self { context, pod, keyring: OnceCell::new() }
    }

    pub(super) const fn pod(&self) -> &'a Value {
        self.pod
    }

    /// What they hold.
    ///
    /// # Errors
    /// If one holds what its type does not say: then nothing is pulled, as by a kubelet.
    pub(super) async fn keyring(&self) -> &Result<Keyring, String> {
        self.keyring.get_or_init(|| self.read()).await
    }

    async fn read(&self) -> Result<Keyring, String> {
        let namespace = self.pod.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = namespace.unwrap_or_default();
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        for name in names(self.pod) {
            let path = format!("/api/v1/namespaces/{namespace}/secrets/{}", data::segment(name));
            match self.context.kube.get(&path).await {
                Ok(secret) => {
                    add(&mut keyring, &secret).map_err(|why| format!("Secret {name:?} {why}"))?;
                }
                Err(error) => {
                    tracing::debug!("imagePullSecret {namespace}/{name}: {error}");
                    missing.push(name);
                }
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may \
                 not succeed.",
                missing.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            events::pod(self.context, self.pod, "Warning", reason, &message);
        }
        Ok(keyring)
    }
}

/// Entries without a name are allowed, and nobody's.
fn names(pod: &Value) -> impl Iterator<Item = &str> {
    let secrets = pod.pointer("/spec/imagePullSecrets").and_then(Value::as_array);
    let names = secrets.into_iter().flatten().filter_map(|secret| secret.get("name")?.as_str());
    names.filter(|name| !name.is_empty())
}

/// Adds what a Secret holds; those of other types hold nothing of this kind.
fn add(keyring: &mut Keyring, secret: &Value) -> Result<(), String> {
    let kind = secret.get("type").and_then(Value::as_str);
    let Some((_, key, add)) = TYPES.iter().find(|(name, ..)| kind == Some(*name)) else {
        return Ok(());
    };
    let encoded = secret.get("data").and_then(|data| data.get(*key)).and_then(Value::as_str);
    let Some(encoded) = encoded.filter(|encoded| !encoded.is_empty()) else { return Ok(()) };
    let bytes = STANDARD.decode(encoded).map_err(|_| format!("data.{key} is not base64"))?;
    add(keyring, &bytes).map_err(|error| format!("data.{key} {error}"))
}

#[cfg(test)]
mod tests {
    use bulkhead_images::{Name, RegistryAuth};
    use serde_json::json;

    use super::*;

    fn secret(kind: &str, key: &str, text: &str) -> Value {
        json!({"type": kind, "data": {key: STANDARD.encode(text)}})
    }

    #[test]
    fn secrets_of_both_types_are_read() {
        let mut keyring = Keyring::default();
        let entry = |user: &str| json!({"r.io": {"username": user, "password": "p"}});
        let config = json!({"auths": entry("new")}).to_string();
        let legacy = entry("old").to_string();
        for secret in [
            secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &config),
            secret("kubernetes.io/dockercfg", ".dockercfg", &legacy),
            secret("Opaque", ".dockerconfigjson", "whatever"),
            json!({"type": "kubernetes.io/dockercfg"}),
        ] {
            add(&mut keyring, &secret).unwrap();
        }
        let found: Vec<_> = keyring.find(&Name::parse("r.io/app").unwrap()).collect();
        let basic = |user: &str| RegistryAuth::Basic(user.into(), "p".into());
        assert_eq!(found, [basic("new"), basic("old")]);
        let bad = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{");
        assert!(add(&mut keyring, &bad).unwrap_err().starts_with("data..dockerconfigjson is no"));
    }

    #[test]
    fn entries_without_a_name_are_nobodys() {
        let pod = json!({"spec": {"imagePullSecrets": [{"name": "a"}, {}, {"name": ""}]}});
        assert_eq!(names(&pod).collect::<Vec<_>>(), ["a"]);
        assert_eq!(names(&json!({})).count(), 0);
    }
}
