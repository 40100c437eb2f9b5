//! A cluster's Ingresses, served: an HTTP(S) proxy on the host.
//!
//! [`Controller`] follows Ingresses, their classes, Services, EndpointSlices and the Secrets that are
//! named, and tells [`Proxy`] which rules there are ([`Routes`]), each rule's [`Upstream`] which
//! endpoints it has, and [`Certificates`] which hosts have which. [`Server`] accepts clients. All HTTP
//! is hyper's, all TLS rustls'.
//!
//! The process has two feet: its listening sockets are made in the host's network namespace and
//! handed over, and what it connects to it reaches from the cluster's, where it lives.

#![forbid(unsafe_code)]

mod certificates;
mod controller;
mod proxy;
mod routing;
mod server;
mod upstream;

pub use certificates::{CertificateError, Certificates};
pub use controller::{Address, CLASS, CONTROLLER, Controller, REDIRECT};
pub use proxy::{Proxy, Route};
pub use routing::{Paths, Routes};
pub use server::{GRACE, Server};
pub use upstream::{Target, Upstream};
