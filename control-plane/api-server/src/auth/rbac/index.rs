//! Every role and binding in memory, by whom they concern.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bulkhead_store::Entry;
use serde::Deserialize;

use super::{PREFIX, PolicyRule};
use crate::auth::{Action, User};
use crate::feed;

/// The user name of a service account.
#[must_use]
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of the service accounts in `namespace`.
#[must_use]
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// Whom a binding concerns. A service account is the user of its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => match name.strip_prefix("system:serviceaccount:") {
                Some(account) => write!(f, "ServiceAccount \"{}\"", account.replacen(':', "/", 1)),
                None => write!(f, "User \"{name}\""),
            },
            Self::Group(name) => write!(f, "Group \"{name}\""),
        }
    }
}

/// A binding, as seen from a subject.
#[derive(Debug, Clone)]
struct Bound {
    binding: Arc<str>,
    role: Arc<RoleRef>,
}

/// `rbac.v1.RoleRef`, which lies in the API group of roles.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Why something is permitted.
#[derive(Debug, Clone)]
pub struct Grant {
    subject: Subject,
    binding: Arc<str>,
    namespace: Option<String>,
    role: Arc<RoleRef>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoleRef { kind, name } = &*self.role;
        let of = format!("of {kind} \"{name}\" to {}", self.subject);
        match &self.namespace {
            Some(namespace) => {
                write!(f, "RBAC: allowed by RoleBinding \"{}/{namespace}\" {of}", self.binding)
            }
            None => write!(f, "RBAC: allowed by ClusterRoleBinding \"{}\" {of}", self.binding),
        }
    }
}

/// What is known of a ClusterRole.
#[derive(Debug, Clone, Default)]
pub struct ClusterRole {
    /// Its rules.
    pub rules: Arc<[PolicyRule]>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// If it is made of others: the selectors that choose those, as JSON.
    pub aggregates: Vec<serde_json::Value>,
}

/// Namespace (empty for those that have none) and name.
type Key = (String, String);

#[derive(Debug, Default)]
struct Policy {
    roles: HashMap<Key, Arc<[PolicyRule]>>,
    cluster_roles: BTreeMap<String, ClusterRole>,
    /// By namespace, then by subject.
    bindings: HashMap<String, HashMap<Subject, Vec<Bound>>>,
    /// The subjects of each binding, to find them again when it goes.
    subjects: HashMap<Key, Vec<Subject>>,
}

/// The index.
#[derive(Debug, Default)]
pub struct RbacIndex {
    policy: RwLock<Policy>,
}

impl RbacIndex {
    fn read(&self) -> RwLockReadGuard<'_, Policy> {
        // The maps are consistent between any two statements that can panic.
        self.policy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a role grants `action` to `user`, and by which binding.
    #[must_use]
    pub fn permits(&self, user: &User, action: &Action<'_>) -> Option<Grant> {
        self.find(user, action.namespace, |rule| rule.permits(action))
    }

    /// Whether a role grants `verb` on a path to `user`, and by which binding.
    #[must_use]
    pub fn permits_path(&self, user: &User, verb: &str, path: &str) -> Option<Grant> {
        self.find(user, None, |rule| rule.permits_path(verb, path))
    }

    fn find(
        &self,
        user: &User,
        namespace: Option<&str>,
        permits: impl Fn(&PolicyRule) -> bool,
    ) -> Option<Grant> {
        let mut found = None;
        self.read().visit(user, namespace, |subject, bound, place, rules| {
            if rules.iter().any(&permits) {
                found = Some(Grant {
                    subject: subject.clone(),
                    binding: Arc::clone(&bound.binding),
                    namespace: place.map(Into::into),
                    role: Arc::clone(&bound.role),
                });
            }
            found.is_none()
        });
        found
    }

    /// Every rule that holds for `user` in `namespace`, those of the cluster included.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<PolicyRule> {
        let mut all: Vec<PolicyRule> = Vec::new();
        self.read().visit(user, namespace, |_, _, _, rules| {
            all.extend_from_slice(rules);
            true
        });
        all
    }

    /// The rules of a role, if it is there. A `Role` is looked for in `namespace`.
    #[must_use]
    pub fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Option<Arc<[PolicyRule]>> {
        self.read().role(role, namespace)
    }

    /// Every ClusterRole by name.
    #[must_use]
    pub fn cluster_roles(&self) -> BTreeMap<String, ClusterRole> {
        self.read().cluster_roles.clone()
    }
}

impl Policy {
    /// Calls `see` with every binding of `user`, its namespace and its role's rules, until it
    /// answers false.
    fn visit(
        &self,
        user: &User,
        namespace: Option<&str>,
        mut see: impl FnMut(&Subject, &Bound, Option<&str>, &[PolicyRule]) -> bool,
    ) {
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        let subjects: Vec<Subject> =
            std::iter::once(Subject::User(user.name.clone())).chain(groups).collect();
        let places = [None, namespace.filter(|namespace| !namespace.is_empty())];
        // The cluster's once, though the namespace be none.
        let places = if places[1].is_some() { &places[..] } else { &places[..1] };
        for &place in places {
            let Some(bindings) = self.bindings.get(place.unwrap_or_default()) else { continue };
            for subject in &subjects {
                for bound in bindings.get(subject).into_iter().flatten() {
                    let Some(rules) = self.role(&bound.role, place) else { continue };
                    if !see(subject, bound, place, &rules) {
                        return;
                    }
                }
            }
        }
    }

    fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Option<Arc<[PolicyRule]>> {
        match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name).map(|role| Arc::clone(&role.rules)),
            _ => self.roles.get(&(namespace?.into(), role.name.clone())).cloned(),
        }
    }

    fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        let Some((kind, place)) = key.strip_prefix(PREFIX).and_then(|key| key.split_once('/'))
        else {
            return;
        };
        match kind {
            "clusterroles" => match value.and_then(parse::<StoredRole>) {
                Some(role) => {
                    self.cluster_roles.insert(place.into(), role.into());
                }
                None => {
                    self.cluster_roles.remove(place);
                }
            },
            "roles" => {
                let key = split(place);
                match value.and_then(parse::<StoredRole>) {
                    Some(role) => self.roles.insert(key, role.rules.unwrap_or_default().into()),
                    None => self.roles.remove(&key),
                };
            }
            "clusterrolebindings" => {
                self.bind((String::new(), place.into()), value.and_then(parse::<StoredBinding>));
            }
            "rolebindings" => self.bind(split(place), value.and_then(parse::<StoredBinding>)),
            _ => {}
        }
    }

    fn bind(&mut self, key: Key, binding: Option<StoredBinding>) {
        let (namespace, name) = (key.0.clone(), key.1.clone());
        let bindings = self.bindings.entry(namespace.clone()).or_default();
        for subject in self.subjects.remove(&key).unwrap_or_default() {
            if let Some(bound) = bindings.get_mut(&subject) {
                bound.retain(|bound| *bound.binding != *name);
                if bound.is_empty() {
                    bindings.remove(&subject);
                }
            }
        }
        if let Some(binding) = binding {
            let subjects = binding.subjects.unwrap_or_default();
            let subjects: Vec<Subject> =
                subjects.into_iter().filter_map(|one| one.subject(&namespace)).collect();
            let bound = Bound { binding: name.into(), role: Arc::new(binding.role_ref) };
            for subject in &subjects {
                let list = bindings.entry(subject.clone()).or_default();
                list.push(bound.clone());
            }
            self.subjects.insert(key, subjects);
        }
        if bindings.is_empty() {
            self.bindings.remove(&namespace);
        }
    }
}

/// The namespace and name in the end of a key.
fn split(place: &str) -> Key {
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    (namespace.into(), name.into())
}

impl feed::Index for RbacIndex {
    fn replace(&self, entries: Vec<Entry>) {
        let policy = feed::made_of(entries, Policy::apply);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        self.policy.write().unwrap_or_else(PoisonError::into_inner).apply(key, value);
    }
}

/// A stored object grants nothing if it cannot be read; it was validated when it was written.
fn parse<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(|error| tracing::error!(%error, "a stored role or binding"))
        .ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRole {
    metadata: StoredMetadata,
    rules: Option<Vec<PolicyRule>>,
    aggregation_rule: Option<StoredAggregation>,
}

#[derive(Deserialize)]
struct StoredMetadata {
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredAggregation {
    cluster_role_selectors: Option<Vec<serde_json::Value>>,
}

impl From<StoredRole> for ClusterRole {
    fn from(role: StoredRole) -> Self {
        let aggregation = role.aggregation_rule.and_then(|rule| rule.cluster_role_selectors);
        Self {
            rules: role.rules.unwrap_or_default().into(),
            labels: role.metadata.labels.unwrap_or_default(),
            aggregates: aggregation.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBinding {
    subjects: Option<Vec<StoredSubject>>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
struct StoredSubject {
    kind: String,
    name: String,
    namespace: Option<String>,
}

impl StoredSubject {
    fn subject(self, binding_namespace: &str) -> Option<Subject> {
        Some(match self.kind.as_str() {
            "User" => Subject::User(self.name),
            "Group" => Subject::Group(self.name),
            "ServiceAccount" => {
                let namespace = self.namespace.unwrap_or_else(|| binding_namespace.into());
                Subject::User(service_account_name(&namespace, &self.name))
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::feed::Index as _;

    fn user(name: &str, group: &str) -> User {
        User { name: name.into(), groups: vec![group.into()], ..User::default() }
    }

    fn put(index: &RbacIndex, key: &str, value: serde_json::Value) {
        index.apply(&format!("{PREFIX}{key}"), Some(&serde_json::to_vec(&value).unwrap()));
    }

    fn get_pods(namespace: Option<&str>) -> Action<'_> {
        Action {
            verb: "get",
            group: "",
            plural: "pods",
            subresource: None,
            namespace,
            name: Some("p"),
        }
    }

    #[test]
    fn bindings_grant_where_they_are_and_no_longer_than_they_are() {
        let index = RbacIndex::default();
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        put(&index, "clusterroles/reader", json!({"metadata": {}, "rules": rules}));
        let role =
            json!({"apiGroup": super::super::GROUP, "kind": "ClusterRole", "name": "reader"});
        let binding = |subject: serde_json::Value| json!({"subjects": [subject], "roleRef": role});
        put(&index, "rolebindings/a/b", binding(json!({"kind": "User", "name": "jane"})));
        let account = json!({"kind": "ServiceAccount", "name": "bot", "namespace": "x"});
        put(&index, "rolebindings/a/c", binding(account));
        let jane = user("jane", "g");
        assert!(index.permits(&jane, &get_pods(Some("a"))).is_some());
        assert!(index.permits(&jane, &get_pods(Some("b"))).is_none());
        assert!(index.permits(&jane, &get_pods(None)).is_none());
        assert!(index.permits(&user("joe", "g"), &get_pods(Some("a"))).is_none());
        let bot = user("system:serviceaccount:x:bot", "g");
        let grant = index.permits(&bot, &get_pods(Some("a"))).unwrap();
        assert_eq!(
            grant.to_string(),
            "RBAC: allowed by RoleBinding \"c/a\" of ClusterRole \"reader\" to ServiceAccount \"x/bot\""
        );
        put(&index, "clusterrolebindings/all", binding(json!({"kind": "Group", "name": "g"})));
        assert!(index.permits(&user("joe", "g"), &get_pods(None)).is_some());
        assert_eq!(index.rules(&jane, Some("a")).len(), 2);
        index.apply(&format!("{PREFIX}clusterrolebindings/all"), None);
        assert!(index.permits(&jane, &get_pods(None)).is_none());
        put(&index, "rolebindings/a/b", binding(json!({"kind": "User", "name": "joe"})));
        assert!(index.permits(&jane, &get_pods(Some("a"))).is_none(), "replaced");
        index.apply(&format!("{PREFIX}clusterroles/reader"), None);
        assert!(index.permits(&user("joe", "g"), &get_pods(Some("a"))).is_none(), "no role");
    }
}
