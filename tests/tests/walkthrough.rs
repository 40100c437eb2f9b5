//! What a beginner does with a cluster: kubectl alone, and a manifest as tutorials write them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulkhead_tests::{Home, Outcome, PortForward, Terminal, image, until};

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
fn a_beginner_finds_everything_where_the_tutorials_say() {
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

    // A shell in it.
    let shell = Terminal::run(&client.command(&["exec", "-it", "deploy/web", "--", "sh"]));
    shell.shows(" # ");
    shell.types("echo $PASSWORD | rev\r");
    shell.shows("2retnuh");
    shell.types("exit 3\r");
    assert_eq!(shell.ended(), 3);
    assert!(!shell.is_raw(), "the terminal is left as it was");

    // A file to it and back.
    let (file, back) = (home.path().join("file"), home.path().join("back"));
    std::fs::write(&file, "0123456789".repeat(20_000)).unwrap();
    let (file, back) = (file.to_str().unwrap(), back.to_str().unwrap());
    kubectl(&format!("cp {file} {name}:/tmp/file"));
    kubectl(&format!("cp {name}:/tmp/file {back}"));
    assert_eq!(std::fs::read(file).unwrap(), std::fs::read(back).unwrap());

    // What there is to know of it.
    let node = kubectl(&format!("get {pod} -o jsonpath={{.spec.nodeName}}"));
    for (object, words) in [
        (pod.as_str(), ["PASSWORD:  <set to the key 'password'", "Started container web"]),
        ("deployment web", ["3 desired | 3 updated | 3 total | 3 available", "ScalingReplicaSet"]),
        (&format!("node {node}"), ["Non-terminated Pods:", name]),
    ] {
        let described = kubectl(&format!("describe {}", object.replace('/', " ")));
        for words in words {
            assert!(described.contains(words), "{words}: {described}");
        }
    }

    // What it uses, once that has been measured.
    for (what, named) in [("nodes", node.as_str()), ("pods", name)] {
        until(&format!("top tells of {named}"), Duration::from_secs(60), || {
            let told = outcome(&format!("top {what}"));
            let found = told.code == 0 && told.stdout.contains(named);
            if found { Ok(()) } else { Err(told.to_string()) }
        });
    }

    // A node is emptied, and the site goes on elsewhere.
    let drained = kubectl(&format!("drain {node} --ignore-daemonsets --timeout=120s"));
    assert!(drained.contains(&format!("node/{node} drained")), "{drained}");
    rolled_out();
    let nodes = kubectl("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}");
    assert!(!nodes.is_empty() && !nodes.contains(&node), "{nodes}");
    kubectl(&format!("uncordon {node}"));

    // And it is cleared away.
    kubectl(&format!("delete -f {manifest} --timeout=60s"));
    kubectl("wait --for=delete pod -l app=web --timeout=60s");
    kubectl("delete namespace shop --timeout=60s");
    outcome("get namespace shop").refused(&["NotFound"]);
}

/// Clients that speak SPDY, of long ago or where no WebSocket gets through, and an older one that does not.
#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn older_clients_stream() {
    let home = Home::new();
    let cluster = home.cluster("older", 1);
    cluster.load_busybox();
    let newest = cluster.kubectl();
    newest.apply(&serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "hostname >/tmp/name; exec httpd -f -p 8080 -h /tmp"],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }]},
    }));
    newest.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    let large = home.path().join("large");
    std::fs::write(&large, "0123456789".repeat(50_000)).unwrap();

    let without_websockets = || {
        cluster
            .kubectl()
            .with("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
            .with("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")
    };
    let of = |version| cluster.kubectl().version(version);
    for kubectl in [of("1.20"), without_websockets().version("1.33"), of("1.33")] {
        let script = "echo out; echo err >&2; exit 42";
        let ended = kubectl.run(&["exec", "web", "--", "sh", "-c", script]);
        assert_eq!((ended.code, ended.stdout.as_str()), (42, "out\n"), "{ended}");
        assert!(ended.stderr.contains("err\n"), "{ended}");

        let cat = Outcome::of(
            kubectl
                .command(&["exec", "-i", "web", "--", "md5sum"])
                .stdin(std::fs::File::open(&large).unwrap()),
        );
        let expected = Outcome::of(std::process::Command::new("md5sum").arg(&large)).ok();
        assert_eq!(cat.ok().split(' ').next(), expected.split(' ').next());

        let shell = Terminal::run(&kubectl.command(&["exec", "-it", "web", "--", "sh"]));
        shell.shows(" # ");
        shell.types("echo a$((1+1))b\r");
        shell.shows("a2b");
        shell.types("exit 3\r");
        assert_eq!(shell.ended(), 3);

        let target = "web:/tmp/large";
        kubectl.run(&["cp", large.to_str().unwrap(), target]).ok();
        let forward = PortForward::start(&kubectl, "web", 8080);
        assert!(forward.get("/name").unwrap().ends_with("\r\n\r\nweb\n"));
        let answer = forward.get("/large").unwrap();
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 500_000);
    }
}
