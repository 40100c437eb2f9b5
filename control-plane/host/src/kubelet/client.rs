//! A thin client of the Kubernetes API: JSON in, JSON out, watches line by line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// The longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// How long an answer may take; a watch's is not limited.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeError {
    /// The API server refused, with a `Status`.
    #[error("{message} ({code} {reason})")]
    Status { code: u16, reason: String, message: String },
    /// It could not be asked.
    #[error("the cluster's API server: {0}")]
    Transport(String),
    /// The credentials cannot be used.
    #[error("{path}: {problem}")]
    Credentials { path: String, problem: String },
}

impl KubeError {
    pub(crate) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    pub(crate) const fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }
}

fn transport(error: impl std::error::Error) -> KubeError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    KubeError::Transport(message)
}

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
pub(crate) struct Kube {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
}

type Result<T> = std::result::Result<T, KubeError>;

impl Kube {
    /// Reads the credentials from `pki`.
    pub(crate) fn new(port: u16, pki: &Path, identity: Identity) -> Result<Self> {
        let roots = Arc::new(roots(&pki.join("ca.crt"))?);
        let (chain, private) = identity.file();
        let (chain, key) = (certs(&pki.join(chain))?, key(&pki.join(private))?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(transport)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(transport)?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base: format!("https://127.0.0.1:{port}") })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn get_text(&self, path: &str) -> Result<Bytes> {
        self.collect(self.send(Method::GET, path, None).await?).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.json(Method::POST, path, Some(("application/json", object))).await
    }

    /// A JSON merge patch (RFC 7386).
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.json(Method::PATCH, path, Some(("application/merge-patch+json", patch))).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.json(Method::DELETE, path, Some(("application/json", options))).await
    }

    /// A watch; `path` has its query.
    pub(crate) async fn watch(&self, path: &str) -> Result<Watch> {
        let response = self.send(Method::GET, path, None).await?;
        Ok(Watch { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value> {
        let exchange = async { self.collect(self.send(method, path, body).await?).await };
        let bytes = tokio::time::timeout(LIMIT, exchange)
            .await
            .map_err(|_| KubeError::Transport(format!("no answer to {path}")))??;
        serde_json::from_slice(&bytes).map_err(transport)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(ACCEPT, "application/json")
            .header(
                hyper::header::USER_AGENT,
                concat!("bulkhead-host/", env!("CARGO_PKG_VERSION")),
            );
        let bytes = match body {
            Some((kind, value)) => {
                request = request.header(CONTENT_TYPE, kind);
                serde_json::to_vec(value).map_err(transport)?
            }
            None => Vec::new(),
        };
        let request = request.body(Full::new(Bytes::from(bytes))).map_err(transport)?;
        let response = self.client.request(request).await.map_err(transport)?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let body = self.collect(response).await?;
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |field: &str| status.get(field).and_then(Value::as_str).map(str::to_owned);
        Err(KubeError::Status {
            code: code.as_u16(),
            reason: text("reason").unwrap_or_default(),
            message: text("message").unwrap_or_else(|| format!("{path} failed")),
        })
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| KubeError::Transport(error.to_string()))?.to_bytes())
    }
}

/// A watch under way.
#[derive(Debug)]
pub(crate) struct Watch {
    body: Incoming,
    buffer: BytesMut,
}

/// One event of a watch.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) object: Value,
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(transport);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(KubeError::Transport("an event without an end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(transport(error)),
                None => return Ok(None),
            }
        }
    }
}

fn unusable(path: &Path, problem: impl ToString) -> KubeError {
    KubeError::Credentials { path: path.display().to_string(), problem: problem.to_string() }
}

/// The certificates in a PEM file.
pub(super) fn certs(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(path, error))
}

/// The key in a PEM file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, error))
}

/// The cluster's CA, as the one that is trusted.
pub(super) fn roots(path: &Path) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in certs(path)? {
        roots.add(cert).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}
