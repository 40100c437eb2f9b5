//! Watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_store::{Event, Revision, StoreError, Watch};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, Found, Place, decode_value, store_failure};
use crate::options::ReadOptions;
use crate::resource::Resource;
use crate::status::Result;

/// How often a watch with bookmarks tells of the version that it has reached.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a watch lasts that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// What marks the bookmark after a watch's initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEventKind {
    /// It exists, or matches now.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or no longer matches.
    Deleted,
    /// Nothing; the version moved on.
    Bookmark,
}

impl WatchEventKind {
    /// As the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// An event of a watch.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchEventKind,
    /// To this object; of a bookmark's, only the version counts.
    pub object: Found,
}

/// A running watch.
pub struct Watcher {
    resource: Arc<Resource>,
    options: ReadOptions,
    pending: VecDeque<WatchEvent>,
    watch: Box<dyn Watch>,
    ends: Instant,
    next_bookmark: Instant,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("resource", &self.resource.plural).finish_non_exhaustive()
    }
}

impl Api {
    /// Watches what the options select in `place`. Without a version, or with version 0, or if
    /// asked for, the watch starts with what exists.
    ///
    /// # Errors
    /// `Expired` if the version is too old, `BadRequest` for options that contradict.
    pub async fn watch(&self, place: &Place, options: &ReadOptions) -> Result<Watcher> {
        super::read::check_fields(place, options)?;
        let version = options.resource_version.unwrap_or(0);
        let initial = options.send_initial_events.unwrap_or(version == 0);
        let mut pending = VecDeque::new();
        let start = if initial {
            let all = ReadOptions {
                limit: 0,
                continue_token: None,
                resource_version_match: None,
                ..options.clone()
            };
            let list = self.find(place, &all).await?;
            let added = |object| WatchEvent { kind: WatchEventKind::Added, object };
            pending.extend(list.items.into_iter().map(added));
            if options.send_initial_events == Some(true) && options.bookmarks {
                let annotations = json!({INITIAL_EVENTS_END: "true"});
                pending.push_back(bookmark(&place.resource, list.resource_version, annotations));
            }
            Revision(list.resource_version)
        } else if version == 0 {
            self.store.revision().await.map_err(|error| store_failure(&error))?
        } else {
            Revision(version)
        };
        let prefix = place.resource.prefix(place.namespace.as_deref());
        let watch =
            self.store.watch(&prefix, start).await.map_err(|error| store_failure(&error))?;
        let now = Instant::now();
        let timeout = options.timeout_seconds.filter(|seconds| *seconds > 0);
        // A day is past every client's patience, and keeps the sum in range.
        let timeout = timeout.map(|seconds| Duration::from_secs(seconds.min(86_400)));
        Ok(Watcher {
            resource: Arc::clone(&place.resource),
            options: options.clone(),
            pending,
            watch,
            ends: now + timeout.unwrap_or(DEFAULT_TIMEOUT),
            next_bookmark: now + BOOKMARK_INTERVAL,
        })
    }
}

impl Watcher {
    /// What it watches.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The next event; `None` when the watch's time is over.
    ///
    /// # Errors
    /// `Expired` if the watcher was too slow.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            let alarm = self.ends.min(self.next_bookmark);
            match tokio::time::timeout_at(alarm, self.watch.next()).await {
                Ok(events) => {
                    for event in events.map_err(|error: StoreError| store_failure(&error))? {
                        if let Some(event) = self.convert(&event)? {
                            self.pending.push_back(event);
                        }
                    }
                }
                Err(_) => {
                    let over = Instant::now() >= self.ends;
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    let marked = self
                        .options
                        .bookmarks
                        .then(|| bookmark(&self.resource, self.watch.revision().0, Value::Null));
                    if over || marked.is_some() {
                        return Ok(if over { None } else { marked });
                    }
                }
            }
        }
    }

    /// A stored object, if there is one and the watch selects it.
    fn select(&self, value: Option<&Arc<[u8]>>, revision: Revision) -> Result<Option<Found>> {
        let Some(value) = value else { return Ok(None) };
        if !self.options.is_selective() {
            let value = Arc::clone(value);
            return Ok(Some(Found::Stored { value, revision: revision.0 }));
        }
        let object = decode_value(&self.resource, value, revision.0)?;
        Ok(self.options.select(&object).then_some(Found::Decoded(object)))
    }

    /// What an event of the store is to this watch: an object that begins to match appears, one
    /// that ceases to disappears.
    fn convert(&self, event: &Event) -> Result<Option<WatchEvent>> {
        let now = self.select(event.value.as_ref(), event.revision)?;
        let before = self.select(event.previous.as_ref(), event.revision)?;
        Ok(match (before, now) {
            (None, None) => None,
            (None, Some(object)) => Some(WatchEvent { kind: WatchEventKind::Added, object }),
            (Some(_), Some(object)) => Some(WatchEvent { kind: WatchEventKind::Modified, object }),
            (Some(object), None) => Some(WatchEvent { kind: WatchEventKind::Deleted, object }),
        })
    }
}

fn bookmark(resource: &Resource, version: u64, annotations: Value) -> WatchEvent {
    let mut object = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "metadata": {"resourceVersion": version.to_string()},
    });
    if !annotations.is_null() {
        object["metadata"]["annotations"] = annotations;
    }
    WatchEvent { kind: WatchEventKind::Bookmark, object: Found::Decoded(object) }
}
