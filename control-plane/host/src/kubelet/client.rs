//! A thin client of the Kubernetes API: paths and JSON in, JSON out.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use bulkhead_client::remote::{Connection, CredentialsError, Events, Server};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

pub(crate) use bulkhead_client::remote::ConnectionError as KubeError;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity {
    /// The host, which may do what it needs for its nodes.
    Host,
    /// The cluster's administrator.
    Admin,
}

impl Identity {
    /// What its certificate and key are called.
    const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Host => ("host.crt", "host.key"),
            Self::Admin => ("admin.crt", "admin.key"),
        }
    }
}

/// The client of one cluster. Cheap to clone; keeps connections open.
#[derive(Debug, Clone)]
pub(crate) struct Kube(Connection);

type Result<T> = std::result::Result<T, KubeError>;

impl Kube {
    /// Reads the credentials from `pki`.
    pub(crate) fn new(
        port: u16,
        pki: &Path,
        identity: Identity,
    ) -> std::result::Result<Self, CredentialsError> {
        let (certificate, key) = identity.file();
        let connection = Connection::new(&Server {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            name: Ipv4Addr::LOCALHOST.to_string(),
            authority: pki.join("ca.crt"),
            certificate: pki.join(certificate),
            key: pki.join(key),
            agent: concat!("bulkhead-host/", env!("CARGO_PKG_VERSION")).into(),
        })?;
        Ok(Self(connection))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.0.json(Method::GET, path, None).await
    }

    pub(crate) async fn get_text(&self, path: &str) -> Result<Bytes> {
        self.0.bytes(Method::GET, path, None).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.0.json(Method::POST, path, Some(("application/json", object))).await
    }

    /// A JSON merge patch (RFC 7386).
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.0.json(Method::PATCH, path, Some(("application/merge-patch+json", patch))).await
    }

    /// A strategic merge patch: lists whose elements have a key (a status' conditions have their types)
    /// are merged by it.
    pub(crate) async fn strategic(&self, path: &str, patch: &Value) -> Result<Value> {
        let typed = ("application/strategic-merge-patch+json", patch);
        self.0.json(Method::PATCH, path, Some(typed)).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.0.json(Method::DELETE, path, Some(("application/json", options))).await
    }

    /// A watch; `path` has its query.
    pub(crate) async fn watch(&self, path: &str) -> Result<Events> {
        self.0.events(path).await
    }
}
