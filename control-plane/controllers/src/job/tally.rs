//! What a job has come to, counted so that a crash at any moment loses no pod and counts none twice.
//!
//! A pod that ended keeps the finalizer `batch.kubernetes.io/job-tracking` until its uid is written
//! into `status.uncountedTerminatedPods`. Only then the finalizer goes; and only when it is gone,
//! the uid becomes one in `succeeded` or `failed`, in the same write that removes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bulkhead_client::object::{self, list, number, text};
use serde_json::{Value, json};

use super::attempts::Attempt;
use super::indexes::{self, INDEX};
use super::policy::{self, Failure};

/// The finalizer of pods that are not counted yet.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
}

/// A job's pods and counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Pods that run or wait.
    pub(super) active: Vec<Arc<Value>>,
    /// Pods that are being deleted and have not ended.
    pub(super) terminating: Vec<Arc<Value>>,
    /// Pods that ended well, counted or not.
    pub(super) succeeded: i64,
    /// Pods that ended otherwise, counted or not.
    pub(super) failed: i64,
    /// The indexes that are done.
    pub(super) completed: BTreeSet<i64>,
    /// The indexes that have failed too often, if there is a limit for each.
    pub(super) given_up: Option<BTreeSet<i64>>,
    /// The last attempt at each index that waits for the next, which goes on from its count. Such pods
    /// keep their finalizer, so that nobody can delete what they say.
    pub(super) held: HashMap<i64, Attempt>,
    /// Why a pod's failure is the job's.
    pub(super) fatal: Option<String>,
    /// Pods whose finalizer may go once the status is written.
    pub(super) release: Vec<Arc<Value>>,
    pub(super) counted: [i64; 2],
    pub(super) uncounted: [BTreeSet<String>; 2],
}

impl Tally {
    /// Counts the pods of a job.
    pub(super) fn take(job: &Value, pods: &[Arc<Value>]) -> Self {
        let mut tally = Self {
            counted: ["succeeded", "failed"]
                .map(|field| number(&job["status"], field).unwrap_or(0)),
            uncounted: ["succeeded", "failed"].map(|field| {
                let uids = list(&job["status"], &format!("uncountedTerminatedPods.{field}"));
                uids.iter().filter_map(|uid| uid.as_str().map(Into::into)).collect()
            }),
            ..Self::default()
        };
        let by_uid: HashMap<&str, &Arc<Value>> =
            pods.iter().map(|pod| (object::uid(pod), pod)).collect();
        for (counted, uncounted) in tally.counted.iter_mut().zip(&mut tally.uncounted) {
            uncounted.retain(|uid| {
                let tracked = by_uid.get(uid.as_str()).is_some_and(|pod| is_tracked(pod));
                *counted += i64::from(!tracked);
                tracked
            });
        }
        let completions = number(job, "spec.completions").unwrap_or(0);
        let indexed = job["spec"]["completionMode"] == "Indexed";
        if indexed {
            tally.completed = indexes::parse(text(job, "status.completedIndexes"), completions);
        }
        let limit = number(job, "spec.backoffLimitPerIndex").filter(|_| indexed);
        tally.given_up =
            limit.map(|_| indexes::parse(text(job, "status.failedIndexes"), completions));
        let mut attempts = Vec::new();
        for pod in pods {
            let Some(end) = end(job, pod) else {
                let going = object::is_terminating(pod);
                let those = if going { &mut tally.terminating } else { &mut tally.active };
                those.push(Arc::clone(pod));
                continue;
            };
            if !is_tracked(pod) {
                continue;
            }
            // What has no index, or one beyond the completions, does not count.
            let index = index(pod).filter(|index| *index < completions);
            if indexed && index.is_none() {
                tally.release.push(Arc::clone(pod));
                continue;
            }
            let counts = match (end, index) {
                // An index counts once.
                (End::Succeeded, Some(index)) if indexed => tally.completed.insert(index),
                (End::Succeeded, _) => true,
                (End::Failed, index) => {
                    let failure = policy::failure(job, pod);
                    let counts = failure != Failure::Ignored;
                    if let (Some(index), Some(limit)) = (index, limit) {
                        let attempt = Attempt::new(index, pod, counts);
                        let too_often = counts && attempt.failures.counted > limit;
                        if too_often || failure == Failure::Index {
                            tally.given_up.get_or_insert_default().insert(index);
                        }
                        attempts.push(attempt);
                    }
                    if let Failure::Job(why) = failure {
                        tally.fatal.get_or_insert(why);
                    }
                    if limit.is_some() {
                        continue;
                    }
                    counts
                }
            };
            tally.count(pod, end, counts);
        }
        if let Some(given_up) = &mut tally.given_up {
            given_up.retain(|index| !tally.completed.contains(index));
        }
        tally.hold(attempts);
        let total = |end: End| {
            tally.counted[end as usize]
                + i64::try_from(tally.uncounted[end as usize].len()).unwrap_or(i64::MAX)
        };
        (tally.succeeded, tally.failed) = (total(End::Succeeded), total(End::Failed));
        let held = tally.held.values().filter(|attempt| attempt.counts).count();
        tally.failed += i64::try_from(held).unwrap_or(i64::MAX);
        if indexed {
            tally.succeeded = i64::try_from(tally.completed.len()).unwrap_or(i64::MAX);
            tally.counted[0] =
                tally.succeeded - i64::try_from(tally.uncounted[0].len()).unwrap_or(0);
        }
        tally
    }

    /// Lets a pod that ended go, and counts it if it `counts`.
    fn count(&mut self, pod: &Arc<Value>, end: End, counts: bool) {
        self.release.push(Arc::clone(pod));
        if counts && !self.uncounted.iter().any(|uids| uids.contains(object::uid(pod))) {
            self.uncounted[end as usize].insert(object::uid(pod).to_owned());
        }
    }

    /// Holds the last of `attempts` at each index that is to be tried again and is not yet; counts
    /// the others.
    fn hold(&mut self, attempts: Vec<Attempt>) {
        for attempt in attempts {
            let is_over = self.completed.contains(&attempt.index)
                || self.given_up.as_ref().is_some_and(|all| all.contains(&attempt.index));
            let mut others = self.active.iter().chain(&self.terminating);
            let attempt = if is_over || others.any(|pod| attempt.is_before(pod)) {
                Some(attempt)
            } else if let Some(held) = self.held.get_mut(&attempt.index) {
                let is_newer = attempt.failures.total() > held.failures.total();
                Some(if is_newer { std::mem::replace(held, attempt) } else { attempt })
            } else {
                self.held.insert(attempt.index, attempt)
            };
            if let Some(attempt) = attempt {
                self.count(&attempt.pod, End::Failed, attempt.counts);
            }
        }
    }

    /// Counts what is held: nothing is tried again.
    pub(super) fn let_go(&mut self) {
        for (_, attempt) in std::mem::take(&mut self.held) {
            self.count(&attempt.pod, End::Failed, attempt.counts);
        }
    }

    /// Whether every pod that ended is in the counts.
    pub(super) fn is_settled(&self) -> bool {
        self.release.is_empty() && self.uncounted.iter().all(BTreeSet::is_empty)
    }

    /// Writes the counts into a status.
    pub(super) fn write(&self, status: &mut Value) {
        let ready = self.active.iter().filter(|pod| crate::pods::is_ready(pod)).count();
        let unsigned = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (field, count) in [
            ("active", unsigned(self.active.len())),
            ("succeeded", self.counted[0]),
            ("failed", self.counted[1]),
        ] {
            match status.as_object_mut() {
                Some(fields) if count <= 0 => {
                    fields.remove(field);
                }
                _ => status[field] = count.into(),
            }
        }
        status["ready"] = ready.into();
        status["terminating"] = self.terminating.len().into();
        if let Some(given_up) = &self.given_up {
            status["failedIndexes"] = indexes::format(given_up).into();
        }
        status["uncountedTerminatedPods"] =
            json!({"succeeded": self.uncounted[0], "failed": self.uncounted[1]});
        if !self.completed.is_empty() {
            status["completedIndexes"] = indexes::format(&self.completed).into();
        }
    }
}

/// Whether a pod waits to be counted.
pub(super) fn is_tracked(pod: &Value) -> bool {
    list(pod, "metadata.finalizers").iter().any(|one| one == TRACKING)
}

/// A pod's completion index.
pub(super) fn index(pod: &Value) -> Option<i64> {
    pod["metadata"]["annotations"][INDEX].as_str()?.parse().ok()
}

/// How a pod ended; one that is deleted before it ended has failed, unless what counts is how it
/// ends.
fn end(job: &Value, pod: &Value) -> Option<End> {
    let spec = &job["spec"];
    let waits = spec["podReplacementPolicy"] == "Failed" || spec["podFailurePolicy"].is_object();
    match text(pod, "status.phase") {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ if object::is_terminating(pod) && !waits => Some(End::Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, phase: &str, tracked: bool, index: Option<i64>) -> Arc<Value> {
        let finalizers = if tracked { json!([TRACKING]) } else { json!([]) };
        let annotations = index.map(|index| json!({INDEX: index.to_string()}));
        Arc::new(json!({
            "metadata": {"uid": uid, "finalizers": finalizers, "annotations": annotations},
            "status": {"phase": phase},
        }))
    }

    /// The status after a sync's write.
    fn written(job: &Value, pods: &[Arc<Value>]) -> Value {
        let mut status = job["status"].clone();
        Tally::take(job, pods).write(&mut status);
        status
    }

    #[test]
    fn a_pod_counts_once_whatever_crashes() {
        let mut job = json!({"spec": {"completions": 2}, "status": {}});
        let ended = pod("a", "Succeeded", true, None);
        for _ in 0..2 {
            // Written, and again before the finalizer is gone.
            job["status"] = written(&job, &[Arc::clone(&ended)]);
            assert_eq!(job["status"]["uncountedTerminatedPods"]["succeeded"], json!(["a"]));
            assert_eq!(job["status"].get("succeeded"), None);
            assert_eq!(Tally::take(&job, &[Arc::clone(&ended)]).succeeded, 1);
        }
        let released = pod("a", "Succeeded", false, None);
        for pods in [vec![released], vec![]] {
            let mut job = job.clone();
            for _ in 0..2 {
                // Whether the pod is still there or not, and however often this is written.
                job["status"] = written(&job, &pods);
                assert_eq!(job["status"]["succeeded"], 1);
                assert_eq!(job["status"]["uncountedTerminatedPods"]["succeeded"], json!([]));
            }
        }
    }

    #[test]
    fn an_index_counts_once() {
        let job = json!({"spec": {"completions": 3, "completionMode": "Indexed"}, "status": {}});
        let pods = [
            pod("a", "Succeeded", true, Some(0)),
            pod("b", "Succeeded", true, Some(0)),
            pod("c", "Succeeded", true, Some(7)),
            pod("d", "Failed", true, Some(1)),
            pod("e", "Running", true, Some(2)),
        ];
        let tally = Tally::take(&job, &pods);
        assert_eq!((tally.succeeded, tally.failed, tally.active.len()), (1, 1, 1));
        assert_eq!(tally.release.len(), 4);
        assert_eq!(written(&job, &pods)["completedIndexes"], "0");
    }

    #[test]
    fn a_pod_that_is_being_deleted_has_failed_unless_only_failed_ones_are_replaced() {
        let mut job = json!({"spec": {}, "status": {}});
        let mut going = (*pod("a", "Running", true, None)).clone();
        going["metadata"]["deletionTimestamp"] = "now".into();
        let going = [Arc::new(going)];
        assert_eq!(Tally::take(&job, &going).failed, 1);
        job["spec"]["podReplacementPolicy"] = "Failed".into();
        let waiting = Tally::take(&job, &going);
        assert_eq!((waiting.failed, waiting.terminating.len()), (0, 1));
    }

    #[test]
    fn an_index_is_tried_so_often() {
        let mut job = json!({"spec": {
            "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        }, "status": {}});
        let attempt = |uid: &str, index, phase: &str, before: i64| {
            let mut pod = (*pod(uid, phase, true, Some(index))).clone();
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] =
                before.to_string().into();
            Arc::new(pod)
        };
        // Held until there is a pod that goes on from it, but it counts.
        let mut pods = vec![attempt("a", 0, "Failed", 0), attempt("b", 1, "Running", 0)];
        let tally = Tally::take(&job, &pods);
        assert_eq!((tally.failed, tally.release.len(), tally.held.len()), (1, 0, 1));
        assert_eq!(tally.held[&0].failures.counted, 1);
        assert_eq!(written(&job, &pods)["failedIndexes"], "");
        assert_eq!(written(&job, &pods)["uncountedTerminatedPods"]["failed"], json!([]));
        pods.push(attempt("c", 0, "Running", 1));
        let tally = Tally::take(&job, &pods);
        assert_eq!((tally.failed, tally.release.len(), tally.held.len()), (1, 1, 0));
        // The second failure is one too many.
        pods[2] = attempt("c", 0, "Failed", 1);
        let tally = Tally::take(&job, &pods);
        assert_eq!((tally.failed, tally.release.len(), tally.held.len()), (2, 2, 0));
        assert_eq!(written(&job, &pods)["failedIndexes"], "0");
        // So it stays when the pods are gone.
        job["status"]["failedIndexes"] = "0".into();
        assert_eq!(Tally::take(&job, &[]).given_up, Some([0].into()));
    }

    #[test]
    fn what_a_policy_ignores_does_not_count() {
        let mut job = json!({"spec": {"completions": 2, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]}}, "status": {}});
        let mut failed = (*pod("a", "Failed", true, None)).clone();
        failed["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let pods = [Arc::new(failed), pod("b", "Failed", true, None)];
        let tally = Tally::take(&job, &pods);
        assert_eq!((tally.failed, tally.release.len()), (1, 2));
        job["spec"]["podFailurePolicy"]["rules"][0]["action"] = "FailJob".into();
        let tally = Tally::take(&job, &pods);
        assert!(tally.fatal.is_some() && tally.failed == 2);
    }
}
