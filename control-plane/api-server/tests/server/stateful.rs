//! StatefulSets with kubectl, on hollow nodes.

use crate::common::hollow::Hollow;
use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, until};
use serde_json::Value;

with_each_kubectl!(a_stateful_set_is_rolled_out_in_order_scaled_and_taken_back);

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const PODS: &str = "/api/v1/namespaces/default/pods";

const WEB: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 3
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: 'run:1'}]
";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn a_stateful_set_is_rolled_out_in_order_scaled_and_taken_back(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;
    let rolled_out = || {
        // Kubernetes' own message, however many pods were moved.
        let said = kubectl.run("rollout status statefulset/web --timeout=120s");
        assert!(said.contains("complete"), "{said}");
    };
    let images = || kubectl.run("get pods -o jsonpath={.items[*].spec.containers[0].image}");

    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", WEB)));
    rolled_out();
    let pods = client.get(PODS).await.1;
    assert_eq!(names(&pods), ["web-0", "web-1", "web-2"]);
    let created = |index: usize| pods["items"][index]["status"]["startTime"].as_str().unwrap();
    assert!(created(0) <= created(1) && created(1) <= created(2), "in order");
    let first = &pods["items"][0];
    let labels = &first["metadata"]["labels"];
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(
        (&first["spec"]["hostname"], &first["spec"]["subdomain"]),
        (&"web-0".into(), &"web".into())
    );
    let table = kubectl.run("get sts -o wide");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[..2].to_vec(), &row[3..]), (vec!["web", "3/3"], &["c", "run:1"][..]));

    // A pod that is lost comes back by its name, and is another.
    kubectl.run("delete pod web-1 --wait=false");
    let uid = pods["items"][1]["metadata"]["uid"].clone();
    until(&mut client, &format!("{PODS}/web-1"), |pod| {
        pod["metadata"]["uid"] != uid && pod["status"]["phase"] == "Running"
    })
    .await;

    // The highest ordinal first, down to the partition.
    kubectl
        .run(r#"patch sts web -p {"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}"#);
    kubectl.run("set image statefulset/web c=run:2");
    let said = kubectl.run("rollout status statefulset/web --timeout=120s");
    assert!(said.contains("partitioned roll out complete: 1 new pods"), "{said}");
    assert_eq!(images(), "run:1 run:1 run:2");
    kubectl
        .run(r#"patch sts web -p {"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#);
    until(&mut client, &format!("{SETS}/web"), |set| {
        set["status"]["currentRevision"] == set["status"]["updateRevision"]
            && set["status"]["readyReplicas"] == 3
    })
    .await;
    assert_eq!(images(), "run:2 run:2 run:2");

    let history = kubectl.run("rollout history statefulset/web");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let shown = kubectl.run("rollout history statefulset/web --revision=1");
    assert!(shown.contains("run:1"), "{shown}");
    kubectl.run("rollout undo statefulset/web");
    rolled_out();
    assert_eq!(images(), "run:1 run:1 run:1");
    let history = kubectl.run("rollout history statefulset/web");
    assert!(!history.contains("\n1 ") && history.contains("\n3 "), "{history}");
    let revisions = kubectl.run("get controllerrevisions");
    assert!(revisions.contains("statefulset.apps/web   3"), "{revisions}");
    kubectl.run("rollout restart statefulset/web");
    rolled_out();

    kubectl.run("scale statefulset/web --replicas=1");
    until(&mut client, PODS, |pods| names(pods) == ["web-0"]).await;
    let described = kubectl.run("describe statefulset web");
    for event in ["create Pod web-2 in StatefulSet web successful", "delete Pod web-1 in"] {
        assert!(described.contains(event), "{described}");
    }
    let refused = kubectl.output(&["patch", "sts", "web", "-p", r#"{"spec":{"serviceName":"x"}}"#]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("updates to statefulset spec for fields other than"), "{stderr}");

    kubectl.run("delete statefulset web --timeout=120s");
    until(&mut client, PODS, |pods| names(pods).is_empty()).await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    until(&mut client, revisions, |revisions| names(revisions).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sets_claims_are_made_with_its_pods_and_go_as_it_says() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let set = WEB.replace(
        "replicas: 3",
        "replicas: 2
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}",
    );
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", &set)));
    until(&mut client, PODS, |pods| names(pods) == ["web-0", "web-1"]).await;
    let claims = client.get(CLAIMS).await.1;
    assert_eq!(names(&claims), ["data-web-0", "data-web-1"]);
    assert_eq!(claims["items"][0]["metadata"]["labels"]["app"], "web");
    assert_eq!(claims["items"][0]["metadata"].get("ownerReferences"), None);
    let pod = client.get(&format!("{PODS}/web-1")).await.1;
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "data").unwrap();
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], "data-web-1");
    // Nothing provides volumes here, and that is told.
    let path = format!("{PODS}/web-1");
    let waits = until(&mut client, &path, |pod| pod["status"]["conditions"].is_array()).await;
    let conditions = waits["status"]["conditions"].to_string();
    assert!(conditions.contains("persistentVolumeClaim"), "{conditions}");

    kubectl.run("scale statefulset/web --replicas=1");
    until(&mut client, CLAIMS, |claims| names(claims) == ["data-web-0"]).await;
    let policy = r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete"}}}"#;
    kubectl.run(&format!("patch sts web -p {policy}"));
    until(&mut client, &format!("{CLAIMS}/data-web-0"), |claim| {
        claim["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet"
    })
    .await;
    kubectl.run("delete statefulset web --timeout=120s");
    until(&mut client, CLAIMS, |claims| names(claims).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parallel_set_is_made_at_once_adopts_and_waits_for_no_one() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let mut orphan = crate::common::pod("web-5", "1Mi");
    orphan["metadata"]["labels"] = serde_json::json!({"app": "web"});
    orphan["spec"]["containers"][0]["image"] = "stuck:0".into();
    client.ok("POST", PODS, &orphan).await;
    let stuck = WEB
        .replace(
            "replicas: 3",
            "replicas: 3\n  podManagementPolicy: Parallel\n  ordinals: {start: 4}",
        )
        .replace("run:1", "stuck:1");
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", &stuck)));
    until(&mut client, PODS, |pods| names(pods) == ["web-4", "web-5", "web-6"]).await;
    // What was there before has another template: it is replaced.
    let set = format!("{SETS}/web");
    let all_new = until(&mut client, &set, |set| set["status"]["updatedReplicas"] == 3).await;
    assert_eq!(all_new["status"].get("readyReplicas"), None, "{all_new}");
    // What never became ready keeps no update from it.
    kubectl.run("set image statefulset/web c=run:2");
    kubectl.run("rollout status statefulset/web --timeout=120s");
    let adopted = client.get(&format!("{PODS}/web-5")).await.1;
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");

    let on_delete = r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#;
    kubectl.run(&format!("patch sts web -p {on_delete}"));
    kubectl.run("set image statefulset/web c=run:3");
    until(&mut client, &set, |set| {
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && set["status"]["updateRevision"] != set["status"]["currentRevision"]
    })
    .await;
    kubectl.run("delete pod web-4 --wait=false");
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"] == "run:3";
    until(&mut client, &format!("{PODS}/web-4"), image).await;
    assert!(!image(&client.get(&format!("{PODS}/web-5")).await.1), "until it is deleted");
}
