//! What every controller has at hand, and how it learns of changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_client::object;
use bulkhead_client::{
    Cache, Client, ClientError, Informers, Kind, Patch, Recorder, Selector, Target, Told,
};
use serde_json::{Value, json};

use crate::queue::Queue;

/// Client, informers, and the controller's events.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) informers: Arc<Informers>,
    pub(crate) recorder: Arc<Recorder>,
}

impl Context {
    /// The context of the controller `name`.
    pub(crate) fn new(informers: &Arc<Informers>, name: &'static str) -> Self {
        let recorder = Recorder::new(Arc::clone(informers.client()), name);
        Self { informers: Arc::clone(informers), recorder }
    }

    pub(crate) fn client(&self) -> &Arc<dyn Client> {
        self.informers.client()
    }

    /// The resource of a reference's group and kind.
    pub(crate) async fn resource_of(&self, reference: &Value) -> Result<Kind, ClientError> {
        let api_version = object::text(reference, "apiVersion");
        let kind = object::text(reference, "kind");
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let resources = self.client().resources().await?;
        let found =
            resources.into_iter().find(|one| one.resource.group == group && one.kind == kind);
        found.map(|one| one.resource).ok_or_else(|| ClientError {
            code: 404,
            reason: "NotFound".into(),
            message: format!("no matches for kind {kind:?} in group {group:?}"),
        })
    }
}

/// Calls `changed` with every object that changes, for ever: as it is and, if it was another
/// before, as it was.
pub(crate) async fn on_change(cache: Arc<Cache>, mut changed: impl FnMut(&Value)) {
    let mut told = cache.follow();
    // An object that moves from one owner to another concerns both.
    let mut owners: HashMap<String, Arc<Value>> = HashMap::new();
    while let Some(told) = told.recv().await {
        match told {
            Told::All(all) => {
                let before = std::mem::take(&mut owners);
                for object in all {
                    changed(&object);
                    owners.insert(object::key(&object), object);
                }
                before
                    .into_iter()
                    .filter(|(key, _)| !owners.contains_key(key))
                    .for_each(|(_, gone)| changed(&gone));
            }
            Told::One(bulkhead_client::Change::Present(object)) => {
                changed(&object);
                if let Some(before) = owners.insert(object::key(&object), Arc::clone(&object)) {
                    changed(&before);
                }
            }
            Told::One(bulkhead_client::Change::Gone(object)) => {
                owners.remove(&object::key(&object));
                changed(&object);
            }
        }
    }
}

/// The key of the object that controls `object`, if it is of this kind.
pub(crate) fn controller_key(object: &Value, api_version: &str, kind: &str) -> Option<String> {
    let owner = object::controller(object)?;
    let same =
        object::text(owner, "apiVersion") == api_version && object::text(owner, "kind") == kind;
    same.then(|| object::key_of(object::namespace(object), object::text(owner, "name")))
}

/// The keys of those of `owners` whose `spec.selector` selects an object that nobody controls.
fn adopters(owners: &Cache, object: &Value) -> Vec<String> {
    let Some(namespace) =
        object::namespace(object).filter(|_| object::controller(object).is_none())
    else {
        return Vec::new();
    };
    let selects = |one: &Arc<Value>| {
        let selector = Selector::read(&one["spec"]["selector"]);
        selector.is_ok_and(|selector| !selector.is_empty() && selector.selects(object))
    };
    let all = owners.in_namespace(namespace);
    all.iter().filter(|one| selects(one)).map(|one| object::key(one)).collect()
}

/// Has what controls `object` synced, if it is of this kind.
pub(crate) fn add_controller(queue: &Queue<String>, object: &Value, api_version: &str, kind: &str) {
    if let Some(key) = controller_key(object, api_version, kind) {
        queue.add(key);
    }
}

/// The same; of an object that nobody controls, those of `owners` that may adopt it.
pub(crate) fn add_controller_or_adopters(
    queue: &Queue<String>,
    object: &Value,
    api_version: &str,
    kind: &str,
    owners: &Cache,
) {
    match controller_key(object, api_version, kind) {
        Some(key) => queue.add(key),
        None => adopters(owners, object).into_iter().for_each(|key| queue.add(key)),
    }
}

/// The owner reference of an object to its controller.
pub(crate) fn controller_reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The newest write that each key's sync made: what a cache must have seen before the next sync
/// may count what is there. So a stale cache never makes anything twice.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, u64>>);

impl Written {
    /// Notes what a write returned.
    pub(crate) fn note(&self, key: &str, object: &Value) {
        let version = object::text(object, "metadata.resourceVersion").parse().unwrap_or(0);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = all.entry(key.to_owned()).or_default();
        *newest = version.max(*newest);
    }

    /// Whether `cache` has seen what was noted for `key`.
    pub(crate) fn is_in(&self, key: &str, cache: &Cache) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.get(key).is_none_or(|version| cache.has_seen(*version));
        if seen {
            all.remove(key);
        }
        seen
    }
}

/// Takes not-found and conflict for what they are: the object is gone, or changed and will be
/// seen again.
pub(crate) fn unless_gone<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the status of an object that must still be as it was seen, if it changed. Whether it was
/// written: not if the object changed or is gone; then its event calls for another sync.
pub(crate) async fn write_status(
    client: &Arc<dyn Client>,
    kind: &Kind,
    object: &Value,
    status: &Value,
) -> Result<bool, ClientError> {
    let before = &object["status"];
    if before == status {
        return Ok(true);
    }
    // What is no longer there is taken away by null.
    let mut patch = status.clone();
    for field in before.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if patch.get(field).is_none() {
            patch[field] = Value::Null;
        }
    }
    let version = &object["metadata"]["resourceVersion"];
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": patch}));
    let (namespace, name) = (object::namespace(object), object::name(object));
    let written = client.patch(kind, namespace, name, Target::Status, patch).await;
    Ok(unless_gone(written)?.is_some())
}

/// The resource of what a controller controls and is, as owner references name it.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) resource: Kind,
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
}
