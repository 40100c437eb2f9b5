//! Debian's own clients and servers in pods, by Services: TCP and UDP under load, the API with a pod's
//! own token, and a connection that outlives the host's daemon.

use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, pod, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

/// A pod of Debian's tools on a node.
fn tools(name: &str, node: &str, script: &str) -> Value {
    let mut pod = pod(name, "nettools", script);
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    pod
}

/// A port of a Service.
fn port(name: &str, protocol: &str, port: u16) -> Value {
    json!({"name": name, "protocol": protocol, "port": port})
}

/// Runs a script in the client until it succeeds: what it asks may have just started.
#[track_caller]
fn client(kubectl: &Kubectl, script: &str) -> String {
    until(script, LIMIT, || {
        let outcome = kubectl.sh("client", script);
        if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.to_string()) }
    })
}

/// What `iperf3 -J` says of what arrived.
#[track_caller]
fn received(said: &str) -> Value {
    let report: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{said}"));
    let sum = ["sum_received", "sum"].map(|key| report["end"][key].clone());
    sum.into_iter().find(Value::is_object).unwrap_or_else(|| panic!("{said}"))
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn debians_programs_speak_by_services_and_connections_outlive_the_daemon() {
    let home = Home::new();
    let cluster = home.cluster("traffic", 2);
    cluster.load_image("nettools");
    let kubectl = cluster.kubectl();
    let serve = "echo by a proxy >/tmp/said; httpd -p 8000 -h /tmp
         iperf3 -s & socat UDP-LISTEN:7,fork,reuseaddr EXEC:cat &
         exec socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat";
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [
            port("load", "TCP", 5201), port("load-udp", "UDP", 5201),
            port("echo", "TCP", 7), port("echo-udp", "UDP", 7), port("http", "TCP", 8000),
        ]},
    });
    kubectl.apply_all(&[
        tools("server", "traffic-1", serve),
        service,
        tools("client", "traffic-2", "exec sleep 100000"),
    ]);
    for name in ["server", "client"] {
        kubectl.wait_phase(name, "Running");
    }

    let said = client(&kubectl, "echo by TCP | socat -t 10 - TCP:server:7");
    assert_eq!(said, "by TCP\n");
    // Whoever answers does not say that it was all: the client listens that long.
    let said = client(&kubectl, "echo by UDP | socat -t 3 - UDP:server:7 | grep .");
    assert_eq!(said, "by UDP\n");
    let load = received(&client(&kubectl, "iperf3 -c server -t 2 -J"));
    assert!(load["bytes"].as_u64() > Some(1 << 20), "{load}");
    let load = received(&client(&kubectl, "iperf3 -c server -u -b 1M -l 1000 -t 2 -J"));
    assert!(load["packets"].as_u64() > Some(0), "{load}");

    let proxied = "/api/v1/namespaces/default/services/server:http/proxy/said";
    assert_eq!(kubectl.run(&["get", "--raw", proxied]).ok(), "by a proxy\n");

    // The API, as client libraries in pods reach it.
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let ask = format!(
        "curl -sS --cacert {dir}/ca.crt -H \"Authorization: Bearer $(cat {dir}/token)\" \
         https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews \
         -H 'Content-Type: application/json' -d '{{\"kind\": \"SelfSubjectReview\", \
         \"apiVersion\": \"authentication.k8s.io/v1\"}}'"
    );
    let review: Value = serde_json::from_str(&client(&kubectl, &ask)).unwrap();
    let user = &review["status"]["userInfo"]["username"];
    assert_eq!(user, "system:serviceaccount:default:default", "{review:#}");

    // One connection, on which each second's number comes back; its end would be its pod's.
    let count = "i=0; while sleep 1; do i=$((i+1)); echo $i; done | exec socat - TCP:server:7";
    kubectl.apply(&tools("counter", "traffic-2", count));
    let counted = |least: usize| {
        until(&format!("{least} numbers came back"), LIMIT, || {
            let said = kubectl.run(&["logs", "counter"]).stdout;
            let numbers: Vec<&str> = said.lines().collect();
            let right =
                numbers.iter().zip(1_u32..).all(|(line, number)| *line == number.to_string());
            assert!(right, "{numbers:?}");
            if numbers.len() >= least { Ok(numbers.len()) } else { Err(said) }
        })
    };
    let before = counted(2);
    home.kill("bulkhead-host");
    std::thread::sleep(Duration::from_secs(3));
    home.run(&["cluster", "list"]).ok();
    kubectl.apply(&tools("later", "traffic-1", "exec sleep 100000"));
    kubectl.wait_phase("later", "Running");
    counted(before + 5);
    assert_eq!(kubectl.pod("counter")["status"]["phase"], "Running");
}
