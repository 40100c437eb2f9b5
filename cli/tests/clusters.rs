//! What commands do to clusters, and what is left when they fail, are interrupted or killed.

mod support;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Daemon, Outcome, bulkhead};

fn claims(home: &Path) -> usize {
    std::fs::read_dir(home.join("claims")).map_or(0, Iterator::count)
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_cluster_is_created_listed_and_deleted() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let run = |args: &[&str]| Outcome::of(bulkhead(home.path(), args));
    let created = run(&["cluster", "create", "demo"]);
    assert_eq!(created.code, 0, "{created:?}");
    assert!(created.stdout.starts_with("cluster demo is ready in "), "{created:?}");
    let served = "\nIngresses are served at http://127.0.0.1:8080 and https://127.0.0.1:8443\n";
    assert!(created.stdout.contains(served), "{created:?}");
    assert_eq!(daemon.clusters(), ["demo"]);
    assert_eq!(claims(home.path()), 0, "it is the user's from now on");

    let listed = run(&["cluster", "list"]).stdout;
    assert!(listed.starts_with("NAME  STATUS   READY  SERVER"), "{listed}");
    assert!(listed.contains("demo  Running  1/1    https://127.0.0.1:6443"), "{listed}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&["cluster", "status", "demo", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["nodes"][0]["name"], "demo-1");
    assert_eq!(json["ingress"], serde_json::json!({"http": 8080, "https": 8443}));
    assert!(run(&["cluster", "status", "demo"]).stdout.contains(served));

    assert_eq!(run(&["kubeconfig", "demo", "--merge"]).code, 0);
    let kubeconfig = home.path().join(".kube/config");
    assert!(std::fs::read_to_string(&kubeconfig).unwrap().contains("current-context: demo"));
    assert_eq!(run(&["cluster", "delete", "demo"]).stdout, "cluster demo is deleted\n");
    assert!(!std::fs::read_to_string(&kubeconfig).unwrap().contains("demo"));
    assert_eq!(daemon.clusters(), Vec::<String>::new());
}

#[test]
fn an_existing_cluster_is_never_touched_by_a_create() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path()).with_cluster("taken");
    let outcome = Outcome::of(bulkhead(home.path(), &["cluster", "create", "taken"]));
    outcome.refused(1, &["taken already exists"]);
    assert_eq!(daemon.changes(), Vec::<String>::new());
    assert_eq!(claims(home.path()), 0);
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path()).failing("node bad-1 did not boot");
    let outcome = Outcome::of(bulkhead(home.path(), &["cluster", "create", "bad"]));
    outcome.refused(1, &["cluster bad: node bad-1 did not boot"]);
    assert_eq!(daemon.clusters(), Vec::<String>::new());
    assert_eq!(claims(home.path()), 0);
}

#[test]
fn an_interrupted_create_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path()).hanging();
    let mut child = bulkhead(home.path(), &["cluster", "create", "slow"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the create begins", || daemon.clusters() == ["slow"]);
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(daemon.clusters(), Vec::<String>::new());
    assert_eq!(claims(home.path()), 0);
}

#[test]
fn what_a_killed_create_left_goes_with_the_next_command() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path()).hanging().with_cluster("other");
    let mut child = bulkhead(home.path(), &["cluster", "create", "cut"]).spawn().unwrap();
    until("the create begins", || daemon.clusters() == ["other", "cut"]);
    let second = Outcome::of(bulkhead(home.path(), &["cluster", "create", "cut"]));
    second.refused(1, &["cut is being created"]);
    child.kill().unwrap();
    child.wait().unwrap();

    let next = Outcome::of(bulkhead(home.path(), &["cluster", "list", "-o", "json"]));
    assert!(next.stderr.contains("removing cluster cut"), "{next:?}");
    assert!(!next.stdout.contains("cut"), "{next:?}");
    assert_eq!(daemon.clusters(), ["other"]);
    assert_eq!(claims(home.path()), 0);
}

#[test]
fn a_run_returns_its_commands_status_and_removes_its_cluster() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let run = |args: &[&str]| Outcome::of(bulkhead(home.path(), args));
    let script = "cat $KUBECONFIG; exit 7";
    let outcome = run(&["run", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, 7, "{outcome:?}");
    assert!(outcome.stdout.contains("current-context"), "{outcome:?}");
    assert_eq!(run(&["run", "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(run(&["run", "--", "/no/such/command"]).code, 127);
    assert_eq!(run(&["run", "--", "/"]).code, 126);
    assert_eq!(daemon.clusters(), Vec::<String>::new());
    assert_eq!(daemon.changes().len(), 8, "four created, four deleted");
    assert_eq!(claims(home.path()), 0);
}

/// A `run` whose command waits, once it does.
fn waiting_run(home: &Path, daemon: &Daemon, script: &str) -> Child {
    let mark = home.join("runs");
    let script = format!("{script}; touch {}; while :; do sleep 0.05; done", mark.display());
    let child =
        bulkhead(home, &["run", "--", "sh", "-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    until("the command runs", || mark.exists());
    assert_eq!(daemon.clusters().len(), 1);
    child
}

#[test]
fn a_run_forwards_signals_and_removes_its_cluster() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let mut child = waiting_run(home.path(), &daemon, "trap 'exit 5' TERM");
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(5), "the command decides");
    assert_eq!(daemon.clusters(), Vec::<String>::new());
    assert_eq!(claims(home.path()), 0);
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_command() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let mut child = waiting_run(home.path(), &daemon, "echo $$ > $HOME/pid");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(daemon.clusters().len(), 1, "nobody could remove it");
    let pid = std::fs::read_to_string(home.path().join("pid")).unwrap();
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();

    assert_eq!(Outcome::of(bulkhead(home.path(), &["cluster", "list"])).code, 0);
    assert_eq!(daemon.clusters(), Vec::<String>::new());
    assert_eq!(claims(home.path()), 0, "its kubeconfig is gone too");
}
