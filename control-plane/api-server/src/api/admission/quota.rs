//! ResourceQuotas: what is created is charged to those that cover it, before it is written. What is
//! deleted is taken off by the controller that counts what there is.
//!
//! Those who wait for the same quota are charged together, in one write: a namespace with a quota
//! takes pods as fast as one without.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_client::quota::{self, Usage};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Api, Place, forbidden};
use crate::api::directory::Table;
use crate::api::update::Target;
use crate::object;
use crate::options::{ReadOptions, WriteOptions};
use crate::status::{Result, Status};

/// What was charged for an object, by quota; to be given back if it is not written.
#[derive(Debug, Default)]
#[must_use = "refund them if the object is not written"]
pub(in crate::api) struct Charges(Vec<(String, Usage)>);

/// Those who wait to be charged, by the quota's `namespace/name`.
#[derive(Debug, Default)]
pub(in crate::api) struct Ledger {
    waiting: Mutex<HashMap<String, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    /// Whoever holds it charges all that wait.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Request {
    usage: Usage,
    /// Told why it is refused, if it is.
    answer: oneshot::Sender<std::result::Result<(), String>>,
}

impl Api {
    /// Charges `object`, which replaces `current`, to the quotas that cover it.
    ///
    /// # Errors
    /// `Forbidden` if a quota has not that much left, or wants to know more of the object.
    pub(in crate::api) async fn charge(
        &self,
        place: &Place,
        current: Option<&Value>,
        object: &Value,
        dry_run: bool,
    ) -> Result<Charges> {
        let Some(namespace) = place.namespace.as_deref() else { return Ok(Charges::default()) };
        let quotas =
            self.directory.all(&self.store, Table::ResourceQuotas, Some(namespace)).await?;
        let mut charges = Charges::default();
        let (group, plural) = (place.resource.group, place.resource.plural);
        for quota in quotas.iter().filter(|quota| quota::covers(quota, group, plural, object)) {
            let mut usage = quota::limited_by(quota, quota::usage(group, plural, object));
            if let Some(current) = current.filter(|one| quota::covers(quota, group, plural, one)) {
                for (name, before) in quota::usage(group, plural, current) {
                    usage.entry(name).and_modify(|amount| *amount = amount.minus(before));
                }
            }
            usage.retain(|_, amount| !amount.is_zero());
            let charged = async {
                if (group, plural) == ("", "pods") && current.is_none() {
                    says_all(quota, &object["spec"])?;
                }
                if usage.is_empty() {
                    return Ok(Ok(()));
                }
                self.charge_one(namespace, object::name(quota), &usage, dry_run).await
            };
            let refused = match charged.await {
                Ok(Ok(())) => {
                    if !dry_run && !usage.is_empty() {
                        charges.0.push((object::name(quota).into(), usage));
                    }
                    continue;
                }
                Ok(Err(why)) | Err(Refused::Why(why)) => forbidden(place, object, &why),
                Err(Refused::Failed(status)) => status,
            };
            self.refund(place, charges).await;
            return Err(refused);
        }
        Ok(charges)
    }

    /// Gives back what was charged for an object that is not written after all.
    pub(in crate::api) async fn refund(&self, place: &Place, charges: Charges) {
        for (name, usage) in charges.0 {
            let give_back = |quota: &Value| {
                let mut quota = quota.clone();
                let mut used = quota::read(&quota["status"]["used"]);
                for (name, amount) in &usage {
                    used.entry(name.clone()).and_modify(|used| *used = used.minus(*amount));
                }
                quota["status"]["used"] = quota::write(&used);
                Ok(quota)
            };
            if let Err(error) =
                self.change_quota(place.namespace.as_deref(), &name, false, give_back).await
            {
                // The controller counts anew.
                tracing::warn!(quota = name, %error, "giving back what was charged");
            }
        }
    }

    /// Boxed, as a change of an object may charge quotas, which changes those.
    fn change_quota<'a>(
        &'a self,
        namespace: Option<&'a str>,
        name: &'a str,
        dry_run: bool,
        change: impl FnMut(&Value) -> Result<Value> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<Value>> + Send + 'a>> {
        Box::pin(async move {
            let resource = self.registry.find("", "v1", "resourcequotas");
            let place = Place::new(&resource.ok_or_else(Status::no_such_resource)?, namespace);
            let options = WriteOptions { dry_run, ..WriteOptions::default() };
            self.modify(&place, name, Target::Status, &options, change).await
        })
    }

    /// Charges one quota; the inner error says why it refuses.
    async fn charge_one(
        &self,
        namespace: &str,
        name: &str,
        usage: &Usage,
        dry_run: bool,
    ) -> std::result::Result<std::result::Result<(), String>, Refused> {
        if dry_run {
            let mut refusals = Vec::new();
            let asked = [usage];
            let check = |quota: &Value| {
                refusals = take(&mut quota.clone(), &asked);
                Ok(quota.clone())
            };
            self.change_quota(Some(namespace), name, true, check).await?;
            return Ok(refusals.into_iter().next().flatten().map_or(Ok(()), Err));
        }
        let key = object::key_of(Some(namespace), name);
        let (answer, mut answered) = oneshot::channel();
        let turn = {
            let mut waiting = self.ledger.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = waiting.entry(key.clone()).or_default();
            waiting.requests.push(Request { usage: usage.clone(), answer });
            Arc::clone(&waiting.turn)
        };
        let own = turn.lock().await;
        if let Ok(answer) = answered.try_recv() {
            // Somebody before charged it along.
            return Ok(answer);
        }
        let requests = {
            let mut waiting = self.ledger.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.get_mut(&key).map(|one| std::mem::take(&mut one.requests)).unwrap_or_default()
        };
        // Whoever gave up waiting is not charged.
        let requests: Vec<Request> =
            requests.into_iter().filter(|request| !request.answer.is_closed()).collect();
        let result = self.charge_all(namespace, name, requests).await;
        drop(own);
        self.forget_idle(&key);
        result?;
        answered.try_recv().map_err(|_| Refused::Failed(Status::internal("the quota is gone")))
    }

    /// Takes the key of a quota for which nobody waits out of the ledger.
    fn forget_idle(&self, key: &str) {
        let mut waiting = self.ledger.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |one: &Waiting| one.requests.is_empty() && Arc::strong_count(&one.turn) <= 2;
        if waiting.get(key).is_some_and(is_idle) {
            waiting.remove(key);
        }
    }

    /// Charges the quota for as many of the requests as it has room for, and answers each.
    async fn charge_all(
        &self,
        namespace: &str,
        name: &str,
        requests: Vec<Request>,
    ) -> std::result::Result<(), Refused> {
        self.count_if_unknown(namespace, name).await?;
        let usages: Vec<&Usage> = requests.iter().map(|request| &request.usage).collect();
        let mut refusals = Vec::new();
        let charge = |quota: &Value| {
            let mut quota = quota.clone();
            refusals = take(&mut quota, &usages);
            Ok(quota)
        };
        match self.change_quota(Some(namespace), name, false, charge).await {
            Ok(_) => {}
            // It limits nothing any more.
            Err(error) if error.code == 404 => refusals = vec![None; requests.len()],
            Err(error) => return Err(error.into()),
        }
        for (request, refusal) in requests.into_iter().zip(refusals) {
            // Who is not there any more is not told; the controller counts anew.
            let _ = request.answer.send(refusal.map_or(Ok(()), Err));
        }
        Ok(())
    }

    /// Counts what there is, if nobody has since the quota was made or changed.
    async fn count_if_unknown(&self, namespace: &str, name: &str) -> Result<()> {
        let resource = self.registry.find("", "v1", "resourcequotas");
        let resource = resource.ok_or_else(Status::no_such_resource)?;
        let quota = match self.get(&Place::new(&resource, Some(namespace)), name).await {
            Err(error) if error.code == 404 => return Ok(()),
            other => other?,
        };
        if is_counted(&quota) {
            return Ok(());
        }
        let mut found = Vec::new();
        for (group, plural) in quota::resources_of(&quota) {
            let resource = self.registry.iter().find(|one| {
                one.group == group && one.plural == plural && one.namespaced && one.is_stored()
            });
            let Some(resource) = resource else { continue };
            let place = Place::new(&resource, Some(namespace));
            let items = self.list(&place, &ReadOptions::default()).await?.items;
            found.extend(items.into_iter().map(|item| (group, plural, item)));
        }
        let objects = found.iter().map(|(group, plural, item)| (*group, *plural, item));
        let used = quota::write(&quota::total(&quota, objects));
        let set = |quota: &Value| {
            let mut counted = quota.clone();
            if !is_counted(quota) {
                counted["status"] = json!({"hard": quota["spec"]["hard"], "used": used});
            }
            Ok(counted)
        };
        self.change_quota(Some(namespace), name, false, set).await.map(drop)
    }
}

/// Why nothing was charged.
enum Refused {
    /// The quota does not allow it.
    Why(String),
    /// It could not be asked.
    Failed(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// Whether it is known how much is used of all that the quota limits.
fn is_counted(quota: &Value) -> bool {
    let mut names = quota["spec"]["hard"].as_object().into_iter().flatten();
    names.all(|(name, _)| !quota["status"]["used"][name].is_null())
}

/// Adds to what is used as many of `usages` as there is room for; says of each why there is none.
fn take(quota: &mut Value, usages: &[&Usage]) -> Vec<Option<String>> {
    let hard = quota::read(&quota["spec"]["hard"]);
    let mut used = quota::read(&quota["status"]["used"]);
    let mut refusals = Vec::new();
    for usage in usages {
        let mut more = used.clone();
        quota::add(&mut more, usage);
        let over: Usage = usage
            .iter()
            .filter(|(name, _)| hard.get(*name).is_some_and(|hard| more[*name] > *hard))
            .map(|(name, amount)| (name.clone(), *amount))
            .collect();
        if over.is_empty() {
            used = more;
            refusals.push(None);
            continue;
        }
        let show = |amounts: &Usage| {
            let shown = quota::write(amounts);
            let each =
                over.keys().map(|name| format!("{name}={}", shown[name].as_str().unwrap_or("0")));
            each.collect::<Vec<_>>().join(",")
        };
        refusals.push(Some(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            object::name(quota),
            show(&over),
            show(&used),
            show(&hard)
        )));
    }
    let status = &mut quota["status"];
    status["hard"] = quota::write(&hard);
    status["used"] = quota::write(&used);
    refusals
}

/// Refuses a pod whose containers do not say how much they want of what the quota limits.
fn says_all(quota: &Value, spec: &Value) -> std::result::Result<(), Refused> {
    let mut missing = Vec::new();
    for name in ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"]
    {
        if quota["spec"]["hard"][name].is_null() {
            continue;
        }
        let (list, resource) = name.split_once('.').unwrap_or(("requests", name));
        if !spec["resources"][list][resource].is_null() {
            continue;
        }
        let containers = ["containers", "initContainers"].iter();
        let silent: Vec<&str> = containers
            .flat_map(|list| object::list(spec, list))
            .filter(|container| container["resources"][list][resource].is_null())
            .map(|container| object::text(container, "name"))
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let (name, missing) = (object::name(quota), missing.join("; "));
    Err(Refused::Why(format!("failed quota: {name}: must specify {missing}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_gives_what_it_has() {
        let mut quota = json!({"metadata": {"name": "q"},
            "spec": {"hard": {"pods": "2", "requests.memory": "1Gi"}},
            "status": {"used": {"pods": "0", "requests.memory": "512Mi"}}});
        let small = quota::read(&json!({"pods": "1", "requests.memory": "256Mi"}));
        let large = quota::read(&json!({"pods": "1", "requests.memory": "512Mi"}));
        let refusals = take(&mut quota, &[&small, &large, &small, &small]);
        let room = "exceeded quota: q, requested: requests.memory=512Mi, used: \
                    requests.memory=768Mi, limited: requests.memory=1Gi";
        let count = "exceeded quota: q, requested: pods=1,requests.memory=256Mi, used: \
                     pods=2,requests.memory=1Gi, limited: pods=2,requests.memory=1Gi";
        assert_eq!(refusals, [None, Some(room.into()), None, Some(count.into())]);
        assert_eq!(quota["status"]["used"], json!({"pods": "2", "requests.memory": "1Gi"}));
    }

    #[test]
    fn a_quota_wants_to_know() {
        let quota =
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.cpu": 1, "memory": 1}}});
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1"}}}]});
        let Err(Refused::Why(why)) = says_all(&quota, &spec) else { panic!("it is refused") };
        assert_eq!(why, "failed quota: q: must specify limits.cpu for: a; memory for: b");
    }
}
