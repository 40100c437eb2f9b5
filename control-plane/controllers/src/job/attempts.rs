//! The tries at an index of a job that has a `backoffLimitPerIndex`. A pod says by annotations how
//! many pods of its index failed before it.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#backoff-limit-per-index>

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object;
use serde_json::Value;
use time::OffsetDateTime;

use super::decide::{delay, ended};

/// The annotation with the number of failures that count.
const COUNTED: &str = "batch.kubernetes.io/job-index-failure-count";
/// The annotation with the number of failures that were ignored.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Failures of an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) counted: i64,
    ignored: i64,
}

impl Failures {
    /// Those before `pod`.
    pub(super) fn before(pod: &Value) -> Self {
        let read = |name: &str| {
            let text = pod["metadata"]["annotations"][name].as_str();
            text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0).into()
        };
        Self { counted: read(COUNTED), ignored: read(IGNORED) }
    }

    /// All, whether they count or not: each pod of an index has more before it than the last.
    pub(super) const fn total(self) -> i64 {
        self.counted + self.ignored
    }

    /// Notes them on the next pod of the index.
    pub(super) fn annotate(self, pod: &mut Value) {
        pod["metadata"]["annotations"][COUNTED] = self.counted.to_string().into();
        if self.ignored > 0 {
            pod["metadata"]["annotations"][IGNORED] = self.ignored.to_string().into();
        }
    }
}

/// A failed pod of an index.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) index: i64,
    pub(super) pod: Arc<Value>,
    /// Whether its failure counts.
    pub(super) counts: bool,
    /// The failures up to it.
    pub(super) failures: Failures,
}

impl Attempt {
    pub(super) fn new(index: i64, pod: &Arc<Value>, counts: bool) -> Self {
        let Failures { counted, ignored } = Failures::before(pod);
        let failures = Failures {
            counted: counted + i64::from(counts),
            ignored: ignored + i64::from(!counts),
        };
        Self { index, pod: Arc::clone(pod), counts, failures }
    }

    /// How long its replacement waits.
    pub(super) fn wait(&self, now: OffsetDateTime) -> Duration {
        let failures = usize::try_from(self.failures.total()).unwrap_or(usize::MAX);
        let Some(ended) = ended(&self.pod) else { return Duration::ZERO };
        Duration::try_from(ended + delay(failures) - now).unwrap_or(Duration::ZERO)
    }

    /// Whether `pod` came after it.
    pub(super) fn is_before(&self, pod: &Value) -> bool {
        super::tally::index(pod) == Some(self.index)
            && Failures::before(pod).total() >= self.failures.total()
            && object::uid(pod) != object::uid(&self.pod)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_an_index_go_on_from_the_last() {
        let end = object::timestamp(OffsetDateTime::UNIX_EPOCH);
        let state = json!({"state": {"terminated": {"finishedAt": end}}});
        let mut pod = json!({"metadata": {"uid": "a"}, "status": {"containerStatuses": [state]}});
        for (counts, waits) in [(true, 10), (false, 20), (true, 40)] {
            let attempt = Attempt::new(0, &Arc::new(pod.clone()), counts);
            assert_eq!(attempt.wait(OffsetDateTime::UNIX_EPOCH), Duration::from_secs(waits));
            assert!(!attempt.is_before(&pod));
            attempt.failures.annotate(&mut pod);
            pod["metadata"]["annotations"][super::super::indexes::INDEX] = "0".into();
            pod["metadata"]["uid"] = waits.to_string().into();
            assert!(attempt.is_before(&pod));
        }
        assert_eq!(Failures::before(&pod), Failures { counted: 2, ignored: 1 });
        pod["metadata"]["annotations"][COUNTED] = "-1".into();
        assert_eq!(Failures::before(&pod).counted, 0, "what users write there is no number");
    }
}
