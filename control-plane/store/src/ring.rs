//! The newest events in memory, which watchers read.
//!
//! Watchers hold a position, not a queue: a slow one costs nothing but a read from the log table
//! when it comes back later than the ring reaches. Revisions are consecutive, so an event's
//! place in the ring is its revision less the first one's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{Event, Revision};

/// The ring holds at most this many events …
const MAX_EVENTS: usize = 4096;
/// … and this many bytes of values.
const MAX_BYTES: usize = 4 << 20;
/// A watcher is given at most this many events at once.
const BATCH: usize = 256;

/// What the ring can say to a watcher at a position.
#[derive(Debug)]
pub(crate) enum Read {
    /// The events after the position and the revision that they reach.
    Events(Vec<Arc<Event>>, Revision),
    /// The position is older than the ring: the log must be asked.
    TooOld,
    /// Nothing has happened since.
    UpToDate,
}

#[derive(Debug)]
pub(crate) struct Ring {
    events: Mutex<Events>,
    newest: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Events {
    queue: VecDeque<Arc<Event>>,
    bytes: usize,
    newest: Revision,
}

impl Ring {
    pub(crate) fn new(newest: Revision) -> Self {
        Self {
            events: Mutex::new(Events { queue: VecDeque::new(), bytes: 0, newest }),
            newest: watch::Sender::new(newest),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        // The queue is consistent between any two statements that can panic.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the events of one transaction and wakes the watchers.
    pub(crate) fn publish(&self, batch: Vec<Arc<Event>>) {
        let newest = {
            let mut events = self.lock();
            for event in batch {
                events.newest = event.revision;
                events.bytes += size(&event);
                events.queue.push_back(event);
            }
            while events.queue.len() > MAX_EVENTS || events.bytes > MAX_BYTES {
                let Some(old) = events.queue.pop_front() else { break };
                events.bytes -= size(&old);
            }
            events.newest
        };
        self.newest.send_replace(newest);
    }

    pub(crate) fn newest(&self) -> Revision {
        self.lock().newest
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }

    /// The events with `prefix` after `position`.
    pub(crate) fn read(&self, prefix: &str, position: Revision) -> Read {
        let events = self.lock();
        if position >= events.newest {
            return Read::UpToDate;
        }
        let Some(first) = events.queue.front().map(|event| event.revision) else {
            return Read::TooOld;
        };
        let Some(skip) = position.next().0.checked_sub(first.0) else { return Read::TooOld };
        let mut reached = position;
        let mut found = Vec::new();
        for event in events
            .queue
            .range(usize::try_from(skip).unwrap_or(usize::MAX).min(events.queue.len())..)
        {
            reached = event.revision;
            if event.key.starts_with(prefix) {
                found.push(Arc::clone(event));
                if found.len() == BATCH {
                    break;
                }
            }
        }
        Read::Events(found, reached)
    }
}

/// The previous value is the last event's value, shared with it, so it is not counted.
fn size(event: &Event) -> usize {
    event.key.len() + event.value.as_ref().map_or(0, |value| value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key: &str, bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            revision: Revision(revision),
            key: key.into(),
            value: Some(vec![0; bytes].into()),
            previous: None,
        })
    }

    #[test]
    fn answers_from_a_position() {
        let ring = Ring::new(Revision(10));
        assert!(matches!(ring.read("", Revision(10)), Read::UpToDate));
        assert!(matches!(ring.read("", Revision(9)), Read::TooOld));
        ring.publish(vec![event(11, "/a/1", 1), event(12, "/b/1", 1), event(13, "/a/2", 1)]);
        let Read::Events(found, reached) = ring.read("/a/", Revision(11)) else { panic!() };
        assert_eq!((found.len(), found[0].revision, reached), (1, Revision(13), Revision(13)));
        let Read::Events(found, reached) = ring.read("/none", Revision(10)) else { panic!() };
        assert_eq!((found.len(), reached), (0, Revision(13)));
    }

    #[test]
    fn forgets_the_oldest_by_count_and_by_bytes() {
        let ring = Ring::new(Revision(0));
        for revision in 1..=(MAX_EVENTS as u64 + 5) {
            ring.publish(vec![event(revision, "k", 1)]);
        }
        assert!(matches!(ring.read("", Revision(4)), Read::TooOld));
        assert!(matches!(ring.read("", Revision(5)), Read::Events(..)));
        ring.publish(vec![event(MAX_EVENTS as u64 + 6, "k", MAX_BYTES)]);
        assert!(matches!(ring.read("", Revision(MAX_EVENTS as u64 + 4)), Read::TooOld));
    }
}
