//! Nodes' microVMs: from their files to a running agent, and what becomes of them.

mod backoff;
pub(crate) mod disk;
mod monitor;
mod node;
mod ranges;
mod socket;

pub(crate) use node::{Node, NodeState, Plan, Up};
