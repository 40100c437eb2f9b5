//! What one server of a cluster does for all of them: scheduler, controllers, housekeeping.
//!
//! The only server of a store just does it. Servers that share one elect who does, by the Lease
//! `kube-system/bulkhead-control-plane`; a server that is told to end lets it go at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::{Election, ElectionTiming, Informers};
use bulkhead_controllers::Controllers;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{Api, services};
use crate::auth::authorizer::Authorizer;
use crate::auth::rbac::aggregation;
use crate::auth::token::{Tokens, secrets};
use crate::custom::CustomResources;
use crate::housekeeping;
use crate::kubelet::Kubelets;
use crate::local::LocalClient;
use crate::signer;

/// The lease of who leads.
const NAMESPACE: &str = "kube-system";
const LEASE: &str = "bulkhead-control-plane";

/// What it takes to do the duties.
#[derive(Debug)]
pub(crate) struct Duties {
    pub(crate) api: Api,
    pub(crate) authorizer: Arc<Authorizer>,
    /// Where metrics come from.
    pub(crate) kubelets: Arc<Kubelets>,
    pub(crate) custom: Arc<CustomResources>,
    pub(crate) tokens: Tokens,
    /// The cluster's, PEM.
    pub(crate) root_certificate: Arc<str>,
    /// Where the authority's key lies.
    pub(crate) pki: PathBuf,
    /// How long a node's lease may go without renewal.
    pub(crate) node_monitor_grace_period: Duration,
    /// How long the store's past is kept at least.
    pub(crate) compaction_interval: Duration,
}

/// The duties being done, until this is dropped.
struct Doing {
    _tasks: JoinSet<()>,
    _controllers: Controllers,
}

impl Duties {
    /// The client of the component `name`, as Kubernetes calls it.
    fn client(&self, name: &str) -> LocalClient {
        LocalClient::new(self.api.clone(), Arc::clone(&self.kubelets), name)
    }

    fn begin(&self) -> Doing {
        let mut tasks = JoinSet::new();
        tasks.spawn(housekeeping::run(self.api.clone(), self.compaction_interval));
        tasks.spawn(services::keep_repaired(self.api.clone()));
        tasks.spawn(Arc::clone(&self.custom).clean_up(self.api.clone()));
        tasks.spawn(signer::run(self.api.clone(), self.pki.clone()));
        let root = Arc::clone(&self.root_certificate);
        tasks.spawn(secrets::run(self.tokens.clone(), root));
        tasks.spawn(aggregation::run(self.api.clone(), Arc::clone(&self.authorizer)));
        let informers = Informers::new(Arc::new(self.client("kube-controller-manager")));
        let scheduler = informers.share(Arc::new(self.client("kube-scheduler")));
        tasks.spawn(bulkhead_scheduler::run(scheduler));
        let controllers = bulkhead_controllers::start(
            &informers,
            Arc::clone(&self.root_certificate),
            self.node_monitor_grace_period,
        );
        Doing { _tasks: tasks, _controllers: controllers }
    }
}

/// The duties, whoever does them now.
#[derive(Debug)]
pub(crate) struct Leading {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Leading {
    /// Ends them here, and lets another server go on.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        // It has no way to fail that would matter now.
        let _ = self.task.await;
    }
}

/// Sees to it that the duties are done: here, or by whom the election chooses.
pub(crate) fn start(duties: Duties, election: Option<ElectionTiming>) -> Leading {
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let Some(timing) = election else {
            let _doing = duties.begin();
            return ended(&mut stopped).await;
        };
        let client = Arc::new(duties.client("kube-controller-manager"));
        let election = Election::new(client, NAMESPACE, LEASE, &identity(), timing);
        lead(&duties, election, stopped).await;
    });
    Leading { stop, task }
}

async fn lead(duties: &Duties, mut election: Election, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = election.campaign() => {}
            () = ended(&mut stopped) => return,
        }
        tracing::info!(?election, "leads");
        let doing = duties.begin();
        tokio::select! {
            () = election.hold() => {
                drop(doing);
                tracing::warn!(?election, "no longer leads");
            }
            () = ended(&mut stopped) => {
                drop(doing);
                return election.release().await;
            }
        }
    }
}

async fn ended(stopped: &mut watch::Receiver<bool>) {
    // The sender ends with the server.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// As client-go's: the host's name, and what tells two processes there apart.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{}", uuid::Uuid::new_v4())
}
