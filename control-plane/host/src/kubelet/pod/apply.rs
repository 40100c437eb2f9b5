//! Giving a pod to its node's agent: its images attached, what it needs of other objects read, and
//! both again as they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_agent_protocol::client::{AgentClient, ClientError};
use bulkhead_agent_protocol::downward::Surroundings;
use bulkhead_agent_protocol::{ContainerImage, ErrorReason, PodAssignment, PodData};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Next, RETRY, Worker, ephemeral, path};
use crate::kubelet::{data, events, images, resolver, services, status};
use crate::vm::Up;

/// What the agent of one boot was given.
pub(super) struct Applied {
    pub(super) up: Arc<Up>,
    /// Those parts of the object that an agent looks at.
    essence: Value,
    /// What came with it; `None` if the agent refused the pod.
    given: Option<Given>,
}

struct Given {
    images: BTreeMap<String, ContainerImage>,
    data: PodData,
    /// When the data is to be read again.
    until: Option<Instant>,
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

impl Worker {
    /// Gives the pod to the agent, unless it has it as it is.
    pub(super) async fn apply(&mut self, object: &Arc<Value>, up: &Arc<Up>) -> Next {
        let essence = essence(object);
        if let Some(applied) = &self.applied
            && Arc::ptr_eq(&applied.up, up)
            && applied.essence == essence
        {
            return self.refresh(object, up).await;
        }
        if let Some(time) = self.pull.waits(object) {
            return Next::Until(time);
        }
        let ephemeral::Read { pod, object: readable, refused } = match ephemeral::read(object) {
            Ok(read) => read,
            Err(error) => return self.refuse(object, up, essence, &error.message).await,
        };
        if let Some(message) = services::refused(object, self.node.plan.link.ip()) {
            return self.refuse(object, up, essence, &message).await;
        }
        let around = match self.surroundings(up) {
            Ok(around) => around,
            Err(message) => return later(object, &message),
        };
        let mut desired = self.desired.clone();
        let deleted = desired.wait_for(|desired| {
            desired.gone
                || desired
                    .object
                    .pointer("/metadata/deletionTimestamp")
                    .is_some_and(|t| !t.is_null())
        });
        let images = images::ensure(&self.context, &self.node, up, &readable, &self.uid);
        let resolved = data::resolve(&self.context.kube, &pod, around, &mut self.tokens);
        // Nothing of a pod starts before NetworkPolicies decide about its address.
        let let_in =
            self.context.policies.let_in(&self.uid, self.address, self.node.plan.link.ip());
        let ready = async { tokio::join!(images, resolved, up.agent(), let_in) };
        let (images, resolved, agent, ()) = tokio::select! {
            ready = ready => ready,
            // Seen in the next step.
            _ = deleted => return Next::Until(Instant::now()),
        };
        let images = match images {
            Ok(images) => images,
            Err(error) => return self.without_image(object, &error).await,
        };
        let retry = self.without_ephemeral(object, refused, &images.missing).await;
        let mut resolved = match resolved {
            Ok(resolved) => resolved,
            Err(problem) => return self.without_data(object, problem).await,
        };
        self.problem = None;
        resolved.data.resolv_conf = resolver::of(&pod);
        let given = Given { images: images.there, data: resolved.data, until: resolved.until };
        match self.send(object, around, agent, &given).await {
            Ok(()) => {
                // What is not all there is given again.
                let essence = if retry.is_some() { Value::Null } else { essence };
                let until = retry.or(given.until);
                self.applied = Some(Applied { up: Arc::clone(up), essence, given: Some(given) });
                until.map_or(Next::Wait, Next::Until)
            }
            Err(Refused::Pod(message)) => self.refuse(object, up, essence, &message).await,
            Err(Refused::ForNow(message)) => later(object, &message),
        }
    }

    /// Looks at what the pod uses of other objects again, once it is time.
    async fn refresh(&mut self, object: &Value, up: &Arc<Up>) -> Next {
        let Some(given) = self.applied.as_mut().and_then(|applied| applied.given.take()) else {
            return Next::Wait;
        };
        let (given, next) = self.refreshed(object, up, given).await;
        if let Some(applied) = &mut self.applied {
            applied.given = Some(given);
        }
        next
    }

    async fn refreshed(&mut self, object: &Value, up: &Arc<Up>, mut given: Given) -> (Given, Next) {
        let Some(time) = given.until else { return (given, Next::Wait) };
        if time > Instant::now() {
            return (given, Next::Until(time));
        }
        let retry = Instant::now() + RETRY;
        given.until = Some(retry);
        let (Ok(read), Ok(around)) = (ephemeral::read(object), self.surroundings(up)) else {
            return (given, Next::Until(retry));
        };
        match data::resolve(&self.context.kube, &read.pod, around, &mut self.tokens).await {
            Ok(mut resolved) => {
                resolved.data.resolv_conf.clone_from(&given.data.resolv_conf);
                if resolved.data != given.data {
                    let before = std::mem::replace(&mut given.data, resolved.data);
                    let sent = self.send(object, around, up.agent().await, &given).await;
                    if let Err(Refused::Pod(message) | Refused::ForNow(message)) = sent {
                        tracing::warn!("{}: {message}", path(object));
                        given.data = before;
                        return (given, Next::Until(retry));
                    }
                }
                given.until = resolved.until;
            }
            // What the pod has it keeps, as with a kubelet.
            Err(problem) => tracing::debug!("{}: {problem}", path(object)),
        }
        let next = given.until.map_or(Next::Wait, Next::Until);
        (given, next)
    }

    fn surroundings(&mut self, up: &Up) -> Result<Surroundings, String> {
        let pod_ip = self.address().map_err(|error| error.to_string())?;
        Ok(Surroundings {
            pod_ip: Some(pod_ip),
            node_ip: Some(self.node.plan.link.ip()),
            cpus: up.info.cpus,
            memory: up.allocatable_memory(),
        })
    }

    async fn send(
        &self,
        object: &Value,
        around: Surroundings,
        agent: Result<AgentClient, ClientError>,
        given: &Given,
    ) -> Result<(), Refused> {
        let later = |error: ClientError| Refused::ForNow(error.to_string());
        let assignment = PodAssignment {
            pod: ephemeral::with_images(object, &given.images),
            images: given.images.clone(),
            ip: around.pod_ip,
            data: given.data.clone(),
            previous: self.previous.clone().or_else(|| status::from_object(object, &self.uid)),
        };
        agent.map_err(later)?.apply_pod(assignment).await.map_err(|error| match error {
            ClientError::Agent(error)
                if matches!(error.reason, ErrorReason::Unsupported | ErrorReason::BadRequest) =>
            {
                Refused::Pod(error.message)
            }
            error => later(error),
        })
    }

    async fn refuse(
        &mut self,
        object: &Value,
        up: &Arc<Up>,
        essence: Value,
        message: &str,
    ) -> Next {
        events::pod(&self.context, object, "Warning", "Unsupported", message);
        self.write(object, status::failed(object, "Unsupported", message)).await;
        self.applied = Some(Applied { up: Arc::clone(up), essence, given: None });
        Next::Wait
    }

    async fn without_image(&mut self, object: &Value, error: &images::ImageError) -> Next {
        let time = self.pull.failed(object, error.is_permanent());
        let reason = self.pull.reason(error);
        if reason == "ImagePullBackOff" {
            let message = format!("Back-off pulling image {:?}: {error}", error.image);
            events::pod(&self.context, object, "Normal", "BackOff", &message);
        }
        let patch = status::waiting(object, &error.container, reason, &error.to_string());
        self.write(object, patch).await;
        Next::Until(time)
    }

    /// Tells of ephemeral containers that are not there, since an agent would have `refused` them or
    /// their images are `missing`: until when the others wait for the latter.
    async fn without_ephemeral(
        &mut self,
        object: &Value,
        refused: Vec<Value>,
        missing: &[images::ImageError],
    ) -> Option<Instant> {
        let before = std::mem::replace(&mut self.missing, refused);
        let mut until = None;
        match missing.first() {
            Some(first) => until = Some(self.pull.failed(object, first.is_permanent())),
            None => self.pull = images::Backoff::default(),
        }
        for error in missing {
            let (reason, why) = (self.pull.reason(error), error.to_string());
            self.missing.push(status::ephemeral(&error.container, &error.image, reason, &why));
        }
        if self.missing != before
            && let Some(last) = self.previous.clone()
        {
            self.note(object, &last).await;
        }
        until
    }

    async fn without_data(&mut self, object: &Value, problem: data::Problem) -> Next {
        if self.problem.as_ref() != Some(&problem) {
            events::pod(&self.context, object, "Warning", "FailedMount", &problem.to_string());
        }
        self.problem = Some(problem);
        let patch = status::waiting(object, "", "ContainerCreating", "");
        self.write(object, patch).await;
        Next::Until(Instant::now() + RETRY)
    }
}

fn later(object: &Value, message: &str) -> Next {
    tracing::warn!("{}: {message}", path(object));
    Next::Until(Instant::now() + RETRY)
}
