//! How our own programs use the Kubernetes API: a [`Client`] with HTTP's semantics, and what reads
//! of it share.
//!
//! In the API server's process the client is a function call away; elsewhere it is a connection
//! (`remote`), which hosts use by itself. [`Informers`] list and watch each kind once for everybody,
//! keep what they saw in a [`Cache`], and tell of changes. [`Election`] lets one of several processes
//! lead. [`Recorder`] writes events. [`object`] reads fields, [`Quantity`] amounts, [`Selector`] label
//! selectors, [`RequiredNodes`] and [`Toleration`] which nodes a pod may run on; [`quota`] counts what
//! ResourceQuotas limit.

#![forbid(unsafe_code)]

mod client;
mod election;
mod informer;
mod node_selector;
pub mod object;
pub mod quota;
mod recorder;
#[cfg(feature = "remote")]
pub mod remote;
mod requirement;
mod selector;
mod taint;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bulkhead_agent_protocol::quantity::{Quantity, QuantityError};
pub use client::{
    Change, Client, ClientError, DeleteOptions, Kind, Patch, Propagation, ResourceInfo, Scale,
    Stream, Target,
};
pub use election::{Election, ElectionTiming};
pub use informer::{Cache, Informers, Told};
pub use node_selector::{Labelled, NodeSelectorTerm, RequiredNodes};
pub use recorder::Recorder;
pub use requirement::{Requirement, Test};
pub use selector::{Selector, SelectorError};
pub use taint::{Effect, Taint, Toleration};
