//! `bulkhead cluster …`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::client::ClientError;
use bulkhead_host_api::{ClusterConfig, ClusterName, ClusterStatus, IngressPorts, NodeStatus};

use super::backup;
use super::signals::{self, Signals};
use crate::args::{Cluster, Create};
use crate::claim::Claim;
use crate::host::{Host, explain};
use crate::output::{self, print, show, table};
use crate::size::Size;
use crate::{config, kubeconfig, progress};

pub(super) async fn execute(command: Cluster) -> Result<ExitCode> {
    match command {
        Cluster::Create(create) => return self::create(&create).await,
        Cluster::List(output) => {
            let clusters = Host::connect().await?.clusters().await?;
            show(output.format, &clusters, |clusters| list(clusters))?;
        }
        Cluster::Status { name, output } => {
            let cluster = Host::connect().await?.cluster(&name).await?;
            show(output.format, &cluster, status)?;
        }
        Cluster::Stop { name } => {
            let host = Host::connect().await?;
            let task = host.client.stop_cluster(name.as_str()).await;
            progress::follow(Ok(task.map_err(explain)?)).await?;
            print(&format!("cluster {name} is stopped\n"))?;
        }
        Cluster::Start { name } => {
            let host = Host::connect().await?;
            let task = host.client.start_cluster(name.as_str()).await;
            progress::follow(Ok(task.map_err(explain)?)).await?;
            let cluster = host.cluster(&name).await?;
            print(&format!("cluster {name} runs: {}\n", cluster.server))?;
        }
        Cluster::Backup { name, file } => backup::save(&name, &file).await?,
        Cluster::Restore { name, file } => backup::restore(&name, &file).await?,
        Cluster::RotateSecretsKey { name } => {
            let host = Host::connect().await?;
            let mut progress = progress::Progress::new();
            progress.step(&format!("encrypting the secrets of cluster {name}"), 0, 0);
            let rotated = host.client.rotate_secrets_key(name.as_str()).await.map_err(explain)?;
            drop(progress);
            let when = if rotated.sealed { "are" } else { "will, when it starts, be" };
            let key = rotated.key;
            print(&format!("the secrets of cluster {name} {when} encrypted with {key}\n"))?;
        }
        Cluster::Delete { names } => {
            let host = Host::connect().await?;
            for name in names {
                delete(&host, &name).await?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(create: &Create) -> Result<ExitCode> {
    let config = config::of_create(create)?;
    let name: ClusterName = config.name.parse()?;
    let started = Instant::now();
    let mut signals = Signals::catch()?;
    let host = Host::connect().await?;
    let claim = match make(&host, &config, &mut signals).await? {
        Made::Ready(claim) => claim,
        Made::Interrupted(code) => return Ok(code),
    };
    let cluster = host.cluster(&name).await?;
    drop(claim);
    let many = if config.nodes == 1 { "node" } else { "nodes" };
    print(&format!(
        "cluster {name} is ready in {:.1} s: {} {many}, {}\n\
         Ingresses are served at {}\n\
         Next: bulkhead kubeconfig {name} --merge && kubectl get nodes\n",
        started.elapsed().as_secs_f64(),
        config.nodes,
        cluster.server,
        ingress(&cluster),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Where a cluster's Ingresses are served.
fn ingress(cluster: &ClusterStatus) -> String {
    let IngressPorts { http, https } = cluster.ingress;
    format!("http://127.0.0.1:{http} and https://127.0.0.1:{https}")
}

/// What became of making a cluster.
pub(super) enum Made {
    /// It is there; while the claim is held, it goes with this process.
    Ready(Claim),
    /// A signal came, and nothing is left.
    Interrupted(ExitCode),
}

/// Makes a cluster, or leaves nothing: not when it fails, not when a signal comes, and after a
/// `kill -9` the next command removes it.
pub(super) async fn make(
    host: &Host,
    config: &ClusterConfig,
    signals: &mut Signals,
) -> Result<Made> {
    let name: ClusterName = config.name.parse()?;
    let mut claim = Claim::take(host.home(), &name)?;
    match host.client.cluster(name.as_str()).await {
        Err(ClientError::Api(error)) if error.reason == "NotFound" => {}
        Err(error) => return Err(error.into()),
        Ok(_) => bail!(
            "cluster {name} already exists; take another name, or delete it: bulkhead cluster \
             delete {name}"
        ),
    }
    claim.arm()?;
    let making = async { progress::follow(host.client.create_cluster(config).await).await };
    let failed = tokio::select! {
        made = making => match made {
            Ok(_) => return Ok(Made::Ready(claim)),
            Err(error) => Err(error),
        },
        signal = signals.next() => Ok(signal),
    };
    if failed.is_ok() {
        eprintln!("interrupted: removing cluster {name}");
    }
    if let Err(error) = discard(host, &name, claim, signals).await {
        eprintln!("warning: cluster {name} could not be removed; the next command will: {error:#}");
    }
    let signal = failed.with_context(|| format!("cluster {name}"))?;
    Ok(Made::Interrupted(signals::exit_code(signal.as_raw()).into()))
}

/// Deletes a claimed cluster. A second signal leaves it to the next command.
pub(super) async fn discard(
    host: &Host,
    name: &ClusterName,
    claim: Claim,
    signals: &mut Signals,
) -> Result<()> {
    let removed = tokio::select! {
        removed = host.remove(name) => removed,
        _ = signals.next() => Err(anyhow::anyhow!("interrupted again")),
    };
    if removed.is_err() {
        claim.abandon();
    }
    removed
}

async fn delete(host: &Host, name: &ClusterName) -> Result<()> {
    // A cluster that never came up has no kubeconfig, so nothing of it was merged.
    let merged = host.client.kubeconfig(name.as_str()).await.ok();
    let task = host.client.delete_cluster(name.as_str()).await.map_err(explain)?;
    progress::follow(Ok(task)).await?;
    print(&format!("cluster {name} is deleted\n"))?;
    if let Some(merged) = merged {
        let path = kubeconfig::default_path()?;
        match kubeconfig::unmerge(&path, &merged) {
            Ok(true) => eprintln!("its context is removed from {}", path.display()),
            Ok(false) => {}
            Err(error) => eprintln!("warning: its context may be left: {error:#}"),
        }
    }
    Ok(())
}

fn list(clusters: &[ClusterStatus]) -> String {
    if clusters.is_empty() {
        return "no clusters; create one: bulkhead cluster create demo --nodes 3\n".into();
    }
    let rows = clusters.iter().map(|cluster| {
        let ready = cluster.nodes.iter().filter(|node| node.phase == "Ready").count();
        [
            cluster.config.name.clone(),
            format!("{:?}", cluster.phase),
            format!("{ready}/{}", cluster.nodes.len()),
            cluster.server.clone(),
            age(&cluster.created),
        ]
    });
    table(["NAME", "STATUS", "READY", "SERVER", "AGE"], rows)
}

/// How long ago an RFC 3339 time was; `<unknown>` if it is none, as kubectl says.
fn age(created: &str) -> String {
    let Ok(created) = humantime::parse_rfc3339(created) else { return "<unknown>".into() };
    // A clock that was set back makes it new.
    output::age(created.elapsed().unwrap_or_default())
}

fn status(cluster: &ClusterStatus) -> String {
    let list = list(std::slice::from_ref(cluster));
    let node_ports = cluster.node_port_address;
    let node_ports = node_ports.map_or_else(String::new, |address| {
        format!("Node ports of Services are open at {address}\n")
    });
    let (ingress, nodes) = (ingress(cluster), nodes(&cluster.nodes));
    format!("{list}\nIngresses are served at {ingress}\n{node_ports}\n{nodes}")
}

/// A table of nodes.
pub(super) fn nodes(nodes: &[NodeStatus]) -> String {
    let rows = nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.phase.clone(),
            node.ip.to_string(),
            node.shape.cpus.to_string(),
            Size::from(node.shape.memory).to_string(),
            Size::from(node.shape.disk).to_string(),
            node.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            node.message.clone().unwrap_or_default(),
        ]
    });
    table(["NODE", "STATUS", "IP", "CPUS", "MEMORY", "DISK", "PID", "MESSAGE"], rows)
}
