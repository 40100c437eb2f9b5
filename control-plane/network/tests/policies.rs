//! NetworkPolicies between nodes with kernels: which connections come through, and which do not.

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_network::address::{DNS, HOST, node_ip};
use bulkhead_network::policy::Catalogue;
use bulkhead_network::services;
use serde_json::{Value, json};
use support::guest::{Guest, Pod, connect_from_host};
use support::{
    API_PORT, Cluster, HOST_OUTSIDE, LIMIT, OUTSIDE, in_namespace, isolated, make_outside, run,
};

const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

/// A cluster's policies, as its daemon keeps them.
struct Policies<'a> {
    cluster: &'a Cluster,
    catalogue: Catalogue,
}

impl<'a> Policies<'a> {
    /// Of a daemon that has just started.
    async fn new(cluster: &'a Cluster) -> Self {
        let mut this = Self { cluster, catalogue: Catalogue::new(DNS) };
        for name in ["default", "other", "kube-system"] {
            let labels = json!({"kubernetes.io/metadata.name": name});
            this.catalogue.set_namespace(&json!({"metadata": {"name": name, "labels": labels}}));
        }
        this.replace().await;
        this
    }

    async fn replace(&mut self) {
        let generation = self.cluster.network.policies().await.unwrap() + 1;
        let transaction = self.catalogue.replace(generation);
        self.cluster.network.enforce(&transaction).await.unwrap();
    }

    async fn apply(&mut self) {
        let transaction = self.catalogue.changes();
        self.cluster.network.enforce(&transaction).await.unwrap();
        self.cluster.network.forget(transaction.released).await.unwrap();
    }

    async fn pod(&mut self, pod: &Pod, namespace: &str, labels: Value) {
        self.catalogue.set_pod(&json!({
            "metadata": {"uid": pod.namespace, "namespace": namespace, "labels": labels},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
        }));
        let node = node_ip(pod.ip.octets()[2].into());
        self.catalogue.set_address(&pod.namespace, pod.ip, node);
        self.apply().await;
    }

    async fn policy(&mut self, name: &str, spec: Value) {
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        self.catalogue.set_policy(&object).unwrap();
        self.apply().await;
    }

    async fn no_policy(&mut self, name: &str) {
        self.catalogue.remove_policy(&json!({"metadata": {"namespace": "default", "name": name}}));
        self.apply().await;
    }
}

fn deny(way: &str) -> Value {
    json!({"podSelector": {}, "policyTypes": [way]})
}

/// That a connection is refused, and at once.
#[track_caller]
fn refused(client: &Pod, ip: Ipv4Addr, port: u16) {
    let error = client.connect(ip, port).map(|connection| connection.who).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn a_pod_is_reached_by_those_that_its_policies_admit() {
    isolated("a_pod_is_reached_by_those_that_its_policies_admit", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (web, near, far, foreign) = (one.pod(2), one.pod(3), two.pod(4), two.pod(5));
        let mut policies = Policies::new(&cluster).await;
        policies.pod(&web, "default", json!({"app": "web"})).await;
        policies.pod(&near, "default", json!({"app": "client"})).await;
        policies.pod(&far, "default", Value::Null).await;
        policies.pod(&foreign, "other", json!({"app": "client"})).await;
        for pod in [&web, &near, &far, &foreign] {
            pod.serve(80);
        }
        web.serve(81);
        for client in [&near, &far, &foreign] {
            client.ask(web.ip, 80);
        }

        policies.policy("deny", deny("Ingress")).await;
        for client in [&near, &far, &foreign] {
            refused(client, web.ip, 80);
        }
        near.ask(foreign.ip, 80);
        web.ask(web.ip, 80);
        one.itself().ask(web.ip, 80);
        refused(&two.itself(), web.ip, 80);
        // Its own node it reaches too, and its answers come back.
        one.itself().serve(82);
        web.ask(node_ip(1), 82);

        let from = |peer: Value, ports: Value| {
            json!({"podSelector": {"matchLabels": {"app": "web"}},
                   "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}, peer], "ports": ports}]})
        };
        let clients = || json!({"podSelector": {"matchLabels": {"app": "client"}}});
        policies
            .policy("admit", from(clients(), json!([{"port": "http"}, {"protocol": "UDP"}])))
            .await;
        near.ask(web.ip, 80);
        refused(&near, web.ip, 81);
        refused(&far, web.ip, 80);
        refused(&foreign, web.ip, 80);
        policies.pod(&far, "default", json!({"app": "client"})).await;
        far.ask(web.ip, 80);
        policies.pod(&near, "default", json!({"app": "was"})).await;
        refused(&near, web.ip, 80);
        refused(&web, near.ip, 80);

        let other = json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}});
        let mut both = clients();
        both["namespaceSelector"] = other;
        policies.policy("admit", from(both, json!([{"port": 80, "endPort": 81}]))).await;
        foreign.ask(web.ip, 81);
        refused(&far, web.ip, 80);
        policies.no_policy("admit").await;
        refused(&foreign, web.ip, 81);
        policies.no_policy("deny").await;
        near.ask(web.ip, 81);
    });
}

#[test]
fn a_pod_reaches_what_its_policies_allow() {
    isolated("a_pod_reaches_what_its_policies_allow", async || {
        make_outside();
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, near, far) = (one.pod(2), one.pod(3), two.pod(4));
        let mut policies = Policies::new(&cluster).await;
        for (pod, app) in [(&client, "client"), (&near, "near"), (&far, "far")] {
            policies.pod(pod, "default", json!({"app": app})).await;
        }
        let outside = Pod { namespace: "outside".into(), ip: OUTSIDE };
        for pod in [&near, &far, &outside] {
            pod.serve(80);
        }
        let in_cluster = Pod { namespace: "bulkhead-a".into(), ip: HOST };
        in_cluster.serve(API_PORT);
        let spec = |rules: Value| {
            json!({"podSelector": {"matchLabels": {"app": "client"}},
                   "policyTypes": ["Egress"], "egress": rules})
        };
        let everywhere = [(near.ip, 80), (far.ip, 80), (OUTSIDE, 80), (HOST, API_PORT)];
        everywhere.iter().for_each(|(ip, port)| drop(client.ask(*ip, *port)));
        policies.policy("egress", spec(json!([]))).await;
        everywhere.iter().for_each(|(ip, port)| refused(&client, *ip, *port));
        assert_eq!(near.ask(far.ip, 80).1, near.ip, "another is not bound");
        // Nobody keeps others from it, and its answers pass.
        client.serve(80);
        far.ask(client.ip, 80);

        let block = |except: &[&str]| json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}]}]);
        policies.policy("egress", spec(block(&["10.244.2.0/24", "10.88.0.0/16"]))).await;
        client.ask(near.ip, 80);
        assert_eq!(client.ask(OUTSIDE, 80).1, HOST_OUTSIDE);
        refused(&client, far.ip, 80);
        refused(&client, HOST, API_PORT);

        let api = json!({"to": [{"ipBlock": {"cidr": "10.88.255.254/32"}}],
                         "ports": [{"port": API_PORT}]});
        let pods = json!({"to": [{"podSelector": {"matchLabels": {"app": "far"}}}],
                          "ports": [{"port": "http"}]});
        policies.policy("egress", spec(json!([api, pods]))).await;
        client.ask(HOST, API_PORT);
        client.ask(far.ip, 80);
        refused(&client, near.ip, 80);
        refused(&client, OUTSIDE, 80);

        // Both sides have a say.
        policies.policy("ingress", deny("Ingress")).await;
        refused(&client, far.ip, 80);
    });
}

#[test]
fn the_dns_server_is_known_as_the_pod_that_it_is_elsewhere() {
    isolated("the_dns_server_is_known_as_the_pod_that_it_is_elsewhere", async || {
        let cluster = Cluster::new("a").await;
        let one = Guest::boot(&cluster, 1).await;
        let client = one.pod(2);
        // The server shares the host's address, and its Service leads there.
        run("ip netns exec bulkhead-a nft insert rule ip bulkhead input udp dport 53 accept");
        let in_cluster = Pod { namespace: "bulkhead-a".into(), ip: HOST };
        in_cluster.serve_udp(53);
        in_cluster.serve(API_PORT);
        let mut catalogue = services::Catalogue::new("a", cluster.uplink.cluster_address());
        catalogue.set_service(&json!({
            "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {"clusterIP": DNS.to_string(), "ports": [{"port": 53, "protocol": "UDP"}]},
        }));
        catalogue.set_slice(&json!({
            "metadata": {"namespace": "kube-system", "name": "kube-dns-1",
                         "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 53, "protocol": "UDP"}],
            "endpoints": [{"addresses": [HOST.to_string()]}],
        }));
        let transaction = services::Maps::default().replace(catalogue.table());
        cluster.network.apply(transaction).await.unwrap();
        let mut policies = Policies::new(&cluster).await;
        policies.pod(&client, "default", Value::Null).await;
        let ask = || {
            let socket = in_namespace(&client.namespace, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((DNS, 53)).unwrap();
                socket
            });
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.send(b"who?").unwrap();
            socket.recv(&mut [0; 100]).map(drop)
        };
        ask().unwrap();
        policies.policy("egress", deny("Egress")).await;
        assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let dns = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                         "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
        let rule = json!({"to": [dns]});
        policies
            .policy("dns", json!({"podSelector": {}, "egress": [rule], "policyTypes": ["Egress"]}))
            .await;
        ask().unwrap();
        refused(&client, HOST, API_PORT);
    });
}

#[test]
fn behind_a_service_it_is_the_pods_that_policies_are_about() {
    isolated("behind_a_service_it_is_the_pods_that_policies_are_about", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, web) = (one.pod(2), two.pod(3));
        web.serve(80);
        let (outside, host) = (cluster.uplink.cluster_address(), cluster.uplink.host_address());
        let mut catalogue = services::Catalogue::new("a", outside);
        catalogue.set_service(&json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "NodePort", "clusterIP": SERVICE_IP.to_string(),
                     "ports": [{"port": 8000, "nodePort": 30080}]},
        }));
        catalogue.set_slice(&json!({
            "metadata": {"namespace": "default", "name": "web-1",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": [web.ip.to_string()], "nodeName": "a-2"}],
        }));
        let transaction = services::Maps::default().replace(catalogue.table());
        cluster.network.apply(transaction).await.unwrap();
        let mut policies = Policies::new(&cluster).await;
        policies.pod(&client, "default", json!({"app": "client"})).await;
        policies.pod(&web, "default", json!({"app": "web"})).await;
        policies
            .policy("deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
            .await;

        let from_host = || connect_from_host((outside, 30080).into()).map(|open| open.who.1);
        refused(&client, SERVICE_IP, 8000);
        refused(&client, node_ip(2), 30080);
        assert!(from_host().is_err());
        assert_eq!(web.ask(SERVICE_IP, 8000).1, HOST, "a pod reaches itself");

        // By the pod's own port, and from whom it comes.
        let egress = json!({"podSelector": {"matchLabels": {"app": "client"}}, "egress": [
            {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}]});
        policies.policy("egress", egress).await;
        refused(&client, SERVICE_IP, 8000);
        let ingress = |peer: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer]}]});
        policies
            .policy("ingress", ingress(json!({"podSelector": {"matchLabels": {"app": "client"}}})))
            .await;
        client.ask(SERVICE_IP, 8000);
        client.ask(node_ip(2), 30080);
        assert!(from_host().is_err());
        let block = json!({"ipBlock": {"cidr": format!("{host}/32")}});
        policies.policy("ingress", ingress(block)).await;
        assert_eq!(from_host().unwrap(), IpAddr::V4(host));
        refused(&client, SERVICE_IP, 8000);
    });
}

#[test]
fn what_is_open_stays_open_and_there_is_no_moment_without_rules() {
    isolated("what_is_open_stays_open_and_there_is_no_moment_without_rules", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (web, friend, foe) = (one.pod(2), two.pod(3), two.pod(4));
        web.serve(80);
        let mut policies = Policies::new(&cluster).await;
        policies.pod(&web, "default", json!({"app": "web"})).await;
        policies.pod(&friend, "default", json!({"app": "friend"})).await;
        policies.pod(&foe, "default", json!({"app": "foe"})).await;
        let mut open = foe.connect(web.ip, 80).unwrap();
        policies.policy("deny", deny("Ingress")).await;
        let admit = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]});
        policies.policy("admit", admit).await;
        assert!(open.echoes(), "as it was there before");
        refused(&foe, web.ip, 80);

        // Daemons that start, and all that can change beside the pod.
        let (done, mut rounds) = (AtomicBool::new(false), 0);
        let [admitted, kept_out] = [AtomicBool::new(true), AtomicBool::new(true)];
        let tries = std::thread::scope(|scope| {
            let friendly = scope.spawn(|| {
                let mut tries = 0;
                while !done.load(Ordering::Relaxed) {
                    let reached = friend.connect(web.ip, 80).is_ok();
                    admitted.fetch_and(reached, Ordering::Relaxed);
                    tries += 1;
                }
                tries
            });
            let hostile = scope.spawn(|| {
                let mut tries = 0;
                while !done.load(Ordering::Relaxed) {
                    let reached = foe.connect(web.ip, 80).is_ok();
                    kept_out.fetch_and(!reached, Ordering::Relaxed);
                    tries += 1;
                }
                tries
            });
            let changes = async {
                while rounds < 20 {
                    rounds += 1;
                    policies.policy("more", deny("Ingress")).await;
                    policies.no_policy("more").await;
                    policies.replace().await;
                }
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(changes));
            done.store(true, Ordering::Relaxed);
            [friendly.join().unwrap(), hostile.join().unwrap()]
        });
        assert!(tries.iter().all(|tries| *tries > 0), "{tries:?}");
        assert!(kept_out.into_inner());
        assert!(admitted.into_inner());
        assert!(open.echoes());
        let tables = run("ip netns exec bulkhead-a nft list tables ip");
        assert_eq!(tables.matches("policy-").count(), 1, "{tables}");
    });
}

#[test]
fn the_next_pod_at_an_address_has_nothing_of_the_last() {
    isolated("the_next_pod_at_an_address_has_nothing_of_the_last", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (server, client) = (one.pod(2), two.pod(3));
        let at = server.serve_udp(53);
        let mut policies = Policies::new(&cluster).await;
        policies.pod(&client, "default", Value::Null).await;
        policies.pod(&server, "default", json!({"app": "open"})).await;
        policies.policy("closed", json!({"podSelector": {"matchLabels": {"app": "closed"}}})).await;
        // One flow, whose datagrams keep coming.
        let socket = in_namespace(&client.namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
        let ask = |limit: Duration| {
            socket.set_read_timeout(Some(limit)).unwrap();
            socket.send_to(b"who?", at).unwrap();
            socket.recv_from(&mut [0; 100]).map(drop)
        };
        ask(LIMIT).unwrap();
        let next = Pod { namespace: "next".into(), ip: server.ip };
        policies.pod(&next, "default", json!({"app": "closed"})).await;
        // A rejection is not told to a socket that is not connected.
        assert!(ask(Duration::from_millis(300)).is_err());
        policies.no_policy("closed").await;
        ask(LIMIT).unwrap();

        // Until it is known who has it, nobody is let in or out.
        policies.catalogue.set_address("unknown", server.ip, node_ip(1));
        policies.apply().await;
        assert!(ask(Duration::from_millis(300)).is_err());
    });
}

#[test]
fn nothing_is_left_of_policies_that_are_gone() {
    isolated("nothing_is_left_of_policies_that_are_gone", async || {
        let cluster = Cluster::new("a").await;
        let mut policies = Policies::new(&cluster).await;
        let rules = || {
            let mut lines = BTreeMap::<String, usize>::new();
            for line in cluster.rules().lines() {
                *lines.entry(line.to_owned()).or_default() += 1;
            }
            lines
        };
        let before = rules();
        for host in 1..20_u8 {
            let pod = Pod { namespace: format!("p{host}"), ip: support::pod(1, host) };
            policies.pod(&pod, "default", json!({"app": format!("a{}", host % 4)})).await;
        }
        for round in 0..3_u32 {
            for number in 0..12_u32 {
                let labels = json!({"matchLabels": {"app": format!("a{}", number % 5)}});
                let others = json!({"matchLabels": {"app": format!("a{}", (number + round) % 5)}});
                let rule = |peers: &str| {
                    json!([{peers: [{"podSelector": others}, {"namespaceSelector": {}}],
                            "ports": [{"port": "http"}, {"port": 80 + number}]}])
                };
                let spec = json!({"podSelector": labels, "policyTypes": ["Ingress", "Egress"],
                                  "ingress": rule("from"), "egress": rule("to")});
                policies.policy(&format!("p{number}"), spec).await;
            }
        }
        for number in 0..12 {
            policies.no_policy(&format!("p{number}")).await;
        }
        for host in 1..20 {
            policies.catalogue.release(&format!("p{host}"));
        }
        policies.apply().await;
        assert_eq!(rules(), before);
    });
}
