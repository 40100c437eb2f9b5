//! Each bad input answers with one clear line and a non-zero exit, and loses nothing.

use std::net::TcpListener;

use bulkhead_tests::Home;

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
        .map(|mut command| std::thread::spawn(move || bulkhead_tests::Outcome::of(&mut command)));
    let codes = [first.join().unwrap().code, second.join().unwrap().code];
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
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
    home.run(&["vm", "run", "--kernel", &at("text")]).refused(&["neither an ELF vmlinux"]);
    home.run(&["vm", "run", "--kernel", &at("cut")]).refused(&["kernel"]);
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
