//! Each bad input answers with one clear line and a non-zero exit, and loses nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Outcome, image, setting, until};
use serde_json::json;

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn names_are_checked_and_taken_ones_refused() {
    let home = Home::new();
    home.run(&["cluster", "create", "Not_A_Label"]).refused(&["Not_A_Label"]);
    home.run(&["cluster", "delete", "nobody"]).refused(&["nobody"]);
    home.run(&["kubeconfig", "nobody"]).refused(&["nobody"]);
    let _taken = home.cluster("taken", 1);
    home.run(&["cluster", "create", "taken"]).refused(&["taken"]);
    let status = home.run(&["cluster", "status", "taken", "-o", "json"]).json();
    assert_eq!(status["phase"], "Running", "the one that was there is untouched: {status}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn of_two_creates_at_once_one_wins() {
    let home = Home::new();
    home.run(&["host", "start"]).ok();
    let args = ["cluster", "create", "twice", "--memory", "192M"];
    let [first, second] = [home.command(&args), home.command(&args)]
        .map(|mut command| std::thread::spawn(move || Outcome::of(&mut command)));
    let outcomes = [first.join().unwrap(), second.join().unwrap()];
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|it| it.code == 0);
    assert_eq!(won.len(), 1, "{lost:?}");
    lost.into_iter().for_each(|it| it.refused(&["cluster twice"]));
    home.run(&["cluster", "delete", "twice"]).ok();
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let home = Home::new();
    home.run(&["cluster", "create", "big", "--memory", "4T"]).refused(&["memory"]);
    home.run(&["cluster", "create", "small", "--memory", "1M"]).refused(&["memory"]);
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    home.run(&["cluster", "create", "port", "--api-port", &port]).refused(&[&port]);
    let clusters = home.run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!(clusters.as_array().map(Vec::len), Some(0), "{clusters}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn an_unknown_field_of_a_configuration_is_named_with_its_line() {
    let home = Home::new();
    let file = home.path().join("cluster.yaml");
    std::fs::write(&file, "name: cfg\nnodes: 1\nnodez: 2\n").unwrap();
    let file = file.to_str().unwrap();
    home.run(&["cluster", "create", "cfg", "--config", file]).refused(&["nodez", "line 3"]);
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn kernels_that_are_none_are_refused() {
    let home = Home::new();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text"), "not a kernel").unwrap();
    std::fs::write(at("cut"), b"\x7fELF\x02\x01\x01").unwrap();
    home.run(&["vm", "run", "--kernel", &at("none")]).refused(&["none"]);
    let whole = std::fs::read(setting("BULKHEAD_KERNEL")).unwrap();
    std::fs::write(at("half"), &whole[..whole.len() / 2]).unwrap();
    for (name, words) in
        [("text", "neither an ELF vmlinux"), ("cut", "kernel"), ("half", "truncated")]
    {
        let kernel = at(name);
        home.run(&["vm", "run", "--kernel", &kernel]).refused(&[&kernel, words]);
        let create = ["cluster", "create", "none", "--kernel", &kernel, "--memory", "192M"];
        home.run(&create).refused(&["cluster none", &kernel, words]);
    }
    home.run(&["cluster", "create", "none", "--kernel", "/none"]).refused(&["kernel /none"]);
    assert_eq!(home.run(&["cluster", "list", "-o", "json"]).json(), json!([]));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn images_that_are_none_and_registries_that_are_not_there_are_refused() {
    let home = Home::new();
    let archive = bulkhead_tests::registry::busybox_archive();
    let bytes = std::fs::read(&archive).unwrap();
    let cut = home.path().join("cut.tar");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    home.run(&["image", "load", cut.to_str().unwrap()]).refused(&["cut.tar"]);
    home.run(&["image", "pull", "127.0.0.1:1/nothing:1"]).refused(&["127.0.0.1:1"]);
    home.run(&["image", "pull", "Not//A Reference"]).refused(&["Not//A Reference"]);
    let images = home.run(&["image", "list", "-o", "json"]).json();
    assert_eq!(images.as_array().map(Vec::len), Some(0), "{images}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn hostile_images_are_refused_and_leave_nothing() {
    let home = Home::new();
    let escape = "echo x >f; tar -P --transform='s,^f$,../../../bulkhead-escaped,' -cf $1 f";
    let plain = "echo x >f; tar -cf $1 f";
    let cut = "head -c 4096 /dev/zero >f; tar -cf - f | head -c 2048 >$1";
    let zeros = format!("sha256:{:064}", 0);
    for (name, layer, diff_id, words) in [
        ("escape", escape, None, "leaves the image"),
        ("digest", plain, Some(zeros.as_str()), "has digest"),
        ("cut", cut, None, "truncated"),
    ] {
        let archive = image::with_layer(home.path(), name, layer, diff_id);
        let archive = archive.to_str().unwrap();
        home.run(&["image", "load", archive]).refused(&[archive, words]);
    }
    assert!(!Path::new("/bulkhead-escaped").exists());
    assert_eq!(home.run(&["image", "list", "-o", "json"]).json(), json!([]));
    let layers = home.path().join("images/layers");
    until("nothing of them in the store", Duration::from_secs(60), || {
        match std::fs::read_dir(&layers).unwrap().count() {
            0 => Ok(()),
            left => Err(format!("{left} layers")),
        }
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn an_images_devices_open_nothing_and_its_links_stay_inside() {
    let home = Home::new();
    let layer = "mkdir up; mknod kmsg c 1 11; mknod disk b 254 0; ln -s /etc/passwd passwd; \
                 ln -s ../../../../../../etc/passwd up/passwd; tar -cf $1 .";
    let archive = image::with_layer(home.path(), "hostile", layer, None);
    home.run(&["image", "load", archive.to_str().unwrap()]).ok();
    let cluster = home.cluster("hostile", 1);
    let kubectl = cluster.kubectl();
    kubectl.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hostile"},
        "spec": {"containers": [{
            "name": "c",
            "image": "localhost/hostile:test",
            "imagePullPolicy": "Never",
            "command": ["sleep", "100000"],
        }]},
    }));
    kubectl.wait_phase("hostile", "Running");
    let read = |path: &str| kubectl.run(&["exec", "hostile", "--", "head", "-c", "1", path]);
    for device in ["/kmsg", "/disk"] {
        let outcome = read(device);
        assert!(outcome.stderr.contains("Operation not permitted"), "{outcome}");
    }
    for link in ["/passwd", "/up/passwd"] {
        assert_eq!(read(link).ok(), "r", "the image's own file");
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_full_disk_is_named_and_loses_nothing() {
    let home = Home::of_size(12);
    let create = ["cluster", "create", "full", "--memory", "192M"];
    home.run(&create).refused(&["cluster full", home.path().to_str().unwrap(), "No space left"]);
    assert_eq!(home.run(&["cluster", "list", "-o", "json"]).json(), json!([]));

    home.resize(128);
    home.run(&create).ok();
    let ballast = home.path().join("ballast");
    let fill = format!("cat /dev/zero >{}", ballast.display());
    assert_ne!(Outcome::of(Command::new("sh").args(["-c", &fill])).code, 0, "the disk is full");
    let archive = bulkhead_tests::registry::busybox_archive();
    let load = ["image", "load", archive.to_str().unwrap()];
    home.run(&load).refused(&["No space left"]);
    let another = ["cluster", "create", "another", "--memory", "192M"];
    home.run(&another).refused(&["another"]);
    let status = home.run(&["cluster", "status", "full", "-o", "json"]).json();
    assert_eq!(status["nodes"][0]["phase"], "Ready", "{status}");

    std::fs::remove_file(ballast).unwrap();
    home.run(&load).ok();
    let clusters = home.run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!(clusters.as_array().map(Vec::len), Some(1), "{clusters}");
    home.run(&another).ok();
    home.run(&["cluster", "delete", "full", "another"]).ok();
}

/// `bulkhead ARGS…` by a user to whom `/dev/kvm` is closed: without capabilities, and with nobody's
/// permission on the device.
fn without_kvm(home: &Home, args: &[&str]) -> Outcome {
    let closed = "mknod -m 000 \"$BULKHEAD_HOME/kvm\" c 10 232 && \
                  mount --bind \"$BULKHEAD_HOME/kvm\" /dev/kvm && rm \"$BULKHEAD_HOME/kvm\" && \
                  exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let bulkhead = home.command(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", closed, "sh"]);
    command.arg(bulkhead.get_program()).args(bulkhead.get_args());
    command.envs(bulkhead.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::of(&mut command)
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn no_permission_on_kvm_is_named_with_its_remedy() {
    let home = Home::new();
    let words = ["no permission", "/dev/kvm", "usermod -aG kvm"];
    let kernel = setting("BULKHEAD_KERNEL");
    without_kvm(&home, &["vm", "run", "--kernel", kernel.to_str().unwrap()]).refused(&words);
    without_kvm(&home, &["cluster", "create", "denied"]).refused(&words);
    let doctor = without_kvm(&home, &["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor}");
    for word in words {
        assert!(doctor.stdout.contains(word), "no {word:?}: {doctor}");
    }
    assert!(home.processes().is_empty(), "{:?}", home.processes());
}
