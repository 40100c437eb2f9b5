//! The life of one pod: sandbox, init containers in order, sidecars, containers, and the way down.

use std::{cell::RefCell, convert::Infallible, rc::Rc, time::Duration};

use bulkhead_agent_protocol::{
    PodEvent,
    pod::{Container, RestartPolicy},
    status::PodPhase,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    board::{Board, List, Slot, is_sidecar, waiting_state},
    check,
    container::{ContainerTask, Live, Outcome, Stop},
    hub::Hub,
};
use crate::runtime::{PodContext, Runtime};

/// A pod's default `terminationGracePeriodSeconds`.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Between tries to make a sandbox.
const SANDBOX_RETRY: Duration = Duration::from_secs(5);

/// How often volumes with a limit are measured.
const USAGE_PERIOD: Duration = Duration::from_secs(10);
/// What an evicted pod's containers get.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Why a pod ends before its containers do.
struct End {
    reason: &'static str,
    message: String,
    grace: Duration,
}

/// Containers of a pod that can be spoken to, in the order init containers, containers, ephemeral
/// containers.
pub(crate) type Lives = RefCell<Vec<(String, Rc<RefCell<Live>>)>>;

/// What running a pod takes.
pub(crate) struct PodTask<R> {
    pub(crate) runtime: Rc<R>,
    pub(crate) context: Rc<PodContext>,
    pub(crate) board: Rc<Board>,
    pub(crate) lives: Rc<Lives>,
    /// The ephemeral containers that there are by now.
    pub(crate) added: watch::Receiver<Vec<Container>>,
    pub(crate) hub: Rc<Hub>,
    /// Ends every container: set on removal, on shutdown and past the active deadline.
    pub(crate) stop: watch::Sender<Stop>,
    /// Set when the pod must be forgotten too.
    pub(crate) remove: watch::Receiver<bool>,
}

struct Sidecar {
    stop: watch::Sender<Stop>,
    task: JoinHandle<Outcome>,
}

impl<R: Runtime> PodTask<R> {
    /// Runs the pod until it is removed.
    pub(crate) async fn run(mut self) {
        let (mut sidecars, mut ephemeral) = (Vec::new(), Vec::new());
        {
            let (prepared, is_prepared) = watch::channel(false);
            let containers = self.containers(&mut sidecars, &prepared);
            let added = self.ephemeral(&mut ephemeral, is_prepared);
            tokio::pin!(containers);
            tokio::select! {
                () = &mut containers => {}
                never = added => match never {},
                end = self.must_end() => {
                    self.board.update(|status| {
                        status.phase = PodPhase::Failed;
                        status.reason = Some(end.reason.to_owned());
                        status.message = Some(end.message);
                    });
                    stop_by(&self.stop, Instant::now() + end.grace);
                    containers.await;
                }
            }
        }
        if !ephemeral.is_empty() {
            // They look at what has ended now.
            stop_by(&self.stop, Instant::now() + self.grace());
        }
        self.stop_sidecars(sidecars).await;
        for task in ephemeral {
            // A task ends by returning: panics abort the process.
            let _ = task.await;
        }
        self.runtime.release_pod(&self.context).await;
        // Fails only when the pods' keeper is gone: then nobody can ask for the removal.
        if self.remove.wait_for(|remove| *remove).await.is_ok() {
            self.runtime.forget_pod(self.context.uid()).await;
            let last = Box::new(self.board.last());
            self.hub.publish(PodEvent::Removed { uid: self.context.uid().to_owned(), last });
        }
    }

    /// Waits for what ends the pod although its containers would go on.
    async fn must_end(&self) -> End {
        let spec = &self.context.pod.spec;
        let deadline = async {
            match spec.active_deadline_seconds {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let limited = spec.volumes.iter().any(|volume| {
            volume.empty_dir.as_ref().is_some_and(|empty_dir| empty_dir.size_limit.is_some())
        });
        let overfull = async {
            if !limited {
                std::future::pending::<()>().await;
            }
            loop {
                sleep(USAGE_PERIOD).await;
                if let Some(message) = self.runtime.overfull(&self.context).await {
                    return message;
                }
            }
        };
        tokio::select! {
            () = deadline => End {
                reason: "DeadlineExceeded",
                message: String::from(
                    "Pod was active on the node longer than the specified deadline",
                ),
                grace: self.grace(),
            },
            message = overfull => End { reason: "Evicted", message, grace: EVICTION_GRACE },
        }
    }

    fn grace(&self) -> Duration {
        self.context
            .pod
            .spec
            .termination_grace_period_seconds
            .map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(seconds.into()))
    }

    /// Sandbox, init containers, containers; returns when the last of the containers is over.
    /// `prepared` is set when they can be started.
    async fn containers(&self, sidecars: &mut Vec<Sidecar>, prepared: &watch::Sender<bool>) {
        if !self.sandbox().await {
            return;
        }
        prepared.send_replace(true);
        let pod = &self.context.pod;
        for (index, container) in pod.spec.init_containers.iter().enumerate() {
            let slot = Slot { list: List::Init, index };
            if is_sidecar(container) {
                let (stop, stopped) = watch::channel(None);
                let (started, mut has_started) = watch::channel(false);
                let task = self.container(container, slot, RestartPolicy::Always, stopped, started);
                sidecars.push(Sidecar { stop, task: tokio::task::spawn_local(task.run()) });
                let mut stop = self.stop.subscribe();
                tokio::select! {
                    _ = has_started.wait_for(|started| *started) => {}
                    _ = stop.wait_for(Option::is_some) => return,
                }
                continue;
            }
            let policy = match pod.spec.restart_policy {
                RestartPolicy::Never => RestartPolicy::Never,
                RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            };
            let task = self.container(
                container,
                slot,
                policy,
                self.stop.subscribe(),
                watch::Sender::new(false),
            );
            match task.run().await {
                Outcome::Ended(0) => {}
                Outcome::Ended(_) | Outcome::Stopped => return,
            }
        }
        let tasks: Vec<_> = pod
            .spec
            .containers
            .iter()
            .enumerate()
            .map(|(index, container)| {
                let slot = Slot { list: List::Main, index };
                let started = watch::Sender::new(false);
                let stop = self.stop.subscribe();
                let task = self.container(container, slot, pod.spec.restart_policy, stop, started);
                tokio::task::spawn_local(task.run())
            })
            .collect();
        for task in tasks {
            // A task ends by returning: panics abort the process.
            let _ = task.await;
        }
    }

    /// Starts ephemeral containers as they are added, once the pod `is_prepared`.
    async fn ephemeral(
        &self,
        started: &mut Vec<JoinHandle<Outcome>>,
        mut is_prepared: watch::Receiver<bool>,
    ) -> Infallible {
        let mut added = self.added.clone();
        // Fails only when the pods' keeper is gone: then nobody adds any.
        let _ = is_prepared.wait_for(|prepared| *prepared).await;
        let mut seen = 0;
        loop {
            let all = added.borrow_and_update().clone();
            for (index, container) in all.iter().enumerate().skip(seen) {
                seen = index + 1;
                let slot = Slot { list: List::Ephemeral, index };
                if let Err(why) = check::ephemeral(&self.context.pod, container) {
                    let why = waiting_state("CreateContainerConfigError", Some(why));
                    self.board.update_container(slot, |status| status.state = why);
                    continue;
                }
                let (stop, has_started) = (self.stop.subscribe(), watch::Sender::new(false));
                let never = RestartPolicy::Never;
                let task = self.container(container, slot, never, stop, has_started);
                started.push(tokio::task::spawn_local(task.run()));
            }
            if added.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn container(
        &self,
        container: &Container,
        slot: Slot,
        policy: RestartPolicy,
        stop: watch::Receiver<Stop>,
        started: watch::Sender<bool>,
    ) -> ContainerTask<R> {
        let lives = self.lives.borrow();
        let live = lives
            .iter()
            .find(|(name, _)| *name == container.name)
            .map(|(_, live)| Rc::clone(live))
            .unwrap_or_default();
        ContainerTask {
            runtime: Rc::clone(&self.runtime),
            context: Rc::clone(&self.context),
            container: container.clone(),
            slot,
            policy,
            board: Rc::clone(&self.board),
            live,
            stop,
            started,
        }
    }

    /// Prepares the pod, again and again; `false` when a stop came first.
    async fn sandbox(&self) -> bool {
        let mut stop = self.stop.subscribe();
        loop {
            if stop.borrow().is_some() {
                return false;
            }
            let Err(error) = self.runtime.prepare_pod(&self.context).await else { return true };
            let message = format!("failed to create the pod's sandbox: {error}");
            self.board.update(|status| {
                let all =
                    status.init_container_statuses.iter_mut().chain(&mut status.container_statuses);
                for container in all {
                    container.state = waiting_state("ContainerCreating", Some(message.clone()));
                }
            });
            tokio::select! {
                () = sleep(SANDBOX_RETRY) => {}
                _ = stop.wait_for(Option::is_some) => return false,
            }
        }
    }

    /// Stops sidecars, the last started first, within what is left of the pod's grace.
    async fn stop_sidecars(&self, sidecars: Vec<Sidecar>) {
        let deadline = (*self.stop.borrow()).unwrap_or_else(|| Instant::now() + self.grace());
        for sidecar in sidecars.into_iter().rev() {
            sidecar.stop.send_replace(Some(deadline));
            let mut shortened = self.stop.subscribe();
            shortened.mark_unchanged();
            let mut task = sidecar.task;
            loop {
                tokio::select! {
                    _ = &mut task => break,
                    Ok(()) = shortened.changed() => {
                        let by = *shortened.borrow_and_update();
                        sidecar.stop.send_replace(by.or(Some(deadline)));
                    }
                }
            }
        }
    }
}

/// Brings a stop forward to `deadline`, never later than it was.
pub(crate) fn stop_by(stop: &watch::Sender<Stop>, deadline: Instant) {
    stop.send_modify(|stop| *stop = Some(stop.map_or(deadline, |earlier| earlier.min(deadline))));
}
