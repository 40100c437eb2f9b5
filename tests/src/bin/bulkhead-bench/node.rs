//! The node and its pods: the agent's memory, and how long a bound pod takes to run.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulkhead_tests::{Home, until};
use serde_json::{Value, json};

use crate::{median, table::Table};

/// Creates a cluster of one node, asks its agent, runs `runs` pods one after another.
pub(crate) fn measure(runs: usize, boot_ms: f64, table: &mut Table) {
    let home = Home::new();
    let cluster = home.cluster("bench", 1);
    let socket = vsock(home.path());
    let rss = agent_rss(&socket);
    let mib = format!("{:.2} MiB", rss / f64::from(1 << 20));
    table.row("agent's memory, no pods", mib.clone(), "–".into(), mib, "≤ 6 MiB");

    cluster.load_busybox();
    let times = (0..=runs).map(|run| bound_to_running(&cluster.kubectl(), &format!("pod-{run}")));
    // The first pod also attaches the image, which is not what is measured.
    let ours = median(times.skip(1).collect());
    table.row(
        "pod bound to container running, image cached",
        format!("{ours:.0} ms"),
        "–".into(),
        format!("{:.2} of a node's boot ({boot_ms:.0} ms)", ours / boot_ms),
        "≤ 0.10",
    );
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
