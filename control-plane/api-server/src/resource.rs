//! What the server knows of a resource: one [`Resource`] per kind, all of them in a [`Registry`].
//!
//! Everything else in this crate is generic over this table; a new kind is one more entry.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::custom::Custom;
use crate::managed::Scope;
use crate::names;
use crate::object;
use crate::schema::{self, Shape};
use crate::status::Cause;

/// A kind of object that the server stores.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind, CamelCase.
    pub kind: &'static str,
    /// Plural, as in paths.
    pub plural: &'static str,
    /// Singular, for clients' command lines.
    pub singular: &'static str,
    /// Short names, for clients' command lines.
    pub short_names: &'static [&'static str],
    /// Categories (`all`).
    pub categories: &'static [&'static str],
    /// Whether objects lie in namespaces.
    pub namespaced: bool,
    /// The key segment under which objects are stored; kinds that are views of the same objects
    /// share it. Empty if they are not stored: a review is answered and forgotten.
    pub storage: &'static str,
    /// Whether `metadata.generation` counts changes of what is not metadata or status.
    pub generation: bool,
    /// Whether deletion waits for `spec.terminationGracePeriodSeconds`.
    pub graceful_deletion: bool,
    /// Whether dependents stay when an object is deleted without a propagation policy.
    pub orphans_by_default: bool,
    /// Whether an update may leave out the version that it replaces.
    pub unconditional_update: bool,
    /// The kind of its lists.
    pub list_kind: Option<&'static str>,
    /// What can be done with objects and their collection.
    pub verbs: &'static [&'static str],
    /// Subresources.
    pub subresources: &'static [Subresource],
    /// What the subresource `scale` shows and sets, if it has that.
    pub scale: Option<ScalePaths>,
    /// What can be selected by field, besides `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// The columns that clients print.
    pub columns: &'static [Column],
    /// What its definition says, if it is a custom resource.
    pub custom: Option<Arc<Custom>>,
    /// The kind's behaviour.
    pub behaviour: Behaviour,
}

/// What differs between kinds beyond data. [`Behaviour::default`] does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Fills in defaults, on every write.
    pub default: fn(&mut Value),
    /// Prepares an object that is being created, before defaults.
    pub prepare_create: fn(&mut Value),
    /// Prepares the first object, which replaces the second, before defaults.
    pub prepare_update: fn(&mut Value, &Value),
    /// Reports what is wrong with an object.
    pub validate: fn(&Value, &mut Vec<Cause>),
    /// Reports what is wrong with an object only when it is created.
    pub validate_create: fn(&Value, &mut Vec<Cause>),
    /// Reports what may not change from the second object to the first.
    pub validate_update: fn(&Value, &Value, &mut Vec<Cause>),
    /// How names must look.
    pub name: crate::names::NameRule,
    /// How its objects become those of the kind that is stored, and back; `None` if they are
    /// stored as they are.
    pub conversion: Option<Conversion>,
}

/// Between a kind and the one that it is stored as.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// Turns an object of this kind into what is stored.
    pub to_storage: fn(&mut Value),
    /// Turns what is stored into an object of this kind.
    pub from_storage: fn(&mut Value),
}

impl Behaviour {
    /// Does nothing; names are DNS subdomains.
    pub const PLAIN: Self = Self {
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        validate: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        name: crate::names::NameRule::Subdomain,
        conversion: None,
    };
}

/// A path below an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subresource {
    /// Its name (`status`).
    pub name: &'static str,
    /// The kind of its bodies.
    pub kind: &'static str,
    /// That kind's group and version, if not the resource's.
    pub group_version: Option<(&'static str, &'static str)>,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// Where the fields of a `Scale` lie in an object, as dotted paths.
#[derive(Debug, Clone, Copy)]
pub struct ScalePaths {
    /// `spec.replicas`.
    pub replicas: &'static str,
    /// `status.replicas`.
    pub status_replicas: &'static str,
    /// `status.selector`: a label selector, a map of labels, or text. May be empty.
    pub selector: &'static str,
}

/// A column of a kind's table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub kind: &'static str,
    /// `name` for the object's name, else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0: always shown; above: in the wide table.
    pub priority: u8,
    /// The cell of an object.
    pub cell: fn(&Value) -> Value,
}

impl Resource {
    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The type of its objects; `None` if it has none.
    #[must_use]
    pub fn schema(&self) -> Option<Shape> {
        match &self.custom {
            Some(custom) => Some(custom.shape().clone()),
            None => schema::builtin().kind(self.group, self.version, self.kind),
        }
    }

    /// The kind of its lists: what it says, or its kind and `List`.
    #[must_use]
    pub fn list_kind(&self) -> Cow<'static, str> {
        match self.list_kind {
            Some(kind) => kind.into(),
            None => format!("{}List", self.kind).into(),
        }
    }

    /// Whether its objects are the namespaces, which have finalizers of their own.
    #[must_use]
    pub fn is_namespaces(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }

    /// Whether finalizers hold an object of it back that is to go.
    #[must_use]
    pub fn is_held(&self, object: &Value) -> bool {
        let has = |path| !object::list(object, path).is_empty();
        has("metadata.finalizers") || self.is_namespaces() && has("spec.finalizers")
    }

    /// Whether objects of it are kept.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.storage.is_empty()
    }

    /// Which of its fields are whose; `shape` is its [`schema`](Self::schema).
    #[must_use]
    pub fn scope<'a>(&self, shape: Option<&'a Shape>) -> Scope<'a> {
        Scope { shape, has_status: self.subresource("status").is_some() }
    }

    /// Whether it has the subresource `name`.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The key below which objects of `namespace`, or of all, are stored.
    #[must_use]
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("/registry/{}/{namespace}/", self.storage),
            None => format!("/registry/{}/", self.storage),
        }
    }

    /// The key of an object.
    #[must_use]
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }
}

/// `v1`, `apps/v1`.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

/// Every resource of the server. Resources come and go while it runs: each reader sees the list as
/// it was at one moment.
#[derive(Debug, Default)]
pub struct Registry {
    resources: RwLock<Arc<[Arc<Resource>]>>,
}

impl Registry {
    /// A registry of `resources`; discovery shows them in this order.
    #[must_use]
    pub fn new(resources: Vec<Resource>) -> Self {
        Self { resources: RwLock::new(resources.into_iter().map(Arc::new).collect()) }
    }

    fn snapshot(&self) -> Arc<[Arc<Resource>]> {
        // The list is replaced as a whole: a writer that panicked left the one before.
        Arc::clone(&self.resources.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The resource at `group`, `version` and `plural`.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let resources = self.snapshot();
        let found = resources
            .iter()
            .find(|one| one.group == group && one.version == version && one.plural == plural);
        found.cloned()
    }

    /// Every resource.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Resource>> + Send + use<> {
        let resources = self.snapshot();
        (0..resources.len()).map(move |index| Arc::clone(&resources[index]))
    }

    /// Replaces the resources of which `of` is true by `resources`.
    pub fn replace(&self, of: impl Fn(&Resource) -> bool, resources: Vec<Resource>) {
        let mut all = self.resources.write().unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|one| !of(one)).cloned();
        *all = others.chain(resources.into_iter().map(Arc::new)).collect();
    }

    /// Every group with its versions, the core group first, and of the versions those that clients
    /// should prefer.
    #[must_use]
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        for resource in self.iter() {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) if !versions.contains(&resource.version) => {
                    versions.push(resource.version);
                }
                Some(_) => {}
                None => groups.push((resource.group, vec![resource.version])),
            }
        }
        groups.sort_by_key(|(group, _)| !group.is_empty());
        for (_, versions) in &mut groups {
            versions.sort_by(|one, other| names::compare_versions(one, other));
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_come_and_go() {
        let registry = crate::kinds::registry();
        let pods = registry.find("", "v1", "pods").unwrap();
        let widget = Resource { group: "example.com", plural: "widgets", ..(*pods).clone() };
        registry.replace(|one| one.group == "example.com", vec![widget]);
        assert!(registry.find("example.com", "v1", "widgets").is_some());
        assert!(registry.groups().iter().any(|(group, _)| *group == "example.com"));
        registry.replace(|one| one.group == "example.com", Vec::new());
        assert!(registry.find("example.com", "v1", "widgets").is_none());
        assert!(registry.find("", "v1", "pods").is_some());
    }
}
