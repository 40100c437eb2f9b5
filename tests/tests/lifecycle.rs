//! A cluster's life: create, look, stop, start, grow, delete, and what is left then: nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_tests::{Cluster, Home, Outcome, until};
use serde_json::Value;

/// Node name → (address, ready), as kubectl shows them.
fn nodes(cluster: &Cluster<'_>) -> BTreeMap<String, (String, bool)> {
    let list = cluster.kubectl().run(&["get", "nodes", "-o", "json"]).json();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|node| {
            let name = node["metadata"]["name"].as_str().unwrap().to_owned();
            let find = |list: &Value, kind: &str, member: &str| {
                let found = list.as_array()?.iter().find(|item| item["type"] == kind)?;
                found[member].as_str().map(str::to_owned)
            };
            let ip = find(&node["status"]["addresses"], "InternalIP", "address").unwrap();
            let ready = find(&node["status"]["conditions"], "Ready", "status");
            (name, (ip, ready.as_deref() == Some("True")))
        })
        .collect()
}

#[track_caller]
fn all_ready(cluster: &Cluster<'_>, count: usize) -> BTreeMap<String, (String, bool)> {
    until("all nodes Ready", Duration::from_secs(60), || {
        let nodes = nodes(cluster);
        let ready = nodes.values().filter(|(_, ready)| *ready).count();
        if nodes.len() == count && ready == count { Ok(nodes) } else { Err(format!("{nodes:?}")) }
    })
}

fn namespaces() -> String {
    Outcome::of(std::process::Command::new("ip").args(["netns", "list"])).ok()
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn three_nodes_come_up_survive_a_stop_and_leave_nothing() {
    let home = Home::new();
    let cluster = home.cluster("life", 3);
    let before = all_ready(&cluster, 3);

    let wide = cluster.kubectl().run(&["get", "nodes", "-o", "wide"]).ok();
    assert!(wide.contains("INTERNAL-IP") && wide.contains("6.12"), "{wide}");

    home.run(&["cluster", "stop", "life"]).ok();
    let status = home.run(&["cluster", "status", "life", "-o", "json"]).json();
    assert_eq!(status["phase"], "Stopped", "{status}");
    home.run(&["cluster", "start", "life"]).ok();
    assert_eq!(all_ready(&cluster, 3), before, "names and addresses are kept");

    drop(cluster);
    assert!(!namespaces().contains("bulkhead-life"), "{}", namespaces());
    home.run(&["host", "stop"]).ok();
    until("no process left", Duration::from_secs(10), || {
        let left = home.processes();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    let clusters = home.path().join("clusters");
    let left = std::fs::read_dir(&clusters).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{clusters:?} is not empty");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn nodes_are_added_and_removed() {
    let home = Home::new();
    let cluster = home.cluster("grow", 1);
    all_ready(&cluster, 1);
    home.run(&["node", "add", "grow"]).ok();
    let two = all_ready(&cluster, 2);
    let last = two.keys().next_back().unwrap();
    home.run(&["node", "remove", "grow", last]).ok();
    let one = all_ready(&cluster, 1);
    assert!(!one.contains_key(last), "{one:?}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_throw_away_cluster_gives_the_commands_status_and_is_gone() {
    let home = Home::new();
    let kubectl = bulkhead_tests::setting("BULKHEAD_KUBECTL");
    let script = format!("{} get nodes && exit 7", kubectl.display());
    let outcome = home.run(&["run", "--memory", "192M", "--", "sh", "-c", &script]);
    assert_eq!(outcome.code, 7, "{outcome}");
    assert!(outcome.stdout.contains("Ready"), "{outcome}");
    let clusters = home.run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!(clusters.as_array().map(Vec::len), Some(0), "{clusters}");
}
