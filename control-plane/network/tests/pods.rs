//! What passes between nodes, clusters and the world, and what does not.

mod support;

use std::net::{Ipv4Addr, UdpSocket};

use bulkhead_network::address::{GATEWAY, HOST, node_ip};
use support::frame::{Frame, Udp, arp};
use support::{
    Cluster, HOST_OUTSIDE, LIMIT, OUTSIDE, OUTSIDE_LOOPBACK, in_namespace, isolated, make_outside,
    pod, run,
};

const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn pods_reach_each_other_with_their_own_addresses() {
    isolated("pods_reach_each_other_with_their_own_addresses", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (cluster.node(1).await, cluster.node(2).await);

        one.send_from(pod(1, 2), pod(2, 3), "across");
        let (from, to) = (pod(1, 2), pod(2, 3));
        assert_eq!(two.receive(), Udp { from, to, ports: (4000, 5000), word: "across".into() });

        // A pod next door is reached by way of the host as well.
        one.send_from(pod(1, 2), pod(1, 3), "around");
        let (from, to) = (pod(1, 2), pod(1, 3));
        assert_eq!(one.receive(), Udp { from, to, ports: (4000, 5000), word: "around".into() });

        one.send_from(node_ip(1), pod(2, 3), "from the node");
        assert_eq!(two.receive().from, node_ip(1));
    });
}

#[test]
fn a_frame_that_is_not_the_nodes_own_dies_at_its_tap() {
    isolated("a_frame_that_is_not_the_nodes_own_dies_at_its_tap", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (cluster.node(1).await, cluster.node(2).await);
        let honest = one.frame(pod(1, 2), pod(2, 3), "spoofed");

        for from in [pod(2, 9), node_ip(2), GATEWAY, HOST, Ipv4Addr::LOCALHOST, OUTSIDE] {
            one.send(&Frame { udp: Udp { from, ..honest.udp.clone() }, ..honest.clone() });
        }
        for source in [two.link.mac().0, one.gateway, [0x02, 0, 0, 0, 0, 1]] {
            one.send(&Frame { source, ..honest.clone() });
        }
        // Behind a VLAN's tag, which would hide the rest from rules that look past it.
        let mut tagged = honest.bytes();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x01]);
        one.send_bytes(&tagged);

        one.send_from(pod(1, 2), pod(2, 3), "honest");
        assert_eq!(two.receive().word, "honest", "what was sent before it did not come");
    });
}

#[test]
fn nobody_answers_for_another_by_arp() {
    isolated("nobody_answers_for_another_by_arp", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (cluster.node(1).await, cluster.node(2).await);
        let mac = one.link.mac().0;

        let ask = |sender, target| arp(1, sender, ([0; 6], target), BROADCAST);
        assert!(one.answer_to_arp(&ask((mac, node_ip(1)), GATEWAY)).is_some());
        assert!(one.answer_to_arp(&ask((mac, node_ip(2)), GATEWAY)).is_none());
        assert!(one.answer_to_arp(&ask((mac, pod(2, 3)), GATEWAY)).is_none());

        let before = run("ip -n bulkhead-a neigh");
        for claimed in [node_ip(2), GATEWAY, pod(2, 3)] {
            let claim = arp(2, (mac, claimed), (one.gateway, GATEWAY), one.gateway);
            assert!(one.answer_to_arp(&claim).is_none());
            let gratuitous = arp(1, (mac, claimed), ([0; 6], claimed), BROADCAST);
            assert!(one.answer_to_arp(&gratuitous).is_none());
        }
        assert_eq!(run("ip -n bulkhead-a neigh"), before);
        assert!(before.lines().all(|line| line.contains("PERMANENT")), "{before}");

        one.send_from(pod(1, 2), pod(2, 3), "still");
        assert_eq!(two.receive().word, "still");
    });
}

#[test]
fn clusters_with_the_same_addresses_do_not_meet() {
    isolated("clusters_with_the_same_addresses_do_not_meet", async || {
        make_outside();
        let (a, b) = (Cluster::new("a").await, Cluster::new("b").await);
        assert_ne!(a.uplink, b.uplink);
        let (one_a, one_b) = (a.node(1).await, b.node(1).await);
        let listener = in_namespace("outside", || UdpSocket::bind((OUTSIDE, 5000)).unwrap());
        listener.set_read_timeout(Some(LIMIT)).unwrap();

        // To the same address in either cluster, to the other's own, and to its end of the uplink.
        for to in [pod(1, 3), b.uplink.cluster_address(), b.uplink.host_address()] {
            one_a.send_from(pod(1, 2), to, "over there?");
        }
        assert_eq!(one_a.receive().word, "over there?", "to its own pod");
        one_a.send_from(pod(1, 2), OUTSIDE, "outside");
        assert_eq!(word(&listener).0, "outside");
        one_b.send_from(pod(1, 2), pod(1, 3), "mine");
        assert_eq!(one_b.receive().word, "mine", "nothing of cluster a came before");
    });
}

/// What came, and from where.
fn word(listener: &UdpSocket) -> (String, std::net::SocketAddr) {
    let mut buffer = [0; 100];
    let (length, from) = listener.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

#[test]
fn the_outside_sees_the_host_and_answers_come_back() {
    isolated("the_outside_sees_the_host_and_answers_come_back", async || {
        make_outside();
        let cluster = Cluster::new("a").await;
        let one = cluster.node(1).await;
        let listener = in_namespace("outside", || UdpSocket::bind((OUTSIDE, 5000)).unwrap());
        listener.set_read_timeout(Some(LIMIT)).unwrap();

        one.send_from(pod(1, 2), OUTSIDE, "hello");
        let (said, from) = word(&listener);
        assert_eq!((said.as_str(), from.ip()), ("hello", HOST_OUTSIDE.into()));
        listener.send_to(b"and you", from).unwrap();
        let answer = one.receive();
        assert_eq!((answer.from, answer.to), (OUTSIDE, pod(1, 2)));
        assert_eq!((answer.ports, answer.word.as_str()), ((5000, 4000), "and you"));
    });
}

#[test]
fn pods_reach_neither_the_host_nor_what_is_fenced() {
    isolated("pods_reach_neither_the_host_nor_what_is_fenced", async || {
        make_outside();
        run("ip addr add 127.0.0.2/8 dev lo; ip addr add 169.254.169.254/32 dev lo
             ip -n outside addr add 169.254.169.253/32 dev eth0
             ip route add 169.254.169.253/32 dev eth0");
        let cluster = Cluster::new("a").await;
        let one = cluster.node(1).await;
        let host = UdpSocket::bind(("0.0.0.0", 5000)).unwrap();
        host.set_nonblocking(true).unwrap();
        let in_cluster = in_namespace("bulkhead-a", || UdpSocket::bind(("0.0.0.0", 5000)).unwrap());
        in_cluster.set_nonblocking(true).unwrap();
        let outside = in_namespace("outside", || UdpSocket::bind(("0.0.0.0", 5000)).unwrap());
        outside.set_read_timeout(Some(LIMIT)).unwrap();

        for to in [
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(127, 0, 0, 2),
            Ipv4Addr::new(169, 254, 169, 254),
            Ipv4Addr::new(169, 254, 169, 253),
            HOST_OUTSIDE,
            OUTSIDE_LOOPBACK,
            cluster.uplink.host_address(),
            cluster.uplink.cluster_address(),
            GATEWAY,
            HOST,
            // Its cluster's own networks, where nobody is.
            pod(77, 1),
            node_ip(77),
            Ipv4Addr::new(10, 96, 0, 99),
        ] {
            one.send_from(pod(1, 2), to, &format!("to {to}"));
        }
        one.send_from(pod(1, 2), OUTSIDE, "end");
        assert_eq!(word(&outside).0, "end");
        for socket in [&host, &in_cluster] {
            let came = socket.recv(&mut [0; 100]).unwrap_err();
            assert_eq!(came.kind(), std::io::ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn the_host_has_no_way_into_pods() {
    isolated("the_host_has_no_way_into_pods", async || {
        let cluster = Cluster::new("a").await;
        let (one, two) = (cluster.node(1).await, cluster.node(2).await);
        run(&format!(
            "ip route add 10.244.0.0/16 via {} onlink dev bh-1",
            cluster.uplink.cluster_address()
        ));
        let host = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        host.send_to(b"in?", (pod(1, 2), 5000)).unwrap();
        two.send_from(pod(2, 2), pod(1, 2), "end");
        assert_eq!(one.receive().word, "end");
    });
}

#[test]
fn what_runs_in_the_clusters_namespace_reaches_pods_as_the_host() {
    isolated("what_runs_in_the_clusters_namespace_reaches_pods_as_the_host", async || {
        let cluster = Cluster::new("a").await;
        let one = cluster.node(1).await;
        in_namespace("bulkhead-a", || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(b"hello", (pod(1, 2), 5000)).unwrap();
        });
        let seen = one.receive();
        assert_eq!((seen.word.as_str(), seen.from), ("hello", HOST));
    });
}

#[test]
fn what_an_earlier_daemon_left_is_kept_or_repaired() {
    isolated("what_an_earlier_daemon_left_is_kept_or_repaired", async || {
        make_outside();
        let cluster = Cluster::new("a").await;
        let node = cluster.node(1).await;
        let rules = cluster.rules();

        // The next daemon changes nothing of what is whole.
        let again = Cluster::new("a").await;
        assert_eq!(again.uplink, cluster.uplink);
        assert_eq!(again.rules(), rules);
        node.send_from(pod(1, 2), pod(1, 3), "still there");
        assert_eq!(node.receive().word, "still there");

        // Half made: the uplink without its address, rules that are not there or too many.
        run("ip -n bulkhead-a addr flush dev uplink
             ip netns exec bulkhead-a nft flush chain ip bulkhead forward
             ip netns exec bulkhead-a nft add rule ip bulkhead forward accept
             nft delete table ip bulkhead-1; nft add table ip bulkhead-9");
        let repaired = Cluster::new("a").await;
        assert_eq!(repaired.rules(), rules);
        let tables = run("nft list tables ip");
        assert_eq!(tables, "table ip bulkhead-1\n", "its own, and none of an uplink that is gone");
        let listener = in_namespace("outside", || UdpSocket::bind((OUTSIDE, 5000)).unwrap());
        listener.set_read_timeout(Some(LIMIT)).unwrap();
        node.send_from(pod(1, 2), OUTSIDE, "out again");
        assert_eq!(word(&listener).0, "out again");
    });
}

#[test]
fn nothing_is_left_of_a_removed_cluster() {
    isolated("nothing_is_left_of_a_removed_cluster", async || {
        let before = (run("ip -o link"), run("ip route"), run("nft list ruleset"));
        let cluster = Cluster::new("a").await;
        drop(cluster.node(1).await);
        // A tap comes back with its rules after its monitor has ended.
        let node = cluster.node(1).await;
        node.send_from(pod(1, 2), pod(1, 3), "again");
        assert_eq!(node.receive().word, "again");
        drop(node);
        cluster.network.remove().await.unwrap();
        cluster.network.remove().await.unwrap();
        assert_eq!((run("ip -o link"), run("ip route"), run("nft list ruleset")), before);
        assert_eq!(run("ip netns list"), "");
    });
}
