//! A cluster in a file: saved while it runs, put back in its own place, and made anew elsewhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, Outcome, until};
use serde_json::json;

fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kept"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "Never",
            "command": ["sleep", "100000"],
        }]},
    })
}

/// Waits until the cluster has what was saved, and its pod runs on the node of before.
fn restored(kubectl: &Kubectl) {
    let value = ["get", "configmap", "saved", "-o", "jsonpath={.data.k}"];
    assert_eq!(kubectl.run(&value).ok(), "v");
    let secret = ["get", "secret", "saved", "-o", "jsonpath={.data.k}"];
    assert_eq!(kubectl.run(&secret).ok(), "cGFydGljdWxhcg==");
    let running = kubectl.wait_pod("kept", "runs", |pod| pod["status"]["phase"] == "Running");
    assert_eq!(running["spec"]["nodeName"], "saved-1");
    until("exec", Duration::from_secs(60), || {
        let outcome = kubectl.run(&["exec", "kept", "--", "echo", "here"]);
        if outcome.stdout == "here\n" { Ok(()) } else { Err(outcome.stderr) }
    });
}

fn arguments<'a>(verb: &'a str, name: &'a str, file: &'a Path) -> [&'a str; 4] {
    ["cluster", verb, name, file.to_str().unwrap()]
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_cluster_is_saved_and_restored_in_its_place_and_under_another_name() {
    let home = Home::new();
    let cluster = home.cluster("saved", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "configmap", "saved", "--from-literal=k=v"]).ok();
    kubectl.run(&["create", "secret", "generic", "saved", "--from-literal=k=particular"]).ok();
    kubectl.apply(&pod());
    kubectl.wait_phase("kept", "Running");

    let said = home.run(&["cluster", "rotate-secrets-key", "saved"]).ok();
    assert!(said.contains("secrets of cluster saved are encrypted with key-"), "{said}");
    let file = home.path().join("file");
    let said = home.run(&arguments("backup", "saved", &file)).ok();
    assert!(said.contains("whoever has the file has the cluster"), "{said}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Not over a running cluster, and not of half a file.
    home.run(&arguments("restore", "saved", &file)).refused(&["saved", "not stopped"]);
    let half = home.path().join("half");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    home.run(&arguments("restore", "other", &half)).refused(&["the backup", "cut off"]);
    let foreign = Path::new("/etc/passwd");
    home.run(&arguments("restore", "other", foreign)).refused(&["not a backup"]);
    let none = home.run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!(none.as_array().map(Vec::len), Some(1), "nothing is left of those: {none}");

    kubectl.run(&["delete", "configmap,secret", "saved"]).ok();
    kubectl.run(&["create", "configmap", "later"]).ok();
    home.run(&["cluster", "stop", "saved"]).ok();
    home.run(&arguments("restore", "saved", &file)).ok();
    restored(&kubectl);
    let later: Outcome = kubectl.run(&["get", "configmap", "later"]);
    assert!(later.stderr.contains("NotFound"), "{later}");

    drop(cluster);
    let moved = home.restored("moved", &file);
    restored(&moved.kubectl());
    let said = home.run(&["cluster", "status", "moved"]).ok();
    assert!(said.contains("saved-1"), "nodes keep their names: {said}");
}
