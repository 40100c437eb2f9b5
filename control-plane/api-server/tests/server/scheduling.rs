//! Scheduling as clients of the API see it: the server with its scheduler, over HTTPS.

use crate::common::{Client, Cluster, add_node, pod, until};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn create(client: &mut Client, pod: &Value) {
    client.ok("POST", PODS, pod).await;
}

/// The node that the pod is bound to, once it is.
async fn node_of(client: &mut Client, name: &str) -> String {
    let path = format!("{PODS}/{name}");
    let bound = until(client, &path, |pod| pod["spec"]["nodeName"].is_string()).await;
    bound["spec"]["nodeName"].as_str().unwrap().to_owned()
}

/// The pod's `PodScheduled` condition, once it says why it waits.
async fn waiting(client: &mut Client, name: &str) -> Value {
    let condition = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False")
    };
    let found = until(client, &format!("{PODS}/{name}"), |pod| condition(pod).is_some()).await;
    condition(&found).unwrap()
}

#[tokio::test]
async fn pods_keep_apart_and_share_no_port() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    for name in ["n1", "n2"] {
        add_node(&mut client, name, 1).await;
        let labels = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}});
        let path = format!("/api/v1/nodes/{name}");
        client.typed("PATCH", &path, "application/merge-patch+json", &labels).await;
    }
    let apart = |name: &str| {
        let term = json!({"labelSelector": {"matchLabels": {"set": "a"}},
            "topologyKey": "kubernetes.io/hostname"});
        let mut pod = pod(name, "1Mi");
        pod["metadata"]["labels"]["set"] = "a".into();
        pod["spec"]["affinity"] = json!({"podAntiAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod
    };
    for name in ["a1", "a2", "a3"] {
        create(&mut client, &apart(name)).await;
    }
    let (first, second) = (node_of(&mut client, "a1").await, node_of(&mut client, "a2").await);
    assert_ne!(first, second);
    let why = waiting(&mut client, "a3").await;
    assert_eq!(
        (&why["reason"], &why["message"]),
        (
            &json!("Unschedulable"),
            &json!(
                "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules. \
                 preemption: 0/2 nodes are available: 2 No preemption victims found for incoming \
                 pod."
            )
        )
    );
    for name in ["p1", "p2", "p3"] {
        let mut pod = pod(name, "1Mi");
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
        create(&mut client, &pod).await;
    }
    let (first, second) = (node_of(&mut client, "p1").await, node_of(&mut client, "p2").await);
    assert_ne!(first, second);
    let why = waiting(&mut client, "p3").await;
    let message = why["message"].as_str().unwrap();
    let expected =
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert!(message.starts_with(expected), "{message}");
    // Room that is given back is taken.
    let now = json!({"gracePeriodSeconds": 0});
    client.ok("DELETE", &format!("{PODS}/a1"), &now).await;
    client.ok("DELETE", &format!("{PODS}/p1"), &now).await;
    node_of(&mut client, "a3").await;
    assert_eq!(node_of(&mut client, "p3").await, first);
}

#[tokio::test]
async fn the_more_important_pod_takes_the_place_of_another() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    add_node(&mut client, "n1", 1).await;
    for (name, value, policy) in [("modest", 2000, "Never"), ("high", 1000, "PreemptLowerPriority")]
    {
        let class = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
        client.ok("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await;
    }
    create(&mut client, &pod("low", "800Mi")).await;
    node_of(&mut client, "low").await;
    // Of another scheduler's pods this one keeps its hands.
    let mut others = pod("others", "1Mi");
    others["spec"]["schedulerName"] = "other".into();
    create(&mut client, &others).await;
    let mut modest = pod("modest", "800Mi");
    modest["spec"]["priorityClassName"] = "modest".into();
    create(&mut client, &modest).await;
    let why = waiting(&mut client, "modest").await;
    let message = why["message"].as_str().unwrap();
    let expected = "0/1 nodes are available: 1 Insufficient memory. preemption: not eligible due \
                    to preemptionPolicy=Never.";
    assert_eq!(message, expected);
    client.ok("DELETE", &format!("{PODS}/modest"), &json!({"gracePeriodSeconds": 0})).await;

    let mut high = pod("high", "800Mi");
    high["spec"]["priorityClassName"] = "high".into();
    create(&mut client, &high).await;
    let is_ending = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    let low = until(&mut client, &format!("{PODS}/low"), is_ending).await;
    assert_eq!(low["metadata"]["deletionGracePeriodSeconds"], 30, "it gets its time to end");
    let target = low["status"]["conditions"].as_array().unwrap();
    let target = target.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "PreemptionByScheduler");
    let is_nominated = |pod: &Value| pod["status"]["nominatedNodeName"] == "n1";
    until(&mut client, &format!("{PODS}/high"), is_nominated).await;
    let events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dlow,reason%3DPreempted";
    until(&mut client, events, |list| !list["items"].as_array().unwrap().is_empty()).await;
    // Its host says that it has ended.
    client.ok("DELETE", &format!("{PODS}/low"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(node_of(&mut client, "high").await, "n1");
    let (_, others) = client.get(&format!("{PODS}/others")).await;
    assert!(others["spec"]["nodeName"].is_null() && others["status"]["conditions"].is_null());
}

#[tokio::test]
async fn a_gated_pod_waits_for_its_gates() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    add_node(&mut client, "n1", 1).await;
    let mut gated = pod("gated", "1Mi");
    gated["spec"]["schedulingGates"] =
        json!([{"name": "example.com/a"}, {"name": "example.com/b"}]);
    create(&mut client, &gated).await;
    let why = waiting(&mut client, "gated").await;
    assert_eq!(why["reason"], "SchedulingGated");
    assert_eq!(why["message"], "Scheduling is blocked due to non-empty scheduling gates");
    // Who comes later is scheduled meanwhile.
    create(&mut client, &pod("free", "1Mi")).await;
    node_of(&mut client, "free").await;
    let path = format!("{PODS}/gated");
    let mut patch = async |gates: Value| {
        let patch = json!({"spec": {"schedulingGates": gates}});
        client.typed("PATCH", &path, "application/merge-patch+json", &patch).await
    };
    let (code, refused) = patch(json!([{"name": "example.com/c"}])).await;
    assert_eq!(code, 422, "gates are only taken away: {refused}");
    let (code, one_left) = patch(json!([{"name": "example.com/b"}])).await;
    assert_eq!((code, &one_left["spec"]["nodeName"]), (200, &Value::Null));
    assert_eq!(patch(json!([])).await.0, 200);
    assert_eq!(node_of(&mut client, "gated").await, "n1");
}
