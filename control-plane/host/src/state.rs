//! What the daemon means to run, in SQLite (WAL): it survives the daemon, `kill -9` and a reboot.
//!
//! Desired state: clusters and nodes. Beside it what a new daemon must know of what the last one
//! left running: the images' ranges on each running node's disk, pods' addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bulkhead_host_api::{
    ApiError, ClusterConfig, ClusterName, ClusterPhase, IngressPorts, NodeShape,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::config::{Checked, cluster_name};
use crate::fault;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS clusters (
        name TEXT PRIMARY KEY,
        config TEXT NOT NULL,
        phase TEXT NOT NULL,
        api_port INTEGER NOT NULL,
        created TEXT NOT NULL,
        next_index INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS ingress_ports (
        cluster TEXT PRIMARY KEY REFERENCES clusters ON DELETE CASCADE,
        http INTEGER NOT NULL,
        https INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS nodes (
        cluster TEXT NOT NULL REFERENCES clusters ON DELETE CASCADE,
        name TEXT NOT NULL,
        idx INTEGER NOT NULL,
        shape TEXT NOT NULL,
        removing INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (cluster, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS ranges (
        cluster TEXT NOT NULL,
        node TEXT NOT NULL,
        layer TEXT NOT NULL,
        slot INTEGER NOT NULL,
        length INTEGER NOT NULL,
        PRIMARY KEY (cluster, node, layer)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS pod_addresses (
        cluster TEXT NOT NULL,
        node TEXT NOT NULL,
        uid TEXT NOT NULL,
        ip TEXT NOT NULL,
        PRIMARY KEY (cluster, uid)
    ) STRICT, WITHOUT ROWID;
";

/// The database of the daemon's home.
#[derive(Debug)]
pub(crate) struct State(Mutex<Connection>);

/// A cluster that is meant to be.
#[derive(Debug, Clone)]
pub(crate) struct ClusterRow {
    pub(crate) config: ClusterConfig,
    pub(crate) phase: ClusterPhase,
    pub(crate) api_port: u16,
    pub(crate) created: String,
}

/// A node that is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) name: String,
    /// From 1; says its addresses. Never used twice in a cluster while another is free.
    pub(crate) index: u32,
    pub(crate) shape: NodeShape,
    /// Its removal has begun.
    pub(crate) removing: bool,
}

/// A layer's place on a running node's `images` disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeRow {
    pub(crate) layer: String,
    pub(crate) slot: u32,
    pub(crate) length: u64,
}

type Result<T> = std::result::Result<T, ApiError>;

impl State {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> rusqlite::Result<Connection> {
            let db = Connection::open(path)?;
            db.pragma_update(None, "journal_mode", "wal")?;
            db.pragma_update(None, "synchronous", "full")?;
            db.pragma_update(None, "foreign_keys", true)?;
            db.execute_batch(SCHEMA)?;
            Ok(db)
        };
        let db = open()
            .map_err(|error| fault::internal(format!("state {}: {error}", path.display())))?;
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere cannot leave a transaction half done: SQLite rolls it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every cluster, by name.
    pub(crate) fn clusters(&self) -> Result<BTreeMap<ClusterName, ClusterRow>> {
        let db = self.db();
        let mut query = db
            .prepare_cached("SELECT config, phase, api_port, created FROM clusters")
            .map_err(failed)?;
        let rows = query.query_map([], cluster_row).map_err(failed)?;
        rows.map(|row| {
            let row = row.map_err(failed)?;
            Ok((cluster_name(&row.config.name)?, row))
        })
        .collect()
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> Result<ClusterRow> {
        self.db()
            .query_row(
                "SELECT config, phase, api_port, created FROM clusters WHERE name = ?1",
                [name.as_str()],
                cluster_row,
            )
            .optional()
            .map_err(failed)?
            .ok_or_else(|| no_cluster(name))
    }

    /// Where a cluster's Ingresses are served, if that has been decided.
    pub(crate) fn ingress_ports(&self, name: &ClusterName) -> Result<Option<IngressPorts>> {
        self.db()
            .query_row(
                "SELECT http, https FROM ingress_ports WHERE cluster = ?1",
                params![name.as_str()],
                |row| Ok(IngressPorts { http: row.get(0)?, https: row.get(1)? }),
            )
            .optional()
            .map_err(failed)
    }

    /// Decides where a cluster's Ingresses are served.
    pub(crate) fn set_ingress_ports(&self, name: &ClusterName, ports: IngressPorts) -> Result<()> {
        let query = "INSERT OR REPLACE INTO ingress_ports VALUES (?1, ?2, ?3)";
        let changed = self.db().execute(query, params![name.as_str(), ports.http, ports.https]);
        changed.map(drop).map_err(failed)
    }

    /// Notes a cluster and its nodes as being created. Of several at once with one name, the
    /// first gets it.
    pub(crate) fn insert_cluster(
        &self,
        checked: &Checked,
        api_port: u16,
        now: &str,
        nodes: Option<&[NodeRow]>,
    ) -> Result<()> {
        let mut db = self.db();
        let tx = db.transaction().map_err(failed)?;
        let name = checked.name.as_str();
        let inserted = tx
            .execute(
                "INSERT OR IGNORE INTO clusters VALUES (?1, ?2, ?3, ?4, ?5, 1)",
                params![name, json(&checked.config), "Creating", api_port, now],
            )
            .map_err(failed)?;
        if inserted == 0 {
            return Err(fault::already_exists(format!("cluster {name} already exists")));
        }
        match nodes {
            None => {
                for _ in 0..checked.config.nodes {
                    add_node(&tx, &checked.name, &checked.config.node)?;
                }
            }
            Some(nodes) => {
                for node in nodes {
                    put_node(&tx, &checked.name, node)?;
                }
            }
        }
        tx.commit().map_err(failed)
    }

    pub(crate) fn set_phase(&self, name: &ClusterName, phase: ClusterPhase) -> Result<()> {
        self.write(
            "UPDATE clusters SET phase = ?2 WHERE name = ?1",
            params![name.as_str(), phase_text(phase)],
        )
    }

    /// Forgets a cluster and all that belongs to it.
    pub(crate) fn remove_cluster(&self, name: &ClusterName) -> Result<()> {
        let mut db = self.db();
        let tx = db.transaction().map_err(failed)?;
        for table in ["ranges", "pod_addresses"] {
            tx.execute(&format!("DELETE FROM {table} WHERE cluster = ?1"), [name.as_str()])
                .map_err(failed)?;
        }
        tx.execute("DELETE FROM clusters WHERE name = ?1", [name.as_str()]).map_err(failed)?;
        tx.commit().map_err(failed)
    }

    /// A cluster's nodes, by index.
    pub(crate) fn nodes(&self, cluster: &ClusterName) -> Result<Vec<NodeRow>> {
        nodes(&self.db(), cluster)
    }

    /// Adds `count` nodes; their rows.
    pub(crate) fn add_nodes(
        &self,
        cluster: &ClusterName,
        shape: &NodeShape,
        count: u32,
    ) -> Result<Vec<NodeRow>> {
        let mut db = self.db();
        let tx = db.transaction().map_err(failed)?;
        let added =
            (0..count).map(|_| add_node(&tx, cluster, shape)).collect::<Result<Vec<NodeRow>>>()?;
        tx.commit().map_err(failed)?;
        Ok(added)
    }

    /// Notes that a node's removal has begun.
    pub(crate) fn mark_removing(&self, cluster: &ClusterName, node: &str) -> Result<()> {
        self.write(
            "UPDATE nodes SET removing = 1 WHERE cluster = ?1 AND name = ?2",
            params![cluster.as_str(), node],
        )
    }

    pub(crate) fn remove_node(&self, cluster: &ClusterName, node: &str) -> Result<()> {
        let mut db = self.db();
        let tx = db.transaction().map_err(failed)?;
        let key = params![cluster.as_str(), node];
        for sql in [
            "DELETE FROM ranges WHERE cluster = ?1 AND node = ?2",
            "DELETE FROM pod_addresses WHERE cluster = ?1 AND node = ?2",
            "DELETE FROM nodes WHERE cluster = ?1 AND name = ?2",
        ] {
            tx.execute(sql, key).map_err(failed)?;
        }
        tx.commit().map_err(failed)
    }

    /// The ranges on a running node's `images` disk.
    pub(crate) fn ranges(&self, cluster: &ClusterName, node: &str) -> Result<Vec<RangeRow>> {
        let db = self.db();
        let mut query = db
            .prepare_cached(
                "SELECT layer, slot, length FROM ranges WHERE cluster = ?1 AND node = ?2",
            )
            .map_err(failed)?;
        let rows = query
            .query_map(params![cluster.as_str(), node], |row| {
                Ok(RangeRow {
                    layer: row.get(0)?,
                    slot: row.get(1)?,
                    length: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })
            .map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    pub(crate) fn add_range(
        &self,
        cluster: &ClusterName,
        node: &str,
        range: &RangeRow,
    ) -> Result<()> {
        self.write(
            "INSERT OR REPLACE INTO ranges VALUES (?1, ?2, ?3, ?4, ?5)",
            params![cluster.as_str(), node, range.layer, range.slot, range.length.cast_signed()],
        )
    }

    /// Forgets a node's ranges: its monitor has ended, and the disk with it.
    pub(crate) fn clear_ranges(&self, cluster: &ClusterName, node: &str) -> Result<()> {
        self.write(
            "DELETE FROM ranges WHERE cluster = ?1 AND node = ?2",
            params![cluster.as_str(), node],
        )
    }

    /// The addresses of a node's pods, by uid.
    pub(crate) fn pod_addresses(
        &self,
        cluster: &ClusterName,
        node: &str,
    ) -> Result<BTreeMap<String, Ipv4Addr>> {
        let db = self.db();
        let mut query = db
            .prepare_cached("SELECT uid, ip FROM pod_addresses WHERE cluster = ?1 AND node = ?2")
            .map_err(failed)?;
        let rows = query
            .query_map(params![cluster.as_str(), node], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(failed)?;
        rows.map(|row| {
            let (uid, ip) = row.map_err(failed)?;
            let ip = ip.parse().map_err(|_| fault::internal(format!("state: {ip:?} is no IP")))?;
            Ok((uid, ip))
        })
        .collect()
    }

    /// Survives the daemon, but not the host's power: nor does the pod's sandbox.
    pub(crate) fn set_pod_address(
        &self,
        cluster: &ClusterName,
        node: &str,
        uid: &str,
        ip: Ipv4Addr,
    ) -> Result<()> {
        self.write_unsynced(
            "INSERT OR REPLACE INTO pod_addresses VALUES (?1, ?2, ?3, ?4)",
            params![cluster.as_str(), node, uid, ip.to_string()],
        )
    }

    pub(crate) fn free_pod_address(&self, cluster: &ClusterName, uid: &str) -> Result<()> {
        self.write(
            "DELETE FROM pod_addresses WHERE cluster = ?1 AND uid = ?2",
            params![cluster.as_str(), uid],
        )
    }

    fn write(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        self.db().prepare_cached(sql).and_then(|mut q| q.execute(params)).map_err(failed)?;
        Ok(())
    }

    /// Without waiting for the disk.
    fn write_unsynced(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        let db = self.db();
        let synchronous = |level| db.pragma_update(None, "synchronous", level).map_err(failed);
        synchronous("normal")?;
        let written = db.prepare_cached(sql).and_then(|mut q| q.execute(params)).map_err(failed);
        synchronous("full")?;
        written.map(|_| ())
    }
}

fn nodes(db: &Connection, cluster: &ClusterName) -> Result<Vec<NodeRow>> {
    let mut query = db
        .prepare_cached(
            "SELECT name, idx, shape, removing FROM nodes WHERE cluster = ?1 ORDER BY idx",
        )
        .map_err(failed)?;
    let rows = query
        .query_map([cluster.as_str()], |row| {
            Ok(NodeRow {
                name: row.get(0)?,
                index: row.get(1)?,
                shape: from_json(row, 2)?,
                removing: row.get(3)?,
            })
        })
        .map_err(failed)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failed)
}

/// Adds one node with the next index, so that a new node is not taken for one that was removed;
/// past the last, the lowest that is free.
fn add_node(db: &Connection, cluster: &ClusterName, shape: &NodeShape) -> Result<NodeRow> {
    let next: u32 = db
        .query_row("SELECT next_index FROM clusters WHERE name = ?1", [cluster.as_str()], |row| {
            row.get(0)
        })
        .optional()
        .map_err(failed)?
        .ok_or_else(|| no_cluster(cluster))?;
    let taken = nodes(db, cluster)?;
    let index = (next..=crate::config::MAX_NODES)
        .chain(1..next)
        .find(|index| taken.iter().all(|node| node.index != *index))
        .ok_or_else(|| {
            fault::invalid(format!(
                "cluster {cluster} cannot have more than {} nodes",
                crate::config::MAX_NODES
            ))
        })?;
    let row = NodeRow { name: cluster.node(index), index, shape: shape.clone(), removing: false };
    put_node(db, cluster, &row)?;
    Ok(row)
}

/// Adds a node as it is; the next to be added comes after it.
fn put_node(db: &Connection, cluster: &ClusterName, row: &NodeRow) -> Result<()> {
    db.execute(
        "INSERT INTO nodes VALUES (?1, ?2, ?3, ?4, 0)",
        params![cluster.as_str(), row.name, row.index, json(&row.shape)],
    )
    .map_err(failed)?;
    db.execute(
        "UPDATE clusters SET next_index = max(next_index, ?2) WHERE name = ?1",
        params![cluster.as_str(), row.index + 1],
    )
    .map_err(failed)?;
    Ok(())
}

fn cluster_row(row: &Row<'_>) -> rusqlite::Result<ClusterRow> {
    Ok(ClusterRow {
        config: from_json(row, 0)?,
        phase: phase(&row.get::<_, String>(1)?)?,
        api_port: row.get(2)?,
        created: row.get(3)?,
    })
}

const fn phase_text(phase: ClusterPhase) -> &'static str {
    match phase {
        ClusterPhase::Creating => "Creating",
        ClusterPhase::Running => "Running",
        ClusterPhase::Stopped => "Stopped",
        ClusterPhase::Deleting => "Deleting",
    }
}

fn phase(text: &str) -> rusqlite::Result<ClusterPhase> {
    use ClusterPhase::{Creating, Deleting, Running, Stopped};
    [Creating, Running, Stopped, Deleting]
        .into_iter()
        .find(|phase| phase_text(*phase) == text)
        .ok_or_else(|| rusqlite::Error::InvalidParameterName(format!("phase {text:?}")))
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).unwrap_or_default().to_string()
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into())
    })
}

fn no_cluster(name: &ClusterName) -> ApiError {
    fault::not_found(format!("there is no cluster {name}"))
}

#[allow(clippy::needless_pass_by_value, reason = "it is map_err's")]
fn failed(error: rusqlite::Error) -> ApiError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            fault::insufficient("the disk that holds the host daemon's state is full")
        }
        _ => fault::internal(format!("the host daemon's state (host.db): {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, nodes: u32) -> Checked {
        let config = serde_json::from_value(serde_json::json!({"name": name, "nodes": nodes}));
        Checked::new(config.unwrap()).unwrap()
    }

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("host.db")).unwrap();
        (dir, state)
    }

    #[test]
    fn a_name_is_given_once() {
        let (_dir, state) = state();
        state.insert_cluster(&checked("a", 2), 6443, "now", None).unwrap();
        let error = state.insert_cluster(&checked("a", 1), 6444, "now", None).unwrap_err();
        assert_eq!(error.reason, "AlreadyExists");
        let names: Vec<_> =
            state.nodes(&checked("a", 1).name).unwrap().into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["a-1", "a-2"]);
    }

    #[test]
    fn what_was_written_is_there_after_a_reopening() {
        let (dir, state) = state();
        let checked = checked("a", 1);
        state.insert_cluster(&checked, 6443, "now", None).unwrap();
        state.set_phase(&checked.name, ClusterPhase::Running).unwrap();
        drop(state);
        let state = State::open(&dir.path().join("host.db")).unwrap();
        let row = state.cluster(&checked.name).unwrap();
        assert_eq!((row.phase, row.api_port), (ClusterPhase::Running, 6443));
        assert_eq!(row.config, checked.config);
    }

    #[test]
    fn a_removed_nodes_index_is_not_used_again_while_others_are_free() {
        let (_dir, state) = state();
        let checked = checked("a", 2);
        let name = &checked.name;
        state.insert_cluster(&checked, 6443, "now", None).unwrap();
        state.remove_node(name, "a-2").unwrap();
        assert_eq!(state.add_nodes(name, &NodeShape::default(), 1).unwrap()[0].name, "a-3");
        state.add_nodes(name, &NodeShape::default(), 247).unwrap();
        assert_eq!(state.add_nodes(name, &NodeShape::default(), 1).unwrap()[0].name, "a-2");
        assert_eq!(state.add_nodes(name, &NodeShape::default(), 1).unwrap_err().reason, "Invalid");
    }

    #[test]
    fn a_removed_cluster_leaves_no_rows() {
        let (_dir, state) = state();
        let checked = checked("a", 1);
        let name = &checked.name;
        state.insert_cluster(&checked, 6443, "now", None).unwrap();
        let range = RangeRow { layer: "sha256:x".into(), slot: 1, length: 4096 };
        state.add_range(name, "a-1", &range).unwrap();
        assert_eq!(state.ranges(name, "a-1").unwrap(), [range]);
        state.set_pod_address(name, "a-1", "u", Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(state.ingress_ports(name).unwrap(), None);
        let ports = IngressPorts { http: 80, https: 443 };
        state.set_ingress_ports(name, ports).unwrap();
        assert_eq!(state.ingress_ports(name).unwrap(), Some(ports));
        state.remove_cluster(name).unwrap();
        assert!(state.ranges(name, "a-1").unwrap().is_empty());
        assert!(state.pod_addresses(name, "a-1").unwrap().is_empty());
        assert!(state.nodes(name).unwrap().is_empty());
        assert_eq!(state.ingress_ports(name).unwrap(), None);
        assert_eq!(state.cluster(name).unwrap_err().reason, "NotFound");
    }
}
