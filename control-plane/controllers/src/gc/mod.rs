//! Garbage collection: what all owners of an object are gone for is deleted, in the background or
//! before them, or let go.
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>

mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_client::object::{self, text};
use bulkhead_client::{
    Change, ClientError, DeleteOptions, Informers, Kind, Patch, Propagation, ResourceInfo, Target,
    Told,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::graph::{FOREGROUND, Graph, Node, ORPHAN};
use crate::context::unless_gone;
use crate::queue::{Next, Queue, Synced};

/// How many objects are looked at at a time.
const WORKERS: usize = 20;
/// How often kinds that came or went are looked for.
const DISCOVERY: Duration = Duration::from_secs(10);

/// Collects garbage, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let collector = Arc::new(Collector {
        informers,
        graph: Mutex::default(),
        queue: Queue::new(),
        kinds: Mutex::default(),
    });
    let mut watches: HashMap<Kind, JoinSet<()>> = HashMap::new();
    // Everything must be known before anything is called garbage.
    while let Err(error) = collector.discover(&mut watches).await {
        tracing::warn!(%error, "the garbage collector's discovery");
        tokio::time::sleep(DISCOVERY).await;
    }
    let worker = Arc::clone(&collector);
    let work = Arc::clone(&collector.queue).work("garbage collector", WORKERS, move |uid| {
        let collector = Arc::clone(&worker);
        async move { collector.sync(&uid).await }
    });
    let discovery = async {
        loop {
            tokio::time::sleep(DISCOVERY).await;
            if let Err(error) = collector.discover(&mut watches).await {
                tracing::warn!(%error, "the garbage collector's discovery");
            }
        }
    };
    tokio::join!(work, discovery);
}

struct Collector {
    informers: Arc<Informers>,
    graph: Mutex<Graph>,
    queue: Arc<Queue<String>>,
    /// By API version and kind, as owner references name them.
    kinds: Mutex<HashMap<(String, String), ResourceInfo>>,
}

/// What is known of an owner.
enum Owner {
    /// It is there, and stays.
    Solid,
    /// It waits for this object to be gone.
    Waiting,
    /// It is not there.
    Absent,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the kinds that are new, and forgets those that are no more.
    async fn discover(
        self: &Arc<Self>,
        watches: &mut HashMap<Kind, JoinSet<()>>,
    ) -> Result<(), ClientError> {
        let resources = self.informers.client().resources().await?;
        // Events own nothing and are owned by nobody.
        let resources: Vec<_> =
            resources.into_iter().filter(|one| one.resource.plural != "events").collect();
        let mut kinds = HashMap::new();
        for info in &resources {
            let Kind { group, version, .. } = &info.resource;
            let api_version =
                if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
            kinds.insert((api_version, info.kind.clone()), info.clone());
        }
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
        watches.retain(|kind, _| {
            let there = resources.iter().any(|info| info.resource == *kind);
            if !there {
                self.informers.forget(kind);
            }
            there
        });
        for info in resources {
            if watches.contains_key(&info.resource) {
                continue;
            }
            let cache = self.informers.metadata(&info.resource);
            cache.synced().await;
            let mut told = cache.follow();
            let (collector, kind) = (Arc::clone(self), info.resource.clone());
            let mut watch = JoinSet::new();
            if let Some(first) = told.recv().await {
                self.note(&info, first);
            }
            watch.spawn(async move {
                while let Some(told) = told.recv().await {
                    collector.note(&info, told);
                }
            });
            watches.insert(kind, watch);
        }
        Ok(())
    }

    fn note(&self, info: &ResourceInfo, told: Told) {
        let mut graph = self.graph();
        let mut affected = Vec::new();
        match told {
            Told::All(all) => {
                let mut missing = graph.of(info);
                for object in all {
                    missing.remove(object::uid(&object));
                    affected.extend(graph.present(object::uid(&object), Node::read(info, &object)));
                }
                affected.extend(missing.iter().flat_map(|uid| graph.gone(uid)));
            }
            Told::One(Change::Present(object)) => {
                affected = graph.present(object::uid(&object), Node::read(info, &object));
            }
            Told::One(Change::Gone(object)) => affected = graph.gone(object::uid(&object)),
        }
        drop(graph);
        affected.into_iter().for_each(|uid| self.queue.add(uid));
    }

    async fn sync(&self, uid: &str) -> Synced {
        let (node, dependents) = {
            let graph = self.graph();
            let Some(node) = graph.get(uid) else { return Ok(Next::Change) };
            let waits = node.is_foreground() || node.is_orphaning();
            let dependents = if waits { graph.dependents(uid) } else { Vec::new() };
            (node.clone(), dependents)
        };
        if node.is_orphaning() {
            for (_, dependent) in &dependents {
                let left = dependent.owners.iter().filter(|owner| owner["uid"] != uid);
                self.write_owners(dependent, left.cloned().collect()).await?;
            }
            self.take_finalizer(&node, ORPHAN).await?;
        } else if node.is_foreground() {
            if !dependents.iter().any(|(_, dependent)| dependent.blocks(uid)) {
                self.take_finalizer(&node, FOREGROUND).await?;
            }
        } else if !node.terminating && !node.owners.is_empty() {
            self.judge(uid, &node).await?;
        }
        Ok(Next::Change)
    }

    /// Deletes an object that has no owner any more, or whose owners wait for it.
    async fn judge(&self, uid: &str, node: &Node) -> Result<(), ClientError> {
        let (mut solid, mut waiting) = (Vec::new(), false);
        for owner in &node.owners {
            match self.find(node, owner).await? {
                Owner::Solid => solid.push(owner.clone()),
                Owner::Waiting => waiting = true,
                Owner::Absent => {}
            }
        }
        if solid.len() == node.owners.len() {
            return Ok(());
        }
        if !solid.is_empty() {
            return self.write_owners(node, solid).await;
        }
        // Dependents of its own go before it, if its owners wait.
        let has_dependents = !self.graph().dependents(uid).is_empty();
        let propagation = if node.finalizers.iter().any(|one| one == ORPHAN) {
            Propagation::Orphan
        } else if waiting && has_dependents {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = DeleteOptions {
            resource_version: Some(node.version.clone()),
            propagation: Some(propagation),
            ..DeleteOptions::of(uid)
        };
        let client = self.informers.client();
        let namespace = node.namespace.as_deref();
        match client.delete(&node.resource.resource, namespace, &node.name, &options).await {
            Ok(_) => {
                let resource = &node.resource.resource.plural;
                tracing::debug!(%resource, name = node.name, "deleted for want of an owner");
                Ok(())
            }
            Err(error) if error.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn find(&self, node: &Node, owner: &Value) -> Result<Owner, ClientError> {
        let uid = text(owner, "uid");
        let state =
            |found: &Node| if found.is_foreground() { Owner::Waiting } else { Owner::Solid };
        if let Some(found) = self.graph().get(uid) {
            return Ok(state(found));
        }
        let names = (text(owner, "apiVersion").to_owned(), text(owner, "kind").to_owned());
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&names).cloned();
        let Some(info) = known else {
            // A kind that is not served now may be served again: its objects are not known gone.
            tracing::debug!(owner = %owner, "an owner of unknown kind");
            return Ok(Owner::Solid);
        };
        let namespace = match (info.namespaced, node.namespace.as_deref()) {
            (false, _) => None,
            (true, Some(namespace)) => Some(namespace),
            // What lies in no namespace cannot be owned by what does: the reference says nothing.
            (true, None) => return Ok(Owner::Solid),
        };
        let client = self.informers.client();
        match client.get(&info.resource, namespace, text(owner, "name")).await {
            Ok(found) if object::uid(&found) == uid => Ok(state(&Node::read(&info, &found))),
            Ok(_) => Ok(Owner::Absent),
            Err(error) if error.code == 404 => Ok(Owner::Absent),
            Err(error) => Err(error),
        }
    }

    async fn write_owners(&self, node: &Node, owners: Vec<Value>) -> Result<(), ClientError> {
        self.patch(node, json!({"ownerReferences": owners})).await
    }

    async fn take_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), ClientError> {
        let left: Vec<_> = node.finalizers.iter().filter(|one| *one != finalizer).collect();
        self.patch(node, json!({"finalizers": left})).await
    }

    /// Patches the metadata of an object that must still be as it was seen: a conflict is tried
    /// again with what will be seen then.
    async fn patch(&self, node: &Node, mut metadata: Value) -> Result<(), ClientError> {
        metadata["resourceVersion"] = node.version.as_str().into();
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let client = self.informers.client();
        let (resource, namespace) = (&node.resource.resource, node.namespace.as_deref());
        match client.patch(resource, namespace, &node.name, Target::Main, patch).await {
            Err(error) if error.code == 409 => Err(error),
            other => unless_gone(other).map(drop),
        }
    }
}
