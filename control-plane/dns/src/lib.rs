//! A cluster's name server, by the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).
//!
//! It is a process of the host: [`follow`](follow()) brings what the API server tells of Services,
//! EndpointSlices and namespaces to an [`Index`], from which a [`Zone`] answers for the cluster's
//! domain and for its addresses; all other names a [`Forwarder`] asks the host's name servers for.
//! A [`Server`] carries questions and answers over UDP and TCP.
//!
//! Every byte from a client is hostile: `hickory-proto` parses it, once; what a client can hold
//! (forwarded questions, TCP connections) is bounded by [`Limits`], and so is the cache.

#![forbid(unsafe_code)]

mod follow;
mod forward;
mod index;
mod limits;
mod message;
mod object;
mod server;
mod zone;

pub use follow::follow;
pub use forward::{Forwarder, Upstreams};
pub use index::Index;
pub use limits::{Limits, Permit};
pub use server::{Serve, Server};
pub use zone::Zone;

/// How long answers about the cluster may be kept, in seconds.
pub const TTL: u32 = 5;

/// The version of the specification that is served.
pub const SPECIFICATION: &str = "1.1.0";
