//! The kubelet's own HTTPS endpoint, for the cluster's API server alone: it must show a
//! certificate of the cluster's CA.

use std::path::Path;
use std::sync::Arc;

use bulkhead_client::remote::credentials::{certificates, key, roots};
use bulkhead_host_api::ApiError;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Context;
use super::{port_forward, stats, streams};
use crate::fault;
use crate::vm::NodeState;

/// The endpoint, listening.
pub(super) struct Endpoint {
    listener: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1 with the credentials in `pki`.
    pub(super) async fn bind(pki: &Path) -> Result<Self, ApiError> {
        let tls = TlsAcceptor::from(Arc::new(tls(pki)?));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(fault::internal)?;
        let port = listener.local_addr().map_err(fault::internal)?.port();
        Ok(Self { listener, tls, port })
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Serves until aborted.
    pub(super) async fn serve(self, context: Arc<Context>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let (tls, context) = (self.tls.clone(), Arc::clone(&context));
            tokio::spawn(async move {
                // A failed handshake or connection concerns its client alone.
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let context = Arc::clone(&context);
                    async move { Ok::<_, std::convert::Infallible>(answer(context, request).await) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                drop(serving.await);
            });
        }
    }
}

fn tls(pki: &Path) -> Result<rustls::ServerConfig, ApiError> {
    let failed =
        |problem: &dyn std::fmt::Display| fault::internal(format!("{}: {problem}", pki.display()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&pki.join("ca.crt")).map_err(fault::internal)?);
    let chain = certificates(&pki.join("kubelet.crt")).map_err(fault::internal)?;
    let key = key(&pki.join("kubelet.key")).map_err(fault::internal)?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| failed(&error))?;
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| failed(&error))
}

/// What the endpoint is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// `/nodes/NODE/healthz`
    Health { node: String },
    /// `/nodes/NODE/pods`
    Pods { node: String },
    /// `/stats/summary?node=NODE&…`, of every node if none is named.
    Summaries { nodes: Vec<String> },
    /// `/VERB/NAMESPACE/POD/CONTAINER?…`, or the same below `/nodes/NODE`; some verbs have no container.
    Stream { verb: String, target: Target },
}

/// The container or the pod that is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The node that it must be on, if the path names one.
    pub(super) node: Option<String>,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) query: Vec<(String, String)>,
}

impl Target {
    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| matches!(value, "1" | "true"))
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn parse(path: &str, query: &str) -> Option<Asked> {
    let parts = path.strip_prefix('/')?.split('/').map(decode);
    let parts: Vec<String> = parts.collect::<Option<_>>()?;
    if parts.iter().any(String::is_empty) {
        return None;
    }
    let (node, parts) = match parts.as_slice() {
        [nodes, node, rest @ ..] if nodes == "nodes" => (Some(node.clone()), rest),
        all => (None, all),
    };
    let (verb, namespace, pod, container) = match (node, parts) {
        (Some(node), [path]) => {
            return match path.as_str() {
                "healthz" => Some(Asked::Health { node }),
                "pods" => Some(Asked::Pods { node }),
                _ => None,
            };
        }
        (None, [stats, summary]) if stats == "stats" && summary == "summary" => {
            let query = parse_query(query)?.into_iter();
            let nodes = query.filter(|(key, _)| key == "node").map(|(_, node)| node).collect();
            return Some(Asked::Summaries { nodes });
        }
        (node, [verb, namespace, pod]) if matches!(verb.as_str(), "portForward" | "connect") => {
            ((node, verb), namespace, pod, String::new())
        }
        (node, [verb, namespace, pod, container]) => {
            ((node, verb), namespace, pod, container.clone())
        }
        _ => return None,
    };
    let (node, verb) = verb;
    let (namespace, pod) = (namespace.clone(), pod.clone());
    Some(Asked::Stream {
        verb: verb.clone(),
        target: Target { node, namespace, pod, container, query: parse_query(query)? },
    })
}

/// The parameters of a query, in their order; `None` if they are not UTF-8.
fn parse_query(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?))
    });
    pairs.collect()
}

fn decode(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

pub(super) type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// Why a request is not served.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        text(refusal.status, refusal.message)
    }
}

/// A plain answer.
pub(super) fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    use http_body_util::BodyExt as _;
    let body = Full::new(Bytes::from(message.into())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}

async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Response<Body> {
    let none = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    match parse(path, query) {
        Some(Asked::Health { node }) => health(&context, &node),
        Some(Asked::Pods { node }) => {
            let list = json!({
                "kind": "PodList",
                "apiVersion": "v1",
                "metadata": {},
                "items": context.pods.on(&node),
            });
            let mut response = text(StatusCode::OK, list.to_string());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Some(Asked::Summaries { nodes }) => stats::summaries(&context, &nodes).await,
        Some(Asked::Stream { verb, target }) => match verb.as_str() {
            "containerLogs" => streams::logs(&context, &target).await,
            "exec" => streams::exec(&context, target, request).await,
            "attach" => streams::attach(&context, target, request).await,
            "portForward" => port_forward::serve(&context, &target, request),
            "connect" => port_forward::connect(&context, &target, request).await,
            _ => none(),
        },
        None => none(),
    }
}

/// Whether a node is up.
fn health(context: &Context, node: &str) -> Response<Body> {
    let is_up =
        context.node(node).is_some_and(|node| matches!(&*node.state().borrow(), NodeState::Up(_)));
    if is_up {
        text(StatusCode::OK, "ok")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("node {node} is not up"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(path: &str, query: &str) -> Option<(String, Target)> {
        match parse(path, query) {
            Some(Asked::Stream { verb, target }) => Some((verb, target)),
            _ => None,
        }
    }

    #[test]
    fn commands_come_apart_as_they_were_put_together() {
        let (verb, target) =
            stream("/exec/default/p/c", "command=sh&command=-c&command=echo+%2B%20x&tty=true")
                .unwrap();
        assert_eq!((verb.as_str(), target.pod.as_str()), ("exec", "p"));
        let commands: Vec<_> =
            target.query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.as_str()).collect();
        assert_eq!(commands, ["sh", "-c", "echo + x"]);
        assert!(target.flag("tty") && !target.flag("input"));
        let (_, forwarded) = stream("/portForward/default/p", "ports=80").unwrap();
        assert_eq!((forwarded.pod.as_str(), forwarded.container.as_str()), ("p", ""));
        for wrong in
            ["/portForward/default/p/c/d", "/exec/default/p", "/exec/default/p/c/d", "/exec//p/c"]
        {
            assert_eq!(parse(wrong, ""), None, "{wrong}");
        }
    }

    #[test]
    fn a_nodes_own_paths_lie_below_its_name() {
        let node = || "n1".to_owned();
        assert_eq!(parse("/nodes/n1/healthz", ""), Some(Asked::Health { node: node() }));
        assert_eq!(parse("/nodes/n1/pods", ""), Some(Asked::Pods { node: node() }));
        let (verb, target) = stream("/nodes/n1/containerLogs/default/p/c", "").unwrap();
        assert_eq!((verb.as_str(), target.node), ("containerLogs", Some(node())));
        for wrong in
            ["/healthz", "/nodes/n1", "/nodes/n1/", "/nodes/n1/other", "/nodes/n1/nodes/n2/pods"]
        {
            assert_eq!(parse(wrong, ""), None, "{wrong}");
        }
    }
}
