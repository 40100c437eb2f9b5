//! Namespaces that are being deleted: emptied of everything, then let go.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>
//!
//! What is not gone at once, as pods that end in their time, is waited for: its end brings the
//! namespace back. Meanwhile the namespace's conditions say what is left ([`left`]).

mod left;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, is_terminating};
use bulkhead_client::{Cache, Client, ClientError, Informers, Kind};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::context::{on_change, write_status};
use crate::queue::{Next, Queue, Synced};
use left::Left;

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
        let Some(namespace) = self.namespaces.get(name).filter(|one| is_terminating(one)) else {
            return Ok(Next::Change);
        };
        let left = self.empty(name).await?;
        if left.is_empty() {
            return match self.client.finalize_namespace(name).await {
                Err(error) if error.code != 404 => Err(error),
                _ => Ok(Next::Change),
            };
        }
        let mut status = namespace["status"].clone();
        status["conditions"] = left.conditions(&namespace).into();
        write_status(&self.client, &Kind::NAMESPACES, &namespace, &status).await?;
        match left.failures.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(Next::After(PATIENCE)),
        }
    }

    /// Deletes every object in a namespace, of every kind. What is still there.
    async fn empty(&self, namespace: &str) -> Result<Left, ClientError> {
        let mut left = Left::default();
        let resources = self.client.resources().await?;
        for resource in resources.into_iter().filter(|resource| resource.namespaced) {
            let kind = resource.resource;
            match self.empty_of(&kind, namespace).await {
                Ok(there) if there.is_empty() => {}
                Ok(there) => {
                    left.note(&kind, &there);
                    // The receiver is as long-lived as this.
                    let _ = self.left.send(kind);
                }
                // The kind went in the meantime.
                Err(error) if error.code == 404 => {}
                // The other kinds do not wait for this one.
                Err(error) => left.failures.push(error),
            }
        }
        Ok(left)
    }

    /// Deletes every object of a kind in a namespace. Those that are still there.
    async fn empty_of(&self, kind: &Kind, namespace: &str) -> Result<Vec<Value>, ClientError> {
        self.client.delete_collection(kind, namespace).await?;
        Ok(self.client.list(kind, Some(namespace)).await?.0)
    }
}
