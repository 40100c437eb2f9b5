//! The controllers, as clients of the Kubernetes API.
//!
//! [`lifecycle`] marks nodes whose lease lapses; [`cleanup`] empties namespaces that are deleted
//! and removes pods of nodes that are gone.

#![forbid(unsafe_code)]

mod cleanup;
mod lifecycle;

use std::sync::Arc;

use bulkhead_client::Informers;
use tokio::task::JoinSet;

/// The running controllers; they end when this is dropped.
#[derive(Debug)]
pub struct Controllers(#[expect(dead_code, reason = "held for its Drop")] JoinSet<()>);

/// Starts the controllers.
#[must_use]
pub fn start(informers: &Arc<Informers>) -> Controllers {
    let mut tasks = JoinSet::new();
    tasks.spawn(lifecycle::run(Arc::clone(informers), lifecycle::GRACE));
    tasks.spawn(cleanup::namespaces(Arc::clone(informers)));
    tasks.spawn(cleanup::orphaned_pods(Arc::clone(informers), cleanup::QUARANTINE));
    Controllers(tasks)
}
