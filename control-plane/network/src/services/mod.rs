//! Services: how connections to an address that nobody has are led to pods.
//!
//! [`Catalogue`] knows the API's objects and says which [`Frontend`] leads to which [`Backends`];
//! [`Maps`] turns that, and what changes of it, into nftables' maps.
//!
//! ```text
//!  first packet ─▶ services { address . protocol . port : goto services-3 }     one lookup
//!                    └▶ services-3: mark = random of 3
//!                         └▶ services-endpoints { … . mark : pod's address . port }  one more
//! ```
//!
//! So it costs the same for ten Services as for thousands, and when an endpoint comes or goes a few
//! elements change, of which the kernel is told without a run of nft. Connection tracking does the rest
//! of a connection: what is open stays with its endpoint, and a new connection sees the maps as they are.

mod catalogue;
mod chains;
mod frontend;
mod maps;
mod stale;

pub use catalogue::Catalogue;
pub(crate) use chains::{dispatch, skeleton};
pub use frontend::{Backends, Frontend, Protocol};
pub use maps::{Maps, Transaction};
pub(crate) use stale::Stale;
