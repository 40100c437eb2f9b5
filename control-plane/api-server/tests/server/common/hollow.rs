//! Hollow nodes: what a host reports of its pods, without running them. Images say what becomes of
//! a pod: `run` runs, `exit-N` ends with that code, `stuck` never starts.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{Client, Cluster, Lines, add_node};

/// The next pod's address, from 10.1.0.1 on.
static ADDRESSES: AtomicU32 = AtomicU32::new(0x0a01_0001);

/// Adds nodes, and reports for the pods that are bound to any, until it is dropped.
pub(crate) struct Hollow(tokio::task::JoinHandle<()>);

impl Hollow {
    pub(crate) async fn start(cluster: &Cluster, nodes: &[&str]) -> Self {
        let mut client = cluster.admin().await;
        for node in nodes {
            add_node(&mut client, node, 1).await;
        }
        let mut watching = cluster.admin().await;
        Self(tokio::spawn(async move {
            let mut pods = Lines::open(&mut watching, "/api/v1/pods?watch=1").await;
            loop {
                let event = pods.next_ever().await;
                if event["type"] != "DELETED" {
                    report(&mut client, &event["object"]).await;
                }
            }
        }))
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn report(client: &mut Client, pod: &Value) {
    if !pod["spec"]["nodeName"].is_string() {
        return;
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let metadata = &pod["metadata"];
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    );
    if metadata["deletionTimestamp"].is_string() {
        let body = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}});
        client.json("DELETE", &path, &body).await;
        return;
    }
    if pod["status"]["phase"] != "Pending" {
        return;
    }
    let image = text(&pod["spec"]["containers"][0]["image"]);
    let name = image.split(':').next().unwrap();
    let since = bulkhead_api_server::object::now();
    let (phase, ready, state) = match name.strip_prefix("exit-") {
        Some(code) => {
            let code: i64 = code.parse().unwrap();
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            (phase, "False", json!({"terminated": {"exitCode": code, "finishedAt": since}}))
        }
        None if name == "run" => ("Running", "True", json!({"running": {"startedAt": since}})),
        None => return,
    };
    let container = json!({
        "name": pod["spec"]["containers"][0]["name"], "image": image, "imageID": "", "restartCount": 0,
        "ready": ready == "True", "state": state,
    });
    let address = std::net::Ipv4Addr::from_bits(ADDRESSES.fetch_add(1, Ordering::Relaxed));
    let status = json!({"metadata": {"uid": metadata["uid"]}, "status": {
        "podIP": address.to_string(),
        "phase": phase,
        "startTime": since,
        "containerStatuses": [container],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
    }});
    let path = format!("{path}/status");
    client.typed("PATCH", &path, "application/strategic-merge-patch+json", &status).await;
}
