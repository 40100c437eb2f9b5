//! What admission gives and refuses, over HTTPS.

use crate::common::kubectl::Kubectl;
use crate::common::{Client, Cluster, until};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MERGE: &str = "application/merge-patch+json";

fn pod(name: &str, resources: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "busybox:1", "resources": resources}]}})
}

async fn refused(client: &mut Client, path: &str, object: &Value) -> String {
    let (code, status) = client.json("POST", path, object).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
    status["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn pods_run_as_an_account() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let made = client.ok("POST", PODS, &pod("plain", &json!({}))).await;
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let volume = &spec["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{volume}");
    let sources = &volume["projected"]["sources"];
    assert_eq!(
        sources[0]["serviceAccountToken"],
        json!({"expirationSeconds": 3607, "path": "token"})
    );
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!((&mount["name"], &mount["readOnly"]), (&volume["name"], &json!(true)));

    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let quiet = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}]});
    client.ok("POST", accounts, &quiet).await;
    let mut of_quiet = pod("of-quiet", &json!({}));
    of_quiet["spec"]["serviceAccountName"] = "quiet".into();
    let made = client.ok("POST", PODS, &of_quiet).await;
    assert_eq!(made["spec"].get("volumes"), None);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    of_quiet["metadata"]["name"] = "loud".into();
    of_quiet["spec"]["automountServiceAccountToken"] = true.into();
    let made = client.ok("POST", PODS, &of_quiet).await;
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1, "the pod decides");
    let mut unknown = pod("unknown", &json!({}));
    unknown["spec"]["serviceAccountName"] = "none".into();
    let why = refused(&mut client, PODS, &unknown).await;
    assert_eq!(
        why,
        "pods \"unknown\" is forbidden: error looking up service account default/none: \
         serviceaccount \"none\" not found"
    );
    // A namespace's account comes a moment after it, and pods wait for that.
    client.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await;
    client.ok("POST", "/api/v1/namespaces/new/pods", &pod("first", &json!({}))).await;
}

#[tokio::test]
async fn ranges_fill_in_and_limit() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
         "defaultRequest": {"cpu": "1", "memory": "1Gi"}, "max": {"cpu": "2"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
    client.ok("POST", "/api/v1/namespaces/default/limitranges", &range).await;
    let made = client.ok("POST", PODS, &pod("a", &json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(made["status"]["qosClass"], "Guaranteed", "by what was filled in");
    let told = &made["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
    assert!(told.as_str().unwrap().contains("limit for container c"), "{told}");
    let why = refused(&mut client, PODS, &pod("b", &json!({"limits": {"cpu": "3"}}))).await;
    assert!(why.ends_with("maximum cpu usage per Container is 2, but limit is 3"), "{why}");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let why = refused(&mut client, claims, &claim).await;
    assert!(
        why.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"),
        "{why}"
    );
    client.ok("DELETE", "/api/v1/namespaces/default/limitranges/r", &Value::Null).await;
    client.ok("POST", PODS, &pod("b", &json!({"limits": {"cpu": "3"}}))).await;
}

#[tokio::test]
async fn quotas_are_never_exceeded() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", PODS, &pod("before", &json!({"requests": {"memory": "1Mi"}}))).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {
        "pods": "20", "requests.memory": "1Gi", "count/configmaps": "100", "services.nodeports": "1"}}});
    client.ok("POST", QUOTAS, &quota).await;

    // Of many at once, just so many as there is room for.
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let mut client = Client::connect(&cluster, Some("admin")).await;
        tasks.spawn(async move {
            let mut made = 0;
            for count in 0..5 {
                let pod =
                    pod(&format!("p-{task}-{count}"), &json!({"requests": {"memory": "10Mi"}}));
                let (code, status) = client.json("POST", PODS, &pod).await;
                match code {
                    201 => made += 1,
                    403 => {
                        let message = status["message"].as_str().unwrap();
                        let expected =
                            "exceeded quota: q, requested: pods=1, used: pods=20, limited: pods=20";
                        assert!(message.ends_with(expected), "{message}");
                    }
                    other => panic!("{other}: {status}"),
                }
            }
            made
        });
    }
    let mut made = 0;
    while let Some(more) = tasks.join_next().await {
        made += more.unwrap();
    }
    assert_eq!(made, 19);
    let path = format!("{QUOTAS}/q");
    let used = client.get(&path).await.1["status"]["used"].clone();
    assert_eq!((&used["pods"], &used["requests.memory"]), (&json!("20"), &json!("191Mi")));

    // Who says nothing is asked to, and what is refused for other reasons costs nothing.
    let why = refused(&mut client, PODS, &pod("silent", &json!({}))).await;
    assert!(why.ends_with("failed quota: q: must specify requests.memory for: c"), "{why}");
    let maps = "/api/v1/namespaces/default/configmaps";
    let before = client.get(&path).await.1["status"]["used"]["count/configmaps"].clone();
    let map = json!({"metadata": {"name": "m"}});
    client.ok("POST", maps, &map).await;
    assert_eq!(client.json("POST", maps, &map).await.0, 409);
    client.ok("POST", &format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "dry"}})).await;
    let after = client.get(&path).await.1["status"]["used"]["count/configmaps"].clone();
    let number = |value: &Value| value.as_str().unwrap().parse::<u32>().unwrap();
    assert_eq!(number(&after), number(&before) + 1);

    // A Service that grows costs more.
    let services = "/api/v1/namespaces/default/services";
    let service = |kind: &str, ports: Value| json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": ports}});
    let one = json!([{"port": 80, "name": "a"}]);
    let two = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]);
    client.ok("POST", services, &service("ClusterIP", two)).await;
    let grow = json!({"spec": {"type": "NodePort"}});
    let (code, status) = client.typed("PATCH", &format!("{services}/s"), MERGE, &grow).await;
    assert_eq!(code, 403, "{status}");
    let grow = service("NodePort", one);
    let (code, status) = client.typed("PATCH", &format!("{services}/s"), MERGE, &grow).await;
    assert_eq!(code, 200, "{status}");

    // A quota with a scope covers what is in it.
    let scoped = json!({"metadata": {"name": "best"}, "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}});
    client.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await;
    client.ok("POST", "/api/v1/namespaces/other/resourcequotas", &scoped).await;
    let others = "/api/v1/namespaces/other/pods";
    let why = refused(&mut client, others, &pod("best", &json!({}))).await;
    assert!(why.contains("exceeded quota: best, requested: pods=1"), "{why}");
    client.ok("POST", others, &pod("burst", &json!({"requests": {"cpu": "1m"}}))).await;
}

#[tokio::test]
async fn classes_are_looked_up() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = json!({"metadata": {"name": "heavy"}, "handler": "heavy",
        "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"runs": "heavy"}, "tolerations": [{"key": "heavy"}]}});
    client.ok("POST", classes, &class).await;
    let mut heavy = pod("heavy", &json!({}));
    heavy["spec"]["runtimeClassName"] = "heavy".into();
    let made = client.ok("POST", PODS, &heavy).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"runs": "heavy"}));
    assert_eq!(made["spec"]["tolerations"][0], json!({"key": "heavy"}));
    heavy["spec"]["runtimeClassName"] = "none".into();
    heavy["metadata"]["name"] = "none".into();
    let why = refused(&mut client, PODS, &heavy).await;
    assert!(why.ends_with("pod rejected: RuntimeClass \"none\" not found"), "{why}");

    let kubectl = Kubectl::new(&cluster);
    kubectl.run("create priorityclass high --value=1000 --global-default");
    let made = client.ok("POST", PODS, &pod("high", &json!({}))).await;
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["priorityClassName"]),
        (&json!(1000), &json!("high"))
    );
    let default = |kind: &str| {
        json!({"metadata": {"name": "usual", "annotations":
        {format!("{kind}.kubernetes.io/is-default-class"): "true"}}, "provisioner": "example.com/disk",
        "spec": {"controller": "example.com/ingress"}})
    };
    let storage = "/apis/storage.k8s.io/v1/storageclasses?fieldValidation=Ignore";
    client.ok("POST", storage, &default("storageclass")).await;
    let ingress = "/apis/networking.k8s.io/v1/ingressclasses?fieldValidation=Ignore";
    client.ok("POST", ingress, &default("ingressclass")).await;
    kubectl.run("create ingress i --rule=example.com/=s:80");
    assert_eq!(kubectl.run("get ingress i -o jsonpath={.spec.ingressClassName}"), "usual");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = client.ok("POST", claims, &claim).await;
    assert_eq!(made["spec"]["storageClassName"], "usual");

    let quota = kubectl.run("create quota small --hard=pods=9,limits.cpu=2");
    assert!(quota.contains("created"));
    client.ok("POST", PODS, &pod("counted", &json!({"limits": {"cpu": "500m"}}))).await;
    until(&mut client, &format!("{QUOTAS}/small"), |quota| quota["status"]["used"]["pods"] == "3")
        .await;
    let shown = kubectl.run("get quota small");
    assert!(shown.contains("pods: 3/9") && shown.contains("limits.cpu: 500m/2"), "{shown}");
    assert!(kubectl.run("describe quota small").contains("limits.cpu"));
}
