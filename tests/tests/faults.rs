//! What is killed comes back, and loses nothing.

use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Outcome, until};
use serde_json::json;

fn kill(pid: &str) {
    Outcome::of(Command::new("kill").args(["-9", pid])).ok();
}

fn sleeper() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "steady"},
        "spec": {"containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "100000"],
        }]},
    })
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn killed_daemon_and_api_server_find_their_pods_running() {
    let home = Home::new();
    let cluster = home.cluster("steady", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply(&sleeper());
    let before = kubectl.wait_phase("steady", "Running");

    for program in ["bulkhead-host", "bulkhead-api-server"] {
        home.kill(program);
        home.run(&["cluster", "list"]).ok();
        until(&format!("API after killing {program}"), Duration::from_secs(60), || {
            let outcome = kubectl.run(&["get", "pod", "steady"]);
            if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
        });
        let after = kubectl.wait_phase("steady", "Running");
        let container =
            |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        assert_eq!(container(&after), container(&before), "the same container still runs");
        // The next daemon has another endpoint, which the node does not name at once.
        until(&format!("exec after killing {program}"), Duration::from_secs(60), || {
            let outcome = kubectl.run(&["exec", "steady", "--", "echo", "here"]);
            if outcome.stdout == "here\n" { Ok(()) } else { Err(outcome.to_string()) }
        });
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_dead_monitor_is_reported_and_its_pods_start_again() {
    let home = Home::new();
    let cluster = home.cluster("dead", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply(&sleeper());
    kubectl.wait_phase("steady", "Running");

    kill(&cluster.monitor_pid(0).to_string());
    // So much is promised, and little of it is needed.
    until("the pod is reported", Duration::from_secs(15), || {
        let pod = kubectl.pod("steady");
        let status = &pod["status"]["containerStatuses"][0];
        let noticed = status["ready"] == false || status["restartCount"].as_u64() >= Some(1);
        if noticed { Ok(()) } else { Err(format!("{:#}", pod["status"])) }
    });
    let back = kubectl.wait_pod("steady", "runs again", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["ready"] == true && status["restartCount"].as_u64() >= Some(1)
    });
    assert_eq!(back["status"]["phase"], "Running", "{back:#}");
}

/// What a loss of power ends and a reboot forgets: every process, what they listened on, and `/run`.
fn reboot(home: &Home, cluster: &str) {
    // Monitors and API servers are started again by the daemon while that lives.
    for program in ["bulkhead-host", ""] {
        home.pids(program).iter().for_each(|pid| kill(pid));
        until("no process left", Duration::from_secs(60), || {
            let left = home.pids(program);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    let namespace = format!("bulkhead-{cluster}");
    Outcome::of(Command::new("ip").args(["netns", "delete", &namespace])).ok();
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_cluster_starts_again_after_a_reboot_of_the_host_with_all_it_had() {
    let home = Home::new();
    let cluster = home.cluster("again", 2);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let mut pod = sleeper();
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    kubectl.apply(&pod);
    let before = kubectl.wait_phase("steady", "Running");
    kubectl.sh("steady", "echo kept >/data/f; sync").ok();
    let addresses = ["get", "nodes", "-o", "jsonpath={.items[*].status.addresses}"];
    let nodes = kubectl.run(&addresses).ok();

    reboot(&home, "again");
    home.run(&["cluster", "start", "again"]).ok();
    assert_eq!(kubectl.run(&addresses).ok(), nodes, "the same nodes with the same addresses");
    let after = kubectl.wait_pod("steady", "runs again", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["ready"] == true && status["restartCount"].as_u64() >= Some(1)
    });
    for field in ["/metadata/uid", "/spec/nodeName", "/status/podIP"] {
        assert_eq!(after.pointer(field), before.pointer(field), "{field}");
    }
    let kept = kubectl.run(&["exec", "steady", "--", "cat", "/data/f"]).ok();
    assert_eq!(kept, "kept\n", "the node's disk is the same");
}
