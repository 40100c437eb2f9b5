//! The node and its pods: the agent's memory, how long a node takes to be ready, and a bound pod to run.
//!
//! A node's boot time is what its user waits for: from the start of its monitor until the Node object
//! says Ready. The kernel's part of it, up to its first userspace act, is a figure of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulkhead_tests::{Cluster, Home, until};
use serde_json::{Value, json};

use crate::{median, table::Table};

/// How many nodes are booted for a node's boot time.
const NODES: usize = 5;

/// Creates a cluster of one node, asks its agent, runs `runs` pods one after another, and boots nodes.
pub(crate) fn measure(runs: usize, kernel_ms: f64, table: &mut Table) {
    let home = Home::new();
    let cluster = home.cluster("bench", 1);
    let socket = vsock(home.path());
    let rss = agent_rss(&socket);
    let mib = format!("{:.2} MiB", rss / f64::from(1 << 20));
    table.row("agent's memory, no pods", mib.clone(), "–".into(), mib, "≤ 6 MiB");

    cluster.load_busybox();
    let times = (0..=runs).map(|run| bound_to_running(&cluster.kubectl(), &format!("pod-{run}")));
    // The first pod also attaches the image, which is not what is measured.
    let pod_ms = median(times.skip(1).collect());
    let node_ms = median((2..NODES + 2).map(|number| boot(&home, &cluster, number)).collect());
    table.row(
        "a node's boot: monitor started to Node Ready",
        format!("{node_ms:.0} ms"),
        "–".into(),
        format!("{:.2} of it the kernel's ({kernel_ms:.0} ms)", kernel_ms / node_ms),
        "–",
    );
    table.row(
        "pod bound to container running, image cached",
        format!("{pod_ms:.0} ms"),
        "–".into(),
        format!("{:.2} of a node's boot", pod_ms / node_ms),
        "≤ 0.10",
    );
}

/// Adds a node and takes it away again: milliseconds from the start of its monitor until the API says
/// that it is ready.
fn boot(home: &Home, cluster: &Cluster<'_>, number: usize) -> f64 {
    let name = format!("{}-{number}", cluster.name);
    let output = "jsonpath={.metadata.name} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}";
    let mut watch = cluster
        .kubectl()
        .command(&["get", "nodes", "--watch", "-o", output])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watch has begun when it has told of the node that is there.
    lines.next().unwrap().unwrap();
    let mut add = home.command(&["node", "add", &cluster.name]);
    let mut add = add.stdout(Stdio::null()).spawn().unwrap();
    let ready = format!("{name} True");
    lines.find(|line| line.as_ref().unwrap() == &ready).unwrap().unwrap();
    let ready = uptime();
    assert!(add.wait().unwrap().success());
    watch.kill().unwrap();
    watch.wait().unwrap();
    let status = home.run(&["cluster", "status", &cluster.name, "-o", "json"]).json();
    let nodes = status["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["name"] == name.as_str()).unwrap();
    let took = ready - started(node["pid"].as_u64().unwrap());
    home.run(&["node", "remove", &cluster.name, &name]).ok();
    took * 1e3
}

/// Seconds since the host's boot.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// When a process was started, in seconds since the host's boot: field 22 of `proc_pid_stat(5)`, in
/// clock ticks, of which Linux' user interface always has 100 a second.
fn started(pid: u64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The command's name, in parentheses, is the second field and may have spaces.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(19).unwrap().parse::<f64>().unwrap() / 100.0
}

fn vsock(dir: &Path) -> std::path::PathBuf {
    let nodes = dir.join("clusters/bench/nodes");
    let node = std::fs::read_dir(&nodes).unwrap().flatten().next().unwrap();
    node.path().join("vsock.sock")
}

/// The agent's resident set in bytes, as it reports it over vsock.
fn agent_rss(socket: &Path) -> f64 {
    let mut stream = until("the agent answers", Duration::from_secs(20), || {
        let mut stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
        stream.write_all(b"CONNECT 1024\n").map_err(|error| error.to_string())?;
        let mut byte = [0];
        while byte[0] != b'\n' {
            stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
        }
        Ok(stream)
    });
    let request = json!({"verb": "stats"}).to_string();
    stream.write_all(&u32::try_from(request.len()).unwrap().to_le_bytes()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    answer["body"]["agentRss"].as_f64().unwrap_or_else(|| panic!("no agentRss in {answer}"))
}

/// Milliseconds between two events of a watch: the pod is bound, its container runs.
fn bound_to_running(kubectl: &bulkhead_tests::Kubectl, name: &str) -> f64 {
    let selector = format!("metadata.name={name}");
    let template = "{.spec.nodeName} {.status.phase}{\"\\n\"}";
    let output = format!("jsonpath={template}");
    let args = ["get", "pods", "--watch", "--field-selector", &selector, "-o", &output];
    let mut watch = kubectl.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    std::thread::sleep(Duration::from_millis(1500));
    kubectl.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000"],
        }]},
    }));
    let mut bound = None;
    let mut took = f64::NAN;
    for line in lines {
        let line = line.unwrap();
        let (node, phase) = line.split_once(' ').unwrap_or_default();
        if !node.is_empty() && bound.is_none() {
            bound = Some(Instant::now());
        }
        if let (Some(bound), "Running") = (bound, phase) {
            took = bound.elapsed().as_secs_f64() * 1e3;
            break;
        }
    }
    let _ = watch.kill();
    let _ = watch.wait();
    kubectl.run(&["delete", "pod", name, "--now", "--timeout=60s"]).ok();
    took
}
