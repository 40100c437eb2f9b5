//! NetworkPolicies: which connections of pods are let through.
//!
//! [`Catalogue`] knows the API's objects and who has which address, and turns what changes of them
//! into a change of nftables' elements and chains, a [`Transaction`].
//!
//! ```text
//!  first packet ─▶ egress  { pod's address : goto egress-4 }    one lookup by its source
//!                   └▶ egress-4: jump policy-12-egress, jump policy-7-egress, … reject
//!                                 └▶ ip daddr @pods-3 tcp dport { 80 } accept
//!               ─▶ ingress { pod's address : goto ingress-2 }   one more by its destination
//! ```
//!
//! - A pod that no policy selects is in neither map; its packets pass after the two lookups,
//!   however many policies and pods there are.
//! - There is a chain for each set of policies that select some pod, and one for each policy's
//!   rules; a selector of peers is a set of addresses, had once by all rules that ask for the same.
//!   So when a pod comes, goes or changes its labels, a few elements change.
//! - The two directions are two base chains, so that to accept in one leaves the other to decide.
//!   They see packets where Services have been resolved: who is decided about is a pod, with its
//!   own address and port.
//! - What is open stays open when policies change, as with most network plugins: only a
//!   connection's first packet is looked up. What is tracked of an address ends with the pod that
//!   had it.
//!
//! A daemon that starts makes a table of its own beside the one that it finds, and then removes
//! that: what either refuses is refused while there are two, and there is no moment without one.

mod catalogue;
mod ranges;
mod selectors;
mod spec;
mod table;

pub use catalogue::Catalogue;
pub use spec::{Direction, PolicyError};
pub use table::Transaction;
pub(crate) use table::{generations, removal};
