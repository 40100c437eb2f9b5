//! The kubelet's own HTTPS endpoint, for the cluster's API server alone: it must show a
//! certificate of the cluster's CA.

use std::path::Path;
use std::sync::Arc;

use bulkhead_host_api::ApiError;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Context;
use super::client::{KubeError, certs, key, roots};
use super::{port_forward, streams};
use crate::fault;

/// The endpoint, listening.
pub(super) struct Endpoint {
    listener: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1 with the credentials in `pki`.
    pub(super) async fn bind(pki: &Path) -> Result<Self, ApiError> {
        let tls = TlsAcceptor::from(Arc::new(tls(pki).map_err(fault::internal)?));
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

fn tls(pki: &Path) -> Result<rustls::ServerConfig, KubeError> {
    let failed = |problem: &dyn std::fmt::Display| KubeError::Credentials {
        path: pki.display().to_string(),
        problem: problem.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&pki.join("ca.crt"))?);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| failed(&error))?;
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certs(&pki.join("kubelet.crt"))?, key(&pki.join("kubelet.key"))?)
        .map_err(|error| failed(&error))
}

/// What the endpoint is asked for: `/VERB/NAMESPACE/POD/CONTAINER?…`; `portForward` has no container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
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

/// Verb and target of a request.
fn parse(path: &str, query: &str) -> Option<(String, Target)> {
    let mut parts = path.strip_prefix('/')?.split('/').map(decode);
    let mut part = || parts.next().flatten().filter(|part| !part.is_empty());
    let (verb, namespace, pod) = (part()?, part()?, part()?);
    let container = if verb == "portForward" { String::new() } else { part()? };
    if parts.next().is_some() {
        return None;
    }
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?))
        })
        .collect::<Option<_>>()?;
    Some((verb, Target { namespace, pod, container, query }))
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
    let parsed = parse(request.uri().path(), request.uri().query().unwrap_or_default());
    let Some((verb, target)) = parsed else {
        return text(StatusCode::NOT_FOUND, "no such path");
    };
    match verb.as_str() {
        "containerLogs" => streams::logs(&context, &target).await,
        "exec" => streams::exec(&context, target, request).await,
        "attach" => streams::attach(&context, target, request).await,
        "portForward" => port_forward::serve(&context, &target, request),
        _ => text(StatusCode::NOT_FOUND, "no such path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_apart_as_they_were_put_together() {
        let (verb, target) =
            parse("/exec/default/p/c", "command=sh&command=-c&command=echo+%2B%20x&tty=true")
                .unwrap();
        assert_eq!((verb.as_str(), target.pod.as_str()), ("exec", "p"));
        let commands: Vec<_> =
            target.query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.as_str()).collect();
        assert_eq!(commands, ["sh", "-c", "echo + x"]);
        assert!(target.flag("tty") && !target.flag("input"));
        let (_, forwarded) = parse("/portForward/default/p", "ports=80").unwrap();
        assert_eq!((forwarded.pod.as_str(), forwarded.container.as_str()), ("p", ""));
        assert_eq!(parse("/portForward/default/p/c", ""), None);
        assert_eq!(parse("/exec/default/p", ""), None);
        assert_eq!(parse("/exec/default/p/c/d", ""), None);
        assert_eq!(parse("/exec//p/c", ""), None);
    }
}
