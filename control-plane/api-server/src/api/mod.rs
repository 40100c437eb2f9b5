//! The API's operations on objects, without HTTP: what a request does once it is parsed and
//! permitted. The HTTP front and the controllers in this process call the same functions.

mod admission;
mod apply;
mod create;
mod delete;
mod directory;
mod eviction;
mod found;
mod metadata;
mod read;
mod scale;
pub(crate) mod services;
mod subresource;
mod update;
mod watch;

use std::fmt;
use std::sync::Arc;

use bulkhead_store::{Entry, Store, StoreError};
use serde_json::Value;

pub(crate) use create::check_type;
pub use found::Found;
pub use read::List;
pub use update::Target;
pub use watch::{WatchEvent, WatchEventKind, Watcher};

use admission::Ledger;
use directory::Directory;

use crate::object;
use crate::resource::{Registry, Resource};
use crate::status::{Result, Status};

/// The API over a store.
#[derive(Clone)]
pub struct Api {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    directory: Arc<Directory>,
    ledger: Arc<Ledger>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Where an object is or will be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its resource.
    pub resource: Arc<Resource>,
    /// Its namespace; `None` for a kind that has none, or for all of them.
    pub namespace: Option<String>,
}

impl Place {
    /// The place of `resource` in `namespace`.
    #[must_use]
    pub fn new(resource: &Arc<Resource>, namespace: Option<&str>) -> Self {
        Self { resource: Arc::clone(resource), namespace: namespace.map(Into::into) }
    }

    fn key(&self, name: &str) -> String {
        self.resource.key(self.namespace.as_deref(), name)
    }

    fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.resource.group, self.resource.plural, name)
    }

    fn conflict(&self, name: &str, why: &str) -> Status {
        Status::conflict(self.resource.group, self.resource.plural, name, why)
    }
}

/// A write that others keep overtaking is tried so often.
const ATTEMPTS: usize = 10;

const CHANGED: &str = "the object has been modified; please apply your changes to the latest \
    version and try again";

impl Api {
    /// The API of `registry`'s resources over `store`.
    pub fn new(store: Arc<dyn Store>, registry: Arc<Registry>) -> Self {
        Self { store, registry, directory: Arc::default(), ledger: Arc::default() }
    }

    /// The resources.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

/// The object in a store's entry, as `resource` shows it.
fn decode(resource: &Resource, entry: &Entry) -> Result<Value> {
    decode_value(resource, &entry.value, entry.revision.0)
}

fn decode_value(resource: &Resource, value: &[u8], revision: u64) -> Result<Value> {
    let mut object: Value = serde_json::from_slice(value)
        .map_err(|error| Status::internal(format!("a stored {}: {error}", resource.kind)))?;
    if let Some(conversion) = resource.behaviour.conversion {
        (conversion.from_storage)(&mut object);
    }
    if let Some(custom) = &resource.custom {
        custom.read(&mut object);
    }
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.into();
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    Ok(object)
}

/// What is stored of an object.
fn encode(resource: &Resource, object: &Value) -> Result<Vec<u8>> {
    let mut stored = object.clone();
    if let Some(conversion) = resource.behaviour.conversion {
        (conversion.to_storage)(&mut stored);
    }
    if let Some(metadata) = stored["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    if object::is_deeper(&stored, object::MAX_DEPTH) {
        let why = "the object nests too deep, with the fields that note who owns what";
        return Err(Status::bad_request(why));
    }
    serde_json::to_vec(&stored).map_err(Status::internal)
}

/// What clients see of a store's failure that the caller did not expect.
fn store_failure(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, compacted } => Status::expired(format!(
            "The resourceVersion for the provided list or watch is too old: {requested} \
             ({compacted})"
        )),
        StoreError::Future { requested, current } => Status::version_in_future(format!(
            "Too large resource version: {requested}, current: {current}"
        )),
        StoreError::TooLarge => Status::too_large(0).with_message(format!(
            "Request entity too large: {error}; etcd's --max-request-bytes sets its limit"
        )),
        StoreError::Unavailable(why) => Status::unavailable(&**why),
        other => Status::internal(other),
    }
}
