//! What a new daemon must know of what the last one left running.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bulkhead_host_api::ClusterName;
use rusqlite::params;

use super::{Result, State, failed};
use crate::fault;

/// A layer's place on a running node's `images` disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeRow {
    pub(crate) layer: String,
    pub(crate) slot: u32,
    pub(crate) length: u64,
}

impl State {
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
}
