//! One Deployment of many pods over many nodes that do nothing, until every pod is bound.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bulkhead_tests::api::Target;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::server::Server;
use crate::{WRITERS, contains, row};

const PODS: usize = 10_000;
const NODES: usize = 1_000;
/// The cost per pod is compared between so many nodes and so many.
const FEW: usize = 500;
const MANY: usize = 5_000;

/// Prints both figures.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let took = all_bound(NODES).await?.as_secs_f64();
    let figure = format!("{NODES} nodes, {PODS} pods of one Deployment: until all are bound");
    row(&figure, &format!("{took:.1} s"), "≤ 20 s");
    let few = all_bound(FEW).await?.as_secs_f64();
    let many = all_bound(MANY).await?.as_secs_f64();
    let figure = format!("the same with {MANY} nodes against {FEW}");
    row(&figure, &format!("{many:.1} s / {few:.1} s = {:.2}", many / few), "≤ 2");
    Ok(())
}

/// From the Deployment's creation until the last of its pods is bound.
async fn all_bound(nodes: usize) -> anyhow::Result<Duration> {
    let server = Server::start().await?;
    add_nodes(&server.target, nodes).await?;
    let mut watch = server.target.connect().await?.watch("/api/v1/pods?watch=1").await?;
    let labels = json!({"app": "bench"});
    let container = json!({
        "name": "app",
        "image": "registry.example/app:1.2.3",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    });
    let deployment = json!({
        "metadata": {"name": "bench"},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    let mut client = server.target.connect().await?;
    let start = Instant::now();
    client.create("/apis/apps/v1/namespaces/default/deployments", &deployment).await?;
    let mut bound = HashSet::new();
    while bound.len() < PODS {
        let line = watch.next().await?;
        if contains(&line, b"\"nodeName\":") {
            let event: Value = serde_json::from_slice(&line)?;
            let name = event["object"]["metadata"]["name"].as_str().context("a name")?;
            bound.insert(name.to_owned());
        }
    }
    Ok(start.elapsed())
}

async fn add_nodes(target: &Target, count: usize) -> anyhow::Result<()> {
    let size = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (mut client, size) = (target.connect().await?, size.clone());
        writers.spawn(async move {
            for number in (writer..count).step_by(WRITERS) {
                let name = format!("node-{number}");
                let node = json!({
                    "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                    "status": {
                        "capacity": size,
                        "allocatable": size,
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                });
                client.create("/api/v1/nodes", &node).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}
