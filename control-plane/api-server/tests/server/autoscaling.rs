//! HorizontalPodAutoscalers with kubectl, on hollow nodes, which measure nothing.

use crate::common::hollow::Hollow;
use crate::common::kubectl::Kubectl;
use crate::common::{Cluster, until};
use serde_json::{Value, json};

const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";

fn condition<'a>(one: &'a Value, kind: &str) -> &'a Value {
    let conditions = one["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_stay_within_bounds_and_what_is_missing_is_told() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run("create deployment web --image=run:1");
    kubectl.run("rollout status deployment/web --timeout=120s");

    kubectl.run("autoscale deployment web --min=2 --max=4 --cpu=50%");
    let path = format!("{V2}/web");
    until(&mut client, DEPLOYMENT, |one| one["spec"]["replicas"] == 2).await;
    let nudge = |count: usize| kubectl.run(&format!("annotate hpa web nudge={count} --overwrite"));
    nudge(1);
    let inactive = |one: &Value| condition(one, "ScalingActive")["status"] == "False";
    let one = until(&mut client, &path, inactive).await;
    assert_eq!(condition(&one, "ScalingActive")["reason"], "FailedGetResourceMetric", "{one}");
    assert_eq!(one["status"]["desiredReplicas"], 2);
    kubectl.run("scale deployment web --replicas=9");
    nudge(2);
    until(&mut client, DEPLOYMENT, |one| one["spec"]["replicas"] == 4).await;
    let table = kubectl.run("get hpa");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..6], ["web", "Deployment/web", "cpu:", "<unknown>/50%", "2", "4"], "{table}");
    let described = kubectl.run("describe hpa web");
    for said in ["SuccessfulRescale", "New size: 2; reason: Current number of replicas below"] {
        assert!(described.contains(said), "{described}");
    }

    // The old version is another view of the same.
    let old = client.get(&format!("{V1}/web")).await.1;
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
    let changed = json!({"spec": {"targetCPUUtilizationPercentage": 70}});
    let merge = "application/merge-patch+json";
    assert_eq!(client.typed("PATCH", &format!("{V1}/web"), merge, &changed).await.0, 200);
    let new = client.get(&path).await.1;
    let target = &new["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(*target, json!({"type": "Utilization", "averageUtilization": 70}));

    // Metrics of APIs that are not there, and targets that are not.
    let metric = json!([{"type": "External", "external": {
        "metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "5"},
    }}]);
    let changed = json!({"spec": {"metrics": metric}});
    assert_eq!(client.typed("PATCH", &path, merge, &changed).await.0, 200);
    until(&mut client, &path, |one| {
        condition(one, "ScalingActive")["reason"] == "FailedGetExternalMetric"
    })
    .await;
    kubectl.run("scale deployment web --replicas=0");
    nudge(3);
    let off = |one: &Value| condition(one, "ScalingActive")["reason"] == "ScalingDisabled";
    until(&mut client, &path, off).await;
    kubectl.run("delete deployment web");
    nudge(4);
    let lost = |one: &Value| condition(one, "AbleToScale")["reason"] == "FailedGetScale";
    until(&mut client, &path, lost).await;
    let wrong = json!({"metadata": {"name": "x"}, "spec": {"maxReplicas": 0}});
    let (code, answer) = client.json("POST", V2, &wrong).await;
    assert_eq!(code, 422, "{answer}");
}
