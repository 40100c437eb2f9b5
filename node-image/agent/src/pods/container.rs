//! The life of one container: start, end, back-off, start again, until its policy or a stop says
//! that it is over.

use std::{cell::RefCell, pin::pin, rc::Rc, time::Duration};

use bulkhead_agent_protocol::{
    pod::{Container, RestartPolicy},
    status::{ContainerState, Running, Terminated},
};
use futures_util::future::OptionFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    action::Action,
    backoff::BackOff,
    board::{Board, List, Slot, waiting_state},
    lifecycle::DEFAULT_GRACE,
    probe::Prober,
};
use crate::{
    clock,
    runtime::{Exit, ExitFuture, Instance, PodContext, Runtime, RuntimeError},
};

/// When a container must be dead: it is asked at once and killed at this time.
pub(crate) type Stop = Option<Instant>;

/// What a container gets after the signal when its hook took all of its grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// How far a container's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody wants it.
    Runs,
    /// Its hook runs.
    Hook,
    /// It has the signal.
    Asked,
    /// It has had it only when its grace period was over.
    Overtime,
}

/// How a container's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this exit code; its policy does not restart it.
    Ended(i32),
    /// It was told to stop.
    Stopped,
}

/// The running instance, for exec, attach and logs.
#[derive(Default)]
pub(crate) struct Live {
    /// The instance's id while it runs.
    pub(crate) id: Option<String>,
    /// When making that began: what it has used since is told by its cgroup.
    pub(crate) since: Option<Instant>,
    /// Its streams while it runs.
    pub(crate) io: Option<Rc<crate::streams::ContainerIo>>,
    /// The present or last instance's log.
    pub(crate) log: Option<Rc<crate::logs::LogState>>,
    /// The log of the one before.
    pub(crate) previous_log: Option<Rc<crate::logs::LogState>>,
}

/// What running a container takes.
pub(crate) struct ContainerTask<R> {
    pub(crate) runtime: Rc<R>,
    pub(crate) context: Rc<PodContext>,
    pub(crate) container: Container,
    pub(crate) slot: Slot,
    pub(crate) policy: RestartPolicy,
    pub(crate) board: Rc<Board>,
    pub(crate) live: Rc<RefCell<Live>>,
    pub(crate) stop: watch::Receiver<Stop>,
    /// Set once it has started for the first time.
    pub(crate) started: watch::Sender<bool>,
}

impl<R: Runtime> ContainerTask<R> {
    /// Runs the container until it is over.
    pub(crate) async fn run(mut self) -> Outcome {
        let mut back_off = BackOff::default();
        let ended = self.board.update_container(self.slot, |status| {
            status.state.terminated.as_ref().map(|end| end.exit_code)
        });
        if let Some(code) = ended.flatten() {
            // In an earlier boot; it is not to run again.
            return Outcome::Ended(code);
        }
        loop {
            if self.stop.borrow().is_some() {
                self.set_state(waiting_state("ContainerCreating", None));
                return Outcome::Stopped;
            }
            let attempt = self
                .board
                .update_container(self.slot, |status| status.restart_count)
                .unwrap_or_default();
            let begun = Instant::now();
            match self.runtime.start(&self.context, &self.container, attempt).await {
                Ok(instance) => {
                    let (exit, stopped) = self.supervise(instance, begun).await;
                    if stopped {
                        return Outcome::Stopped;
                    }
                    if self.is_over(exit.code) {
                        return Outcome::Ended(exit.code);
                    }
                }
                Err(RuntimeError::Config(message)) => {
                    self.set_state(waiting_state("CreateContainerConfigError", Some(message)));
                    let mut delay = back_off.after(Duration::ZERO);
                    if delay.is_zero() {
                        delay = back_off.after(Duration::ZERO);
                    }
                    let mut data = self.context.data.subscribe();
                    tokio::select! {
                        stopped = self.pause(delay) => if stopped {
                            return Outcome::Stopped;
                        },
                        // What was missing may be there now.
                        Ok(()) = data.changed() => {}
                    }
                    continue;
                }
                Err(RuntimeError::Start(message)) => {
                    let now = clock::now_seconds();
                    self.end(Terminated {
                        exit_code: 128,
                        reason: String::from("StartError"),
                        message: Some(message),
                        started_at: now.clone(),
                        finished_at: now,
                        container_id: None,
                    });
                    if self.is_over(128) {
                        return Outcome::Ended(128);
                    }
                }
            }
            let delay = back_off.after(begun.elapsed());
            self.restarting(delay);
            if !delay.is_zero() && self.pause(delay).await {
                return Outcome::Stopped;
            }
        }
    }

    fn is_over(&self, code: i32) -> bool {
        match self.policy {
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => code == 0,
            RestartPolicy::Never => true,
        }
    }

    /// Watches a running instance to its end; says whether that was a stop's doing.
    async fn supervise(&mut self, instance: Instance, begun: Instant) -> (Exit, bool) {
        let Instance { id, mut exit, io, log } = instance;
        let started_at = clock::now_seconds();
        {
            let mut live = self.live.borrow_mut();
            live.previous_log = live.log.take();
            live.id = Some(id.clone());
            live.since = Some(begun);
            live.io = io;
            live.log = log;
        }
        self.board.update_container(self.slot, |status| {
            let running = Some(Running { started_at: started_at.clone() });
            status.state = ContainerState { running, ..ContainerState::default() };
            status.container_id = Some(format!("bulkhead://{id}"));
        });
        let (exit, asked) = self.follow(&id, &mut exit).await;
        {
            let mut live = self.live.borrow_mut();
            live.id = None;
            live.io = None;
        }
        self.runtime.remove(&id).await;
        let reason = match exit {
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            Exit { .. } => "Error",
        };
        self.end(Terminated {
            exit_code: exit.code,
            reason: reason.to_owned(),
            message: exit.message.clone(),
            started_at,
            finished_at: clock::now_seconds(),
            container_id: Some(format!("bulkhead://{id}")),
        });
        (exit, asked)
    }

    /// Waits for an instance's end, and brings it about: for the pod's stop, or for a probe.
    async fn follow(&mut self, id: &str, exit: &mut ExitFuture) -> (Exit, bool) {
        let prober = Prober {
            runtime: Rc::clone(&self.runtime),
            context: Rc::clone(&self.context),
            container: self.container.clone(),
            slot: self.slot,
            board: Rc::clone(&self.board),
            id: id.to_owned(),
            started: self.started.clone(),
        };
        let mut probes = pin!(prober.run());
        let mut stage = Stage::Runs;
        let mut deadline: Stop = None;
        let mut hook = pin!(OptionFuture::from(None));
        loop {
            let wanted = *self.stop.borrow_and_update();
            if let Some(wanted) = wanted
                && stage != Stage::Overtime
            {
                deadline = Some(deadline.map_or(wanted, |earlier| earlier.min(wanted)));
            }
            if let Some(deadline) = deadline
                && stage == Stage::Runs
            {
                hook.set(OptionFuture::from(self.pre_stop(id, deadline)));
                stage = Stage::Hook;
            }
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                exit = &mut *exit => return (exit, self.stop.borrow().is_some()),
                kill = &mut probes, if stage == Stage::Runs => {
                    let name = &self.container.name;
                    let message = format!("Container {name} {}, will be restarted", kill.why);
                    self.board.notice(false, "Killing", &message);
                    deadline = Some(Instant::now() + kill.grace.unwrap_or_else(|| self.grace()));
                }
                _ = &mut hook, if stage == Stage::Hook => {
                    self.runtime.terminate(id);
                    stage = Stage::Asked;
                }
                () = due => {
                    if stage == Stage::Hook {
                        self.runtime.terminate(id);
                        stage = Stage::Overtime;
                        deadline = Some(Instant::now() + LEAST_GRACE);
                        continue;
                    }
                    self.runtime.kill(id);
                    let exit = exit.await;
                    return (exit, self.stop.borrow().is_some());
                }
                changed = self.stop.changed() => if changed.is_err() {
                    let exit = exit.await;
                    return (exit, true);
                },
            }
        }
    }

    /// The hook before the container is asked to stop, if it has one and there is time.
    fn pre_stop(&self, id: &str, deadline: Instant) -> Option<impl Future<Output = ()> + use<R>> {
        let hook = self.container.lifecycle.as_ref()?.pre_stop.as_ref()?;
        let action = Action::of_hook(&self.container, hook).ok()?;
        if deadline <= Instant::now() {
            return None;
        }
        let (runtime, context) = (Rc::clone(&self.runtime), Rc::clone(&self.context));
        let (board, id) = (Rc::clone(&self.board), id.to_owned());
        Some(async move {
            if let Err(problem) = runtime.act(&context, &id, &action).await {
                board.notice(true, "FailedPreStopHook", &format!("PreStopHook failed: {problem}"));
            }
        })
    }

    fn grace(&self) -> Duration {
        let seconds = self.context.pod.spec.termination_grace_period_seconds;
        seconds.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(seconds.into()))
    }

    fn end(&self, terminated: Terminated) {
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        self.set_state(state);
    }

    fn set_state(&self, state: ContainerState) {
        self.board.update_container(self.slot, |status| {
            // What has ended stays known as such when a stop finds it waiting.
            if status.state.terminated.is_some() && state.terminated.is_none() {
                return;
            }
            status.ready = self.slot.list == List::Init
                && state.terminated.as_ref().is_some_and(|end| end.exit_code == 0);
            status.started = false;
            status.state = state;
        });
    }

    /// The ended instance becomes the last one; the container waits for its next.
    fn restarting(&self, delay: Duration) {
        self.board.update_container(self.slot, |status| {
            let ended = std::mem::take(&mut status.state);
            if ended.terminated.is_some() {
                status.last_state = ended;
                status.restart_count += 1;
            }
            status.state = if delay.is_zero() {
                waiting_state("ContainerCreating", None)
            } else {
                let message = format!(
                    "back-off {}s restarting failed container={}",
                    delay.as_secs(),
                    status.name
                );
                waiting_state("CrashLoopBackOff", Some(message))
            };
        });
    }

    /// Waits; says whether a stop came first.
    async fn pause(&mut self, delay: Duration) -> bool {
        tokio::select! {
            () = sleep(delay) => false,
            _ = self.stop.wait_for(Option::is_some) => true,
        }
    }
}
