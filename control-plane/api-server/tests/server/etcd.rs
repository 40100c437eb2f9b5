//! Clusters whose objects are in etcd: several servers are one cluster, one of them leads, and
//! etcd may go away and come back.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{BINARY, Client, Cluster, LIMIT, Lines, add_node, pod, until};
use bulkhead_test_etcd::Etcd;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/bulkhead-control-plane";

/// A server whose leader has to be silent for ten seconds, not fifteen.
fn hasty(etcd: &Etcd) -> Cluster {
    let url = etcd.url();
    // Fewer would end the lease of a leader which is only slow.
    let mut options = vec!["--etcd-servers", &url, "--leader-elect-lease-duration", "10"];
    options.extend(["--leader-elect-renew-deadline", "8", "--leader-elect-retry-period", "1"]);
    Cluster::with(&options)
}

/// Who leads, and how often that has changed.
async fn leader(client: &mut Client) -> (String, i64) {
    let held =
        |lease: &Value| lease["spec"]["holderIdentity"].as_str().is_some_and(|id| !id.is_empty());
    let lease = until(client, LEASE, held).await;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    (holder, lease["spec"]["leaseTransitions"].as_i64().unwrap())
}

async fn scheduled(client: &mut Client, name: &str) {
    client.ok("POST", PODS, &pod(name, "1Mi")).await;
    until(client, &format!("{PODS}/{name}"), |pod| pod["spec"]["nodeName"] == "n1").await;
}

#[tokio::test]
async fn three_servers_are_one_cluster() {
    let etcd = Etcd::start();
    let one = Cluster::over(&etcd);
    let (two, three) = (one.peer(), one.peer());
    let (mut first, mut second) = (one.admin().await, two.admin().await);
    let mut watching = three.admin().await;
    let start = first.ok("GET", MAPS, &Value::Null).await;
    let version = start["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{MAPS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name=m");
    let mut watch = Lines::open(&mut watching, &path).await;

    // Writes by one are read and watched at the others, and conflict there.
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "1"}});
    let made = first.ok("POST", MAPS, &map).await;
    assert_eq!(watch.next().await["object"], made);
    let mut seen = second.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    assert_eq!(seen, made);
    seen["data"]["k"] = "2".into();
    second.ok("PUT", &format!("{MAPS}/m"), &seen).await;
    assert_eq!(watch.next().await["object"]["data"]["k"], "2");
    let (code, refused) = first.json("PUT", &format!("{MAPS}/m"), &seen).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    let page = first.ok("GET", "/api/v1/namespaces?limit=2", &Value::Null).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let path = format!("/api/v1/namespaces?continue={token}");
    let rest = second.ok("GET", &path, &Value::Null).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2, "a page of another's list");

    // Rights that one server grants hold at another at once, for a token that a third has issued.
    watching = three.admin().await;
    watching.ok("POST", ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    let issued = watching.ok("POST", &format!("{ACCOUNTS}/bot/token"), &json!({"spec": {}})).await;
    let bearer = format!("Bearer {}", issued["status"]["token"].as_str().unwrap());
    let mut bot = two.client(None).await;
    let ask = [("authorization", bearer.as_str())];
    assert_eq!(bot.exchange("GET", PODS, &ask, Vec::new()).await.0, 403);
    let binding = json!({"metadata": {"name": "bot"}, "subjects": [
        {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    first.ok("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    assert_eq!(bot.exchange("GET", PODS, &ask, Vec::new()).await.0, 200);

    // And so do namespaces, also at servers that remember others,
    for name in ["a", "b", "c"] {
        first.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        let path = format!("/api/v1/namespaces/{name}/configmaps");
        second.ok("POST", &path, &json!({"metadata": {"name": "m"}})).await;
    }

    // and kinds.
    let definition = json!({
        "metadata": {"name": "bulkheads.ships.example.com"},
        "spec": {"group": "ships.example.com", "scope": "Namespaced",
            "names": {"plural": "bulkheads", "singular": "bulkhead", "kind": "Bulkhead"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    first.ok("POST", definitions, &definition).await;
    let bulkheads = "/apis/ships.example.com/v1/namespaces/default/bulkheads";
    second.ok("POST", bulkheads, &json!({"metadata": {"name": "b"}})).await;
    assert_eq!(watching.get(&format!("{bulkheads}/b")).await.0, 200);
    second.ok("DELETE", &format!("{definitions}/bulkheads.ships.example.com"), &Value::Null).await;
    until(&mut first, definitions, |list| list["items"] == json!([])).await;
    assert_eq!(watching.get(bulkheads).await.0, 404);
}

#[tokio::test]
async fn another_server_leads_when_the_leader_is_killed_or_hangs() {
    let etcd = Etcd::start();
    let mut one = hasty(&etcd);
    let mut client = one.admin().await;
    add_node(&mut client, "n1", 1).await;
    scheduled(&mut client, "p1").await;
    let (first, changes) = leader(&mut client).await;
    assert_eq!(changes, 0);

    let two = one.peer();
    let mut client = two.admin().await;
    one.kill();
    scheduled(&mut client, "p2").await;
    let (second, changes) = leader(&mut client).await;
    assert_ne!(second, first);
    assert_eq!(changes, 1);

    let three = two.peer();
    two.signal("STOP");
    let mut client = three.admin().await;
    scheduled(&mut client, "p3").await;
    let (third, changes) = leader(&mut client).await;
    assert!(third != first && third != second);
    assert_eq!(changes, 2);
    // The one that hung finds another in its place, and stands back.
    two.signal("CONT");
    let mut client = two.admin().await;
    scheduled(&mut client, "p4").await;
    let renewed = |lease: &Value| lease["spec"]["renewTime"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let before = renewed(&client.ok("GET", LEASE, &Value::Null).await);
        let lease = until(&mut client, LEASE, |lease| renewed(lease) != before).await;
        assert_eq!(lease["spec"]["holderIdentity"], third);
        assert_eq!(lease["spec"]["leaseTransitions"], 2);
    }

    // One that is told to end lets go.
    assert!(three.terminate().success());
    let lease = client.ok("GET", LEASE, &Value::Null).await;
    assert_ne!(lease["spec"]["holderIdentity"], third, "it is not waited for");
    scheduled(&mut client, "p5").await;
    assert_eq!(leader(&mut client).await, (second, 3));
}

#[tokio::test]
async fn an_etcd_that_goes_away_is_named_and_found_again() {
    let mut etcd = Etcd::start();
    let cluster = Cluster::over(&etcd);
    let mut client = cluster.admin().await;
    let path = format!("{MAPS}?watch=1&fieldSelector=metadata.name=m");
    let mut watching = cluster.admin().await;
    let mut watch = Lines::open(&mut watching, &path).await;
    etcd.kill();
    let map = json!({"metadata": {"name": "m"}});
    let (code, refused) = client.json("POST", MAPS, &map).await;
    assert_eq!((code, &refused["reason"]), (503, &json!("ServiceUnavailable")), "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("etcd at {}: ", etcd.url())), "{message}");
    assert_eq!(client.get("/readyz").await.0, 500);
    assert_eq!(client.get("/version").await.0, 200);
    etcd.restart();
    let began = Instant::now();
    while client.get("/readyz").await.0 != 200 && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.ok("POST", MAPS, &map).await;
    assert_eq!(watch.next().await["object"]["metadata"]["name"], "m", "the watch goes on");
}

#[tokio::test]
async fn a_new_key_for_secrets_reaches_every_server() {
    let etcd = Etcd::start();
    let one = Cluster::over(&etcd);
    let mut two = one.peer();
    let (mut first, mut second) = (one.admin().await, two.admin().await);
    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"k": "v"}});
    first.ok("POST", SECRETS, &secret("before")).await;
    let rotated =
        Command::new(BINARY).args(["rotate-secrets-key", "--dir"]).arg(one.dir.path()).output();
    let key = String::from_utf8(rotated.unwrap().stdout).unwrap();
    let sealed = |name: &str, key: &str| {
        let mut get = Command::new("etcdctl");
        get.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.url(), "get", "--print-value-only"]);
        let value = get.arg(format!("/registry/secrets/default/{name}")).output().unwrap().stdout;
        String::from_utf8_lossy(&value).starts_with(&format!("k8s:enc:aesgcm:v1:{}:", key.trim()))
    };
    assert!(!sealed("before", &key));
    one.signal("HUP");
    let began = Instant::now();
    while !sealed("before", &key) && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(sealed("before", &key), "it is sealed anew");
    // The other was told nothing, meets the new key, and takes it.
    let path = format!("{SECRETS}/before");
    let found = second.ok("GET", &path, &Value::Null).await;
    assert_eq!(found["data"]["k"], "dg==");
    second.ok("POST", SECRETS, &secret("after")).await;
    assert!(sealed("after", &key));
    let found = first.ok("GET", &format!("{SECRETS}/after"), &Value::Null).await;
    assert_eq!(found["data"]["k"], "dg==");
    two.kill();
    two.restart();
    let found = two.admin().await.ok("GET", &path, &Value::Null).await;
    assert_eq!(found["data"]["k"], "dg==");
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |options: &[&str]| {
        let serve = ["serve", "--dir", "/nonexistent", "--listen", "127.0.0.1:0"];
        let output = Command::new(BINARY).args(serve).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--etcd-prefix", "/x"]).contains("--etcd-servers"));
    let etcd = ["--etcd-servers", "https://127.0.0.1:1"];
    let certificate = ["--etcd-cafile", "/none", "--etcd-certfile", "/none"];
    assert!(refused(&[&etcd[..], &certificate[..]].concat()).contains("--etcd-keyfile"));
    let missing = refused(&[&etcd[..], &["--etcd-cafile", "/none"]].concat());
    assert!(missing.contains("/none: No such file"), "{missing}");
    let order = refused(&["--leader-elect-lease-duration", "5"]);
    assert!(order.contains("--leader-elect-renew-deadline"), "{order}");
    assert!(refused(&["--leader-elect-retry-period", "0"]).contains("whole seconds"));
}
