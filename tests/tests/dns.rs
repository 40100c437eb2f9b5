//! Names as pods look them up.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, Outcome, until};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// A name server that the host asks, for this test's processes alone; gone when dropped.
struct World {
    process: Child,
    _dir: tempfile::TempDir,
}

impl World {
    const ADDRESS: &str = "127.0.0.54";

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", Self::ADDRESS)).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let place = Path::new("/etc/resolv.conf").canonicalize().unwrap();
        mount(Some(&file), &place, none, MsFlags::MS_BIND, none).unwrap();
        let process = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv"])
            .args(["--no-hosts", "--bind-interfaces", "--user=root", "--local=/example.test/"])
            .arg(format!("--listen-address={}", Self::ADDRESS))
            .arg("--host-record=www.example.test,127.0.0.9")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, _dir: dir }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a pod looks a name up to be. It has busybox's `nslookup`, which takes the server from
/// `resolv.conf`, and its search list for names without a dot; it fails if any of those has none.
fn resolve(kubectl: &Kubectl, name: &str) -> Result<Vec<String>, String> {
    let outcome = kubectl.sh("client", &format!("nslookup -type=a {name}"));
    let addresses = outcome.stdout.lines().filter_map(|line| line.strip_prefix("Address:"));
    // The server's is there as well, with its port.
    let found: Vec<String> =
        addresses.map(|one| one.trim().to_owned()).filter(|one| !one.contains(':')).collect();
    if found.is_empty() { Err(outcome.to_string()) } else { Ok(found) }
}

#[track_caller]
fn finds(kubectl: &Kubectl, name: &str, addresses: &[&str]) {
    until(&format!("{name} is {addresses:?}"), LIMIT, || {
        let mut found = resolve(kubectl, name)?;
        found.sort();
        if found == addresses { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// What Debian's dig is answered about a name, in order.
#[track_caller]
fn digs(kubectl: &Kubectl, query: &[&str], answers: &[&str]) {
    until(&format!("dig {query:?} says {answers:?}"), LIMIT, || {
        let outcome = kubectl.sh("client", &format!("dig +short {}", query.join(" ")));
        let mut found: Vec<&str> = outcome.stdout.lines().collect();
        found.sort_unstable();
        if found == answers { Ok(()) } else { Err(outcome.to_string()) }
    });
}

fn container(image: &str) -> serde_json::Value {
    json!({"name": "c", "image": format!("localhost/{image}:test"),
           "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"]})
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn pods_find_services_each_other_and_the_world() {
    let _world = World::new();
    let home = Home::new();
    let cluster = home.cluster("names", 1);
    cluster.load_busybox();
    cluster.load_image("dnsutils");
    let kubectl = cluster.kubectl();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"name": "sql", "port": 5432}]},
    });
    let pods = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db", "replicas": 2, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container("busybox")]},
            },
        },
    });
    let client = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container("dnsutils")]},
    });
    let elsewhere = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere"},
        "spec": {"type": "ExternalName", "externalName": "www.example.test"},
    });
    kubectl.apply_all(&[service, pods, client, elsewhere]);
    kubectl.wait_phase("client", "Running");
    let ip = |pod: &str| {
        kubectl.wait_phase(pod, "Running")["status"]["podIP"].as_str().unwrap().to_owned()
    };
    let [first, second] = ["db-0", "db-1"].map(ip);

    let service = kubectl.run(&["-n", "kube-system", "get", "service", "kube-dns", "-o", "json"]);
    assert_eq!(service.json()["spec"]["clusterIP"], "10.96.0.10");
    finds(&kubectl, "kubernetes", &["10.96.0.1"]);
    finds(&kubectl, "kubernetes.default.svc.cluster.local", &["10.96.0.1"]);
    finds(&kubectl, "db-0.db.default.svc.cluster.local", &[&first]);
    finds(&kubectl, "db-1.db.default.svc.cluster.local", &[&second]);
    let mut both = [first.as_str(), &second];
    both.sort_unstable();
    finds(&kubectl, "db", &both);
    finds(&kubectl, "www.example.test", &["127.0.0.9"]);
    digs(&kubectl, &["-x", &first], &["db-0.db.default.svc.cluster.local."]);
    let records =
        [0, 1].map(|number| format!("0 100 5432 db-{number}.db.default.svc.cluster.local."));
    let service = "_sql._tcp.db.default.svc.cluster.local";
    digs(&kubectl, &["SRV", service], &[&records[0], &records[1]]);
    digs(&kubectl, &["elsewhere.default.svc.cluster.local"], &["127.0.0.9", "www.example.test."]);
    let nothing = resolve(&kubectl, "none.default.svc.cluster.local").unwrap_err();
    assert!(nothing.contains("NXDOMAIN"), "{nothing}");

    // Killed, it is there again, and leaves nothing with the cluster.
    let pids = || home.pids("bulkhead-dns");
    let before = pids();
    assert_eq!(before.len(), 1, "{:?}", home.processes());
    Outcome::of(Command::new("kill").args(["-9", &before[0]])).ok();
    finds(&kubectl, "kubernetes", &["10.96.0.1"]);
    finds(&kubectl, "db-0.db.default.svc.cluster.local", &[&first]);
    until("another process", LIMIT, || match pids() {
        after if after.len() == 1 && after != before => Ok(()),
        after => Err(format!("{after:?}")),
    });
    drop(cluster);
    until("no process is left", LIMIT, || match pids() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}
