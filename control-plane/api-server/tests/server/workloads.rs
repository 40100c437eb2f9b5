//! Workloads with kubectl, on hollow nodes.

use crate::common::hollow::Hollow;
use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, until};
use serde_json::Value;

with_each_kubectl!(a_deployment_is_rolled_out_scaled_and_taken_back);

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

fn images(pods: &Value) -> Vec<&str> {
    let pods = pods["items"].as_array().unwrap().iter();
    pods.map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect()
}

async fn a_deployment_is_rolled_out_scaled_and_taken_back(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;

    let file = kubectl.file("web.yaml", WEB);
    assert_eq!(kubectl.run(&format!("apply -f {file}")), "deployment.apps/web created\n");
    let rolled = kubectl.run("rollout status deployment/web --timeout=120s");
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    let table = kubectl.run("get deployments -o wide");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["web", "4/4", "4", "4"], "{table}");
    assert_eq!(row[5..], ["c", "run:1", "app=web"], "{table}");
    let sets = kubectl.run("get rs");
    assert!(sets.contains("DESIRED   CURRENT   READY"), "{sets}");

    kubectl.run("set image deployment/web c=run:2");
    kubectl.run("rollout status deployment/web --timeout=120s");
    let history = kubectl.run("rollout history deployment/web");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let shown = kubectl.run("rollout history deployment/web --revision=1");
    assert!(shown.contains("run:1"), "{shown}");
    kubectl.run("rollout undo deployment/web");
    kubectl.run("rollout status deployment/web --timeout=120s");
    // The last of the others may be ending still.
    until(&mut client, PODS, |pods| images(pods) == ["run:1"; 4]).await;
    let history = kubectl.run("rollout history deployment/web");
    assert!(!history.contains("\n1 ") && history.contains("\n3 "), "{history}");

    kubectl.run("scale deployment/web --replicas=6");
    kubectl.run("rollout status deployment/web --timeout=120s");
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
    assert_eq!(images(&client.get(PODS).await.1), ["run:1"; 2], "a paused rollout waits");
    kubectl.run("rollout resume deployment/web");
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("rollout restart deployment/web");
    kubectl.run("rollout status deployment/web --timeout=120s");
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
    kubectl.run("rollout status deployment/web --timeout=120s");
    let patch = r#"{"spec":{"progressDeadlineSeconds":1}}"#;
    kubectl.run(&format!("patch deployment web -p {patch}"));
    kubectl.run("set image deployment/web c=stuck:1");
    let stuck = kubectl.output(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let stderr = String::from_utf8(stuck.stderr).unwrap();
    assert!(stderr.contains("exceeded its progress deadline"), "{stderr}");
    // 25 % of 4 may be unavailable, and 25 % surge.
    let web = format!("{DEPLOYMENTS}/web");
    // Its deadline may pass before it has come so far.
    let stuck = |web: &Value| {
        let status = &web["status"];
        status["replicas"] == 5 && status["availableReplicas"] == 3
    };
    until(&mut client, &web, stuck).await;
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
    let mut orphan = crate::common::pod("orphan", "1Mi");
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
        kubectl.run("rollout status deployment/web --timeout=120s");
        kubectl.run(&format!("delete deployment web --cascade={cascade} --timeout=120s"));
        if cascade == "foreground" {
            assert!(empty(&client.get(PODS).await.1), "its dependents go first");
        }
        until(&mut client, sets, empty).await;
        until(&mut client, PODS, empty).await;
    }

    kubectl.run(&format!("apply -f {file}"));
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("delete deployment web --cascade=orphan --timeout=120s");
    let left = client.get(sets).await.1;
    assert_eq!(count(&left), 1);
    assert_eq!(left["items"][0]["metadata"].get("ownerReferences"), None);
    kubectl.run(&format!("apply -f {file}"));
    kubectl.run("rollout status deployment/web --timeout=120s");
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
    kubectl.run("rollout status -n temp deployment/web --timeout=120s");
    kubectl.run("delete namespace temp --timeout=120s");
}

#[tokio::test]
async fn a_namespace_says_what_keeps_it_from_going() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let namespaces = "/api/v1/namespaces";
    let named = |name: &str| serde_json::json!({"metadata": {"name": name}});
    client.ok("POST", namespaces, &named("held")).await;
    let maps = format!("{namespaces}/held/configmaps");
    let map = serde_json::json!({"metadata": {"name": "m", "finalizers": ["example.com/hold"]}});
    client.ok("POST", &maps, &map).await;
    client.ok("POST", &format!("{namespaces}/held/secrets"), &named("s")).await;
    let path = format!("{namespaces}/held");
    client.ok("DELETE", &path, &Value::Null).await;
    let said = |namespace: &Value, kind: &str| {
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let of_kind = conditions.into_iter().find(|one| one["type"] == kind);
        of_kind.filter(|one| one["status"] == "True").map(|one| one["message"].clone())
    };
    until(&mut client, &path, |one| {
        let left = "Some resources are remaining: configmaps. has 1 resource instances";
        let held = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        said(one, "NamespaceContentRemaining").is_some_and(|said| said == left)
            && said(one, "NamespaceFinalizersRemaining").is_some_and(|said| said == held)
    })
    .await;
    let free = serde_json::json!({"metadata": {"finalizers": null}});
    client.typed("PATCH", &format!("{maps}/m"), "application/merge-patch+json", &free).await;
    until(&mut client, &path, |answer| answer["code"] == 404).await;
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
    kubectl.run("wait --for=condition=Complete job/five --timeout=120s");
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
    kubectl.run("wait --for=condition=Complete job/indexed --timeout=120s");
    assert_eq!(client.get(&format!("{jobs}/indexed")).await.1["status"]["completedIndexes"], "0-2");

    apply("fails", "exit-3:1", "backoffLimit: 0, ");
    kubectl.run("wait --for=condition=Failed job/fails --timeout=120s");
    let described = kubectl.run("describe job fails");
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    // Nothing is tried again that a rule calls hopeless.
    let rules = "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}, ";
    apply("hopeless", "exit-42:1", &format!("backoffLimit: 6, {rules}"));
    kubectl.run("wait --for=condition=Failed job/hopeless --timeout=120s");
    let hopeless = client.get(&format!("{jobs}/hopeless")).await.1;
    let conditions = hopeless["status"]["conditions"].to_string();
    assert!(conditions.contains("PodFailurePolicy"), "{hopeless}");
    assert!(conditions.contains("failed with exit code 42 matching FailJob rule"), "{hopeless}");
    assert_eq!(hopeless["status"]["failed"], 1);

    // Each index has its own limit, and those that fail do not keep the others from their turn.
    let spec = "completions: 3, parallelism: 2, completionMode: Indexed, backoffLimitPerIndex: 0, ";
    apply("each", "exit-3:1", spec);
    kubectl.run("wait --for=condition=Failed job/each --timeout=120s");
    let each = client.get(&format!("{jobs}/each")).await.1;
    assert_eq!(
        (&each["status"]["failedIndexes"], &each["status"]["failed"]),
        (&"0-2".into(), &3.into())
    );
    assert!(each["status"]["conditions"].to_string().contains("FailedIndexes"), "{each}");
    apply("most", "exit-3:1", &format!("{spec}maxFailedIndexes: 0, "));
    kubectl.run("wait --for=condition=Failed job/most --timeout=120s");
    let most = client.get(&format!("{jobs}/most")).await.1;
    assert!(
        most["status"]["conditions"].to_string().contains("MaxFailedIndexesExceeded"),
        "{most}"
    );

    let enough =
        "completions: 9, completionMode: Indexed, successPolicy: {rules: [{succeededCount: 2}]}, ";
    apply("enough", "exit-0:1", enough);
    kubectl.run("wait --for=condition=Complete job/enough --timeout=120s");
    let enough = client.get(&format!("{jobs}/enough")).await.1;
    assert!(enough["status"]["conditions"].to_string().contains("SuccessPolicy"), "{enough}");
    assert_ne!(enough["status"]["succeeded"], 9);

    apply("late", "run:1", "activeDeadlineSeconds: 1, ");
    kubectl.run("wait --for=condition=Failed job/late --timeout=120s");
    let late = client.get(&format!("{jobs}/late")).await.1;
    assert!(late["status"]["conditions"].to_string().contains("DeadlineExceeded"), "{late}");

    apply("paused", "exit-0:1", "suspend: true, ttlSecondsAfterFinished: 1, ");
    kubectl.run("wait --for=condition=Suspended job/paused --timeout=120s");
    let none = client.get(&format!("{PODS}?labelSelector=job-name%3Dpaused")).await.1;
    assert_eq!(count(&none), 0);
    kubectl.run(r#"patch job paused -p {"spec":{"suspend":false}}"#);
    until(&mut client, &format!("{jobs}/paused"), |answer| answer["code"] == 404).await;

    apply("deleted", "run:1", "parallelism: 2, completions: 2, ");
    until(&mut client, &format!("{jobs}/deleted"), |job| job["status"]["ready"] == 2).await;
    kubectl.run("delete job deleted --timeout=120s");
    let path = format!("{PODS}?labelSelector=job-name%3Ddeleted");
    until(&mut client, &path, |pods| count(pods) == 0).await;

    // One that waits for its pods lets them go.
    apply("waits", "run:1", "");
    until(&mut client, &format!("{jobs}/waits"), |job| job["status"]["ready"] == 1).await;
    kubectl.run("delete job waits --cascade=foreground --timeout=120s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_slows_a_drain_down() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", WEB)));
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("create poddisruptionbudget web --selector=app=web --max-unavailable=0");
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    let seen = until(&mut client, budget, |one| one["status"]["expectedPods"] == 4).await;
    assert_eq!(seen["status"]["disruptionsAllowed"], 0);
    // Where its time is over before it has asked for the first, it gets more.
    let drain = |timeout| kubectl.output(&["drain", "n1", timeout]).stderr;
    let mut said = ["--timeout=2s", "--timeout=30s"].into_iter().map(drain);
    let refused = b"violate the pod's disruption budget";
    assert!(said.any(|said| said.windows(refused.len()).any(|part| part == refused)));
    kubectl.run(r#"patch pdb web -p {"spec":{"maxUnavailable":1}}"#);
    kubectl.run("drain n1 --timeout=120s");
    let table = kubectl.run("get pdb");
    assert!(table.contains("ALLOWED DISRUPTIONS"), "{table}");
    let web = kubectl.run("get pods -o jsonpath={.items[*].spec.nodeName}");
    assert!(!web.contains("n1"), "{web}");
}

#[tokio::test]
async fn every_namespace_and_pod_gets_what_kubernetes_gives_it() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client
        .ok("POST", "/api/v1/namespaces", &serde_json::json!({"metadata": {"name": "new"}}))
        .await;
    let account = "/api/v1/namespaces/new/serviceaccounts/default";
    until(&mut client, account, |answer| answer["kind"] == "ServiceAccount").await;
    let map = "/api/v1/namespaces/new/configmaps/kube-root-ca.crt";
    let certificate = std::fs::read_to_string(cluster.pki("ca.crt")).unwrap();
    let right = |answer: &Value| answer["data"]["ca.crt"] == certificate.as_str();
    until(&mut client, map, right).await;
    let wrong = serde_json::json!({"data": {"ca.crt": "wrong"}});
    client.typed("PATCH", map, "application/merge-patch+json", &wrong).await;
    until(&mut client, map, right).await;

    let class = serde_json::json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
    client.ok("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await;
    let mut pod = crate::common::pod("important", "1Mi");
    pod["spec"]["priorityClassName"] = "high".into();
    let made = client.ok("POST", PODS, &pod).await;
    assert_eq!(made["spec"]["priority"], 1000);
    assert_eq!(made["spec"]["preemptionPolicy"], "Never");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"][1]["tolerationSeconds"], 300);
    pod["metadata"]["name"] = "unknown".into();
    pod["spec"]["priorityClassName"] = "none".into();
    assert_eq!(client.json("POST", PODS, &pod).await.0, 403);
    let system = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    assert_eq!(client.get(system).await.1["value"], 2_000_001_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_that_falls_silent_ran_is_replaced() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1", "n2"]).await;
    let mut client = cluster.admin().await;
    let web = WEB.replace("spec:\n      containers", "spec:\n      tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}]\n      containers");
    kubectl.run(&format!("apply -f {}", kubectl.file("web.yaml", &web)));
    kubectl.run("rollout status deployment/web --timeout=120s");
    let silent =
        serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    client.typed("PATCH", "/api/v1/nodes/n1/status", "application/merge-patch+json", &silent).await;
    let tainted =
        |node: &Value| node["spec"]["taints"].as_array().is_some_and(|all| all.len() == 2);
    until(&mut client, "/api/v1/nodes/n1", tainted).await;
    let moved = |pods: &Value| {
        let pods = pods["items"].as_array().unwrap();
        pods.len() == 4 && pods.iter().all(|pod| pod["spec"]["nodeName"] == "n2")
    };
    until(&mut client, PODS, moved).await;
    let back = serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    client.typed("PATCH", "/api/v1/nodes/n1/status", "application/merge-patch+json", &back).await;
    let clean = |node: &Value| node["spec"].get("taints").is_none();
    until(&mut client, "/api/v1/nodes/n1", clean).await;
}
