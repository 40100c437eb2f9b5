//! What is known of one pod, and its `PodStatus` derived from that.

use std::{cell::RefCell, rc::Rc};

use bulkhead_agent_protocol::{
    Pod, PodEvent, PodStatus,
    pod::{Container, RestartPolicy},
    status::{ContainerState, ContainerStatus, PodCondition, PodPhase, Terminated, Waiting},
};

use super::{hub::Hub, resources::QosClass};
use crate::clock;

/// A list of a pod's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Init,
    Main,
    Ephemeral,
}

impl List {
    /// Its statuses.
    fn of(self, status: &PodStatus) -> &Vec<ContainerStatus> {
        match self {
            Self::Init => &status.init_container_statuses,
            Self::Main => &status.container_statuses,
            Self::Ephemeral => &status.ephemeral_container_statuses,
        }
    }

    /// As [`of`](Self::of), to change them.
    fn of_mut(self, status: &mut PodStatus) -> &mut Vec<ContainerStatus> {
        match self {
            Self::Init => &mut status.init_container_statuses,
            Self::Main => &mut status.container_statuses,
            Self::Ephemeral => &mut status.ephemeral_container_statuses,
        }
    }
}

/// Which container of the pod one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) list: List,
    pub(crate) index: usize,
}

/// The state of a pod, shared by the tasks that run it. Every change is published.
pub(crate) struct Board {
    pod: Rc<Pod>,
    hub: Rc<Hub>,
    status: RefCell<PodStatus>,
}

impl Board {
    /// A board for a pod that was accepted now, going on from an earlier boot's status.
    pub(crate) fn new(
        pod: Rc<Pod>,
        hub: Rc<Hub>,
        image_of: &dyn Fn(&str) -> (String, String),
        previous: Option<&PodStatus>,
    ) -> Self {
        let fresh = |container: &Container, list: List| {
            let image = image_of(&container.name);
            let mut before = previous
                .and_then(|status| list.of(status).iter().find(|one| one.name == container.name));
            let policy = pod.spec.restart_policy;
            if let Some(done) =
                before.filter(|before| list == List::Main && stays_ended(policy, before))
            {
                return done.clone();
            }
            before = before.filter(|before| before.container_id.is_some());
            if list == List::Ephemeral
                && let Some(before) = before
            {
                // It is not started twice.
                return ended_with_node(before.clone());
            }
            let waiting = if pod.spec.init_containers.is_empty() || list != List::Main {
                "ContainerCreating"
            } else {
                "PodInitializing"
            };
            ContainerStatus {
                state: waiting_state(waiting, None),
                last_state: before.map(end_of_earlier_boot).unwrap_or_default(),
                restart_count: before.map_or(0, |before| before.restart_count + 1),
                ..new_status(container, image)
            }
        };
        let all = |containers: &[Container], list: List| -> Vec<ContainerStatus> {
            containers.iter().map(|container| fresh(container, list)).collect()
        };
        let status = PodStatus {
            uid: pod.metadata.uid.clone(),
            phase: PodPhase::Pending,
            start_time: previous
                .and_then(|status| status.start_time.clone())
                .or_else(|| Some(clock::now_seconds())),
            init_container_statuses: all(&pod.spec.init_containers, List::Init),
            container_statuses: all(&pod.spec.containers, List::Main),
            ephemeral_container_statuses: all(&pod.spec.ephemeral_containers, List::Ephemeral),
            qos_class: Some(QosClass::of(&pod).name().to_owned()),
            ..PodStatus::default()
        };
        let board = Self { pod, hub, status: RefCell::new(status) };
        board.update(|_| ());
        board
    }

    /// Changes the status, derives phase and conditions anew, and publishes it.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut PodStatus) -> T) -> T {
        let (result, status) = {
            let mut status = self.status.borrow_mut();
            let result = change(&mut status);
            self.derive(&mut status);
            (result, status.clone())
        };
        self.hub.publish(PodEvent::Status(Box::new(status)));
        result
    }

    /// Changes one container's status.
    pub(crate) fn update_container<T>(
        &self,
        slot: Slot,
        change: impl FnOnce(&mut ContainerStatus) -> T,
    ) -> Option<T> {
        self.update(|status| slot.list.of_mut(status).get_mut(slot.index).map(change))
    }

    /// Takes note of an ephemeral container that was added, with its image's reference and id.
    pub(crate) fn add(&self, container: &Container, image: (String, String)) {
        self.update(|status| {
            let status = &mut status.ephemeral_container_statuses;
            status.push(new_status(container, image));
        });
    }

    /// Tells of something that happened to the pod.
    pub(crate) fn notice(&self, warning: bool, reason: &str, message: &str) {
        self.hub.publish(PodEvent::Notice {
            uid: self.pod.metadata.uid.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    /// The status as it is.
    pub(crate) fn status(&self) -> PodStatus {
        self.status.borrow().clone()
    }

    /// The status when the pod is removed: nothing of it runs again, whatever its policy.
    pub(crate) fn last(&self) -> PodStatus {
        let mut status = self.status();
        if matches!(status.phase, PodPhase::Pending | PodPhase::Running) {
            let well = status.container_statuses.iter().all(|container| {
                let waited = container.last_state.terminated.as_ref();
                let end = container.state.terminated.as_ref().or(waited);
                end.is_some_and(|end| end.exit_code == 0)
            });
            status.phase = if well { PodPhase::Succeeded } else { PodPhase::Failed };
        }
        status
    }

    fn derive(&self, status: &mut PodStatus) {
        let init_done = self.initialized(status);
        if status.phase != PodPhase::Failed || status.reason.is_none() {
            status.phase = self.phase(status, init_done);
        }
        let over = matches!(status.phase, PodPhase::Succeeded | PodPhase::Failed);
        let all_ready =
            !over && init_done && status.container_statuses.iter().all(|container| container.ready);
        let reason = match status.phase {
            _ if all_ready => None,
            PodPhase::Succeeded => Some("PodCompleted"),
            PodPhase::Failed => Some("PodFailed"),
            _ => Some("ContainersNotReady"),
        };
        let initialized_reason = (!init_done).then_some("ContainersNotInitialized");
        for (kind, holds, reason) in [
            ("Initialized", init_done, initialized_reason),
            ("ContainersReady", all_ready, reason),
            ("Ready", all_ready, reason),
        ] {
            set_condition(&mut status.conditions, kind, holds, reason);
        }
    }

    fn initialized(&self, status: &PodStatus) -> bool {
        self.pod.spec.init_containers.iter().zip(&status.init_container_statuses).all(
            |(container, status)| {
                if is_sidecar(container) {
                    // Once it has started it counts, whatever becomes of it.
                    status.container_id.is_some()
                } else {
                    status.state.terminated.as_ref().is_some_and(|end| end.exit_code == 0)
                }
            },
        )
    }

    fn phase(&self, status: &PodStatus, init_done: bool) -> PodPhase {
        let never_restarts = |end: &Terminated| match self.pod.spec.restart_policy {
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => end.exit_code == 0,
            RestartPolicy::Never => true,
        };
        let init_failed = self.pod.spec.restart_policy == RestartPolicy::Never
            && self.pod.spec.init_containers.iter().zip(&status.init_container_statuses).any(
                |(container, status)| {
                    !is_sidecar(container)
                        && status.state.terminated.as_ref().is_some_and(|end| end.exit_code != 0)
                },
            );
        if init_failed {
            return PodPhase::Failed;
        }
        let ends: Vec<_> = status
            .container_statuses
            .iter()
            .filter_map(|container| container.state.terminated.as_ref())
            .filter(|end| never_restarts(end))
            .collect();
        if ends.len() == status.container_statuses.len() {
            return if ends.iter().all(|end| end.exit_code == 0) {
                PodPhase::Succeeded
            } else {
                PodPhase::Failed
            };
        }
        let started = status
            .container_statuses
            .iter()
            .all(|c| c.state.waiting.is_none() || c.last_state.terminated.is_some());
        if init_done && started { PodPhase::Running } else { PodPhase::Pending }
    }
}

/// The status of a container that is about to be made.
fn new_status(container: &Container, (image, image_id): (String, String)) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        state: waiting_state("ContainerCreating", None),
        last_state: ContainerState::default(),
        ready: false,
        restart_count: 0,
        image,
        image_id,
        container_id: None,
        started: false,
    }
}

/// Whether a container that ended in an earlier boot is done with.
fn stays_ended(policy: RestartPolicy, before: &ContainerStatus) -> bool {
    let code = before.state.terminated.as_ref().map(|end| end.exit_code);
    match policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => code == Some(0),
        RestartPolicy::Never => code.is_some(),
    }
}

/// What became of a pod whose node ended: its last status if nothing of it is to run again. A
/// container that may never be restarted has failed with its node, and so have those that had yet
/// to start.
pub(super) fn end_with_node(pod: &Pod, mut previous: PodStatus) -> Option<PodStatus> {
    if matches!(previous.phase, PodPhase::Succeeded | PodPhase::Failed) {
        return Some(previous);
    }
    let all = |status: &PodStatus| -> Vec<ContainerStatus> {
        status.init_container_statuses.iter().chain(&status.container_statuses).cloned().collect()
    };
    let begun = all(&previous).iter().any(|container| container.container_id.is_some());
    if pod.spec.restart_policy != RestartPolicy::Never || !begun {
        return None;
    }
    for list in [List::Init, List::Main, List::Ephemeral] {
        for container in list.of_mut(&mut previous) {
            *container = ended_with_node(container.clone());
        }
    }
    Some(previous)
}

fn ended_with_node(mut container: ContainerStatus) -> ContainerStatus {
    container.ready = false;
    container.started = false;
    if container.state.terminated.is_none() {
        container.state = lost_with_node(&container);
    }
    container
}

fn lost_with_node(container: &ContainerStatus) -> ContainerState {
    let now = clock::now_seconds();
    let running = container.state.running.as_ref();
    let terminated = Terminated {
        exit_code: 137,
        reason: String::from("ContainerStatusUnknown"),
        message: Some(String::from("The node was restarted before the container had ended")),
        started_at: running.map_or_else(|| now.clone(), |running| running.started_at.clone()),
        finished_at: now,
        container_id: container.container_id.clone(),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// Whether an init container stays: restartPolicy Always.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy == Some(RestartPolicy::Always)
}

/// A waiting state.
pub(crate) fn waiting_state(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = Some(Waiting { reason: reason.to_owned(), message });
    ContainerState { waiting, ..ContainerState::default() }
}

/// How a container of an earlier boot of this node ended, as far as anyone can know.
fn end_of_earlier_boot(before: &ContainerStatus) -> ContainerState {
    if before.state.terminated.is_some() {
        return before.state.clone();
    }
    match before.state.running {
        Some(_) => lost_with_node(before),
        None => before.last_state.clone(),
    }
}

fn set_condition(
    conditions: &mut Vec<PodCondition>,
    kind: &str,
    holds: bool,
    reason: Option<&str>,
) {
    let status = if holds { "True" } else { "False" };
    let reason = reason.map(str::to_owned);
    match conditions.iter_mut().find(|condition| condition.kind == kind) {
        Some(condition) => {
            if condition.status != status {
                condition.last_transition_time = clock::now_seconds();
                condition.status = status.to_owned();
            }
            condition.reason = reason;
        }
        None => conditions.push(PodCondition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: clock::now_seconds(),
            reason,
            message: None,
        }),
    }
}
