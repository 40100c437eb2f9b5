//! Follows the cluster, and has the proxy do what its Ingresses say.

mod desired;
mod secrets;
mod slices;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::remote::Remote;
use bulkhead_client::{Change, Client, Informers, Kind, Recorder, Told, object};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::certificates::{Certificates, Hosts};
use crate::proxy::{Proxy, Route};
use crate::upstream::Upstream;
use desired::{Objects, Problem, ServicePort};
use secrets::{Secret, Secrets};
use slices::Slices;

pub use desired::{CLASS, CONTROLLER, REDIRECT};
pub use status::Address;

const INGRESSES: Kind = Kind::new("networking.k8s.io", "v1", "ingresses");
const CLASSES: Kind = Kind::new("networking.k8s.io", "v1", "ingressclasses");
const SERVICES: Kind = Kind::core("services");
const SLICES: Kind = Kind::new("discovery.k8s.io", "v1", "endpointslices");

/// What the proxy calls itself in events.
const COMPONENT: &str = "bulkhead-ingress";
/// How long to wait before the class is made again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// How long Secrets that are not known are waited for at the start.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has changed.
#[derive(Debug)]
pub(crate) enum News {
    Classes(Told),
    Ingresses(Told),
    Services(Told),
    Slices(Told),
    Secret(String, Told),
}

/// What follows the cluster.
pub struct Controller {
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    recorder: Arc<Recorder>,
    objects: Objects,
    slices: Slices,
    secrets: Secrets,
    /// What was not listed yet.
    waiting: BTreeSet<&'static str>,
    upstreams: HashMap<ServicePort, Arc<Upstream>>,
    /// What is served now.
    served: BTreeSet<String>,
    told: BTreeSet<Problem>,
    /// To whom the Ingresses that are served are told.
    status: watch::Sender<Vec<Arc<Value>>>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

impl Controller {
    /// Follows the cluster that `client` reaches, and has `proxy` and `certificates` do what it
    /// says, until dropped. `ready` is told when they do for the first time.
    pub async fn run(
        client: Remote,
        proxy: Arc<Proxy>,
        certificates: Arc<Certificates>,
        address: Address,
        ready: oneshot::Sender<()>,
    ) {
        let shared: Arc<dyn Client> = Arc::new(client.clone());
        let informers = Informers::new(Arc::clone(&shared));
        let (sender, news) = unbounded_channel();
        let (status, served) = watch::channel(Vec::new());
        // They end with this.
        let mut tasks = JoinSet::new();
        tasks.spawn(ensure_class(Arc::clone(&shared)));
        tasks.spawn(status::write(Arc::clone(&shared), address, served));
        for (kind, wrap) in [
            (CLASSES, News::Classes as fn(Told) -> News),
            (INGRESSES, News::Ingresses),
            (SERVICES, News::Services),
            (SLICES, News::Slices),
        ] {
            tasks.spawn(pass_on(informers.follow(&kind), sender.clone(), wrap));
        }
        let controller = Self {
            proxy,
            certificates,
            recorder: Recorder::new(shared, COMPONENT),
            objects: Objects::default(),
            slices: Slices::default(),
            secrets: Secrets::new(client, sender),
            waiting: ["classes", "ingresses", "services", "slices"].into(),
            upstreams: HashMap::new(),
            served: BTreeSet::new(),
            told: BTreeSet::new(),
            status,
        };
        controller.follow(news, ready).await;
    }

    async fn follow(mut self, mut news: UnboundedReceiver<News>, ready: oneshot::Sender<()>) {
        let mut ready = Some(ready);
        let mut pending = Pending::default();
        loop {
            let next = match ready.is_some() && self.waiting.is_empty() {
                true => timeout(PATIENCE, news.recv()).await,
                false => Ok(news.recv().await),
            };
            match next {
                Ok(Some(first)) => self.take(first, &mut pending),
                Ok(None) => return,
                // What is known is better than nothing.
                Err(_) => tell_ready(&mut ready),
            }
            // What has come at once is one change.
            while let Ok(next) = news.try_recv() {
                self.take(next, &mut pending);
            }
            if !self.waiting.is_empty() {
                continue;
            }
            let Pending { rules, services } = std::mem::take(&mut pending);
            if rules {
                self.apply();
            } else {
                self.move_endpoints(&services);
            }
            // Before that, a restart would show clients the default certificate.
            if self.secrets.are_known() {
                tell_ready(&mut ready);
            }
        }
    }

    fn take(&mut self, news: News, pending: &mut Pending) {
        match news {
            News::Classes(told) => {
                self.waiting.remove("classes");
                merge(&mut self.objects.classes, told);
                pending.rules = true;
            }
            News::Ingresses(told) => {
                self.waiting.remove("ingresses");
                merge(&mut self.objects.ingresses, told);
                pending.rules = true;
            }
            News::Services(told) => {
                self.waiting.remove("services");
                let changed = merge(&mut self.objects.services, told);
                pending.rules |= changed.is_none_or(|service| self.served.contains(&service));
            }
            News::Slices(told) => {
                self.waiting.remove("slices");
                pending.services.extend(self.slices.take(told));
            }
            News::Secret(key, told) => {
                self.secrets.take(&key, told);
                pending.rules = true;
            }
        }
    }

    /// Has the proxy do what the cluster says by now.
    fn apply(&mut self) {
        let mut desired = self.objects.desired();
        let mut upstreams = HashMap::new();
        let (old, slices) = (&self.upstreams, &self.slices);
        let routes = desired.routes.map(|leads| {
            let upstream = leads.to.map(|to| {
                let upstream = upstreams.entry(to.clone()).or_insert_with(|| {
                    let upstream = old.get(&to).cloned().unwrap_or_else(|| {
                        Arc::new(Upstream::new(format!("{}:{}", to.service, to.port)))
                    });
                    upstream.set(&slices.targets(&to.service, &to.port));
                    upstream
                });
                Arc::clone(upstream)
            });
            Route { upstream, https: leads.https }
        });
        self.upstreams = upstreams;
        self.served = desired.services;
        let keys = desired.certificates.iter().map(|(_, secret, _)| secret.clone()).collect();
        self.secrets.follow(&keys);
        self.certificates.set(self.hosts(&desired.certificates, &mut desired.problems));
        self.proxy.set(routes);
        self.tell(desired.problems);
        self.status.send_replace(desired.served);
    }

    /// The certificates of hosts, as far as they are there.
    fn hosts(
        &self,
        wanted: &[(String, String, String)],
        problems: &mut BTreeSet<Problem>,
    ) -> Hosts {
        let mut hosts = Hosts::default();
        for (host, key, ingress) in wanted {
            let mut problem = |reason, message| {
                problems.insert(Problem { ingress: ingress.clone(), reason, message });
            };
            match self.secrets.get(key) {
                Secret::Unknown => {}
                Secret::Missing => {
                    let message =
                        format!("Secret {key:?} is not there: the default certificate is shown");
                    problem("SecretNotFound", message);
                }
                Secret::Found(Ok(certificate)) => hosts.add(host, certificate),
                Secret::Found(Err(error)) => {
                    let message =
                        format!("Secret {key:?}: {error}: the default certificate is shown");
                    problem("InvalidCertificate", message);
                }
            }
        }
        hosts
    }

    /// Events for what cannot be served, each once.
    fn tell(&mut self, problems: BTreeSet<Problem>) {
        for problem in problems.difference(&self.told) {
            if let Some(ingress) = self.objects.ingresses.get(&problem.ingress) {
                self.recorder.warning(ingress, problem.reason, problem.message.clone());
            }
        }
        self.told = problems;
    }

    /// Takes the endpoints of these Services.
    fn move_endpoints(&self, services: &BTreeSet<String>) {
        for (to, upstream) in self.upstreams.iter().filter(|(to, _)| services.contains(&to.service))
        {
            upstream.set(&self.slices.targets(&to.service, &to.port));
        }
    }
}

fn tell_ready(ready: &mut Option<oneshot::Sender<()>>) {
    if let Some(ready) = ready.take() {
        // Nobody may wait for it any more.
        let _ = ready.send(());
    }
}

/// What is to be done yet.
#[derive(Default)]
struct Pending {
    /// Rules or certificates have changed.
    rules: bool,
    /// These Services' endpoints have.
    services: BTreeSet<String>,
}

/// Takes what changed; the key of the one object, if it was one.
fn merge(objects: &mut BTreeMap<String, Arc<Value>>, told: Told) -> Option<String> {
    match told {
        Told::All(all) => {
            *objects = all.into_iter().map(|one| (object::key(&one), one)).collect();
            None
        }
        Told::One(Change::Present(one)) => {
            let key = object::key(&one);
            objects.insert(key.clone(), one);
            Some(key)
        }
        Told::One(Change::Gone(one)) => {
            let key = object::key(&one);
            objects.remove(&key);
            Some(key)
        }
    }
}

async fn pass_on(
    mut changes: UnboundedReceiver<Told>,
    news: UnboundedSender<News>,
    wrap: fn(Told) -> News,
) {
    while let Some(told) = changes.recv().await {
        if news.send(wrap(told)).is_err() {
            return;
        }
    }
}

/// Makes the class that a cluster begins with, which is the default one, unless it is there: whoever
/// changed it meant to.
async fn ensure_class(client: Arc<dyn Client>) {
    let class = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": CONTROLLER},
    });
    while let Err(error) = client.create(&CLASSES, class.clone()).await {
        if error.code == 409 {
            return;
        }
        tracing::warn!(%error, "making the IngressClass {CLASS}");
        tokio::time::sleep(RETRY).await;
    }
}
