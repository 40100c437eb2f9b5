//! The controllers' client, in process: the API's own operations, without HTTP between.

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_client::{
    Change, Client, ClientError, DeleteOptions, Kind, Patch, Propagation, ResourceInfo, Scale,
    Selector, Stream, Target,
};
use serde_json::{Value, json};

use crate::api::{self, Api, Place, WatchEventKind, Watcher};
use crate::body::Body;
use crate::kubelet::Kubelets;
use crate::metrics::{self, Metrics};
use crate::object;
use crate::options::{self, FieldValidation, Preconditions, ReadOptions, WriteOptions};
use crate::patch;
use crate::selector::LabelSelector;
use crate::status::Status;
use crate::validation::Validation;

type Result<T> = std::result::Result<T, ClientError>;

/// A [`Client`] of the API in this process.
#[derive(Debug)]
pub struct LocalClient {
    api: Api,
    metrics: Metrics,
    options: WriteOptions,
}

impl LocalClient {
    /// A client of `api` that the component `name` uses, which manages the fields that it writes;
    /// metrics come from `kubelets`.
    #[must_use]
    pub fn new(api: Api, kubelets: Arc<Kubelets>, name: &str) -> Self {
        let metrics = Metrics::new(api.clone(), kubelets);
        let options = WriteOptions { client: name.into(), ..WriteOptions::default() };
        Self { api, metrics, options }
    }

    fn place(&self, kind: &Kind, namespace: Option<&str>) -> Result<Place> {
        let resource = self.api.registry().find(&kind.group, &kind.version, &kind.plural);
        let resource = resource.ok_or_else(|| failed(Status::no_such_resource()))?;
        Ok(Place::new(&resource, namespace))
    }
}

fn failed(status: Status) -> ClientError {
    ClientError { code: status.code, reason: status.reason.into(), message: status.message }
}

fn target(target: Target) -> api::Target {
    match target {
        Target::Main => api::Target::Main,
        Target::Status => api::Target::Status,
    }
}

struct LocalStream(Watcher);

#[async_trait]
impl Stream for LocalStream {
    async fn next(&mut self) -> Result<Option<Change>> {
        while let Some(event) = self.0.next().await.map_err(failed)? {
            if event.kind == WatchEventKind::Bookmark {
                continue;
            }
            let object = Arc::new(event.object.decode(self.0.resource()).map_err(failed)?);
            return Ok(Some(match event.kind {
                WatchEventKind::Deleted => Change::Gone(object),
                _ => Change::Present(object),
            }));
        }
        Ok(None)
    }
}

#[async_trait]
impl Client for LocalClient {
    async fn resources(&self) -> Result<Vec<ResourceInfo>> {
        let mut seen = std::collections::HashSet::new();
        let stored = self.api.registry().iter().filter(|resource| resource.is_stored());
        let resources = stored.filter(|resource| seen.insert(resource.storage));
        let info = |resource: Arc<crate::resource::Resource>| ResourceInfo {
            resource: Kind::new(resource.group, resource.version, resource.plural),
            kind: resource.kind.into(),
            namespaced: resource.namespaced,
        };
        Ok(resources.map(info).collect())
    }

    async fn list(&self, kind: &Kind, namespace: Option<&str>) -> Result<(Vec<Value>, u64)> {
        let (place, options) = (self.place(kind, namespace)?, ReadOptions::default());
        let list = match kind.group == metrics::GROUP {
            true => self.metrics.list(&place, &options).await,
            false => self.api.list(&place, &options).await,
        };
        let list = list.map_err(failed)?;
        Ok((list.items, list.resource_version))
    }

    async fn watch(&self, kind: &Kind, from: u64) -> Result<Box<dyn Stream>> {
        let options = ReadOptions {
            resource_version: Some(from),
            // A version of 0 is an empty store's: nothing exists that could be sent first.
            send_initial_events: Some(false),
            ..ReadOptions::default()
        };
        let watcher = self.api.watch(&self.place(kind, None)?, &options).await.map_err(failed)?;
        Ok(Box::new(LocalStream(watcher)))
    }

    async fn get(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Value> {
        let place = self.place(kind, namespace)?;
        let object = match kind.group == metrics::GROUP {
            true => self.metrics.get(&place, name).await,
            false => self.api.get(&place, name).await,
        };
        object.map_err(failed)
    }

    async fn create(&self, kind: &Kind, object: Value) -> Result<Value> {
        let place = self.place(kind, object::namespace(&object))?;
        self.api.create(&place, object, &self.options).await.map_err(failed)
    }

    async fn update(&self, kind: &Kind, part: Target, object: Value) -> Result<Value> {
        let place = self.place(kind, object::namespace(&object))?;
        let name = object::name(&object).to_owned();
        self.api.update(&place, &name, target(part), object, &self.options).await.map_err(failed)
    }

    async fn patch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        part: Target,
        patch: Patch,
    ) -> Result<Value> {
        let place = self.place(kind, namespace)?;
        let (media_type, body) = match patch {
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
        };
        let body = Body { value: body, ..Body::default() };
        let patch = patch::Patch::parse(media_type, body).map_err(failed)?;
        let mut validation = Validation::new(FieldValidation::Ignore, &place.resource, None);
        let change = |current: &Value| patch.apply(&mut validation, current);
        self.api.modify(&place, name, target(part), &self.options, change).await.map_err(failed)
    }

    async fn scale(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Scale> {
        let scale = self.api.scale(&self.place(kind, namespace)?, name).await.map_err(failed)?;
        let number = |path| object::at(&scale, path).and_then(Value::as_i64).unwrap_or(0);
        let selector = LabelSelector::parse(object::text(&scale, "status.selector"));
        let selector = selector.map_err(|error| failed(Status::bad_request(error.to_string())))?;
        Ok(Scale {
            uid: object::text(&scale, "metadata.uid").into(),
            wanted: number("spec.replicas"),
            replicas: number("status.replicas"),
            selector: Selector::of(selector.into_requirements()),
        })
    }

    async fn set_scale(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        replicas: i64,
    ) -> Result<()> {
        let place = self.place(kind, namespace)?;
        let scaled = self.api.set_scale(&place, name, &self.options, |scale| {
            let mut scale = scale.clone();
            scale["spec"]["replicas"] = replicas.into();
            // Whatever else changed meanwhile, the size is what was decided.
            if let Some(metadata) = scale["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            Ok(scale)
        });
        scaled.await.map(drop).map_err(failed)
    }

    async fn delete(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value> {
        let place = self.place(kind, namespace)?;
        let options = options::DeleteOptions {
            grace_period_seconds: options.grace_period_seconds,
            preconditions: Some(Preconditions {
                uid: options.uid.clone(),
                resource_version: options.resource_version.clone(),
            }),
            propagation_policy: options.propagation.map(|propagation| {
                String::from(match propagation {
                    Propagation::Background => "Background",
                    Propagation::Foreground => "Foreground",
                    Propagation::Orphan => "Orphan",
                })
            }),
            ..options::DeleteOptions::default()
        };
        let deleted = self.api.delete(&place, name, &options).await.map_err(failed)?;
        Ok(deleted.object)
    }

    async fn delete_collection(&self, kind: &Kind, namespace: &str) -> Result<()> {
        let place = self.place(kind, Some(namespace))?;
        let delete = options::DeleteOptions::default();
        let deleted = self.api.delete_collection(&place, &ReadOptions::default(), &delete).await;
        deleted.map(drop).map_err(failed)
    }

    async fn bind(&self, namespace: &str, name: &str, binding: Value) -> Result<()> {
        let place = self.place(&Kind::PODS, Some(namespace))?;
        let bound = self.api.bind(&place, name, &binding, &self.options).await;
        bound.map(drop).map_err(failed)
    }

    async fn finalize_namespace(&self, namespace: &str) -> Result<()> {
        let place = self.place(&Kind::NAMESPACES, None)?;
        let empty = json!({"spec": {"finalizers": []}});
        let finalized = self.api.finalize(&place, namespace, &empty, &self.options).await;
        finalized.map(drop).map_err(failed)
    }
}
