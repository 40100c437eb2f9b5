//! Requests to an API server, JSON in, JSON out: HTTP/1.1 over mutual TLS. A watch has a
//! connection of its own for as long as it lasts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::credentials::{self, CredentialsError};
use super::events::Events;
use crate::client::ClientError;

/// The longest answer, and the longest event of a watch, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 20;
/// How long an answer may take; a watch's is not limited.
const LIMIT: Duration = Duration::from_secs(30);

/// Where an API server is, and who asks it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// A name that its certificate has.
    pub name: String,
    /// PEM file with the authority that signed its certificate.
    pub authority: PathBuf,
    /// PEM file with the client's certificate.
    pub certificate: PathBuf,
    /// PEM file with the key of that.
    pub key: PathBuf,
    /// What the client calls itself (`User-Agent`).
    pub agent: String,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server refused, with a `Status`.
    #[error("{message} ({code} {reason})")]
    Status {
        /// The HTTP status.
        code: u16,
        /// The status' reason: `NotFound`, `AlreadyExists`, …
        reason: String,
        /// The status' message.
        message: String,
    },
    /// It could not be asked, or did not answer as it should.
    #[error("the cluster's API server: {0}")]
    Transport(String),
}

impl ConnectionError {
    /// Whether the object is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether the object is there already, or is another by now.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// A failure of the transport, with what caused it.
    pub(super) fn transport(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::Transport(message)
    }
}

impl From<ConnectionError> for ClientError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Status { code, reason, message } => Self { code, reason, message },
            ConnectionError::Transport(message) => super::transport(&message),
        }
    }
}

type Result<T> = std::result::Result<T, ConnectionError>;

/// Connections to an API server. Cheap to clone; those that are open are shared and kept.
#[derive(Debug, Clone)]
pub struct Connection {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: Arc<str>,
    agent: Arc<str>,
}

impl Connection {
    /// A client of this server; it is not asked yet.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn new(server: &Server) -> std::result::Result<Self, CredentialsError> {
        let http = Http::builder(TokioExecutor::new()).build(credentials::connector(server)?);
        let base = format!("https://{}", server.address).into();
        Ok(Self { http, base, agent: server.agent.as_str().into() })
    }

    /// What is answered to a request, in JSON. A body goes with its media type; `path` may have a
    /// query.
    ///
    /// # Errors
    /// [`ConnectionError`]; an answer that is none of success is one.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| ConnectionError::transport(&error))
    }

    /// The same for an answer that is something else.
    ///
    /// # Errors
    /// Those of [`json`](Self::json).
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Bytes> {
        let exchange = async { collect(self.send(method, path, body).await?).await };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .map_err(|_| ConnectionError::Transport(format!("no answer to {path}")))?
    }

    /// A watch: `path` has its query.
    ///
    /// # Errors
    /// Those of [`json`](Self::json).
    pub async fn events(&self, path: &str) -> Result<Events> {
        Ok(Events::new(self.send(Method::GET, path, None).await?.into_body()))
    }

    /// Sends a request, and turns an answer that is none of success into an error.
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
            .header(USER_AGENT, &*self.agent);
        let bytes = match body {
            Some((kind, value)) => {
                request = request.header(CONTENT_TYPE, kind);
                serde_json::to_vec(value).map_err(|error| ConnectionError::transport(&error))?
            }
            None => Vec::new(),
        };
        let request = request
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| ConnectionError::transport(&error))?;
        let answered = self.http.request(request).await;
        let response = answered.map_err(|error| ConnectionError::transport(&error))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let status: Value = serde_json::from_slice(&collect(response).await?).unwrap_or_default();
        let text = |field| status.get(field).and_then(Value::as_str).map(str::to_owned);
        Err(ConnectionError::Status {
            code: code.as_u16(),
            reason: text("reason").unwrap_or_default(),
            message: text("message").unwrap_or_else(|| format!("{path} failed")),
        })
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok(body.map_err(|error| ConnectionError::transport(&*error))?.to_bytes())
}
