//! How long a node that has ended waits for its next start.

use std::time::Duration;

/// Restarts wait 1 s, 2 s, 4 s … up to this.
const MAX: Duration = Duration::from_secs(60);

/// A run in which the agent answered for longer than this starts over with the shortest wait.
const STEADY: Duration = Duration::from_secs(300);

/// A guest whose agent answered for less than this before the guest reset itself was not rebooted
/// by somebody in it: it fails.
const SETTLED: Duration = Duration::from_secs(10);

/// The waits of one node.
#[derive(Debug, Default)]
pub(super) struct Backoff(Duration);

impl Backoff {
    /// The wait after a run that failed; `up` is how long its agent answered.
    pub(super) fn failed(&mut self, up: Duration) -> Duration {
        if up > STEADY {
            self.0 = Duration::ZERO;
        }
        self.0 = (self.0 * 2).clamp(Duration::from_secs(1), MAX);
        self.0
    }

    /// The wait after a run that the guest ended by a reset, if that counts as a failure.
    pub(super) fn reset(&mut self, up: Duration) -> Option<Duration> {
        (up < SETTLED).then(|| self.failed(up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_UP: Duration = Duration::ZERO;

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_starts_over_after_a_steady_run() {
        let mut backoff = Backoff::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(backoff.failed(NEVER_UP).as_secs(), seconds);
        }
        assert_eq!(backoff.failed(Duration::from_secs(301)).as_secs(), 1);
    }

    #[test]
    fn a_guest_that_resets_itself_at_once_waits_and_one_that_is_rebooted_does_not() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.reset(Duration::from_secs(10)), None);
        assert_eq!(backoff.reset(NEVER_UP), Some(Duration::from_secs(1)));
        assert_eq!(backoff.reset(Duration::from_secs(9)), Some(Duration::from_secs(2)));
        assert_eq!(backoff.reset(Duration::from_secs(60)), None);
    }
}
