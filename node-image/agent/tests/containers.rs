//! The agent as an ordinary process, with real containers from a busybox directory layer.
//!
//! Needs root, cgroup v2 with its controllers, overlayfs, and a static busybox.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use bulkhead_agent_protocol::{
    AttachRange, ContainerImage, ExecRequest, ImageConfig, LogsRequest, PodAssignment, PodEvent,
    PodStatus, StreamFrame,
    client::{AgentClient, StreamOutput},
    status::PodPhase,
    stream::Data,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        // The scratch must take overlayfs's upper directories, which a 9p root does not.
        let directory = tempfile::tempdir_in("/run").unwrap();
        let path = |name: &str| directory.path().join(name);
        make_layer(&path("layers/1"));
        let process = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent"))
            .arg("serve")
            .args([Path::new("--listen"), &path("socket")])
            .args([Path::new("--layers"), &path("layers")])
            .args([Path::new("--data"), &path("data")])
            .args([Path::new("--run"), &path("run")])
            .spawn()
            .unwrap();
        Self { process, directory }
    }

    async fn client(&self) -> AgentClient {
        let deadline = Instant::now() + LIMIT;
        loop {
            match AgentClient::connect_unix(&self.directory.path().join("socket")).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The pid of the helper that waits, once it is another than `before`.
    async fn helper(&self, before: Option<u32>) -> u32 {
        let deadline = Instant::now() + LIMIT;
        let agent = self.process.id();
        loop {
            let children = format!("/proc/{agent}/task/{agent}/children");
            let children = fs::read_to_string(children).unwrap();
            let helper = children.split_whitespace().find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                // A container's first process is this program too until it executes its own.
                line.ends_with(b"\0__runtime\0")
                    && fs::read_link(format!("/proc/{pid}/fd/0"))
                        .is_ok_and(|input| input.to_string_lossy().starts_with("socket:"))
            });
            match helper.map(|pid| pid.parse().unwrap()) {
                Some(helper) if Some(helper) != before => return helper,
                _ => assert!(Instant::now() < deadline, "no helper waits: {children:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn apply(&self, uid: &str, spec: Value) {
        let mut client = self.client().await;
        client
            .attach_range(AttachRange { partition: 1, offset: 1 << 30, length: 4096 })
            .await
            .unwrap();
        client.apply_pod(assignment(uid, spec)).await.unwrap();
    }

    async fn until(&self, uid: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut watch = self.client().await.watch_pods().await.unwrap();
        let mut last = None;
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                if let PodEvent::Status(status) = watch.next().await.unwrap()
                    && status.uid == uid
                {
                    if wanted(&status) {
                        return *status;
                    }
                    last = Some(status);
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{last:#?}"))
    }

    async fn removed(&self, uid: &str, grace: u32) {
        let mut watch = self.client().await.watch_pods().await.unwrap();
        self.client().await.remove_pod(uid, grace).await.unwrap();
        let gone = tokio::time::timeout(LIMIT, async {
            loop {
                if matches!(watch.next().await.unwrap(), PodEvent::Removed { uid: gone, .. } if gone == uid)
                {
                    return;
                }
            }
        });
        gone.await.unwrap();
        assert!(!Path::new("/sys/fs/cgroup/bulkhead").join(uid).exists());
        assert!(!self.directory.path().join("data/pods").join(uid).exists());
    }

    async fn logs(&self, uid: &str, request: LogsRequest) -> String {
        let request = LogsRequest { uid: uid.into(), container: "c".into(), ..request };
        let (output, _) = read(self.client().await.logs(request).await.unwrap()).await;
        output
    }

    async fn exec(&self, uid: &str, script: &str) -> (String, i32) {
        let request = ExecRequest {
            uid: uid.into(),
            container: "c".into(),
            command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            ..ExecRequest::default()
        };
        let (_input, output) = self.client().await.exec(request).await.unwrap();
        read(output).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn read(mut output: StreamOutput) -> (String, i32) {
    let mut text = Vec::new();
    loop {
        match tokio::time::timeout(LIMIT, output.next()).await.unwrap().unwrap() {
            StreamFrame::Stdout(Data(bytes)) | StreamFrame::Stderr(Data(bytes)) => {
                text.extend(bytes);
            }
            StreamFrame::End { code } => return (String::from_utf8(text).unwrap(), code),
            other => panic!("{other:?}"),
        }
    }
}

fn make_layer(at: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).unwrap();
    fs::set_permissions(at.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for applet in
        ["sh", "sleep", "cat", "id", "hostname", "mknod", "head", "tail", "stty", "dd", "grep"]
    {
        symlink("busybox", at.join("bin").join(applet)).unwrap();
    }
    fs::write(at.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
        .unwrap();
    fs::write(at.join("etc/group"), "root:x:0:\nweb:x:34:\n").unwrap();
}

fn assignment(uid: &str, spec: Value) -> PodAssignment {
    let containers = ["initContainers", "containers"];
    let names = containers.iter().filter_map(|list| spec[*list].as_array()).flatten();
    let images: BTreeMap<_, _> = names
        .map(|container| {
            let image = ContainerImage {
                reference: "busybox".into(),
                id: "sha256:0".into(),
                layers: vec![1],
                config: ImageConfig::default(),
            };
            (container["name"].as_str().unwrap().to_owned(), image)
        })
        .collect();
    let metadata = json!({"name": "pod-x", "namespace": "default", "uid": uid});
    PodAssignment {
        pod: json!({"metadata": metadata, "spec": spec}),
        images,
        ip: None,
        data: bulkhead_agent_protocol::PodData::default(),
        previous: None,
    }
}

fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "busybox", "command": ["/bin/sh", "-c", script]})
}

fn with(mut container: Value, members: Value) -> Value {
    for (key, value) in members.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn a_helper_waits_and_one_that_is_killed_is_replaced() {
    let agent = Agent::start();
    let first = agent.helper(None).await;
    agent.apply("h", json!({"containers": [shell("sleep 1000")]})).await;
    agent.until("h", |status| status.phase == PodPhase::Running).await;
    let second = agent.helper(Some(first)).await;
    let killed = Command::new("kill").args(["-9", &second.to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(agent.exec("h", "echo $((6 * 7))").await, ("42\n".into(), 0));
    agent.helper(Some(second)).await;
    agent.removed("h", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn a_pod_runs_to_its_end_and_leaves_nothing() {
    let agent = Agent::start();
    let script = "echo $GREETING $(hostname) $(id -u):$(id -g); echo oops >&2; echo why > /dev/termination-log; exit 3";
    let container = with(
        shell(script),
        json!({
        "env": [{"name": "GREETING", "value": "hello"}],
        "securityContext": {"runAsUser": 33}}),
    );
    agent.apply("run", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let status = agent.until("run", |status| status.phase == PodPhase::Failed).await;
    let end = status.container_statuses[0].state.terminated.clone().unwrap();
    assert_eq!((end.exit_code, end.message.as_deref()), (3, Some("why\n")));
    let log = agent.logs("run", LogsRequest::default()).await;
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["hello pod-x 33:34", "oops"]);
    agent.removed("run", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn exec_joins_the_container_and_devices_are_refused() {
    let agent = Agent::start();
    let script = "echo ready; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    agent.apply("exec", json!({"containers": [shell(script)]})).await;
    agent.until("exec", |status| status.phase == PodPhase::Running).await;
    assert_eq!(agent.exec("exec", "echo out; exit 7").await, ("out\n".into(), 7));
    let (_, code) = agent.exec("exec", "mknod /tmp/mem c 1 1 && head -c1 /tmp/mem").await;
    assert_ne!(code, 0, "a container reads /dev/mem");
    assert_eq!(agent.exec("exec", "mknod /tmp/n c 1 3 && cat /tmp/n").await.1, 0);
    let request = ExecRequest {
        uid: "exec".into(),
        container: "c".into(),
        command: vec!["/bin/cat".into()],
        stdin: true,
        tty: false,
    };
    let (mut input, output) = agent.client().await.exec(request).await.unwrap();
    let sent = "x".repeat(300_000);
    let (fed, received) = tokio::join!(
        async {
            input.stdin(sent.as_bytes()).await.unwrap();
            input.close_stdin().await
        },
        read(output)
    );
    fed.unwrap();
    assert_eq!(received.1, 0);
    assert_eq!(received.0.len(), sent.len());
    let request = ExecRequest {
        uid: "exec".into(),
        container: "c".into(),
        command: ["/bin/sh", "-c", "sleep 0.3; stty size"].map(String::from).to_vec(),
        stdin: true,
        tty: true,
    };
    let (mut input, output) = agent.client().await.exec(request).await.unwrap();
    input.resize(101, 42).await.unwrap();
    assert_eq!(read(output).await, ("42 101\r\n".into(), 0));
    agent.removed("exec", 10).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn a_memory_limit_holds_and_is_named() {
    let agent = Agent::start();
    let container = with(
        shell("tail -c 200000000 /dev/zero"),
        json!({
        "resources": {"limits": {"memory": "16Mi"}}}),
    );
    agent.apply("oom", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let status = agent.until("oom", |status| status.phase == PodPhase::Failed).await;
    let end = status.container_statuses[0].state.terminated.clone().unwrap();
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));
    agent.removed("oom", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn limits_of_processor_and_processes_hold_and_a_command_begins_where_it_is_told() {
    let agent = Agent::start();
    let container = with(
        shell("pwd; cat /sys/fs/cgroup/pids.max; while :; do :; done"),
        json!({"workingDir": "/tmp", "resources": {"limits": {"cpu": "100m"}}}),
    );
    agent
        .apply("slow", json!({"terminationGracePeriodSeconds": 0, "containers": [container]}))
        .await;
    agent.until("slow", |status| status.phase == PodPhase::Running).await;
    let mut client = agent.client().await;
    let mut used = async || client.stats().await.unwrap().pods[0].containers[0].cpu_ns;
    // A fifth of a second of the processor's time takes two: load can make it more, and nothing less.
    let begun = Instant::now();
    let before = used().await;
    while used().await < before + 200_000_000 {
        assert!(begun.elapsed() < LIMIT, "it does not run");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(agent.logs("slow", LogsRequest::default()).await, "/tmp\n4096\n");
    agent.removed("slow", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn volumes_are_shared_and_a_read_only_root_is_one() {
    let agent = Agent::start();
    let mounts = json!([{"name": "v", "mountPath": "/v", "subPath": "a/b"}]);
    let first = json!({"name": "first", "image": "busybox", "volumeMounts": mounts,
        "command": ["/bin/sh", "-c", "echo kept > /v/file"]});
    let second = with(
        shell("cat /v/file; echo x > /file || echo read-only; test -w /v && echo writable"),
        json!({"volumeMounts": mounts, "securityContext": {"readOnlyRootFilesystem": true}}),
    );
    agent
        .apply(
            "vol",
            json!({"restartPolicy": "Never", "initContainers": [first],
            "containers": [second], "volumes": [{"name": "v", "emptyDir": {}}]}),
        )
        .await;
    agent.until("vol", |status| status.phase == PodPhase::Succeeded).await;
    let log = agent.logs("vol", LogsRequest::default()).await;
    let lines: Vec<_> = log.lines().collect();
    for line in ["kept", "read-only", "writable"] {
        assert!(lines.contains(&line), "{log}");
    }
    agent.removed("vol", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn a_program_that_is_not_there_is_a_start_error() {
    let agent = Agent::start();
    let container = json!({"name": "c", "image": "busybox", "command": ["/no/such"]});
    agent.apply("none", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let status = agent.until("none", |status| status.phase == PodPhase::Failed).await;
    let end = status.container_statuses[0].state.terminated.clone().unwrap();
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));
    assert!(end.message.unwrap().contains("/no/such"));
    let left: Vec<PathBuf> = fs::read_dir(agent.directory.path().join("run/bundles"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    agent.removed("none", 0).await;
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn the_default_seccomp_profile_filters_and_changes_nothing_else() {
    let agent = Agent::start();
    let report = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u
        busybox unshare -m true 2>/dev/null && echo unshared || echo refused";
    let run = async |uid: &str, profile: &str, context: Value| {
        let context = with(context, json!({"seccompProfile": {"type": profile}}));
        let script = format!("{report}; trap 'exit 0' TERM; while :; do sleep 0.1; done");
        let container = with(shell(&script), json!({"securityContext": context}));
        agent.apply(uid, json!({"containers": [container]})).await;
        agent.until(uid, |status| status.phase == PodPhase::Running).await;
        let (in_exec, _) = agent.exec(uid, report).await;
        // The first process is no other than one that joins it.
        let first = agent.logs(uid, LogsRequest::default()).await;
        assert!(in_exec.starts_with(&first) || first.starts_with(&in_exec), "{first}\n{in_exec}");
        agent.removed(uid, 10).await;
        let (seccomp, rest): (Vec<&str>, Vec<&str>) =
            in_exec.lines().partition(|line| line.starts_with("Seccomp:"));
        (seccomp.join(""), rest.join("\n"))
    };
    for (uid, context, outcome) in [
        ("web", json!({"runAsUser": 33}), "refused"),
        ("admin", json!({"capabilities": {"add": ["SYS_ADMIN"]}}), "unshared"),
        ("plain", json!({"capabilities": {"drop": ["SETPCAP"]}}), "refused"),
    ] {
        let (off, free) = run(&format!("{uid}-free"), "Unconfined", context.clone()).await;
        let (on, filtered) = run(&format!("{uid}-filtered"), "RuntimeDefault", context).await;
        assert_eq!((off.as_str(), on.as_str()), ("Seccomp:\t0", "Seccomp:\t2"));
        assert!(filtered.ends_with(outcome), "{filtered}");
        assert_eq!(free, filtered, "{uid}");
    }
}

#[tokio::test]
#[ignore = "needs root and cgroup v2: run by ci/test-vms"]
async fn what_a_container_uses_is_measured() {
    let agent = Agent::start();
    let spec = json!({"terminationGracePeriodSeconds": 0,
        "containers": [shell("while :; do :; done")]});
    agent.apply("busy", spec).await;
    agent.until("busy", |status| status.phase == PodPhase::Running).await;
    let mut client = agent.client().await;
    let deadline = Instant::now() + LIMIT;
    loop {
        let stats = client.stats().await.unwrap();
        let container = &stats.pods[0].containers[0];
        assert_eq!((stats.pods[0].uid.as_str(), container.name.as_str()), ("busy", "c"));
        if container.cpu_ns > 100_000_000 {
            assert!(container.running_ns >= container.cpu_ns / 2, "{stats:?}");
            assert!(container.running_ns <= stats.uptime_ns && container.memory > 0, "{stats:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.removed("busy", 0).await;
}
