//! The newest events in memory, which watchers read.
//!
//! Watchers hold a position, not a queue: a slow one costs nothing but a read from the backend when
//! it comes back later than the ring reaches. The ring has every event after its *floor*.

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
    floor: Revision,
    newest: Revision,
}

impl Ring {
    pub(crate) fn new(newest: Revision) -> Self {
        Self {
            events: Mutex::new(Events { queue: VecDeque::new(), bytes: 0, floor: newest, newest }),
            newest: watch::Sender::new(newest),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        // The queue is consistent between any two statements that can panic.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the events of one transaction and wakes the watchers.
    pub(crate) fn publish(&self, batch: Vec<Arc<Event>>) {
        let newest = batch.last().map_or(Revision(0), |event| event.revision);
        self.publish_up_to(batch, newest);
    }

    /// Appends events and wakes the watchers: nothing else has happened up to `newest`.
    pub(crate) fn publish_up_to(&self, batch: Vec<Arc<Event>>, newest: Revision) {
        let newest = {
            let mut events = self.lock();
            for event in batch {
                events.bytes += size(&event);
                events.queue.push_back(event);
            }
            events.newest = events.newest.max(newest);
            while events.queue.len() > MAX_EVENTS || events.bytes > MAX_BYTES {
                if !events.drop_first() {
                    break;
                }
            }
            events.newest
        };
        self.newest.send_replace(newest);
    }

    /// Forgets the events at or before `revision`; what happened up to it need not be known here.
    pub(crate) fn forget(&self, revision: Revision) {
        let newest = {
            let mut events = self.lock();
            while events.queue.front().is_some_and(|event| event.revision <= revision) {
                events.drop_first();
            }
            events.floor = events.floor.max(revision);
            events.newest = events.newest.max(revision);
            events.newest
        };
        self.newest.send_replace(newest);
    }

    /// Whether the ring has every event after `position`.
    pub(crate) fn reaches(&self, position: Revision) -> bool {
        position >= self.lock().floor
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
        if position < events.floor {
            return Read::TooOld;
        }
        let skip = events.queue.partition_point(|event| event.revision <= position);
        let mut found = Vec::new();
        for event in events.queue.range(skip..) {
            if event.key.starts_with(prefix) {
                found.push(Arc::clone(event));
                if found.len() == BATCH {
                    return Read::Events(found, event.revision);
                }
            }
        }
        Read::Events(found, events.newest)
    }
}

impl Events {
    /// Drops the oldest event; false if there is none.
    fn drop_first(&mut self) -> bool {
        let Some(old) = self.queue.pop_front() else { return false };
        self.bytes -= size(&old);
        self.floor = self.floor.max(old.revision);
        true
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
    fn revisions_may_skip_and_move_on_without_an_event() {
        let ring = Ring::new(Revision(10));
        ring.publish_up_to(vec![event(15, "/a", 1), event(40, "/a", 1)], Revision(40));
        let Read::Events(found, reached) = ring.read("/a", Revision(20)) else { panic!() };
        assert_eq!((found.len(), reached), (1, Revision(40)));
        ring.publish_up_to(Vec::new(), Revision(60));
        let Read::Events(found, reached) = ring.read("/a", Revision(40)) else { panic!() };
        assert_eq!((found.len(), reached, ring.newest()), (0, Revision(60), Revision(60)));
        ring.forget(Revision(15));
        assert!(ring.reaches(Revision(15)) && !ring.reaches(Revision(14)));
        let Read::Events(found, _) = ring.read("/a", Revision(15)) else { panic!() };
        assert_eq!(found.len(), 1);
        ring.forget(Revision(100));
        assert!(matches!(ring.read("/a", Revision(60)), Read::TooOld));
        assert!(matches!(ring.read("/a", Revision(100)), Read::UpToDate));
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
