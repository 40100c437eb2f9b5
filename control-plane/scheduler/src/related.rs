//! What the scheduler reads of other kinds when it needs it: what pods belong together, and what
//! disruption budgets allow. A kind that the server does not have has no objects.

use std::sync::Arc;

use bulkhead_client::{Cache, ClientError, Informers, Kind, Selector, object};
use serde_json::{Map, Value, json};

use crate::model::{Constraint, Pod};
use crate::preemption::Budget;

/// The owners whose selectors say which pods belong together.
static OWNERS: [(&str, Kind); 3] = [
    ("ReplicationController", Kind::core("replicationcontrollers")),
    ("ReplicaSet", Kind::new("apps", "v1", "replicasets")),
    ("StatefulSet", Kind::new("apps", "v1", "statefulsets")),
];
const SERVICES: Kind = Kind::core("services");
const BUDGETS: Kind = Kind::new("policy", "v1", "poddisruptionbudgets");

/// The other kinds' objects.
#[derive(Debug, Default)]
pub(crate) struct Related {
    services: Option<Arc<Cache>>,
    owners: Vec<(&'static str, Arc<Cache>)>,
    budgets: Option<Arc<Cache>>,
}

impl Related {
    /// Follows the kinds that the server has.
    pub(crate) async fn follow(informers: &Informers) -> Result<Self, ClientError> {
        let resources = informers.client().resources().await?;
        let follow = |kind: &Kind| {
            let exists = resources.iter().any(|one| one.resource == *kind);
            exists.then(|| informers.cache(kind))
        };
        let owners = OWNERS.iter().filter_map(|(name, kind)| Some((*name, follow(kind)?)));
        Ok(Self {
            owners: owners.collect(),
            services: follow(&SERVICES),
            budgets: follow(&BUDGETS),
        })
    }

    /// Every disruption budget.
    pub(crate) fn budgets(&self) -> Vec<Budget> {
        let all = self.budgets.as_ref().map(|cache| cache.all()).unwrap_or_default();
        all.iter().filter_map(|object| Budget::read(object)).collect()
    }

    /// The spread constraints of a pod that has none of its own: over the pods that are behind the
    /// same services and of the same controller.
    pub(crate) fn spread_defaults(&self, pod: &Pod) -> Vec<Constraint> {
        if !pod.spread.is_empty() {
            return Vec::new();
        }
        let mut labels = Map::new();
        let mut expressions = Vec::new();
        let services = self.services.iter().flat_map(|cache| cache.in_namespace(&pod.namespace));
        for service in services {
            let selector = service["spec"]["selector"].as_object().filter(|map| !map.is_empty());
            if let Some(selector) = selector
                && Selector::of_labels(&service["spec"]["selector"]).selects(&pod.object)
            {
                labels.extend(selector.clone());
            }
        }
        if let Some(owner) = self.owner(pod) {
            let selector = &owner["spec"]["selector"];
            let is_plain = owner["kind"] == "ReplicationController";
            let own = if is_plain { selector } else { &selector["matchLabels"] };
            labels.extend(own.as_object().cloned().unwrap_or_default());
            expressions = object::list(selector, "matchExpressions").to_vec();
        }
        let selector = json!({"matchLabels": labels, "matchExpressions": expressions});
        match Selector::read(&selector) {
            Ok(selector) if !selector.is_empty() => {
                Constraint::defaults(&pod.namespace, &selector).into()
            }
            _ => Vec::new(),
        }
    }

    fn owner(&self, pod: &Pod) -> Option<Arc<Value>> {
        let controller = object::controller(&pod.object)?;
        let kind = object::text(controller, "kind");
        let (_, cache) = self.owners.iter().find(|(name, _)| *name == kind)?;
        cache.get(&object::key_of(Some(&pod.namespace), object::text(controller, "name")))
    }
}
