//! Nodes that fall silent: one whose lease is not renewed in time is no longer known to be ready.
//!
//! Time is counted from when a renewal was seen here, so clocks need not agree.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, now};
use bulkhead_client::{Change, Client, Informers, Kind, Patch, Target, Told};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How often leases are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// Where nodes' leases lie.
const LEASES: &str = "kube-node-lease/";

struct Heartbeat {
    renewal: Value,
    seen: Instant,
}

/// Marks the nodes whose leases go without renewal for `grace`, for ever.
pub(crate) async fn run(informers: Arc<Informers>, grace: Duration) {
    let client = Arc::clone(informers.client());
    let mut leases = informers.follow(&Kind::LEASES);
    let mut nodes = informers.follow(&Kind::NODES);
    let mut heartbeats: HashMap<String, Heartbeat> = HashMap::new();
    // Each node with the status of its Ready condition.
    let mut ready: HashMap<String, String> = HashMap::new();
    let mut tick = tokio::time::interval(INTERVAL.min(grace / 4));
    loop {
        tokio::select! {
            Some(told) = leases.recv() => {
                let all = match told {
                    Told::All(all) => all,
                    Told::One(Change::Present(lease)) => vec![lease],
                    Told::One(Change::Gone(_)) => Vec::new(),
                };
                for lease in &all {
                    if let Some(node) = object::key(lease).strip_prefix(LEASES) {
                        beat(&mut heartbeats, node, &lease["spec"]["renewTime"]);
                    }
                }
            }
            Some(told) = nodes.recv() => match told {
                Told::All(all) => {
                    ready = all.iter().map(|node| (object::key(node), readiness(node))).collect();
                    heartbeats.retain(|node, _| ready.contains_key(node));
                }
                Told::One(Change::Present(node)) => {
                    ready.insert(object::key(&node), readiness(&node));
                }
                Told::One(Change::Gone(node)) => {
                    ready.remove(&object::key(&node));
                    heartbeats.remove(&object::key(&node));
                }
            },
            _ = tick.tick() => {
                for (node, ready) in &ready {
                    let heartbeat = heartbeats.entry(node.clone()).or_insert_with(|| Heartbeat {
                        renewal: Value::Null,
                        seen: Instant::now(),
                    });
                    if heartbeat.seen.elapsed() > grace && ready != "Unknown" {
                        mark(&client, node).await;
                    }
                }
            }
            else => return,
        }
    }
}

fn beat(heartbeats: &mut HashMap<String, Heartbeat>, node: &str, renewal: &Value) {
    let known = heartbeats.get(node).is_some_and(|heartbeat| heartbeat.renewal == *renewal);
    if !known {
        let heartbeat = Heartbeat { renewal: renewal.clone(), seen: Instant::now() };
        heartbeats.insert(node.into(), heartbeat);
    }
}

fn readiness(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    ready.and_then(|ready| ready["status"].as_str()).unwrap_or_default().into()
}

async fn mark(client: &Arc<dyn Client>, node: &str) {
    let condition = json!({
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "The node's host stopped renewing its lease.",
        "lastTransitionTime": now(),
    });
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    match client.patch(&Kind::NODES, None, node, Target::Status, patch).await {
        Ok(_) => tracing::warn!(node, "the lease lapsed: the node's state is unknown"),
        Err(error) if error.code == 404 => {}
        Err(error) => tracing::warn!(node, %error, "marking a silent node"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use bulkhead_client::testing::{Asked, Objects};

    const GRACE: Duration = Duration::from_secs(40);

    fn node(name: &str, ready: &str) -> Value {
        let condition = json!({"type": "Ready", "status": ready});
        json!({"metadata": {"name": name}, "status": {"conditions": [condition]}})
    }

    fn lease(name: &str, renewed: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"renewTime": renewed},
        })
    }

    /// The names of the nodes that were marked, each with its new state.
    fn marked(objects: &Objects) -> Vec<(String, Value)> {
        let names = objects.asked().into_iter().map(|asked| match asked {
            Asked::Patch(_, name, Patch::Strategic(patch)) => {
                (name, patch["status"]["conditions"][0]["status"].clone())
            }
            other => panic!("{other:?}"),
        });
        names.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_lease_lapses_is_unknown_and_one_that_renews_is_left_alone() {
        let objects = Objects::new([
            (Kind::NODES, vec![node("silent", "True"), node("alive", "True")]),
            (Kind::LEASES, vec![lease("silent", "0"), lease("alive", "0")]),
        ]);
        let informers = Informers::new(objects.clone());
        let controller = tokio::spawn(run(informers, GRACE));
        for second in 0..38 {
            sleep(Duration::from_secs(1)).await;
            let renewed = lease("alive", &second.to_string());
            objects.present(&Kind::LEASES, renewed);
        }
        assert_eq!(marked(&objects), []);
        sleep(Duration::from_secs(8)).await;
        assert_eq!(marked(&objects), [(String::from("silent"), json!("Unknown"))]);
        objects.present(&Kind::NODES, node("silent", "Unknown"));
        sleep(Duration::from_secs(20)).await;
        assert_eq!(marked(&objects), [], "it is marked once");
        controller.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_a_lease_gets_its_time_and_a_deleted_one_is_forgotten() {
        let objects =
            Objects::new([(Kind::NODES, vec![node("new", "True"), node("gone", "True")])]);
        let informers = Informers::new(objects.clone());
        let controller = tokio::spawn(run(informers, GRACE));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(marked(&objects), []);
        objects.gone(&Kind::NODES, node("gone", "True"));
        sleep(Duration::from_secs(25)).await;
        assert_eq!(marked(&objects), [(String::from("new"), json!("Unknown"))]);
        controller.abort();
    }
}
