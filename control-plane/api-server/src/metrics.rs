//! `metrics.k8s.io/v1beta1`: what nodes and pods use, as metrics-server answers it
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/>). Nothing of
//! it is stored: the hosts measure when somebody asks, and each is believed only about the nodes
//! that it speaks for and the pods that are bound to those.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{Api, List, Place};
use crate::kubelet::Kubelets;
use crate::object::{name, namespace, text};
use crate::options::ReadOptions;
use crate::resource::Resource;
use crate::selector::FieldSelector;
use crate::status::{Result, Status};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";

/// Answers for the resources of [`GROUP`].
#[derive(Debug, Clone)]
pub struct Metrics {
    api: Api,
    kubelets: Arc<Kubelets>,
}

/// What a host's kubelet endpoint answers to `/stats/summary`.
#[derive(Debug, Deserialize)]
pub(crate) struct Summaries {
    items: Vec<Summary>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    node: NodeSummary,
    pods: Vec<PodSummary>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSummary {
    node_name: String,
    #[serde(flatten)]
    usage: Usage,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSummary {
    pod_ref: PodReference,
    containers: Vec<ContainerSummary>,
}

#[derive(Debug, Deserialize)]
struct PodReference {
    uid: String,
}

#[derive(Debug, Deserialize)]
struct ContainerSummary {
    name: String,
    #[serde(flatten)]
    usage: Usage,
}

#[derive(Debug, Deserialize)]
struct Usage {
    cpu: Cpu,
    memory: Memory,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    usage_nano_cores: u64,
    window_nano_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: u64,
}

impl Usage {
    /// A `v1.ResourceList`.
    fn resources(&self) -> Value {
        json!({
            "cpu": format!("{}n", self.cpu.usage_nano_cores),
            "memory": format!("{}Ki", self.memory.working_set_bytes / 1024),
        })
    }

    /// A `metav1.Duration`.
    fn window(&self) -> String {
        format!(
            "{:.3}s",
            std::time::Duration::from_nanos(self.cpu.window_nano_seconds).as_secs_f64()
        )
    }
}

impl Metrics {
    /// Metrics of `api`'s nodes and pods, from their hosts' `kubelets`.
    #[must_use]
    pub fn new(api: Api, kubelets: Arc<Kubelets>) -> Self {
        Self { api, kubelets }
    }

    /// The metrics of `place` that the options select: of every node or pod that is measured.
    ///
    /// # Errors
    /// `BadRequest` for a selector of a field that is not there.
    pub async fn list(&self, place: &Place, options: &ReadOptions) -> Result<List> {
        let of = self.subjects(place)?;
        let options = ReadOptions {
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            ..ReadOptions::default()
        };
        let found = self.api.list(&of, &options).await?;
        let resource_version = found.resource_version;
        let items = match place.resource.namespaced {
            false => self.of_nodes(&place.resource, &found.items).await,
            true => self.of_pods(&place.resource, &found.items).await?,
        };
        Ok(List { items, resource_version, continue_token: None, remaining: None })
    }

    /// The metrics of one node or pod.
    ///
    /// # Errors
    /// `NotFound` if it is not there or not measured.
    pub async fn get(&self, place: &Place, name: &str) -> Result<Value> {
        let options = ReadOptions {
            fields: FieldSelector::equal("metadata.name", name),
            ..ReadOptions::default()
        };
        let mut items = self.list(place, &options).await?.items;
        items.pop().ok_or_else(|| {
            let resource = place.resource.kind.to_ascii_lowercase();
            match &place.namespace {
                Some(namespace) => {
                    Status::not_found(GROUP, &resource, &format!("{namespace}/{name}"))
                }
                None => Status::not_found(GROUP, &resource, name),
            }
        })
    }

    /// Where the nodes or pods themselves are.
    fn subjects(&self, place: &Place) -> Result<Place> {
        let of = self.api.registry().find("", "v1", place.resource.plural);
        let of = of.ok_or_else(Status::no_such_resource)?;
        Ok(Place::new(&of, place.namespace.as_deref()))
    }

    async fn of_nodes(&self, resource: &Resource, nodes: &[Value]) -> Vec<Value> {
        let summaries = self.summaries(nodes).await;
        let metrics = nodes.iter().filter_map(|node| {
            let usage = &summaries.get(name(node))?.node.usage;
            let mut metrics = metrics(resource, node, usage);
            metrics["usage"] = usage.resources();
            Some(metrics)
        });
        metrics.collect()
    }

    async fn of_pods(&self, resource: &Resource, pods: &[Value]) -> Result<Vec<Value>> {
        let node_of = |pod: &'_ Value| text(pod, "spec.nodeName").to_owned();
        let mut names: Vec<String> =
            pods.iter().map(node_of).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let nodes = self.api.registry().find("", "v1", "nodes");
        let place = Place::new(&nodes.ok_or_else(Status::no_such_resource)?, None);
        let nodes = match names.as_slice() {
            [] => return Ok(Vec::new()),
            // A pod may be bound to a node that is gone.
            [one] => self.api.get(&place, one).await.into_iter().collect(),
            _ => {
                let mut nodes = self.api.list(&place, &ReadOptions::default()).await?.items;
                nodes.retain(|node| names.binary_search_by(|one| (**one).cmp(name(node))).is_ok());
                nodes
            }
        };
        let summaries = self.summaries(&nodes).await;
        let by_uid: HashMap<&str, (&str, &PodSummary)> = summaries
            .iter()
            .flat_map(|(node, summary)| {
                let pods = summary.pods.iter();
                pods.map(move |pod| (pod.pod_ref.uid.as_str(), (node.as_str(), pod)))
            })
            .collect();
        let metrics = pods.iter().filter_map(|pod| {
            let (node, summary) = by_uid.get(text(pod, "metadata.uid"))?;
            if text(pod, "spec.nodeName") != *node {
                return None;
            }
            let mut metrics = metrics(resource, pod, &summary.containers.first()?.usage);
            let containers = summary.containers.iter();
            metrics["containers"] = containers
                .map(|one| json!({"name": one.name, "usage": one.usage.resources()}))
                .collect();
            Some(metrics)
        });
        Ok(metrics.collect())
    }

    /// What the hosts of `nodes` say, by node. A host that does not answer is left out, as
    /// metrics-server leaves a kubelet out.
    async fn summaries(&self, nodes: &[Value]) -> HashMap<String, Summary> {
        let mut by_endpoint: HashMap<u64, Vec<&Value>> = HashMap::new();
        for node in nodes {
            let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
            if let Some(port) = port.as_u64() {
                by_endpoint.entry(port).or_default().push(node);
            }
        }
        let mut asked = tokio::task::JoinSet::new();
        for nodes in by_endpoint.into_values() {
            let Some(node) = nodes.first().map(|&node| node.clone()) else { continue };
            let names: Vec<String> = nodes.iter().map(|&node| name(node).to_owned()).collect();
            let kubelets = Arc::clone(&self.kubelets);
            asked.spawn(async move {
                match kubelets.summaries(&node, &names).await {
                    Ok(Summaries { items }) => {
                        let own = |one: &Summary| names.contains(&one.node.node_name);
                        items.into_iter().filter(own).collect()
                    }
                    Err(status) => {
                        tracing::warn!("metrics: {}", status.message);
                        Vec::new()
                    }
                }
            });
        }
        let summaries = asked.join_all().await.into_iter().flatten();
        summaries.map(|summary| (summary.node.node_name.clone(), summary)).collect()
    }
}

/// What metrics of a node and of a pod have in common.
fn metrics(resource: &Resource, of: &Value, usage: &Usage) -> Value {
    let mut metadata = json!({
        "name": name(of),
        "creationTimestamp": crate::object::now(),
    });
    if let Some(namespace) = namespace(of) {
        metadata["namespace"] = namespace.into();
    }
    if let Some(labels) = of["metadata"]["labels"].as_object() {
        metadata["labels"] = labels.clone().into();
    }
    json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "timestamp": usage.cpu.time,
        "window": usage.window(),
    })
}
