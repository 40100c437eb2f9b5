//! Connecting to one of several endpoints, as soon as one of them answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Upstream;
use super::endpoint::{Endpoint, Sender};

/// How long an endpoint may take to answer before another is tried beside it: far longer than a
/// host needs to reach its own guests, far shorter than a person waits.
const STAGGER: Duration = Duration::from_millis(250);
/// How long connecting may take in all.
const LIMIT: Duration = Duration::from_secs(10);

/// No endpoint could be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// There is none.
    #[error("no endpoint is ready")]
    NoEndpoint,
    /// None of them answered.
    #[error("no endpoint answered: {0}")]
    Failed(io::Error),
}

/// A connection on which nothing has been sent yet for this request.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) sender: Sender,
}

/// One attempt, by its place in the order.
type Attempt = (usize, io::Result<Sender>);

impl Upstream {
    /// A connection to the endpoint whose turn it is, or to another if that does not answer.
    pub(crate) async fn connect(&self) -> Result<Connected, ConnectError> {
        let mut candidates = self.candidates();
        let Some(first) = candidates.next() else { return Err(ConnectError::NoEndpoint) };
        if let Some(sender) = first.take_idle() {
            return Ok(Connected { endpoint: first, sender });
        }
        let deadline = Instant::now() + LIMIT;
        let mut tried: Vec<(Arc<Endpoint>, Instant)> = Vec::new();
        let mut attempts: JoinSet<Attempt> = JoinSet::new();
        start(first, &mut tried, &mut attempts);
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        loop {
            tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => {
                    let (index, result) = match attempt {
                        Ok(attempt) => attempt,
                        Err(error) => return Err(ConnectError::Failed(io::Error::other(error))),
                    };
                    match result {
                        Ok(sender) => return Ok(won(index, sender, tried)),
                        Err(error) => {
                            if let Some((endpoint, _)) = tried.get(index) {
                                let address = endpoint.target().address;
                                tracing::debug!(upstream = self.name(), %address, %error, "connecting");
                                endpoint.suspect();
                            }
                            failure = error;
                        }
                    }
                    match candidates.next() {
                        Some(next) => start(next, &mut tried, &mut attempts),
                        None if attempts.is_empty() => return Err(ConnectError::Failed(failure)),
                        None => {}
                    }
                }
                () = sleep(STAGGER) => {
                    if let Some(next) = candidates.next() {
                        start(next, &mut tried, &mut attempts);
                    }
                }
                () = sleep_until(deadline) => return Err(ConnectError::Failed(failure)),
            }
        }
    }
}

fn start(
    endpoint: Arc<Endpoint>,
    tried: &mut Vec<(Arc<Endpoint>, Instant)>,
    attempts: &mut JoinSet<Attempt>,
) {
    let index = tried.len();
    tried.push((Arc::clone(&endpoint), Instant::now()));
    attempts.spawn(async move { (index, endpoint.connect().await) });
}

/// Those that were overtaken by the winner are not asked first for a while.
fn won(winner: usize, sender: Sender, mut tried: Vec<(Arc<Endpoint>, Instant)>) -> Connected {
    let now = Instant::now();
    let slow = |(_, since): &&(Arc<Endpoint>, Instant)| now - *since >= STAGGER;
    for (endpoint, _) in tried.iter().take(winner).filter(slow) {
        endpoint.suspect();
    }
    let (endpoint, _) = tried.swap_remove(winner);
    Connected { endpoint, sender }
}
