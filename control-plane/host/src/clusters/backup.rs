//! Backups of clusters, and clusters made of them: the API server's program packs and unpacks what
//! is the control plane's, and the backup carries beside that what this daemon knows of the cluster.

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use bulkhead_host_api::{
    ClusterConfig, ClusterName, ClusterPhase, IngressPorts, NodeShape, RotatedKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Clusters, Result};
use crate::config::{Checked, MAX_NODES, check_shape};
use crate::fault;
use crate::ports::Ports;
use crate::process;
use crate::progress::Reporter;
use crate::state::NodeRow;

/// How often a client that sends a backup is told how much has come.
const REPORT_BYTES: u64 = 1 << 20;
/// How long a running API server may take to encrypt all secrets anew.
const SEAL_LIMIT: Duration = Duration::from_secs(120);
const SEAL_POLL: Duration = Duration::from_millis(50);

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    config: ClusterConfig,
    api_port: u16,
    #[serde(default)]
    ingress: Option<IngressPorts>,
    nodes: Vec<SavedNode>,
    /// When it was made, RFC 3339, and by which version: for people.
    made: String,
    version: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedNode {
    name: String,
    index: u32,
    shape: NodeShape,
}

/// A backup that can be read; its file has no name.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) file: tokio::fs::File,
    pub(crate) length: u64,
}

impl Clusters {
    /// Backs a cluster up, whether it runs or not.
    pub(crate) async fn backup(&self, name: &ClusterName) -> Result<Backup> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        let row = self.host.state.cluster(name)?;
        if !matches!(row.phase, ClusterPhase::Running | ClusterPhase::Stopped) {
            return Err(fault::conflict(format!("cluster {name} is {:?}", row.phase)));
        }
        let nodes = self.host.state.nodes(name)?.into_iter().filter(|node| !node.removing);
        let saved =
            nodes.map(|node| SavedNode { name: node.name, index: node.index, shape: node.shape });
        let about = About {
            config: row.config,
            api_port: row.api_port,
            ingress: self.host.state.ingress_ports(name)?,
            nodes: saved.collect(),
            made: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let dir = self.host.home.cluster(name);
        let path = self.host.home.root().join(format!("backup-{name}"));
        let at = |error| fault::internal(format!("{}: {error}", path.display()));
        crate::home::remove_file(&path).map_err(at)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(at)?;
        // Who has it open has it, and it is gone with the daemon.
        crate::home::remove_file(&path).map_err(at)?;
        let mut backup = self.program();
        backup.arg("backup").arg("--dir").arg(dir.path());
        backup.arg("--about").arg(json!(about).to_string());
        backup.stdout(file.try_clone().map_err(at)?);
        run(backup, None).await.map_err(fault::internal)?;
        let mut file = tokio::fs::File::from_std(file);
        let length = file.metadata().await.map_err(at)?.len();
        tokio::io::AsyncSeekExt::rewind(&mut file).await.map_err(at)?;
        Ok(Backup { file, length })
    }

    /// Makes the cluster `name` of a backup, in the place of a stopped one if there is one, and
    /// starts it. A client that goes away before the end has it rolled back.
    pub(crate) async fn restore(
        &self,
        name: &ClusterName,
        backup: impl AsyncRead + Unpin,
        progress: &Reporter,
    ) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        self.check_replaceable(name)?;
        let path = self.host.home.root().join(format!("restore-{name}"));
        let restored = self.restore_from(name, backup, &path, progress).await;
        if let Err(error) = crate::home::remove_file(&path) {
            tracing::warn!("{}: {error}", path.display());
        }
        restored
    }

    fn program(&self) -> Command {
        let mut program = Command::new(&self.host.programs.api_server);
        program.stdout(Stdio::piped());
        program
    }

    /// Whether there is a cluster in whose place another may be put.
    fn check_replaceable(&self, name: &ClusterName) -> Result<bool> {
        match self.host.state.cluster(name) {
            Err(error) if error.reason == "NotFound" => Ok(false),
            Err(error) => Err(error),
            Ok(row) if row.phase == ClusterPhase::Stopped => Ok(true),
            Ok(_) => Err(fault::conflict(format!(
                "cluster {name} is there and not stopped; stop it, and it is replaced, or take \
                 another name"
            ))),
        }
    }

    async fn restore_from(
        &self,
        name: &ClusterName,
        backup: impl AsyncRead + Unpin,
        path: &Path,
        progress: &Reporter,
    ) -> Result<Value> {
        receive(backup, path, progress)
            .await
            .map_err(|error| fault::internal(format!("{}: {error}", path.display())))?;
        let mut inspect = self.program();
        inspect.arg("inspect-backup").arg(path);
        let about = run(inspect, Some(path)).await.map_err(fault::invalid)?;
        let about: About = serde_json::from_slice(&about)
            .map_err(|error| fault::invalid(format!("the backup is of no cluster: {error}")))?;
        let mut config = about.config;
        config.name = name.to_string();
        let checked = Checked::new(config)?;
        let nodes = check_nodes(about.nodes)?;
        {
            let _admission = self.admission.lock().await;
            let wanted: Vec<u64> = nodes.iter().map(|node| node.shape.memory).collect();
            self.admit(&wanted)?;
            self.host.node_image().await?;
            // Kubeconfigs and links that are about go on to hold, if they can.
            let ports = Ports::pick(&checked.config, Some(about.api_port), about.ingress)?;
            if self.check_replaceable(name)? {
                progress.step(format!("deleting the stopped cluster {name}"), 0, 0);
                self.remove(name, process::find(self.host.home.cluster(name).path())).await?;
            }
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            self.host.state.insert_cluster(&checked, ports.api, &now, Some(&nodes))?;
            self.host.state.set_ingress_ports(name, ports.ingress)?;
        }
        let row = self.host.state.cluster(name)?;
        let dir = self.host.home.cluster(name);
        let make = async {
            progress.step("unpacking the backup", 0, 0);
            crate::home::create_private(dir.path())
                .map_err(|error| fault::internal(format!("{}: {error}", dir.path().display())))?;
            let mut restore = self.program();
            restore.arg("restore").arg("--dir").arg(dir.path()).arg(path);
            run(restore, Some(path)).await.map_err(fault::internal)?;
            self.launch(name, &row, HashMap::new(), progress).await
        };
        let made = tokio::select! {
            made = make => made,
            () = progress.closed() => Err(fault::conflict("the client went away")),
        };
        self.settle(name, made).await
    }

    /// Has a cluster's secrets encrypted with a new key, and returns the key's name. Those of a
    /// stopped cluster are when it starts.
    pub(crate) async fn rotate_secrets_key(&self, name: &ClusterName) -> Result<RotatedKey> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        self.host.state.cluster(name)?;
        let dir = self.host.home.cluster(name);
        let mut rotate = self.program();
        rotate.arg("rotate-secrets-key").arg("--dir").arg(dir.path());
        let key = run(rotate, None).await.map_err(fault::internal)?;
        let key = String::from_utf8_lossy(&key).trim().to_owned();
        let running = self.running(name);
        if let Some(running) = &running {
            running.servers.api.reload();
            let file = dir.pki().join("encryption.json");
            let sealed = async {
                while keys(&file).as_deref() != Some(std::slice::from_ref(&key)) {
                    tokio::time::sleep(SEAL_POLL).await;
                }
            };
            timeout(SEAL_LIMIT, sealed).await.map_err(|_| {
                fault::internal(format!(
                    "the API server has not encrypted every secret with {key} within {} s; {} \
                     says why",
                    SEAL_LIMIT.as_secs(),
                    dir.api_server_log().display()
                ))
            })?;
        }
        Ok(RotatedKey { key, sealed: running.is_some() })
    }
}

/// The names of the keys that an `EncryptionConfiguration` has.
fn keys(file: &Path) -> Option<Vec<String>> {
    let configuration: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let keys = configuration.pointer("/resources/0/providers/0/aesgcm/keys")?.as_array()?;
    keys.iter().map(|key| Some(key.get("name")?.as_str()?.to_owned())).collect()
}

/// Puts what is sent into a file.
async fn receive(
    mut backup: impl AsyncRead + Unpin,
    path: &Path,
    progress: &Reporter,
) -> std::io::Result<()> {
    crate::home::remove_file(path)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut piece = vec![0; 256 << 10];
    let (mut received, mut told) = (0, 0);
    loop {
        let count = backup.read(&mut piece).await?;
        let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        file.write_all(bytes).await?;
        received += bytes.len() as u64;
        if received - told >= REPORT_BYTES {
            told = received;
            progress.step("sending the backup", received, 0);
        }
    }
    file.flush().await
}

/// The nodes of a backup, none of which could be mistaken for something else than a node.
fn check_nodes(nodes: Vec<SavedNode>) -> Result<Vec<NodeRow>> {
    let mut indexes = BTreeSet::new();
    let row = |node: SavedNode| {
        let cluster = node.name.rsplit_once('-').and_then(|(cluster, index)| {
            let cluster = cluster.parse::<ClusterName>().ok()?;
            (index == node.index.to_string()).then_some(cluster)
        });
        let fits = (1..=MAX_NODES).contains(&node.index) && indexes.insert(node.index);
        if cluster.is_none() || !fits {
            return Err(fault::invalid(format!("the backup has a node {:?}", node.name)));
        }
        check_shape(&node.shape)?;
        Ok(NodeRow { name: node.name, index: node.index, shape: node.shape, removing: false })
    };
    nodes.into_iter().map(row).collect()
}

/// What a program of the API server's prints, or the line in which it says why it failed; `backup`
/// is what that calls the backup.
async fn run(mut command: Command, backup: Option<&Path>) -> std::result::Result<Vec<u8>, String> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("the API server's program: {error}"))?;
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
    let line = line.strip_prefix("error: ").unwrap_or(line);
    Err(match backup.and_then(|path| line.strip_prefix(&format!("{}: ", path.display()))) {
        Some(why) => format!("the backup {why}"),
        None => line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backups_nodes_are_checked() {
        let node =
            |name: &str, index| SavedNode { name: name.into(), index, shape: NodeShape::default() };
        let rows = check_nodes(vec![node("old-1", 1), node("old-3", 3)]).unwrap();
        assert_eq!(rows[1].name, "old-3");
        for bad in [node("../x-1", 1), node("old-2", 1), node("old-0", 0), node("old", 1)] {
            check_nodes(vec![bad]).unwrap_err();
        }
        check_nodes(vec![node("a-1", 1), node("b-1", 1)]).unwrap_err();
        let shape = NodeShape { cpus: 0, ..NodeShape::default() };
        check_nodes(vec![SavedNode { shape, ..node("a-1", 1) }]).unwrap_err();
    }

    #[tokio::test]
    async fn a_failed_program_is_told_in_its_last_line() {
        let fails = |line: &str| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("echo first >&2; echo '{line}' >&2; exit 2"));
            command.stdout(Stdio::piped());
            command
        };
        let path = Path::new("/home/restore-a");
        let said = run(fails("error: /home/restore-a: is damaged"), Some(path)).await;
        assert_eq!(said.unwrap_err(), "the backup is damaged");
        assert_eq!(run(fails("error: no space"), None).await.unwrap_err(), "no space");
    }
}
