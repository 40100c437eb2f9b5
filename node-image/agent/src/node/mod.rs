//! The node itself: its identity, what it uses, and its end.

pub(crate) mod configure;
pub(crate) mod identity;
pub(crate) mod shutdown;
pub(crate) mod stats;
