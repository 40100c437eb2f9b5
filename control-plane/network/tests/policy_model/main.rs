//! NetworkPolicies against a plain reading of the API: clusters that change at random, and after
//! each change the rules that the kernel would have, asked about every pair of addresses.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

mod model;
mod script;

use std::net::Ipv4Addr;

use bulkhead_network::policy::Catalogue;
use model::{Model, Packet};
use proptest::prelude::*;
use proptest::sample::select;
use script::Ruleset;
use serde_json::{Value, json};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(10, 213, 1, 1)];
const PODS: u8 = 6;

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Namespace(Value),
    NoNamespace(Value),
    Pod(Value),
    NoPod(Value),
    /// Of the pod of this number, the address of this host number.
    Address(u8, u8),
    Release(u8),
    Policy(Value),
    NoPolicy(Value),
    /// A new daemon's first transaction.
    Replace,
}

fn namespace() -> impl Strategy<Value = Value> {
    let team = select(vec![Value::Null, json!("x"), json!("y")]);
    (select(vec!["a", "b", "kube-system"]), team).prop_map(|(name, team)| {
        let mut labels = json!({"kubernetes.io/metadata.name": name});
        if !team.is_null() {
            labels["team"] = team;
        }
        json!({"metadata": {"name": name, "labels": labels}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = select(vec![
        Value::Null,
        json!({"app": "web"}),
        json!({"app": "web", "tier": "1"}),
        json!({"app": "db"}),
    ]);
    let port = select(vec![80, 8080]);
    let named = select(vec![Value::Null, json!("http"), json!("web")]);
    let phase = select(vec!["Pending", "Running", "Running", "Succeeded"]);
    // A pod keeps its namespace.
    (0..PODS, labels, port, named, phase).prop_map(|(number, labels, port, name, phase)| {
        let mut container_port = json!({"containerPort": port});
        if !name.is_null() {
            container_port["name"] = name;
        }
        json!({
            "metadata": {"uid": format!("u{number}"), "labels": labels,
                         "namespace": if number % 2 == 0 { "a" } else { "b" }},
            "spec": {"containers": [{"ports": [container_port]}]},
            "status": {"phase": phase},
        })
    })
}

fn pod_selector() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"matchLabels": {"app": "web"}}),
        json!({"matchLabels": {"app": "web"},
               "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
        json!({"matchLabels": {"k8s-app": "kube-dns"}}),
    ])
}

fn peer() -> impl Strategy<Value = Value> {
    let namespaces = select(vec![
        json!({}),
        json!({"matchLabels": {"team": "x"}}),
        json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "y"]}]}),
        json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
        json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}),
    ]);
    let block = select(vec!["0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/30", "203.0.113.0/24"]);
    let except = prop::collection::vec(select(vec!["10.244.1.1/32", "203.0.113.4/31"]), 0..3);
    prop_oneof![
        pod_selector().prop_map(|pods| json!({"podSelector": pods})),
        namespaces.clone().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (namespaces, pod_selector()).prop_map(|(namespaces, pods)| {
            json!({"namespaceSelector": namespaces, "podSelector": pods})
        }),
        (block, except)
            .prop_map(|(cidr, except)| { json!({"ipBlock": {"cidr": cidr, "except": except}}) }),
    ]
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let port = select(vec![
        json!({"protocol": "TCP", "port": 80}),
        json!({"protocol": "TCP", "port": 79, "endPort": 90}),
        json!({"protocol": "UDP"}),
        json!({"protocol": "UDP", "port": 53}),
        json!({"protocol": "TCP", "port": "http"}),
        json!({"protocol": "TCP", "port": "web"}),
        json!({"protocol": "UDP", "port": "dns"}),
    ]);
    let ports = prop::collection::vec(port, 0..3);
    (prop::collection::vec(peer(), 0..3), ports).prop_map(move |(others, ports)| {
        let mut rule = json!({"ports": ports});
        rule[peers] = json!(others);
        rule
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let types = select(vec![
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]);
    let (ingress, egress) = (rule("from"), rule("to"));
    let rules = (prop::collection::vec(ingress, 0..3), prop::collection::vec(egress, 0..3));
    (select(vec!["a", "b"]), 0..3_u8, pod_selector(), types, rules).prop_map(
        |(namespace, number, pods, types, (ingress, egress))| {
            json!({
                "metadata": {"namespace": namespace, "name": format!("p{number}")},
                "spec": {"podSelector": pods, "policyTypes": types,
                         "ingress": ingress, "egress": egress},
            })
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => namespace().prop_map(Step::Namespace),
        1 => namespace().prop_map(Step::NoNamespace),
        4 => pod().prop_map(Step::Pod),
        1 => pod().prop_map(Step::NoPod),
        4 => (0..PODS, 1..9_u8).prop_map(|(pod, host)| Step::Address(pod, host)),
        1 => (0..PODS).prop_map(Step::Release),
        6 => policy().prop_map(Step::Policy),
        2 => policy().prop_map(Step::NoPolicy),
        1 => Just(Step::Replace),
    ]
}

/// The address of a host number, and its node's.
fn addresses(host: u8) -> (Ipv4Addr, Ipv4Addr) {
    let node = host % 2 + 1;
    (Ipv4Addr::new(10, 244, node, host), Ipv4Addr::new(10, 88, 0, node))
}

fn take(step: &Step, catalogue: &mut Catalogue, model: &mut Model) {
    model.take(step);
    match step {
        Step::Namespace(object) => catalogue.set_namespace(object),
        Step::NoNamespace(object) => catalogue.remove_namespace(object),
        Step::Pod(object) => catalogue.set_pod(object),
        Step::NoPod(object) => catalogue.remove_pod(object),
        Step::Address(pod, host) => {
            let (address, node) = addresses(*host);
            catalogue.set_address(&format!("u{pod}"), address, node);
        }
        Step::Release(pod) => catalogue.release(&format!("u{pod}")),
        Step::Policy(object) => catalogue.set_policy(object).unwrap(),
        Step::NoPolicy(object) => catalogue.remove_policy(object),
        Step::Replace => {}
    }
}

fn packets() -> Vec<Packet> {
    let hosts = (1..9).flat_map(|host| <[Ipv4Addr; 2]>::from(addresses(host)));
    let mut ends: Vec<Ipv4Addr> = hosts.chain(OUTSIDE).chain([DNS]).collect();
    ends.sort_unstable();
    ends.dedup();
    let ports = [("tcp", 80), ("tcp", 8080), ("tcp", 85), ("udp", 53), ("udp", 54)];
    let mut packets = Vec::new();
    for from in &ends {
        for to in &ends {
            packets.extend(ports.map(|(protocol, port)| Packet {
                from: *from,
                to: *to,
                protocol,
                port,
            }));
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn the_rules_let_through_what_the_policies_do(
        batches in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..12)
    ) {
        let (mut catalogue, mut model) = (Catalogue::new(DNS), Model::new(DNS));
        let mut rules = Ruleset::default();
        let mut generation = 1;
        rules.run(&catalogue.replace(generation));
        let packets = packets();
        for batch in batches {
            for step in &batch {
                take(step, &mut catalogue, &mut model);
            }
            if batch.iter().any(|step| matches!(step, Step::Replace)) {
                generation += 1;
                rules.run(&catalogue.replace(generation));
            } else {
                rules.run(&catalogue.changes());
            }
            prop_assert_eq!(&catalogue.changes().script, "", "nothing is left to change");
            for packet in &packets {
                // What is for the DNS server comes in; all else is passed on.
                let hook = if packet.to == DNS { "input" } else { "forward" };
                prop_assert_eq!(
                    rules.lets_through(hook, packet),
                    model.lets_through(packet),
                    "{:?} after {:?}\n{:?}", packet, batch, rules
                );
            }
        }
    }
}
