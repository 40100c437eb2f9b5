//! Logs, exec, attach and port-forward: the host's kubelet endpoint answers, this server passes it on.
//! What nodes and pods use it asks of the endpoint itself ([`crate::metrics`]).
//!
//! The connection to it is mutual TLS with the cluster's certificates. An upgraded connection
//! (WebSocket, SPDY) is copied byte for byte in both directions; its frames are the client's and the
//! endpoint's business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::body::ResponseBody;
use crate::metrics::Summaries;
use crate::object::{list, name, namespace, text};
use crate::options::Query;
use crate::status::{Result, Status};

/// Headers that make a connection a WebSocket or SPDY; the rest of a request's stays here.
const PASSED: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// The longest reason for a refusal that is passed on, in bytes.
const MAX_REASON: usize = 4 << 10;

/// The longest answer about what nodes use, in bytes: some 200 for each container.
const MAX_SUMMARIES: usize = 64 << 20;

/// How long measuring may take.
const MEASURING: Duration = Duration::from_secs(15);

/// The way to the hosts' kubelet endpoints.
pub struct Kubelets {
    tls: TlsConnector,
}

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelets").finish_non_exhaustive()
    }
}

impl Kubelets {
    /// Kubelet endpoints that trust, and are trusted by, `tls`.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(tls) }
    }

    /// Passes a `log`, `exec`, `attach` or `portforward` of `pod` to the endpoint of `node`.
    ///
    /// # Errors
    /// `BadRequest` if no container, or one that is not there, is named; `ServiceUnavailable` if
    /// the endpoint cannot be reached.
    pub async fn forward<B>(
        &self,
        subresource: &str,
        pod: &Value,
        node: &Value,
        mut request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
    {
        let query = request.uri().query().unwrap_or("");
        let parameters = Query::parse(query);
        let pod_path = format!("{}/{}", namespace(pod).unwrap_or_default(), name(pod));
        let container = || container(pod, parameters.get("container"));
        let uri = match subresource {
            "log" => format!("/containerLogs/{pod_path}/{}?{query}", container()?),
            "portforward" => format!("/portForward/{pod_path}?{query}"),
            other => format!("/{other}/{pod_path}/{}?{query}", container()?),
        };
        let upgrades = request.headers().contains_key(header::UPGRADE);
        if subresource != "log" && !upgrades {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let mut sender = self.connect(node).await?;
        let mut forwarded = to_endpoint(&uri)?;
        *forwarded.method_mut() =
            if subresource == "log" { Method::GET } else { request.method().clone() };
        if upgrades {
            for name in PASSED {
                for value in request.headers().get_all(&name) {
                    forwarded.headers_mut().append(name.clone(), value.clone());
                }
            }
        }
        let mut answer = sender.send_request(forwarded).await.map_err(|error| failed(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let far = hyper::upgrade::on(&mut answer);
            let near = hyper::upgrade::on(&mut request);
            tokio::spawn(splice(near, far));
            let (parts, _) = answer.into_parts();
            return Ok(Response::from_parts(parts, crate::body::full(Bytes::new())));
        }
        let (mut parts, body) = answer.into_parts();
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }

    /// Asks the endpoint of `node` what the nodes `names`, for all of which it speaks, and their
    /// pods use.
    ///
    /// # Errors
    /// `ServiceUnavailable` if the endpoint cannot be reached or does not answer as it should.
    pub(crate) async fn summaries(&self, node: &Value, names: &[String]) -> Result<Summaries> {
        let failed = |why: &dyn std::fmt::Display| {
            Status::unavailable(format!("the host's kubelet endpoint: /stats/summary: {why}"))
        };
        let exchange = async {
            let mut sender = self.connect(node).await?;
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(names.iter().map(|name| ("node", name)))
                .finish();
            let request = to_endpoint(&format!("/stats/summary?{query}"))?;
            let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), MAX_SUMMARIES).collect().await;
            let body = body.map_err(|error| failed(&error))?.to_bytes();
            if code != StatusCode::OK {
                return Err(failed(&code));
            }
            serde_json::from_slice(&body).map_err(|error| failed(&error))
        };
        let answered = tokio::time::timeout(MEASURING, exchange).await;
        answered.map_err(|_| failed(&"no answer in time"))?
    }

    /// A connection to `port` of `pod`, which is on `node`.
    ///
    /// # Errors
    /// `ServiceUnavailable` if the endpoint cannot be reached, or the port in the pod.
    pub async fn tcp(&self, pod: &Value, node: &Value, port: u16) -> Result<Upgraded> {
        let namespace = namespace(pod).unwrap_or_default();
        let mut request = to_endpoint(&format!("/connect/{namespace}/{}?port={port}", name(pod)))?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let mut sender = self.connect(node).await?;
        let mut answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let why = Limited::new(answer.into_body(), MAX_REASON).collect().await;
            let why = why.map(|why| why.to_bytes()).unwrap_or_default();
            let why = String::from_utf8_lossy(&why);
            return Err(Status::unavailable(format!("error trying to reach service: {why}")));
        }
        hyper::upgrade::on(&mut answer).await.map_err(|error| failed(&error))
    }

    /// A connection to the endpoint of `node`.
    ///
    /// # Errors
    /// `ServiceUnavailable` if the endpoint cannot be reached.
    pub async fn connect(&self, node: &Value) -> Result<http1::SendRequest<ResponseBody>> {
        let name = name(node);
        let port = port(node)?;
        let failed = |error: std::io::Error| {
            Status::unavailable(format!(
                "the kubelet endpoint of node {name} at 127.0.0.1:{port}: {error}; is its host running?"
            ))
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(failed)?;
        let localhost = ServerName::try_from("localhost").map_err(Status::internal)?;
        let stream = self.tls.connect(localhost, stream).await.map_err(failed)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Status::internal)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a kubelet endpoint");
            }
        });
        Ok(sender)
    }
}

fn failed(error: &hyper::Error) -> Status {
    Status::unavailable(format!("the host's kubelet endpoint: {error}"))
}

/// A request to an endpoint.
fn to_endpoint(uri: &str) -> Result<Request<ResponseBody>> {
    let mut request = Request::new(crate::body::full(Bytes::new()));
    *request.uri_mut() =
        uri.parse::<Uri>().map_err(|error| Status::bad_request(error.to_string()))?;
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    Ok(request)
}

/// Copies between two upgraded connections until either ends.
pub(crate) async fn splice(near: OnUpgrade, far: OnUpgrade) {
    let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
    // Either side may hang up at any time: that ends both.
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
}

/// The name of the node that a pod is on.
///
/// # Errors
/// `BadRequest` if it is on none.
pub(crate) fn node_name(pod: &Value) -> Result<&str> {
    match text(pod, "spec.nodeName") {
        "" => {
            let message = format!("pod {} does not have a host assigned", name(pod));
            Err(Status::bad_request(message))
        }
        node => Ok(node),
    }
}

/// The port of a node's endpoint.
///
/// # Errors
/// `ServiceUnavailable` if it has none.
pub(crate) fn port(node: &Value) -> Result<u16> {
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| {
        let name = name(node);
        Status::unavailable(format!("node {name} has no kubelet endpoint; is its host running?"))
    })
}

/// The container that is meant: the one named, the one that the pod calls its default, or the
/// only one.
fn container<'a>(pod: &'a Value, asked: Option<&'a str>) -> Result<&'a str> {
    let names = |list_name: &str| list(pod, list_name).iter().map(|one| text(one, "name"));
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    let all: Vec<&str> = lists.into_iter().flat_map(names).collect();
    let pod_name = name(pod);
    let annotated =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match asked.or(annotated) {
        Some(asked) if all.contains(&asked) => Ok(asked),
        Some(asked) => {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        }
        None => {
            let own: Vec<&str> = names("spec.containers").collect();
            match own.as_slice() {
                [one] => Ok(one),
                several => Err(Status::bad_request(format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    several.join(" ")
                ))),
            }
        }
    }
}
