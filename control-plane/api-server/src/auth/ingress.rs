//! Which Secrets the proxy of Ingresses may read: those that an Ingress names, and no others. The
//! rest of its rights is a role's.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use bulkhead_store::Entry;
use serde::Deserialize;

use super::Action;
use crate::feed;

/// The proxy's user name, and that of its role.
pub const INGRESS: &str = "system:bulkhead:ingress";
/// Where Ingresses are stored.
pub const PREFIX: &str = "/registry/ingresses/";

pub(super) fn permits(action: &Action<'_>, references: &IngressReferences) -> bool {
    let is_secret = (action.group, action.plural, action.subresource) == ("", "secrets", None);
    let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
    is_secret && matches!(action.verb, "get" | "list" | "watch") && references.name(namespace, name)
}

/// The Secrets that Ingresses name.
#[derive(Debug, Default)]
pub struct IngressReferences(RwLock<References>);

#[derive(Debug, Default)]
struct References {
    /// By namespace and name of a Secret: how many Ingresses name it.
    secrets: HashMap<(String, String), usize>,
    /// By the key of an Ingress: the names of those that it names.
    of: HashMap<String, HashSet<String>>,
}

impl IngressReferences {
    /// Whether an Ingress of the namespace names this Secret.
    fn name(&self, namespace: &str, name: &str) -> bool {
        let references = self.0.read().unwrap_or_else(PoisonError::into_inner);
        references.secrets.contains_key(&(namespace.to_owned(), name.to_owned()))
    }
}

impl References {
    fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        let Some((namespace, _)) = key.strip_prefix(PREFIX).and_then(|key| key.split_once('/'))
        else {
            return;
        };
        for name in self.of.remove(key).into_iter().flatten() {
            let secret = (namespace.to_owned(), name);
            if let Some(count) = self.secrets.get_mut(&secret) {
                *count -= 1;
                if *count == 0 {
                    self.secrets.remove(&secret);
                }
            }
        }
        let ingress = value.and_then(|value| serde_json::from_slice::<StoredIngress>(value).ok());
        let tls = ingress.and_then(|ingress| ingress.spec.tls).into_iter().flatten();
        let names: HashSet<String> = tls.filter_map(|tls| tls.secret_name).collect();
        for name in &names {
            *self.secrets.entry((namespace.to_owned(), name.clone())).or_default() += 1;
        }
        if !names.is_empty() {
            self.of.insert(key.to_owned(), names);
        }
    }
}

impl feed::Index for IngressReferences {
    fn replace(&self, entries: Vec<Entry>) {
        let references = feed::made_of(entries, References::apply);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = references;
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).apply(key, value);
    }
}

#[derive(Deserialize)]
struct StoredIngress {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    tls: Option<Vec<Tls>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    secret_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::feed::Index as _;

    fn may(references: &IngressReferences, verb: &str, plural: &str, namespace: &str) -> bool {
        let (namespace, name) = (Some(namespace), Some("s"));
        let action = Action { verb, group: "", plural, subresource: None, namespace, name };
        permits(&action, references)
    }

    #[test]
    fn secrets_may_be_read_while_an_ingress_names_them() {
        let references = IngressReferences::default();
        let names = |secret: &str| {
            let spec = json!({"tls": [{"hosts": ["a"]}, {"secretName": secret}]});
            serde_json::to_vec(&json!({"spec": spec})).unwrap()
        };
        let (one, two) = (format!("{PREFIX}ns/one"), format!("{PREFIX}ns/two"));
        references.apply(&one, Some(&names("s")));
        references.apply(&two, Some(&names("s")));
        assert!(["get", "list", "watch"].iter().all(|verb| may(
            &references,
            verb,
            "secrets",
            "ns"
        )));
        assert!(!may(&references, "delete", "secrets", "ns"));
        assert!(!may(&references, "get", "configmaps", "ns"));
        assert!(!may(&references, "get", "secrets", "other"));
        let all = Action {
            verb: "list",
            group: "",
            plural: "secrets",
            subresource: None,
            namespace: Some("ns"),
            name: None,
        };
        assert!(!permits(&all, &references));
        references.apply(&one, Some(&names("t")));
        assert!(may(&references, "get", "secrets", "ns"), "the other names it yet");
        references.apply(&two, None);
        assert!(!may(&references, "get", "secrets", "ns"));
    }
}
