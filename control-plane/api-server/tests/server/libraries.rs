//! Client libraries against the real server: programs in `tests/libraries`, run with what
//! `ci/install-tools` puts into the workspace's `target/tools`.

use std::path::PathBuf;
use std::process::Command;

use crate::common::Cluster;
use crate::common::kubectl::Kubectl;

fn workspace(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// Runs a program with the admin's kubeconfig behind its arguments.
fn run(command: &mut Command) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let output = command.arg(kubectl.kubeconfig()).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("all is well"), "{stdout}\n{stderr}");
}

#[test]
fn python() {
    let python = workspace("target/tools/python/bin/python");
    run(Command::new(python).arg(workspace("tests/libraries/client.py")));
}

#[test]
fn node() {
    let library = workspace("target/tools/node/node_modules/@kubernetes/client-node");
    let library = library.canonicalize().expect("ci/install-tools installs it");
    run(Command::new("node").arg(workspace("tests/libraries/client.mjs")).arg(library));
}

#[test]
fn kube() {
    run(&mut Command::new(workspace("target/tools/kube-client")));
}
