//! Logs and exec reach the host's kubelet endpoint, over mutual TLS, with the upgrade intact.

mod common;

use bytes::Bytes;
use common::kubelet;
use common::{Cluster, add_node, pod, until};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn logs_and_exec_pass_through() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let port = kubelet::start(&cluster).await;
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
    assert_eq!(log, "GET /containerLogs/default/web/c?tailLines=5");
    let (code, status) = client.get(&format!("{PODS}/web/log?container=none")).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (400, "container none is not valid for pod web")
    );
    assert_eq!(client.get(&format!("{PODS}/web/exec?command=sh")).await.0, 400, "no upgrade");

    // Byte by byte: no library in between that could repair what the server breaks.
    let exec = format!("{PODS}/web/exec?command=sh&stdin=true");
    let websocket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
    let spdy = "Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                X-Stream-Protocol-Version: v3.channel.k8s.io\r\n";
    for (method, headers, agreed) in [
        ("GET", websocket, "sec-websocket-protocol: v5.channel.k8s.io\r\n"),
        ("POST", spdy, "x-stream-protocol-version: v4.channel.k8s.io\r\n"),
    ] {
        let mut stream = common::connect(&cluster).await;
        let request = format!(
            "{method} {exec} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let expected = format!("{method} /exec/default/web/c?command=sh&stdin=true\n");
        let seen = common::read_until(&mut stream, &expected).await;
        assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains(agreed), "{seen}");
        let mut echoed = [0; 5];
        stream.write_all(&[0x82, 0, 0xff, 7, 9]).await.unwrap();
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, [0x82, 0, 0xff, 7, 9]);
    }
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
