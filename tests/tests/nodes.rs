//! Nodes that do not come up, and what a node needs while it runs.

use std::os::unix::fs::symlink;
use std::time::Duration;

use bulkhead_tests::{Home, Outcome, Terminal, initrd, setting, until};
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
fn a_node_boots_the_users_kernel_by_the_users_initrd_which_are_kept() {
    const SAID: &str = "by way of the initrd in boot ";
    let home = Home::new();
    let script = format!(
        "/bin/busybox mount -t devtmpfs dev /dev
        /bin/busybox mount -t proc proc /proc
        echo {SAID}$(/bin/busybox cat /proc/sys/kernel/random/boot_id)
        /bin/busybox mount -t erofs -o ro /dev/vda /root
        exec /bin/busybox switch_root /root /sbin/agent"
    );
    let initrd = initrd(home.path(), &script);
    let kernel = home.path().join("kernel");
    std::fs::copy(setting("BULKHEAD_KERNEL"), &kernel).unwrap();
    let kernel = kernel.to_str().unwrap();
    let create = ["cluster", "create", "own", "--kernel", kernel, "--initrd", &initrd];
    home.run(&create).ok();
    let boot = || {
        let console = home.run(&["node", "console", "own", "own-1"]).ok();
        let (_, said) = console.rsplit_once(SAID).unwrap_or_else(|| panic!("{console}"));
        said.lines().next().unwrap_or_default().to_owned()
    };
    let first = boot();
    // What was named may go: the cluster starts again with its copies.
    home.run(&["cluster", "stop", "own"]).ok();
    std::fs::remove_file(kernel).unwrap();
    std::fs::remove_file(&initrd).unwrap();
    home.run(&["cluster", "start", "own"]).ok();
    assert_ne!(boot(), first);
    home.run(&["cluster", "delete", "own"]).ok();
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
    until("removal of the image", Duration::from_secs(60), || {
        let outcome = home.run(&remove);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn nodes_boot_the_kernel_that_their_cluster_was_given() {
    let home = Home::new();
    // Of the node image only the root image is of use.
    let image = home.path().join("image");
    std::fs::create_dir(&image).unwrap();
    let root = setting("BULKHEAD_NODE_IMAGE_DIR").join("root.erofs");
    symlink(root, image.join("root.erofs")).unwrap();
    std::fs::write(image.join("vmlinux"), "no kernel").unwrap();
    let kernel = home.path().join("own-vmlinux");
    std::fs::copy(setting("BULKHEAD_KERNEL"), &kernel).unwrap();
    let create = ["cluster", "create", "own", "--memory", "192M", "--kernel", "own-vmlinux"];
    let mut create = home.command(&create);
    create.env("BULKHEAD_NODE_IMAGE_DIR", &image).current_dir(home.path());
    Outcome::of(&mut create).ok();

    let status = home.run(&["cluster", "status", "own", "-o", "json"]).json();
    assert_eq!(status["config"]["kernel"], kernel.to_str().unwrap(), "{status}");
    std::fs::remove_file(&kernel).unwrap();
    home.run(&["node", "add", "own"]).ok();
    home.run(&["cluster", "stop", "own"]).ok();
    home.run(&["cluster", "start", "own"]).ok();
    home.run(&["cluster", "delete", "own"]).ok();
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_console_is_followed_on_a_terminal_until_ctrl_c() {
    let home = Home::new();
    let _cluster = home.cluster("seen", 1);
    let printed = home.run(&["node", "console", "seen", "seen-1"]).ok();
    let line = printed.lines().find(|line| line.len() > 8).unwrap_or_default().trim().to_owned();
    assert!(!line.is_empty(), "the node's console is empty: {printed:?}");

    let terminal = Terminal::run(&home.command(&["node", "console", "seen", "seen-1", "-f"]));
    terminal.shows(&line);
    terminal.types("\x03");
    assert_eq!(terminal.ended(), 130);
    let status = home.run(&["cluster", "status", "seen", "-o", "json"]).json();
    assert_eq!(status["nodes"][0]["phase"], "Ready", "it only looked on: {status}");
}
