//! `bulkhead node …`.

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::{ClusterName, NodeRequest};

use super::cluster;
use crate::args::{Node, Shape};
use crate::host::{Host, explain};
use crate::output::{print, show};
use crate::{config, progress};

pub(super) async fn execute(command: Node) -> Result<()> {
    let host = Host::connect().await?;
    match command {
        Node::List { cluster, output } => {
            let nodes = host.cluster(&cluster).await?.nodes;
            show(output.format, &nodes, |nodes| cluster::nodes(nodes))
        }
        Node::Add { cluster, count, shape } => add(&host, &cluster, count, &shape).await,
        Node::Remove { cluster, nodes } => {
            for node in nodes {
                let task = host.client.remove_node(cluster.as_str(), &node).await;
                progress::follow(Ok(task.map_err(explain)?)).await?;
                print(&format!("node {node} is removed\n"))?;
            }
            Ok(())
        }
        Node::Console { cluster, node, follow } => console(&host, &cluster, &node, follow).await,
    }
}

async fn add(host: &Host, name: &ClusterName, count: u32, flags: &Shape) -> Result<()> {
    let before = host.cluster(name).await?;
    let own = config::laid_over(flags, before.config.node.clone());
    let shape = (own != before.config.node).then_some(own);
    let task = host.client.add_nodes(name.as_str(), &NodeRequest { count, shape }).await;
    progress::follow(task).await?;
    for node in host.cluster(name).await?.nodes {
        if !before.nodes.iter().any(|old| old.name == node.name) {
            print(&format!("node {} is added: {}\n", node.name, node.ip))?;
        }
    }
    Ok(())
}

async fn console(host: &Host, cluster: &ClusterName, node: &str, follow: bool) -> Result<()> {
    let known = host.cluster(cluster).await?.nodes;
    if !known.iter().any(|known| known.name == node) {
        let names: Vec<&str> = known.iter().map(|node| node.name.as_str()).collect();
        bail!("cluster {cluster} has no node {node:?}; it has {}", names.join(", "));
    }
    let mut console = host.client.console(cluster.as_str(), node, follow).await?;
    match tokio::io::copy(&mut console, &mut tokio::io::stdout()).await {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map(drop).with_context(|| format!("console of node {node}")),
    }
}
