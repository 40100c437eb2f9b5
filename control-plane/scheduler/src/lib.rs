//! The scheduler, as a client of the Kubernetes API: it binds pods to nodes.

#![forbid(unsafe_code)]

mod filter;
mod scheduler;

pub use scheduler::run;
