//! Eviction: a delete that disruption budgets may forbid.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::subresource::success;
use super::update::Target;
use super::{Api, Place};
use crate::object;
use crate::options::{Preconditions, Query, ReadOptions, WriteOptions};
use crate::status::{Result, Status};

impl Api {
    /// Evicts the pod: deletes it, if its disruption budget allows that now.
    ///
    /// # Errors
    /// 429 if it does not, 500 if there are several; else as a delete.
    pub async fn evict(
        &self,
        place: &Place,
        name: &str,
        eviction: &Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        let said = object::name(eviction);
        if !said.is_empty() && said != name {
            return Err(Status::bad_request("the eviction names another pod than its path"));
        }
        let mut deletion = Query::default()
            .delete_options(eviction.get("deleteOptions").cloned().unwrap_or_default())?;
        if options.dry_run {
            deletion.dry_run.push("All".into());
        }
        let pod = self.get(place, name).await?;
        self.ask_budget(place, &pod, options).await?;
        // Only the pod that the budget was asked for.
        let preconditions = deletion.preconditions.get_or_insert_with(Preconditions::default);
        if preconditions.uid.is_none() {
            preconditions.uid = Some(object::text(&pod, "metadata.uid").into());
        }
        self.delete(place, name, &deletion).await?;
        Ok(success(201))
    }

    /// Takes one disruption from the pod's budget, if it has one and the pod counts there.
    async fn ask_budget(&self, place: &Place, pod: &Value, options: &WriteOptions) -> Result<()> {
        let ended = matches!(object::text(pod, "status.phase"), "Succeeded" | "Failed" | "Pending");
        if ended || object::is_terminating(pod) {
            return Ok(());
        }
        let Some(budgets) = self.registry.find("policy", "v1", "poddisruptionbudgets") else {
            return Ok(());
        };
        let budgets = Place::new(&budgets, place.namespace.as_deref());
        let mut all = self.list(&budgets, &ReadOptions::default()).await?.items;
        all.retain(|budget| {
            let selector = &budget["spec"]["selector"];
            !selector.is_null()
                && Selector::read(selector).is_ok_and(|selector| selector.selects(pod))
        });
        let budget = match all.as_slice() {
            [] => return Ok(()),
            [one] => object::name(one).to_owned(),
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction \
                     subresource does not support.",
                ));
            }
        };
        let take = |budget: &Value| take(budget, pod);
        self.modify(&budgets, &budget, Target::Status, options, take).await.map(drop)
    }
}

/// The budget after one more disruption, or why there may be none.
fn take(budget: &Value, pod: &Value) -> Result<Value> {
    let name = object::name(budget);
    let number = |path| object::at(budget, path).and_then(Value::as_i64).unwrap_or(0);
    let (healthy, desired) = (number("status.currentHealthy"), number("status.desiredHealthy"));
    if !is_ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || (desired > 0 && healthy >= desired) {
            return Ok(budget.clone());
        }
    }
    if number("status.observedGeneration") < number("metadata.generation") {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Status::disruption_budget(&why));
    }
    let allowed = number("status.disruptionsAllowed");
    if allowed <= 0 {
        let why = format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        );
        return Err(Status::disruption_budget(&why));
    }
    let mut taken = budget.clone();
    taken["status"]["disruptionsAllowed"] = (allowed - 1).into();
    taken["status"]["disruptedPods"][object::name(pod)] = json!(object::now());
    Ok(taken)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = object::list(pod, "status.conditions");
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has() {
        let budget = |allowed: i64| {
            json!({"metadata": {"name": "b", "generation": 1}, "status": {
                "observedGeneration": 1, "disruptionsAllowed": allowed,
                "currentHealthy": 3, "desiredHealthy": 2}})
        };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let pod = json!({"metadata": {"name": "p"}, "status": {"conditions": ready}});
        let taken = take(&budget(1), &pod).unwrap();
        assert_eq!(taken["status"]["disruptionsAllowed"], 0);
        assert!(taken["status"]["disruptedPods"]["p"].is_string());
        let refused = take(&budget(0), &pod).unwrap_err();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert_eq!(
            refused.details.causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
        let unready = json!({"metadata": {"name": "p"}, "status": {}});
        assert_eq!(take(&budget(0), &unready).unwrap(), budget(0), "it is not missed");
        let mut unseen = budget(1);
        unseen["metadata"]["generation"] = 2.into();
        assert_eq!(take(&unseen, &pod).unwrap_err().code, 429);
    }
}
