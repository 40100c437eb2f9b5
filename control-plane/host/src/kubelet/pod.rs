//! One pod's worker: brings the pod to its node's agent, its status to the API, and ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_agent_protocol::client::ClientError;
use bulkhead_agent_protocol::{ContainerImage, ErrorReason, PodAssignment, PodStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::pods::{Desired, Reported};
use super::{Context, events, images, status};
use crate::vm::{Node, NodeState, Up};

/// How long to wait before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The grace period of a pod that names none, in seconds.
const DEFAULT_GRACE: u32 = 30;

/// The path of a pod's object.
pub(super) fn path(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    format!("/api/v1/namespaces/{}/pods/{}", text("/metadata/namespace"), text("/metadata/name"))
}

/// The path of its status.
pub(super) fn status_path(object: &Value) -> String {
    format!("{}/status", path(object))
}

/// Runs until the pod is gone.
pub(super) async fn run(
    context: Arc<Context>,
    uid: String,
    desired: watch::Receiver<Desired>,
    reported: watch::Receiver<Reported>,
) {
    let Some(node) = find_node(&context, &desired).await else { return };
    let state = node.state();
    let worker = Worker {
        context,
        uid,
        node,
        desired,
        reported,
        state,
        applied: None,
        written: Value::Null,
        previous: None,
        pull: images::Backoff::default(),
        removing: false,
    };
    worker.run().await;
}

/// The pod's node, when this host has it.
async fn find_node(context: &Context, desired: &watch::Receiver<Desired>) -> Option<Arc<Node>> {
    let mut changed = context.pods.nodes_changed();
    let name = {
        let desired = desired.borrow();
        desired.object.pointer("/spec/nodeName")?.as_str()?.to_owned()
    };
    loop {
        changed.borrow_and_update();
        if let Some(node) = context.node(&name) {
            return Some(node);
        }
        changed.changed().await.ok()?;
    }
}

/// What the agent of one boot was given.
struct Applied {
    up: Arc<Up>,
    /// Those parts of the object that an agent looks at.
    essence: Value,
}

struct Worker {
    context: Arc<Context>,
    uid: String,
    node: Arc<Node>,
    desired: watch::Receiver<Desired>,
    reported: watch::Receiver<Reported>,
    state: watch::Receiver<NodeState>,
    applied: Option<Applied>,
    /// The last patch of the status.
    written: Value,
    /// The last status that an agent reported.
    previous: Option<PodStatus>,
    pull: images::Backoff,
    removing: bool,
}

/// What is next.
enum Next {
    /// Something changes.
    Wait,
    /// That, or this time comes.
    Until(Instant),
    /// There is nothing left to do.
    End,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let (desired, reported, state) = (
                self.desired.borrow_and_update().clone(),
                self.reported.borrow_and_update().clone(),
                self.state.borrow_and_update().clone(),
            );
            let until = match self.step(&desired, reported, state).await {
                Next::Wait => None,
                Next::Until(time) => Some(time),
                Next::End => {
                    images::release(&self.context, &self.node.plan.name, &self.uid).await;
                    drop(
                        self.context.host.state.free_pod_address(&self.context.cluster, &self.uid),
                    );
                    self.context.pods.forget(&self.uid);
                    return;
                }
            };
            let due = async {
                match until {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return },
                changed = self.reported.changed() => if changed.is_err() { return },
                changed = self.state.changed() => if changed.is_err() { return },
                () = due => {}
            }
        }
    }

    async fn step(&mut self, desired: &Desired, reported: Reported, state: NodeState) -> Next {
        let object = &desired.object;
        let deleting = desired.gone
            || object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
        if let Reported::Status(status) = &reported {
            self.note(object, status).await;
        }
        if let (true, Reported::Removed(last)) = (deleting, &reported) {
            self.note(object, last).await;
            return self.finish(desired).await;
        }
        let NodeState::Up(up) = state else { return Next::Wait };
        if deleting {
            return self.remove(desired, &up).await;
        }
        let known = matches!(reported, Reported::Status(_));
        if !known && status::is_terminal(object) {
            return Next::Wait;
        }
        self.apply(object, &up).await
    }

    /// Brings the agent's status to the API and tells of what happened to containers.
    async fn note(&mut self, object: &Value, now: &PodStatus) {
        let ip = self.context.pods.address(&self.context, &self.node, &self.uid).ok();
        let patch = status::patch(object, now, self.node.plan.ip, ip);
        if self.previous.as_ref() != Some(now) {
            for (kind, reason, message) in status::news(self.previous.as_ref(), now) {
                events::pod(&self.context, object, kind, reason, &message).await;
            }
            self.previous = Some(now.clone());
        }
        self.write(object, patch).await;
    }

    async fn write(&mut self, object: &Value, patch: Value) {
        if patch == self.written {
            return;
        }
        match self.context.kube.merge(&status_path(object), &patch).await {
            Ok(_) => self.written = patch,
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!("status of {}: {error}", path(object)),
        }
    }

    /// Gives the pod to the agent, unless it has it as it is.
    async fn apply(&mut self, object: &Arc<Value>, up: &Arc<Up>) -> Next {
        let essence = essence(object);
        if let Some(applied) = &self.applied
            && Arc::ptr_eq(&applied.up, up)
            && applied.essence == essence
        {
            return Next::Wait;
        }
        if let Some(time) = self.pull.waits() {
            return Next::Until(time);
        }
        let mut desired = self.desired.clone();
        let deleted = desired.wait_for(|desired| {
            desired.gone
                || desired
                    .object
                    .pointer("/metadata/deletionTimestamp")
                    .is_some_and(|t| !t.is_null())
        });
        let images = tokio::select! {
            images = images::ensure(&self.context, &self.node, up, object, &self.uid) => images,
            // Seen in the next step.
            _ = deleted => return Next::Until(Instant::now()),
        };
        let images = match images {
            Ok(images) => images,
            Err(error) => return self.without_image(object, &error).await,
        };
        self.pull = images::Backoff::default();
        match self.assign(object, up, images).await {
            Ok(()) => {
                self.applied = Some(Applied { up: Arc::clone(up), essence });
                Next::Wait
            }
            Err(Refused::Pod(message)) => {
                events::pod(&self.context, object, "Warning", "Unsupported", &message).await;
                let patch = status::failed(object, "Unsupported", &message);
                self.write(object, patch).await;
                self.applied = Some(Applied { up: Arc::clone(up), essence });
                Next::Wait
            }
            Err(Refused::ForNow(message)) => {
                tracing::warn!("{}: {message}", path(object));
                Next::Until(Instant::now() + RETRY)
            }
        }
    }

    async fn assign(
        &self,
        object: &Value,
        up: &Up,
        images: BTreeMap<String, ContainerImage>,
    ) -> Result<(), Refused> {
        let later = |error: &dyn std::fmt::Display| Refused::ForNow(error.to_string());
        let ip = self
            .context
            .pods
            .address(&self.context, &self.node, &self.uid)
            .map_err(|error| later(&error))?;
        let assignment = PodAssignment {
            pod: object.clone(),
            images,
            ip: Some(ip),
            previous: self.previous.clone().or_else(|| status::from_object(object, &self.uid)),
        };
        let mut agent = up.agent().await.map_err(|error| later(&error))?;
        agent.apply_pod(assignment).await.map_err(|error| match error {
            ClientError::Agent(error)
                if matches!(error.reason, ErrorReason::Unsupported | ErrorReason::BadRequest) =>
            {
                Refused::Pod(error.message)
            }
            error => later(&error),
        })
    }

    async fn without_image(&mut self, object: &Value, error: &images::ImageError) -> Next {
        let time = self.pull.failed(error.is_permanent());
        let reason = self.pull.reason(error);
        if reason == "ImagePullBackOff" {
            let message = format!("Back-off pulling image {:?}: {error}", error.image);
            events::pod(&self.context, object, "Normal", "BackOff", &message).await;
        }
        let patch = status::waiting(object, &error.container, reason, &error.to_string());
        self.write(object, patch).await;
        Next::Until(time)
    }

    /// Has the agent end the pod.
    async fn remove(&mut self, desired: &Desired, up: &Up) -> Next {
        if self.removing && self.applied.as_ref().is_some_and(|a| std::ptr::eq(&*a.up, up)) {
            return Next::Wait;
        }
        let object = &desired.object;
        let grace = grace(desired);
        let answer = match up.agent().await {
            Ok(mut agent) => agent.remove_pod(&self.uid, grace).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => {
                if !self.removing && !desired.gone {
                    for name in status::running_containers(object) {
                        let message = format!("Stopping container {name}");
                        events::pod(&self.context, object, "Normal", "Killing", &message).await;
                    }
                }
                self.removing = true;
                // Asked again in case the node reboots meanwhile, or the grace period shrinks.
                Next::Until(Instant::now() + Duration::from_secs(u64::from(grace) + 5))
            }
            Err(ClientError::Agent(error)) if error.reason == ErrorReason::NotFound => {
                self.finish(desired).await
            }
            Err(error) => {
                tracing::warn!("removing {}: {error}", path(object));
                Next::Until(Instant::now() + RETRY)
            }
        }
    }

    /// Deletes the object: nothing of the pod is left.
    async fn finish(&mut self, desired: &Desired) -> Next {
        if desired.gone {
            return Next::End;
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}});
        match self.context.kube.delete(&path(&desired.object), &options).await {
            Ok(_) => Next::End,
            // Conflict: the name belongs to another pod by now.
            Err(error) if error.is_not_found() || error.is_conflict() => Next::End,
            Err(error) => {
                tracing::warn!("deleting {}: {error}", path(&desired.object));
                Next::Until(Instant::now() + RETRY)
            }
        }
    }
}

/// Why an agent did not take a pod.
enum Refused {
    /// It never will.
    Pod(String),
    /// It may yet.
    ForNow(String),
}

/// The parts of a pod that an agent looks at and that may change.
fn essence(object: &Value) -> Value {
    json!([
        object.get("spec"),
        object.pointer("/metadata/labels"),
        object.pointer("/metadata/annotations"),
    ])
}

fn grace(desired: &Desired) -> u32 {
    if desired.gone {
        return 0;
    }
    let seconds = |path: &str| desired.object.pointer(path).and_then(Value::as_u64);
    seconds("/metadata/deletionGracePeriodSeconds")
        .or_else(|| seconds("/spec/terminationGracePeriodSeconds"))
        .map_or(DEFAULT_GRACE, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}
