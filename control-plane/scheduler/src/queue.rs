//! The pods that wait: those to try now, the most important first; those whose last try was a
//! moment ago; and those for which something has to change first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::hints::{self, Event};
use crate::model::Pod;
use crate::plugins::Plugin;

/// The delay before a pod is tried again, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A pod that was not tried for so long is tried again, whatever happened.
const FLUSH: Duration = Duration::from_secs(300);

/// What a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Events that one of these plugins could change its mind for.
    Plugins(BTreeSet<Plugin>),
    /// A node.
    Node,
    /// A change of its own.
    Itself,
}

#[derive(Debug)]
enum Place {
    Active(Turn),
    Backoff(Instant),
    Waiting(Wait),
    /// It is being tried, or bound.
    Taken,
}

/// Who goes first: the higher priority, then who came first.
type Turn = (Reverse<i64>, u64);

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    place: Place,
    attempts: u32,
    /// When its backoff ends.
    not_before: Instant,
    /// When it was last tried.
    tried: Instant,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<(Turn, String)>,
    backoff: BTreeSet<(Instant, String)>,
    waiting: HashSet<String>,
    arrivals: u64,
}

impl Queue {
    /// Takes a pod in, or takes note of how it looks now.
    pub(crate) fn add(&mut self, pod: Arc<Pod>) {
        let key = pod.key();
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.pod.uid == pod.uid)
        else {
            self.remove(&key);
            let now = Instant::now();
            let entry =
                Entry { pod, place: Place::Taken, attempts: 0, not_before: now, tried: now };
            self.entries.insert(key.clone(), entry);
            self.activate(&key);
            return;
        };
        let changed = !pod.schedules_as(&entry.pod);
        entry.pod = pod;
        if changed && matches!(entry.place, Place::Waiting(_)) {
            self.wake_one(&key);
        } else if changed && matches!(entry.place, Place::Active(_)) {
            self.activate(&key);
        }
    }

    /// Forgets a pod.
    pub(crate) fn remove(&mut self, key: &str) {
        if self.entries.contains_key(key) {
            self.move_to(key, Place::Taken);
            self.entries.remove(key);
        }
    }

    /// The keys of all pods here.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The pod of this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Pod>> {
        self.entries.get(key).map(|entry| &entry.pod)
    }

    /// The next pod to try.
    pub(crate) fn pop(&mut self) -> Option<Arc<Pod>> {
        let now = Instant::now();
        while let Some((_, key)) = self.backoff.first().filter(|(until, _)| *until <= now) {
            let key = key.clone();
            self.activate(&key);
        }
        let (_, key) = self.active.first()?.clone();
        self.move_to(&key, Place::Taken);
        let entry = self.entries.get_mut(&key)?;
        entry.attempts += 1;
        entry.tried = now;
        Some(Arc::clone(&entry.pod))
    }

    /// A pod that was taken cannot run yet.
    pub(crate) fn put_back(&mut self, pod: &Pod, wait: Wait) {
        let key = pod.key();
        self.back_off(&key);
        self.move_to(&key, Place::Waiting(wait));
    }

    /// A pod that was taken is tried again after its backoff.
    pub(crate) fn retry(&mut self, key: &str) {
        self.back_off(key);
        self.wake_one(key);
    }

    fn back_off(&mut self, key: &str) {
        if let Some(entry) = self.entries.get_mut(key) {
            let doublings = entry.attempts.saturating_sub(1).min(8);
            let delay = (BACKOFF.0 * 2_u32.pow(doublings)).min(BACKOFF.1);
            entry.not_before = Instant::now() + delay;
        }
    }

    /// Wakes the pods that the event can help.
    pub(crate) fn wake(&mut self, event: Event<'_>, cluster: &Cluster) {
        let helped = |entry: &Entry| match &entry.place {
            Place::Waiting(Wait::Plugins(plugins)) => {
                plugins.iter().any(|&plugin| hints::helps(plugin, &entry.pod, event, cluster))
            }
            Place::Waiting(Wait::Node) => matches!(event, Event::NodeAdded(_)),
            _ => false,
        };
        let waiting = self.waiting.iter();
        let keys: Vec<String> =
            waiting.filter(|key| self.entries.get(*key).is_some_and(helped)).cloned().collect();
        keys.iter().for_each(|key| self.wake_one(key));
    }

    /// Wakes the pods that have waited for long, whatever for.
    pub(crate) fn flush(&mut self) {
        let now = Instant::now();
        let old = |entry: &Entry| now.saturating_duration_since(entry.tried) >= FLUSH;
        let waiting = self.waiting.iter();
        let keys: Vec<String> =
            waiting.filter(|key| self.entries.get(*key).is_some_and(old)).cloned().collect();
        keys.iter().for_each(|key| self.wake_one(key));
    }

    /// When the next backoff ends.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.backoff.first().map(|(until, _)| *until)
    }

    fn wake_one(&mut self, key: &str) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.not_before > Instant::now() {
            let until = entry.not_before;
            self.move_to(key, Place::Backoff(until));
        } else {
            self.activate(key);
        }
    }

    fn activate(&mut self, key: &str) {
        let Some(entry) = self.entries.get(key) else { return };
        self.arrivals += 1;
        let turn = (Reverse(entry.pod.priority), self.arrivals);
        self.move_to(key, Place::Active(turn));
    }

    fn move_to(&mut self, key: &str, place: Place) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &entry.place {
            Place::Active(turn) => {
                self.active.remove(&(*turn, key.to_owned()));
            }
            Place::Backoff(until) => {
                self.backoff.remove(&(*until, key.to_owned()));
            }
            Place::Waiting(_) => {
                self.waiting.remove(key);
            }
            Place::Taken => {}
        }
        match &place {
            Place::Active(turn) => {
                self.active.insert((*turn, key.to_owned()));
            }
            Place::Backoff(until) => {
                self.backoff.insert((*until, key.to_owned()));
            }
            Place::Waiting(_) => {
                self.waiting.insert(key.to_owned());
            }
            Place::Taken => {}
        }
        entry.place = place;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Node;
    use crate::testing::{cluster, node, pod, requests};

    fn with_priority(name: &str, priority: i64) -> Arc<Pod> {
        pod(name, json!({}), json!({"priority": priority}))
    }

    fn popped(queue: &mut Queue) -> Option<String> {
        queue.pop().map(|pod| pod.name.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_important_goes_first_then_who_came_first() {
        let mut queue = Queue::default();
        for (name, priority) in [("b", 0), ("a", 0), ("urgent", 10), ("idle", -5)] {
            queue.add(with_priority(name, priority));
        }
        let order: Vec<String> = std::iter::from_fn(|| popped(&mut queue)).collect();
        assert_eq!(order, ["urgent", "b", "a", "idle"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_doubles_up_to_ten_seconds() {
        let mut queue = Queue::default();
        let pod = with_priority("p", 0);
        queue.add(Arc::clone(&pod));
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut queue).as_deref(), Some("p"));
            queue.retry("default/p");
            let wait = Duration::from_secs(seconds);
            assert_eq!(queue.next_look(), Some(Instant::now() + wait));
            tokio::time::advance(wait - Duration::from_millis(1)).await;
            assert_eq!(popped(&mut queue), None);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_can_help_wakes() {
        let full = cluster([node("n", json!({}))], []);
        let mut queue = Queue::default();
        let pod = pod("p", json!({}), requests(json!({"cpu": "6"})));
        queue.add(Arc::clone(&pod));
        queue.pop();
        let wait = Wait::Plugins(BTreeSet::from([Plugin::NodeResourcesFit]));
        queue.put_back(&pod, wait);
        tokio::time::advance(BACKOFF.1).await;
        let read = |cpu: &str| {
            let mut object = node("m", json!({}));
            object["status"]["allocatable"]["cpu"] = cpu.into();
            Node::read(&Arc::new(object))
        };
        let (small, large) = (read("4"), read("8"));
        for useless in [
            Event::NodeAdded(&small),
            Event::NodeChanged { before: &large, after: &large },
            Event::NodeChanged { before: &large, after: &small },
            Event::NodeGone,
            Event::PodPlaced(&pod),
        ] {
            queue.wake(useless, &full);
            assert_eq!(popped(&mut queue), None, "{useless:?}");
        }
        queue.wake(Event::NodeChanged { before: &small, after: &large }, &full);
        assert_eq!(popped(&mut queue).as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_itself_wakes_when_it_changes() {
        let none = cluster([], []);
        let mut queue = Queue::default();
        let first = with_priority("p", 0);
        queue.add(Arc::clone(&first));
        queue.pop();
        queue.put_back(&first, Wait::Itself);
        tokio::time::advance(BACKOFF.1).await;
        let added = Node::read(&Arc::new(node("n", json!({}))));
        queue.wake(Event::NodeAdded(&added), &none);
        queue.add(first);
        assert_eq!(popped(&mut queue), None);
        queue.add(with_priority("p", 5));
        assert_eq!(popped(&mut queue).as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let mut queue = Queue::default();
        let pod = with_priority("p", 0);
        queue.add(Arc::clone(&pod));
        queue.pop();
        queue.put_back(&pod, Wait::Plugins(BTreeSet::new()));
        tokio::time::advance(FLUSH - Duration::from_secs(1)).await;
        queue.flush();
        assert_eq!(popped(&mut queue), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        queue.flush();
        assert_eq!(popped(&mut queue).as_deref(), Some("p"));
        queue.remove("default/p");
        assert!(queue.keys().is_empty());
    }
}
