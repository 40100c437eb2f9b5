//! Workloads with kubectl, on hollow nodes.

mod common;

use common::hollow::Hollow;
use common::kubectl::Kubectl;
use common::{Cluster, until};
use serde_json::Value;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: 'run:1'}]
";

fn count(list: &Value) -> usize {
    list["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_scaled_and_taken_back() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;

    let file = kubectl.file("web.yaml", WEB);
    assert_eq!(kubectl.run(&format!("apply -f {file}")), "deployment.apps/web created\n");
    let rolled = kubectl.run("rollout status deployment/web --timeout=30s");
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    let table = kubectl.run("get deployments -o wide");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["web", "4/4", "4", "4"], "{table}");
    assert_eq!(row[5..], ["c", "run:1", "app=web"], "{table}");
    let sets = kubectl.run("get rs");
    assert!(sets.contains("DESIRED   CURRENT   READY"), "{sets}");

    kubectl.run("set image deployment/web c=run:2");
    kubectl.run("rollout status deployment/web --timeout=30s");
    let history = kubectl.run("rollout history deployment/web");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let shown = kubectl.run("rollout history deployment/web --revision=1");
    assert!(shown.contains("run:1"), "{shown}");
    kubectl.run("rollout undo deployment/web");
    kubectl.run("rollout status deployment/web --timeout=30s");
    let images =
        kubectl.run("get pods -l app=web -o jsonpath={.items[*].spec.containers[0].image}");
    assert_eq!(images, "run:1 run:1 run:1 run:1");
    let history = kubectl.run("rollout history deployment/web");
    assert!(!history.contains("\n1 ") && history.contains("\n3 "), "{history}");

    kubectl.run("scale deployment/web --replicas=6");
    kubectl.run("rollout status deployment/web --timeout=30s");
    assert_eq!(count(&client.get(PODS).await.1), 6);
    kubectl.run("scale deployment/web --replicas=2 --current-replicas=6");
    until(&mut client, PODS, |pods| count(pods) == 2).await;

    kubectl.run("rollout pause deployment/web");
    kubectl.run("set image deployment/web c=run:4");
    let paused = |one: &Value| {
        let conditions = one["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|condition| condition["reason"] == "DeploymentPaused")
            && one["status"]["observedGeneration"] == one["metadata"]["generation"]
    };
    until(&mut client, &format!("{DEPLOYMENTS}/web"), paused).await;
    let images = kubectl.run("get pods -o jsonpath={.items[*].spec.containers[0].image}");
    assert_eq!(images, "run:1 run:1", "a paused rollout waits");
    kubectl.run("rollout resume deployment/web");
    kubectl.run("rollout status deployment/web --timeout=30s");
    kubectl.run("rollout restart deployment/web");
    kubectl.run("rollout status deployment/web --timeout=30s");
    let described = kubectl.run("describe deployment web");
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    assert!(described.contains("NewReplicaSetAvailable"), "{described}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_is_stuck_keeps_the_old_pods() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let file = kubectl.file("web.yaml", WEB);
    kubectl.run(&format!("apply -f {file}"));
    kubectl.run("rollout status deployment/web --timeout=30s");
    let patch = r#"{"spec":{"progressDeadlineSeconds":1}}"#;
    kubectl.run(&format!("patch deployment web -p {patch}"));
    kubectl.run("set image deployment/web c=stuck:1");
    let stuck = kubectl.output(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let stderr = String::from_utf8(stuck.stderr).unwrap();
    assert!(stderr.contains("exceeded its progress deadline"), "{stderr}");
    let web = client.get(&format!("{DEPLOYMENTS}/web")).await.1;
    assert_eq!(web["status"]["availableReplicas"], 3, "25 % of 4 may be unavailable");
    assert_eq!(web["status"]["replicas"], 5, "and 25 % surge");
    let refused = kubectl.output(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#,
    ]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("field is immutable"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_adopts_what_it_selects_and_lets_go_what_it_does_not() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let mut orphan = common::pod("orphan", "1Mi");
    orphan["metadata"]["labels"] = serde_json::json!({"app": "web"});
    orphan["spec"]["containers"][0]["image"] = "run:1".into();
    client.ok("POST", PODS, &orphan).await;
    let set =
        WEB.replace("kind: Deployment", "kind: ReplicaSet").replace("replicas: 4", "replicas: 2");
    kubectl.run(&format!("apply -f {}", kubectl.file("set.yaml", &set)));
    until(&mut client, PODS, |pods| count(pods) == 2).await;
    let adopted = client.get(&format!("{PODS}/orphan")).await.1;
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    kubectl.run("label pod orphan app=other --overwrite");
    until(&mut client, PODS, |pods| count(pods) == 3).await;
    let released = client.get(&format!("{PODS}/orphan")).await.1;
    assert_eq!(released["metadata"].get("ownerReferences"), None);
    let set = "/apis/apps/v1/namespaces/default/replicasets/web";
    until(&mut client, set, |set| set["status"]["readyReplicas"] == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_takes_dependents_along_or_lets_them_go() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let file = kubectl.file("web.yaml", WEB);
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let empty = |list: &Value| count(list) == 0;

    for cascade in ["background", "foreground"] {
        kubectl.run(&format!("apply -f {file}"));
        kubectl.run("rollout status deployment/web --timeout=30s");
        kubectl.run(&format!("delete deployment web --cascade={cascade} --timeout=30s"));
        if cascade == "foreground" {
            assert!(empty(&client.get(PODS).await.1), "its dependents go first");
        }
        until(&mut client, sets, empty).await;
        until(&mut client, PODS, empty).await;
    }

    kubectl.run(&format!("apply -f {file}"));
    kubectl.run("rollout status deployment/web --timeout=30s");
    kubectl.run("delete deployment web --cascade=orphan --timeout=30s");
    let left = client.get(sets).await.1;
    assert_eq!(count(&left), 1);
    assert_eq!(left["items"][0]["metadata"].get("ownerReferences"), None);
    kubectl.run(&format!("apply -f {file}"));
    kubectl.run("rollout status deployment/web --timeout=30s");
    let adopted = client.get(sets).await.1;
    assert_eq!(count(&adopted), 1, "the set is taken back");
    assert_eq!(adopted["items"][0]["metadata"]["ownerReferences"][0]["name"], "web");

    // An owner that is another by now, and one that is still there.
    let config = |name: &str, owners: Value| serde_json::json!({"metadata": {"name": name, "ownerReferences": owners}});
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = client.ok("POST", maps, &config("owner", serde_json::json!([]))).await;
    let reference = |uid: &Value| serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid});
    let (real, stale) = (reference(&owner["metadata"]["uid"]), reference(&"stale".into()));
    client.ok("POST", maps, &config("dangling", serde_json::json!([stale]))).await;
    client.ok("POST", maps, &config("kept", serde_json::json!([real, stale]))).await;
    until(&mut client, &format!("{maps}/dangling"), |answer| answer["code"] == 404).await;
    let one_left = |one: &Value| one["metadata"]["ownerReferences"].as_array().unwrap().len() == 1;
    let kept = until(&mut client, &format!("{maps}/kept"), one_left).await;
    assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"], owner["metadata"]["uid"]);

    kubectl.run("create namespace temp");
    kubectl.run(&format!("apply -n temp -f {file}"));
    kubectl.run("rollout status -n temp deployment/web --timeout=30s");
    kubectl.run("delete namespace temp --timeout=60s");
}

fn job(name: &str, image: &str, spec: &str) -> String {
    let pod = format!("restartPolicy: Never, containers: [{{name: c, image: '{image}'}}]");
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{spec}template: {{spec: {{{pod}}}}}}}}}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_or_fail_and_expire() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let apply = |name: &str, image: &str, spec: &str| {
        kubectl.run(&format!("apply -f {}", kubectl.file(name, &job(name, image, spec))));
    };

    apply("five", "exit-0:1", "completions: 5, parallelism: 2, ");
    kubectl.run("wait --for=condition=Complete job/five --timeout=30s");
    let five = client.get(&format!("{jobs}/five")).await.1;
    assert_eq!((&five["status"]["succeeded"], five["status"].get("active")), (&5.into(), None));
    let table = kubectl.run("get jobs");
    assert!(table.contains("Complete   5/5"), "{table}");
    let pods = client.get(&format!("{PODS}?labelSelector=job-name%3Dfive")).await.1;
    assert_eq!(count(&pods), 5);
    assert!(
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|pod| pod["metadata"].get("finalizers").is_none())
    );

    apply("indexed", "exit-0:1", "completions: 3, parallelism: 3, completionMode: Indexed, ");
    kubectl.run("wait --for=condition=Complete job/indexed --timeout=30s");
    assert_eq!(client.get(&format!("{jobs}/indexed")).await.1["status"]["completedIndexes"], "0-2");

    apply("fails", "exit-3:1", "backoffLimit: 0, ");
    kubectl.run("wait --for=condition=Failed job/fails --timeout=30s");
    let described = kubectl.run("describe job fails");
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    apply("late", "run:1", "activeDeadlineSeconds: 1, ");
    kubectl.run("wait --for=condition=Failed job/late --timeout=30s");
    let late = client.get(&format!("{jobs}/late")).await.1;
    assert!(late["status"]["conditions"].to_string().contains("DeadlineExceeded"), "{late}");

    apply("paused", "exit-0:1", "suspend: true, ttlSecondsAfterFinished: 1, ");
    kubectl.run("wait --for=condition=Suspended job/paused --timeout=30s");
    let none = client.get(&format!("{PODS}?labelSelector=job-name%3Dpaused")).await.1;
    assert_eq!(count(&none), 0);
    kubectl.run(r#"patch job paused -p {"spec":{"suspend":false}}"#);
    until(&mut client, &format!("{jobs}/paused"), |answer| answer["code"] == 404).await;

    apply("deleted", "run:1", "parallelism: 2, completions: 2, ");
    until(&mut client, &format!("{jobs}/deleted"), |job| job["status"]["ready"] == 2).await;
    kubectl.run("delete job deleted --timeout=30s");
    let path = format!("{PODS}?labelSelector=job-name%3Ddeleted");
    until(&mut client, &path, |pods| count(pods) == 0).await;
}
