//! Work queues: keys to be synced, each by one worker at a time, with retries that grow rarer.
//!
//! A key that is added many times before its turn is synced once. A sync that failed is tried
//! again after a delay that doubles. And a key whose sync takes long waits as long before the
//! next, so that an object under constant change takes half of a worker's time at most.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_client::ClientError;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The delays between retries, doubled from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// What a sync says of the future.
pub(crate) enum Next {
    /// Nothing to do until something changes.
    Change,
    /// Sync again after this time.
    After(Duration),
}

impl Next {
    /// This, but after `wait` at the latest.
    pub(crate) fn sooner(self, wait: Duration) -> Self {
        match self {
            Self::After(other) => Self::After(other.min(wait)),
            Self::Change => Self::After(wait),
        }
    }
}

/// The result of a sync.
pub(crate) type Synced = Result<Next, ClientError>;

/// A queue of keys.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// When keys are due; the number keeps the order of what is due at the same time.
    due: BTreeMap<(Instant, u64), K>,
    /// Where a key is in `due`.
    waiting: HashMap<K, (Instant, u64)>,
    running: HashSet<K>,
    /// Keys that were added while they ran, and when they are due.
    again: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    /// Keys that rest after a long sync, and until when.
    resting: HashMap<K, Instant>,
    counter: u64,
}

impl<K: Clone + Eq + Hash + Send + std::fmt::Debug + 'static> Queue<K> {
    /// An empty queue.
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            due: BTreeMap::new(),
            waiting: HashMap::new(),
            running: HashSet::new(),
            again: HashMap::new(),
            failures: HashMap::new(),
            resting: HashMap::new(),
            counter: 0,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key, to be synced as soon as possible.
    pub(crate) fn add(&self, key: K) {
        self.lock().add(key, Instant::now());
        self.changed.notify_one();
    }

    /// Syncs what is added with `sync`, for ever, so many keys at a time.
    pub(crate) async fn work<F>(
        self: Arc<Self>,
        name: &'static str,
        workers: usize,
        sync: impl Fn(K) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Synced> + Send + 'static,
    {
        let sync = Arc::new(sync);
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (queue, sync) = (Arc::clone(&self), Arc::clone(&sync));
            tasks.spawn(async move {
                loop {
                    let key = queue.next().await;
                    let started = Instant::now();
                    let synced = sync(key.clone()).await;
                    if let Err(error) = &synced {
                        let expected = error.is_gone();
                        if expected {
                            tracing::debug!(controller = name, ?key, %error, "sync");
                        } else {
                            tracing::warn!(controller = name, ?key, %error, "sync");
                        }
                    }
                    queue.done(key, synced, started.elapsed());
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            let due = self.lock().take(Instant::now());
            match due {
                Ok(key) => {
                    // Others may be due too, for other workers.
                    self.changed.notify_one();
                    return key;
                }
                Err(Some(at)) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Err(None) => changed.await,
            }
        }
    }

    fn done(&self, key: K, synced: Synced, took: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        state.running.remove(&key);
        state.resting.retain(|_, until| *until > now);
        if took > Duration::from_millis(1) {
            state.resting.insert(key.clone(), now + took);
        }
        if let Some(at) = state.again.remove(&key) {
            state.add(key.clone(), at);
        }
        match synced {
            Ok(next) => {
                state.failures.remove(&key);
                if let Next::After(delay) = next {
                    state.add(key, now + delay);
                }
            }
            Err(_) => {
                let failures = state.failures.entry(key.clone()).or_default();
                let delay = RETRY.0 * 2_u32.saturating_pow(*failures);
                *failures = (*failures + 1).min(16);
                state.add(key, now + delay.min(RETRY.1));
            }
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K, at: Instant) {
        let at = self.resting.get(&key).map_or(at, |until| at.max(*until));
        if self.running.contains(&key) {
            let again = self.again.entry(key).or_insert(at);
            *again = (*again).min(at);
            return;
        }
        if let Some(before) = self.waiting.get(&key) {
            if before.0 <= at {
                return;
            }
            self.due.remove(before);
        }
        self.counter += 1;
        self.waiting.insert(key.clone(), (at, self.counter));
        self.due.insert((at, self.counter), key);
    }

    /// The key that is due, or when the next will be.
    fn take(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        match self.due.first_key_value() {
            None => Err(None),
            Some(((at, _), _)) if *at > now => Err(Some(*at)),
            Some(_) => {
                let (_, key) = self.due.pop_first().ok_or(None)?;
                self.waiting.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_synced_once_however_often_it_is_added() {
        let queue = Queue::new();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        (0..10).for_each(|_| queue.add("a"));
        let work = tokio::spawn(Arc::clone(&queue).work("test", 4, move |_| {
            let counted = Arc::clone(&counted);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(Next::Change)
            }
        }));
        tokio::time::sleep(Duration::from_millis(500)).await;
        // While it runs: it is synced again, but rests first.
        (0..10).for_each(|_| queue.add("a"));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
        work.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_ever_more_rarely() {
        let queue = Queue::new();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        queue.add("a");
        let work = tokio::spawn(Arc::clone(&queue).work("test", 1, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            let error = ClientError { code: 500, reason: String::new(), message: String::new() };
            async move { Err(error) }
        }));
        tokio::time::sleep(Duration::from_secs(600)).await;
        // 10 ms, 20 ms … 40.96 s, then every 60 s.
        let count = count.load(Ordering::Relaxed);
        assert!((20..26).contains(&count), "{count}");
        work.abort();
    }
}
