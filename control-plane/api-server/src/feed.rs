//! Indexes that are kept in memory and fed by a watch of the store: what decides about every
//! request must not be read from the database each time.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_store::{Entry, Range, Result, Revision, Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long to wait before a broken watch is opened again.
const RETRY: Duration = Duration::from_millis(500);
/// How long [`Feed::catch_up`] waits at most.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Something that is made of the entries below a prefix.
pub(crate) trait Index: Send + Sync + 'static {
    /// Takes these entries for all there are.
    fn replace(&self, entries: Vec<Entry>);
    /// Takes one entry's new value; `None` if it is gone.
    fn apply(&self, key: &str, value: Option<&[u8]>);
}

/// What `apply` makes of nothing when it is given these entries, one after the other.
pub(crate) fn made_of<T: Default>(
    entries: Vec<Entry>,
    apply: impl Fn(&mut T, &str, Option<&[u8]>),
) -> T {
    let mut made = T::default();
    for entry in entries {
        apply(&mut made, &entry.key, Some(&entry.value));
    }
    made
}

/// An [`Index`] and the task that feeds it, which ends when this is dropped.
pub(crate) struct Feed<I> {
    index: Arc<I>,
    store: Arc<dyn Store>,
    position: watch::Receiver<Revision>,
    task: JoinHandle<()>,
}

impl<I: std::fmt::Debug> std::fmt::Debug for Feed<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<I> Drop for Feed<I> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<I: Index> Feed<I> {
    /// Fills `index` with what is below `prefix`, and keeps it so from then on.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) async fn start(store: Arc<dyn Store>, prefix: &str, index: I) -> Result<Self> {
        let index = Arc::new(index);
        let start = fill(store.as_ref(), prefix, index.as_ref()).await?;
        let (sender, position) = watch::channel(start);
        let task = follow(Arc::clone(&store), prefix.to_owned(), Arc::clone(&index), sender);
        let task = tokio::spawn(task);
        Ok(Self { index, store, position, task })
    }

    /// The index.
    pub(crate) fn index(&self) -> &I {
        &self.index
    }

    /// Returns when the index has seen every write that is acknowledged by now, or after [`CATCH_UP`].
    /// What it answers no to may be a yes that it has not seen yet.
    pub(crate) async fn catch_up(&self) {
        let Ok(newest) = self.store.revision().await else { return };
        let mut position = self.position.clone();
        let reached = position.wait_for(|position| *position >= newest);
        // Late or never, the answer is that of what is known.
        let _ = tokio::time::timeout(CATCH_UP, reached).await;
    }

    /// Told of every move of the index.
    pub(crate) fn position(&self) -> watch::Receiver<Revision> {
        self.position.clone()
    }
}

async fn fill<I: Index>(store: &dyn Store, prefix: &str, index: &I) -> Result<Revision> {
    let page = store.list(Range { prefix: prefix.into(), ..Range::default() }).await?;
    index.replace(page.entries);
    Ok(page.revision)
}

async fn follow<I: Index>(
    store: Arc<dyn Store>,
    prefix: String,
    index: Arc<I>,
    position: watch::Sender<Revision>,
) {
    loop {
        let from = *position.borrow();
        let error = match watch_from(store.as_ref(), &prefix, index.as_ref(), from, &position).await
        {
            Err(StoreError::Compacted { .. }) => {
                match fill(store.as_ref(), &prefix, index.as_ref()).await {
                    Ok(revision) => {
                        position.send_replace(revision);
                        continue;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
            Ok(never) => match never {},
        };
        tracing::warn!(prefix, %error, "following the store");
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch_from<I: Index>(
    store: &dyn Store,
    prefix: &str,
    index: &I,
    from: Revision,
    position: &watch::Sender<Revision>,
) -> Result<std::convert::Infallible> {
    let mut watch = store.watch(prefix, from).await?;
    loop {
        for event in watch.next().await? {
            index.apply(&event.key, event.value.as_deref());
        }
        position.send_replace(watch.revision());
    }
}
