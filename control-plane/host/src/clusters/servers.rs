//! The processes that serve a cluster.

use std::collections::HashMap;
use std::path::PathBuf;

use bulkhead_host_api::ClusterName;
use bulkhead_network::Network;
use ipnet::Ipv4Net;

use super::Result;
use crate::daemon::Host;
use crate::home::ClusterDir;
use crate::kubelet::client::{Identity, Kube};
use crate::ports::Ports;
use crate::process::Process;
use crate::supervisor::Supervisor;
use crate::{api_server, fault, ingress, name_server};

/// What they are told of their cluster.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) name: &'a ClusterName,
    pub(super) dir: &'a ClusterDir,
    pub(super) ports: &'a Ports,
    /// Pods' addresses.
    pub(super) pods: Ipv4Net,
    pub(super) network: &'a Network,
}

/// A cluster's processes, under supervision.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) api: Supervisor,
    names: Supervisor,
    pub(super) ingress: Supervisor,
}

impl Servers {
    /// Starts those that are not in `adopted`, and waits until the API answers.
    pub(super) async fn start(
        host: &Host,
        cluster: Around<'_>,
        adopted: &mut HashMap<PathBuf, Process>,
    ) -> Result<Self> {
        let Around { name, dir, ports, pods, network } = cluster;
        let client = |identity| Kube::new(ports.api, &dir.pki(), identity).map_err(fault::internal);
        let (kube, admin) = (client(Identity::Host)?, client(Identity::Admin)?);
        let api = api_server::plan(&host.programs, dir, ports.api, network);
        let api = Supervisor::start(api, adopted.remove(dir.path()));
        if let Err(error) = api_server::ready(&api, &kube).await {
            api.stop().await;
            return Err(error);
        }
        let names = name_server::plan(&host.programs, dir, (pods, ports.api), network);
        let names = Supervisor::start(names, adopted.remove(&dir.name_server()));
        name_server::register(name, &admin).await;
        let ingress = ingress::plan(&host.programs, dir, ports.api, ports.ingress, network);
        let left = adopted.remove(&ingress.dir);
        Ok(Self { api, names, ingress: Supervisor::start(ingress, left) })
    }

    /// Ends them.
    pub(super) async fn stop(&self) {
        self.ingress.stop().await;
        self.names.stop().await;
        self.api.stop().await;
    }
}
