//! What Kubernetes' admission fills into objects that are created, from other objects, and what it
//! refuses because of them.
//!
//! Pods get their ServiceAccount and its token ([`account`]), the defaults of the namespace's
//! LimitRanges ([`limits`]), what their PriorityClass and RuntimeClass say ([`classes`]), and the
//! tolerations by which a node that is not ready keeps them for five minutes. Claims and Ingresses
//! get the default classes. Whatever is created is charged to the namespace's ResourceQuotas
//! ([`quota`]), just before it is written.

mod account;
mod classes;
mod limits;
mod quota;

use serde_json::{Value, json};

use super::{Api, Place};
use crate::kinds;
use crate::object;
use crate::status::{Result, Status};

pub(super) use quota::{Charges, Ledger};

/// How long a pod stays on a node that is not ready, unless it says otherwise.
const TOLERATION_SECONDS: u64 = 300;
/// The taints of nodes that are not ready, or say nothing.
const UNREADY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Api {
    /// Fills in what other objects say, or refuses what they forbid.
    pub(super) async fn admit_create(&self, place: &Place, object: &mut Value) -> Result<()> {
        match (place.resource.group, place.resource.plural) {
            ("", "pods") if object["spec"].is_object() => {
                self.give_account(place, object).await?;
                self.limit(place, object).await?;
                self.prioritize(place, object).await?;
                self.choose_runtime(place, object).await?;
                tolerate(&mut object["spec"]);
                kinds::classify_pod(object);
                Ok(())
            }
            ("", "persistentvolumeclaims") if object["spec"].is_object() => {
                self.choose_storage(object).await?;
                self.limit(place, object).await
            }
            ("networking.k8s.io", "ingresses") if object["spec"].is_object() => {
                self.choose_ingress(object).await
            }
            _ => Ok(()),
        }
    }
}

/// 403 for an object that is to be created.
fn forbidden(place: &Place, object: &Value, why: &str) -> Status {
    let resource = &place.resource;
    let name = match object::name(object) {
        "" => object::text(object, "metadata.generateName"),
        name => name,
    };
    Status::forbidden(resource.group, resource.plural, name, why)
}

fn tolerate(spec: &mut Value) {
    let mut tolerations = object::list(spec, "tolerations").to_vec();
    for taint in UNREADY {
        let tolerated = tolerations.iter().any(|toleration| {
            let (key, effect) =
                (object::text(toleration, "key"), object::text(toleration, "effect"));
            (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    spec["tolerations"] = tolerations.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_what_it_does_not_yet() {
        let keys = |spec: Value| {
            let mut spec = spec;
            tolerate(&mut spec);
            object::list(&spec, "tolerations").len()
        };
        assert_eq!(keys(json!({})), 2);
        assert_eq!(keys(json!({"tolerations": [{"key": UNREADY[0], "operator": "Exists"}]})), 2);
        assert_eq!(keys(json!({"tolerations": [{"operator": "Exists"}]})), 1);
        let other = json!({"key": UNREADY[0], "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(keys(json!({"tolerations": [other]})), 3);
    }
}
