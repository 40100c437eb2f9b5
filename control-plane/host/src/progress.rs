//! How a long request tells its client where it is.

use bulkhead_host_api::{ApiError, Progress};
use serde_json::Value;
use tokio::sync::mpsc;

/// The daemon's end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(mpsc::UnboundedSender<Progress>);

impl Reporter {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// A client that went away is no reason to fail; [`Reporter::closed`] tells of it.
    pub(crate) fn step(&self, message: impl Into<String>, done: u64, total: u64) {
        drop(self.0.send(Progress::Step { message: message.into(), done, total }));
    }

    pub(crate) fn finish(&self, result: Result<Value, ApiError>) {
        drop(self.0.send(match result {
            Ok(value) => Progress::Done(value),
            Err(error) => Progress::Failed(error),
        }));
    }

    /// Until the client has gone away.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}
