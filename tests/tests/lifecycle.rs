//! A cluster's life: create, look, stop, start, grow, delete, and what is left then: nothing.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_tests::{Cluster, Home, Outcome, setting, until};
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
    Outcome::of(Command::new("ip").args(["netns", "list"])).ok()
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
    until("no process left", Duration::from_secs(60), || {
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

/// `bulkhead run` of a command that writes its process id to the file `mark`, and goes on.
fn running(home: &Home, mark: &Path) -> Child {
    let script = format!("echo $$ >{}; exec sleep 1000", mark.display());
    let mut run = home.command(&["run", "--memory", "192M", "--", "sh", "-c", &script]);
    let child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the command runs", Duration::from_secs(90), || {
        if mark.exists() { Ok(()) } else { Err("it does not".into()) }
    });
    child
}

fn clusters(home: &Home) -> usize {
    let clusters = home.run(&["cluster", "list", "-o", "json"]).json();
    clusters.as_array().map_or(0, Vec::len)
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn throw_away_clusters_go_with_their_commands_however_those_end() {
    let home = Home::new();
    let at = |name: &str| home.path().join(name);
    let [mut terminated, mut killed] = ["one", "two"].map(|name| running(&home, &at(name)));
    assert_eq!(clusters(&home), 2, "several at once");

    Outcome::of(Command::new("kill").arg(terminated.id().to_string())).ok();
    assert_eq!(terminated.wait().unwrap().code(), Some(128 + 15), "its command's status");
    assert_eq!(clusters(&home), 1);

    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(clusters(&home), 0, "the next command removes it");
    assert!(!namespaces().contains("bulkhead-run-"), "{}", namespaces());
    let left = std::fs::read_dir(at("claims")).unwrap().count();
    assert_eq!(left, 0, "neither claims nor kubeconfigs are left");
    let orphan = std::fs::read_to_string(at("two")).unwrap();
    Outcome::of(Command::new("kill").arg(orphan.trim())).ok();
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_create_that_is_broken_off_leaves_nothing() {
    let home = Home::new();
    // With Ctrl-C it clears up itself; after a kill the next command does.
    for (name, signal, code) in [("one", "INT", 128 + 2), ("two", "KILL", 128 + 9)] {
        let mut create =
            home.command(&["cluster", "create", name, "--nodes", "3", "--memory", "192M"]);
        let create = create.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("a microVM runs", Duration::from_secs(90), || {
            let booting = home.pids("bulkhead-vmm");
            if booting.is_empty() { Err(format!("{:?}", home.processes())) } else { Ok(()) }
        });
        Outcome::sh(&format!("kill -{signal} {}", create.id())).ok();
        let output = create.wait_with_output().unwrap();
        let status = output.status;
        assert_eq!(status.code().or(status.signal().map(|n| 128 + n)), Some(code), "{output:?}");
        assert_eq!(clusters(&home), 0);
        assert_eq!(home.pids("bulkhead-vmm"), [""; 0]);
        assert!(!namespaces().contains(&format!("bulkhead-{name}")), "{}", namespaces());
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn kubectl_works_with_the_kubeconfig_that_a_cluster_was_merged_into() {
    let home = Home::new();
    let _cluster = home.cluster("merged", 1);
    let config = home.path().join("config");
    let kubectl = |args: &[&str]| {
        let mut kubectl = Command::new(setting("BULKHEAD_KUBECTL"));
        Outcome::of(kubectl.args(args).env("KUBECONFIG", &config))
    };
    let set = ["config", "set-cluster", "other", "--server", "https://192.0.2.1:6443"];
    kubectl(&set).ok();
    kubectl(&["config", "set-credentials", "other", "--token", "secret"]).ok();
    kubectl(&["config", "set-context", "other", "--cluster=other", "--user=other"]).ok();
    kubectl(&["config", "use-context", "other"]).ok();
    let bulkhead = |args: &[&str]| Outcome::of(home.command(args).env("KUBECONFIG", &config));

    bulkhead(&["kubeconfig", "merged", "--merge"]).ok();
    let nodes = kubectl(&["get", "nodes", "-o", "name"]).ok();
    assert_eq!(nodes, "node/merged-1\n", "its context is the current one");
    let contexts = kubectl(&["config", "get-contexts", "-o", "name"]).ok();
    assert_eq!(contexts.lines().count(), 2, "{contexts}");
    let raw = kubectl(&["config", "view", "--raw"]).ok();
    assert!(raw.contains("192.0.2.1") && raw.contains("token: secret"), "{raw}");

    bulkhead(&["cluster", "delete", "merged"]).ok();
    assert_eq!(kubectl(&["config", "get-contexts", "-o", "name"]).ok(), "other\n");
}
