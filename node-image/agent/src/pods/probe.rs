//! A running container's probes, with a kubelet's rules: startup gates the others, readiness
//! starts as failed, liveness as passed.

use std::{rc::Rc, time::Duration};

use bulkhead_agent_protocol::{pod::Container, probe::Probe};
use tokio::time::{Instant, sleep, timeout};

use super::{
    action::Action,
    board::{Board, List, Slot},
};
use crate::runtime::{PodContext, Runtime};

/// Why a container must be killed, and by when it must be dead.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) why: String,
    pub(super) grace: Option<Duration>,
}

/// What looks after one running instance.
pub(super) struct Prober<R> {
    pub(super) runtime: Rc<R>,
    pub(super) context: Rc<PodContext>,
    pub(super) container: Container,
    pub(super) slot: Slot,
    pub(super) board: Rc<Board>,
    pub(super) id: String,
    /// Told when the container has started in the eyes of its probe.
    pub(super) started: tokio::sync::watch::Sender<bool>,
}

impl<R: Runtime> Prober<R> {
    /// Runs the hook after the start, then the probes; returns only to have the container killed.
    pub(super) async fn run(self) -> Kill {
        if let Err(kill) = self.post_start().await {
            return kill;
        }
        if let Some(probe) = &self.container.startup_probe
            && let Some(kill) = self.watch("Startup", probe).await
        {
            return kill;
        }
        // Readiness says whether a pod serves, which ephemeral containers have no part in.
        let ready = self.container.readiness_probe.is_none() && self.slot.list != List::Ephemeral;
        self.board.update_container(self.slot, |status| {
            status.started = true;
            status.ready = ready;
        });
        self.started.send_replace(true);
        let liveness = async {
            match &self.container.liveness_probe {
                Some(probe) => self.watch("Liveness", probe).await,
                None => None,
            }
        };
        let readiness = async {
            if let Some(probe) = &self.container.readiness_probe {
                self.watch("Readiness", probe).await;
            }
            std::future::pending().await
        };
        let kill = async {
            match liveness.await {
                Some(kill) => kill,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            kill = kill => kill,
            never = readiness => never,
        }
    }

    async fn post_start(&self) -> Result<(), Kill> {
        let hook = self.container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ran = match Action::of_hook(&self.container, hook) {
            Ok(action) => self.runtime.act(&self.context, &self.id, &action).await,
            Err(problem) => Err(problem),
        };
        ran.map_err(|problem| {
            let message = format!("PostStartHook failed: {problem}");
            self.board.notice(true, "FailedPostStartHook", &message);
            Kill { why: String::from("FailedPostStartHook"), grace: None }
        })
    }

    /// Probes for as long as it takes: a startup probe until it passes (`None`), a liveness probe
    /// until it fails, a readiness probe for ever.
    async fn watch(&self, kind: &'static str, probe: &Probe) -> Option<Kill> {
        // The pod was accepted: its probes have actions.
        let action = Action::of_probe(&self.container, probe).ok()?;
        let seconds = |value: Option<u32>, default: u32| {
            Duration::from_secs(value.filter(|value| *value > 0).unwrap_or(default).into())
        };
        let period = seconds(probe.period_seconds, 10);
        let limit = seconds(probe.timeout_seconds, 1);
        let threshold = |value: Option<u32>, default| value.filter(|n| *n > 0).unwrap_or(default);
        let (passes, failures) =
            (threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));
        sleep(Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).into())).await;
        let mut in_a_row = (0, 0);
        loop {
            let begun = Instant::now();
            let acted = timeout(limit, self.runtime.act(&self.context, &self.id, &action)).await;
            let outcome = acted.unwrap_or_else(|_| {
                Err(format!("command timed out: no answer within {} s", limit.as_secs()))
            });
            match outcome {
                Ok(()) => {
                    in_a_row = (in_a_row.0 + 1, 0);
                    match kind {
                        "Startup" if in_a_row.0 >= passes => return None,
                        "Readiness" if in_a_row.0 == passes => self.set_ready(true),
                        _ => {}
                    }
                }
                Err(problem) => {
                    in_a_row = (0, in_a_row.1 + 1);
                    let message = format!("{kind} probe failed: {problem}");
                    self.board.notice(true, "Unhealthy", &message);
                    match kind {
                        "Readiness" if in_a_row.1 == failures => self.set_ready(false),
                        "Readiness" => {}
                        _ if in_a_row.1 >= failures => return Some(self.kill(kind, probe)),
                        _ => {}
                    }
                }
            }
            sleep(period.saturating_sub(begun.elapsed())).await;
        }
    }

    fn set_ready(&self, ready: bool) {
        self.board.update_container(self.slot, |status| status.ready = ready);
    }

    fn kill(&self, kind: &str, probe: &Probe) -> Kill {
        let kind = kind.to_ascii_lowercase();
        Kill {
            why: format!("failed {kind} probe"),
            grace: probe
                .termination_grace_period_seconds
                .map(|seconds| Duration::from_secs(seconds.into())),
        }
    }
}
