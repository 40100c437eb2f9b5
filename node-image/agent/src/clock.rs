//! Wall-clock times as Kubernetes and CRI write them.

use jiff::Timestamp;

/// Now, RFC 3339 in whole seconds: times in a pod's status.
pub(crate) fn now_seconds() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Now, RFC 3339 with nanoseconds: times in logs.
pub(crate) fn now_nanos() -> String {
    format!("{:.9}", Timestamp::now())
}
