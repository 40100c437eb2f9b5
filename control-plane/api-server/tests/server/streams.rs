//! Logs, exec and requests for metrics reach the host's kubelet endpoint, over mutual TLS, with the
//! upgrade intact.

use crate::common::kubectl::{Kubectl, NEWEST, OLDER};
use crate::common::kubelet;
use crate::common::{Cluster, add_node, pod, until, unused_port};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        let mut stream = crate::common::connect(&cluster).await;
        let request = format!(
            "{method} {exec} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let expected = format!("{method} /exec/default/web/c?command=sh&stdin=true\n");
        let seen = crate::common::read_until(&mut stream, &expected).await;
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
    let (_socket, port) = unused_port();
    add_node(&mut client, "n1", port).await;
    client.ok("POST", PODS, &pod("web", "1Mi")).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"] == "n1").await;
    let (code, status) = client.get(&format!("{PODS}/web/log")).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 503);
    assert!(message.contains("n1") && message.contains(&port.to_string()), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_added_to_a_pod_to_look_at_it() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let mut client = cluster.admin().await;
    let port = kubelet::start(&cluster).await;
    let mut early = pod("web", "1Mi");
    early["spec"]["ephemeralContainers"] = json!([{"name": "look", "image": "busybox:1"}]);
    let (code, refused) = client.json("POST", PODS, &early).await;
    assert_eq!(
        (code, &refused["details"]["causes"][0]["field"]),
        (422, &json!("spec.ephemeralContainers"))
    );
    client.ok("POST", PODS, &pod("web", "1Mi")).await;
    add_node(&mut client, "n1", port).await;
    let web = format!("{PODS}/web");
    until(&mut client, &web, |pod| pod["spec"]["nodeName"] == "n1").await;

    kubectl.run("debug web --image=busybox:1 -c look --target=c");
    let seen = client.ok("GET", &format!("{web}/ephemeralcontainers"), &Value::Null).await;
    let container = &seen["spec"]["ephemeralContainers"][0];
    assert_eq!(
        (&container["name"], &container["targetContainerName"]),
        (&json!("look"), &json!("c"))
    );
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    let managers = seen["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|one| one["subresource"] == "ephemeralcontainers"), "{seen}");

    // What is there stays, and nothing else is changed by this way, nor they by another.
    let mut changed = seen.clone();
    changed["spec"]["ephemeralContainers"][0]["image"] = "other:1".into();
    for path in [format!("{web}/ephemeralcontainers"), web.clone()] {
        let (code, refused) = client.json("PUT", &path, &changed).await;
        assert_eq!(code, 422, "{refused}");
    }
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ephemeralContainers": [
        {"name": "again", "image": "busybox:1"}]}});
    let merge = "application/strategic-merge-patch+json";
    let path = format!("{web}/ephemeralcontainers");
    let (code, patched) = client.typed("PATCH", &path, merge, &patch).await;
    assert_eq!((code, &patched["metadata"]["labels"]["a"]), (200, &Value::Null), "{patched}");
    assert_eq!(patched["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);

    let path = format!("{web}/log?container=again");
    let log = client.send("GET", &path, &[], Bytes::new()).await.unwrap();
    let log = log.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(log, "GET /containerLogs/default/web/again?container=again");
}

// kubectl waits for the endpoint, which goes on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_what_the_hosts_say_of_their_own() {
    const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
    const PODS_METRICS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let summaries = kubelet::Summaries::default();
    let port = kubelet::start_measuring(&cluster, &summaries).await;
    add_node(&mut client, "n1", port).await;
    let web = client.ok("POST", PODS, &pod("web", "1Mi")).await;
    let other = client.ok("POST", PODS, &pod("other", "1Mi")).await;
    for name in ["web", "other"] {
        let path = format!("{PODS}/{name}");
        until(&mut client, &path, |pod| pod["spec"]["nodeName"] == "n1").await;
    }
    // A node of a host that is down.
    let (_socket, unused) = unused_port();
    add_node(&mut client, "n2", unused).await;

    let usage = |cpu: u64, memory: u64| {
        json!({
            "cpu": {"time": "2026-01-02T03:04:05Z", "usageNanoCores": cpu,
                "usageCoreNanoSeconds": 1, "windowNanoSeconds": 10_500_000_000_u64},
            "memory": {"time": "2026-01-02T03:04:05Z", "workingSetBytes": memory},
        })
    };
    let container = |name: &str| {
        let mut container = usage(250_000_000, 8 << 20);
        container["name"] = name.into();
        container
    };
    let summary = |node: &str, pods: Value| {
        let mut of_node = usage(1_500_000_000, 64 << 20);
        of_node["nodeName"] = node.into();
        json!({"node": of_node, "pods": pods})
    };
    let measured = |pod: &Value| {
        json!({"podRef": {"name": "x", "namespace": "y", "uid": pod["metadata"]["uid"]},
            "containers": [container("c"), container("d")]})
    };
    *summaries.lock().unwrap() = json!({"items": [
        summary("n1", json!([measured(&web)])),
        // Of a node that is not this host's, with a pod that is not on it.
        summary("n2", json!([measured(&other)])),
    ]});

    let nodes = client.ok("GET", NODES, &Value::Null).await;
    assert_eq!(nodes["kind"], "NodeMetricsList");
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(nodes["items"][0]["metadata"]["name"], "n1");
    assert_eq!(nodes["items"][0]["usage"], json!({"cpu": "1500000000n", "memory": "65536Ki"}));
    assert_eq!(nodes["items"][0]["window"], "10.500s");

    let pods = client.ok("GET", PODS_METRICS, &Value::Null).await;
    assert_eq!(pods["items"].as_array().unwrap().len(), 1, "{pods}");
    let metrics = client.ok("GET", &format!("{PODS_METRICS}/web"), &Value::Null).await;
    assert_eq!(metrics["metadata"]["labels"]["app"], "web");
    assert_eq!(metrics["containers"][1]["name"], "d");
    let count = async |client: &mut crate::common::Client, query: &str| {
        let path = format!("/apis/metrics.k8s.io/v1beta1/pods?{query}");
        client.ok("GET", &path, &Value::Null).await["items"].as_array().unwrap().len()
    };
    assert_eq!(count(&mut client, "labelSelector=app%3Dweb").await, 1);
    assert_eq!(count(&mut client, "labelSelector=app%3Dother").await, 0);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, table) = client.exchange("GET", PODS_METRICS, &table, Vec::new()).await;
    assert_eq!(table["rows"][0]["cells"], json!(["web", "500000000n", "16384Ki", "10.500s"]));

    for (path, resource, name) in [
        (format!("{NODES}/n2"), "nodemetrics", "n2"),
        (format!("{PODS_METRICS}/other"), "podmetrics", "default/other"),
    ] {
        let (code, status) = client.get(&path).await;
        let expected = format!("{resource}.metrics.k8s.io \"{name}\" not found");
        assert_eq!((code, status["message"].as_str()), (404, Some(&*expected)));
    }
    let (code, _) = client.get(&format!("{NODES}?watch=1")).await;
    assert_eq!(code, 405);

    for version in [NEWEST, OLDER] {
        let kubectl = Kubectl::version(version, &cluster);
        let rows = |line: &str| -> Vec<Vec<String>> {
            let printed = kubectl.run(line);
            printed.lines().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
        };
        // Of 2 processors and 1 GiB; a node that is not measured is unknown.
        let nodes = rows("top nodes --no-headers");
        assert_eq!(nodes[0], ["n1", "1500m", "75%", "64Mi", "6%"]);
        assert_eq!(nodes[1][..2], ["n2", "<unknown>"]);
        assert_eq!(rows("top pods --no-headers"), [["web", "500m", "16Mi"]]);
        let containers = rows("top pods --containers -l app=web --no-headers");
        assert_eq!(containers, [["web", "c", "250m", "8Mi"], ["web", "d", "250m", "8Mi"]]);
    }
}
