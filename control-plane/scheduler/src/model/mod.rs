//! Pods and nodes as far as scheduling looks at them: what the API's objects say, read once.

mod node;
mod pod;
mod pod_set;
mod ports;
mod resources;
mod spread;

pub(crate) use bulkhead_client::{Effect, NodeSelectorTerm, RequiredNodes, Taint, Toleration};
pub(crate) use node::Node;
pub(crate) use pod::Pod;
pub(crate) use pod_set::{Namespaces, PodSet, Term};
pub(crate) use ports::HostPort;
pub(crate) use resources::Resources;
pub(crate) use spread::{Constraint, HOSTNAME};
