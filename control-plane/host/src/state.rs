//! What the daemon means to run, in SQLite (WAL): it survives the daemon, `kill -9` and a reboot.
//!
//! Desired state: [`clusters`] and [`nodes`]. Beside it what a new daemon must know of what the last
//! one left [`running`]: the images' ranges on each running node's disk, pods' addresses.

mod clusters;
mod nodes;
mod running;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bulkhead_host_api::ApiError;
use rusqlite::{Connection, Row};

use crate::fault;

pub(crate) use clusters::ClusterRow;
pub(crate) use nodes::NodeRow;
pub(crate) use running::RangeRow;

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

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).unwrap_or_default().to_string()
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into())
    })
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
    use std::net::Ipv4Addr;

    use bulkhead_host_api::{ClusterPhase, IngressPorts, NodeShape};

    use super::*;
    use crate::config::Checked;

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
