//! Nodes that do not come up, and what a node needs while it runs.

use std::os::unix::fs::symlink;
use std::time::Duration;

use bulkhead_tests::{Home, Outcome, setting, until};
use serde_json::json;

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_node_whose_guest_resets_itself_at_once_fails_the_create_and_says_where_its_console_is() {
    let home = Home::new();
    let image = home.path().join("broken");
    std::fs::create_dir(&image).unwrap();
    symlink(setting("BULKHEAD_KERNEL"), image.join("vmlinux")).unwrap();
    std::fs::write(image.join("root.erofs"), vec![0; 1 << 20]).unwrap();
    let mut create = home.command(&["cluster", "create", "broken", "--nodes", "1"]);
    create.env("BULKHEAD_NODE_IMAGE_DIR", &image);
    let console = home.path().join("failed/broken/broken-1.log");
    let outcome = Outcome::of(&mut create);
    assert_ne!(outcome.code, 0, "{outcome}");
    let said = outcome.stderr.lines().last().unwrap_or_default();
    for words in ["broken-1", "reset itself", console.to_str().unwrap(), "Kernel panic"] {
        assert!(said.contains(words), "no {words:?} in {said:?}: {outcome}");
    }
    assert!(std::fs::read_to_string(&console).unwrap().contains("Kernel panic"));
    let clusters = home.run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!(clusters, json!([]));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn an_image_stays_while_a_pod_runs_from_it() {
    let home = Home::new();
    let cluster = home.cluster("pinned", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "user"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c",
            "image": "localhost/busybox:test",
            "imagePullPolicy": "Never",
            "command": ["sleep", "100000"],
        }]},
    }));
    kubectl.wait_phase("user", "Running");
    let remove = ["image", "remove", "localhost/busybox:test"];
    home.run(&remove).refused(&["in use", "pinned/pinned-1/"]);
    kubectl.run(&["delete", "pod", "user", "--timeout=60s"]).ok();
    until("removal of the image", Duration::from_secs(10), || {
        let outcome = home.run(&remove);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    });
}
