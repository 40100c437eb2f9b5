//! The scheduler and the first controllers, as clients of the Kubernetes API.
//!
//! They know the API through [`Client`] only: list, watch, and the writes that they need, with
//! HTTP's semantics. In the API server's process the client is a function call away; elsewhere it
//! could be a connection.
//!
//! [`scheduler`] binds pods to nodes; [`lifecycle`] marks nodes whose lease lapses; [`cleanup`]
//! empties namespaces that are deleted and removes pods of nodes that are gone.

#![forbid(unsafe_code)]

mod cleanup;
mod client;
mod filter;
mod informer;
mod lifecycle;
mod quantity;
mod scheduler;
#[cfg(test)]
mod testing;

use std::sync::Arc;

pub use client::{Change, Client, ClientError, Kind, Stream};
pub use quantity::{ParseQuantityError, Quantity};
use tokio::task::JoinSet;

/// The running controllers; they end when this is dropped.
#[derive(Debug)]
pub struct Controllers(#[expect(dead_code, reason = "held for its Drop")] JoinSet<()>);

/// Starts the scheduler and the controllers.
pub fn start(client: Arc<dyn Client>) -> Controllers {
    let mut tasks = JoinSet::new();
    tasks.spawn(scheduler::run(Arc::clone(&client)));
    tasks.spawn(lifecycle::run(Arc::clone(&client), lifecycle::GRACE));
    tasks.spawn(cleanup::namespaces(Arc::clone(&client)));
    tasks.spawn(cleanup::orphaned_pods(client, cleanup::QUARANTINE));
    Controllers(tasks)
}
