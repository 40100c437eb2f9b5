//! The controllers, as clients of the Kubernetes API.
//!
//! All are level-triggered: a change says which object to look at, and a sync makes what is there
//! more like what is wanted, whatever changed. They read from shared informers ([`bulkhead_client`])
//! and take their keys from work queues ([`queue`]).
//!
//! [`deployment`], [`replicas`], [`stateful`], [`daemon`], [`job`] and [`cron`] keep workloads, and
//! [`autoscaling`] sizes them; [`endpoints`] says where Services lead; [`gc`] deletes what has lost its
//! owners; [`disruption`] keeps budgets, [`quota`] counts what namespaces use; [`lifecycle`] marks
//! nodes whose lease lapses, [`taints`] drives their pods away; [`defaults`] makes what every
//! namespace has; [`namespaces`] empties those that are deleted; [`cleanup`] removes pods of nodes
//! that are gone, and those that ended longest ago where there are too many.

#![forbid(unsafe_code)]

mod autoscaling;
mod claim;
mod cleanup;
mod context;
mod cron;
mod daemon;
mod defaults;
mod deployment;
mod disruption;
mod endpoints;
mod gc;
mod hash;
mod history;
mod job;
mod lifecycle;
mod namespaces;
mod pod_control;
mod pods;
mod queue;
mod quota;
mod replicas;
mod stateful;
mod taints;

pub use cron::schedule::{Schedule, ScheduleError};

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::{Informers, Kind};
use tokio::task::JoinSet;

/// The running controllers; they end when this is dropped.
#[derive(Debug)]
pub struct Controllers(#[expect(dead_code, reason = "held for its Drop")] JoinSet<()>);

/// Starts the controllers. Of several API servers over one store, the one that leads calls this,
/// and drops the result when it no longer leads. `root_certificate` is the cluster's, PEM: pods
/// know the API server by it. A node whose lease is not renewed for `node_monitor_grace_period` is
/// no longer known to be ready.
#[must_use]
pub fn start(
    informers: &Arc<Informers>,
    root_certificate: Arc<str>,
    node_monitor_grace_period: Duration,
) -> Controllers {
    // The garbage collector is content with metadata; of these others want all, and once is enough.
    for kind in [
        Kind::PODS,
        Kind::NODES,
        Kind::NAMESPACES,
        Kind::LEASES,
        replicas::SETS,
        job::JOBS,
        history::REVISIONS,
        endpoints::SERVICES,
    ] {
        let _ = informers.cache(&kind);
    }
    let mut tasks = JoinSet::new();
    let with = || Arc::clone(informers);
    tasks.spawn(deployment::run(with()));
    tasks.spawn(replicas::run_sets(with()));
    tasks.spawn(replicas::run_controllers(with()));
    tasks.spawn(stateful::run(with()));
    tasks.spawn(daemon::run(with()));
    tasks.spawn(job::run(with()));
    tasks.spawn(cron::run(with()));
    tasks.spawn(autoscaling::run(with()));
    tasks.spawn(endpoints::run(with()));
    tasks.spawn(endpoints::mirror::run(with()));
    tasks.spawn(quota::run(with()));
    tasks.spawn(gc::run(with()));
    tasks.spawn(lifecycle::run(with(), node_monitor_grace_period));
    tasks.spawn(taints::run(with()));
    tasks.spawn(disruption::run(with()));
    tasks.spawn(defaults::run(with(), root_certificate));
    tasks.spawn(namespaces::run(with()));
    tasks.spawn(cleanup::orphaned_pods(with(), cleanup::QUARANTINE));
    tasks.spawn(cleanup::ended_pods(with(), cleanup::ENDED));
    Controllers(tasks)
}
