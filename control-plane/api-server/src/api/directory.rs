//! The few objects that admission looks up for every object that is created, in memory: what a
//! pod's creation costs must not grow by what it asks for.
//!
//! A write of one of them is acknowledged when the directory has it, so who makes a LimitRange and
//! then a pod gets what they expect. What another server writes is seen a moment later; that
//! something is not there is only said when the store says so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bulkhead_store::{Entry, Store};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{Place, store_failure};
use crate::feed::{Feed, Index};
use crate::object;
use crate::status::Result;

/// How long somebody waits for an object that is about to be made.
const PATIENCE: Duration = Duration::from_secs(20);

/// The kinds that are kept, by where they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Namespaces,
    ServiceAccounts,
    LimitRanges,
    ResourceQuotas,
    PriorityClasses,
    RuntimeClasses,
    IngressClasses,
    StorageClasses,
}

const STORAGES: [&str; 8] = [
    "namespaces",
    "serviceaccounts",
    "limitranges",
    "resourcequotas",
    "priorityclasses",
    "runtimeclasses",
    "ingressclasses",
    "storageclasses",
];

/// Below which the store has the table's objects.
fn prefix(table: Table) -> String {
    format!("/registry/{}/", STORAGES[table as usize])
}

/// The directory. Each table is filled when somebody first asks for it.
#[derive(Default)]
pub(super) struct Directory {
    tables: [OnceCell<Feed<Objects>>; STORAGES.len()],
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

impl Directory {
    async fn feed(&self, store: &Arc<dyn Store>, table: Table) -> Result<&Feed<Objects>> {
        let start = || async {
            let prefix = prefix(table);
            let objects = Objects { prefix: prefix.len(), ..Objects::default() };
            Feed::start(Arc::clone(store), &prefix, objects).await
        };
        self.tables[table as usize]
            .get_or_try_init(start)
            .await
            .map_err(|error| store_failure(&error))
    }

    /// The object of this namespace, if the kind has any, and name.
    pub(super) async fn get(
        &self,
        store: &Arc<dyn Store>,
        table: Table,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Arc<Value>>> {
        let (feed, key) = (self.feed(store, table).await?, object::key_of(namespace, name));
        if let Some(found) = feed.index().get(&key) {
            return Ok(Some(found));
        }
        // It may have been made a moment ago, by another server or before its watch told of it.
        let stored = store.get(&format!("{}{key}", prefix(table))).await;
        let stored = stored.map_err(|error| store_failure(&error))?;
        Ok(stored.and_then(|entry| Objects::read(&entry.value)))
    }

    /// The same, of an object that is about to be made.
    pub(super) async fn awaited(
        &self,
        store: &Arc<dyn Store>,
        table: Table,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Arc<Value>>> {
        let (feed, key) = (self.feed(store, table).await?, object::key_of(namespace, name));
        let mut position = feed.position();
        let there =
            async { while feed.index().get(&key).is_none() && position.changed().await.is_ok() {} };
        // Late or never, the answer is that of what is known.
        let _ = tokio::time::timeout(PATIENCE, there).await;
        Ok(feed.index().get(&key))
    }

    /// Every object of the namespace, or of a kind that has none.
    pub(super) async fn all(
        &self,
        store: &Arc<dyn Store>,
        table: Table,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Value>>> {
        let feed = self.feed(store, table).await?;
        let prefix = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        Ok(feed.index().below(&prefix))
    }

    /// Returns when the directory has what was just written in `place`.
    pub(super) async fn learn(&self, place: &Place) {
        let table = STORAGES.iter().position(|storage| *storage == place.resource.storage);
        if let Some(feed) = table.and_then(|table| self.tables[table].get()) {
            feed.catch_up().await;
        }
    }
}

/// Objects by `namespace/name`, or name.
#[derive(Debug, Default)]
struct Objects {
    /// The length of the prefix of keys.
    prefix: usize,
    objects: RwLock<BTreeMap<String, Arc<Value>>>,
}

impl Objects {
    fn get(&self, key: &str) -> Option<Arc<Value>> {
        // Each statement leaves the map whole.
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn below(&self, prefix: &str) -> Vec<Arc<Value>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let from = objects.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, one)| Arc::clone(one))
            .collect()
    }

    fn read(value: &[u8]) -> Option<Arc<Value>> {
        let mut object: Value = serde_json::from_slice(value).ok()?;
        object.get_mut("metadata")?.as_object_mut()?.remove("managedFields");
        Some(Arc::new(object))
    }
}

impl Index for Objects {
    fn replace(&self, entries: Vec<Entry>) {
        let all = entries.into_iter().filter_map(|entry| {
            Some((entry.key.get(self.prefix..)?.to_owned(), Self::read(&entry.value)?))
        });
        *self.objects.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }

    fn apply(&self, key: &str, value: Option<&[u8]>) {
        let Some(key) = key.get(self.prefix..) else { return };
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match value.and_then(Self::read) {
            Some(object) => objects.insert(key.to_owned(), object),
            None => objects.remove(key),
        };
    }
}
