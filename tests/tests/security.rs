//! What a pod may do and who it is: seccomp profiles, its ServiceAccount's token.

use bulkhead_tests::{Home, Kubectl};
use serde_json::{Value, json};

/// A sleeping pod.
fn pod(name: &str, container: Value, volumes: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "volumes": volumes, "containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000"],
        }]},
    });
    if let (Some(into), Value::Object(from)) =
        (pod["spec"]["containers"][0].as_object_mut(), container)
    {
        into.extend(from);
    }
    pod
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_seccomp_profile_is_the_containers_or_its_pods() {
    let home = Home::new();
    let cluster = home.cluster("seccomp", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let mut of_pod = pod("of-pod", json!({}), json!([]));
    of_pod["spec"]["securityContext"] = profile("RuntimeDefault");
    let mut own = pod("own", json!({"securityContext": profile("Unconfined")}), json!([]));
    own["spec"]["securityContext"] = profile("RuntimeDefault");
    let profile = json!({"type": "Localhost", "localhostProfile": "strict.json"});
    let local = json!({"securityContext": {"seccompProfile": profile}});
    kubectl.apply_all(&[
        pod("none", json!({}), json!([])),
        of_pod,
        own,
        pod("local", local, json!([])),
    ]);
    for (name, mode) in [("none", "0"), ("of-pod", "2"), ("own", "0")] {
        kubectl.wait_phase(name, "Running");
        let script = "grep Seccomp: /proc/1/status /proc/self/status";
        let said = kubectl.sh(name, script).ok();
        let modes: Vec<&str> = said.split_whitespace().filter(|word| word.len() == 1).collect();
        assert_eq!(modes, [mode, mode], "{name}: {said}");
    }
    let local = kubectl.wait_phase("local", "Failed");
    let message = local["status"]["message"].as_str().unwrap();
    assert!(message.contains("seccompProfile.type: Localhost"), "{message}");
}

/// What the API server says of a token.
#[track_caller]
fn review(kubectl: &Kubectl, home: &Home, token: &str) -> Value {
    let review = home.path().join("review.json");
    let asked = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
    });
    std::fs::write(&review, asked.to_string()).unwrap();
    kubectl.run(&["create", "-f", review.to_str().unwrap(), "-o", "json"]).json()["status"].clone()
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_pods_token_is_its_accounts_and_ends_with_the_pod() {
    let home = Home::new();
    let cluster = home.cluster("token", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "serviceaccount", "robot"]).ok();
    let volumes = json!([{"name": "access", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}}]);
    let at = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounts = json!({"volumeMounts": [{"name": "access", "mountPath": at, "readOnly": true}]});
    let mut robot = pod("robot", mounts, volumes);
    robot["spec"]["serviceAccountName"] = "robot".into();
    kubectl.apply(&robot);
    kubectl.wait_phase("robot", "Running");
    let read = |file: &str| kubectl.sh("robot", &format!("cat {at}/{file}")).ok();
    assert_eq!(read("namespace"), "default");
    assert!(read("ca.crt").contains("BEGIN CERTIFICATE"));

    let token = read("token");
    let status = review(&kubectl, &home, &token);
    assert_eq!(status["authenticated"], true, "{status:#}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    let pod_name = &status["user"]["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(*pod_name, json!(["robot"]), "{status:#}");
    kubectl.run(&["delete", "pod", "robot"]).ok();
    let status = review(&kubectl, &home, &token);
    assert_ne!(status["authenticated"], true, "{status:#}");
}
