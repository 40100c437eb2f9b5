//! Services between nodes with kernels: who answers at their addresses, and whom they see.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use bulkhead_network::address::{HOST, node_ip};
use bulkhead_network::services::{Backends, Catalogue, Frontend, Maps, Protocol};
use serde_json::{Value, json};
use support::guest::{Guest, Pod, connect_from_host, parse};
use support::{Cluster, LIMIT, in_namespace, isolated, run};

const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// A cluster's Services, as its daemon keeps them.
struct Services<'a> {
    cluster: &'a Cluster,
    catalogue: Catalogue,
    maps: Maps,
}

impl<'a> Services<'a> {
    async fn new(cluster: &'a Cluster) -> Self {
        let catalogue = Catalogue::new("a", cluster.uplink.cluster_address());
        let mut this = Self { cluster, catalogue, maps: Maps::default() };
        let transaction = this.maps.replace(BTreeMap::new());
        cluster.network.apply(transaction).await.unwrap();
        this
    }

    async fn apply(&mut self) {
        let transaction = self.maps.change(self.catalogue.changes());
        self.cluster.network.apply(transaction).await.unwrap();
    }

    async fn service(&mut self, spec: Value) {
        let mut spec = spec;
        spec["clusterIP"] = json!(SERVICE_IP.to_string());
        self.catalogue.set_service(
            &json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec}),
        );
        self.apply().await;
    }

    async fn slice(&mut self, ports: Value, endpoints: Vec<Value>) {
        self.catalogue.set_slice(&json!({
            "metadata": {"namespace": "default", "name": "web-1",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        }));
        self.apply().await;
    }
}

fn endpoint(pod: &Pod, node: u32) -> Value {
    json!({"addresses": [pod.ip.to_string()], "nodeName": format!("a-{node}"),
           "conditions": {"ready": true}})
}

fn unready(pod: &Pod, node: u32, draining: bool) -> Value {
    json!({"addresses": [pod.ip.to_string()], "nodeName": format!("a-{node}"),
           "conditions": {"ready": false, "serving": draining, "terminating": draining}})
}

/// What nft says that sets and maps have, an element each.
fn elements(cluster: &Cluster) -> BTreeSet<String> {
    let rules = cluster.rules();
    let lists = rules.split("elements = {").skip(1).filter_map(|rest| rest.split('}').next());
    lists.flat_map(|list| list.split(',').map(|element| element.trim().to_owned())).collect()
}

#[test]
fn maps_have_what_they_are_told_change_by_change_or_at_once() {
    isolated("maps_have_what_they_are_told_change_by_change_or_at_once", async || {
        let cluster = Cluster::new("a").await;
        let endpoint = |host: u8| SocketAddrV4::new(support::pod(1, host), 8080);
        let to = |hosts: &[u8]| Backends::new(hosts.iter().map(|h| endpoint(*h)).collect(), None);
        let sticky = |hosts: &[u8]| Backends::new(to(hosts).endpoints().to_vec(), Some(600));
        let address = |port| Frontend::Address(SERVICE_IP, Protocol::Tcp, port);
        let local = Frontend::FromNode(2, SERVICE_IP, Protocol::Udp, 53);
        let node_port = Frontend::NodePort(Protocol::Sctp, 30080);

        let mut maps = Maps::default();
        let steps = [
            vec![(address(80), to(&[2, 3])), (address(81), to(&[2, 4])), (local, to(&[5]))],
            vec![(address(80), to(&[3, 6])), (node_port, to(&[7])), (local, sticky(&[5, 6]))],
            vec![(address(81), to(&[])), (local, sticky(&[6]))],
        ];
        let mut table = BTreeMap::new();
        for step in steps {
            table.extend(step.clone());
            cluster.network.apply(maps.change(step)).await.unwrap();
        }
        let changed = elements(&cluster);
        for element in [
            "10.96.0.10 . tcp . 80 : goto services-2",
            "10.96.0.10 . tcp . 80 . 0x00000000 : 10.244.1.3 . 8080",
            "10.96.0.10 . tcp . 80 . 0x00000001 : 10.244.1.6 . 8080",
            "2 . 10.96.0.10 . udp . 53 : goto local-1-for-600s",
            "2 . 10.96.0.10 . udp . 53 . 0x00000000 : 0x0af40106",
            "2 . 10.96.0.10 . udp . 53 . 0x0af40106 : 10.244.1.6 . 8080",
            "sctp . 30080 : goto nodeports-1",
            "sctp . 30080 . 0x00000000 : 10.244.1.7 . 8080",
            "10.244.1.3 . 10.244.1.3",
        ] {
            assert!(changed.contains(element), "{element} is not of {changed:#?}");
        }
        assert!(!changed.iter().any(|element| element.contains(" . 81")), "{changed:#?}");
        assert!(!changed.contains("10.244.1.2 . 10.244.1.2"), "it is no endpoint any more");

        cluster.network.apply(Maps::default().replace(table.clone())).await.unwrap();
        assert_eq!(elements(&cluster), changed);

        // All of what is refused is left undone: this deletes what is not there.
        let mut wrong = Maps::default();
        let _ = wrong.replace(BTreeMap::from([(address(82), to(&[2]))]));
        let refused = wrong.change([(address(80), to(&[9])), (address(82), to(&[3]))]);
        let refused = cluster.network.apply(refused).await.unwrap_err();
        assert!(refused.to_string().contains("nftables"), "{refused}");
        assert_eq!(elements(&cluster), changed);

        // More at once than a socket takes unless it is told.
        let many = |port: u16| (address(port), to(&[2, 3, 4, 5, 6, 7, 8, 9, 10, 11]));
        table.extend((1000..1600).map(many));
        cluster.network.apply(maps.replace(table)).await.unwrap();
        let all = elements(&cluster);
        assert!(all.is_superset(&changed));
        // One says where to go, ten where that leads.
        let new = all.iter().filter(|element| element.contains("10.96.0.10 . tcp . 1"));
        assert_eq!(new.count(), 600 * 11);
    });
}

/// Who answers within so many connections.
fn askers(client: &Pod, ip: Ipv4Addr, port: u16) -> BTreeSet<String> {
    (0..40).map(|_| client.ask(ip, port).0).collect()
}

fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<String> {
    pods.into_iter().map(|pod| pod.namespace.clone()).collect()
}

#[test]
fn a_service_leads_to_its_pods_and_they_see_who_asks() {
    isolated("a_service_leads_to_its_pods_and_they_see_who_asks", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, near, far) = (one.pod(2), one.pod(3), two.pod(4));
        near.serve(8080);
        far.serve(8080);
        far.serve(8081);
        assert_eq!(
            client.ask(far.ip, 8080),
            (far.namespace.clone(), client.ip.into()),
            "without NAT"
        );
        assert_eq!(client.ask(near.ip, 8080), (near.namespace.clone(), client.ip.into()));

        let mut services = Services::new(&cluster).await;
        services
            .service(json!({"ports": [
                {"name": "http", "port": 80, "protocol": "TCP"},
                {"name": "admin", "port": 81, "protocol": "TCP"},
            ]}))
            .await;
        let refused = client.connect(SERVICE_IP, 80).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "no endpoints");

        services
            .slice(
                json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 8081}]),
                vec![endpoint(&near, 1), endpoint(&far, 2)],
            )
            .await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&near, &far]));
        assert_eq!(client.ask(SERVICE_IP, 80).1, client.ip);
        // Ports are looked up by name; nobody listens on the second at `near`.
        let answered = (0..20).find_map(|_| client.connect(SERVICE_IP, 81).ok()).unwrap();
        assert_eq!(answered.who.0, far.namespace);
        assert!(client.connect(SERVICE_IP, 82).is_err(), "a port that it does not have");

        // An endpoint of its own, its node, and a client that is the node.
        services.slice(json!([{"name": "http", "port": 8080}]), vec![endpoint(&near, 1)]).await;
        assert_eq!(near.ask(SERVICE_IP, 80), (near.namespace.clone(), HOST.into()), "hairpin");
        assert_eq!(one.itself().ask(SERVICE_IP, 80).0, near.namespace);
        one.itself().serve(8080);
        services
            .slice(json!([{"name": "http", "port": 8080}]), vec![endpoint(&one.itself(), 1)])
            .await;
        assert_eq!(client.ask(SERVICE_IP, 80).0, one.namespace());
        assert_eq!(two.pod(9).ask(SERVICE_IP, 80).0, one.namespace());
    });
}

#[test]
fn an_endpoint_that_is_not_ready_gets_no_new_connection_and_keeps_the_old() {
    isolated(
        "an_endpoint_that_is_not_ready_gets_no_new_connection_and_keeps_the_old",
        async || {
            let cluster = Cluster::new("a").await;
            let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
            let (client, a, b) = (one.pod(2), two.pod(3), two.pod(4));
            a.serve(80);
            b.serve(80);
            let ports = || json!([{"name": "", "port": 80}]);
            let mut services = Services::new(&cluster).await;
            services.service(json!({"ports": [{"port": 80}]})).await;
            services.slice(ports(), vec![endpoint(&a, 2), endpoint(&b, 2)]).await;
            let mut open = loop {
                let connection = client.connect(SERVICE_IP, 80).unwrap();
                if connection.who.0 == a.namespace {
                    break connection;
                }
            };

            services.slice(ports(), vec![unready(&a, 2, false), endpoint(&b, 2)]).await;
            assert_eq!(askers(&client, SERVICE_IP, 80), names([&b]));
            assert!(open.echoes());

            // One that drains serves where nobody else does.
            services.slice(ports(), vec![unready(&a, 2, true), unready(&b, 2, false)]).await;
            assert_eq!(askers(&client, SERVICE_IP, 80), names([&a]));
            services.slice(ports(), vec![]).await;
            assert!(client.connect(SERVICE_IP, 80).is_err());

            // A new daemon, which knows nothing of what the maps hold.
            let mut again = Services::new(&cluster).await;
            again.service(json!({"ports": [{"port": 80}]})).await;
            again.slice(ports(), vec![endpoint(&a, 2)]).await;
            let transaction = Maps::default().replace(again.catalogue.table());
            cluster.network.ensure(&support::plan()).await.unwrap();
            cluster.network.apply(transaction).await.unwrap();
            assert_eq!(askers(&client, SERVICE_IP, 80), names([&a]));
            assert!(open.echoes());
        },
    );
}

#[test]
fn a_pod_that_leaves_gets_no_new_connection_before_slices_say_so() {
    isolated("a_pod_that_leaves_gets_no_new_connection_before_slices_say_so", async || {
        let cluster = Cluster::new("a").await;
        let one = Guest::boot(&cluster, 1).await;
        let (client, a, b) = (one.pod(2), one.pod(3), one.pod(4));
        a.serve(80);
        b.serve(80);
        let ports = || json!([{"name": "", "port": 80}]);
        let of = |pod: &Pod, uid: &str| {
            let mut endpoint = endpoint(pod, 1);
            endpoint["targetRef"] = json!({"kind": "Pod", "uid": uid});
            endpoint
        };
        let mut services = Services::new(&cluster).await;
        services.service(json!({"ports": [{"port": 80}]})).await;
        assert!(!services.catalogue.set_leaving("a"), "in no slice");
        services.slice(ports(), vec![of(&a, "a"), of(&b, "b")]).await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&a, &b]));
        assert!(services.catalogue.set_leaving("a"));
        services.apply().await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&b]));
        assert!(!cluster.network.opening(b.ip).await.unwrap(), "all of them are open");

        // As with one that slices say drains, it serves where nobody else does.
        services.slice(ports(), vec![of(&a, "a")]).await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&a]));
        // Another pod at its address is another.
        services.slice(ports(), vec![of(&a, "c"), of(&b, "b")]).await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&a, &b]));
        services.slice(ports(), vec![of(&a, "a"), of(&b, "b")]).await;
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&a, &b]), "it was gone meanwhile");
    });
}

#[test]
fn who_connects_to_a_node_that_ends_is_led_to_another() {
    isolated("who_connects_to_a_node_that_ends_is_led_to_another", async || {
        let cluster = Cluster::new("a").await;
        let one = Guest::boot(&cluster, 1).await;
        let two = cluster.node(2).await;
        let (client, near) = (one.pod(2), one.pod(3));
        let far = Pod { namespace: String::new(), ip: support::pod(2, 3) };
        near.serve(80);
        let ports = || json!([{"name": "", "port": 80}]);
        let mut services = Services::new(&cluster).await;
        services.service(json!({"ports": [{"port": 80}]})).await;
        services.slice(ports(), vec![endpoint(&far, 2)]).await;
        let connect = || {
            let client = client.clone();
            std::thread::spawn(move || client.connect(SERVICE_IP, 80).map(|c| c.who.0))
        };

        // One is under way when the node ends, another begins when it has ended and nobody knows.
        let before = connect();
        two.meets_tcp();
        drop(two);
        let after = connect();
        wait_for_attempts(&client, 2);
        assert!(cluster.network.opening(far.ip).await.unwrap());
        services.catalogue.set_node(2, true);
        services.slice(ports(), vec![endpoint(&far, 2), endpoint(&near, 1)]).await;
        cluster.network.forsake(support::link(2)).await.unwrap();
        for connecting in [before, after] {
            assert_eq!(connecting.join().unwrap().unwrap(), near.namespace);
        }
        assert_eq!(askers(&client, SERVICE_IP, 80), names([&near]));

        // It is there again.
        let two = cluster.node(2).await;
        services.catalogue.set_node(2, false);
        services.slice(ports(), vec![endpoint(&far, 2)]).await;
        let again = connect();
        two.meets_tcp();
        drop((two, again));
    });
}

/// Waits until so many of a pod's connections have been asked for and not answered.
fn wait_for_attempts(client: &Pod, count: usize) {
    let begun = std::time::Instant::now();
    loop {
        let table = run(&format!("ip netns exec {} cat /proc/net/tcp", client.namespace));
        // TCP_SYN_SENT.
        let state = |line: &str| line.split_whitespace().nth(3) == Some("02");
        if table.lines().filter(|line| state(line)).count() == count {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{table}");
    }
}

#[test]
fn node_ports_are_open_at_every_node_and_at_the_hosts_end() {
    isolated("node_ports_are_open_at_every_node_and_at_the_hosts_end", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, a, b) = (one.pod(2), one.pod(3), two.pod(3));
        a.serve(80);
        b.serve(80);
        let outside = cluster.uplink.cluster_address();
        let host =
            |port: u16| connect_from_host((outside, port).into()).map(|connection| connection.who);
        let mut services = Services::new(&cluster).await;
        let spec = |policy: &str| {
            json!({"type": "NodePort", "externalTrafficPolicy": policy,
                   "ports": [{"port": 80, "nodePort": 30080}]})
        };
        services.service(spec("Cluster")).await;
        services
            .slice(json!([{"name": "", "port": 80}]), vec![endpoint(&a, 1), endpoint(&b, 2)])
            .await;
        for node in [1, 2] {
            assert_eq!(askers(&client, node_ip(node), 30080), names([&a, &b]), "node {node}");
        }
        one.itself().serve(30090);
        one.itself().serve(8080);
        assert_eq!(client.ask(node_ip(1), 8080), (one.namespace(), client.ip.into()));
        assert_eq!(client.ask(node_ip(1), 30090), (one.namespace(), HOST.into()), "nobody's");
        let from_host: BTreeSet<_> = (0..40).map(|_| host(30080).unwrap().0).collect();
        assert_eq!(from_host, names([&a, &b]));
        assert_eq!(host(30080).unwrap().1, cluster.uplink.host_address(), "its own address");
        assert!(host(30081).is_err(), "a port that nobody has");

        services.service(spec("Local")).await;
        assert_eq!(askers(&client, node_ip(2), 30080), names([&b]));
        services.slice(json!([{"name": "", "port": 80}]), vec![endpoint(&a, 1)]).await;
        assert!(client.connect(node_ip(2), 30080).is_err(), "no pod of it is there");
        assert_eq!(host(30080).unwrap().0, a.namespace);
    });
}

#[test]
fn a_client_sticks_to_its_endpoint_for_as_long_as_that_lives() {
    isolated("a_client_sticks_to_its_endpoint_for_as_long_as_that_lives", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let pods = [two.pod(3), two.pod(4), two.pod(5)];
        for pod in &pods {
            pod.serve(80);
        }
        let mut services = Services::new(&cluster).await;
        services
            .service(json!({
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                "ports": [{"port": 80}],
            }))
            .await;
        let ports = || json!([{"name": "", "port": 80}]);
        services.slice(ports(), pods[..2].iter().map(|pod| endpoint(pod, 2)).collect()).await;
        // Which one a client gets is chance: others come until both are had.
        let (mut clients, mut stuck) = (Vec::new(), BTreeMap::new());
        let mut had = BTreeSet::new();
        for host in 10..60 {
            let client = one.pod(host);
            let answered = askers(&client, SERVICE_IP, 80);
            assert_eq!(answered.len(), 1, "{answered:?}");
            had.extend(answered.clone());
            stuck.insert(client.ip, answered);
            clients.push(client);
            if clients.len() >= 4 && had.len() == 2 {
                break;
            }
        }
        assert_eq!(had, names(&pods[..2]), "clients are spread");

        // More endpoints move nobody; fewer move those whose endpoint went.
        services.slice(ports(), pods.iter().map(|pod| endpoint(pod, 2)).collect()).await;
        for client in &clients {
            assert_eq!(&askers(client, SERVICE_IP, 80), &stuck[&client.ip]);
        }
        services.slice(ports(), pods[1..].iter().map(|pod| endpoint(pod, 2)).collect()).await;
        for client in &clients {
            let answered = askers(client, SERVICE_IP, 80);
            assert_eq!(answered.len(), 1, "{answered:?}");
            let kept = stuck[&client.ip] == names([&pods[1]]);
            assert!(!kept || answered == stuck[&client.ip]);
            assert!(answered != names([&pods[0]]));
        }
    });
}

#[test]
fn local_traffic_stays_on_the_clients_node() {
    isolated("local_traffic_stays_on_the_clients_node", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (a, b) = (one.pod(3), two.pod(3));
        a.serve(80);
        b.serve(80);
        let mut services = Services::new(&cluster).await;
        services.service(json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80}]})).await;
        let ports = || json!([{"name": "", "port": 80}]);
        services.slice(ports(), vec![endpoint(&a, 1), endpoint(&b, 2)]).await;
        assert_eq!(askers(&one.pod(2), SERVICE_IP, 80), names([&a]));
        assert_eq!(askers(&two.pod(2), SERVICE_IP, 80), names([&b]));
        services.slice(ports(), vec![endpoint(&a, 1)]).await;
        assert!(two.itself().connect(SERVICE_IP, 80).is_err());
    });
}

#[test]
fn datagrams_do_not_go_on_to_an_endpoint_that_is_gone() {
    isolated("datagrams_do_not_go_on_to_an_endpoint_that_is_gone", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, a, b) = (one.pod(2), two.pod(3), two.pod(4));
        let (at_a, at_b): (SocketAddrV4, SocketAddrV4) = (a.serve_udp(53), b.serve_udp(53));
        assert_eq!((at_a.port(), at_b.port()), (53, 53));
        let mut services = Services::new(&cluster).await;
        services.service(json!({"ports": [{"port": 53, "protocol": "UDP"}]})).await;
        let ports = || json!([{"name": "", "port": 53, "protocol": "UDP"}]);
        services.slice(ports(), vec![endpoint(&a, 2)]).await;

        // One flow, as a resolver's is that keeps its port.
        let socket = in_namespace(&client.namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let ask = || {
            socket.send_to(b"who?", (SERVICE_IP, 53)).unwrap();
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, (SERVICE_IP, 53).into());
            parse(&String::from_utf8_lossy(&buffer[..length])).0
        };
        assert_eq!(ask(), a.namespace);
        services.slice(ports(), vec![endpoint(&b, 2)]).await;
        assert_eq!(ask(), b.namespace);

        // It is gone while no daemon is there: the next knows nothing of whom it replaced.
        services.catalogue.set_slice(&json!({
            "metadata": {"namespace": "default", "name": "web-1",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": ports(), "endpoints": [endpoint(&a, 2)],
        }));
        let anew = Maps::default().replace(services.catalogue.table());
        cluster.network.apply(anew).await.unwrap();
        assert_eq!(ask(), a.namespace);
    });
}

#[test]
fn datagrams_do_not_go_on_to_where_nobody_was() {
    isolated("datagrams_do_not_go_on_to_where_nobody_was", async || {
        const PORT: u16 = 30_053;
        let cluster = Cluster::new("a").await;
        let (one, two) = (Guest::boot(&cluster, 1).await, Guest::boot(&cluster, 2).await);
        let (client, pod) = (one.pod(2), one.pod(3));
        // The node's own server stands for whoever has the address itself.
        two.itself().serve_udp(PORT);
        pod.serve_udp(53);
        let mut services = Services::new(&cluster).await;
        let socket = in_namespace(&client.namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let ask = || {
            socket.send_to(b"who?", (node_ip(2), PORT)).unwrap();
            let mut buffer = [0; 100];
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            parse(&String::from_utf8_lossy(&buffer[..length])).0
        };
        assert_eq!(ask(), two.namespace());
        let ports = json!([{"port": 53, "nodePort": PORT, "protocol": "UDP"}]);
        services.service(json!({"type": "NodePort", "ports": ports})).await;
        assert_eq!(ask(), two.namespace(), "it leads nowhere yet");
        let ports = json!([{"name": "", "port": 53, "protocol": "UDP"}]);
        services.slice(ports, vec![endpoint(&pod, 1)]).await;
        assert_eq!(ask(), pod.namespace);
    });
}

#[test]
fn only_whom_it_names_reaches_a_restricted_load_balancer() {
    isolated("only_whom_it_names_reaches_a_restricted_load_balancer", async || {
        let cluster = Cluster::new("a").await;
        let one = Guest::boot(&cluster, 1).await;
        let (client, other, pod) = (one.pod(2), one.pod(9), one.pod(3));
        pod.serve(80);
        let mut services = Services::new(&cluster).await;
        let balanced = cluster.uplink.network().hosts().nth(20).unwrap();
        let service = |ranges: Value| {
            json!({
                "metadata": {"namespace": "default", "name": "web"},
                "spec": {"type": "LoadBalancer", "clusterIP": SERVICE_IP.to_string(),
                         "loadBalancerSourceRanges": ranges,
                         "ports": [{"port": 80, "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": balanced.to_string()}]}},
            })
        };
        services.catalogue.set_service(&service(Value::Null));
        services.slice(json!([{"name": "", "port": 80}]), vec![endpoint(&pod, 1)]).await;
        // Who is not let in hears nothing.
        let connect =
            || TcpStream::connect_timeout(&(balanced, 80).into(), Duration::from_millis(400));
        let dropped = |tried: std::io::Result<TcpStream>| {
            tried.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
        };
        let host = || connect_from_host((balanced, 80).into()).is_ok();
        assert!(host() && client.connect(balanced, 80).is_ok());

        // Blocks that lie in each other, and one of IPv6, which are nobody here.
        let own = cluster.uplink.host_address();
        for (ranges, of_host, of_client) in [
            (json!([format!("{}/32", client.ip), "10.244.1.0/29", "fd00::/8"]), false, true),
            (json!([format!(" {own}/32 ")]), true, false),
            (json!(["10.0.0.0/8"]), true, true),
            (json!(["fd00::/8"]), false, false),
        ] {
            services.catalogue.set_service(&service(ranges.clone()));
            services.apply().await;
            let host_in = if of_host { host() } else { !dropped(connect()) };
            assert_eq!(host_in, of_host, "{ranges}");
            let client_in = match of_client {
                true => client.connect(balanced, 80).is_ok(),
                false => !dropped(in_namespace(&client.namespace, connect)),
            };
            assert_eq!(client_in, of_client, "{ranges}");
        }
        assert!(other.connect(SERVICE_IP, 80).is_ok(), "it is about the load balancer alone");
        let outside = cluster.uplink.cluster_address();
        assert!(connect_from_host((outside, 30080).into()).is_ok(), "and not about node ports");

        services.catalogue.set_service(&service(json!([])));
        services.apply().await;
        assert!(host() && other.connect(balanced, 80).is_ok());
        // A map's element has a value, and a set's none.
        let left = elements(&cluster).into_iter().find(|element| {
            element.starts_with(&format!("{balanced} . tcp . 80")) && !element.contains(" : ")
        });
        assert_eq!(left, None, "all of it is gone");
    });
}
