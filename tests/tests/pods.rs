//! Pods, from a real image to their end, through kubectl alone.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use bulkhead_tests::{Home, PortForward, Registry, Terminal, until};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/busybox:test";

/// A pod of one busybox container, called `c`.
fn pod(name: &str, container: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [
            {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}
        ]},
    });
    let merge = |into: &mut Value, from: Value| {
        let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) else { return };
        into.extend(from);
    };
    merge(&mut pod["spec"]["containers"][0], container);
    merge(&mut pod["spec"], spec);
    pod
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

fn never() -> Value {
    json!({"restartPolicy": "Never"})
}

fn terminated(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_pod_runs_logs_execs_and_goes() {
    let home = Home::new();
    let cluster = home.cluster("pods", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();

    kubectl.apply(&pod(
        "web",
        json!({
            "command": ["sh", "-c", "echo hello from $NAME; exec sleep $(DURATION)"],
            "env": [
                {"name": "DURATION", "value": "1000"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        }),
        json!({}),
    ));
    let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let running = kubectl.wait_pod("web", "is ready", ready);
    assert_eq!(running["status"]["phase"], "Running", "{running:#}");
    until("what it says is logged", Duration::from_secs(60), || {
        let log = kubectl.run(&["logs", "web"]).ok();
        if log == "hello from web\n" { Ok(()) } else { Err(log) }
    });
    assert_eq!(kubectl.run(&["exec", "web", "--", "hostname"]).ok(), "web\n");
    assert_eq!(kubectl.run(&["exec", "web", "--", "sh", "-c", "exit 42"]).code, 42);

    let table = kubectl.run(&["get", "pods"]).ok();
    assert!(table.contains("1/1") && table.contains("Running"), "{table}");

    kubectl.run(&["delete", "pod", "web", "--timeout=60s"]).ok();
    kubectl.run(&["get", "pod", "web"]).refused(&["NotFound"]);
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn ends_are_reported_as_they_were() {
    let home = Home::new();
    let cluster = home.cluster("ends", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();

    let hungry = json!({
        "command": ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"],
        "resources": {"limits": {"memory": "16Mi"}},
    });
    kubectl.apply_all(&[
        pod("good", sh("true"), never()),
        pod("bad", sh("exit 3"), never()),
        pod("hungry", hungry, never()),
        pod("again", sh("exit 1"), json!({})),
    ]);

    let good = kubectl.wait_phase("good", "Succeeded");
    assert_eq!(terminated(&good)["reason"], "Completed", "{good:#}");
    let bad = kubectl.wait_phase("bad", "Failed");
    assert_eq!(terminated(&bad)["exitCode"], 3, "{bad:#}");
    let hungry = kubectl.wait_phase("hungry", "Failed");
    assert_eq!(terminated(&hungry)["reason"], "OOMKilled", "{hungry:#}");
    kubectl.wait_pod("again", "backs off", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"].as_u64() >= Some(1)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn what_fits_nowhere_waits_and_what_is_unsupported_is_named() {
    let home = Home::new();
    let cluster = home.cluster("refuse", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();

    let huge = json!({"resources": {"requests": {"memory": "64Gi"}}});
    kubectl.apply(&pod("huge", huge, json!({})));
    let waiting = kubectl.wait_pod("huge", "unschedulable", |pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["reason"] == "Unschedulable")
    });
    assert_eq!(waiting["status"]["phase"], "Pending", "{waiting:#}");
    let events = kubectl.run(&["get", "events"]).ok();
    assert!(events.contains("FailedScheduling"), "{events}");
    assert!(events.contains("Insufficient memory"), "{events}");

    let host = json!({"hostPID": true});
    kubectl.apply(&pod("host", sh("sleep 1"), host));
    let refused = kubectl.wait_phase("host", "Failed");
    assert!(refused["status"]["message"].to_string().contains("hostPID"), "{refused:#}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn an_image_comes_from_a_registry_and_a_missing_one_backs_off() {
    let home = Home::new();
    let registry = Registry::start(home.path());
    let reference = registry.push_busybox();
    let cluster = home.cluster("pull", 1);
    let kubectl = cluster.kubectl();

    let image = |image: &str| json!({"image": image, "command": ["sleep", "1000"]});
    kubectl.apply(&pod("pulled", image(&reference), json!({})));
    kubectl.wait_phase("pulled", "Running");

    let missing = format!("{}/nothing:1", registry.address);
    kubectl.apply(&pod("missing", image(&missing), json!({})));
    kubectl.wait_pod("missing", "backs off", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn ports_are_forwarded_and_files_copied() {
    let home = Home::new();
    let cluster = home.cluster("forward", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let script = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www";
    kubectl.apply(&pod("web", sh(script), json!({})));
    kubectl.wait_phase("web", "Running");

    // kubectl gives up when nothing listens yet.
    until("the server in the pod listens", Duration::from_secs(60), || {
        let url = "http://127.0.0.1:8080/index.html";
        let asked = kubectl.sh("web", &format!("wget -q -O /dev/null {url}"));
        if asked.code == 0 { Ok(()) } else { Err(asked.stderr) }
    });
    let forward = PortForward::start(&kubectl, "web", 8080);
    let answer = forward.get("/index.html").unwrap();
    assert!(answer.ends_with("\r\n\r\nweb\n"), "{answer}");
    // Larger than any frame, and several at once.
    let file = home.path().join("large");
    std::fs::write(&file, "0123456789".repeat(50_000)).unwrap();
    let target = "web:/www/large";
    kubectl.run(&["cp", file.to_str().unwrap(), target]).ok();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let gets: Vec<_> = (0..3).map(|_| scope.spawn(|| forward.get("/large"))).collect();
        gets.into_iter().map(|get| get.join().unwrap().unwrap()).collect()
    });
    for answer in answers {
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.len(), 500_000);
    }
    let back = home.path().join("back");
    kubectl.run(&["cp", target, back.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&back).unwrap());

    let mut nothing = PortForward::start(&kubectl, "web", 9);
    assert_eq!(nothing.get("/").unwrap_or_default(), "");
    assert!(!nothing.ended().success(), "kubectl goes on where nothing listens");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn probes_decide_readiness_and_restarts_and_hooks_run() {
    let home = Home::new();
    let cluster = home.cluster("probes", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let http = json!({"httpGet": {"port": "web", "path": "/up"}, "periodSeconds": 1});
    let ready = json!({
        "command": ["sh", "-c", "mkdir -p /www; exec httpd -f -p 8080 -h /www"],
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": http,
        "lifecycle": {"postStart": {"exec": {"command": ["touch", "/started"]}}},
    });
    let alive = json!({
        "command": ["sh", "-c", "touch /alive; trap 'exit 0' TERM; while :; do sleep 1; done"],
        "livenessProbe": {"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1,
            "timeoutSeconds": 5, "failureThreshold": 2},
    });
    kubectl.apply_all(&[pod("ready", ready, json!({})), pod("alive", alive, json!({}))]);

    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let ready = kubectl.wait_pod("ready", "has started", |pod| status(pod)["started"] == true);
    assert_eq!(status(&ready)["ready"], false, "{ready:#}");
    let script = "test -e /started && echo up > /www/up";
    kubectl.sh("ready", script).ok();
    kubectl.wait_pod("ready", "is ready", |pod| status(pod)["ready"] == true);
    kubectl.sh("ready", "rm /www/up").ok();
    let ready = kubectl.wait_pod("ready", "is not", |pod| status(pod)["ready"] == false);
    assert_eq!(status(&ready)["restartCount"], 0, "{ready:#}");

    kubectl.wait_phase("alive", "Running");
    kubectl.sh("alive", "rm /alive").ok();
    kubectl
        .wait_pod("alive", "is restarted", |pod| status(pod)["restartCount"].as_u64() >= Some(1));
    let events = kubectl.run(&["get", "events"]).ok();
    for said in ["Readiness probe failed: HTTP probe failed with statuscode: 404", "Liveness probe"]
    {
        assert!(events.contains(said), "{said}: {events}");
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_silent_command_ends_with_its_client() {
    let home = Home::new();
    let cluster = home.cluster("silent", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply(&pod("web", sh("exec sleep 1000"), json!({})));
    kubectl.wait_phase("web", "Running");
    let mut client = kubectl.command(&["exec", "web", "--", "sleep", "1234"]).spawn().unwrap();
    let processes = || kubectl.sh("web", "ps -o args").ok();
    until("the command runs", Duration::from_secs(60), || {
        let all = processes();
        if all.contains("sleep 1234") { Ok(()) } else { Err(all) }
    });
    client.kill().unwrap();
    client.wait().unwrap();
    until("the command has ended", Duration::from_secs(60), || {
        let all = processes();
        if all.contains("sleep 1234") { Err(all) } else { Ok(()) }
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn an_attached_client_speaks_with_the_containers_own_process() {
    let home = Home::new();
    let cluster = home.cluster("attach", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let mut container = sh("while read line; do echo \"got $line\"; done; exit 3");
    container["stdin"] = true.into();
    container["stdinOnce"] = true.into();
    kubectl.apply(&pod("web", container, never()));
    kubectl.wait_phase("web", "Running");
    let mut attach = kubectl.command(&["attach", "--stdin", "web"]);
    let mut client =
        attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    for word in ["hello", "again"] {
        writeln!(stdin, "{word}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("got {word}\n"));
    }
    // The end of what the only client says is the end of what the container reads.
    drop(stdin);
    client.wait().unwrap();
    let ended = kubectl.wait_phase("web", "Failed");
    assert_eq!(terminated(&ended)["exitCode"], 3, "{ended:#}");
    assert_eq!(kubectl.run(&["logs", "web"]).ok(), "got hello\ngot again\n");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_pod_that_runs_is_debugged() {
    let home = Home::new();
    let cluster = home.cluster("debug", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let command = json!({"command": ["sh", "-c", "echo secret >/tmp/mine; exec sleep 4321"]});
    kubectl.apply(&pod("web", command, json!({})));
    kubectl.wait_phase("web", "Running");

    // A shell that sees the container's processes, and its files by them.
    let image = format!("--image={IMAGE}");
    let shell = ["debug", "-it", "web", &image, "--image-pull-policy=IfNotPresent"];
    let shell = [&shell[..], &["--target=c", "-c", "look", "--", "sh"]].concat();
    let shell = Terminal::run(&kubectl.command(&shell));
    // What it says before the client is attached is not heard.
    shell.shows("press");
    shell.types("\r");
    shell.shows(" # ");
    shell.types("ps | grep 432[1]; cat /proc/1/root/tmp/mine | rev\r");
    shell.shows("sleep 4321");
    shell.shows("terces");
    shell.types("exit 3\r");
    // Which exit status this has differs between kubectl's versions.
    let _ = shell.ended();

    let status = |pod: &Value, name: &str| {
        let all = pod["status"]["ephemeralContainerStatuses"].as_array().cloned();
        all.into_iter().flatten().find(|one| one["name"] == name).unwrap_or_default()
    };
    let ended = kubectl.wait_pod("web", "the shell's end", |pod| {
        status(pod, "look")["state"]["terminated"]["exitCode"] == 3
    });
    assert_eq!(ended["status"]["phase"], "Running");

    // What cannot be pulled keeps neither the pod nor another from running.
    kubectl.run(&["debug", "web", "--image=localhost/none:1", "-c", "lost"]).ok();
    kubectl.wait_pod("web", "an image that is not there", |pod| {
        let reason = status(pod, "lost")["state"]["waiting"]["reason"].clone();
        reason.as_str().is_some_and(|reason| reason.contains("ImagePull"))
    });
    let other = ["debug", "web", &image, "--image-pull-policy=IfNotPresent", "-c", "other", "--"];
    kubectl.run(&[&other[..], &["sh", "-c", "echo here; exec sleep 1000"]].concat()).ok();
    kubectl.wait_pod("web", "another container", |pod| {
        status(pod, "other")["state"]["running"].is_object()
    });
    assert_eq!(kubectl.run(&["logs", "web", "-c", "other"]).ok(), "here\n");
    assert_eq!(kubectl.run(&["exec", "web", "-c", "other", "--", "hostname"]).ok(), "web\n");
    // It sees its own processes alone.
    let ps = kubectl.run(&["exec", "web", "-c", "other", "--", "ps"]).ok();
    assert!(!ps.contains("4321"), "{ps}");
    kubectl.run(&["delete", "pod", "web", "--timeout=60s"]).ok();
}
