//! List, then watch, for ever: each kind once, its objects in a cache, its changes told to all who
//! follow it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::client::{Change, Client, ClientError, Kind};
use crate::object;

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What an informer tells.
#[derive(Debug, Clone)]
pub enum Told {
    /// These are all the objects there are; what is not among them is gone.
    All(Vec<Arc<Value>>),
    /// One changed.
    One(Change),
}

/// How much of an object a cache keeps. Nobody here reads who manages which field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// All but `managedFields`.
    Whole,
    /// `apiVersion`, `kind` and `metadata`, as `PartialObjectMetadata` does.
    Metadata,
}

impl Part {
    fn of(self, mut object: Arc<Value>) -> Arc<Value> {
        if let Some(fields) = Arc::make_mut(&mut object).as_object_mut() {
            if self == Self::Metadata {
                fields
                    .retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
            }
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
        object
    }
}

/// The informers that the scheduler and the controllers share. They end when this is dropped.
pub struct Informers {
    client: Arc<dyn Client>,
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    caches: HashMap<(Kind, Part), (Arc<Cache>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informers").finish_non_exhaustive()
    }
}

impl Informers {
    /// Informers that ask `client`; each begins when it is first followed.
    pub fn new(client: Arc<dyn Client>) -> Arc<Self> {
        Arc::new(Self { client, running: Arc::default() })
    }

    /// The same informers for a component that writes through a client of its own. They end when
    /// all who share them are gone.
    #[must_use]
    pub fn share(&self, client: Arc<dyn Client>) -> Arc<Self> {
        Arc::new(Self { client, running: Arc::clone(&self.running) })
    }

    /// The client that they ask.
    #[must_use]
    pub fn client(&self) -> &Arc<dyn Client> {
        &self.client
    }

    /// The objects of a kind.
    #[must_use]
    pub fn cache(&self, kind: &Kind) -> Arc<Cache> {
        self.run(kind, Part::Whole)
    }

    /// The objects of a kind, of which only the metadata need be there.
    #[must_use]
    pub fn metadata(&self, kind: &Kind) -> Arc<Cache> {
        let whole = (kind.clone(), Part::Whole);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let found = running.caches.get(&whole).map(|(cache, _)| Arc::clone(cache));
        drop(running);
        found.unwrap_or_else(|| self.run(kind, Part::Metadata))
    }

    /// The changes of a kind, the first of which tells of all that is there.
    #[must_use]
    pub fn follow(&self, kind: &Kind) -> mpsc::UnboundedReceiver<Told> {
        self.cache(kind).follow()
    }

    fn run(&self, kind: &Kind, part: Part) -> Arc<Cache> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = &mut *running;
        let (cache, _) = running.caches.entry((kind.clone(), part)).or_insert_with(|| {
            let cache = Arc::new(Cache::new(part));
            let (filled, client, kind) =
                (Arc::clone(&cache), Arc::clone(&self.client), kind.clone());
            let task = running.tasks.spawn(async move {
                loop {
                    let Err(error) = list_and_watch(&client, &kind, &filled).await;
                    if error.code != 410 {
                        tracing::warn!(%error, resource = %kind.plural, "a controller's watch");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            });
            (cache, task)
        });
        Arc::clone(cache)
    }

    /// Ends the informer of a resource that is no more.
    pub fn forget(&self, kind: &Kind) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.caches.retain(|(one, _), (_, task)| {
            if one == kind {
                task.abort();
            }
            one != kind
        });
    }
}

async fn list_and_watch(
    client: &Arc<dyn Client>,
    kind: &Kind,
    cache: &Cache,
) -> Result<std::convert::Infallible, ClientError> {
    let (items, mut version) = client.list(kind, None).await?;
    cache.replace(items.into_iter().map(Arc::new).collect(), version);
    loop {
        let mut stream = client.watch(kind, version).await?;
        while let Some(change) = stream.next().await? {
            let seen = change.object()["metadata"]["resourceVersion"].as_str();
            version = seen.and_then(|seen| seen.parse().ok()).unwrap_or(version);
            cache.apply(change, version);
        }
    }
}

/// The objects of a kind, as the informer last saw them.
#[derive(Debug)]
pub struct Cache {
    part: Part,
    content: RwLock<Content>,
    synced: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Content {
    objects: BTreeMap<String, Arc<Value>>,
    /// Keys by the uids of owners.
    owned: HashMap<String, HashSet<String>>,
    /// Keys of what no controller owns.
    free: BTreeSet<String>,
    /// The newest version that was seen.
    version: u64,
    followers: Vec<mpsc::UnboundedSender<Told>>,
    synced: bool,
}

impl Cache {
    fn new(part: Part) -> Self {
        Self { part, content: RwLock::default(), synced: watch::Sender::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the first list has arrived.
    pub async fn synced(&self) {
        // The sender lives as long as this.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.read().objects.get(key).cloned()
    }

    /// Every object, by key.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Value>> {
        self.read().objects.values().cloned().collect()
    }

    /// Every object of a namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
        self.read().objects.range(from..to).map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Whether no object lies in a namespace.
    #[must_use]
    pub fn is_empty_in(&self, namespace: &str) -> bool {
        let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
        self.read().objects.range(from..to).next().is_none()
    }

    /// Every object with an owner reference to this uid.
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Value>> {
        let content = self.read();
        let keys = content.owned.get(uid).into_iter().flatten();
        keys.filter_map(|key| content.objects.get(key).cloned()).collect()
    }

    /// Every object of a namespace that no controller owns.
    #[must_use]
    pub fn uncontrolled(&self, namespace: &str) -> Vec<Arc<Value>> {
        let content = self.read();
        let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
        let keys = content.free.range(from..to);
        keys.filter_map(|key| content.objects.get(key).cloned()).collect()
    }

    /// Whether every write of this kind up to a version is in here.
    #[must_use]
    pub fn has_seen(&self, version: u64) -> bool {
        self.read().version >= version
    }

    /// The changes from now on; if objects are known already, the first tells of them.
    #[must_use]
    pub fn follow(&self) -> mpsc::UnboundedReceiver<Told> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        if content.synced {
            // The receiver is right here.
            let _ = sender.send(Told::All(content.objects.values().cloned().collect()));
        }
        content.followers.push(sender);
        receiver
    }

    fn replace(&self, items: Vec<Arc<Value>>, version: u64) {
        let items: Vec<_> = items.into_iter().map(|item| self.part.of(item)).collect();
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        content.objects.clear();
        content.owned.clear();
        content.free.clear();
        content.version = version;
        items.iter().for_each(|item| content.insert(item));
        content.synced = true;
        content.tell(&Told::All(items));
        drop(content);
        self.synced.send_replace(true);
    }

    fn apply(&self, change: Change, version: u64) {
        let change = match change {
            Change::Present(object) => Change::Present(self.part.of(object)),
            Change::Gone(object) => Change::Gone(self.part.of(object)),
        };
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        content.version = version;
        content.remove(&object::key(change.object()));
        if let Change::Present(object) = &change {
            content.insert(object);
        }
        // Told under the lock, so that all followers see one order.
        content.tell(&Told::One(change));
    }
}

impl Content {
    fn insert(&mut self, object: &Arc<Value>) {
        let key = object::key(object);
        for owner in object::list(object, "metadata.ownerReferences") {
            let uid = object::text(owner, "uid").to_owned();
            self.owned.entry(uid).or_default().insert(key.clone());
        }
        if object::controller(object).is_none() {
            self.free.insert(key.clone());
        }
        self.objects.insert(key, Arc::clone(object));
    }

    fn remove(&mut self, key: &str) {
        let Some(object) = self.objects.remove(key) else { return };
        self.free.remove(key);
        for owner in object::list(&object, "metadata.ownerReferences") {
            let uid = object::text(owner, "uid");
            if let Some(keys) = self.owned.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.owned.remove(uid);
                }
            }
        }
    }

    fn tell(&mut self, told: &Told) {
        self.followers.retain(|follower| follower.send(told.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Objects;

    fn pod(name: &str, version: u64, owner: Option<&str>) -> Value {
        let owners: Vec<_> =
            owner.into_iter().map(|uid| json!({"uid": uid, "controller": true})).collect();
        json!({"metadata": {
            "namespace": "d", "name": name, "resourceVersion": version.to_string(),
            "ownerReferences": owners, "managedFields": [{}],
        }, "spec": {}})
    }

    fn names(objects: &[Arc<Value>]) -> Vec<&str> {
        objects.iter().map(|object| object::name(object)).collect()
    }

    #[tokio::test]
    async fn a_cache_follows_and_finds_by_owner() {
        let objects = Objects::new([(Kind::PODS, vec![pod("a", 1, Some("x")), pod("b", 1, None)])]);
        let informers = Informers::new(objects.clone());
        let cache = informers.cache(&Kind::PODS);
        cache.synced().await;
        assert_eq!(names(&cache.owned_by("x")), ["a"]);
        assert_eq!(names(&cache.uncontrolled("d")), ["b"]);
        assert!(!cache.is_empty_in("d") && cache.is_empty_in("other"));
        assert!(cache.get("d/a").unwrap()["metadata"].get("managedFields").is_none());
        let mut told = informers.follow(&Kind::PODS);
        assert!(matches!(told.recv().await, Some(Told::All(all)) if all.len() == 2));
        tokio::task::yield_now().await;
        objects.present(&Kind::PODS, pod("b", 7, Some("x")));
        objects.gone(&Kind::PODS, pod("a", 8, Some("x")));
        for _ in 0..2 {
            assert!(matches!(told.recv().await, Some(Told::One(_))));
        }
        assert_eq!(names(&cache.owned_by("x")), ["b"]);
        assert!(cache.uncontrolled("d").is_empty() && cache.uncontrolled("other").is_empty());
        assert!(cache.has_seen(8) && !cache.has_seen(9));
        let metadata = informers.metadata(&Kind::PODS);
        assert!(Arc::ptr_eq(&metadata, &cache), "one informer per kind");
        let only = informers.metadata(&Kind::NODES);
        only.synced().await;
    }
}
