//! Publishes what happens to pods to every watch, and remembers the last status of each.

use std::{cell::RefCell, collections::BTreeMap};

use bulkhead_agent_protocol::{PodEvent, PodStatus};
use tokio::sync::broadcast;

/// Events that a slow watch may lag behind before it is cut off (and starts anew).
const BACKLOG: usize = 256;

/// The pods' last statuses, and who wants to hear of changes.
pub(crate) struct Hub {
    statuses: RefCell<BTreeMap<String, PodStatus>>,
    events: broadcast::Sender<PodEvent>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { statuses: RefCell::default(), events: broadcast::channel(BACKLOG).0 }
    }

    /// Tells an event, unless it repeats what was last told.
    pub(crate) fn publish(&self, event: PodEvent) {
        let mut statuses = self.statuses.borrow_mut();
        match &event {
            PodEvent::Status(status) => {
                if statuses.get(&status.uid) == Some(status) {
                    return;
                }
                statuses.insert(status.uid.clone(), (**status).clone());
            }
            PodEvent::Removed { uid, .. } => {
                statuses.remove(uid);
            }
            PodEvent::Synced | PodEvent::Notice { .. } => {}
        }
        // Nobody listening is no failure.
        let _ = self.events.send(event);
    }

    /// All statuses now, and every event from now on.
    pub(crate) fn watch(&self) -> (Vec<PodStatus>, broadcast::Receiver<PodEvent>) {
        let receiver = self.events.subscribe();
        (self.statuses.borrow().values().cloned().collect(), receiver)
    }
}
