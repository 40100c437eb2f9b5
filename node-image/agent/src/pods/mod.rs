//! The node's pods: a state machine per pod, over a [`Runtime`], with a kubelet's rules.

pub(crate) mod action;
mod backoff;
mod board;
mod check;
mod container;
pub(crate) mod env;
mod hub;
mod lifecycle;
mod probe;
pub(crate) mod resources;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use bulkhead_agent_protocol::{
    AgentError, ContainerImage, ErrorReason, Pod, PodAssignment, PodData, PodEvent, PodStatus,
    pod::{Container, Volume},
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::Instant,
};

use self::{
    board::Board,
    container::{Live, Stop},
    hub::Hub,
    lifecycle::{Lives, PodTask, stop_by},
};
use crate::runtime::{PodContext, Runtime};

/// Pods that one node takes.
const MAX_PODS: usize = 512;

struct Entry {
    context: Rc<PodContext>,
    board: Rc<Board>,
    lives: Rc<Lives>,
    /// The ephemeral containers.
    added: watch::Sender<Vec<Container>>,
    stop: watch::Sender<Stop>,
    remove: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Entry {
    /// Takes note of those ephemeral containers that are new.
    fn add(&self, containers: &[Container], mut images: BTreeMap<String, ContainerImage>) {
        for container in containers {
            let name = &container.name;
            if self.added.borrow().iter().any(|known| known.name == *name) {
                continue;
            }
            let image = images.remove(name);
            self.board.add(container, image.as_ref().map(reference_and_id).unwrap_or_default());
            self.context.images.borrow_mut().extend(image.map(|image| (name.clone(), image)));
            self.lives.borrow_mut().push((name.clone(), Rc::default()));
            self.added.send_modify(|all| all.push(container.clone()));
        }
    }
}

fn reference_and_id(image: &ContainerImage) -> (String, String) {
    (image.reference.clone(), image.id.clone())
}

/// All pods of this node.
pub(crate) struct Pods<R> {
    runtime: Rc<R>,
    hub: Rc<Hub>,
    entries: Rc<RefCell<BTreeMap<String, Entry>>>,
}

impl<R: Runtime> Pods<R> {
    pub(crate) fn new(runtime: Rc<R>) -> Self {
        Self { runtime, hub: Rc::new(Hub::new()), entries: Rc::default() }
    }

    /// Runs a pod, unless it is known already.
    ///
    /// # Errors
    /// What the agent cannot do, by the field's path.
    pub(crate) fn apply(&self, assignment: PodAssignment) -> Result<(), AgentError> {
        let pod = Rc::new(check::accept(&assignment)?);
        let uid = pod.metadata.uid.clone();
        let mut entries = self.entries.borrow_mut();
        if let Some(known) = entries.get(&uid) {
            if known.context.pod.spec != pod.spec {
                changed(&known.context.pod, &pod)?;
            }
            self.refresh(&known.context, assignment.data)?;
            known.add(&pod.spec.ephemeral_containers, assignment.images);
            return Ok(());
        }
        if entries.len() >= MAX_PODS {
            let message = format!("the node runs {MAX_PODS} pods already");
            return Err(AgentError { reason: ErrorReason::Conflict, message });
        }
        let images = assignment.images;
        let board = Rc::new(Board::new(
            Rc::clone(&pod),
            Rc::clone(&self.hub),
            &|name| images.get(name).map(reference_and_id).unwrap_or_default(),
            assignment.previous.as_ref(),
        ));
        let lives =
            pod.spec.all_containers().map(|container| (container.name.clone(), Rc::default()));
        let lives: Rc<Lives> = Rc::new(RefCell::new(lives.collect()));
        let added = watch::Sender::new(pod.spec.ephemeral_containers.clone());
        let (remove, removed) = watch::channel(false);
        let stop = watch::Sender::new(None);
        let over = assignment.previous.and_then(|previous| board::end_with_node(&pod, previous));
        if let Some(previous) = over {
            board.update(|status| *status = PodStatus { uid: uid.clone(), ..previous });
            stop.send_replace(Some(Instant::now()));
        }
        let context = Rc::new(PodContext {
            pod,
            images: RefCell::new(images),
            ip: assignment.ip,
            data: watch::Sender::new(assignment.data),
        });
        let task = PodTask {
            runtime: Rc::clone(&self.runtime),
            context: Rc::clone(&context),
            board: Rc::clone(&board),
            lives: Rc::clone(&lives),
            added: added.subscribe(),
            hub: Rc::clone(&self.hub),
            stop: stop.clone(),
            remove: removed,
        };
        let (all, key) = (Rc::clone(&self.entries), uid.clone());
        let task = tokio::task::spawn_local(async move {
            task.run().await;
            all.borrow_mut().remove(&key);
        });
        entries.insert(uid, Entry { context, board, lives, added, stop, remove, task });
        Ok(())
    }

    /// Takes note of what other objects hold now.
    fn refresh(&self, context: &PodContext, data: PodData) -> Result<(), AgentError> {
        let before = context.data.send_replace(data);
        let changed = {
            let now = context.data.borrow();
            let differs = |volume: &&Volume| {
                now.volumes.get(&volume.name) != before.volumes.get(&volume.name)
            };
            context.pod.spec.volumes.iter().filter(differs).collect::<Vec<_>>()
        };
        for volume in changed {
            self.runtime.refresh_volume(context, volume).map_err(|error| AgentError {
                reason: ErrorReason::Internal,
                message: format!("volume {}: {error}", volume.name),
            })?;
        }
        Ok(())
    }

    /// Stops a pod and forgets it. A pod that is not known is gone already, and reported so.
    pub(crate) fn remove(&self, uid: &str, grace: Duration) {
        if let Some(entry) = self.entries.borrow().get(uid) {
            stop_by(&entry.stop, Instant::now() + grace);
            entry.remove.send_replace(true);
            return;
        }
        let (runtime, hub, uid) = (Rc::clone(&self.runtime), Rc::clone(&self.hub), uid.to_owned());
        tokio::task::spawn_local(async move {
            // Volumes and logs of an earlier boot may be left.
            runtime.forget_pod(&uid).await;
            let last = Box::new(PodStatus { uid: uid.clone(), ..PodStatus::default() });
            hub.publish(PodEvent::Removed { uid, last });
        });
    }

    /// All statuses, and every event from now on.
    pub(crate) fn watch(&self) -> (Vec<PodStatus>, broadcast::Receiver<PodEvent>) {
        self.hub.watch()
    }

    /// A container's handle for exec, attach and logs.
    ///
    /// # Errors
    /// [`ErrorReason::NotFound`].
    pub(crate) fn live(&self, uid: &str, container: &str) -> Result<Rc<RefCell<Live>>, AgentError> {
        let entries = self.entries.borrow();
        let not_found = |message| AgentError { reason: ErrorReason::NotFound, message };
        let entry = entries.get(uid).ok_or_else(|| not_found(format!("no pod {uid} here")))?;
        let lives = entry.lives.borrow();
        lives
            .iter()
            .find(|(name, _)| name == container)
            .map(|(_, live)| Rc::clone(live))
            .ok_or_else(|| {
                let pod = &entry.context.pod.metadata.name;
                not_found(format!("container {container} is not in pod {pod}"))
            })
    }

    /// What a pod runs with.
    ///
    /// # Errors
    /// [`ErrorReason::NotFound`].
    pub(crate) fn context(&self, uid: &str) -> Result<Rc<PodContext>, AgentError> {
        let entries = self.entries.borrow();
        entries.get(uid).map(|entry| Rc::clone(&entry.context)).ok_or_else(|| AgentError {
            reason: ErrorReason::NotFound,
            message: format!("no pod {uid} here"),
        })
    }

    /// Every running container: pod uid, name, id, since when.
    pub(crate) fn running(&self) -> Vec<(String, String, String, Instant)> {
        let entries = self.entries.borrow();
        let running = entries.iter().flat_map(|(uid, entry)| {
            let lives = entry.lives.borrow();
            let running = lives.iter().filter_map(|(name, live)| {
                let live = live.borrow();
                Some((uid.clone(), name.clone(), live.id.clone()?, live.since?))
            });
            running.collect::<Vec<_>>()
        });
        running.collect()
    }

    /// Stops every pod, each within its own grace period and within `grace`, and waits for it.
    pub(crate) async fn stop_all(&self, grace: Duration) {
        let now = Instant::now();
        for entry in self.entries.borrow().values() {
            let own = entry.context.pod.spec.termination_grace_period_seconds;
            let own = own.map_or(lifecycle::DEFAULT_GRACE, |s| Duration::from_secs(s.into()));
            stop_by(&entry.stop, now + own.min(grace));
        }
        let over = |entry: &Entry| {
            entry.task.is_finished()
                || entry.lives.borrow().iter().all(|(_, live)| live.borrow().id.is_none())
        };
        let last = now + grace + Duration::from_secs(5);
        while !self.entries.borrow().values().all(over) && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A pod's status, if it is known.
    #[cfg(test)]
    pub(crate) fn status(&self, uid: &str) -> Option<PodStatus> {
        self.hub.watch().0.into_iter().find(|status| status.uid == uid)
    }
}

/// What of a running pod's object may change: what no agent acts upon.
fn changed(known: &Pod, new: &Pod) -> Result<(), AgentError> {
    let mut same = new.spec.clone();
    same.ephemeral_containers.clone_from(&known.spec.ephemeral_containers);
    same.tolerations.clone_from(&known.spec.tolerations);
    same.active_deadline_seconds = known.spec.active_deadline_seconds;
    same.termination_grace_period_seconds = known.spec.termination_grace_period_seconds;
    if same == known.spec && new.spec.active_deadline_seconds == known.spec.active_deadline_seconds
    {
        return Ok(());
    }
    let message = format!(
        "pod field spec: pod {} runs already, and its spec cannot be changed in place",
        known.metadata.name
    );
    Err(AgentError { reason: ErrorReason::Unsupported, message })
}
