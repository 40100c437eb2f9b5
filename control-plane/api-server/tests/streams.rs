//! Logs and exec reach the host's kubelet endpoint, over mutual TLS, with the upgrade intact.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Cluster, add_node, pod, until};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOCOL: &str = "v5.channel.k8s.io";

/// A kubelet endpoint that tells its path as the log, and echoes what an upgraded connection says.
async fn kubelet(cluster: &Cluster) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cluster.pki("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(cluster.pki("kubelet.crt")).unwrap()],
            PrivateKeyDer::from_pem_file(cluster.pki("kubelet.key")).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades(),
            );
        }
    });
    port
}

async fn answer(
    mut request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().to_string();
    if request.headers().get("upgrade").is_none() {
        return Ok(http::Response::new(Full::new(path.into())));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(format!("{path}\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        // The client hangs up when it has seen enough.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let response = http::Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", request.headers()["sec-websocket-protocol"].clone())
        .body(Full::default());
    Ok(response.unwrap())
}

#[tokio::test]
async fn logs_and_exec_pass_through() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let port = kubelet(&cluster).await;
    client.ok("POST", PODS, &pod("web", "1Mi")).await;
    assert_eq!(client.get(&format!("{PODS}/web/log")).await.0, 400, "it has no host yet");
    add_node(&mut client, "n1", port).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"] == "n1").await;

    let log = client
        .send("GET", &format!("{PODS}/web/log?tailLines=5"), &[], Bytes::new())
        .await
        .unwrap();
    assert_eq!(log.status(), 200);
    let log = log.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(log, "/containerLogs/default/web/c?tailLines=5");
    let (code, status) = client.get(&format!("{PODS}/web/log?container=none")).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (400, "container none is not valid for pod web")
    );
    assert_eq!(client.get(&format!("{PODS}/web/exec?command=sh")).await.0, 400, "no upgrade");

    // An exec, byte by byte: no library in between that could repair what the server breaks.
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(common::tls(&cluster, Some("admin"))));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = format!(
        "GET {PODS}/web/exec?command=sh&stdin=true HTTP/1.1\r\nHost: localhost\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let expected = "/exec/default/web/c?command=sh&stdin=true\n";
    let mut seen = String::new();
    while !seen.ends_with(expected) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains(PROTOCOL), "{seen}");
    let mut echoed = [0; 5];
    stream.write_all(&[0x82, 0, 0xff, 7, 9]).await.unwrap();
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, [0x82, 0, 0xff, 7, 9]);
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_named() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    add_node(&mut client, "n1", port).await;
    client.ok("POST", PODS, &pod("web", "1Mi")).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"] == "n1").await;
    let (code, status) = client.get(&format!("{PODS}/web/log")).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 503);
    assert!(message.contains("n1") && message.contains(&port.to_string()), "{message}");
}
