//! Who may do what: roles and bindings, hosts, impersonation and reviews, against the real binary.

use std::time::{Duration, Instant};

use crate::common::{Client, Cluster, LIMIT, add_node, pod, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A request of the admin on behalf of `user`.
async fn as_user(
    client: &mut Client,
    user: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let headers = [("impersonate-user", user), ("content-type", "application/json")];
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    client.exchange(method, path, &headers, bytes).await
}

async fn get_as(client: &mut Client, user: &str, path: &str) -> (u16, Value) {
    as_user(client, user, "GET", path, &Value::Null).await
}

async fn bind(client: &mut Client, name: &str, role: &str, user: &str) {
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    });
    client.ok("POST", &format!("{RBAC}/namespaces/default/rolebindings"), &binding).await;
}

#[tokio::test]
async fn roles_grant_what_they_say_where_they_are_bound() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let (code, refused) = get_as(&mut admin, "jane", PODS).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    bind(&mut admin, "jane-edits", "edit", "jane").await;
    assert_eq!(get_as(&mut admin, "jane", PODS).await.0, 200, "at once");
    assert_eq!(get_as(&mut admin, "jane", "/api/v1/namespaces/default").await.0, 200);
    assert_eq!(get_as(&mut admin, "jane", "/api/v1/pods").await.0, 403);
    assert_eq!(get_as(&mut admin, "jane", "/api/v1/namespaces/kube-system/pods").await.0, 403);
    let created = as_user(&mut admin, "jane", "POST", PODS, &pod("p", "1Mi")).await;
    assert_eq!(created.0, 201, "{}", created.1);
    let (code, refused) =
        get_as(&mut admin, "jane", "/apis/apps/v1/namespaces/kube-system/deployments").await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"kube-system\""
    );
    let path = format!("{RBAC}/namespaces/default/rolebindings/jane-edits");
    admin.ok("DELETE", &path, &Value::Null).await;
    let began = Instant::now();
    while get_as(&mut admin, "jane", PODS).await.0 != 403 {
        assert!(began.elapsed() < LIMIT, "the rights of a binding outlive it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nobody_grants_more_than_they_have() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    bind(&mut admin, "jane-admin", "admin", "jane").await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, resource: &str| {
        json!({"metadata": {"name": name}, "rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": [resource]}]})
    };
    let granted = as_user(&mut admin, "jane", "POST", &roles, &role("ok", "pods")).await;
    assert_eq!(granted.0, 201, "{}", granted.1);
    let (code, refused) = as_user(&mut admin, "jane", "POST", &roles, &role("more", "nodes")).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}"
    );
    let patch = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let headers = [("impersonate-user", "jane"), ("content-type", MERGE)];
    let path = format!("{roles}/ok");
    let patched =
        admin.exchange("PATCH", &path, &headers, serde_json::to_vec(&patch).unwrap()).await;
    assert_eq!(patched.0, 403, "{}", patched.1);
    let binding = json!({
        "metadata": {"name": "all"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "jane"}],
    });
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(as_user(&mut admin, "jane", "POST", &bindings, &binding).await.0, 403);
    let view = json!({
        "metadata": {"name": "view"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": "friends"}],
    });
    let bound = as_user(&mut admin, "jane", "POST", &bindings, &view).await;
    assert_eq!(bound.0, 201, "{}", bound.1);
    let mut changed = bound.1;
    changed["roleRef"]["name"] = "edit".into();
    let (code, refused) = admin.json("PUT", &format!("{bindings}/view"), &changed).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("roleRef")));
}

#[tokio::test]
async fn a_session_in_a_pod_is_more_than_reading() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    for (user, verbs) in [("reader", json!(["get"])), ("writer", json!(["get", "create"]))] {
        let rules = json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods/exec"]}]);
        let role = json!({"metadata": {"name": user}, "rules": rules});
        admin.ok("POST", &format!("{RBAC}/clusterroles"), &role).await;
        bind(&mut admin, user, user, user).await;
    }
    let path = format!("{PODS}/none/exec?command=sh");
    let (code, refused) = get_as(&mut admin, "reader", &path).await;
    assert_eq!(code, 403, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("cannot create resource \"pods/exec\""));
    assert_eq!(get_as(&mut admin, "writer", &path).await.0, 404, "let in, to no pod");
}

#[tokio::test]
async fn aggregated_roles_follow_their_parts() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let edit = admin.ok("GET", &format!("{RBAC}/clusterroles/edit"), &Value::Null).await;
    let rules = edit["rules"].as_array().unwrap();
    assert!(
        rules.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!("pods/log")))
    );
    let part = json!({
        "metadata": {"name": "crontabs", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["crontabs"]}],
    });
    admin.ok("POST", &format!("{RBAC}/clusterroles"), &part).await;
    let has =
        |role: &Value| role["rules"].as_array().is_some_and(|all| all.contains(&part["rules"][0]));
    for role in ["view", "edit", "admin"] {
        until(&mut admin, &format!("{RBAC}/clusterroles/{role}"), has).await;
    }
    let path = format!("{RBAC}/clusterroles/crontabs");
    admin.ok("DELETE", &path, &Value::Null).await;
    until(&mut admin, &format!("{RBAC}/clusterroles/admin"), |role| !has(role)).await;
}

#[tokio::test]
async fn the_anonymous_see_health_and_version() {
    let cluster = Cluster::start();
    let mut nobody = cluster.client(None).await;
    for path in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
        assert_eq!(nobody.get(path).await.0, 200, "{path}");
    }
    let mut admin = cluster.admin().await;
    let verbose = admin.send("GET", "/readyz?verbose&exclude=store&exclude=x", &[], "").await;
    let told = verbose.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        told,
        "[+]ping ok\n[+]store excluded: ok\n\
         warn: some health checks cannot be excluded: no matches for \"x\"\n\
         readyz check passed\n"
    );
    assert_eq!(admin.get("/livez/store").await.0, 200);
    assert_eq!(admin.get("/livez/none").await.0, 404);
    let (code, refused) = nobody.get("/apis").await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "forbidden: User \"system:anonymous\" cannot get path \"/apis\""
    );
    assert_eq!(nobody.get(PODS).await.0, 403);
    assert_eq!(get_as(&mut admin, "jane", "/apis").await.0, 200, "the authenticated discover");
    assert_eq!(get_as(&mut admin, "jane", "/metrics").await.0, 403);
    assert_eq!(get_as(&mut nobody, "kubernetes-admin", PODS).await.0, 403, "no impersonation");
}

#[tokio::test]
async fn reviews_say_what_requests_would() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    bind(&mut admin, "jane-views", "view", "jane").await;
    let asked = |verb: &str, resource: &str| json!({"namespace": "default", "verb": verb, "resource": resource});
    let access = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (verb, resource, allowed) in
        [("list", "pods", true), ("create", "pods", false), ("get", "secrets", false)]
    {
        let review = json!({"spec": {"user": "jane", "resourceAttributes": asked(verb, resource)}});
        let answer = admin.ok("POST", access, &review).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{answer}");
        let own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let review = json!({"spec": {"resourceAttributes": asked(verb, resource)}});
        let (_, answer) = as_user(&mut admin, "jane", "POST", own, &review).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{answer}");
    }
    let review = json!({"spec": {"user": "jane", "resourceAttributes": asked("list", "pods")}});
    let answer = admin.ok("POST", access, &review).await;
    assert_eq!(
        answer["status"]["reason"],
        "RBAC: allowed by RoleBinding \"jane-views/default\" of ClusterRole \"view\" to User \"jane\""
    );
    assert_eq!(as_user(&mut admin, "jane", "POST", access, &review).await.0, 403, "of others");
    let local = "/apis/authorization.k8s.io/v1/namespaces/kube-system/localsubjectaccessreviews";
    assert_eq!(admin.json("POST", local, &review).await.0, 422, "another namespace");
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let review = json!({"spec": {"namespace": "default"}});
    let (_, answer) = as_user(&mut admin, "jane", "POST", rules, &review).await;
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    assert!(
        rules.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!("pods/log")))
    );
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = as_user(&mut admin, "jane", "POST", who, &json!({})).await;
    assert_eq!((code, &answer["status"]["userInfo"]["username"]), (201, &json!("jane")));
    assert_eq!(admin.get(who).await.0, 405);
}

#[tokio::test]
async fn a_host_touches_its_own_nodes_and_their_pods_only() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let mut host = cluster.client(Some("host")).await;
    add_node(&mut host, "mine", 1).await;
    add_node(&mut admin, "theirs", 1).await;
    let node = admin.ok("GET", "/api/v1/nodes/mine", &Value::Null).await;
    assert_eq!(node["metadata"]["annotations"]["bulkhead.dev/host"], "box");
    let status = json!({"status": {"phase": "Running"}});
    let (code, refused) = host.typed("PATCH", "/api/v1/nodes/theirs/status", MERGE, &status).await;
    assert_eq!(code, 403, "{refused}");
    let steal = json!({"metadata": {"annotations": {"bulkhead.dev/host": "other"}}});
    for path in ["/api/v1/nodes/mine", "/api/v1/nodes/mine/status"] {
        let (code, refused) = host.typed("PATCH", path, MERGE, &steal).await;
        assert_eq!(code, 403, "{path}: {refused}");
    }
    let forged =
        json!({"metadata": {"name": "forged", "annotations": {"bulkhead.dev/host": "other"}}});
    let made = host.ok("POST", "/api/v1/nodes", &forged).await;
    assert_eq!(made["metadata"]["annotations"]["bulkhead.dev/host"], "box");

    for secret in ["named", "unnamed"] {
        let secret = json!({"metadata": {"name": secret}, "stringData": {"k": "v"}});
        admin.ok("POST", "/api/v1/namespaces/default/secrets", &secret).await;
    }
    for (name, node) in [("here", "mine"), ("there", "theirs")] {
        let mut pod = pod(name, "1Mi");
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "named"}}]);
        admin.ok("POST", PODS, &pod).await;
    }
    for (name, expected) in [("here", 200), ("there", 403)] {
        let path = format!("{PODS}/{name}/status");
        let (code, answer) = host.typed("PATCH", &path, MERGE, &status).await;
        assert_eq!(code, expected, "{answer}");
    }
    // What a host says of its pod leaves the conditions of others alone, and is of that pod only.
    let gate = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [
        {"type": "a/gate", "status": "True"},
        {"type": "Ready", "status": "False", "reason": "Why", "message": "why"}]}});
    let here = format!("{PODS}/here/status");
    let (_, pod) = admin.typed("PATCH", &here, MERGE, &gate).await;
    let mut told = json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {
        "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]}});
    let (code, pod) = host.typed("PATCH", &here, STRATEGIC, &told).await;
    assert_eq!((code, &pod["status"]["podIPs"]), (200, &json!([{"ip": "10.0.0.2"}])), "{pod}");
    let conditions =
        json!([{"type": "a/gate", "status": "True"}, {"type": "Ready", "status": "True"}]);
    assert_eq!(pod["status"]["conditions"], conditions);
    told["metadata"]["uid"] = "other".into();
    assert_eq!(host.typed("PATCH", &here, STRATEGIC, &told).await.0, 409);
    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    let (code, _) = host.typed("PATCH", &format!("{PODS}/here/status"), MERGE, &relabel).await;
    assert_eq!(code, 403, "labels decide who selects a pod");
    for (secret, expected) in [("named", 200), ("unnamed", 403)] {
        let path = format!("/api/v1/namespaces/default/secrets/{secret}");
        assert_eq!(host.get(&path).await.0, expected, "{secret}");
    }
    assert_eq!(host.get("/api/v1/namespaces/default/secrets").await.0, 403);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for (name, expected) in [("mine", 201), ("theirs", 403)] {
        let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
        assert_eq!(host.json("POST", leases, &lease).await.0, expected, "{name}");
    }
    for (node, expected) in [("mine", 201), ("theirs", 403)] {
        let event = json!({"metadata": {"generateName": "e"}, "source": {"host": node},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "here"}});
        let (code, answer) = host.json("POST", "/api/v1/namespaces/default/events", &event).await;
        assert_eq!(code, expected, "{answer}");
    }
    let now = json!({"gracePeriodSeconds": 0});
    for (name, expected) in [("there", 403), ("here", 200)] {
        assert_eq!(
            host.json("DELETE", &format!("{PODS}/{name}"), &now).await.0,
            expected,
            "{name}"
        );
    }
    assert_eq!(host.json("DELETE", "/api/v1/nodes/theirs", &Value::Null).await.0, 403);
    assert_eq!(host.json("DELETE", "/api/v1/nodes/mine", &Value::Null).await.0, 200);
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

async fn token(client: &mut Client, account: &str, spec: Value) -> String {
    let path = format!("{ACCOUNTS}/{account}/token");
    let issued = client.ok("POST", &path, &json!({"spec": spec})).await;
    issued["status"]["token"].as_str().expect("a token").to_owned()
}

async fn with_token(client: &mut Client, token: &str, path: &str) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    client.exchange("GET", path, &[("authorization", &bearer)], Vec::new()).await
}

#[tokio::test]
async fn a_service_account_is_who_its_token_says_while_it_holds() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let mut client = cluster.client(None).await;
    admin.ok("POST", ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    let (code, refused) = admin
        .json("POST", &format!("{ACCOUNTS}/bot/token"), &json!({"spec": {"expirationSeconds": 1}}))
        .await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    let good = token(&mut admin, "bot", json!({})).await;
    let (code, refused) = with_token(&mut client, &good, PODS).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"system:serviceaccount:default:bot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    bind(&mut admin, "bot-views", "view", "system:serviceaccount:default:bot").await;
    assert_eq!(with_token(&mut client, &good, PODS).await.0, 200);
    let keys = "/openid/v1/jwks";
    let (code, jwks) = with_token(&mut client, &good, keys).await;
    assert_eq!((code, &jwks["keys"][0]["crv"]), (200, &json!("P-256")));
    let (_, provider) = with_token(&mut client, &good, "/.well-known/openid-configuration").await;
    assert_eq!(provider["jwks_uri"], format!("https://{}{keys}", cluster.address));
    assert_eq!(client.get(keys).await.0, 403, "for accounts only");
    assert_eq!(with_token(&mut client, "x.y.z", PODS).await.0, 401);
    let others = token(&mut admin, "bot", json!({"audiences": ["vault"]})).await;
    assert_eq!(with_token(&mut client, &others, PODS).await.0, 401, "for others");
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": others, "audiences": ["vault", "x"]}});
    let status = &admin.ok("POST", reviews, &review).await["status"];
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:bot");
    let review = json!({"spec": {"token": others}});
    assert_ne!(admin.ok("POST", reviews, &review).await["status"]["authenticated"], true);
    admin.ok("DELETE", &format!("{ACCOUNTS}/bot"), &Value::Null).await;
    assert_eq!(with_token(&mut client, &good, PODS).await.0, 401, "the account is gone");
    admin.ok("POST", ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    assert_eq!(with_token(&mut client, &good, PODS).await.0, 401, "another of the same name");
}

#[tokio::test]
async fn a_token_in_a_secret_holds_as_long_as_the_secret_and_its_account() {
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let mut client = cluster.client(None).await;
    let secret = |name: &str, account: &str| {
        json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": name,
            "annotations": {"kubernetes.io/service-account.name": account}}})
    };
    admin.ok("POST", ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    let mut tokens = Vec::new();
    for name in ["one", "two"] {
        admin.ok("POST", SECRETS, &secret(name, "bot")).await;
        let path = format!("{SECRETS}/{name}");
        let filled = until(&mut admin, &path, |one| one["data"]["token"].is_string()).await;
        let data = |key: &str| {
            let bytes = BASE64.decode(filled["data"][key].as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let root = std::fs::read_to_string(cluster.pki("ca.crt")).unwrap();
        assert_eq!((data("namespace"), data("ca.crt")), ("default".into(), root));
        tokens.push(data("token"));
    }
    // 403 is for who is known.
    for token in &tokens {
        assert_eq!(with_token(&mut client, token, PODS).await.0, 403);
    }
    admin.ok("DELETE", &format!("{SECRETS}/one"), &Value::Null).await;
    assert_eq!(with_token(&mut client, &tokens[0], PODS).await.0, 401, "its secret is gone");
    admin.ok("DELETE", &format!("{ACCOUNTS}/bot"), &Value::Null).await;
    assert_eq!(with_token(&mut client, &tokens[1], PODS).await.0, 401, "its account is gone");
    admin.ok("POST", SECRETS, &secret("three", "nobody")).await;
    until(&mut admin, SECRETS, |list| list["items"].as_array().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_token_ends_with_the_pod_it_is_bound_to() {
    let cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let mut host = cluster.client(Some("host")).await;
    let mut client = cluster.client(None).await;
    add_node(&mut host, "mine", 1).await;
    add_node(&mut admin, "theirs", 1).await;
    admin.ok("POST", ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    bind(&mut admin, "bot-views", "view", "system:serviceaccount:default:bot").await;
    for (name, node) in [("here", "mine"), ("there", "theirs")] {
        let mut pod = pod(name, "1Mi");
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["serviceAccountName"] = "bot".into();
        admin.ok("POST", PODS, &pod).await;
    }
    let request = |pod: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}});
    let path = format!("{ACCOUNTS}/bot/token");
    assert_eq!(host.json("POST", &path, &json!({})).await.0, 403, "not bound");
    assert_eq!(host.json("POST", &path, &request("there")).await.0, 403, "of another host");
    let issued = host.ok("POST", &path, &request("here")).await;
    let token = issued["status"]["token"].as_str().unwrap();
    assert_eq!(with_token(&mut client, token, PODS).await.0, 200);
    let review = json!({"spec": {"token": token}});
    let reviewed = admin.ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    let extra = &reviewed["status"]["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["here"]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["mine"]));
    host.ok("DELETE", &format!("{PODS}/here"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(with_token(&mut client, token, PODS).await.0, 401);
}
