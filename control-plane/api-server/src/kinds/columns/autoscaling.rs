//! Columns of HorizontalPodAutoscalers.

use serde_json::Value;

use super::apps::number;
use super::{AGE, NAME, column, integer};
use crate::object::{list, text};
use crate::resource::Column;

/// So many targets are shown; of the others only how many.
const SHOWN: usize = 2;

pub(in crate::kinds) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", |one| {
        let target = &one["spec"]["scaleTargetRef"];
        format!("{}/{}", text(target, "kind"), text(target, "name")).into()
    }),
    column("Targets", |one| targets(one).into()),
    column("MinPods", |one| match one["spec"]["minReplicas"].as_i64() {
        Some(least) => least.to_string().into(),
        None => "<unset>".into(),
    }),
    integer("MaxPods", |one| number(one, "spec.maxReplicas").into()),
    integer("Replicas", |one| number(one, "status.currentReplicas").into()),
    AGE,
];

/// `cpu: 40%/80%, memory: <unknown>/1Gi`.
fn targets(one: &Value) -> String {
    let metrics = list(one, "spec.metrics");
    if metrics.is_empty() {
        return "<none>".into();
    }
    let statuses = list(one, "status.currentMetrics");
    let shown = metrics.iter().enumerate().take(SHOWN).map(|(index, metric)| {
        let (source, name) = source(metric);
        let current = statuses
            .iter()
            .find(|status| self::source(status).1 == name && status["type"] == metric["type"])
            .or_else(|| statuses.get(index).filter(|status| status["type"] == metric["type"]))
            .map(|status| &self::source(status).0["current"]);
        let unknown = || "<unknown>".to_owned();
        let current =
            current.map_or_else(unknown, |current| amount(current).unwrap_or_else(unknown));
        let target = amount(&source["target"]).unwrap_or_else(|| "<auto>".into());
        format!("{name}: {current}/{target}")
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match metrics.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// What a metric is about, and its name.
fn source(metric: &Value) -> (&Value, &str) {
    let field = match text(metric, "type") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    };
    let source = &metric[field];
    let name = source["name"].as_str().unwrap_or_else(|| text(source, "metric.name"));
    (source, name)
}

fn amount(value: &Value) -> Option<String> {
    if let Some(percent) = value["averageUtilization"].as_i64() {
        return Some(format!("{percent}%"));
    }
    let average = value["averageValue"].as_str().filter(|text| !text.is_empty());
    average.or_else(|| value["value"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_are_shown_beside_what_is() {
        let resource = |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
        let metrics = json!([
            resource("cpu", json!({"averageUtilization": 80})),
            resource("memory", json!({"averageValue": "1Gi"})),
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "5"}}},
        ]);
        let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "4m"}}}]);
        let one = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": current}});
        assert_eq!(targets(&one), "cpu: 40%/80%, memory: <unknown>/1Gi + 1 more...");
    }
}
