//! The controllers' client, in process: the API's own operations, without HTTP between.

use async_trait::async_trait;
use bulkhead_scheduler::{Change, Client, ClientError, Kind, Stream};
use serde_json::{Value, json};

use crate::api::{Api, Place, Target, WatchEventKind, Watcher};
use crate::object;
use crate::options::{DeleteOptions, Preconditions, ReadOptions, WriteOptions};
use crate::patch::Patch;
use crate::status::Status;

type Result<T> = std::result::Result<T, ClientError>;

/// A [`Client`] of the API in this process.
#[derive(Debug)]
pub struct LocalClient {
    api: Api,
}

impl LocalClient {
    /// A client of `api`.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    fn place(&self, kind: Kind, namespace: Option<&str>) -> Result<Place> {
        let resource = self.api.registry().find(kind.group, kind.version, kind.plural);
        let resource = resource.ok_or_else(|| failed(Status::no_such_resource()))?;
        Ok(Place::new(resource, namespace))
    }
}

const PODS: Kind = Kind { group: "", version: "v1", plural: "pods" };
const NAMESPACES: Kind = Kind { group: "", version: "v1", plural: "namespaces" };

fn failed(status: Status) -> ClientError {
    ClientError { code: status.code, message: status.message }
}

struct LocalStream(Watcher);

#[async_trait]
impl Stream for LocalStream {
    async fn next(&mut self) -> Result<Option<Change>> {
        while let Some(event) = self.0.next().await.map_err(failed)? {
            match event.kind {
                WatchEventKind::Added | WatchEventKind::Modified => {
                    return Ok(Some(Change::Present(event.object)));
                }
                WatchEventKind::Deleted => return Ok(Some(Change::Gone(event.object))),
                WatchEventKind::Bookmark => {}
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Client for LocalClient {
    async fn list(&self, kind: Kind) -> Result<(Vec<Value>, u64)> {
        let list = self.api.list(&self.place(kind, None)?, &ReadOptions::default()).await;
        let list = list.map_err(failed)?;
        Ok((list.items, list.resource_version))
    }

    async fn watch(&self, kind: Kind, from: u64) -> Result<Box<dyn Stream>> {
        let options = ReadOptions {
            resource_version: Some(from),
            // A version of 0 is an empty store's: nothing exists that could be sent first.
            send_initial_events: Some(false),
            ..ReadOptions::default()
        };
        let watcher = self.api.watch(&self.place(kind, None)?, &options).await.map_err(failed)?;
        Ok(Box::new(LocalStream(watcher)))
    }

    async fn create(&self, kind: Kind, object: Value) -> Result<()> {
        let place = self.place(kind, object::namespace(&object))?;
        self.api.create(&place, object, &WriteOptions::default()).await.map_err(failed)?;
        Ok(())
    }

    async fn patch_status(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        patch: Value,
    ) -> Result<()> {
        let place = self.place(kind, namespace)?;
        let patch = Patch::Strategic(patch);
        let change = |current: &Value| patch.apply(&place.resource, current);
        let options = WriteOptions::default();
        let modified = self.api.modify(&place, name, Target::Status, &options, change).await;
        modified.map(drop).map_err(failed)
    }

    async fn bind(&self, namespace: &str, name: &str, binding: Value) -> Result<()> {
        let place = self.place(PODS, Some(namespace))?;
        let bound = self.api.bind(&place, name, &binding, &WriteOptions::default()).await;
        bound.map(drop).map_err(failed)
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<()> {
        let place = self.place(PODS, Some(namespace))?;
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteOptions::default()
        };
        self.api.delete(&place, name, &options).await.map(drop).map_err(failed)
    }

    async fn empty_namespace(&self, namespace: &str) -> Result<usize> {
        let mut left = 0;
        let all = ReadOptions::default();
        for resource in self.api.registry().iter().filter(|resource| resource.namespaced) {
            let place = Place::new(resource, Some(namespace));
            let delete = DeleteOptions::default();
            self.api.delete_collection(&place, &all, &delete).await.map_err(failed)?;
            left += self.api.list(&place, &all).await.map_err(failed)?.items.len();
        }
        Ok(left)
    }

    async fn finalize_namespace(&self, namespace: &str) -> Result<()> {
        let place = self.place(NAMESPACES, None)?;
        let empty = json!({"spec": {"finalizers": []}});
        let finalized =
            self.api.finalize(&place, namespace, &empty, &WriteOptions::default()).await;
        finalized.map(drop).map_err(failed)
    }
}
