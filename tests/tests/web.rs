//! A beginner's web application, with real programs: it answers at all of its addresses those who may
//! ask, and goes on doing so while it is updated and when a node dies.

use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_tests::load::{Failure, Load};
use bulkhead_tests::{Home, Kubectl, Outcome, until};
use serde_json::Value;

/// As tutorials have it.
const SITE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data:
  index.html: |
    welcome
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: localhost/nginx:test
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: site, mountPath: /usr/share/nginx/html}]
      volumes: [{name: site, configMap: {name: site}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.example.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: web, port: {number: 80}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: client}}}]
    ports: [{port: 80}]
"#;

const NODE_PORT: u16 = 30080;

const PAGE: &str = "\r\n\r\nwelcome\n";

/// One client that is admitted and one that is not. The first asks for the page again and again, by
/// the Service's name and by the port of its own node, each time over a new connection. It says what
/// went wrong, and now and then how many answers it got.
const CLIENTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {role: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: curl
    image: localhost/nettools:test
    imagePullPolicy: IfNotPresent
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
    command: [sh, -c]
    args:
    - |
      ask() {
        curl --silent --rate 300/m --max-time 30 --header 'Connection: close' --output /dev/null \
          --write-out '%{stderr}%{exitcode} %{http_code} %{time_connect} %{errormsg}\n' \
          "http://$2/?[1-1000000]" 2>&1 |
        awk -v way="$1" '
          $1 == 0 && $2 == 200 { if (++n % 5 == 0) { print way, "answered", n; fflush() }; next }
          { print way, "failed", $0; fflush() }'
      }
      ask name web &
      ask port "$NODE:30080"
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: curl
    image: localhost/nettools:test
    imagePullPolicy: IfNotPresent
    command: [sleep, "1000000"]
"#;

/// How long things may take that a loaded machine does.
const LIMIT: Duration = Duration::from_secs(240);

/// The client's ways.
const WAYS: [&str; 2] = ["name", "port"];

/// What the client in the cluster has said of each of its ways: how many answers it got, and what went
/// wrong.
fn client(kubectl: &Kubectl) -> [(usize, Vec<String>); 2] {
    let log = kubectl.run(&["logs", "client"]).ok();
    WAYS.map(|way| {
        let said = |what: &str| {
            let prefix = format!("{way} {what} ");
            log.lines().filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned())).collect()
        };
        let answered: Vec<String> = said("answered");
        (answered.last().map_or(0, |number| number.parse().unwrap()), said("failed"))
    })
}

/// Waits until everybody has got so many more answers.
#[track_caller]
fn all_are_answered(kubectl: &Kubectl, outside: &Load, more: usize) {
    let enough = client(kubectl).map(|(answers, _)| answers + more);
    outside.answers(more);
    until("the client is answered by each way", LIMIT, || {
        let now = client(kubectl);
        let answered = now.iter().zip(enough).all(|((answers, _), enough)| *answers >= enough);
        if answered { Ok(()) } else { Err(format!("{now:?}, not {enough:?}")) }
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_site_answers_through_an_update_and_the_death_of_a_node() {
    let begun = Instant::now();
    let home = Home::new();
    let cluster = home.cluster("web", 3);
    cluster.load_image("nginx");
    cluster.load_image("nettools");
    let kubectl = cluster.kubectl();
    let ok = |line: &str| {
        // For whoever reads where it stopped.
        println!("{:>6.1} s $ kubectl {line}", begun.elapsed().as_secs_f32());
        kubectl.run(&line.split(' ').collect::<Vec<_>>()).ok()
    };
    let rolled_out = || ok("rollout status deployment/web --timeout=240s");
    kubectl.apply_text(&format!("{SITE}---{CLIENTS}"));
    rolled_out();
    let nodes_of = |pods: &str| ok(&format!("get pods {pods} -o jsonpath={{..spec.nodeName}}"));
    let nodes = nodes_of("-l app=web");
    for node in ["web-1", "web-2", "web-3"] {
        assert!(nodes.contains(node), "one pod per node: {nodes}");
    }

    // Who may not ask is refused, be it in the cluster or outside; who may is answered. That curl
    // could not connect, and not that it was left to wait, is its exit code 7.
    kubectl.wait_phase("stranger", "Running");
    let stranger = kubectl.sh("stranger", "curl -sS -m 30 http://web/");
    assert_eq!(stranger.code, 7, "{stranger}");
    let curl = |url: &str| {
        Outcome::of(Command::new("curl").args(["-sS", "--fail", "--max-time", "30", url]))
    };
    let outside = curl(&format!("http://{}:{NODE_PORT}/", cluster.outside_address()));
    assert_eq!(outside.code, 7, "{outside}");
    let status = home.run(&["cluster", "status", "web", "-o", "json"]).json();
    assert_eq!(status["nodePortAddress"], cluster.outside_address().to_string());
    let port = u16::try_from(status["ingress"]["http"].as_u64().unwrap()).unwrap();
    let outside = Load::on(([127, 0, 0, 1], port).into(), "web.example.com", PAGE);
    kubectl.wait_phase("client", "Running");
    all_are_answered(&kubectl, &outside, 20);

    // The next release.
    ok("set image deployment/web nginx=localhost/nginx:next");
    rolled_out();
    all_are_answered(&kubectl, &outside, 20);
    assert!(outside.failures().is_empty(), "{:#?}", outside.failures());
    for (way, (_, failures)) in WAYS.iter().zip(client(&kubectl)) {
        assert_eq!(failures, [""; 0], "by {way}");
    }

    // A node dies that serves.
    let here = nodes_of("client");
    let nodes = nodes_of("-l app=web");
    let node = nodes.split(' ').find(|node| *node != here).unwrap();
    let index: usize = node.strip_prefix("web-").unwrap().parse().unwrap();
    let pid = cluster.monitor_pid(index - 1).to_string();
    println!("{:>6.1} s kill -9 the monitor of {node}", begun.elapsed().as_secs_f32());
    Outcome::of(Command::new("kill").args(["-9", &pid])).ok();
    let killed = Instant::now();
    all_are_answered(&kubectl, &outside, 20);
    until("the node's pods are back", LIMIT, || {
        let deployment: Value = kubectl.run(&["get", "deployment", "web", "-o", "json"]).json();
        let ready = &deployment["status"]["readyReplicas"];
        if *ready == 3 { Ok(()) } else { Err(ready.to_string()) }
    });
    all_are_answered(&kubectl, &outside, 20);
    // What was open to it is lost. Nothing else is: not what was being opened either.
    let lost = |failure: &Failure| failure.connected && failure.begun < killed;
    let failures = outside.failures();
    assert!(failures.iter().all(lost), "killed at {killed:?}: {failures:#?}");
    for (way, (_, failures)) in WAYS.iter().zip(client(&kubectl)) {
        // Exit code, status, seconds until it was connected. It has one connection at a time.
        let lost = |line: &String| line.split(' ').nth(2).is_some_and(|time| time != "0.000000");
        assert!(failures.len() <= 1 && failures.iter().all(lost), "by {way}: {failures:?}");
    }
}
