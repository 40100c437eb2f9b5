//! PodDisruptionBudgets: how many pods may be evicted now.
//! <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, number, text};
use bulkhead_client::{Cache, ClientError, Informers, Kind, Selector};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::context::{Context, on_change, write_status};
use crate::deployment::DEPLOYMENTS;
use crate::pods;
use crate::queue::{Next, Queue, Synced};
use crate::replicas::{CONTROLLERS, SETS};
use crate::stateful::STATEFUL_SETS;

const BUDGETS: Kind = Kind::new("policy", "v1", "poddisruptionbudgets");
/// How many budgets are synced at a time.
const WORKERS: usize = 2;
/// An eviction that has not become a deletion by then will not.
const DISRUPTED: time::Duration = time::Duration::minutes(2);

struct Controller {
    context: Context,
    budgets: Arc<Cache>,
    pods: Arc<Cache>,
    sets: Arc<Cache>,
    controllers: Arc<Cache>,
    deployments: Arc<Cache>,
    stateful: Arc<Cache>,
}

/// Keeps the budgets' status, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let cache = |kind: &Kind| informers.cache(kind);
    let controller = Arc::new(Controller {
        context: Context::new(&informers, "disruption-controller"),
        budgets: cache(&BUDGETS),
        pods: cache(&Kind::PODS),
        sets: cache(&SETS),
        controllers: cache(&CONTROLLERS),
        deployments: cache(&DEPLOYMENTS),
        stateful: cache(&STATEFUL_SETS),
    });
    let Controller { budgets, pods, sets, controllers, deployments, stateful, .. } = &*controller;
    for cache in [budgets, pods, sets, controllers, deployments, stateful] {
        cache.synced().await;
    }
    let queue = Queue::new();
    // What a scale says concerns budgets of pods' owners: any in its namespace may be one.
    let all_of = |object: &Value| {
        let namespace = object::namespace(object).unwrap_or_default();
        budgets.in_namespace(namespace).iter().for_each(|budget| queue.add(object::key(budget)));
    };
    let worker = Arc::clone(&controller);
    tokio::join!(
        on_change(Arc::clone(budgets), |budget| queue.add(object::key(budget))),
        on_change(Arc::clone(pods), |pod| {
            let namespace = object::namespace(pod).unwrap_or_default();
            for budget in budgets.in_namespace(namespace) {
                if selects(&budget, pod) {
                    queue.add(object::key(&budget));
                }
            }
        }),
        on_change(Arc::clone(sets), all_of),
        on_change(Arc::clone(controllers), all_of),
        on_change(Arc::clone(deployments), all_of),
        on_change(Arc::clone(stateful), all_of),
        Arc::clone(&queue).work("PodDisruptionBudget", WORKERS, move |key| {
            let controller = Arc::clone(&worker);
            async move { controller.sync(&key).await }
        }),
    );
}

fn selects(budget: &Value, pod: &Value) -> bool {
    // No selector selects nothing, the empty one everything.
    let selector = &budget["spec"]["selector"];
    !selector.is_null() && Selector::read(selector).is_ok_and(|selector| selector.selects(pod))
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Change) };
        let namespace = object::namespace(&budget).unwrap_or_default();
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| selects(&budget, pod) && !pods::has_ended(pod));
        let now = OffsetDateTime::now_utc();
        let status = match self.scale(&budget, &pods).await? {
            Ok(expected) => status(&budget, &pods, expected, now),
            Err(message) => failed(&budget, &message, now),
        };
        write_status(self.context.client(), &BUDGETS, &budget, &status).await?;
        let waits = status["disruptedPods"].as_object().is_some_and(|pods| !pods.is_empty());
        Ok(if waits { Next::After(Duration::from_secs(120)) } else { Next::Change })
    }

    /// How many pods there should be: those that are there, or, if the budget needs it, what their
    /// owners want.
    async fn scale(
        &self,
        budget: &Value,
        pods: &[Arc<Value>],
    ) -> Result<Result<i64, String>, ClientError> {
        if budget["spec"]["minAvailable"].is_number() {
            return Ok(Ok(i64::try_from(pods.len()).unwrap_or(i64::MAX)));
        }
        let mut owners: BTreeMap<String, i64> = BTreeMap::new();
        for pod in pods {
            if let Some(owner) = self.owner(pod) {
                let replicas = number(&owner, "spec.replicas").unwrap_or(1);
                owners.insert(object::uid(&owner).into(), replicas);
                continue;
            }
            let reference = object::controller(pod);
            let uid = reference.map(|reference| text(reference, "uid")).unwrap_or_default();
            if owners.contains_key(uid) {
                continue;
            }
            let wanted = match reference {
                Some(reference) => self.wanted(pod, reference).await?,
                None => None,
            };
            let Some(wanted) = wanted else {
                return Ok(Err(format!("found no controllers for pod \"{}\"", object::name(pod))));
            };
            owners.insert(uid.into(), wanted);
        }
        Ok(Ok(owners.values().sum()))
    }

    /// How many pods the one that `reference` of a pod names wants, of whatever kind that has a scale.
    async fn wanted(&self, pod: &Value, reference: &Value) -> Result<Option<i64>, ClientError> {
        let asked = async {
            let kind = self.context.resource_of(reference).await?;
            let name = text(reference, "name");
            self.context.client().scale(&kind, object::namespace(pod), name).await
        };
        match asked.await {
            Ok(scale) => Ok((scale.uid == text(reference, "uid")).then_some(scale.wanted)),
            Err(error) if matches!(error.code, 404 | 405) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn owner(&self, pod: &Value) -> Option<Arc<Value>> {
        let of = |object: &Value, kind: &str, cache: &Cache| {
            let reference = object::controller(object).filter(|one| one["kind"] == kind)?;
            let key = object::key_of(object::namespace(object), text(reference, "name"));
            cache.get(&key).filter(|owner| reference["uid"] == owner["metadata"]["uid"])
        };
        if let Some(controller) = of(pod, "ReplicationController", &self.controllers) {
            return Some(controller);
        }
        if let Some(set) = of(pod, "StatefulSet", &self.stateful) {
            return Some(set);
        }
        let set = of(pod, "ReplicaSet", &self.sets)?;
        Some(of(&set, "Deployment", &self.deployments).unwrap_or(set))
    }
}

fn status(budget: &Value, pods: &[Arc<Value>], expected: i64, now: OffsetDateTime) -> Value {
    let spec = &budget["spec"];
    let desired = if spec["maxUnavailable"].is_null() {
        pods::resolve(&spec["minAvailable"], expected, true)
    } else {
        (expected - pods::resolve(&spec["maxUnavailable"], expected, true)).max(0)
    };
    let disrupted = disrupted(budget, pods, now);
    let healthy = pods
        .iter()
        .filter(|pod| !object::is_terminating(pod) && pods::is_ready(pod))
        .filter(|pod| !disrupted.contains_key(object::name(pod)))
        .count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let (met, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut status = json!({
        "observedGeneration": budget["metadata"]["generation"],
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "conditions": [condition(budget, met, reason, "", now)],
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into();
    }
    status
}

/// The status of a budget whose pods cannot be counted: nothing may be evicted.
fn failed(budget: &Value, message: &str, now: OffsetDateTime) -> Value {
    let mut status = budget["status"].clone();
    for field in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if status[field].is_null() {
            status[field] = 0.into();
        }
    }
    status["observedGeneration"] = budget["metadata"]["generation"].clone();
    status["disruptionsAllowed"] = 0.into();
    status["conditions"] = json!([condition(budget, "False", "SyncFailed", message, now)]);
    status
}

/// The pods whose eviction was granted and has not been seen yet.
fn disrupted(budget: &Value, pods: &[Arc<Value>], now: OffsetDateTime) -> Map<String, Value> {
    let granted = budget["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
    let pending = |(name, time): &(String, Value)| {
        let there =
            pods.iter().any(|pod| object::name(pod) == name && !object::is_terminating(pod));
        let granted = time.as_str().and_then(object::parse_time);
        there && granted.is_some_and(|granted| granted + DISRUPTED > now)
    };
    granted.into_iter().filter(pending).collect()
}

fn condition(budget: &Value, met: &str, reason: &str, message: &str, now: OffsetDateTime) -> Value {
    let known = object::condition(budget, "DisruptionAllowed");
    let since = known.filter(|known| known["status"] == met);
    json!({
        "type": "DisruptionAllowed",
        "status": met,
        "reason": reason,
        "message": message,
        "observedGeneration": budget["metadata"]["generation"],
        "lastTransitionTime": since.map_or_else(
            || object::timestamp(now).into(),
            |known| known["lastTransitionTime"].clone(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_budget_allows() {
        let pod = |name: &str, ready: &str| {
            Arc::new(json!({
                "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
        };
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "True"), pod("d", "False")];
        let now = OffsetDateTime::UNIX_EPOCH;
        let allowed = |spec: Value, granted: Value| {
            let budget = json!({"spec": spec, "status": {"disruptedPods": granted}});
            number(&status(&budget, &pods, 4, now), "disruptionsAllowed").unwrap()
        };
        assert_eq!(allowed(json!({"minAvailable": 2}), json!({})), 1);
        assert_eq!(allowed(json!({"minAvailable": "50%"}), json!({})), 1);
        assert_eq!(allowed(json!({"maxUnavailable": 1}), json!({})), 0, "one is down already");
        assert_eq!(allowed(json!({"maxUnavailable": "50%"}), json!({})), 1);
        let granted = json!({"a": object::timestamp(now)});
        assert_eq!(allowed(json!({"minAvailable": 2}), granted), 0, "a goes already");
        let old = json!({"a": object::timestamp(now - time::Duration::minutes(3))});
        assert_eq!(allowed(json!({"minAvailable": 2}), old), 1, "it did not go");
    }
}
