//! The Kubernetes API server of a cluster.
//!
//! [`kinds`] is the table of resources; everything else is generic over it: [`http`] parses a
//! request ([`route`], [`options`], [`body`]), [`auth`] permits it, [`validation`] checks it against
//! the types in [`schema`], [`api`] does it on the store and [`managed`] notes who owns which field,
//! and [`output`] shapes the answer. Objects are JSON values, kept with fields that this server does
//! not know; bodies may be JSON, YAML or protobuf, answers are JSON. [`discovery`] and [`openapi`]
//! tell clients what there is. [`kubelet`] passes logs, exec and attach on to the host that runs the
//! pod; of that host [`metrics`] asks what nodes and pods use. [`pki`] makes a cluster's
//! certificates. [`storage`] says where the objects are kept. [`serve`] puts it together, with the
//! scheduler and the controllers, which talk to [`api`] in process ([`local`]) but as a client over
//! HTTP would. Of several servers over one etcd, one at a time runs those. [`backup`] puts all of a
//! cluster into a file, and back.
//!
//! Kinds may come and go while the server runs: [`custom`] adds those that
//! CustomResourceDefinitions define. What is not implemented answers as Kubernetes would: kinds that
//! are not here with 404.

#![forbid(unsafe_code)]

use std::pin::Pin;

pub mod api;
pub mod auth;
pub mod backup;
pub mod body;
pub mod cidr;
pub mod custom;
pub mod discovery;
pub mod encryption;
mod feed;
mod first_objects;
mod housekeeping;
pub mod http;
pub mod kinds;
pub mod kubelet;
mod leader;
pub mod local;
pub mod managed;
pub mod metrics;
pub mod names;
pub mod object;
pub mod openapi;
pub mod options;
pub mod output;
mod own_service;
pub mod patch;
pub mod pki;
pub mod proxy;
pub mod resource;
pub mod route;
pub mod schema;
pub mod selector;
pub mod serve;
mod signer;
pub mod status;
pub mod storage;
pub mod tls;
pub mod validation;

/// What the program waits for. The compiler makes the code of an `async fn` where it is polled: without
/// the box that would be all of this crate's once more, in the program.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
