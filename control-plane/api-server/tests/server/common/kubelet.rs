//! A host's kubelet endpoint, as far as the API server sees one: what it is asked for is its answer,
//! an upgraded connection is echoed, and one that becomes TCP leads to a web server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::Cluster;

/// What it answers to requests for what nodes use.
pub(crate) type Summaries = Arc<Mutex<Value>>;

/// Starts it with the cluster's credentials, and gives its port.
pub(crate) async fn start(cluster: &Cluster) -> u16 {
    start_measuring(cluster, &Summaries::default()).await
}

/// As [`start`]; what nodes use is what `summaries` says by then.
pub(crate) async fn start_measuring(cluster: &Cluster, summaries: &Summaries) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cluster.pki("ca.crt")).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), default_provider().into());
    let acceptor =
        tls(cluster, |config| config.with_client_cert_verifier(clients.build().unwrap()));
    let pods = tls(cluster, |config| config.with_no_client_auth());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let summaries = Arc::clone(summaries);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            let (pods, summaries) = (pods.clone(), Arc::clone(&summaries));
            let service =
                service_fn(move |request| answer(pods.clone(), Arc::clone(&summaries), request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving.with_upgrades());
        }
    });
    port
}

type WithVerifier = tokio_rustls::rustls::ConfigBuilder<
    ServerConfig,
    tokio_rustls::rustls::server::WantsServerCert,
>;
type WithVersions =
    tokio_rustls::rustls::ConfigBuilder<ServerConfig, tokio_rustls::rustls::WantsVerifier>;

fn tls(cluster: &Cluster, clients: impl FnOnce(WithVersions) -> WithVerifier) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(default_provider().into());
    let config = clients(config.with_safe_default_protocol_versions().unwrap()).with_single_cert(
        vec![CertificateDer::from_pem_file(cluster.pki("kubelet.crt")).unwrap()],
        PrivateKeyDer::from_pem_file(cluster.pki("kubelet.key")).unwrap(),
    );
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn upgraded_to(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("upgrade")?.to_str().unwrap().to_owned())
}

async fn answer(
    pods: TlsAcceptor,
    summaries: Summaries,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = format!("{} {}", request.method(), request.uri());
    let Some(protocol) = upgraded_to(request.headers()) else {
        let told = match asked.starts_with("GET /stats/summary?") {
            true => summaries.lock().unwrap().to_string(),
            false => asked,
        };
        return Ok(Response::new(Full::new(told.into())));
    };
    if asked.ends_with("port=9") {
        let refused = Response::builder().status(502).body("connection refused".into());
        return Ok(refused.unwrap());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let to_tcp = protocol == "tcp";
    let mut response =
        Response::builder().status(101).header("connection", "Upgrade").header("upgrade", protocol);
    for name in ["sec-websocket-protocol", "x-stream-protocol-version"] {
        if let Some(first) = request.headers().get(name) {
            response = response.header(name, first);
        }
    }
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        if asked.ends_with("port=443") {
            return web(pods.accept(stream).await.unwrap()).await;
        }
        if to_tcp { web(stream).await } else { echo(stream, &format!("{asked}\n")).await }
    });
    Ok(response.body(Full::default()).unwrap())
}

async fn echo(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    greeting: &str,
) {
    stream.write_all(greeting.as_bytes()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    // The client hangs up when it has seen enough.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// What runs in a pod: tells what it was asked as JSON, with the body's length; `/large` is large,
/// `/away` leads away, and an upgraded connection is echoed.
async fn web(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(async |mut request: Request<Incoming>| {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        if path == "/large" {
            return Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(vec![b'x'; 1 << 20])));
        }
        if path == "/away" {
            let away = Response::builder().status(302).header("location", "/login");
            return Ok(away.body(Full::default()).unwrap());
        }
        if let Some(protocol) = upgraded_to(request.headers()) {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                echo(TokioIo::new(upgrade.await.unwrap()), "pod\n").await;
            });
            let response = Response::builder().status(101).header("connection", "Upgrade");
            return Ok(response.header("upgrade", protocol).body(Full::default()).unwrap());
        }
        let headers: serde_json::Map<_, _> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
            .collect();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let told = json!({"method": method, "path": path, "headers": headers, "body": body.len()});
        let response = Response::builder().header("content-type", "application/json");
        Ok(response.body(Full::from(told.to_string())).unwrap())
    });
    // The client hangs up when it has seen enough.
    let _ =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}
