//! Commands for nodes, and for what runs on them.

use serde_json::{Value, json};

use crate::common::hollow::Hollow;
use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, add_node, kubelet, until};

with_each_kubectl!(nodes_are_cordoned_tainted_and_drained, logs_are_asked_for_as_they_are_wanted);

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn nodes_are_cordoned_tainted_and_drained(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;
    let node = "/api/v1/nodes/n1";
    assert_eq!(kubectl.run("cordon n1"), "node/n1 cordoned\n");
    assert_eq!(client.get(node).await.1["spec"]["unschedulable"], true);
    assert!(kubectl.run("get nodes").contains("Ready,SchedulingDisabled"));
    assert_eq!(
        kubectl.run("get nodes --field-selector=spec.unschedulable=true -o name"),
        "node/n1\n"
    );
    assert_eq!(kubectl.run("uncordon n1"), "node/n1 uncordoned\n");
    assert_eq!(client.get(node).await.1["spec"].get("unschedulable"), None);

    assert_eq!(kubectl.run("taint node n2 only=others:NoSchedule"), "node/n2 tainted\n");
    let taints = client.get("/api/v1/nodes/n2").await.1["spec"]["taints"].clone();
    let expected = json!({"key": "only", "value": "others", "effect": "NoSchedule"});
    assert!(taints.as_array().unwrap().contains(&expected), "{taints}");
    kubectl.run("create deployment web --image=run:1 --replicas=2");
    kubectl.run("run alone --image=run:1");
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("wait --for=condition=Ready pod/alone --timeout=120s");
    let on = "get pods -o jsonpath={.items[*].spec.nodeName}";
    assert_eq!(kubectl.run(on), "n1 n1 n1", "the other's taint keeps them away");
    assert_eq!(kubectl.run("taint node n2 only-"), "node/n2 untainted\n");

    // A pod that nothing would make anew keeps its node until it may go.
    let refused = kubectl.output(&["drain", "n1"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("default/alone"), "{said}");
    let drained = kubectl.run("drain n1 --force --timeout=120s");
    assert!(
        drained.contains("pod/alone evicted") && drained.contains("node/n1 drained"),
        "{drained}"
    );
    kubectl.run("rollout status deployment/web --timeout=120s");
    until(&mut client, PODS, |pods| {
        let pods = pods["items"].as_array().unwrap();
        pods.len() == 2 && pods.iter().all(|pod| pod["spec"]["nodeName"] == "n2")
    })
    .await;
    kubectl.run("uncordon n1");
}

/// What the node's host is asked for is what it answers.
async fn logs_are_asked_for_as_they_are_wanted(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    let port = kubelet::start(&cluster).await;
    let mut pod = crate::common::pod("web", "1Mi");
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "d:1"}));
    client.ok("POST", PODS, &pod).await;
    add_node(&mut client, "n1", port).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"] == "n1").await;
    let running = json!({"status": {"phase": "Running"}});
    let path = format!("{PODS}/web/status");
    let merge = "application/merge-patch+json";
    let (code, answer): (u16, Value) = client.typed("PATCH", &path, merge, &running).await;
    assert_eq!(code, 200, "{answer}");
    for (flags, container, asked) in [
        ("-c d", "d", &[][..]),
        ("", "c", &[]),
        ("-f", "c", &["follow=true"]),
        ("-p", "c", &["previous=true"]),
        ("--tail=5 --timestamps", "c", &["tailLines=5", "timestamps=true"]),
        ("--since=1h --limit-bytes=9", "c", &["sinceSeconds=3600", "limitBytes=9"]),
        ("--since-time=2026-01-02T03:04:05Z", "c", &["sinceTime=2026-01-02T03%3A04%3A05Z"]),
    ] {
        let told = kubectl.run(format!("logs web {flags}").trim());
        let path = format!("GET /containerLogs/default/web/{container}?");
        assert!(told.starts_with(&path), "{flags}: {told}");
        assert!(asked.iter().all(|one| told.contains(one)), "{flags}: {told}");
    }
    let all = kubectl.run("logs -l app=web --all-containers --prefix");
    for container in ["c", "d"] {
        let line = format!("[pod/web/{container}] GET /containerLogs/default/web/{container}?");
        assert!(all.contains(&line), "{all}");
    }
    let said = kubectl.output(&["logs", "web", "-c", "none"]);
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("container none is not valid for pod web"), "{said}");
}
