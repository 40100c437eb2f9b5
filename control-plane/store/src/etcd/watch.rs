//! Watches of etcd: one per process feeds the ring that watchers read from, and each watcher that
//! begins further back has one of its own until it has come so far.

use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};

use super::failure::Failure;
use super::names::Names;
use super::{RETRY, Shared, within};
use crate::ring::Read;
use crate::{Event, Result, Revision, StoreError, Watch};

/// All writes below the prefix, from some revision on.
struct Replay {
    shared: Arc<Shared>,
    stream: WatchStream,
    position: Revision,
}

impl Replay {
    /// The writes after `position`.
    async fn start(shared: &Arc<Shared>, position: Revision) -> Result<Self> {
        let (first, end) = shared.names.everything();
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(shared.names.revision(position).saturating_add(1))
            .with_prev_key();
        let mut client = shared.client.watch_client().max_decoding_message_size(usize::MAX);
        let stream = within(&shared.name, client.watch(first, Some(options))).await?;
        Ok(Self { shared: Arc::clone(shared), stream, position })
    }

    /// Waits for writes: those to objects' keys. Cancel-safe.
    async fn next(&mut self) -> Result<Vec<Arc<Event>>> {
        loop {
            let answer = self.stream.message().await;
            let answer = answer.map_err(|error| Failure::from(error).at(&self.shared.name))?;
            let ended = || Failure::Unavailable("the watch ended".into()).at(&self.shared.name);
            let answer = answer.ok_or_else(ended)?;
            if answer.canceled() {
                return Err(self.canceled(&answer));
            }
            if let Some(events) = self.take(&answer)? {
                return Ok(events);
            }
        }
    }

    /// Why etcd has ended the watch.
    fn canceled(&self, answer: &WatchResponse) -> StoreError {
        match answer.compact_revision() {
            0 => Failure::Unavailable(answer.cancel_reason().into()).at(&self.shared.name),
            compacted => {
                let compacted = self.shared.names.own_revision(compacted);
                self.shared.note_compacted(compacted);
                StoreError::Compacted { requested: self.position, compacted }
            }
        }
    }

    /// The events of an answer, if it has any.
    fn take(&mut self, answer: &WatchResponse) -> Result<Option<Vec<Arc<Event>>>> {
        let mut position = self.position;
        let mut events = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let Some(pair) = event.kv() else { continue };
            let revision = self.shared.names.own_revision(pair.mod_revision());
            position = position.max(revision);
            let Some(key) = self.shared.names.own_key(pair.key()) else {
                self.look_at_root(pair.key(), pair.value());
                continue;
            };
            let deleted = event.event_type() == EventType::Delete;
            let previous = event.prev_kv().map(|previous| previous.value().into());
            if previous.is_none() && (deleted || pair.version() > 1) {
                // It was compacted in between.
                let compacted = revision;
                return Err(StoreError::Compacted { requested: self.position, compacted });
            }
            let value = (!deleted).then(|| pair.value().into());
            events.push(Arc::new(Event { revision, key, value, previous }));
        }
        let moved = position > self.position;
        self.position = position;
        Ok(moved.then_some(events))
    }

    /// Notes that a restore has put another history in the place of this one.
    fn look_at_root(&self, key: &[u8], value: &[u8]) {
        let names = &self.shared.names;
        if key == names.root().as_bytes() && Names::parse_root(value) != Some(names.offset()) {
            let why = format!(
                "{}: {} was restored or deleted; start the server again",
                self.shared.name,
                names.root()
            );
            let _ = self.shared.replaced.set(StoreError::Backend(why.into()));
        }
    }
}

/// Feeds the ring, for ever.
pub(super) async fn feed(shared: Arc<Shared>) {
    loop {
        let error = match follow(&shared).await {
            Err(StoreError::Compacted { compacted, .. }) => {
                // Who has not seen what is before this finds out when it asks for it.
                shared.ring.forget(compacted);
                continue;
            }
            Err(error) => error,
            Ok(never) => match never {},
        };
        tracing::warn!(%error, "following the store");
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(shared: &Arc<Shared>) -> Result<std::convert::Infallible> {
    let mut replay = Replay::start(shared, shared.ring.newest()).await?;
    loop {
        let events = replay.next().await?;
        shared.ring.publish_up_to(events, replay.position);
    }
}

/// A watcher.
pub(super) struct EtcdWatch {
    shared: Arc<Shared>,
    prefix: String,
    position: Revision,
    newest: tokio::sync::watch::Receiver<Revision>,
    replay: Option<Replay>,
}

impl EtcdWatch {
    /// A watcher of the keys that start with `prefix`, which has seen what was written up to
    /// `position`.
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, position: Revision) -> Self {
        let newest = shared.ring.subscribe();
        Self { shared, prefix: prefix.into(), position, newest, replay: None }
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Arc<Event>>> {
        loop {
            self.shared.check()?;
            if let Some(replay) = &mut self.replay {
                let mut events = replay.next().await?;
                self.position = replay.position;
                if self.shared.ring.reaches(self.position) {
                    self.replay = None;
                }
                events.retain(|event| event.key.starts_with(&self.prefix));
                return Ok(events);
            }
            match self.shared.ring.read(&self.prefix, self.position) {
                Read::Events(events, reached) => {
                    self.position = reached;
                    return Ok(events);
                }
                Read::TooOld => {
                    self.replay = Some(Replay::start(&self.shared, self.position).await?);
                }
                Read::UpToDate => {
                    let position = self.position;
                    self.newest
                        .wait_for(|newest| *newest > position)
                        .await
                        .map_err(|_| StoreError::Backend("the store was closed".into()))?;
                }
            }
        }
    }

    fn revision(&self) -> Revision {
        self.position
    }
}
