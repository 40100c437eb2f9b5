//! The clusters that are meant to be.

use std::collections::BTreeMap;

use bulkhead_host_api::{ApiError, ClusterConfig, ClusterName, ClusterPhase, IngressPorts};
use rusqlite::{OptionalExtension as _, Row, params};

use super::nodes::{NodeRow, add_node, put_node};
use super::{Result, State, failed, from_json, json};
use crate::config::{Checked, cluster_name};
use crate::fault;

/// A cluster that is meant to be.
#[derive(Debug, Clone)]
pub(crate) struct ClusterRow {
    pub(crate) config: ClusterConfig,
    pub(crate) phase: ClusterPhase,
    pub(crate) api_port: u16,
    pub(crate) created: String,
}

impl State {
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

pub(super) fn no_cluster(name: &ClusterName) -> ApiError {
    fault::not_found(format!("there is no cluster {name}"))
}
