//! A kubelet's back-off between restarts of a container: at once, then 10 s, 20 s … 300 s.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// A run of this length clears what was held against a container.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The back-off of one container.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    last: Option<Duration>,
}

impl BackOff {
    /// How long to wait before the next start, after a run of `ran`.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN_AFTER {
            self.last = None;
        }
        let delay = match self.last {
            None => Duration::ZERO,
            Some(Duration::ZERO) => FIRST,
            Some(last) => (last * 2).min(LONGEST),
        };
        self.last = Some(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_its_bound_and_is_forgiven_after_ten_minutes() {
        let mut back_off = BackOff::default();
        let seconds: Vec<u64> =
            (0..8).map(|_| back_off.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off.after(Duration::from_secs(599)).as_secs(), 300);
        assert_eq!(back_off.after(FORGIVEN_AFTER), Duration::ZERO);
        assert_eq!(back_off.after(Duration::ZERO), FIRST);
    }
}
