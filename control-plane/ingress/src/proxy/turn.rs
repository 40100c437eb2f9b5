//! Whose turn it is in an exchange, and how long a backend has had its.
//!
//! A backend answers when it has the request, so an upload's time is not the backend's, however long it
//! takes: what counts is how long nothing has been waited for but the backend.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Shared by a request's body, which knows when its client is waited for, and who waits for the answer.
#[derive(Debug, Clone)]
pub(super) struct Turn(Arc<Mutex<Option<Instant>>>);

impl Turn {
    /// The backend's, as of now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    /// The backend has what there is of the request, and may take its time from now on.
    pub(super) fn backends(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The client is to send more of its request.
    pub(super) fn clients(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits until the backend has had its turn for so long.
    pub(super) async fn over(&self, limit: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let until = since.unwrap_or_else(Instant::now) + limit;
            if until <= Instant::now() {
                return;
            }
            // What is the client's turn by now may have been the backend's for as long as this before.
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_backends_time_begins_when_it_has_the_request() {
        let (turn, begun) = (Turn::new(), Instant::now());
        let client = turn.clone();
        let upload = async move {
            for _ in 0..10 {
                client.clients();
                sleep(Duration::from_secs(50)).await;
                client.backends();
            }
        };
        tokio::join!(turn.over(LIMIT), upload);
        let waited = begun.elapsed();
        assert!((560..562).contains(&waited.as_secs()), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_takes_nothing_of_a_body_is_not_waited_for() {
        let (turn, begun) = (Turn::new(), Instant::now());
        turn.clients();
        sleep(Duration::from_secs(5)).await;
        turn.backends();
        turn.over(LIMIT).await;
        assert_eq!(begun.elapsed().as_secs(), 65);
        turn.clients();
        assert!(timeout(LIMIT * 100, turn.over(LIMIT)).await.is_err(), "it is the client's turn");
    }
}
