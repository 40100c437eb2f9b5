//! Ingresses: served where the CLI says, by whatever pods there are.

use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, Outcome, until};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/busybox:test";

/// Each pod serves its own name.
fn deployment(replicas: u32) -> Value {
    let script = "mkdir /www; echo $NAME >/www/index.html; exec httpd -f -p 8080 -h /www";
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": "web"}},
                    }],
                    "containers": [{
                        "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", script],
                        "env": [{"name": "NAME", "valueFrom": {
                            "fieldRef": {"fieldPath": "metadata.name"},
                        }}],
                        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    }],
                },
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn ingress() -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    let rule = |host: &str| json!({"host": host, "http": {"paths": paths}});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {
            "tls": [{"hosts": ["secure.example.com"], "secretName": "cert"}],
            "rules": [rule("web.example.com"), rule("secure.example.com")],
        },
    })
}

/// What curl gets from a URL whose host is this machine.
fn curl(args: &[&str]) -> Outcome {
    Outcome::of(Command::new("curl").args(["-sS", "--fail", "--max-time", "20"]).args(args))
}

/// Asks until it answers.
#[track_caller]
fn answer(args: &[&str]) -> String {
    until(&format!("curl {args:?}"), Duration::from_secs(60), || {
        let outcome = curl(args);
        if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.stderr) }
    })
}

/// A certificate for `secure.example.com` in the Secret `cert`, and its file.
fn certificate(home: &Home, kubectl: &Kubectl) -> String {
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                -subj /CN=secure.example.com -addext subjectAltName=DNS:secure.example.com";
    let make = format!("{make} -keyout {key} -out {certificate}");
    Outcome::sh(&make).ok();
    let (cert, key) = (format!("--cert={certificate}"), format!("--key={key}"));
    kubectl.run(&["create", "secret", "tls", "cert", &cert, &key]).ok();
    certificate
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_web_application_is_served_where_the_cluster_says() {
    let home = Home::new();
    let cluster = home.cluster("front", 2);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply_all(&[deployment(2), service(), ingress()]);
    let status = home.run(&["cluster", "status", "front", "-o", "json"]).json();
    let (http, https) = (&status["ingress"]["http"], &status["ingress"]["https"]);
    let plain = format!("http://web.example.com:{http}/");
    let to_http = format!("web.example.com:{http}:127.0.0.1");
    let get = ["--resolve", &to_http, &plain];
    assert!(answer(&get).starts_with("web-"));
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    let mut names: Vec<String> = (0..10).map(|_| answer(&get)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2, "pods of both nodes: {names:?}");

    // Over TLS, where clients without it are sent.
    let authority = certificate(&home, &kubectl);
    let plain = format!("http://secure.example.com:{http}/");
    let to = [http, https].map(|port| format!("secure.example.com:{port}:127.0.0.1"));
    let secure =
        ["--location", "--cacert", &authority, "--resolve", &to[0], "--resolve", &to[1], &plain];
    assert!(answer(&secure).starts_with("web-"));
    let address = ["get", "ingress", "web", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"];
    assert_eq!(kubectl.run(&address).ok(), "127.0.0.1");

    // It does not need the daemon, and if it ends itself it is started again.
    let pids = home.processes();
    for (program, comes_back) in [("bulkhead-host", false), ("bulkhead-ingress", true)] {
        let running = |pids: &[String]| -> Vec<String> {
            let of = |line: &String| {
                let (pid, command) = line.split_once(' ')?;
                command.split(' ').next()?.ends_with(program).then(|| pid.to_owned())
            };
            pids.iter().filter_map(of).collect()
        };
        let killed = running(&pids);
        assert_eq!(killed.len(), 1, "{pids:?}");
        Outcome::of(Command::new("kill").args(["-9", &killed[0]])).ok();
        if comes_back {
            // The next command starts a daemon, which starts it anew.
            home.run(&["cluster", "list"]).ok();
            answer(&get);
            assert_ne!(running(&home.processes()), killed);
        } else {
            curl(&get).ok();
        }
    }
}
