//! What a decision costs, by the size of the cluster and by what the pods ask for.
//!
//! `cargo run --release -p bulkhead-scheduler --example cost [PODS]` schedules so many pods, 10,000
//! unless told, over a client in memory: the scheduler's own work, without a store's.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::testing::{Asked, Objects};
use bulkhead_client::{Client, Informers, Kind};
use serde_json::{Value, json};

/// The sizes of clusters.
const NODES: [usize; 3] = [500, 1000, 5000];
/// Nodes per zone.
const ZONE: usize = 100;

fn node(index: usize) -> Value {
    let name = format!("node-{index}");
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", index / ZONE),
        }},
        "status": {
            "allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// What the pods of a run ask for beside resources.
fn kinds() -> [(&'static str, Value); 4] {
    let selector = json!({"matchLabels": {"app": "web"}});
    let zone = "topology.kubernetes.io/zone";
    let term = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    let spread = json!({"maxSkew": 1, "topologyKey": zone, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector});
    let preferred = json!([{"weight": 10, "podAffinityTerm": term}]);
    [
        ("resources only", json!({})),
        ("spread over zones", json!({"topologySpreadConstraints": [spread]})),
        (
            "would rather be apart",
            json!({"affinity": {"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred}}}),
        ),
        (
            "must be apart",
            json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        ),
    ]
}

fn pod(index: usize, asking: &Value) -> Value {
    let name = format!("pod-{index}");
    let mut spec = asking.clone();
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    spec["containers"] =
        json!([{"name": "c", "image": "web", "resources": {"requests": requests}}]);
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": "web"}},
        "spec": spec,
    })
}

/// What this thread has had of a CPU; others' load on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The CPU time that it takes until all pods are bound.
async fn measure(nodes: usize, pods: usize, asking: &Value) -> Duration {
    let objects = Objects::new([
        (Kind::NODES, (0..nodes).map(node).collect()),
        (Kind::PODS, (0..pods).map(|index| pod(index, asking)).collect()),
        (Kind::NAMESPACES, vec![json!({"metadata": {"name": "default"}})]),
    ]);
    let client: Arc<dyn Client> = objects.clone();
    let start = cpu_time();
    let scheduler = tokio::spawn(bulkhead_scheduler::run(Informers::new(client)));
    let mut bound = 0;
    while bound < pods {
        tokio::time::sleep(Duration::from_millis(5)).await;
        bound += objects.asked().iter().filter(|one| matches!(one, Asked::Bind(..))).count();
    }
    let took = cpu_time() - start;
    scheduler.abort();
    took
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let pods = std::env::args().nth(1).and_then(|pods| pods.parse().ok()).unwrap_or(10_000);
    for (name, asking) in kinds() {
        for nodes in NODES {
            // No two that must be apart are on one node.
            let pods = if name == "must be apart" { pods.min(nodes) } else { pods };
            let took = measure(nodes, pods, &asking).await;
            let each = took.as_micros() / pods.max(1) as u128;
            println!("{name}: {nodes} nodes, {pods} pods: {took:.2?}, {each} µs each");
        }
    }
}
