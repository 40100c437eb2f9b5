//! The management API's client: one HTTP/1.1 connection per request, on a unix socket or on TCP
//! with a bearer token.
//!
//! Requests that take long answer with lines of JSON, which [`Task`] reads one by one. Dropping
//! any of these futures closes the connection; the daemon finishes what it has begun.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::{
    ApiError, ClusterConfig, ClusterStatus, HostInfo, ImageSummary, NodeRequest, Progress,
    PullRequest, RotatedKey,
};

/// The `Upgrade` protocol of a node's console.
pub const CONSOLE_PROTOCOL: &str = "bulkhead-console";

/// The longest answer or progress line that the client takes, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket, whose file mode says who may connect.
    Unix(PathBuf),
    /// TCP, for a daemon inside an emulated host.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// The bearer token.
        token: String,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "{address}"),
        }
    }
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("the host daemon at {endpoint} cannot be reached: {source}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon refused or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection broke in the middle.
    #[error("the host daemon went away in the middle of a request: {0}")]
    Interrupted(String),
    /// The answer is not one of this API.
    #[error("the host daemon at {endpoint} gave an answer that is none: {problem}")]
    Malformed {
        /// Where.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The body to be sent could not be read.
    #[error(transparent)]
    Body(std::io::Error),
}

/// A client of one daemon. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

type Body = BoxBody<Bytes, std::io::Error>;
type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the daemon at `endpoint`; connects at the first request.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// A client of the daemon that listens on the unix socket `path`.
    #[must_use]
    pub fn unix(path: &Path) -> Self {
        Self::new(Endpoint::Unix(path.to_owned()))
    }

    /// The daemon and its machine.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn host(&self) -> Result<HostInfo> {
        self.get("/v1/host").await
    }

    /// Every cluster, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn clusters(&self) -> Result<Vec<ClusterStatus>> {
        self.get("/v1/clusters").await
    }

    /// One cluster.
    ///
    /// # Errors
    /// [`ClientError::Api`] with `NotFound` if there is none of that name.
    pub async fn cluster(&self, name: &str) -> Result<ClusterStatus> {
        self.get(&format!("/v1/clusters/{}", encode(name))).await
    }

    /// The admin's kubeconfig, YAML.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kubeconfig(&self, name: &str) -> Result<String> {
        let path = format!("/v1/clusters/{}/kubeconfig", encode(name));
        let response = self.send(Method::GET, &path, None).await?;
        String::from_utf8(self.collect(response).await?).map_err(|error| self.malformed(error))
    }

    /// Creates a cluster; done, its [`ClusterStatus`].
    ///
    /// # Errors
    /// [`ClientError`], as every long request: at once, or from [`Task`].
    pub async fn create_cluster(&self, config: &ClusterConfig) -> Result<Task> {
        self.task(Method::POST, "/v1/clusters", Some(json(config)?)).await
    }

    /// Deletes a cluster with everything of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_cluster(&self, name: &str) -> Result<Task> {
        self.task(Method::DELETE, &format!("/v1/clusters/{}", encode(name)), None).await
    }

    /// Starts a stopped cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_cluster(&self, name: &str) -> Result<Task> {
        self.task(Method::POST, &format!("/v1/clusters/{}/start", encode(name)), None).await
    }

    /// Stops a cluster; its state is kept.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stop_cluster(&self, name: &str) -> Result<Task> {
        self.task(Method::POST, &format!("/v1/clusters/{}/stop", encode(name)), None).await
    }

    /// A backup of a cluster: its length in bytes, and the bytes.
    ///
    /// # Errors
    /// [`ClientError`]; of the bytes, an I/O error if the connection breaks before their end.
    pub async fn backup_cluster(
        &self,
        name: &str,
    ) -> Result<(u64, impl AsyncRead + Send + Unpin + use<>)> {
        let path = format!("/v1/clusters/{}/backup", encode(name));
        let response = self.send(Method::GET, &path, None).await?;
        let length = hyper::body::Body::size_hint(response.body()).exact();
        let length = length.ok_or_else(|| self.malformed("a backup without a length"))?;
        Ok((length, body_reader(response.into_body())))
    }

    /// Makes the cluster `name` of a backup; done, its [`ClusterStatus`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore_cluster(
        &self,
        name: &str,
        backup: impl AsyncRead + Send + Sync + Unpin + 'static,
    ) -> Result<Task> {
        let path = format!("/v1/clusters/{}/restore", encode(name));
        let body = ("application/octet-stream", reader_body(backup));
        self.task(Method::POST, &path, Some(body)).await
    }

    /// Has a cluster's secrets encrypted with a new key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rotate_secrets_key(&self, name: &str) -> Result<RotatedKey> {
        let path = format!("/v1/clusters/{}/rotate-secrets-key", encode(name));
        let response = self.send(Method::POST, &path, None).await?;
        let body = self.collect(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(error))
    }

    /// Adds nodes to a cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_nodes(&self, name: &str, request: &NodeRequest) -> Result<Task> {
        let path = format!("/v1/clusters/{}/nodes", encode(name));
        self.task(Method::POST, &path, Some(json(request)?)).await
    }

    /// Removes a node from a cluster, its pods with it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_node(&self, name: &str, node: &str) -> Result<Task> {
        let path = format!("/v1/clusters/{}/nodes/{}", encode(name), encode(node));
        self.task(Method::DELETE, &path, None).await
    }

    /// A node's console: what it wrote since its monitor started, and with `follow` what it goes
    /// on to write, as raw bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn console(
        &self,
        name: &str,
        node: &str,
        follow: bool,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let path =
            format!("/v1/clusters/{}/nodes/{}/console?follow={follow}", encode(name), encode(node));
        let response = self.send(Method::GET, &path, None).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.malformed(format!("status {} for a console", response.status())));
        }
        let stream = hyper::upgrade::on(response).await.map_err(|error| interrupted(&error))?;
        Ok(TokioIo::new(stream))
    }

    /// Every image in the store.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn images(&self) -> Result<Vec<ImageSummary>> {
        self.get("/v1/images").await
    }

    /// Pulls an image from a registry; done, its [`ImageSummary`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pull_image(&self, request: &PullRequest) -> Result<Task> {
        self.task(Method::POST, "/v1/images/pull", Some(json(request)?)).await
    }

    /// Loads an image from the bytes of an OCI layout's or a docker-archive's tar, under `name` if
    /// given and under the names in the archive if not; done, its [`ImageSummary`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn load_image(
        &self,
        name: Option<&str>,
        archive: impl AsyncRead + Send + Sync + Unpin + 'static,
    ) -> Result<Task> {
        let path = match name {
            Some(name) => format!("/v1/images/load?name={}", encode(name)),
            None => "/v1/images/load".to_owned(),
        };
        self.task(Method::POST, &path, Some(("application/x-tar", reader_body(archive)))).await
    }

    /// Removes an image by one of its references or its id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let path = format!("/v1/images/{}", encode(reference));
        let response = self.send(Method::DELETE, &path, None).await?;
        self.collect(response).await.map(drop)
    }

    /// Stops every cluster, then the daemon. Clusters that were running start again with it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&self) -> Result<Task> {
        self.task(Method::POST, "/v1/shutdown", None).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(Method::GET, path, None).await?;
        let body = self.collect(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(error))
    }

    async fn task(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Body)>,
    ) -> Result<Task> {
        let response = self.send(method, path, body).await?;
        Ok(Task { client: self.clone(), body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Sends a request and turns every answer that is not a success into [`ClientError::Api`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Body)>,
    ) -> Result<Response<Incoming>> {
        let unreachable =
            |source| ClientError::Unreachable { endpoint: self.endpoint.to_string(), source };
        let mut request = Request::builder().method(method).uri(path).header(HOST, "bulkhead");
        if path.contains("/console?") {
            request = request.header(CONNECTION, "upgrade").header(UPGRADE, CONSOLE_PROTOCOL);
        }
        let mut sender = match &self.endpoint {
            Endpoint::Unix(path) => {
                connect(UnixStream::connect(path).await.map_err(unreachable)?).await?
            }
            Endpoint::Tcp { address, token } => {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
                connect(TcpStream::connect(address).await.map_err(unreachable)?).await?
            }
        };
        let body = match body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, kind);
                body
            }
            None => full(Vec::new()),
        };
        let request = request.body(body).map_err(|error| self.malformed(error))?;
        let response = sender.send_request(request).await.map_err(|error| interrupted(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = self.collect(response).await?;
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(self.malformed(format!("status {status} without an error"))),
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Vec<u8>> {
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let body =
            body.collect().await.map_err(|error| ClientError::Interrupted(error.to_string()))?;
        Ok(body.to_bytes().to_vec())
    }

    fn malformed(&self, problem: impl ToString) -> ClientError {
        ClientError::Malformed { endpoint: self.endpoint.to_string(), problem: problem.to_string() }
    }
}

/// A long request under way.
#[derive(Debug)]
pub struct Task {
    client: Client,
    body: Incoming,
    buffer: BytesMut,
}

impl Task {
    /// The next line; the last is [`Progress::Done`] or [`Progress::Failed`].
    ///
    /// # Errors
    /// [`ClientError::Interrupted`] if the connection ended before such a line.
    pub async fn next(&mut self) -> Result<Progress> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map_err(|error| self.client.malformed(error));
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(self.client.malformed("a progress line without an end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(interrupted(&error)),
                None => return Err(ClientError::Interrupted("the answer broke off".into())),
            }
        }
    }

    /// Reads to the end, hands every step to `step` (message, done, total) and returns what
    /// [`Progress::Done`] carries.
    ///
    /// # Errors
    /// [`ClientError::Api`] for [`Progress::Failed`], else as [`Task::next`].
    pub async fn finish(mut self, mut step: impl FnMut(&str, u64, u64)) -> Result<Value> {
        loop {
            match self.next().await? {
                Progress::Step { message, done, total } => step(&message, done, total),
                Progress::Done(value) => return Ok(value),
                Progress::Failed(error) => return Err(error.into()),
            }
        }
    }
}

async fn connect(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<http1::SendRequest<Body>> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| interrupted(&error))?;
    // A failed connection shows itself at the request that waits on it.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

fn interrupted(error: &hyper::Error) -> ClientError {
    ClientError::Interrupted(error.to_string())
}

fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string()
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

fn json<T: Serialize>(value: &T) -> Result<(&'static str, Body)> {
    let bytes = serde_json::to_vec(value).map_err(|error| ClientError::Body(error.into()))?;
    Ok(("application/json", full(bytes)))
}

/// Reads a body as it comes.
fn body_reader(body: Incoming) -> impl AsyncRead + Send + Unpin {
    let (reader, mut writer) = tokio::io::duplex(256 << 10);
    tokio::spawn(async move {
        let mut body = body;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            // Nobody reads any more, if it fails.
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &data).await.is_err() {
                return;
            }
        }
    });
    reader
}

/// A body that is read from `reader` in pieces.
fn reader_body(reader: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    let (mut sender, body) = http_body_util::channel::Channel::new(4);
    tokio::spawn(async move {
        let mut reader = reader;
        loop {
            let mut piece = BytesMut::with_capacity(256 << 10);
            match reader.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) => {
                    if sender.send_data(piece.freeze()).await.is_err() {
                        return;
                    }
                }
                Err(error) => return sender.abort(error),
            }
        }
    });
    BoxBody::new(body)
}
