//! What is killed comes back, and loses nothing.

use std::time::Duration;

use bulkhead_tests::{Home, Outcome, until};
use serde_json::json;

fn kill(pid: &str) {
    Outcome::of(std::process::Command::new("kill").args(["-9", pid])).ok();
}

/// The process ids whose command line names the home and `program`.
fn pids(home: &Home, program: &str) -> Vec<String> {
    let lines = home.processes();
    let ours = lines.iter().filter(|line| line.contains(program));
    ours.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
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
        let killed = pids(&home, program);
        assert!(!killed.is_empty(), "no {program} runs: {:?}", home.processes());
        killed.iter().for_each(|pid| kill(pid));
        home.run(&["cluster", "list"]).ok();
        until(&format!("API after killing {program}"), Duration::from_secs(30), || {
            let outcome = kubectl.run(&["get", "pod", "steady"]);
            if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
        });
        let after = kubectl.wait_phase("steady", "Running");
        let container =
            |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        assert_eq!(container(&after), container(&before), "the same container still runs");
        assert_eq!(kubectl.run(&["exec", "steady", "--", "echo", "here"]).ok(), "here\n");
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
