//! What a beginner does with a cluster: kubectl alone, and a manifest as tutorials write them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulkhead_tests::{Home, PortForward, image, until};

/// A small site: its page is a ConfigMap, its password a Secret.
const SITE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data:
  index.html: |
    welcome
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: localhost/busybox:test
        imagePullPolicy: IfNotPresent
        command: [httpd, -f, -vv, -p, '8080', -h, /www]
        ports: [{containerPort: 8080}]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: site, mountPath: /www}]
      volumes: [{name: site, configMap: {name: site}}]
"#;

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_site_is_rolled_out_updated_and_reached() {
    let begun = Instant::now();
    let home = Home::new();
    let cluster = home.cluster("shop", 2);
    cluster.load_busybox();
    // The next release of the site's image.
    let layer = "echo two >release; tar -cf \"$1\" release";
    let next = image::with_layer(home.path(), "next", layer, None);
    home.run(&["image", "load", next.to_str().unwrap()]).ok();
    let manifest = home.path().join("site.yaml");
    std::fs::write(&manifest, SITE).unwrap();
    let manifest = manifest.to_str().unwrap();
    let client = cluster.kubectl();
    let outcome = |line: &str| {
        // For whoever reads where it stopped.
        println!("{:>6.1} s $ kubectl {line}", begun.elapsed().as_secs_f32());
        client.run(&line.split(' ').collect::<Vec<_>>())
    };
    let kubectl = |line: &str| outcome(line).ok();
    let rolled_out = || kubectl("rollout status deployment/web --timeout=120s");

    // A namespace of one's own, and the site in it.
    kubectl("create namespace shop");
    kubectl("config set-context --current --namespace=shop");
    let applied = kubectl(&format!("apply -f {manifest}"));
    for made in ["configmap/site", "secret/login", "service/web", "deployment.apps/web"] {
        assert!(applied.contains(&format!("{made} created")), "{applied}");
    }
    assert!(rolled_out().contains("deployment \"web\" successfully rolled out"));
    let all = kubectl("get all");
    for row in ["pod/web-", "service/web", "deployment.apps/web   2/2", "replicaset.apps/web-"] {
        assert!(all.contains(row), "{row}: {all}");
    }

    // More of it; the next release, and back.
    kubectl("scale deployment web --replicas=3");
    rolled_out();
    assert_eq!(kubectl("get deployment web -o jsonpath={.status.readyReplicas}"), "3");
    kubectl("set image deployment/web web=localhost/next:test");
    rolled_out();
    assert_eq!(kubectl("exec deploy/web -- cat /release"), "two\n");
    let history = kubectl("rollout history deployment/web");
    assert_eq!(history.lines().filter(|line| line.contains("<none>")).count(), 2, "{history}");
    kubectl("rollout undo deployment/web");
    rolled_out();
    let gone = outcome("exec deploy/web -- cat /release");
    assert!(gone.code != 0 && gone.stderr.contains("No such file"), "{gone}");

    // Its log, while it is asked for its page through a forwarded port.
    let pod = until("only the pods of the first release", Duration::from_secs(60), || {
        let pods = kubectl("get pods -l app=web -o name");
        let mut names = pods.lines();
        let first = names.next().filter(|_| names.count() == 2).map(str::to_owned);
        first.ok_or(pods)
    });
    let mut following =
        client.command(&["logs", "-f", &pod]).stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(following.stdout.take().unwrap()).lines().map_while(Result::ok);
    for target in [pod.as_str(), "deploy/web", "svc/web"] {
        let port = if target == "svc/web" { 80 } else { 8080 };
        let forward = PortForward::start(&client, target, port);
        let answer = forward.get("/index.html").unwrap();
        assert!(answer.ends_with("\r\n\r\nwelcome\n"), "{target}: {answer}");
    }
    let logged = log.find(|line| line.contains("/index.html"));
    assert!(logged.is_some(), "the request is not in the log");
    following.kill().unwrap();
    following.wait().unwrap();
    let name = pod.trim_start_matches("pod/");
    let page = format!("/api/v1/namespaces/shop/pods/{name}:8080/proxy/index.html");
    assert_eq!(kubectl(&format!("get --raw {page}")), "welcome\n");
}
