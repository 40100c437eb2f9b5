//! What the scheduler writes: bindings, why a pod waits, and the end of pods for others. Writes go
//! on beside the decisions, so many at a time that the store can commit them together.

use std::sync::Arc;

use bulkhead_client::object::{self, now};
use bulkhead_client::{Client, ClientError, DeleteOptions, Kind, Patch, Recorder, Target};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::NAME;
use crate::model::Pod;

/// How many writes may be under way.
const IN_FLIGHT: usize = 256;

/// A binding that did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) pod: Arc<Pod>,
    pub(crate) error: ClientError,
}

/// Writes.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

struct Shared {
    client: Arc<dyn Client>,
    recorder: Arc<Recorder>,
    failures: mpsc::UnboundedSender<Failed>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer, and where it tells of bindings that failed.
    pub(crate) fn new(client: &Arc<dyn Client>) -> (Self, mpsc::UnboundedReceiver<Failed>) {
        let (failures, failed) = mpsc::unbounded_channel();
        let recorder = Recorder::new(Arc::clone(client), NAME);
        let shared = Arc::new(Shared { client: Arc::clone(client), recorder, failures });
        (Self { shared, permits: Arc::new(Semaphore::new(IN_FLIGHT)) }, failed)
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes the semaphore.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Binds a pod to a node.
    pub(crate) async fn bind(&self, pod: Arc<Pod>, node: String) {
        let (permit, shared) = (self.permit().await, Arc::clone(&self.shared));
        tokio::spawn(async move {
            let (namespace, name) = (&pod.namespace, &pod.name);
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name, "namespace": namespace, "uid": pod.uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            match shared.client.bind(namespace, name, binding).await {
                Ok(()) => {
                    let message = format!("Successfully assigned {namespace}/{name} to {node}");
                    shared.recorder.normal(&pod.object, "Scheduled", message);
                }
                Err(error) => {
                    // The receiver is gone only when the scheduler ends.
                    let _ = shared.failures.send(Failed { pod, error });
                }
            }
            drop(permit);
        });
    }

    /// Tells a pod why it waits, and which node is being cleared for it.
    pub(crate) async fn report(&self, pod: Arc<Pod>, message: String, nominated: Option<String>) {
        self.shared.recorder.warning(&pod.object, "FailedScheduling", message.clone());
        let unchanged = object::condition(&pod.object, "PodScheduled").is_some_and(|known| {
            known["status"] == "False"
                && known["reason"] == "Unschedulable"
                && known["message"] == message.as_str()
        });
        if unchanged && nominated.as_deref() == pod.nominated_node() {
            return;
        }
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": now(),
        });
        let status = json!({"conditions": [condition], "nominatedNodeName": nominated});
        self.patch_status(pod, status).await;
    }

    /// No node is being cleared for the pod any more.
    pub(crate) async fn clear_nomination(&self, pod: Arc<Pod>) {
        self.patch_status(pod, json!({"nominatedNodeName": null})).await;
    }

    async fn patch_status(&self, pod: Arc<Pod>, status: Value) {
        let (permit, shared) = (self.permit().await, Arc::clone(&self.shared));
        tokio::spawn(async move {
            shared.patch_status(&pod, status).await;
            drop(permit);
        });
    }

    /// Ends a pod so that another can run.
    pub(crate) async fn preempt(&self, victim: Arc<Pod>, preemptor: Arc<Pod>, node: String) {
        let (permit, shared) = (self.permit().await, Arc::clone(&self.shared));
        tokio::spawn(async move {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
                "lastTransitionTime": now(),
            });
            shared.patch_status(&victim, json!({"conditions": [condition]})).await;
            let options = DeleteOptions::of(&victim.uid);
            let (namespace, name) = (victim.namespace.as_str(), victim.name.as_str());
            match shared.client.delete(&Kind::PODS, Some(namespace), name, &options).await {
                Ok(_) => {
                    let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
                    shared.recorder.normal(&victim.object, "Preempted", message);
                }
                Err(error) if error.is_gone() => {}
                Err(error) => tracing::warn!(namespace, name, %error, "preempting a pod"),
            }
            drop(permit);
        });
    }
}

impl Shared {
    async fn patch_status(&self, pod: &Pod, status: Value) {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        let (namespace, name) = (pod.namespace.as_str(), pod.name.as_str());
        let patch = Patch::Strategic(patch);
        let patched =
            self.client.patch(&Kind::PODS, Some(namespace), name, Target::Status, patch).await;
        match patched {
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => tracing::warn!(namespace, name, %error, "a pod's status"),
        }
    }
}
