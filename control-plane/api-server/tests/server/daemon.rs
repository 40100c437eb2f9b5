//! DaemonSets with kubectl, on hollow nodes.

use std::collections::BTreeSet;

use crate::common::hollow::Hollow;
use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, add_node, until};
use serde_json::Value;

with_each_kubectl!(a_daemon_set_follows_the_nodes_and_is_rolled_out);

const LOGS: &str = "/apis/apps/v1/namespaces/default/daemonsets/logs";
const PODS: &str = "/api/v1/namespaces/default/pods";

const SET: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec:
      nodeSelector: {logs: 'yes'}
      containers: [{name: c, image: 'run:1'}]
";

/// The nodes of the pods that are bound and not going.
fn nodes(pods: &Value) -> Vec<&str> {
    let pods = pods["items"].as_array().unwrap().iter();
    let there = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let mut nodes: Vec<&str> = there.filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    nodes.sort_unstable();
    nodes
}

async fn a_daemon_set_follows_the_nodes_and_is_rolled_out(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2", "n3"]).await;
    let mut client = cluster.admin().await;
    let images = || {
        let shown = kubectl.run("get pods -o jsonpath={.items[*].spec.containers[0].image}");
        shown.split(' ').map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let rolled_out = || {
        let said = kubectl.run("rollout status daemonset/logs --timeout=120s");
        assert!(said.contains("successfully rolled out"), "{said}");
    };

    kubectl.run("label nodes n1 n2 logs=yes");
    // A cordon keeps other pods away, not these.
    kubectl.run("cordon n2");
    kubectl.run(&format!("apply -f {}", kubectl.file("logs.yaml", SET)));
    until(&mut client, PODS, |pods| nodes(pods) == ["n1", "n2"]).await;
    rolled_out();
    let table = kubectl.run("get ds -o wide");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["logs", "2", "2", "2", "2", "2", "logs=yes"], "{table}");
    assert_eq!(row[8..], ["c", "run:1", "app=logs"], "{table}");

    // Nodes come, change and go.
    add_node(&mut client, "n4", 1).await;
    kubectl.run("label node n4 logs=yes");
    until(&mut client, PODS, |pods| nodes(pods) == ["n1", "n2", "n4"]).await;
    kubectl.run("label node n1 logs-");
    until(&mut client, PODS, |pods| nodes(pods) == ["n2", "n4"]).await;
    kubectl.run("taint node n4 only=others:NoExecute");
    until(&mut client, PODS, |pods| nodes(pods) == ["n2"]).await;
    kubectl.run("taint node n4 only-");
    until(&mut client, LOGS, |set| set["status"]["numberAvailable"] == 2).await;
    let drained = kubectl.run("drain n2 --ignore-daemonsets --timeout=120s");
    assert!(drained.contains("drained"), "{drained}");
    assert_eq!(nodes(&client.get(PODS).await.1), ["n2", "n4"]);

    kubectl.run("set image daemonset/logs c=run:2");
    rolled_out();
    assert_eq!(images(), BTreeSet::from(["run:2".into()]));
    let history = kubectl.run("rollout history daemonset/logs");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    kubectl.run("rollout undo daemonset/logs");
    rolled_out();
    assert_eq!(images(), BTreeSet::from(["run:1".into()]));
    let history = kubectl.run("rollout history daemonset/logs");
    assert!(!history.contains("\n1 ") && history.contains("\n3 "), "{history}");
    kubectl.run("rollout restart daemonset/logs");
    rolled_out();
    let described = kubectl.run("describe daemonset logs");
    assert!(described.contains("Created pod: logs-"), "{described}");

    // One that does not start stops the rollout.
    kubectl.run("set image daemonset/logs c=stuck:1");
    let stuck = until(&mut client, LOGS, |set| set["status"]["updatedNumberScheduled"] == 1).await;
    assert_eq!(stuck["status"]["desiredNumberScheduled"], 2);
    assert_eq!(images(), BTreeSet::from(["run:1".into(), "stuck:1".into()]));
    kubectl.run("delete daemonset logs --timeout=120s");
    until(&mut client, PODS, |pods| pods["items"].as_array().unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surge_starts_the_new_first_and_what_fails_is_replaced() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let set = SET.replace("      nodeSelector: {logs: 'yes'}\n", "").replace(
        "spec:\n  selector",
        "spec:\n  updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}\n  selector",
    );
    kubectl.run(&format!("apply -f {}", kubectl.file("logs.yaml", &set)));
    until(&mut client, LOGS, |set| set["status"]["numberAvailable"] == 1).await;
    kubectl.run("set image daemonset/logs c=stuck:1");
    let pods = until(&mut client, PODS, |pods| nodes(pods) == ["n1", "n1"]).await;
    let running = |pod: &&Value| pod["status"]["phase"] == "Running";
    let running: Vec<&Value> = pods["items"].as_array().unwrap().iter().filter(running).collect();
    assert_eq!(running.len(), 1, "the old one: {pods}");
    assert_eq!(running[0]["spec"]["containers"][0]["image"], "run:1");
    kubectl.run("set image daemonset/logs c=run:2");
    kubectl.run("rollout status daemonset/logs --timeout=120s");
    // The old ones go when the new one is there.
    until(&mut client, PODS, |pods| {
        let pods = pods["items"].as_array().unwrap();
        pods.len() == 1 && pods[0]["spec"]["containers"][0]["image"] == "run:2"
    })
    .await;

    kubectl.run("set image daemonset/logs c=exit-1:1");
    let events = "/api/v1/namespaces/default/events?fieldSelector=reason%3DFailedDaemonPod";
    until(&mut client, events, |events| events["items"].as_array().unwrap().len() > 1).await;
}
