//! What a new daemon does with what the last one left: half made clusters go, those that are meant
//! to run are started with what still runs of them, all else is ended.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_host_api::{ClusterName, ClusterPhase};

use super::{Clusters, Result};
use crate::process::{self, Process};
use crate::progress::Reporter;

impl Clusters {
    /// Repairs what an earlier daemon left; clusters that are meant to run are started in the
    /// background.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let mut left = process::find(&self.host.home.clusters());
        let clusters = self.host.state.clusters()?;
        for (name, row) in &clusters {
            match row.phase {
                ClusterPhase::Creating | ClusterPhase::Deleting => {
                    tracing::info!("removing cluster {name}, which is half made or half deleted");
                    self.remove(name, take(&mut left, &self.host.home.cluster(name).path().into()))
                        .await?;
                }
                ClusterPhase::Stopped => {}
                ClusterPhase::Running => {
                    let dir = self.host.home.cluster(name);
                    let adopted = take(&mut left, &dir.path().to_owned());
                    let (this, name, row) = (Arc::clone(self), name.clone(), row.clone());
                    tokio::spawn(async move {
                        let lock = this.lock(&name);
                        let _guard = lock.lock().await;
                        let (reporter, _receiver) = Reporter::new();
                        if let Err(error) = this.launch(&name, &row, adopted, &reporter).await {
                            tracing::error!("starting cluster {name}: {error}");
                        }
                    });
                }
            }
        }
        for (_, mut stray) in left {
            stray.kill().await;
        }
        for entry in std::fs::read_dir(self.host.home.clusters()).into_iter().flatten().flatten() {
            let known = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<ClusterName>().ok())
                .is_some_and(|name| clusters.contains_key(&name));
            if !known && let Err(error) = crate::home::remove_tree(&entry.path()) {
                tracing::warn!("{}: {error}", entry.path().display());
            }
        }
        Ok(())
    }
}

/// Takes what serves `dir` or a directory below it out of `left`.
fn take(left: &mut HashMap<PathBuf, Process>, dir: &PathBuf) -> HashMap<PathBuf, Process> {
    left.extract_if(|owner, _| owner.starts_with(dir)).collect()
}
