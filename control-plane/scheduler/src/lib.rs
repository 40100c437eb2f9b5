//! The scheduler, as a client of the Kubernetes API: it binds pods to nodes as kube-scheduler does
//! by default.
//!
//! [`scheduler`] is the loop. It keeps a [`cluster`] of nodes and pods up to date, takes one pod
//! after the other from the [`queue`], and asks the [`cycle`] for a node, which asks the
//! [`plugins`]. Where no node can run a pod, [`preemption`] may make room. What was decided is
//! written by [`writes`] while the next pod is being looked at; events wake pods that wait, if
//! they can help ([`hints`]).

#![forbid(unsafe_code)]

mod cluster;
mod cycle;
mod hints;
mod model;
mod plugins;
mod preemption;
mod queue;
mod related;
mod scheduler;
mod tally;
#[cfg(test)]
mod testing;
mod walk;
mod writes;

pub use scheduler::run;

/// The name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";
