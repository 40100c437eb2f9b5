//! Bad input answers with one clear line and a non-zero exit.

mod support;

use std::os::unix::net::UnixListener;

use support::{Daemon, Outcome, bulkhead};

const FAILED: i32 = 1;
const USAGE: i32 = 2;

#[test]
fn the_command_line_is_checked_before_anything_is_started() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Outcome::of(bulkhead(home.path(), args));
    run(&["cluster", "create", "Not_A_Label"]).refused(USAGE, &["Not_A_Label", "a-z"]);
    run(&["cluster", "create"]).refused(USAGE, &["NAME"]);
    run(&["cluster", "create", "a", "--memory", "12Q"]).refused(USAGE, &["12Q", "256M"]);
    run(&["cluster", "create", "a", "--memory", "-1"]).refused(USAGE, &["-1"]);
    run(&["cluster", "create", "a", "--nodes", "0"]).refused(USAGE, &["0", "1..=250"]);
    run(&["cluster", "create", "a", "--cpus", "33"]).refused(USAGE, &["33"]);
    run(&["cluster", "create", "a", "--api-port", "70000"]).refused(USAGE, &["70000"]);
    run(&["cluster", "creat", "a"]).refused(USAGE, &["creat", "'create'"]);
    run(&["run"]).refused(USAGE, &["COMMAND"]);
    run(&["kubeconfig", "../x"]).refused(USAGE, &["../x"]);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_configuration_is_checked_to_its_lines() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("cluster.yaml");
    let path = file.to_str().unwrap();
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Outcome::of(bulkhead(home.path(), &["cluster", "create", "--config", path]))
    };
    with("name: a\nnodes: 1\nnodez: 2\n").refused(FAILED, &[path, "line 3", "nodez"]);
    with("name: a\nnode:\n  memory: much\n").refused(FAILED, &["line 3", "much"]);
    with("name: [\n").refused(FAILED, &[path, "line"]);
    with("nodes: 2\n").refused(FAILED, &["no name"]);
    let missing = Outcome::of(bulkhead(home.path(), &["cluster", "create", "--config", "/none"]));
    missing.refused(FAILED, &["/none", "No such file"]);
}

#[test]
fn files_are_looked_at_before_a_daemon_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Outcome::of(bulkhead(home.path(), args));
    run(&["vm", "run", "--kernel", "/none"]).refused(FAILED, &["kernel /none", "No such file"]);
    run(&["vm", "run", "--kernel", "/"]).refused(FAILED, &["is a directory"]);
    run(&["image", "load", "/none.tar"]).refused(FAILED, &["/none.tar", "No such file"]);
    let directory = home.path().to_str().unwrap();
    run(&["image", "load", directory]).refused(FAILED, &[directory, "oci-layout"]);
}

#[test]
fn the_environment_is_checked() {
    let home = tempfile::tempdir().unwrap();
    let mut command = bulkhead(home.path(), &["cluster", "list"]);
    command.env("BULKHEAD_HOST", "cloud");
    Outcome::of(command).refused(FAILED, &["BULKHEAD_HOST=cloud", "'emulated'"]);
    let blocked = home.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let outcome = Outcome::of(bulkhead(&blocked.join("below"), &["cluster", "list"]));
    outcome.refused(FAILED, &[blocked.to_str().unwrap()]);
}

#[test]
fn a_daemon_that_hangs_up_is_named() {
    let home = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(home.path().join("host.sock")).unwrap();
    let hanging_up = std::thread::spawn(move || drop(listener.accept()));
    let outcome = Outcome::of(bulkhead(home.path(), &["cluster", "list"]));
    outcome.refused(FAILED, &["host daemon"]);
    hanging_up.join().unwrap();
}

#[test]
fn no_daemon_is_no_error_for_status_and_stop() {
    let home = tempfile::tempdir().unwrap();
    let status = Outcome::of(bulkhead(home.path(), &["host", "status", "-o", "json"]));
    assert_eq!((status.code, status.stdout.as_str()), (0, "{\n  \"running\": false\n}\n"));
    let stop = Outcome::of(bulkhead(home.path(), &["host", "stop"]));
    assert_eq!((stop.code, stop.stdout.as_str()), (0, "no host daemon runs\n"));
}

#[test]
fn what_the_daemon_refuses_is_said_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(home.path());
    let run = |args: &[&str]| Outcome::of(bulkhead(home.path(), args));
    for args in [
        &["cluster", "delete", "nobody"][..],
        &["cluster", "status", "nobody"],
        &["kubeconfig", "nobody"],
    ] {
        run(args).refused(FAILED, &["no such cluster", "bulkhead cluster list"]);
    }
}
