//! What the controllers need of the Kubernetes API.

use async_trait::async_trait;
use serde_json::Value;

/// A resource, as paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural.
    pub plural: &'static str,
}

impl Kind {
    pub(crate) const PODS: Self = Self { group: "", version: "v1", plural: "pods" };
    pub(crate) const NODES: Self = Self { group: "", version: "v1", plural: "nodes" };
    pub(crate) const EVENTS: Self = Self { group: "", version: "v1", plural: "events" };
    pub(crate) const NAMESPACES: Self = Self { group: "", version: "v1", plural: "namespaces" };
    pub(crate) const LEASES: Self =
        Self { group: "coordination.k8s.io", version: "v1", plural: "leases" };
}

/// A request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// The HTTP status.
    pub code: u16,
    /// The status' message.
    pub message: String,
}

/// A change that a watch saw.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object exists and looks like this.
    Present(Value),
    /// The object, as it last looked, is gone.
    Gone(Value),
}

/// A running watch.
#[async_trait]
pub trait Stream: Send {
    /// The next change; `None` when the watch's time is over and another begins where it ended.
    async fn next(&mut self) -> Result<Option<Change>, ClientError>;
}

/// A client of the Kubernetes API.
#[async_trait]
pub trait Client: Send + Sync + 'static {
    /// Every object of a kind, and the version of the list.
    async fn list(&self, kind: Kind) -> Result<(Vec<Value>, u64), ClientError>;

    /// Watches every object of a kind from a version.
    async fn watch(&self, kind: Kind, from: u64) -> Result<Box<dyn Stream>, ClientError>;

    /// Creates an object; the namespace is its own.
    async fn create(&self, kind: Kind, object: Value) -> Result<(), ClientError>;

    /// Strategic-merge-patches an object's status subresource.
    async fn patch_status(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        patch: Value,
    ) -> Result<(), ClientError>;

    /// Posts a pod's `Binding`.
    async fn bind(&self, namespace: &str, name: &str, binding: Value) -> Result<(), ClientError>;

    /// Deletes a pod at once, if it still has this uid.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ClientError>;

    /// Deletes every object in a namespace, of every kind. How many objects are still there.
    async fn empty_namespace(&self, namespace: &str) -> Result<usize, ClientError>;

    /// Takes the finalizers from a namespace, which ends its deletion.
    async fn finalize_namespace(&self, namespace: &str) -> Result<(), ClientError>;
}
