//! LimitRanges: what containers get that ask for nothing, and what each object may have.
//! <https://kubernetes.io/docs/concepts/policy/limit-range/>

use bulkhead_client::{Quantity, quota};
use serde_json::{Value, json};

use super::{Api, Place, forbidden};
use crate::api::directory::Table;
use crate::object;
use crate::status::Result;

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

impl Api {
    /// Fills in the defaults of the namespace's LimitRanges, and refuses what is over their limits.
    pub(super) async fn limit(&self, place: &Place, object: &mut Value) -> Result<()> {
        let namespace = place.namespace.as_deref();
        let ranges = self.directory.all(&self.store, Table::LimitRanges, namespace).await?;
        if ranges.is_empty() {
            return Ok(());
        }
        let limits: Vec<&Value> =
            ranges.iter().flat_map(|range| object::list(range, "spec.limits")).collect();
        let mut wrong = Vec::new();
        if place.resource.plural == "pods" {
            fill_in(&limits, object);
            check_pod(&limits, &object["spec"], &mut wrong);
        } else {
            let requests = &object["spec"]["resources"]["requests"];
            let of_claims = limits.iter().filter(|limit| limit["type"] == "PersistentVolumeClaim");
            for limit in of_claims {
                let asked = Asked { kind: "PersistentVolumeClaim", requests, limits: requests };
                asked.at_least(&limit["min"], &mut wrong);
                asked.at_most(&limit["max"], &mut wrong);
            }
            wrong.dedup();
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(place, object, one)),
            several => Err(forbidden(place, object, &format!("[{}]", several.join(", ")))),
        }
    }
}

/// Gives containers the defaults of what they do not say.
fn fill_in(limits: &[&Value], pod: &mut Value) {
    let defaults: Vec<_> = limits.iter().filter(|limit| limit["type"] == "Container").collect();
    let mut told = Vec::new();
    for list in CONTAINERS {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|one| one.is_object()) {
            for (to, from, word) in
                [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
            {
                let mut set = Vec::new();
                for (name, value) in
                    defaults.iter().flat_map(|one| one[from].as_object().into_iter().flatten())
                {
                    let Some(resources) = object::map(container, "resources") else { continue };
                    let list = resources.entry(to).or_insert_with(|| json!({}));
                    if list.is_object() && list[name].is_null() {
                        list[name] = value.clone();
                        set.push(name.as_str());
                    }
                }
                if !set.is_empty() {
                    let kind = if list == "containers" { "container" } else { "init container" };
                    let (set, name) = (set.join(", "), object::text(container, "name"));
                    told.push(format!("{set} {word} for {kind} {name}"));
                }
            }
        }
    }
    if !told.is_empty()
        && let Some(annotations) = object::map(&mut pod["metadata"], "annotations")
    {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

fn check_pod(limits: &[&Value], spec: &Value, wrong: &mut Vec<String>) {
    let totals = ["requests", "limits"].map(|list| quota::write(&quota::pod_total(spec, list)));
    for limit in limits {
        let mut check = |asked: &Asked<'_>| {
            asked.at_least(&limit["min"], wrong);
            asked.at_most(&limit["max"], wrong);
            asked.in_ratio(&limit["maxLimitRequestRatio"], wrong);
        };
        match object::text(limit, "type") {
            "Container" => {
                for container in CONTAINERS.iter().flat_map(|list| object::list(spec, list)) {
                    let resources = &container["resources"];
                    let (requests, limits) = (&resources["requests"], &resources["limits"]);
                    check(&Asked { kind: "Container", requests, limits });
                }
            }
            "Pod" => {
                let [requests, limits] = &totals;
                check(&Asked { kind: "Pod", requests, limits });
            }
            _ => {}
        }
    }
}

/// What a container, a pod or a claim asks for.
struct Asked<'a> {
    kind: &'static str,
    requests: &'a Value,
    limits: &'a Value,
}

/// An amount, and how it was written.
fn amount(list: &Value, name: &str) -> Option<(Quantity, String)> {
    let value = &list[name];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Some((Quantity::from_json(value).ok()?, text))
}

impl Asked<'_> {
    fn at_least(&self, bounds: &Value, wrong: &mut Vec<String>) {
        for name in bounds.as_object().into_iter().flatten().map(|(name, _)| name) {
            let Some((least, shown)) = amount(bounds, name) else { continue };
            let rule = format!("minimum {name} usage per {} is {shown}", self.kind);
            match amount(self.requests, name) {
                None => wrong.push(format!("{rule}.  No request is specified")),
                Some((asked, shown)) if asked < least => {
                    wrong.push(format!("{rule}, but request is {shown}"));
                }
                Some(_) => {}
            }
            if let Some((asked, shown)) = amount(self.limits, name)
                && asked < least
                && !std::ptr::eq(self.limits, self.requests)
            {
                wrong.push(format!("{rule}, but limit is {shown}"));
            }
        }
    }

    fn at_most(&self, bounds: &Value, wrong: &mut Vec<String>) {
        for name in bounds.as_object().into_iter().flatten().map(|(name, _)| name) {
            let Some((most, shown)) = amount(bounds, name) else { continue };
            let rule = format!("maximum {name} usage per {} is {shown}", self.kind);
            let word = if std::ptr::eq(self.limits, self.requests) { "request" } else { "limit" };
            match amount(self.limits, name) {
                None => wrong.push(format!("{rule}.  No {word} is specified")),
                Some((asked, shown)) if asked > most => {
                    wrong.push(format!("{rule}, but {word} is {shown}"));
                }
                Some(_) => {}
            }
        }
    }

    fn in_ratio(&self, bounds: &Value, wrong: &mut Vec<String>) {
        for name in bounds.as_object().into_iter().flatten().map(|(name, _)| name) {
            let Some((most, shown)) = amount(bounds, name) else { continue };
            let rule = format!("{name} max limit to request ratio per {} is {shown}", self.kind);
            let positive = |list| amount(list, name).filter(|(amount, _)| !amount.is_zero());
            let (Some((request, _)), Some((limit, _))) =
                (positive(self.requests), positive(self.limits))
            else {
                let word = if positive(self.requests).is_none() { "request" } else { "limit" };
                wrong.push(format!("{rule}, but no {word} is specified or {word} is 0"));
                continue;
            };
            // Exact: the limit is over so many times the request.
            if limit > request.times(most) {
                let ratio = limit.ratio_to(request);
                wrong.push(format!("{rule}, but provided ratio is {ratio:.6}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_are_filled_in() {
        let limit = json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "500m"}});
        let mut pod = pod(json!({"limits": {"cpu": "2"}}));
        fill_in(&[&limit], &mut pod);
        let expected =
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
        assert_eq!(pod["spec"]["containers"][0]["resources"], expected);
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[test]
    fn what_is_over_a_limit_is_told() {
        let wrong = |limit: Value, resources: Value| {
            let mut wrong = Vec::new();
            check_pod(&[&limit], &pod(resources)["spec"], &mut wrong);
            wrong
        };
        let container = json!({"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"},
            "maxLimitRequestRatio": {"cpu": "2"}});
        let good = json!({"requests": {"cpu": "500m", "memory": "2Mi"}, "limits": {"cpu": "1"}});
        assert_eq!(wrong(container.clone(), good), Vec::<String>::new());
        let bad = json!({"requests": {"cpu": "500m", "memory": "1Ki"}, "limits": {"cpu": "2"}});
        let expected = [
            "minimum memory usage per Container is 1Mi, but request is 1Ki",
            "maximum cpu usage per Container is 1, but limit is 2",
            "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
        ];
        assert_eq!(wrong(container, bad), expected);
        let whole = json!({"type": "Pod", "max": {"memory": "1Mi"}});
        let expected = ["maximum memory usage per Pod is 1Mi.  No limit is specified"];
        assert_eq!(wrong(whole.clone(), json!({})), expected);
        let expected = ["maximum memory usage per Pod is 1Mi, but limit is 2Mi"];
        assert_eq!(wrong(whole, json!({"limits": {"memory": "2Mi"}})), expected);
    }
}
