//! HTTP through the API server to pods and nodes, by way of a kubelet endpoint.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Client, Cluster, add_node, kubelet, pod, until};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

with_each_kubectl!(kubectl_proxies);

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A cluster whose node `n1` has the pod `web`.
async fn cluster() -> (Cluster, Client, u16) {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let port = kubelet::start(&cluster).await;
    add_node(&mut client, "n1", port).await;
    client.ok("POST", PODS, &pod("web", "1Mi")).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"] == "n1").await;
    (cluster, client, port)
}

#[tokio::test]
async fn requests_reach_pods_and_answers_come_back() {
    let (cluster, mut client, _) = cluster().await;
    let proxy = format!("{PODS}/web:8080/proxy");

    // Whatever the method, path, query and body are.
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let path = format!("{proxy}/a%2Fb/?watch=true&x=1");
        let headers = [
            ("authorization", "Bearer none"),
            ("impersonate-user", "kubernetes-admin"),
            ("impersonate-group", "system:masters"),
            ("x-own", "1"),
        ];
        let (code, told) = client.exchange(method, &path, &headers, vec![b'x'; 5 << 20]).await;
        assert_eq!(code, 200, "{told}");
        assert_eq!(told["method"], method);
        assert_eq!(told["path"], "/a%2Fb/?watch=true&x=1");
        assert_eq!(told["body"], 5 << 20);
        let headers = &told["headers"];
        assert_eq!(headers["x-own"], "1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        for own in ["authorization", "impersonate-user", "impersonate-group"] {
            assert!(headers[own].is_null(), "{own}: {told}");
        }
    }
    let (code, told) = client.get(&format!("{PODS}/https:web:443/proxy/secure")).await;
    assert_eq!((code, told["path"].as_str()), (200, Some("/secure")), "{told}");

    // A body of another server passes as it is.
    let gzip = [("accept-encoding", "gzip")];
    let large = client.send("GET", &format!("{proxy}/large"), &gzip, Bytes::new()).await.unwrap();
    assert!(large.headers().get("content-encoding").is_none());
    assert_eq!(large.into_body().collect().await.unwrap().to_bytes().len(), 1 << 20);

    for (path, code, to) in [
        ("", 301, format!("{proxy}/")),
        ("?a=b", 301, format!("{proxy}/?a=b")),
        ("/away", 302, format!("{proxy}/login")),
    ] {
        let path = format!("{proxy}{path}");
        let moved = client.send("GET", &path, &[], Bytes::new()).await.unwrap();
        assert_eq!(moved.status().as_u16(), code);
        assert_eq!(moved.headers()["location"], to.as_str());
        moved.into_body().collect().await.unwrap();
    }

    let mut stream = crate::common::connect(&cluster).await;
    let request = format!(
        "GET {proxy}/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let seen = crate::common::read_until(&mut stream, "\r\n\r\npod\n").await;
    assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains("upgrade: own\r\n"), "{seen}");
    let mut echoed = [0; 3];
    stream.write_all(b"\0\xffx").await.unwrap();
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\0\xffx");
}

#[tokio::test]
async fn a_service_is_reached_by_a_ready_pod() {
    let (_cluster, mut client, _) = cluster().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [
        {"name": "http", "port": 80, "targetPort": 8080}]}});
    let services = "/api/v1/namespaces/default/services";
    client.ok("POST", services, &service).await;
    let path = format!("{services}/web:http/proxy/by-name?x");
    let (code, status) = client.get(&path).await;
    assert_eq!(code, 503, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("no endpoints available for service \"web\""), "{message}");

    let target = json!({"kind": "Pod", "namespace": "default", "name": "web"});
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.1.2.3"], "conditions": {"ready": true}, "targetRef": target}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    client.ok("POST", slices, &slice).await;
    for name in ["web:http", "web:80", "http:web:http"] {
        let path = format!("{services}/{name}/proxy/by-name?x");
        let (code, told) = client.json("POST", &path, &json!({"a": 1})).await;
        assert_eq!((code, told["path"].as_str()), (200, Some("/by-name?x")), "{told}");
        assert_eq!(told["body"], 7);
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let (cluster, mut client, port) = cluster().await;
    for (path, code, words) in [
        ("/web:9/proxy/", 503, "error trying to reach service: connection refused"),
        ("/web:http/proxy/", 400, "\"http\" is no port number"),
        ("/ftp:web:21/proxy/", 400, "invalid pod request \"ftp:web:21\""),
        ("/none/proxy/", 404, "pods \"none\" not found"),
    ] {
        let (answered, status) = client.get(&format!("{PODS}{path}")).await;
        let message = status["message"].as_str().unwrap();
        assert!(answered == code && message.contains(words), "{path}: {answered} {message}");
    }
    assert_eq!(client.get("/api/v1/namespaces/default/configmaps/x/proxy/").await.0, 404);
    let mut nobody = cluster.client(None).await;
    assert_eq!(nobody.get(&format!("{PODS}/web/proxy/")).await.0, 403);

    // A node's paths are its own alone.
    let path = format!("/api/v1/nodes/n1:{port}/proxy/containerLogs/default/web/c?follow=1");
    let answer = client.send("GET", &path, &[], Bytes::new()).await.unwrap();
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "GET /nodes/n1/containerLogs/default/web/c?follow=1");
    let (code, status) = client.get("/api/v1/nodes/n1:22/proxy/").await;
    assert_eq!(code, 400, "{status}");
}

async fn kubectl_proxies(version: &str) {
    let (cluster, _client, _) = cluster().await;
    let kubectl = Kubectl::version(version, &cluster);
    let told = kubectl.run(&format!("get --raw {PODS}/web:8080/proxy/raw?q=1"));
    assert!(told.contains("\"path\":\"/raw?q=1\""), "{told}");
    assert_eq!(kubectl.run("get --raw /api/v1/nodes/n1/proxy/healthz"), "GET /nodes/n1/healthz");

    let mut process =
        kubectl.command(&["proxy", "--port=0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("Starting to serve on ").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let path = format!("{PODS}/web/proxy/by-kubectl");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("/by-kubectl"), "{answer}");
}
