//! Where Services lead, with kubectl, on hollow nodes.

use std::collections::BTreeSet;

use crate::common::hollow::Hollow;
use crate::common::kubectl::Kubectl;
use crate::common::{Client, Cluster, until};
use serde_json::{Value, json};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/web";
const PODS: &str = "/api/v1/namespaces/default/pods";

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 3
  serviceName: web
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: 'run:1', ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {team: a}}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: web, port: 80, targetPort: http}, {name: other, port: 9090}]
";

/// The slices of the Service `web`.
fn of_web(slices: &Value) -> Vec<&Value> {
    let slices = slices["items"].as_array().unwrap().iter();
    let name = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"].clone();
    slices.filter(|slice| name(slice) == "web").collect()
}

/// The endpoints of the Service `web` in all its slices.
fn all(slices: &Value) -> Vec<&Value> {
    let mine = of_web(slices).into_iter();
    mine.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten()).collect()
}

fn ready(slices: &Value) -> usize {
    all(slices).iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

fn addresses<'a>(endpoints: &'a Value, list: &str) -> Vec<&'a str> {
    let addresses = endpoints["subsets"][0][list].as_array().into_iter().flatten();
    addresses.map(|address| address["ip"].as_str().unwrap()).collect()
}

async fn set_ready(client: &mut Client, pod: &str, ready: &str) {
    let condition = json!({"type": "Ready", "status": ready});
    let status = json!({"status": {"conditions": [condition]}});
    let path = format!("{PODS}/{pod}/status");
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(client.typed("PATCH", &path, strategic, &status).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_leads_to_the_pods_that_it_selects() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run("label node n1 topology.kubernetes.io/zone=z");
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", SET)));

    // Who makes the slices may hear of the node's label after the pods, and of these after the
    // Service: then the slice that was made when there were none goes when theirs has come.
    let zoned = |slices: &Value| all(slices).iter().all(|endpoint| endpoint["zone"] == "z");
    let whole = |slices: &Value| of_web(slices).len() == 1 && ready(slices) == 3 && zoned(slices);
    let slices = until(&mut client, SLICES, whole).await;
    let names: BTreeSet<_> =
        all(&slices).iter().map(|one| one["hostname"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"].map(str::to_owned).into());
    let one = all(&slices)[0];
    assert_eq!(one["nodeName"], "n1");
    let slice = of_web(&slices)[0];
    assert_eq!(slice["ports"][0], json!({"name": "web", "port": 8080, "protocol": "TCP"}));
    assert_eq!(slice["ports"][1], json!({"name": "other", "port": 9090, "protocol": "TCP"}));
    assert_eq!(slice["metadata"]["labels"]["team"], "a");
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
    let whole = until(&mut client, ENDPOINTS, |one| addresses(one, "addresses").len() == 3).await;
    assert_eq!(whole["subsets"][0]["ports"].as_array().unwrap().len(), 2);
    let described = kubectl.run("describe service web");
    assert!(
        described.contains(&format!("{}:8080", addresses(&whole, "addresses")[0])),
        "{described}"
    );

    // What is not ready is told, and gets nothing.
    set_ready(&mut client, "web-1", "False").await;
    until(&mut client, SLICES, |slices| ready(slices) == 2 && all(slices).len() == 3).await;
    until(&mut client, ENDPOINTS, |one| addresses(one, "notReadyAddresses").len() == 1).await;
    kubectl.run(r#"patch service web -p {"spec":{"publishNotReadyAddresses":true}}"#);
    until(&mut client, SLICES, |slices| ready(slices) == 3).await;
    until(&mut client, ENDPOINTS, |one| addresses(one, "addresses").len() == 3).await;
    kubectl.run(r#"patch service web -p {"spec":{"publishNotReadyAddresses":false}}"#);
    set_ready(&mut client, "web-1", "True").await;

    // Pods go, selectors change, Services are deleted.
    kubectl.run("scale statefulset web --replicas=1");
    until(&mut client, SLICES, |slices| all(slices).len() == 1 && ready(slices) == 1).await;
    kubectl.run(r#"patch service web -p {"spec":{"selector":{"app":"none"}}}"#);
    until(&mut client, SLICES, |slices| all(slices).is_empty()).await;
    until(&mut client, ENDPOINTS, |one| one["subsets"].is_null()).await;
    kubectl.run("label pod web-0 app=none --overwrite");
    until(&mut client, SLICES, |slices| all(slices).len() == 1).await;
    kubectl.run("delete service web");
    until(&mut client, ENDPOINTS, |answer| answer["code"] == 404).await;
    let gone = |slices: &Value| slices["items"].as_array().unwrap().len() == 1;
    let left = until(&mut client, SLICES, gone).await;
    assert_eq!(left["items"][0]["metadata"]["name"], "kubernetes", "that of the API server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_serves_to_the_end_and_budgets_know_stateful_sets() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", SET)));
    until(&mut client, SLICES, |slices| ready(slices) == 3).await;
    kubectl.run("create poddisruptionbudget web --selector=app=web --max-unavailable=1");
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    let seen = until(&mut client, budget, |one| one["status"]["expectedPods"] == 3).await;
    assert_eq!(seen["status"]["disruptionsAllowed"], 1);
    // Nobody reports that it is gone.
    drop(nodes);
    kubectl.run("delete pod web-2 --wait=false");
    let going = until(&mut client, SLICES, |slices| ready(slices) == 2).await;
    let conditions = all(&going).into_iter().map(|one| &one["conditions"]);
    let mut ending = conditions.filter(|one| one["terminating"] == true);
    assert_eq!(ending.next().unwrap()["serving"], true);
    until(&mut client, ENDPOINTS, |one| addresses(one, "addresses").len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_a_user_makes_are_mirrored_into_slices() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let mut client = cluster.admin().await;
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: web, labels: {team: a}}
subsets:
- addresses: [{ip: 192.0.2.1}]
  notReadyAddresses: [{ip: 192.0.2.2}]
  ports: [{port: 8080}]
";
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", text)));
    let slices = until(&mut client, SLICES, |slices| all(slices).len() == 2).await;
    assert_eq!(ready(&slices), 1);
    let slice = of_web(&slices)[0];
    let labels = &slice["metadata"]["labels"];
    let manager = "endpointslicemirroring-controller.k8s.io";
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], manager);
    assert_eq!(labels["team"], "a");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    assert_eq!(slice["ports"][0], json!({"name": "", "port": 8080, "protocol": "TCP"}));

    // It follows, as a change of the same slice, which is not written again after that.
    let more = r#"{"subsets":[{"addresses":[{"ip":"192.0.2.1"},{"ip":"192.0.2.3"}],"ports":[{"port":8080}]}]}"#;
    kubectl.run(&format!("patch endpoints web -p {more}"));
    let changed = until(&mut client, SLICES, |slices| ready(slices) == 2).await;
    assert_eq!(of_web(&changed)[0]["metadata"]["uid"], slice["metadata"]["uid"]);
    kubectl.run("label endpoints web endpointslice.kubernetes.io/skip-mirror=true");
    until(&mut client, SLICES, |slices| of_web(slices).is_empty()).await;
    kubectl.run("label endpoints web endpointslice.kubernetes.io/skip-mirror-");
    let again = until(&mut client, SLICES, |slices| ready(slices) == 2).await;
    let generation = of_web(&again)[0]["metadata"]["generation"].clone();
    kubectl.run("annotate endpoints web note=n");
    let noted = |slices: &Value| of_web(slices)[0]["metadata"]["annotations"]["note"] == "n";
    let noted = until(&mut client, SLICES, noted).await;
    assert_eq!(
        of_web(&noted)[0]["metadata"]["generation"],
        generation,
        "what it says is as it was"
    );

    kubectl.run("delete endpoints web");
    until(&mut client, SLICES, |slices| of_web(slices).is_empty()).await;
}
