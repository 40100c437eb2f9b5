//! A pod, as far as scheduling looks at it.

use std::sync::Arc;

use bulkhead_client::{SelectorError, object};
use serde_json::Value;

use super::{Constraint, HostPort, NodeSelectorTerm, RequiredNodes, Resources, Term, Toleration};

/// A preference with its weight, 1 to 100.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preferred<T> {
    pub(crate) weight: i64,
    pub(crate) what: T,
}

/// A pod's affinity, or anti-affinity, to other pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub(crate) required: Vec<Term>,
    pub(crate) preferred: Vec<Preferred<Term>>,
}

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) object: Arc<Value>,
    pub(crate) priority: i64,
    /// Whether others may be ended for it.
    pub(crate) preempts: bool,
    pub(crate) terminating: bool,
    pub(crate) requests: Resources,
    pub(crate) requests_for_scores: Resources,
    pub(crate) nodes: RequiredNodes,
    pub(crate) preferred_nodes: Vec<Preferred<NodeSelectorTerm>>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) spread: Vec<Constraint>,
    pub(crate) affinity: Affinity,
    pub(crate) anti_affinity: Affinity,
    pub(crate) images: Vec<String>,
    /// What it asks for that this scheduler cannot give, for people.
    pub(crate) refusal: Option<String>,
}

impl Pod {
    /// Reads a Pod object.
    pub(crate) fn read(object: &Arc<Value>) -> Self {
        let spec = &object["spec"];
        let (mut affinity, mut anti_affinity, mut spread) =
            (Affinity::default(), Affinity::default(), Vec::new());
        let mut refusal = unsupported(spec);
        let read = || -> Result<_, SelectorError> {
            let constraints = object::list(spec, "topologySpreadConstraints").iter();
            Ok((
                Affinity::read(&spec["affinity"]["podAffinity"], object)?,
                Affinity::read(&spec["affinity"]["podAntiAffinity"], object)?,
                constraints.map(|one| Constraint::read(one, object)).collect::<Result<_, _>>()?,
            ))
        };
        match read() {
            Ok(read) => (affinity, anti_affinity, spread) = read,
            Err(error) => refusal = Some(error.to_string()),
        }
        let preferred = "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution";
        let containers = ["initContainers", "containers"];
        let images = containers.iter().flat_map(|list| object::list(spec, list));
        Self {
            namespace: object::namespace(object).unwrap_or_default().into(),
            name: object::name(object).into(),
            uid: object::uid(object).into(),
            priority: object::number(spec, "priority").unwrap_or_default(),
            preempts: spec["preemptionPolicy"] != "Never",
            terminating: object::is_terminating(object),
            requests: Resources::of_pod(spec),
            requests_for_scores: Resources::of_pod_for_scores(spec),
            nodes: RequiredNodes::read(spec),
            preferred_nodes: preferences(object::list(spec, preferred), "preference", |term| {
                Ok(NodeSelectorTerm::read(term))
            })
            .unwrap_or_default(),
            tolerations: Toleration::read_all(object),
            ports: HostPort::read_all(spec),
            spread,
            affinity,
            anti_affinity,
            images: images.map(|one| object::text(one, "image").to_owned()).collect(),
            refusal,
            object: Arc::clone(object),
        }
    }

    /// `namespace/name`.
    pub(crate) fn key(&self) -> String {
        object::key_of(Some(&self.namespace), &self.name)
    }

    /// The node that it is bound to.
    pub(crate) fn node(&self) -> Option<&str> {
        Some(object::text(&self.object, "spec.nodeName")).filter(|name| !name.is_empty())
    }

    /// The node that is being cleared for it.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        Some(object::text(&self.object, "status.nominatedNodeName")).filter(|name| !name.is_empty())
    }

    /// When it started to run, as text that sorts by time; the longest text if it did not.
    pub(crate) fn started(&self) -> &str {
        let started = object::text(&self.object, "status.startTime");
        if started.is_empty() { "~" } else { started }
    }

    /// Whether something keeps it from being scheduled for now.
    pub(crate) fn is_gated(&self) -> bool {
        !object::list(&self.object, "spec.schedulingGates").is_empty()
    }

    /// Whether nothing that scheduling looks at is other than in `before`.
    pub(crate) fn schedules_as(&self, before: &Self) -> bool {
        self.object["spec"] == before.object["spec"]
            && self.object["metadata"]["labels"] == before.object["metadata"]["labels"]
            && self.terminating == before.terminating
    }
}

impl Affinity {
    fn read(affinity: &Value, pod: &Value) -> Result<Self, SelectorError> {
        let required = object::list(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = object::list(affinity, "preferredDuringSchedulingIgnoredDuringExecution");
        Ok(Self {
            required: required
                .iter()
                .map(|term| Term::read(term, pod))
                .collect::<Result<_, _>>()?,
            preferred: preferences(preferred, "podAffinityTerm", |term| Term::read(term, pod))?,
        })
    }
}

fn preferences<T>(
    list: &[Value],
    field: &str,
    read: impl Fn(&Value) -> Result<T, SelectorError>,
) -> Result<Vec<Preferred<T>>, SelectorError> {
    let weighted = list.iter().map(|one| {
        let weight = object::number(one, "weight").unwrap_or_default();
        Ok(Preferred { weight, what: read(&one[field])? })
    });
    weighted.collect()
}

/// Names what a pod asks of the scheduler that this one does not do.
fn unsupported(spec: &Value) -> Option<String> {
    let mut fields = Vec::new();
    if !object::list(spec, "resourceClaims").is_empty() {
        fields.push("spec.resourceClaims".to_owned());
    }
    for (index, volume) in object::list(spec, "volumes").iter().enumerate() {
        for source in ["persistentVolumeClaim", "ephemeral"] {
            if !volume[source].is_null() {
                fields.push(format!("spec.volumes[{index}].{source}"));
            }
        }
    }
    (!fields.is_empty()).then(|| {
        let fields = fields.join(", ");
        format!("the pod asks for what this scheduler does not do: {fields}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(spec: Value) -> Option<String> {
        Pod::read(&Arc::new(json!({"spec": spec}))).refusal
    }

    #[test]
    fn what_it_cannot_honour_is_named() {
        let claims = json!({"resourceClaims": [{"name": "gpu"}],
            "volumes": [{"emptyDir": {}}, {"persistentVolumeClaim": {"claimName": "x"}}]});
        assert_eq!(
            refusal(claims).unwrap(),
            "the pod asks for what this scheduler does not do: spec.resourceClaims, \
             spec.volumes[1].persistentVolumeClaim"
        );
        let like = json!({"matchExpressions": [{"key": "k", "operator": "Like"}]});
        let constraint = json!({"topologyKey": "k", "labelSelector": like});
        let refused = refusal(json!({"topologySpreadConstraints": [constraint]}));
        assert!(refused.unwrap().contains("Like"));
        assert_eq!(refusal(json!({"volumes": [{"emptyDir": {}}], "resourceClaims": []})), None);
    }
}
