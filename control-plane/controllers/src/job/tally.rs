//! What a job has come to, counted so that a crash at any moment loses no pod and counts none twice.
//!
//! A pod that ended keeps the finalizer `batch.kubernetes.io/job-tracking` until its uid is written
//! into `status.uncountedTerminatedPods`. Only then the finalizer goes; and only when it is gone,
//! the uid becomes one in `succeeded` or `failed`, in the same write that removes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bulkhead_client::object::{self, list, number, text};
use serde_json::{Value, json};

use super::indexes::{self, INDEX};

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
    pub(super) terminating: usize,
    /// Pods that ended well, counted or not.
    pub(super) succeeded: i64,
    /// Pods that ended otherwise, counted or not.
    pub(super) failed: i64,
    /// The indexes that are done.
    pub(super) completed: BTreeSet<i64>,
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
        let only_failed = job["spec"]["podReplacementPolicy"] == "Failed";
        for pod in pods {
            let Some(end) = end(pod, only_failed) else {
                if object::is_terminating(pod) {
                    tally.terminating += 1;
                } else {
                    tally.active.push(Arc::clone(pod));
                }
                continue;
            };
            if !is_tracked(pod) {
                continue;
            }
            tally.release.push(Arc::clone(pod));
            let counts = match (end, index(pod)) {
                // An index counts once, and one beyond the completions not at all.
                (End::Succeeded, Some(index)) if indexed => {
                    index < completions && tally.completed.insert(index)
                }
                (End::Succeeded, None) if indexed => false,
                _ => true,
            };
            let known = tally.uncounted.iter().any(|uids| uids.contains(object::uid(pod)));
            if counts && !known {
                tally.uncounted[end as usize].insert(object::uid(pod).to_owned());
            }
        }
        let total = |end: End| {
            tally.counted[end as usize]
                + i64::try_from(tally.uncounted[end as usize].len()).unwrap_or(i64::MAX)
        };
        (tally.succeeded, tally.failed) = (total(End::Succeeded), total(End::Failed));
        if indexed {
            tally.succeeded = i64::try_from(tally.completed.len()).unwrap_or(i64::MAX);
            tally.counted[0] =
                tally.succeeded - i64::try_from(tally.uncounted[0].len()).unwrap_or(0);
        }
        tally
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
        status["terminating"] = self.terminating.into();
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

/// How a pod ended; one that is deleted before it ended has failed, unless only failed pods are
/// to be replaced.
fn end(pod: &Value, only_failed: bool) -> Option<End> {
    match text(pod, "status.phase") {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ if object::is_terminating(pod) && !only_failed => Some(End::Failed),
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
        assert_eq!((waiting.failed, waiting.terminating), (0, 1));
    }
}
