//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

/// Asks `probe` until it gives a value, and gives that.
///
/// # Panics
/// If it gave none within `limit`; with `what` and the last refusal.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
