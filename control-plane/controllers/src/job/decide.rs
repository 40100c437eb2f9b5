//! What a job's counts come to: whether it has ended, how many pods are wanted, how long a failed one
//! waits for its replacement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, list, number, text};
use serde_json::Value;
use time::OffsetDateTime;

use super::policy;
use super::tally::Tally;

/// The delay before a failed pod is replaced, doubled with each failure in a row.
const BACKOFF: (i64, i64) = (10, 600);

/// How a job ends.
pub(super) struct Verdict {
    /// The condition that says so before its pods are gone.
    pub(super) target: &'static str,
    /// The condition that says so after.
    pub(super) condition: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

/// How many pods are to be active.
pub(super) fn wanted(job: &Value, tally: &Tally) -> usize {
    let parallelism = number(job, "spec.parallelism").unwrap_or(1);
    let wanted = match number(job, "spec.completions") {
        // Pods share a queue of work: when one has ended well there is nothing left to begin.
        None if tally.succeeded > 0 => {
            i64::try_from(tally.active.len()).unwrap_or(i64::MAX).min(parallelism)
        }
        None => parallelism,
        Some(completions) => {
            let given_up = tally.given_up.as_ref().map_or(0, BTreeSet::len);
            let given_up = i64::try_from(given_up).unwrap_or(i64::MAX);
            parallelism.min(completions - tally.succeeded - given_up)
        }
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// Whether and how a job has ended.
pub(super) fn verdict(
    job: &Value,
    status: &Value,
    tally: &Tally,
    now: OffsetDateTime,
) -> Option<Verdict> {
    // What was decided stays.
    let decided = [failed as fn(&str, String) -> Verdict, succeeded].into_iter().find_map(|make| {
        let target = make("", String::new()).target;
        let conditions = list(status, "conditions").iter();
        let mut met = conditions.filter(|one| one["type"] == target && one["status"] == "True");
        met.next().map(|one| make(text(one, "reason"), text(one, "message").into()))
    });
    if decided.is_some() {
        return decided;
    }
    if let Some(why) = &tally.fatal {
        return Some(failed("PodFailurePolicy", why.clone()));
    }
    let limit = number(job, "spec.backoffLimit").unwrap_or(6);
    let restarts: i64 = if job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure" {
        let counts = |pod: &Arc<Value>| -> i64 {
            let all = list(pod, "status.initContainerStatuses").iter();
            let all = all.chain(list(pod, "status.containerStatuses"));
            all.filter_map(|status| number(status, "restartCount")).sum()
        };
        tally.active.iter().map(counts).sum()
    } else {
        0
    };
    if tally.failed > limit || (restarts > 0 && restarts >= limit.max(1)) {
        let message = "Job has reached the specified backoff limit";
        return Some(failed("BackoffLimitExceeded", message.into()));
    }
    if deadline(job, status, now).is_some_and(|left| left.is_zero()) {
        let message = "Job was active longer than specified deadline";
        return Some(failed("DeadlineExceeded", message.into()));
    }
    let completions = number(job, "spec.completions");
    let given_up = tally.given_up.as_ref().map_or(0, BTreeSet::len);
    let given_up = i64::try_from(given_up).unwrap_or(i64::MAX);
    if number(job, "spec.maxFailedIndexes").is_some_and(|most| given_up > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(failed("MaxFailedIndexesExceeded", message.into()));
    }
    if given_up > 0 && completions.is_some_and(|all| given_up + tally.succeeded >= all) {
        return Some(failed("FailedIndexes", "Job has failed indexes".into()));
    }
    if let Some(rule) = policy::success(job, &tally.completed) {
        return Some(succeeded("SuccessPolicy", format!("Matched rules at index {rule}")));
    }
    let complete = match completions {
        None => tally.succeeded > 0 && tally.active.is_empty(),
        Some(completions) => tally.succeeded >= completions,
    };
    complete.then(|| {
        succeeded("CompletionsReached", "Reached expected number of succeeded pods".into())
    })
}

fn failed(reason: &str, message: String) -> Verdict {
    Verdict { target: "FailureTarget", condition: "Failed", reason: reason.into(), message }
}

fn succeeded(reason: &str, message: String) -> Verdict {
    Verdict { target: "SuccessCriteriaMet", condition: "Complete", reason: reason.into(), message }
}

/// How long the job has until `activeDeadlineSeconds`, if it runs and has such.
pub(super) fn deadline(job: &Value, status: &Value, now: OffsetDateTime) -> Option<Duration> {
    let seconds = number(job, "spec.activeDeadlineSeconds")?;
    let start = object::parse_time(text(status, "startTime"))?;
    let left = start + time::Duration::seconds(seconds) - now;
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// How long to wait before a failed pod is replaced, by the failures since the last success.
pub(super) fn backoff(pods: &[Arc<Value>], now: OffsetDateTime) -> Duration {
    let with = |phase: &str| -> Vec<OffsetDateTime> {
        let of_phase = pods.iter().filter(|pod| text(pod, "status.phase") == phase);
        of_phase.filter_map(|pod| ended(pod)).collect()
    };
    let last_success = with("Succeeded").into_iter().max();
    let failures: Vec<_> = with("Failed")
        .into_iter()
        .filter(|at| last_success.is_none_or(|last| *at > last))
        .collect();
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    Duration::try_from(*last + delay(failures.len()) - now).unwrap_or(Duration::ZERO)
}

/// When the last container of a pod ended.
pub(super) fn ended(pod: &Value) -> Option<OffsetDateTime> {
    let states = list(pod, "status.containerStatuses").iter();
    let finished =
        states.filter_map(|state| object::parse_time(text(state, "state.terminated.finishedAt")));
    finished.max().or_else(|| object::parse_time(text(pod, "metadata.creationTimestamp")))
}

/// How long after the last of so many failures, which are not none, the next pod waits.
pub(super) fn delay(failures: usize) -> time::Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    time::Duration::seconds((BACKOFF.0 << doublings).min(BACKOFF.1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }

    #[test]
    fn failures_in_a_row_wait_ever_longer() {
        let pod = |phase: &str, second: i64| {
            let state =
                json!({"state": {"terminated": {"finishedAt": object::timestamp(at(second))}}});
            Arc::new(json!({"status": {"phase": phase, "containerStatuses": [state]}}))
        };
        let mut pods = vec![pod("Failed", 100)];
        assert_eq!(backoff(&pods, at(100)), Duration::from_secs(10));
        assert_eq!(backoff(&pods, at(111)), Duration::ZERO);
        pods.push(pod("Failed", 120));
        assert_eq!(backoff(&pods, at(120)), Duration::from_secs(20));
        pods.extend((0..20).map(|_| pod("Failed", 130)));
        assert_eq!(backoff(&pods, at(130)), Duration::from_secs(600));
        pods.push(pod("Succeeded", 140));
        assert_eq!(backoff(&pods, at(141)), Duration::ZERO, "a success ends the row");
    }

    #[test]
    fn verdicts() {
        let job = |spec: Value| json!({"spec": spec});
        let status = json!({"startTime": object::timestamp(at(0))});
        let reason = |job: &Value, tally: &Tally, second: i64| {
            verdict(job, &status, tally, at(second)).map_or_else(String::new, |one| one.reason)
        };
        let tally = |succeeded, failed| Tally { succeeded, failed, ..Tally::default() };
        let plain = job(json!({"completions": 2, "backoffLimit": 1, "activeDeadlineSeconds": 60}));
        assert_eq!(reason(&plain, &tally(1, 1), 1), "");
        assert_eq!(reason(&plain, &tally(2, 1), 1), "CompletionsReached");
        assert_eq!(reason(&plain, &tally(1, 2), 1), "BackoffLimitExceeded");
        assert_eq!(reason(&plain, &tally(1, 1), 61), "DeadlineExceeded");
        let queue = job(json!({"parallelism": 3}));
        assert_eq!(reason(&queue, &tally(1, 0), 1), "CompletionsReached");
        let restarted = Arc::new(json!({"status": {"containerStatuses": [{"restartCount": 3}]}}));
        let on_failure = job(json!({
            "completions": 1, "backoffLimit": 3, "template": {"spec": {"restartPolicy": "OnFailure"}},
        }));
        let restarting = Tally { active: vec![restarted], ..Tally::default() };
        assert_eq!(reason(&on_failure, &restarting, 1), "BackoffLimitExceeded");
        let indexed = job(json!({
            "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1,
        }));
        let tally = |completed: &[i64], given_up: &[i64]| Tally {
            succeeded: i64::try_from(completed.len()).unwrap(),
            completed: completed.iter().copied().collect(),
            given_up: Some(given_up.iter().copied().collect()),
            ..Tally::default()
        };
        assert_eq!(reason(&indexed, &tally(&[0], &[1]), 1), "");
        assert_eq!(wanted(&indexed, &tally(&[0], &[1])), 1);
        assert_eq!(reason(&indexed, &tally(&[0], &[1, 2]), 1), "MaxFailedIndexesExceeded");
        assert_eq!(reason(&indexed, &tally(&[0, 2], &[1]), 1), "FailedIndexes");
        let mut policy = indexed.clone();
        policy["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "0"}]});
        assert_eq!(reason(&policy, &tally(&[0], &[1]), 1), "SuccessPolicy");
        let fatal = Tally { fatal: Some("why".into()), ..Tally::default() };
        assert_eq!(reason(&plain, &fatal, 1), "PodFailurePolicy");
    }

    #[test]
    fn what_was_decided_stays() {
        let job = json!({"spec": {"completions": 2}});
        for (target, condition) in [("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")]
        {
            let met = json!({"type": target, "status": "True", "reason": "R", "message": "m"});
            let status = json!({"conditions": [met]});
            let verdict = verdict(&job, &status, &Tally::default(), at(1)).unwrap();
            assert_eq!((verdict.target, verdict.condition), (target, condition));
            assert_eq!((&*verdict.reason, &*verdict.message), ("R", "m"));
        }
    }

    #[test]
    fn as_many_as_are_wanted() {
        let job = |spec: Value| json!({"spec": spec});
        let tally = |succeeded, active: usize| Tally {
            succeeded,
            active: (0..active).map(|_| Arc::new(json!({}))).collect(),
            ..Tally::default()
        };
        let fixed = job(json!({"parallelism": 3, "completions": 5}));
        assert_eq!([0, 3, 5].map(|done| wanted(&fixed, &tally(done, 0))), [3, 2, 0]);
        let queue = job(json!({"parallelism": 3}));
        assert_eq!((wanted(&queue, &tally(0, 1)), wanted(&queue, &tally(1, 2))), (3, 2));
    }
}
