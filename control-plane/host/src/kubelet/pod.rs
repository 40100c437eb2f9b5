//! One pod's worker: brings the pod to its node's agent ([`apply`]), its status to the API, and
//! ends it.

mod apply;
mod ephemeral;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_agent_protocol::client::ClientError;
use bulkhead_agent_protocol::{ErrorReason, PodStatus};
use bulkhead_host_api::ApiError;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::pods::{Desired, Reported, release_address};
use super::{Context, data, events, images, status};
use crate::vm::{Node, NodeState, Up};
use apply::Applied;

/// How long to wait before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a pod that was just accepted may take to start before the API is told that it is being
/// created. Most start within that: one write less, and the one that counts waits for none.
const PATIENCE: Duration = Duration::from_millis(150);

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
        address: None,
        creating_since: None,
        previous: None,
        pull: images::Backoff::default(),
        tokens: data::Tokens::default(),
        problem: None,
        missing: Vec::new(),
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
    /// The pod's address, once it has one.
    address: Option<Ipv4Addr>,
    /// When the agent first said that it is making the pod.
    creating_since: Option<Instant>,
    /// The last status that an agent reported.
    previous: Option<PodStatus>,
    pull: images::Backoff,
    tokens: data::Tokens,
    /// Why the pod's volumes cannot be filled, as last told.
    problem: Option<data::Problem>,
    /// The statuses of ephemeral containers that no agent was given: their images are not there, or they
    /// would be refused.
    missing: Vec<Value>,
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
                    release_address(&self.context, &self.uid).await;
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
        let mut told_by = None;
        if let Reported::Status(status) = &reported {
            told_by = self.holds_back(status);
            if told_by.is_none() {
                self.note(object, status).await;
            }
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
        match (self.apply(object, &up).await, told_by) {
            (Next::Wait, Some(time)) => Next::Until(time),
            (next, _) => next,
        }
    }

    /// Until when a status is not told: nothing of the pod has started, and it is new.
    fn holds_back(&mut self, now: &PodStatus) -> Option<Instant> {
        if !self.written.is_null() || !status::is_being_created(now) {
            return None;
        }
        // What comes next is news against this.
        self.previous = Some(now.clone());
        let until = *self.creating_since.get_or_insert_with(Instant::now) + PATIENCE;
        (until > Instant::now()).then_some(until)
    }

    /// The pod's address: the node's if it has the host's network, else the one it has, or a free one.
    fn address(&mut self) -> Result<Ipv4Addr, ApiError> {
        if let Some(ip) = self.address {
            return Ok(ip);
        }
        let host_network =
            |object: &Value| object.pointer("/spec/hostNetwork") == Some(&true.into());
        if host_network(&self.desired.borrow().object) {
            return Ok(self.node.plan.link.ip());
        }
        let ip = self.context.pods.address(&self.context, &self.node, &self.uid)?;
        self.address = Some(ip);
        Ok(ip)
    }

    /// Brings the agent's status to the API and tells of what happened to containers.
    async fn note(&mut self, object: &Value, now: &PodStatus) {
        let ip = self.address().ok();
        let patch = status::patch(object, now, &self.missing, self.node.plan.link.ip(), ip);
        if self.previous.as_ref() != Some(now) {
            for (kind, reason, message) in status::news(self.previous.as_ref(), now) {
                events::pod(&self.context, object, kind, reason, &message);
            }
            self.previous = Some(now.clone());
        }
        self.write(object, patch).await;
    }

    async fn write(&mut self, object: &Value, patch: Value) {
        if patch == self.written {
            return;
        }
        match self.context.kube.strategic(&status_path(object), &patch).await {
            Ok(_) => self.written = patch,
            // Gone; or the name belongs to another pod by now.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!("status of {}: {error}", path(object)),
        }
    }

    /// Has the agent end the pod.
    async fn remove(&mut self, desired: &Desired, up: &Up) -> Next {
        if self.removing && self.applied.as_ref().is_some_and(|a| std::ptr::eq(&*a.up, up)) {
            return Next::Wait;
        }
        let object = &desired.object;
        let grace = grace(desired);
        if !self.removing
            && grace > 0
            && let Some(pod) = self.address
        {
            self.context.services.release(&self.uid, pod).await;
        }
        let answer = match up.agent().await {
            Ok(mut agent) => agent.remove_pod(&self.uid, grace).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => {
                if !self.removing && !desired.gone {
                    for name in status::running_containers(object) {
                        let message = format!("Stopping container {name}");
                        events::pod(&self.context, object, "Normal", "Killing", &message);
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

fn grace(desired: &Desired) -> u32 {
    if desired.gone {
        return 0;
    }
    let seconds = |path: &str| desired.object.pointer(path).and_then(Value::as_u64);
    seconds("/metadata/deletionGracePeriodSeconds")
        .or_else(|| seconds("/spec/terminationGracePeriodSeconds"))
        .map_or(DEFAULT_GRACE, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}
