//! The client.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::selector::Selector;

/// A resource, as paths name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version.
    pub version: Cow<'static, str>,
    /// Plural.
    pub plural: Cow<'static, str>,
}

impl Kind {
    /// Pods.
    pub const PODS: Self = Self::core("pods");
    /// Nodes.
    pub const NODES: Self = Self::core("nodes");
    /// Events.
    pub const EVENTS: Self = Self::core("events");
    /// Namespaces.
    pub const NAMESPACES: Self = Self::core("namespaces");
    /// Leases.
    pub const LEASES: Self = Self::new("coordination.k8s.io", "v1", "leases");

    /// The resource `plural` of a group's version.
    #[must_use]
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
        }
    }

    /// The resource `plural` of the core group.
    #[must_use]
    pub const fn core(plural: &'static str) -> Self {
        Self::new("", "v1", plural)
    }
}

/// What discovery tells of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceInfo {
    /// The resource.
    pub resource: Kind,
    /// The kind of its objects, CamelCase.
    pub kind: String,
    /// Whether they lie in namespaces.
    pub namespaced: bool,
}

/// A request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// The HTTP status.
    pub code: u16,
    /// The status' reason: `NotFound`, `AlreadyExists`, …
    pub reason: String,
    /// The status' message.
    pub message: String,
}

impl ClientError {
    /// Whether the object is not there, or is another by now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.code, 404 | 409)
    }
}

/// A change that a watch saw.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object exists and looks like this.
    Present(Arc<Value>),
    /// The object, as it last looked, is gone.
    Gone(Arc<Value>),
}

impl Change {
    /// The object.
    #[must_use]
    pub fn object(&self) -> &Arc<Value> {
        match self {
            Self::Present(object) | Self::Gone(object) => object,
        }
    }
}

/// A running watch.
#[async_trait]
pub trait Stream: Send {
    /// The next change; `None` when the watch's time is over and another begins where it ended.
    async fn next(&mut self) -> Result<Option<Change>, ClientError>;
}

/// The part of an object that a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The object.
    Main,
    /// Its `status` subresource.
    Status,
}

/// A patch.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// Strategic merge.
    Strategic(Value),
    /// JSON merge, RFC 7396.
    Merge(Value),
    /// JSON patch, RFC 6902.
    Json(Value),
}

/// What becomes of an object's dependents when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds until it is forced; the object's own if unset.
    pub grace_period_seconds: Option<u64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only the object at this version.
    pub resource_version: Option<String>,
    /// What becomes of its dependents; the kind's default if unset.
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// A delete of the object with this uid only.
    #[must_use]
    pub fn of(uid: &str) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }
}

/// What an `autoscaling/v1` Scale says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// The object's uid.
    pub uid: String,
    /// The replicas that are wanted.
    pub wanted: i64,
    /// Those that there are.
    pub replicas: i64,
    /// What selects their pods; the empty one if the kind does not say.
    pub selector: Selector,
}

/// A client of the Kubernetes API.
#[async_trait]
pub trait Client: Send + Sync + 'static {
    /// What resources there are, each in the version that is preferred.
    async fn resources(&self) -> Result<Vec<ResourceInfo>, ClientError>;

    /// Every object of a kind, of one namespace or of all, and the version of the list.
    async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
    ) -> Result<(Vec<Value>, u64), ClientError>;

    /// Watches every object of a kind from a version.
    async fn watch(&self, kind: &Kind, from: u64) -> Result<Box<dyn Stream>, ClientError>;

    /// The object of this name.
    async fn get(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, ClientError>;

    /// Creates an object and returns it as stored; the namespace is its own.
    async fn create(&self, kind: &Kind, object: Value) -> Result<Value, ClientError>;

    /// Replaces an object, which must still have the version that `object` says.
    async fn update(
        &self,
        kind: &Kind,
        target: Target,
        object: Value,
    ) -> Result<Value, ClientError>;

    /// Patches an object.
    async fn patch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        target: Target,
        patch: Patch,
    ) -> Result<Value, ClientError>;

    /// The Scale of an object whose kind has one.
    async fn scale(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Scale, ClientError>;

    /// Sets the replicas of an object whose kind has a Scale.
    async fn set_scale(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        replicas: i64,
    ) -> Result<(), ClientError>;

    /// Deletes an object, and returns it as it is now or last was.
    async fn delete(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ClientError>;

    /// Deletes every object of a kind in a namespace.
    async fn delete_collection(&self, kind: &Kind, namespace: &str) -> Result<(), ClientError>;

    /// Posts a pod's `Binding`.
    async fn bind(&self, namespace: &str, name: &str, binding: Value) -> Result<(), ClientError>;

    /// Takes the finalizers from a namespace, which ends its deletion.
    async fn finalize_namespace(&self, namespace: &str) -> Result<(), ClientError>;
}
