//! What root in a node cannot reach: other clusters, the monitors, and anything by IPv6.

use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Outcome, pod, until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn root_in_a_node_finds_no_other_cluster_and_no_monitor() {
    let home = Home::new();
    let ours = home.cluster("jail", 1);
    ours.load_image("nettools");
    let others = home.cluster("others", 1);

    // What is served in the one is there for the host, and not for root in the other.
    let served = others.kubectl();
    let listen = "exec socat TCP-LISTEN:8080,fork,reuseaddr EXEC:'echo served'";
    served.apply(&pod("server", "nettools", listen));
    served.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {"type": "NodePort", "selector": {"app": "server"}, "ports": [{"port": 8080}]},
    }));
    let service = served.run(&["get", "service", "server", "-o", "json"]).json();
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let address = others.outside_address();
    until("the host is served", LIMIT, || {
        let client = format!("socat -T 5 -,ignoreeof TCP:{address}:{port},connect-timeout=5");
        let said = Outcome::of(Command::new("sh").args(["-c", &client]));
        if said.stdout == "served\n" { Ok(()) } else { Err(said.to_string()) }
    });
    let server = served.wait_phase("server", "Running")["status"]["podIP"].clone();
    let server = server.as_str().unwrap();

    let kubectl = ours.kubectl();
    let mut root = pod("root", "nettools", "exec sleep 100000");
    root["spec"]["hostNetwork"] = true.into();
    root["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    kubectl.apply(&root);
    kubectl.wait_phase("root", "Running");
    let reach = format!(
        "for to in {address}:{port} {server}:8080; do
             ip route replace ${{to%:*}}/32 via 169.254.1.1 dev eth0 onlink
             socat -T 3 -,ignoreeof TCP:$to,connect-timeout=3 && echo $to answers
             ip route del ${{to%:*}}/32
         done; echo all tried"
    );
    assert_eq!(kubectl.sh("root", &reach).stdout, "all tried\n");

    // The monitor takes no connections from its guest, to no context identifier and no port: the
    // host's is 2, and the guest's own leads to the agent, which listens to the host alone.
    let connect = "for cid in 2 3; do for port in 1 22 1024 10250; do
             timeout 5 socat -u OPEN:/dev/null VSOCK-CONNECT:$cid:$port 2>/dev/null &&
                 echo $cid:$port answers
         done; done; echo all tried";
    assert_eq!(kubectl.sh("root", connect).stdout, "all tried\n");

    // Neither solicitations nor advertisements of neighbours leave the node, nor any IPv6.
    let neighbours = || Outcome::sh("ip -n bulkhead-jail -6 neigh").ok();
    let before = neighbours();
    let ping = "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0
         ip -6 addr add fe80::77/64 dev eth0 nodad; ip -6 addr add fd00::77/64 dev eth0 nodad
         ping -6 -c 2 -W 2 -I eth0 ff02::1; ping -6 -c 2 -W 2 fd00::1; true";
    let said = kubectl.sh("root", ping).stdout;
    assert!(said.contains("ff02::1"), "it was asked: {said}");
    let answers = said.lines().filter(|line| line.contains("bytes from"));
    assert_eq!(answers.filter(|line| !line.contains("fe80::77")).count(), 0, "{said}");
    assert_eq!(neighbours(), before);
}
