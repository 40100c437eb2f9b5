//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

/// The least and the most time between two probes.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// Asks `probe` until it gives a value, and gives that. Pauses as long as it has asked, so that where a
/// probe is dear, what is waited for has half of the processor's time.
///
/// # Panics
/// If it gave none within `limit`; with `what` and the last refusal.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        match probe() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last: {last}")
            }
            Err(_) => std::thread::sleep(asked.elapsed().clamp(PAUSE[0], PAUSE[1])),
        }
    }
}
