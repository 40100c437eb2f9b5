//! Role-based access control, `rbac.authorization.k8s.io/v1`: roles grant, bindings say to whom.
//!
//! [`index`] holds every role and binding in memory; [`bootstrap`] makes those that a cluster
//! begins with; [`aggregation`] unites roles; [`escalation`] keeps users from granting more than
//! they have.

pub mod aggregation;
pub mod bootstrap;
pub mod escalation;
pub mod index;

use serde::{Deserialize, Serialize};

use super::Action;

/// The API group.
pub const GROUP: &str = "rbac.authorization.k8s.io";
/// The key segment below which the four kinds are stored, so that one watch sees them in order.
pub const PREFIX: &str = "/registry/rbac/";

/// `rbac.v1.PolicyRule`: verbs on resources, or on paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// What may be done; `*` is everything.
    #[serde(deserialize_with = "null_as_empty")]
    pub verbs: Vec<String>,
    /// In which API groups.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub api_groups: Vec<String>,
    /// To which resources: `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub resources: Vec<String>,
    /// To which objects; to all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub resource_names: Vec<String>,
    /// To which paths; `*` at the end stands for any rest.
    #[serde(
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_empty"
    )]
    pub non_resource_urls: Vec<String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted || one == "*")
}

impl PolicyRule {
    /// Whether it permits `action`.
    #[must_use]
    pub fn permits(&self, action: &Action<'_>) -> bool {
        has(&self.verbs, action.verb)
            && has(&self.api_groups, action.group)
            && self.names_resource(action.plural, action.subresource)
            && (self.resource_names.is_empty()
                || action
                    .name
                    .is_some_and(|name| self.resource_names.iter().any(|one| one == name)))
    }

    fn names_resource(&self, plural: &str, subresource: Option<&str>) -> bool {
        self.resources.iter().any(|one| match (one.split_once('/'), subresource) {
            _ if one == "*" => true,
            (None, None) => one == plural,
            (Some((resource, below)), Some(subresource)) => {
                below == subresource && (resource == "*" || resource == plural)
            }
            _ => false,
        })
    }

    /// Whether it permits `verb` on a path.
    #[must_use]
    pub fn permits_path(&self, verb: &str, path: &str) -> bool {
        has(&self.verbs, verb)
            && self.non_resource_urls.iter().any(|one| match one.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => one == path,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str], names: &[&str]) -> PolicyRule {
        let owned = |list: &[&str]| list.iter().map(|&one| one.into()).collect();
        PolicyRule {
            verbs: vec!["get".into()],
            api_groups: vec![String::new()],
            resources: owned(resources),
            resource_names: owned(names),
            non_resource_urls: Vec::new(),
        }
    }

    fn get<'a>(subresource: Option<&'a str>, name: Option<&'a str>) -> Action<'a> {
        Action { verb: "get", group: "", plural: "pods", subresource, namespace: None, name }
    }

    #[test]
    fn a_rule_names_resources_as_kubernetes_does() {
        assert!(rule(&["pods"], &[]).permits(&get(None, Some("a"))));
        assert!(!rule(&["pods"], &[]).permits(&get(Some("log"), Some("a"))));
        assert!(rule(&["pods/log"], &[]).permits(&get(Some("log"), Some("a"))));
        assert!(rule(&["*/log"], &[]).permits(&get(Some("log"), None)));
        assert!(!rule(&["*/log"], &[]).permits(&get(None, None)));
        assert!(rule(&["*"], &[]).permits(&get(Some("exec"), None)));
        assert!(rule(&["pods"], &["a"]).permits(&get(None, Some("a"))));
        assert!(!rule(&["pods"], &["a"]).permits(&get(None, Some("b"))));
        assert!(!rule(&["pods"], &["a"]).permits(&get(None, None)));
        let other_verb = Action { verb: "list", ..get(None, None) };
        assert!(!rule(&["pods"], &[]).permits(&other_verb));
        let other_group = Action { group: "apps", ..get(None, None) };
        assert!(!rule(&["pods"], &[]).permits(&other_group));
    }

    #[test]
    fn a_rule_names_paths_whole_or_by_their_beginning() {
        let paths = |path: &str| PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: vec![path.into()],
            ..PolicyRule::default()
        };
        assert!(paths("/healthz").permits_path("get", "/healthz"));
        assert!(!paths("/healthz").permits_path("get", "/healthz/etcd"));
        assert!(paths("/apis/*").permits_path("get", "/apis/apps"));
        assert!(!paths("/apis/*").permits_path("post", "/apis/apps"));
        assert!(paths("*").permits_path("get", "/anything"));
    }
}
