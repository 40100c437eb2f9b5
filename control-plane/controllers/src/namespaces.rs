//! Namespaces that are being deleted: emptied of everything, then let go.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>
//!
//! What is not gone at once, as pods that end in their time, is waited for: its end brings the
//! namespace back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, is_terminating};
use bulkhead_client::{Cache, Client, ClientError, Informers, Kind};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::context::on_change;
use crate::queue::{Next, Queue, Synced};

/// How many namespaces are emptied at a time.
const WORKERS: usize = 10;
/// When what is left is looked at again, though nothing was heard of it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Empties namespaces that are being deleted and lets them go, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let namespaces = informers.cache(&Kind::NAMESPACES);
    namespaces.synced().await;
    let queue = Queue::new();
    let (left, mut kinds_left) = mpsc::unbounded_channel();
    let controller = Arc::new(Controller {
        client: Arc::clone(informers.client()),
        namespaces: Arc::clone(&namespaces),
        left,
    });
    let (own_queue, work) = (Arc::clone(&queue), Arc::clone(&queue));
    let terminating = Arc::clone(&namespaces);
    tokio::join!(
        on_change(namespaces, |one| {
            if is_terminating(one) {
                own_queue.add(object::key(one));
            }
        }),
        async {
            // Kinds of which something was left once are followed from then on.
            let mut followed: HashSet<Kind> = HashSet::new();
            let mut following = JoinSet::new();
            while let Some(kind) = kinds_left.recv().await {
                if !followed.insert(kind.clone()) {
                    continue;
                }
                let (cache, queue) = (informers.metadata(&kind), Arc::clone(&queue));
                let terminating = Arc::clone(&terminating);
                following.spawn(async move {
                    let follow = on_change(Arc::clone(&cache), |object| {
                        note_gone(&cache, &terminating, &queue, object);
                    });
                    let begin = async {
                        // What went before it was followed is not heard of.
                        cache.synced().await;
                        let all = terminating.all();
                        let waiting = all.iter().filter(|one| is_terminating(one));
                        waiting.for_each(|one| queue.add(object::key(one)));
                    };
                    tokio::join!(follow, begin);
                });
            }
        },
        work.work("Namespace", WORKERS, move |name| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&name).await }
        }),
    );
}

/// Brings a namespace back that waits, when its last object of a kind is gone.
fn note_gone(all: &Cache, terminating: &Cache, queue: &Queue<String>, object: &Value) {
    let Some(namespace) = object::namespace(object) else { return };
    let waits = terminating.get(namespace).is_some_and(|one| is_terminating(&one));
    if waits && all.is_empty_in(namespace) {
        queue.add(namespace.to_owned());
    }
}

struct Controller {
    client: Arc<dyn Client>,
    namespaces: Arc<Cache>,
    /// Tells of kinds of which objects were left.
    left: mpsc::UnboundedSender<Kind>,
}

impl Controller {
    async fn sync(&self, name: &str) -> Synced {
        if !self.namespaces.get(name).is_some_and(|one| is_terminating(&one)) {
            return Ok(Next::Change);
        }
        if self.empty(name).await? > 0 {
            return Ok(Next::After(PATIENCE));
        }
        match self.client.finalize_namespace(name).await {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(Next::Change),
        }
    }

    /// Deletes every object in a namespace, of every kind. How many objects are still there.
    async fn empty(&self, namespace: &str) -> Result<usize, ClientError> {
        let mut left = 0;
        let resources = self.client.resources().await?;
        for resource in resources.into_iter().filter(|resource| resource.namespaced) {
            let kind = resource.resource;
            self.client.delete_collection(&kind, namespace).await?;
            let there = self.client.list(&kind, Some(namespace)).await?.0.len();
            if there > 0 {
                // The receiver is as long-lived as this.
                let _ = self.left.send(kind);
            }
            left += there;
        }
        Ok(left)
    }
}
