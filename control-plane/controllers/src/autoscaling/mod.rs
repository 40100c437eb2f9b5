//! HorizontalPodAutoscalers: as many pods as keep what they use near its target.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>
//!
//! [`usage`] computes what a metric asks for, [`pace`] how fast that is followed; this module reads
//! and writes. What pods use comes from `metrics.k8s.io`; metrics of other kinds come from APIs that
//! others would have to serve, and are told to be missing.

mod pace;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_client::object::{self, condition, list, number, text};
use bulkhead_client::{Cache, ClientError, Informers, Kind, Quantity, Scale};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::pace::{Memory, Said};
use self::usage::{Metric, Proposal, Target};
use crate::context::{Context, on_change, write_status};
use crate::queue::{Next, Queue, Synced};

const AUTOSCALERS: Kind = Kind::new("autoscaling", "v2", "horizontalpodautoscalers");
/// What pods use.
const POD_METRICS: Kind = Kind::new("metrics.k8s.io", "v1beta1", "pods");
/// How often an autoscaler looks.
const INTERVAL: Duration = Duration::from_secs(15);
/// How many are synced at a time.
const WORKERS: usize = 5;

/// Scales, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let controller = Arc::new(Controller {
        context: Context::new(&informers, "horizontal-pod-autoscaler"),
        autoscalers: informers.cache(&AUTOSCALERS),
        pods: informers.cache(&Kind::PODS),
        memories: Mutex::default(),
    });
    controller.autoscalers.synced().await;
    controller.pods.synced().await;
    let queue = Queue::new();
    let (own_queue, worker) = (Arc::clone(&queue), Arc::clone(&controller));
    // What it writes itself says nothing new.
    let mut seen: HashMap<String, Value> = HashMap::new();
    tokio::join!(
        on_change(Arc::clone(&controller.autoscalers), |one| {
            let key = object::key(one);
            let generation = controller.autoscalers.get(&key).map(|one| {
                json!([one["metadata"]["uid"], one["metadata"]["annotations"], one["spec"]])
            });
            if generation.as_ref() == seen.get(&key) {
                return;
            }
            match generation {
                Some(generation) => seen.insert(key.clone(), generation),
                None => seen.remove(&key),
            };
            own_queue.add(key);
        }),
        queue.work("HorizontalPodAutoscaler", WORKERS, move |key| {
            let controller = Arc::clone(&worker);
            async move { controller.sync(&key).await }
        }),
    );
}

struct Controller {
    context: Context,
    autoscalers: Arc<Cache>,
    pods: Arc<Cache>,
    /// By uid.
    memories: Mutex<HashMap<String, Memory>>,
}

/// What is wrong, as a condition and an event tell it.
struct Trouble {
    reason: &'static str,
    message: String,
}

/// What metrics come to.
struct Wanted {
    replicas: i64,
    /// The metric that asks for the most.
    metric: String,
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        let Some(one) = self.autoscalers.get(key) else { return Ok(Next::Change) };
        if object::is_terminating(&one) {
            self.memories().remove(object::uid(&one));
            return Ok(Next::Change);
        }
        let mut status = one["status"].clone();
        status["observedGeneration"] = one["metadata"]["generation"].clone();
        let done = self.reconcile(&one, &mut status).await;
        if let Err(trouble) = &done {
            self.warn(&one, trouble);
        }
        write_status(self.context.client(), &AUTOSCALERS, &one, &status).await?;
        Ok(Next::After(INTERVAL))
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, one: &Value, trouble: &Trouble) {
        self.context.recorder.warning(one, trouble.reason, trouble.message.clone());
    }

    async fn reconcile(&self, one: &Value, status: &mut Value) -> Result<(), Trouble> {
        let (client, spec) = (self.context.client(), &one["spec"]);
        let (namespace, name) = (object::namespace(one), text(spec, "scaleTargetRef.name"));
        let found = async {
            let kind = self.context.resource_of(&spec["scaleTargetRef"]).await?;
            let scale = client.scale(&kind, namespace, name).await?;
            Ok::<_, ClientError>((kind, scale))
        };
        let (kind, scale) = found.await.map_err(|error| {
            let message =
                format!("the HPA controller was unable to get the target's current scale: {error}");
            set(status, "AbleToScale", ("False", "FailedGetScale", &message));
            Trouble { reason: "FailedGetScale", message: error.message }
        })?;
        set(status, "AbleToScale", SUCCEEDED_GET_SCALE);
        let current = scale.wanted;
        status["currentReplicas"] = scale.replicas.into();
        status["desiredReplicas"] = current.into();

        let least = number(spec, "minReplicas").unwrap_or(1);
        let most = number(spec, "maxReplicas").unwrap_or(1);
        let (replicas, reason) = if current == 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            set(status, "ScalingActive", ("False", "ScalingDisabled", why));
            return Ok(());
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let wanted = self.compute(one, status, &scale, current).await?;
            let paced = {
                let mut memories = self.memories();
                let memory = memories.entry(object::uid(one).to_owned()).or_default();
                memory.pace(spec, current, wanted.replicas)
            };
            set(status, "AbleToScale", paced.able);
            set(status, "ScalingLimited", paced.limited);
            let reason = if paced.replicas > current {
                format!("{} above target", wanted.metric)
            } else {
                "All metrics below target".to_owned()
            };
            (paced.replicas, reason)
        };
        if replicas == current {
            return Ok(());
        }
        status["desiredReplicas"] = replicas.into();
        if let Err(error) = client.set_scale(&kind, namespace, name, replicas).await {
            let message =
                format!("the HPA controller was unable to update the target scale: {error}");
            set(status, "AbleToScale", ("False", "FailedUpdateScale", &message));
            let message = format!("New size: {replicas}; reason: {reason}; error: {error}");
            return Err(Trouble { reason: "FailedRescale", message });
        }
        let message =
            format!("the HPA controller was able to update the target scale to {replicas}");
        set(status, "AbleToScale", ("True", "SucceededRescale", &message));
        let message = format!("New size: {replicas}; reason: {reason}");
        self.context.recorder.normal(one, "SuccessfulRescale", message);
        status["lastScaleTime"] = object::now().into();
        let mut memories = self.memories();
        memories.entry(object::uid(one).to_owned()).or_default().note_scaled(replicas - current);
        Ok(())
    }

    /// What the metrics ask for, and the conditions and the status that tell of them.
    async fn compute(
        &self,
        one: &Value,
        status: &mut Value,
        scale: &Scale,
        current: i64,
    ) -> Result<Wanted, Trouble> {
        if scale.selector.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            set(status, "ScalingActive", ("False", "InvalidSelector", message));
            return Err(Trouble { reason: "SelectorRequired", message: message.into() });
        }
        let mut pods = self.pods.in_namespace(object::namespace(one).unwrap_or_default());
        pods.retain(|pod| scale.selector.selects(pod));
        let specs = list(one, "spec.metrics");
        let measured = self.measure(one).await;
        let (mut wanted, mut first, mut invalid): (Option<Wanted>, Option<Trouble>, usize) =
            (None, None, 0);
        let mut statuses = Vec::new();
        for spec in specs {
            match propose(one, spec, current, &pods, &measured) {
                Ok((metric, proposal)) => {
                    statuses.push(shown(spec, &proposal));
                    let replicas = proposal.replicas;
                    if wanted.as_ref().is_none_or(|most| replicas > most.replicas) {
                        wanted = Some(Wanted { replicas, metric });
                    }
                }
                Err(trouble) => {
                    self.warn(one, &trouble);
                    invalid += 1;
                    first = first.or(Some(trouble));
                }
            }
        }
        match statuses.is_empty() {
            true => status.as_object_mut().map(|fields| fields.remove("currentMetrics")),
            false => status
                .as_object_mut()
                .map(|fields| fields.insert("currentMetrics".into(), statuses.into())),
        };
        // With a metric missing nothing tells that fewer would do.
        let enough = wanted.filter(|wanted| invalid == 0 || wanted.replicas >= current);
        match (enough, first) {
            (Some(wanted), _) => {
                let message = format!(
                    "the HPA was able to successfully calculate a replica count from {}",
                    wanted.metric
                );
                set(status, "ScalingActive", ("True", "ValidMetricFound", &message));
                Ok(wanted)
            }
            (None, first) => {
                let first = first.unwrap_or(Trouble {
                    reason: "InvalidMetricSourceType",
                    message: "there are no metrics".into(),
                });
                let message =
                    format!("the HPA was unable to compute the replica count: {}", first.message);
                set(status, "ScalingActive", ("False", first.reason, &message));
                let message = format!(
                    "invalid metrics ({invalid} invalid out of {}), first error is: {}",
                    specs.len(),
                    first.message
                );
                Err(Trouble { reason: "FailedComputeMetricsReplicas", message })
            }
        }
    }

    /// What the pods of the autoscaler's namespace use.
    async fn measure(&self, one: &Value) -> Result<Vec<Value>, String> {
        let specs = list(one, "spec.metrics").iter();
        let needed = specs.map(|spec| text(spec, "type"));
        if !needed.into_iter().any(|kind| matches!(kind, "Resource" | "ContainerResource")) {
            return Ok(Vec::new());
        }
        let measured = self.context.client().list(&POD_METRICS, object::namespace(one)).await;
        measured.map(|(metrics, _)| metrics).map_err(|error| {
            format!("unable to fetch metrics from resource metrics API: {error} (get pods.metrics.k8s.io)")
        })
    }
}

const SUCCEEDED_GET_SCALE: Said =
    ("True", "SucceededGetScale", "the HPA controller was able to get the target's current scale");

/// What one metric asks for, and how it is called.
fn propose(
    one: &Value,
    spec: &Value,
    current: i64,
    pods: &[Arc<Value>],
    measured: &Result<Vec<Value>, String>,
) -> Result<(String, Proposal), Trouble> {
    let (field, reason) = match text(spec, "type") {
        "Resource" => ("resource", "FailedGetResourceMetric"),
        "ContainerResource" => ("containerResource", "FailedGetContainerResourceMetric"),
        "Pods" => return Err(not_served(spec, "pods", "FailedGetPodsMetric", "custom")),
        "Object" => return Err(not_served(spec, "object", "FailedGetObjectMetric", "custom")),
        _ => return Err(not_served(spec, "external", "FailedGetExternalMetric", "external")),
    };
    let source = &spec[field];
    let (resource, container) = (text(source, "name"), source["container"].as_str());
    let target = &source["target"];
    let average = Quantity::from_json(&target["averageValue"]).map(Quantity::milli_value);
    let (target, called) = match target["averageUtilization"].as_i64() {
        Some(percent) => (
            Target::Utilization(percent),
            format!("{resource} resource utilization (percentage of request)"),
        ),
        None => (Target::Average(average.unwrap_or(0)), format!("{resource} resource")),
    };
    let trouble = |why: &str| Trouble {
        reason,
        message: format!(
            "failed to get {resource} usage: unable to get metrics for resource {resource}: {why}"
        ),
    };
    let measured = measured.as_ref().map_err(|why| trouble(why))?;
    let metric = Metric { resource, container, target };
    let tolerance = pace::tolerance(&one["spec"]);
    let now = OffsetDateTime::now_utc();
    let proposal = metric.propose(current, pods, measured, tolerance, now);
    Ok((called, proposal.map_err(|why| trouble(&why))?))
}

/// A metric of an API that is not there.
fn not_served(spec: &Value, field: &str, reason: &'static str, api: &str) -> Trouble {
    let name = text(&spec[field], "metric.name");
    let message = format!(
        "unable to get metric {name}: unable to fetch metrics from {api} metrics API: the server could not find the requested resource (get {name}.{api}.metrics.k8s.io)"
    );
    Trouble { reason, message }
}

/// A metric as the status shows it.
fn shown(spec: &Value, proposal: &Proposal) -> Value {
    let field = if spec["type"] == "Resource" { "resource" } else { "containerResource" };
    let source = &spec[field];
    let average = if source["name"] == "memory" {
        Quantity::millis(proposal.average).to_binary()
    } else {
        Quantity::millis(proposal.average).to_string()
    };
    let mut current = json!({"averageValue": average});
    if let Some(percent) = proposal.utilization {
        current["averageUtilization"] = percent.into();
    }
    let mut shown = json!({"name": source["name"], "current": current});
    if let Some(container) = source["container"].as_str() {
        shown["container"] = container.into();
    }
    json!({"type": spec["type"], field: shown})
}

/// Sets a condition of a status.
fn set(status: &mut Value, kind: &str, (met, reason, message): (&str, &str, &str)) {
    let wrapped = json!({"status": status});
    let known = condition(&wrapped, kind);
    let since = known
        .filter(|known| known["status"] == met)
        .map_or_else(|| object::now().into(), |known| known["lastTransitionTime"].clone());
    let made = json!({
        "type": kind, "status": met, "reason": reason, "message": message,
        "lastTransitionTime": since,
    });
    let mut conditions = list(status, "conditions").to_vec();
    match conditions.iter_mut().find(|one| one["type"] == kind) {
        Some(there) => *there = made,
        None => conditions.push(made),
    }
    status["conditions"] = conditions.into();
}
