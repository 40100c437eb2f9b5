//! Their nodes.

use bulkhead_host_api::{ClusterName, NodeShape};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::clusters::no_cluster;
use super::{Result, State, failed, from_json, json};
use crate::fault;

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

impl State {
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
pub(super) fn add_node(
    db: &Connection,
    cluster: &ClusterName,
    shape: &NodeShape,
) -> Result<NodeRow> {
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
pub(super) fn put_node(db: &Connection, cluster: &ClusterName, row: &NodeRow) -> Result<()> {
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
