//! The store in etcd, for clusters that outgrow one machine, and for several API servers.

mod config;
mod failure;
mod names;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, GetOptions, KeyValue, KvClient, PutOptions, Txn,
    TxnOp, TxnOpResponse,
};
use tokio::task::JoinSet;

pub use config::{EtcdConfig, EtcdTls};

use crate::ring::Ring;
use crate::{Entry, Page, Range, Result, Revision, Store, StoreError, Watch, Write};
use failure::Failure;
use names::Names;
use watch::EtcdWatch;

/// A request that is not answered for this long has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A long list is read in pages of so many entries, all of one revision.
const PAGE: usize = 1000;
/// The events of so many revisions before the start are read into memory, for clients that come
/// back after a restart.
const HISTORY: i64 = 4096;
/// A revision that was told to somebody is waited for so long before [`Shared::nudge`] makes it
/// come.
const LAG: Duration = Duration::from_millis(50);
/// How long to wait before a broken watch is opened again.
const RETRY: Duration = Duration::from_millis(250);
/// A revision that no key has.
const NEVER: i64 = -1;

/// A [`Store`] in etcd (version 3.4 or newer). Several processes may have the same one open.
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// Ends with the store.
    _tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    /// `etcd at SERVERS`.
    name: String,
    names: Names,
    ring: Arc<Ring>,
    /// The newest revision at the start. Until the ring has come to it, what it says of older ones
    /// is not known to be there.
    start: Revision,
    /// The newest revision that a read has told somebody of.
    told: tokio::sync::watch::Sender<Revision>,
    /// The oldest revision that is known to be readable.
    compacted: AtomicU64,
    /// Set when another history has taken this one's place.
    replaced: std::sync::OnceLock<StoreError>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("etcd", &self.shared.name).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to the etcd that `config` names.
    ///
    /// # Errors
    /// If the configuration is wrong, or etcd cannot be reached.
    pub async fn open(config: &EtcdConfig) -> Result<Self> {
        let client = config.client().await?;
        let name = config.name();
        let probe = Names::new(&config.prefix, &config.replaces, 0);
        let answer = within(&name, client.kv_client().get(probe.root(), None)).await?;
        let offset = match answer.kvs().first() {
            None => 0,
            Some(root) => Names::parse_root(root.value()).ok_or_else(|| {
                StoreError::Backend(
                    format!("{name}: {} is of another program or a newer version", probe.root())
                        .into(),
                )
            })?,
        };
        let names = Names::new(&config.prefix, &config.replaces, offset);
        let newest = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let newest = names.own_revision(newest);
        let ring = Ring::new(Revision(newest.0.saturating_sub(HISTORY.unsigned_abs()).max(offset)));
        let shared = Arc::new(Shared {
            client,
            name,
            names,
            ring: Arc::new(ring),
            start: newest,
            told: tokio::sync::watch::Sender::new(newest),
            compacted: AtomicU64::new(offset),
            replaced: std::sync::OnceLock::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch::feed(Arc::clone(&shared)));
        tasks.spawn(nudge(Arc::clone(&shared)));
        Ok(Self { shared, _tasks: tasks })
    }

    /// Sets the revisions of an empty store, which nobody has open, to go on from after `revision`.
    ///
    /// # Errors
    /// `Exists` if there is something below the prefix.
    pub async fn begin_after(config: &EtcdConfig, revision: Revision) -> Result<()> {
        let name = config.name();
        let mut kv = config.client().await?.kv_client();
        let names = Names::new(&config.prefix, &config.replaces, 0);
        let (first, end) = names.span("", None)?;
        let range = GetOptions::new().with_range(end).with_limit(1).with_keys_only();
        let found = within(&name, kv.get(first, Some(range))).await?;
        if !found.kvs().is_empty() {
            return Err(StoreError::Exists(names.root().into()));
        }
        within(&name, kv.put(names.root(), Names::root_value(revision.0), None)).await?;
        Ok(())
    }

    /// Deletes everything below the prefix of `config`, whoever has it open.
    ///
    /// # Errors
    /// If the configuration is wrong, or etcd fails.
    pub async fn destroy(config: &EtcdConfig) -> Result<()> {
        let name = config.name();
        let mut kv = config.client().await?.kv_client();
        let (first, end) = Names::new(&config.prefix, &config.replaces, 0).everything();
        let all = etcd_client::DeleteOptions::new().with_range(end);
        within(&name, kv.delete(first, Some(all))).await?;
        Ok(())
    }
}

/// What a request answers, if it does in time.
async fn within<T>(
    name: &str,
    request: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    answered(request).await.map_err(|failure| failure.at(name))
}

async fn answered<T>(
    request: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> std::result::Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Unavailable(format!("no answer in {} s", TIMEOUT.as_secs()))),
    }
}

impl Shared {
    fn kv(&self) -> KvClient {
        // The length of a list is bounded by what asked for it, not here.
        self.client.kv_client().max_decoding_message_size(usize::MAX)
    }

    /// Fails if this history has ended.
    fn check(&self) -> Result<()> {
        self.replaced.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The oldest and the newest revision, as far as they are known here.
    fn bounds(&self) -> (Revision, Revision) {
        (Revision(self.compacted.load(Ordering::Relaxed)), *self.told.borrow())
    }

    fn note_compacted(&self, revision: Revision) {
        self.compacted.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// The revision of an answer, which somebody is about to be told.
    fn tell(&self, header: Option<&etcd_client::ResponseHeader>) -> Revision {
        let revision = self.names.own_revision(header.map_or(0, |header| header.revision()));
        self.told.send_if_modified(|told| {
            let newer = revision > *told;
            *told = revision.max(*told);
            newer
        });
        revision
    }

    fn entry(&self, pair: KeyValue) -> Option<Entry> {
        let key = self.names.own_key(pair.key())?;
        let revision = self.names.own_revision(pair.mod_revision());
        let (_, value) = pair.into_key_value();
        Some(Entry { key, value: value.into(), revision })
    }

    /// etcd's name for a revision that is to be read.
    fn readable(&self, revision: Revision) -> Result<i64> {
        match self.names.revision(revision) {
            0 if revision.0 > 0 || self.names.offset() > 0 => {
                Err(Failure::Compacted.of(&self.name, revision, self.bounds()))
            }
            // Nothing was written at etcd's first revision.
            found => Ok(found.max(1)),
        }
    }

    /// Fails unless what was written after `revision` is known.
    async fn probe(&self, revision: Revision) -> Result<()> {
        let options = GetOptions::new().with_revision(self.readable(revision)?).with_keys_only();
        let answer = answered(self.kv().get(self.names.root(), Some(options))).await;
        match answer {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.of(&self.name, revision, self.bounds())),
        }
    }

    /// Writes the root key as it is, which moves every watch of the prefix to a new revision.
    ///
    /// etcd's revisions count every write to it, also those below other prefixes, of which a watch
    /// of ours hears nothing. etcd can be asked how far a watch is, but before 3.4.25 and 3.5.8 it
    /// may answer ahead of the events (etcd's issue 15220).
    async fn nudge(&self) -> Result<()> {
        let (root, value) = (self.names.root(), Names::root_value(self.names.offset()));
        let same = Compare::value(root, CompareOp::Equal, value.as_str());
        let absent = Compare::version(root, CompareOp::Equal, 0);
        let put = TxnOp::put(root, value.as_str(), Some(PutOptions::new()));
        // Not if it has changed: another history has begun.
        let create = TxnOp::txn(Txn::new().when([absent]).and_then([put.clone()]));
        let touch = Txn::new().when([same]).and_then([put]).or_else([create]);
        within(&self.name, self.kv().txn(touch)).await.map(drop)
    }
}

/// Makes revisions that somebody was told of come to the watchers.
async fn nudge(shared: Arc<Shared>) {
    let mut told = shared.told.subscribe();
    let mut newest = shared.ring.subscribe();
    loop {
        let awaited = *told.borrow_and_update();
        let reached = async { newest.wait_for(|newest| *newest >= awaited).await.map(drop) };
        match tokio::time::timeout(LAG, reached).await {
            Ok(Err(_)) => return,
            Ok(Ok(())) => {
                if told.changed().await.is_err() {
                    return;
                }
            }
            Err(_) => {
                // While etcd is away, what follows it says so.
                let _ = shared.nudge().await;
                tokio::time::sleep(LAG).await;
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision> {
        self.shared.check()?;
        let mut kv = self.shared.kv();
        let options = GetOptions::new().with_keys_only();
        let request = kv.get(self.shared.names.root(), Some(options));
        let answer = within(&self.shared.name, request).await?;
        Ok(self.shared.tell(answer.header()))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let shared = &self.shared;
        shared.check()?;
        let key = shared.names.key(key)?;
        let mut answer = within(&shared.name, shared.kv().get(key, None)).await?;
        shared.tell(answer.header());
        Ok(answer.take_kvs().into_iter().find_map(|pair| shared.entry(pair)))
    }

    async fn list(&self, range: Range) -> Result<Page> {
        let shared = &self.shared;
        shared.check()?;
        let (mut first, end) = shared.names.span(&range.prefix, range.after.as_deref())?;
        let mut at = range.at.map(|at| shared.readable(at)).transpose()?;
        let mut entries = Vec::new();
        let mut newest = Revision(0);
        loop {
            let wanted = range.limit.map_or(PAGE, |limit| PAGE.min(limit - entries.len()));
            // A limit of 0 is none to etcd.
            let mut options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(i64::try_from(wanted.max(1)).unwrap_or(i64::MAX));
            if let Some(at) = at {
                options = options.with_revision(at);
            }
            let answer = answered(shared.kv().get(first.as_str(), Some(options))).await;
            let mut answer = answer.map_err(|failure| {
                let requested = range.at.unwrap_or(newest);
                failure.of(&shared.name, requested, shared.bounds())
            })?;
            if at.is_none() {
                newest = shared.tell(answer.header());
                at = Some(shared.names.revision(newest));
            }
            let mut count = u64::try_from(answer.count()).unwrap_or_default();
            let pairs = answer.take_kvs();
            if let Some(last) = pairs.last() {
                first = format!("{}\0", String::from_utf8_lossy(last.key()));
            }
            for pair in pairs.into_iter().take(wanted) {
                count = count.saturating_sub(1);
                entries.extend(shared.entry(pair));
            }
            if count == 0 || range.limit.is_some_and(|limit| entries.len() >= limit) {
                let revision = range.at.unwrap_or(newest);
                return Ok(Page { entries, revision, remaining: count });
            }
        }
    }

    async fn write(&self, write: Write) -> Result<Revision> {
        let shared = &self.shared;
        shared.check()?;
        let own = write.key().to_owned();
        let key = shared.names.key(&own)?;
        let current = |revision| match shared.names.revision(revision) {
            0 => NEVER,
            found => found,
        };
        let creates = matches!(write, Write::Create { .. });
        let (compare, operation) = match write {
            Write::Create { value, .. } => (
                Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                TxnOp::put(key.as_str(), value, None),
            ),
            Write::Update { value, expected, .. } => (
                Compare::mod_revision(key.as_str(), CompareOp::Equal, current(expected)),
                TxnOp::put(key.as_str(), value, None),
            ),
            Write::Delete { expected, .. } => (
                Compare::mod_revision(key.as_str(), CompareOp::Equal, current(expected)),
                TxnOp::delete(key.as_str(), None),
            ),
        };
        let look = TxnOp::get(key.as_str(), Some(GetOptions::new().with_keys_only()));
        let transaction = Txn::new().when([compare]).and_then([operation]).or_else([look]);
        let answer = within(&shared.name, shared.kv().txn(transaction)).await?;
        if answer.succeeded() {
            return Ok(shared.tell(answer.header()));
        }
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(found) => found.kvs().first().map(KeyValue::mod_revision),
            _ => None,
        });
        Err(match found {
            _ if creates => StoreError::Exists(own),
            None => StoreError::Absent(own),
            Some(found) => {
                StoreError::Changed { key: own, current: shared.names.own_revision(found) }
            }
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>> {
        let shared = &self.shared;
        shared.check()?;
        let newest = shared.ring.newest();
        if after < newest.max(shared.start) {
            if newest < shared.start || !shared.ring.reaches(after) {
                shared.probe(after).await?;
            }
        } else if after > newest {
            let current = self.revision().await?;
            if after > current {
                return Err(StoreError::Future { requested: after, current });
            }
        }
        Ok(Box::new(EtcdWatch::new(Arc::clone(shared), prefix, after)))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let shared = &self.shared;
        shared.check()?;
        let at = shared.readable(revision)?;
        // Physical: what is forgotten is gone from etcd's database when this returns.
        let options = CompactionOptions::new().with_physical();
        answered(shared.kv().compact(at, Some(options)))
            .await
            .map_err(|failure| failure.of(&shared.name, revision, shared.bounds()))?;
        shared.note_compacted(revision);
        shared.ring.forget(revision);
        Ok(())
    }
}
