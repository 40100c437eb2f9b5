//! kubectl's commands, by what they are for: what each prints and what it leaves behind. Each is run
//! with every version that is supported.

mod nodes;
mod read;
mod server;
mod workloads;
mod write;
