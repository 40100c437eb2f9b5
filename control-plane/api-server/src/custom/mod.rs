//! Custom resources: kinds that CustomResourceDefinitions add while the server runs.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>
//!
//! An index follows the definitions in the store and keeps the registry's resources as they say.
//! Their objects are pruned, defaulted and validated by structural schemas, and by the rules in CEL
//! that these have. All versions of a kind are the same object under another `apiVersion`: conversion
//! by webhooks is refused when a definition asks for it. Defaults that came after an object was
//! stored are put in when it is read, as the stored version's schema has them.

mod columns;
pub(crate) mod definition;
mod formats;
mod rules;
mod shape;
mod structural;
mod types;
mod validate;
mod validations;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_store::{Entry, Store};
use serde_json::{Value, json};

use crate::api::{Api, Place, Target};
use crate::feed::{Feed, Index};
use crate::object;
use crate::options::{DeleteOptions, ReadOptions, WriteOptions};
use crate::resource::{Registry, Resource};
use crate::schema::Shape;
use crate::status::{Cause, Result};
use structural::Schema;

/// Where definitions are stored.
const PREFIX: &str = "/registry/customresourcedefinitions/";
/// The finalizer that holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often the objects of a definition that is being deleted are looked at.
const CLEANUP_INTERVAL: Duration = Duration::from_millis(500);

/// What a version of a definition says of its kind.
#[derive(Debug)]
pub struct Custom {
    shape: Shape,
    openapi: Value,
    columns: Vec<columns::PathColumn>,
    schema: Arc<Schema>,
    /// The schema of the version that is stored.
    stored: Arc<Schema>,
}

impl Custom {
    /// The type of the objects.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The OpenAPI schema, as the definition writes it.
    #[must_use]
    pub fn openapi(&self) -> &Value {
        &self.openapi
    }

    /// The columns that clients print, behind the name.
    #[must_use]
    pub fn columns(&self) -> &[columns::PathColumn] {
        &self.columns
    }

    /// Drops the fields that the schema does not have, and sets the defaults of others.
    pub(crate) fn prepare(&self, object: &mut Value) {
        self.schema.prune(object, true);
        self.schema.fill(object);
    }

    /// Whether what is stored may lack defaults.
    #[must_use]
    pub fn has_defaults(&self) -> bool {
        self.stored.has_defaults
    }

    /// Sets the defaults that a stored object lacks.
    pub(crate) fn read(&self, object: &mut Value) {
        if self.stored.has_defaults {
            self.stored.fill(object);
        }
    }

    /// Reports what is wrong with an object, which was `old`.
    pub(crate) fn validate(&self, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let before = causes.len();
        self.schema.validate(object, "", causes);
        if causes.len() == before {
            self.schema.validate_rules(object, old, "", causes);
        } else if self.schema.has_rules {
            // As in Kubernetes: rules are about values of the right types.
            causes.push(Cause {
                reason: "FieldValueInvalid",
                message: "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".into(),
                field: "<nil>".into(),
            });
        }
    }
}

/// The definitions, by name, and the registry that shows what they define.
#[derive(Debug)]
struct Definitions {
    registry: Arc<Registry>,
    definitions: Mutex<BTreeMap<String, Defined>>,
}

/// A definition, and the resources that it defines.
#[derive(Debug)]
struct Defined {
    definition: Value,
    resources: Vec<Resource>,
}

impl Definitions {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Defined>)) {
        let mut all = self.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        let resources = all.values().flat_map(|defined| defined.resources.iter().cloned());
        self.registry.replace(|resource| resource.custom.is_some(), resources.collect());
    }

    /// The definitions of which `of` is true.
    fn names(&self, of: impl Fn(&Value) -> bool) -> Vec<String> {
        let all = self.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().filter(|(_, defined)| of(&defined.definition));
        found.map(|(name, _)| name.clone()).collect()
    }
}

fn parse(key: &str, value: &[u8]) -> Option<(String, Defined)> {
    let name = key.strip_prefix(PREFIX)?.to_owned();
    match serde_json::from_slice(value) {
        Ok(definition) => {
            let resources = definition::resources(&definition);
            Some((name, Defined { definition, resources }))
        }
        Err(error) => {
            tracing::error!(key, %error, "a stored definition");
            None
        }
    }
}

impl Index for Definitions {
    fn replace(&self, entries: Vec<Entry>) {
        let parsed = entries.iter().filter_map(|entry| parse(&entry.key, &entry.value));
        let parsed = parsed.collect();
        self.change(|all| *all = parsed);
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        let parsed = value.and_then(|value| parse(key, value));
        self.change(|all| match (parsed, key.strip_prefix(PREFIX)) {
            (Some((name, defined)), _) => {
                all.insert(name, defined);
            }
            (None, Some(name)) if value.is_none() => {
                all.remove(name);
            }
            _ => {}
        });
    }
}

/// Keeps the registry as the definitions in the store say.
#[derive(Debug)]
pub struct CustomResources {
    feed: Feed<Definitions>,
}

impl CustomResources {
    /// Adds the resources of the definitions in the store to `registry`, and follows them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn start(
        store: &Arc<dyn Store>,
        registry: Arc<Registry>,
    ) -> bulkhead_store::Result<Self> {
        let definitions = Definitions { registry, definitions: Mutex::default() };
        Ok(Self { feed: Feed::start(Arc::clone(store), PREFIX, definitions).await? })
    }

    /// Returns when the registry shows every definition that is acknowledged by now.
    pub async fn catch_up(&self) {
        self.feed.catch_up().await;
    }

    /// Deletes the objects of definitions that are being deleted, then lets these go. Never ends.
    pub async fn clean_up(self: Arc<Self>, api: Api) {
        let mut position = self.feed.position();
        loop {
            let terminating = self.feed.index().names(object::is_terminating);
            if terminating.is_empty() {
                if position.changed().await.is_err() {
                    return;
                }
                continue;
            }
            for name in terminating {
                if let Err(error) = clean_up(&api, &name).await {
                    tracing::warn!(definition = name, %error, "deleting its objects");
                }
            }
            tokio::time::sleep(CLEANUP_INTERVAL).await;
        }
    }
}

async fn clean_up(api: &Api, name: &str) -> Result<()> {
    let Some(definitions) =
        api.registry().find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    else {
        return Ok(());
    };
    let place = Place::new(&definitions, None);
    let definition = api.get(&place, name).await?;
    let is_own = |resource: &Arc<Resource>| {
        resource.custom.is_some() && format!("{}.{}", resource.plural, resource.group) == name
    };
    if let Some(resource) = api.registry().iter().find(is_own) {
        let objects = Place::new(&resource, None);
        let all = ReadOptions::default();
        api.delete_collection(&objects, &all, &DeleteOptions::default()).await?;
        if !api.list(&objects, &all).await?.items.is_empty() {
            return Ok(());
        }
    }
    let finalizers = object::list(&definition, "metadata.finalizers").iter();
    let finalizers: Vec<Value> = finalizers.filter(|one| **one != CLEANUP).cloned().collect();
    let options = WriteOptions::default();
    let change = |current: &Value| {
        let mut changed = current.clone();
        changed["metadata"]["finalizers"] = json!(finalizers);
        Ok(changed)
    };
    match api.modify(&place, name, Target::Main, &options, change).await {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}
