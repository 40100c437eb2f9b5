//! The network of pods: who reaches whom, and by which addresses; and what root in a node cannot
//! do about it.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, Outcome, until};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/busybox:test";

/// Serves its own name and who asks, at this port.
fn server(port: u16) -> String {
    format!(
        "mkdir -p /www/cgi-bin; cd /www/cgi-bin
         printf '#!/bin/sh\\necho; echo $NAME $REMOTE_ADDR\\n' >who; chmod +x who
         exec httpd -f -p 0.0.0.0:{port} -h /www"
    )
}

/// A pod on a node that serves.
fn pod(name: &str, node: &str, port: u16, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{
                "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", server(port)],
                "env": [{"name": "NAME", "value": name}],
            }],
        },
    });
    if let (Some(into), Value::Object(from)) = (pod["spec"].as_object_mut(), spec) {
        into.extend(from);
    }
    pod
}

/// Who answers `pod` at an address, and as whom they see it.
#[track_caller]
fn ask(kubectl: &Kubectl, pod: &str, at: &str) -> (String, String) {
    let url = format!("timeout 10 wget -qO- http://{at}/cgi-bin/who");
    // The server may have just started.
    let answer = until(&format!("{pod} asks {at}"), Duration::from_secs(60), || {
        let outcome = kubectl.sh(pod, &url);
        if outcome.stdout.is_empty() { Err(outcome.stderr) } else { Ok(outcome.stdout) }
    });
    let (name, peer) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{answer:?}"));
    (name.to_owned(), peer.to_owned())
}

#[track_caller]
fn ip_of(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.wait_phase(pod, "Running")["status"]["podIP"].as_str().unwrap().to_owned()
}

fn run(command: &str) -> String {
    Outcome::sh(command).ok()
}

/// A machine beside the host, gone when dropped.
struct Outside;

impl Outside {
    const ADDRESS: &'static str = "192.0.2.1";

    fn new() -> Self {
        run("ip netns add test-outside
             ip link add test-outside type veth peer name eth0 netns test-outside
             ip addr add 192.0.2.2/30 dev test-outside; ip link set test-outside up
             ip -n test-outside addr add 192.0.2.1/30 dev eth0
             ip -n test-outside link set eth0 up");
        Self
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(Outcome::of(Command::new("ip").args(["netns", "delete", "test-outside"])));
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn pods_services_and_the_world_reach_each_other() {
    let home = Home::new();
    let cluster = home.cluster("net", 2);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let mut open = pod("c", "net-2", 8080, json!({}));
    open["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 8082}]);
    kubectl.apply_all(&[
        pod("a", "net-1", 8080, json!({})),
        pod("b", "net-1", 8080, json!({})),
        open,
        pod("host", "net-2", 8081, json!({"hostNetwork": true})),
    ]);
    let [a, b, c, node] = ["a", "b", "c", "host"].map(|name| ip_of(&kubectl, name));
    let host = kubectl.pod("host");
    assert_eq!(host["status"]["hostIP"], node.as_str(), "{host:#}");

    for (from, to, at) in [("a", "c", &c), ("c", "a", &a), ("a", "b", &b), ("b", "a", &a)] {
        let address = kubectl.pod(from)["status"]["podIP"].as_str().unwrap().to_owned();
        let answer = ask(&kubectl, from, &format!("{at}:8080"));
        assert_eq!(answer, (to.to_owned(), address), "{from} to {to}");
    }
    assert_eq!(ask(&kubectl, "a", &format!("{node}:8081")), ("host".to_owned(), a.clone()));
    assert_eq!(ask(&kubectl, "host", &format!("{a}:8080")), ("a".to_owned(), node.clone()));
    assert_eq!(
        ask(&kubectl, "a", &format!("{node}:8082")),
        ("c".to_owned(), a.clone()),
        "hostPort"
    );

    // The world outside sees the host.
    let outside = Outside::new();
    let script = server(80).replace("/www", "/tmp/test-outside");
    let mut web = Command::new("ip")
        .args(["netns", "exec", "test-outside", "busybox", "sh", "-c"])
        .arg(script.replace("exec httpd", "exec busybox httpd").replace("$NAME", "world"))
        .spawn()
        .unwrap();
    assert_eq!(ask(&kubectl, "a", Outside::ADDRESS), ("world".to_owned(), "192.0.2.2".to_owned()));
    web.kill().unwrap();
    web.wait().unwrap();
    drop((outside, run("rm -rf /tmp/test-outside")));

    // Services, with endpoints by hand.
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]},
    }));
    let endpoints = |ips: &[&str]| {
        let endpoint = |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": true}});
        kubectl.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>(),
        }));
    };
    endpoints(&[c.as_str()]);
    let service = until("an address of the host", Duration::from_secs(60), || {
        let service = kubectl.run(&["get", "service", "web", "-o", "json"]).json();
        let given = service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string();
        if given { Ok(service) } else { Err(format!("{service:#}")) }
    });
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let balanced = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap();
    assert_eq!(ask(&kubectl, "a", cluster_ip), ("c".to_owned(), a.clone()));
    assert_eq!(ask(&kubectl, "host", cluster_ip), ("c".to_owned(), "10.88.255.254".to_owned()));
    assert_eq!(ask(&kubectl, "c", cluster_ip).0, "c", "hairpin");
    for at in [format!("{node}:{node_port}"), balanced.to_owned()] {
        assert_eq!(ask(&kubectl, "b", &at), ("c".to_owned(), b.clone()), "{at}");
    }
    for at in [format!("{}:{node_port}", cluster.outside_address()), balanced.to_owned()] {
        let answer = run(&format!("busybox timeout 60 busybox wget -qO- http://{at}/cgi-bin/who"));
        assert!(answer.starts_with("c "), "{at}: {answer}");
    }
    endpoints(&[b.as_str()]);
    until("the endpoint changes", Duration::from_secs(60), || {
        let answer = ask(&kubectl, "a", cluster_ip);
        if answer.0 == "b" { Ok(()) } else { Err(format!("{answer:?}")) }
    });

    // The API, by its Service. It has no cipher in common with busybox, and says so: an alert is an answer.
    let version =
        kubectl.sh("a", "timeout 60 wget -qO- --no-check-certificate https://10.96.0.1/version");
    assert!(version.stderr.contains("TLS error from peer (alert code 40)"), "{version:?}");

    // A daemon that dies and comes back changes nothing, and takes up what changed meanwhile.
    let rules = || run("ip netns exec bulkhead-net nft list ruleset");
    let before = rules();
    home.kill("bulkhead-host");
    assert_eq!(rules(), before);
    endpoints(&[c.as_str()]);
    home.run(&["cluster", "list"]).ok();
    until("the endpoint changes", Duration::from_secs(60), || {
        let answer = ask(&kubectl, "a", cluster_ip);
        if answer.0 == "c" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn root_in_a_node_loosens_nothing() {
    let home = Home::new();
    let cluster = home.cluster("jail", 2);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let mut root = pod("root", "jail-1", 8080, json!({"hostNetwork": true}));
    root["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    kubectl.apply_all(&[
        root,
        pod("own", "jail-1", 8081, json!({})),
        pod("victim", "jail-2", 8080, json!({})),
        pod("friend", "jail-2", 8080, json!({})),
    ]);
    let [own, victim, friend] = ["own", "victim", "friend"].map(|name| ip_of(&kubectl, name));
    ask(&kubectl, "root", &format!("{victim}:8080"));
    ask(&kubectl, "root", &format!("{friend}:8080"));

    // Another's address: from a pod of its own node it works, from that of another it does not.
    let neighbours = run("ip -n bulkhead-jail neigh");
    let from = |ip: &str| {
        let script = format!(
            "ip addr add {ip}/32 dev lo; ip route add {victim}/32 via 169.254.1.1 dev eth0 onlink src {ip}
             timeout 3 wget -qO- http://{victim}:8080/cgi-bin/who; done=$?
             ip route del {victim}/32; ip addr del {ip}/32 dev lo; exit $done"
        );
        kubectl.sh("root", &script)
    };
    let mine = own.rsplit_once('.').unwrap().0.to_owned() + ".77";
    assert_eq!(from(&mine).stdout.trim(), format!("victim {mine}"));
    for spoofed in [&friend, "10.88.0.2", "10.96.0.1", "169.254.1.2", "192.0.2.9"] {
        let answer = from(spoofed);
        assert_eq!(answer.stdout, "", "as {spoofed}");
    }
    let mac = "ip link set eth0 address 02:00:00:00:00:99 && timeout 3 wget -qO- http://VICTIM:8080/cgi-bin/who;
         ip link set eth0 address $OLD";
    let old = kubectl.sh("root", "cat /sys/class/net/eth0/address").ok();
    let mac = mac.replace("VICTIM", &victim).replace("$OLD", old.trim());
    assert_eq!(kubectl.sh("root", &mac).stdout, "", "from another Ethernet address");

    // Claims by ARP change nothing.
    let claim = format!(
        "for claimed in {victim} 10.88.0.2 169.254.1.1; do
             for kind in -U -A; do arping $kind -c 2 -w 3 -I eth0 $claimed & done
         done; wait"
    );
    kubectl.sh("root", &claim);
    assert_eq!(run("ip -n bulkhead-jail neigh"), neighbours);
    ask(&kubectl, "root", &format!("{victim}:8080"));

    // The host, at every address that it has, and what is fenced.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let addresses = run("ip -o -4 addr | awk '{print $4}' | cut -d/ -f1");
    kubectl.sh(
        "root",
        "ip route del local 127.0.0.0/8 table local; ip route del local 127.0.0.1 table local",
    );
    let addresses: Vec<&str> = addresses.lines().chain(["169.254.169.254", "10.0.2.2"]).collect();
    let reach = format!(
        "for address in {}; do
             ip route replace $address/32 via 169.254.1.1 dev eth0 onlink
             (nc -w 3 $address {port} </dev/null && echo $address is reached) &
         done; wait; echo all tried",
        addresses.join(" ")
    );
    assert_eq!(kubectl.sh("root", &reach).stdout, "all tried\n");
    let accepted = listener.accept().map(drop).unwrap_err();
    assert_eq!(accepted.kind(), std::io::ErrorKind::WouldBlock);
}

/// A NetworkPolicy of the namespace `default`.
fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn policies_decide_who_reaches_whom() {
    let home = Home::new();
    let cluster = home.cluster("policy", 2);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "namespace", "other"]).ok();
    let labelled = |name: &str, namespace: &str, node: &str, labels: Value| {
        let mut pod = pod(name, node, 8080, json!({}));
        pod["metadata"] = json!({"name": name, "namespace": namespace, "labels": labels});
        pod
    };
    kubectl.apply_all(&[
        labelled("web", "default", "policy-1", json!({"app": "web"})),
        labelled("near", "default", "policy-1", json!({"app": "client"})),
        labelled("far", "default", "policy-2", json!({"app": "client"})),
        labelled("friend", "other", "policy-2", json!({"role": "friend"})),
    ]);
    let web = ip_of(&kubectl, "web");
    let [near, far] = ["near", "far"].map(|name| ip_of(&kubectl, name));
    let ip = || {
        let outcome =
            kubectl.run(&["-n", "other", "get", "pod", "friend", "-o", "jsonpath={.status.podIP}"]);
        if outcome.stdout.is_empty() { Err(outcome.stderr) } else { Ok(outcome.stdout) }
    };
    let friend = until("friend has an address", Duration::from_secs(90), ip);

    let clients = [("default", "near"), ("default", "far"), ("other", "friend")];
    let get = |(namespace, name): (&str, &str), ip: &str| {
        let script = format!("timeout 20 wget -qO- http://{ip}:8080/cgi-bin/who");
        kubectl.sh_in(namespace, name, &script)
    };
    // A policy is in force a moment after it is there.
    let reached = |client: (&str, &str), ip: &str| {
        until(&format!("{} reaches {ip}", client.1), Duration::from_secs(60), || {
            let outcome = get(client, ip);
            if outcome.stdout.is_empty() { Err(outcome.stderr) } else { Ok(()) }
        });
    };
    let refused = |client: (&str, &str), ip: &str| {
        until(&format!("{} is refused by {ip}", client.1), Duration::from_secs(60), || {
            let outcome = get(client, ip);
            let refused = outcome.stderr.contains("Connection refused");
            if refused { Ok(()) } else { Err(outcome.stdout + &outcome.stderr) }
        });
    };
    clients[1..].iter().for_each(|client| reached(*client, &web));

    kubectl.apply(&policy("deny", &json!({"podSelector": {}, "policyTypes": ["Ingress"]})));
    clients.iter().for_each(|client| refused(*client, &web));
    reached(clients[0], &friend);
    let peer = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}},
        "podSelector": {"matchLabels": {"role": "friend"}},
    });
    let admit = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [peer], "ports": [{"port": 8080}]}],
    });
    kubectl.apply(&policy("admit", &admit));
    reached(clients[2], &web);
    refused(clients[0], &web);
    refused(clients[1], &web);
    let label = |role: &str| {
        kubectl.run(&["-n", "other", "label", "--overwrite", "pod", "friend", role]).ok();
    };
    label("role=stranger");
    refused(clients[2], &web);
    label("role=friend");
    reached(clients[2], &web);

    // What a pod does first of all is decided about: all it may reach is `friend`.
    let egress = json!({
        "podSelector": {"matchLabels": {"app": "late"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {
            "cidr": "10.244.0.0/16", "except": [format!("{near}/32"), format!("{far}/32")],
        }}]}],
    });
    kubectl.apply(&policy("egress", &egress));
    let open = json!({"podSelector": {"matchLabels": {"app": "client"}}, "ingress": [{}]});
    kubectl.apply(&policy("open", &open));
    reached(clients[2], &near);
    reached(clients[2], &far);
    let ask = |ip: &str| format!("timeout 20 wget -qO- http://{ip}:8080/cgi-bin/who 2>&1");
    let script = format!(
        "{}; {}; {}; timeout 5 nc 10.96.0.1 443 </dev/null 2>&1; echo done; exec sleep 3600",
        ask(&near),
        ask(&far),
        ask(&friend)
    );
    let mut late = pod("late", "policy-1", 8080, json!({}));
    late["metadata"]["labels"] = json!({"app": "late"});
    late["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    kubectl.apply(&late);
    let said = until("late has asked", Duration::from_secs(120), || {
        let log = kubectl.run(&["logs", "late"]).stdout;
        if log.contains("done") { Ok(log) } else { Err(log) }
    });
    let own = ip_of(&kubectl, "late");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 5, "{said}");
    for (line, what) in [(0, near.as_str()), (1, &far), (3, "10.96.0.1")] {
        assert!(lines[line].contains("Connection refused"), "{what}: {said}");
    }
    assert_eq!(lines[2], format!("friend {own}"), "{said}");

    // Without a daemon the rules stay; the next has new ones in force before the old ones go.
    let tables = || run("ip netns exec bulkhead-policy nft list tables ip");
    let rules = || run("ip netns exec bulkhead-policy nft list ruleset");
    let (before, first) = (rules(), tables());
    assert_eq!(first.matches("policy-").count(), 1, "{first}");
    home.kill("bulkhead-host");
    assert_eq!(rules(), before);
    label("role=stranger");
    home.run(&["cluster", "list"]).ok();
    refused(clients[2], &web);
    until("the next table", Duration::from_secs(60), || {
        let now = tables();
        let replaced = now != first && now.matches("policy-").count() == 1;
        if replaced { Ok(()) } else { Err(now) }
    });
    kubectl.run(&["delete", "networkpolicy", "--all"]).ok();
    reached(clients[0], &web);
}
