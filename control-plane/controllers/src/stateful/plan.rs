//! What a StatefulSet does next: which pods it makes and which it deletes. A function of what is
//! there, so that what must always hold can be tested for everything that can be there.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#deployment-and-scaling-guarantees>

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_client::object::{self, number, text};
use serde_json::Value;
use time::OffsetDateTime;

use super::identity;
use crate::history::revision_of;
use crate::pods;

/// A step makes or deletes at most so many pods.
const BURST: usize = 500;

/// What a StatefulSet asks for.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The ordinal of its first pod.
    start: i64,
    replicas: i64,
    /// Whether each pod waits for those before it.
    ordered: bool,
    min_ready: i64,
    /// How pods of old revisions are replaced, if that is not left to users.
    rolling: Option<Rolling>,
    /// The name of the set's newest revision.
    newest: String,
}

#[derive(Debug, Clone, Copy)]
struct Rolling {
    /// So many of the first pods keep the old revision.
    partition: i64,
    max_unavailable: usize,
}

/// The pods of a set.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Those that are wanted, by ordinal.
    pub(super) wanted: BTreeMap<i64, Arc<Value>>,
    /// Those that are too many.
    pub(super) condemned: BTreeMap<i64, Arc<Value>>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Ordinals of pods to make, and whether at the newest revision.
    pub(super) create: Vec<(i64, bool)>,
    pub(super) delete: Vec<Arc<Value>>,
    /// Pods, by ordinal, that lack the labels of their identity.
    pub(super) relabel: Vec<(i64, Arc<Value>)>,
}

impl Plan {
    pub(super) fn read(set: &Value, newest: &str) -> Self {
        let spec = &set["spec"];
        let replicas = number(spec, "replicas").unwrap_or(1);
        let update = &spec["updateStrategy"]["rollingUpdate"];
        let rolling = (text(spec, "updateStrategy.type") != "OnDelete").then(|| {
            let unavailable = match &update["maxUnavailable"] {
                Value::Null => 1,
                some => pods::resolve(some, replicas, false),
            };
            Rolling {
                partition: number(update, "partition").unwrap_or(0),
                max_unavailable: usize::try_from(unavailable).unwrap_or(0).max(1),
            }
        });
        Self {
            start: number(spec, "ordinals.start").unwrap_or(0),
            replicas,
            ordered: text(spec, "podManagementPolicy") != "Parallel",
            min_ready: number(spec, "minReadySeconds").unwrap_or(0),
            rolling,
            newest: newest.to_owned(),
        }
    }

    /// Sorts the pods of the set named `set`.
    pub(super) fn members(&self, set: &str, pods: &[Arc<Value>]) -> Members {
        let mut members = Members::default();
        for pod in pods {
            let Some(ordinal) = identity::ordinal(set, object::name(pod)) else { continue };
            let wanted = (self.start..self.start + self.replicas).contains(&ordinal);
            let among = if wanted { &mut members.wanted } else { &mut members.condemned };
            among.insert(ordinal, Arc::clone(pod));
        }
        members
    }

    pub(super) fn is_available(&self, pod: &Value, now: OffsetDateTime) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, self.min_ready, now)
    }

    fn is_unavailable(&self, pod: &Value, now: OffsetDateTime) -> bool {
        object::is_terminating(pod) || !self.is_available(pod, now)
    }

    /// The next steps.
    pub(super) fn steps(&self, members: &Members, now: OffsetDateTime) -> Steps {
        let mut steps = Steps::default();
        if self.keep(members, &mut steps, now) && self.shrink(members, &mut steps, now) {
            self.update(members, &mut steps, now);
        }
        steps
    }

    /// Makes what is missing. Whether there is more to do: not before what was begun is ready, if
    /// there is an order.
    fn keep(&self, members: &Members, steps: &mut Steps, now: OffsetDateTime) -> bool {
        for ordinal in self.start..self.start + self.replicas {
            if steps.create.len() + steps.delete.len() >= BURST {
                return false;
            }
            let Some(pod) = members.wanted.get(&ordinal) else {
                let old =
                    self.rolling.is_some_and(|update| ordinal < self.start + update.partition);
                steps.create.push((ordinal, !old));
                if self.ordered {
                    return false;
                }
                continue;
            };
            if pods::has_ended(pod) {
                if !object::is_terminating(pod) {
                    steps.delete.push(Arc::clone(pod));
                }
                if self.ordered {
                    return false;
                }
                continue;
            }
            if self.ordered && self.is_unavailable(pod, now) {
                return false;
            }
            if identity::is_mislabelled(pod, ordinal) {
                steps.relabel.push((ordinal, Arc::clone(pod)));
            }
        }
        true
    }

    /// Deletes what is too many, the highest ordinal first. Whether there is more to do.
    fn shrink(&self, members: &Members, steps: &mut Steps, now: OffsetDateTime) -> bool {
        // One that cannot become ready must not keep those after it for ever.
        let is_healthy = |pod: &Value| is_running_and_ready(pod) && !object::is_terminating(pod);
        let first_unhealthy = members
            .wanted
            .iter()
            .chain(&members.condemned)
            .find(|(_, pod)| !is_healthy(pod))
            .map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in members.condemned.iter().rev() {
            if object::is_terminating(pod) {
                if self.ordered {
                    return false;
                }
                continue;
            }
            // One that has ended never becomes ready.
            let may_become_ready = !pods::has_ended(pod) && !self.is_available(pod, now);
            if self.ordered && may_become_ready && first_unhealthy != Some(*ordinal) {
                return false;
            }
            steps.delete.push(Arc::clone(pod));
            if self.ordered || steps.delete.len() >= BURST {
                return false;
            }
        }
        true
    }

    /// Deletes pods of old revisions, the highest ordinal first, as many as may be unavailable.
    /// One that is unavailable anyway costs nothing.
    fn update(&self, members: &Members, steps: &mut Steps, now: OffsetDateTime) {
        let Some(update) = self.rolling else { return };
        let available =
            members.wanted.values().filter(|pod| !self.is_unavailable(pod, now)).count();
        let wanted = usize::try_from(self.replicas).unwrap_or(0);
        let mut budget = update.max_unavailable.saturating_sub(wanted - available);
        for (ordinal, pod) in members.wanted.iter().rev() {
            let is_old = revision_of(pod) != self.newest;
            let going = object::is_terminating(pod) || pods::has_ended(pod);
            if *ordinal < self.start + update.partition || steps.delete.len() >= BURST {
                return;
            }
            if !is_old || going {
                continue;
            }
            if !self.is_unavailable(pod, now) {
                if budget == 0 {
                    return;
                }
                budget -= 1;
            }
            steps.delete.push(Arc::clone(pod));
        }
    }
}

/// Whether a pod runs and says that it is ready.
pub(super) fn is_running_and_ready(pod: &Value) -> bool {
    text(pod, "status.phase") == "Running" && pods::is_ready(pod)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::history::REVISION_LABEL;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn plan(spec: Value) -> Plan {
        Plan::read(&json!({"spec": spec}), "new")
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum State {
        Ready,
        Starting,
        Failed,
        Terminating,
    }

    fn pod(ordinal: i64, revision: &str, state: State) -> Arc<Value> {
        let name = format!("web-{ordinal}");
        let phase = match state {
            State::Starting => "Pending",
            State::Failed => "Failed",
            State::Ready | State::Terminating => "Running",
        };
        let ready =
            if matches!(state, State::Ready | State::Terminating) { "True" } else { "False" };
        let deleted = (state == State::Terminating).then_some("1970-01-01T00:00:00Z");
        Arc::new(json!({
            "metadata": {
                "name": name,
                "deletionTimestamp": deleted,
                "labels": {
                    REVISION_LABEL: revision,
                    "statefulset.kubernetes.io/pod-name": name,
                    "apps.kubernetes.io/pod-index": ordinal.to_string(),
                },
            },
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    /// What is made, with revisions, and the ordinals of what is deleted.
    fn next(plan: &Plan, pods: &[Arc<Value>]) -> (Vec<(i64, bool)>, Vec<i64>) {
        let steps = plan.steps(&plan.members("web", pods), NOW);
        let ordinals =
            steps.delete.iter().map(|pod| identity::ordinal("web", object::name(pod)).unwrap());
        (steps.create, ordinals.collect())
    }

    #[test]
    fn in_order_one_at_a_time() {
        use State::*;
        let plan = plan(json!({"replicas": 3}));
        let new = |ordinal, state| pod(ordinal, "new", state);
        assert_eq!(next(&plan, &[]), (vec![(0, true)], vec![]));
        assert_eq!(next(&plan, &[new(0, Starting)]), (vec![], vec![]));
        assert_eq!(next(&plan, &[new(0, Ready)]), (vec![(1, true)], vec![]));
        assert_eq!(next(&plan, &[new(0, Ready), new(2, Ready)]), (vec![(1, true)], vec![]));
        assert_eq!(next(&plan, &[new(0, Failed), new(1, Ready)]), (vec![], vec![0]));
        let five: Vec<_> = (0..5).map(|ordinal| new(ordinal, Ready)).collect();
        assert_eq!(next(&plan, &five), (vec![], vec![4]));
        let mut going = five.clone();
        going[4] = new(4, Terminating);
        assert_eq!(next(&plan, &going), (vec![], vec![]), "it waits for the end of a pod");
        let mut stuck = five.clone();
        stuck[4] = new(4, Starting);
        assert_eq!(next(&plan, &stuck), (vec![], vec![4]), "the first that is unhealthy may go");
        stuck[3] = new(3, Starting);
        assert_eq!(next(&plan, &stuck), (vec![], vec![]), "but not the second");
    }

    #[test]
    fn all_at_once_if_there_is_no_order() {
        use State::*;
        let plan = plan(json!({
            "replicas": 3, "podManagementPolicy": "Parallel", "ordinals": {"start": 5},
        }));
        let made = vec![(5, true), (6, true), (7, true)];
        assert_eq!(next(&plan, &[]), (made, vec![]));
        let five: Vec<_> = (4..9).map(|ordinal| pod(ordinal, "new", Ready)).collect();
        assert_eq!(next(&plan, &five), (vec![], vec![8, 4]));
    }

    #[test]
    fn updates_go_down_from_the_highest_ordinal_to_the_partition() {
        use State::*;
        let rolling = |update: Value| {
            plan(
                json!({"replicas": 4, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": update}}),
            )
        };
        let one = rolling(json!({"partition": 2, "maxUnavailable": 1}));
        let mut pods: Vec<_> = (0..4).map(|ordinal| pod(ordinal, "old", Ready)).collect();
        assert_eq!(next(&one, &pods), (vec![], vec![3]));
        pods[3] = pod(3, "new", Ready);
        assert_eq!(next(&one, &pods), (vec![], vec![2]));
        pods[2] = pod(2, "new", Ready);
        assert_eq!(next(&one, &pods), (vec![], vec![]), "the rest is behind the partition");
        let missing: Vec<_> = pods[1..].to_vec();
        assert_eq!(next(&one, &missing).0, [(0, false)], "what is behind it keeps its revision");
        let more = rolling(json!({"partition": 0, "maxUnavailable": "75%"}));
        assert_eq!(next(&more, &pods), (vec![], vec![1, 0]));
        let by_hand = plan(json!({"replicas": 4, "updateStrategy": {"type": "OnDelete"}}));
        assert_eq!(next(&by_hand, &pods), (vec![], vec![]));
        assert_eq!(next(&by_hand, &missing).0, [(0, true)]);
    }

    #[test]
    fn many_replicas_are_not_counted_out() {
        let plan = plan(json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel"}));
        assert_eq!(next(&plan, &[]).0.len(), BURST);
    }

    fn states() -> impl Strategy<Value = Vec<(bool, bool, u8)>> {
        proptest::collection::vec((any::<bool>(), any::<bool>(), 0..4_u8), 0..8)
    }

    proptest! {
        /// Whatever is there, steps that are taken lead to as many ready pods of the newest revision
        /// as are wanted, and updates never make more unavailable than allowed.
        #[test]
        fn every_set_gets_there(
            there in states(), replicas in 0..6_i64, parallel: bool, unavailable in 1..4_usize,
        ) {
            let policy = if parallel { "Parallel" } else { "OrderedReady" };
            let plan = plan(json!({
                "replicas": replicas, "podManagementPolicy": policy,
                "updateStrategy": {"rollingUpdate": {"maxUnavailable": unavailable}},
            }));
            let mut pods: BTreeMap<i64, Arc<Value>> = BTreeMap::new();
            for (ordinal, (exists, new, state)) in there.into_iter().enumerate() {
                let ordinal = i64::try_from(ordinal).unwrap();
                let state = [State::Ready, State::Starting, State::Failed, State::Terminating]
                    [usize::from(state)];
                if exists {
                    let revision = if new { "new" } else { "old" };
                    pods.insert(ordinal, pod(ordinal, revision, state));
                }
            }
            for _ in 0..100 {
                let all: Vec<_> = pods.values().cloned().collect();
                let members = plan.members("web", &all);
                let steps = plan.steps(&members, NOW);
                let ready = |pods: &BTreeMap<i64, Arc<Value>>| pods.range(0..replicas)
                    .filter(|(_, pod)| !plan.is_unavailable(pod, NOW)).count();
                let before = ready(&pods);
                if steps.create.is_empty() && steps.delete.is_empty() && pods.values().all(|pod| {
                    is_running_and_ready(pod) && !object::is_terminating(pod)
                }) {
                    let done: Vec<i64> = pods.keys().copied().collect();
                    prop_assert_eq!(done, (0..replicas).collect::<Vec<_>>());
                    prop_assert!(pods.values().all(|pod| revision_of(pod) == "new"));
                    return Ok(());
                }
                for pod in &steps.delete {
                    pods.remove(&identity::ordinal("web", object::name(pod)).unwrap());
                }
                let least = usize::try_from(replicas).unwrap().saturating_sub(unavailable);
                prop_assert!(ready(&pods) >= before.min(least));
                for (ordinal, _) in &steps.create {
                    prop_assert!(!pods.contains_key(ordinal));
                    pods.insert(*ordinal, pod(*ordinal, "new", State::Starting));
                }
                // Time passes: what starts becomes ready, what ends is gone.
                pods.retain(|_, pod| !object::is_terminating(pod));
                for (ordinal, one) in &mut pods {
                    if text(one, "status.phase") == "Pending" {
                        *one = pod(*ordinal, revision_of(one), State::Ready);
                    }
                }
            }
            prop_assert!(false, "it never got there");
        }
    }
}
