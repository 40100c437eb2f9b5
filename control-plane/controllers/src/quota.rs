//! ResourceQuotas: what the objects of a namespace use of what it may.
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>
//!
//! Admission charges what is created; this counts anew when something is gone, or was not created after
//! all.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_client::object::{self, text};
use bulkhead_client::{Cache, Informers, Kind, quota};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::context::{Context, on_change, write_status};
use crate::queue::{Next, Queue, Synced};

/// ResourceQuotas.
const QUOTAS: Kind = Kind::core("resourcequotas");
/// How many quotas are counted at a time.
const WORKERS: usize = 5;
/// How often a quota is counted though nothing was heard.
const INTERVAL: Duration = Duration::from_secs(300);
/// For so long nothing must have been charged: what is charged is created by then, or never.
const QUIET: Duration = Duration::from_secs(2);

/// Group and plural of a resource, as quotas name it.
type Resource = (String, String);

struct Controller {
    context: Context,
    quotas: Arc<Cache>,
    /// The resources that quotas limit, as far as there are such.
    counted: Mutex<HashMap<Resource, Kind>>,
    /// The version of each quota that was seen last, and when it was new.
    versions: Mutex<HashMap<String, (String, Instant)>>,
    /// Tells of caches that are to be followed.
    follow: mpsc::UnboundedSender<(Resource, Arc<Cache>)>,
}

/// Counts, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let quotas = informers.cache(&QUOTAS);
    quotas.synced().await;
    let queue = Queue::new();
    let (follow, mut to_follow) = mpsc::unbounded_channel();
    let controller = Arc::new(Controller {
        context: Context::new(&informers, "resourcequota-controller"),
        quotas: Arc::clone(&quotas),
        counted: Mutex::default(),
        versions: Mutex::default(),
        follow,
    });
    let (own_queue, work, all) = (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&quotas));
    tokio::join!(
        on_change(quotas, |quota| own_queue.add(object::key(quota))),
        async {
            let mut following = JoinSet::new();
            while let Some((resource, cache)) = to_follow.recv().await {
                let (queue, quotas) = (Arc::clone(&queue), Arc::clone(&all));
                following.spawn(async move {
                    on_change(Arc::clone(&cache), |object| {
                        if matters(&resource, &cache, object) {
                            concerned(&quotas, &resource, object)
                                .into_iter()
                                .for_each(|key| queue.add(key));
                        }
                    })
                    .await;
                });
            }
        },
        work.work("ResourceQuota", WORKERS, move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&key).await }
        }),
    );
}

/// Whether a change may change what is used: not what becomes of a pod while it runs.
fn matters((group, plural): &Resource, all: &Cache, object: &Value) -> bool {
    if !group.is_empty() || plural != "pods" {
        return true;
    }
    let gone = all.get(&object::key(object)).is_none();
    let phase = text(object, "status.phase");
    gone || object::is_terminating(object) || !matches!(phase, "Running" | "Unknown")
}

/// The quotas of an object's namespace that limit its resource.
fn concerned(quotas: &Cache, (group, plural): &Resource, object: &Value) -> Vec<String> {
    let Some(namespace) = object::namespace(object) else { return Vec::new() };
    let quotas = quotas.in_namespace(namespace);
    let limiting = quotas
        .iter()
        .filter(|quota| quota::resources_of(quota).contains(&(group.as_str(), plural.as_str())));
    limiting.map(|quota| object::key(quota)).collect()
}

impl Controller {
    fn counted(&self) -> MutexGuard<'_, HashMap<Resource, Kind>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync(&self, key: &str) -> Synced {
        let Some(quota) = self.quotas.get(key).filter(|one| !object::is_terminating(one)) else {
            self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Next::Change);
        };
        let resources: HashSet<Resource> = quota::resources_of(&quota)
            .into_iter()
            .map(|(group, plural)| (group.to_owned(), plural.to_owned()))
            .collect();
        self.begin_counting(&resources).await?;
        if let Some(wait) = self.unquiet(key, &quota) {
            return Ok(Next::After(wait));
        }
        let kinds: Vec<(Resource, Kind)> = {
            let counted = self.counted();
            let known = resources.into_iter();
            known.filter_map(|one| Some((one.clone(), counted.get(&one)?.clone()))).collect()
        };
        // What is there now, not what a cache saw: else more could be created than is allowed.
        let mut objects = Vec::new();
        for (resource, kind) in &kinds {
            let there = self.context.client().list(kind, object::namespace(&quota)).await?.0;
            objects.extend(there.into_iter().map(|one| (resource, one)));
        }
        let objects = objects
            .iter()
            .map(|((group, plural), object)| (group.as_str(), plural.as_str(), object));
        let used = quota::write(&quota::total(&quota, objects));
        // One that was charged meanwhile is another by now: its event brings it back.
        let status = json!({"hard": quota["spec"]["hard"], "used": used});
        write_status(self.context.client(), &QUOTAS, &quota, &status).await?;
        Ok(Next::After(INTERVAL))
    }

    /// How long to wait until a quota has been as it is for long enough.
    fn unquiet(&self, key: &str, quota: &Value) -> Option<Duration> {
        let version = text(quota, "metadata.resourceVersion");
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (known, since) = versions.entry(key.to_owned()).or_insert((String::new(), now));
        if known != version {
            (*known, *since) = (version.to_owned(), now);
        }
        QUIET.checked_sub(now - *since).filter(|wait| !wait.is_zero())
    }

    /// Sees to it that changes of the objects of these resources are heard of. A
    /// resource that is not there has no objects.
    async fn begin_counting(
        &self,
        resources: &HashSet<Resource>,
    ) -> Result<(), bulkhead_client::ClientError> {
        let missing: Vec<Resource> = {
            let counted = self.counted();
            resources.iter().filter(|one| !counted.contains_key(*one)).cloned().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let there = self.context.client().resources().await?;
        for resource in missing {
            let found = there.iter().find(|one| {
                one.namespaced
                    && (&*one.resource.group, &*one.resource.plural)
                        == (resource.0.as_str(), resource.1.as_str())
            });
            let Some(found) = found else { continue };
            if self.counted().insert(resource.clone(), found.resource.clone()).is_none() {
                let cache = self.context.informers.metadata(&found.resource);
                // The receiver is as long-lived as this.
                let _ = self.follow.send((resource, cache));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_client::testing::{Asked, Objects};
    use bulkhead_client::{Patch, ResourceInfo};

    use super::*;

    fn pod(name: &str, phase: &str) -> Value {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "500m"}}});
        json!({
            "metadata": {"namespace": "d", "name": name}, "spec": {"containers": [container]},
            "status": {"phase": phase},
        })
    }

    /// What was written of the quota's use, last.
    fn used(objects: &Objects) -> Option<Value> {
        let last = objects.asked().pop()?;
        let Asked::Patch(_, _, Patch::Merge(patch)) = last else { panic!("{last:?}") };
        Some(patch["status"]["used"].clone())
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_or_is_gone_is_given_back() {
        let quota = json!({
            "metadata": {"namespace": "d", "name": "q", "resourceVersion": "1"},
            "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/widgets.example.com": "1"}},
        });
        let pods = vec![pod("a", "Running"), pod("b", "Running"), pod("c", "Succeeded")];
        let objects = Objects::new([(QUOTAS, vec![quota]), (Kind::PODS, pods)]);
        objects.serve(ResourceInfo { resource: Kind::PODS, kind: "Pod".into(), namespaced: true });
        let informers = Informers::new(objects.clone());
        let _ = informers.cache(&Kind::PODS);
        let controller = tokio::spawn(run(Arc::clone(&informers)));
        let expect = async |pods: &str, cpu: &str| {
            tokio::time::sleep(QUIET * 2).await;
            let wanted =
                json!({"pods": pods, "requests.cpu": cpu, "count/widgets.example.com": "0"});
            assert_eq!(used(&objects), Some(wanted));
        };
        expect("2", "1").await;
        objects.present(&Kind::PODS, pod("b", "Failed"));
        expect("1", "500m").await;
        objects.gone(&Kind::PODS, pod("a", "Running"));
        expect("0", "0").await;
        objects.present(&Kind::PODS, pod("b", "Failed"));
        controller.abort();
    }
}
