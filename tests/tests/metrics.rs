//! `kubectl top`: what nodes and pods use.

use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, pod, until};

/// What `kubectl top` prints, without the heading: the name, millicores, mebibytes. It fails while nothing
/// has been measured.
fn top(kubectl: &Kubectl, args: &[&str]) -> Result<Vec<(String, u64, u64)>, String> {
    let args = [&["top"], args, &["--no-headers"]].concat();
    let outcome = kubectl.run(&args);
    if outcome.code != 0 {
        return Err(outcome.to_string());
    }
    let rows = outcome.stdout.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |unit: &str| {
            let mut numbers = words.iter().filter_map(|word| word.strip_suffix(unit)?.parse().ok());
            numbers.next().unwrap_or_else(|| panic!("no {unit} in {line}"))
        };
        (words[0].to_owned(), number("m"), number("Mi"))
    });
    Ok(rows.collect())
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn top_tells_the_busy_from_the_idle() {
    let home = Home::new();
    let cluster = home.cluster("top", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.apply_all(&[
        pod("busy", "busybox", "while :; do :; done"),
        pod("idle", "busybox", "exec sleep 1000"),
    ]);
    for name in ["busy", "idle"] {
        kubectl.wait_phase(name, "Running");
    }
    until("the busy one uses most of a processor", Duration::from_secs(60), || {
        let pods = top(&kubectl, &["pods"])?;
        let cpu = |name: &str| pods.iter().find(|(one, ..)| one == name).map(|(_, cpu, _)| *cpu);
        match (cpu("busy"), cpu("idle")) {
            (Some(300..), Some(..100)) => Ok(()),
            _ => Err(format!("{pods:?}")),
        }
    });
    let busy = top(&kubectl, &["pods", "--selector=app=busy", "--containers"]).unwrap();
    assert_eq!(busy.len(), 1, "{busy:?}");
    let nodes = top(&kubectl, &["nodes"]).unwrap();
    let [(_, cpu, memory)] = nodes.as_slice() else { panic!("{nodes:?}") };
    assert!(*cpu >= 300 && (1..192).contains(memory), "{nodes:?}");
    kubectl.run(&["delete", "pod", "busy", "idle"]).ok();
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/busy";
    kubectl.run(&["get", "--raw", path]).refused(&["not found"]);
}
