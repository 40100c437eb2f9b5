//! The scheduler's loop: it takes note of what informers tell, tries one pod at a time, and leaves
//! the writing to others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::{Change, Informers, Kind, Told, object};
use serde_json::Value;
use tokio::time::Instant;

use crate::NAME;
use crate::cluster::Cluster;
use crate::cycle;
use crate::hints::Event;
use crate::model::Pod;
use crate::plugins::Counts;
use crate::preemption::{self, NoPlan, Plan};
use crate::queue::{Queue, Wait};
use crate::related::Related;
use crate::writes::{Failed, Writer};

/// How often pods that have waited for long are looked for.
const FLUSH: Duration = Duration::from_secs(30);
/// How long to wait for an API that does not answer.
const RETRY: Duration = Duration::from_secs(1);

struct Scheduler {
    cluster: Cluster,
    queue: Queue,
    related: Related,
    writer: Writer,
    nodes_known: bool,
    /// Where the next search for a node begins.
    next: usize,
}

/// Schedules, for ever.
pub async fn run(informers: Arc<Informers>) {
    let related = loop {
        match Related::follow(&informers).await {
            Ok(related) => break related,
            Err(error) => tracing::warn!(%error, "the scheduler asks which kinds there are"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let mut namespaces = informers.follow(&Kind::NAMESPACES);
    let mut nodes = informers.follow(&Kind::NODES);
    let mut pods = informers.follow(&Kind::PODS);
    let (writer, mut failed) = Writer::new(informers.client());
    let mut scheduler = Scheduler {
        cluster: Cluster::default(),
        queue: Queue::default(),
        related,
        writer,
        nodes_known: false,
        next: 0,
    };
    let mut flush = tokio::time::interval(FLUSH);
    loop {
        let wake = scheduler.queue.next_look();
        tokio::select! {
            Some(told) = namespaces.recv() => scheduler.namespaces_told(told),
            Some(told) = nodes.recv() => scheduler.nodes_told(told),
            Some(told) = pods.recv() => scheduler.pods_told(told),
            Some(failed) = failed.recv() => scheduler.binding_failed(&failed),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            _ = flush.tick() => scheduler.queue.flush(),
        }
        loop {
            // What is known already counts before anything is decided.
            while let Ok(told) = namespaces.try_recv() {
                scheduler.namespaces_told(told);
            }
            while let Ok(told) = nodes.try_recv() {
                scheduler.nodes_told(told);
            }
            while let Ok(told) = pods.try_recv() {
                scheduler.pods_told(told);
            }
            while let Ok(failed) = failed.try_recv() {
                scheduler.binding_failed(&failed);
            }
            if !scheduler.nodes_known || !scheduler.schedule_one().await {
                break;
            }
            // Others have work to do as well: what was decided is to be written.
            tokio::task::yield_now().await;
        }
    }
}

impl Scheduler {
    fn namespaces_told(&mut self, told: Told) {
        let mut changed = false;
        match told {
            Told::All(all) => {
                self.cluster.namespaces.clear();
                for namespace in &all {
                    changed |= self.cluster.namespace_present(namespace);
                }
            }
            Told::One(Change::Present(namespace)) => {
                changed = self.cluster.namespace_present(&namespace);
            }
            Told::One(Change::Gone(namespace)) => {
                self.cluster.namespaces.remove(object::name(&namespace));
            }
        }
        if changed {
            self.queue.wake(Event::NamespaceChanged, &self.cluster);
        }
    }

    fn nodes_told(&mut self, told: Told) {
        match told {
            Told::All(all) => {
                self.nodes_known = true;
                let present: HashSet<&str> = all.iter().map(|node| object::name(node)).collect();
                let gone = self.cluster.names();
                for name in gone.iter().filter(|name| !present.contains(name.as_str())) {
                    self.node_gone(name);
                }
                all.iter().for_each(|node| self.node_present(node));
            }
            Told::One(Change::Present(node)) => self.node_present(&node),
            Told::One(Change::Gone(node)) => self.node_gone(object::name(&node)),
        }
    }

    fn node_present(&mut self, object: &Arc<Value>) {
        let before = self.cluster.node_present(object);
        let after = self.cluster.index_of(object::name(object));
        let Some(after) = after.and_then(|index| self.cluster.node(index)) else { return };
        let event = match &before {
            Some(before) => Event::NodeChanged { before, after },
            None => Event::NodeAdded(after),
        };
        self.queue.wake(event, &self.cluster);
    }

    fn node_gone(&mut self, name: &str) {
        if self.cluster.node_gone(name).is_some() {
            self.queue.wake(Event::NodeGone, &self.cluster);
        }
    }

    fn pods_told(&mut self, told: Told) {
        match told {
            Told::All(mut all) => {
                let present: HashSet<String> = all.iter().map(|pod| object::key(pod)).collect();
                let known =
                    self.queue.keys().into_iter().chain(self.cluster.placed_keys().cloned());
                let gone: Vec<String> = known.filter(|key| !present.contains(key)).collect();
                gone.iter().for_each(|key| self.pod_gone(key));
                // Who came first is tried first.
                all.sort_by(|a, b| {
                    let created = |pod| object::text(pod, "metadata.creationTimestamp");
                    created(a).cmp(created(b))
                });
                all.iter().for_each(|pod| self.pod_present(pod));
            }
            Told::One(Change::Present(pod)) => self.pod_present(&pod),
            Told::One(Change::Gone(pod)) => self.pod_gone(&object::key(&pod)),
        }
    }

    fn pod_present(&mut self, object: &Arc<Value>) {
        let key = object::key(object);
        if matches!(object::text(object, "status.phase"), "Succeeded" | "Failed") {
            return self.pod_gone(&key);
        }
        let pod = Arc::new(Pod::read(object));
        // One of the same name that was before is gone.
        let replaced = |known: &Arc<Pod>| known.uid != pod.uid;
        if self.cluster.placed(&key).is_some_and(|(known, _)| replaced(known))
            || self.queue.get(&key).is_some_and(replaced)
        {
            self.pod_gone(&key);
        }
        if let Some(node) = pod.node() {
            self.queue.remove(&key);
            self.cluster.withdraw(&pod.uid);
            if self.cluster.bound(&pod, node) {
                self.queue.wake(Event::PodPlaced(&pod), &self.cluster);
            }
            return;
        }
        if self.cluster.placed(&key).is_some() {
            // Its binding is under way.
            return;
        }
        let other = object::text(object, "spec.schedulerName");
        if pod.terminating || pod.is_gated() || !matches!(other, "" | NAME) {
            return self.pod_gone(&key);
        }
        if let Some(node) = pod.nominated_node()
            && self.cluster.nomination(&pod.uid).is_none()
            && self.queue.get(&key).is_none()
        {
            self.cluster.nominate(&pod, node);
        }
        self.queue.add(pod);
    }

    fn pod_gone(&mut self, key: &str) {
        if let Some(pod) = self.queue.get(key) {
            self.cluster.withdraw(&pod.uid);
        }
        self.queue.remove(key);
        if let Some(pod) = self.cluster.forget(key) {
            self.queue.wake(Event::PodGone(&pod), &self.cluster);
        }
    }

    fn binding_failed(&mut self, failed: &Failed) {
        let key = failed.pod.key();
        tracing::warn!(pod = key, error = %failed.error, "binding");
        let is_ours = self
            .cluster
            .placed(&key)
            .is_some_and(|(pod, assumed)| assumed && pod.uid == failed.pod.uid);
        if !is_ours {
            return;
        }
        if let Some(pod) = self.cluster.forget(&key) {
            self.queue.wake(Event::PodGone(&pod), &self.cluster);
        }
        if failed.error.code == 404 {
            self.queue.remove(&key);
        } else {
            self.queue.retry(&key);
        }
    }

    /// Tries the next pod; whether there was one.
    async fn schedule_one(&mut self) -> bool {
        let Some(pod) = self.queue.pop() else { return false };
        if let Some(why) = &pod.refusal {
            self.queue.put_back(&pod, Wait::Itself);
            let why = why.clone();
            self.writer.report(pod, why, None).await;
            return true;
        }
        let defaults = self.related.spread_defaults(&pod);
        let counts = Counts::of(&pod, &defaults, &mut self.cluster);
        match cycle::choose(&pod, &counts, &self.cluster, &mut self.next) {
            Ok(index) => {
                let Some(node) = self.cluster.node(index) else { return true };
                let node = node.name.clone();
                // What is counted is changed now: nobody else may hold it, or it is copied.
                drop(counts);
                self.cluster.withdraw(&pod.uid);
                self.cluster.assume(&pod, &node);
                self.queue.wake(Event::PodPlaced(&pod), &self.cluster);
                self.writer.bind(pod, node).await;
            }
            Err(unfit) if unfit.nodes == 0 => {
                self.queue.put_back(&pod, Wait::Node);
                self.writer.report(pod, unfit.message(), None).await;
            }
            Err(unfit) => {
                let budgets = self.related.budgets();
                let plan = preemption::plan(&pod, &counts, &self.cluster, &unfit, &budgets);
                let message = unfit.message();
                self.queue.put_back(&pod, Wait::Plugins(unfit.plugins()));
                match plan {
                    Ok(plan) => self.preempt(pod, plan, message).await,
                    Err(why) => {
                        let nominated = self.cluster.nomination(&pod.uid).map(str::to_owned);
                        let nominated = nominated.filter(|_| why == NoPlan::UnderWay);
                        if nominated.is_none() {
                            self.cluster.withdraw(&pod.uid);
                        }
                        let message = format!("{message} preemption: {why}");
                        self.writer.report(pod, message, nominated).await;
                    }
                }
            }
        }
        true
    }

    /// Ends the victims and keeps their room for the pod.
    async fn preempt(&mut self, pod: Arc<Pod>, plan: Plan, message: String) {
        let Some(node) = self.cluster.node(plan.node).map(|node| node.name.clone()) else { return };
        for victim in plan.victims {
            self.writer.preempt(victim, Arc::clone(&pod), node.clone()).await;
        }
        // Pods of lower priority that wait for this node may find another.
        let nominated = self.cluster.nominated(&node).iter();
        let lower: Vec<Arc<Pod>> =
            nominated.filter(|one| one.priority < pod.priority).cloned().collect();
        for one in lower {
            self.cluster.withdraw(&one.uid);
            self.writer.clear_nomination(one).await;
        }
        self.cluster.nominate(&pod, &node);
        self.writer.report(pod, message, Some(node)).await;
    }
}
