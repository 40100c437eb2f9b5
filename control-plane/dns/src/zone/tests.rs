use hickory_proto::rr::DNSClass;
use serde_json::{Value, json};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn zone() -> Zone {
    let networks = vec!["10.96.0.0/12".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
    Zone::new(&name("cluster.local."), Ipv4Addr::new(10, 96, 0, 10), networks)
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("{service}-x"),
                     "labels": {"kubernetes.io/service-name": service}},
        "ports": ports, "endpoints": endpoints,
    })
}

fn index() -> Index {
    let mut index = Index::default();
    index.set_namespace(&json!({"metadata": {"name": "default"}}));
    let ports = json!([
        {"name": "https", "port": 443},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"port": 80},
    ]);
    index.set_service(&service("web", json!({"clusterIP": "10.96.0.7", "ports": ports})));
    index.set_service(&service("db", json!({"clusterIP": "None"})));
    index.set_slice(&slice(
        "db",
        json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]),
        json!([
            {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.2.2"]},
            {"addresses": ["10.244.3.2"], "hostname": "db-2", "conditions": {"ready": false}},
        ]),
    ));
    let alias = |to: &str| json!({"type": "ExternalName", "externalName": to});
    index.set_service(&service("outside", alias("db.example.org")));
    index.set_service(&service("other", alias("web.default.svc.cluster.local")));
    index.set_service(&service("round", alias("about.default.svc.cluster.local")));
    index.set_service(&service("about", alias("round.default.svc.cluster.local")));
    index
}

fn ask(question: &str, kind: RecordType) -> Outcome {
    let mut query = Query::query(name(question), kind);
    query.set_query_class(DNSClass::IN);
    zone().answer(&index(), &query)
}

/// The answer's code, and its records' data as text.
fn answer(question: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    match ask(question, kind) {
        Outcome::Answer(answer) => {
            let negative = answer.code == ResponseCode::NXDomain || answer.answers.is_empty();
            assert_eq!(negative, !answer.authorities.is_empty(), "{question}: {answer:?}");
            for record in answer.answers.iter().chain(&answer.authorities) {
                assert_eq!(record.ttl, TTL);
            }
            let data = answer.answers.iter().map(|record| record.data.to_string());
            (answer.code, data.collect())
        }
        outside => panic!("{question}: {outside:?}"),
    }
}

fn records(question: &str, kind: RecordType) -> Vec<String> {
    let (code, records) = answer(question, kind);
    assert_eq!(code, ResponseCode::NoError, "{question}");
    records
}

fn assert_none(question: &str) {
    assert_eq!(answer(question, RecordType::A), (ResponseCode::NXDomain, Vec::new()), "{question}");
}

#[test]
fn services_have_their_addresses_in_any_case() {
    use RecordType::{A, AAAA, ANY, MX};
    assert_eq!(records("web.default.svc.cluster.local.", A), ["10.96.0.7"]);
    assert_eq!(records("WEB.Default.SVC.cluster.LOCAL.", A), ["10.96.0.7"]);
    assert_eq!(records("web.default.svc.cluster.local.", ANY), ["10.96.0.7"]);
    // There, but without such records.
    for kind in [AAAA, MX] {
        assert!(records("web.default.svc.cluster.local.", kind).is_empty());
    }
    assert_none("web.other.svc.cluster.local.");
    assert_none("none.default.svc.cluster.local.");
    assert_none("x.web.default.svc.cluster.local.");
    assert_none("a.b.c.d.e.f.cluster.local.");
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    use RecordType::{A, SRV};
    assert_eq!(records("db.default.svc.cluster.local.", A), ["10.244.1.2", "10.244.2.2"]);
    assert_eq!(records("db-0.db.default.svc.cluster.local.", A), ["10.244.1.2"]);
    assert_eq!(records("10-244-2-2.db.default.svc.cluster.local.", A), ["10.244.2.2"]);
    assert_none("db-2.db.default.svc.cluster.local.");
    assert_none("10-244-1-2.db.default.svc.cluster.local.");
    assert_eq!(
        records("_sql._tcp.db.default.svc.cluster.local.", SRV),
        [
            "0 100 5432 db-0.db.default.svc.cluster.local.",
            "0 100 5432 10-244-2-2.db.default.svc.cluster.local.",
        ]
    );
    let Outcome::Answer(answer) = ask("_sql._tcp.db.default.svc.cluster.local.", SRV) else {
        panic!()
    };
    let more: Vec<_> = answer.additionals.iter().map(ToString::to_string).collect();
    assert_eq!(
        more,
        [
            "db-0.db.default.svc.cluster.local. 5 IN A 10.244.1.2",
            "10-244-2-2.db.default.svc.cluster.local. 5 IN A 10.244.2.2",
        ]
    );
}

#[test]
fn named_ports_have_srv_records() {
    let srv = |name: &str| answer(name, RecordType::SRV);
    let target = "web.default.svc.cluster.local.";
    assert_eq!(srv(&format!("_https._tcp.{target}")).1, [format!("0 100 443 {target}")]);
    assert_eq!(srv(&format!("_DNS._UDP.{target}")).1, [format!("0 100 53 {target}")]);
    assert_eq!(srv(&format!("_https._udp.{target}")).0, ResponseCode::NXDomain);
    assert_eq!(srv(&format!("_tcp.{target}")), (ResponseCode::NoError, Vec::new()));
    assert_eq!(srv(&format!("_sctp.{target}")).0, ResponseCode::NXDomain);
    assert_eq!(srv(&format!("https._tcp.{target}")).0, ResponseCode::NXDomain);
}

#[test]
fn an_external_name_is_another_name() {
    use RecordType::{A, CNAME};
    assert_eq!(records("outside.default.svc.cluster.local.", CNAME), ["db.example.org."]);
    let Outcome::Outside(so_far, next) = ask("outside.default.svc.cluster.local.", A) else {
        panic!()
    };
    assert_eq!(so_far[0].data.to_string(), "db.example.org.");
    assert_eq!(next, name("db.example.org."));
    assert_eq!(
        records("other.default.svc.cluster.local.", A),
        ["web.default.svc.cluster.local.", "10.96.0.7"]
    );
    assert_eq!(answer_code("round.default.svc.cluster.local."), ResponseCode::ServFail);
}

fn answer_code(question: &str) -> ResponseCode {
    match ask(question, RecordType::A) {
        Outcome::Answer(answer) => answer.code,
        outside => panic!("{outside:?}"),
    }
}

#[test]
fn addresses_have_names_and_only_the_worlds_are_asked_of_others() {
    use RecordType::{A, PTR};
    assert_eq!(records("7.0.96.10.in-addr.arpa.", PTR), ["web.default.svc.cluster.local."]);
    assert_eq!(records("2.1.244.10.IN-ADDR.ARPA.", PTR), ["db-0.db.default.svc.cluster.local."]);
    assert!(records("7.0.96.10.in-addr.arpa.", A).is_empty());
    for ours in ["99.0.96.10.in-addr.arpa.", "2.3.244.10.in-addr.arpa."] {
        assert_eq!(answer(ours, PTR).0, ResponseCode::NXDomain, "{ours}");
    }
    for others in ["1.1.1.1.in-addr.arpa.", "01.0.96.10.in-addr.arpa.", "10.in-addr.arpa."] {
        assert!(matches!(ask(others, PTR), Outcome::Outside(..)), "{others}");
    }
    assert!(matches!(ask("example.org.", A), Outcome::Outside(..)));
    assert!(matches!(ask("notcluster.local.", A), Outcome::Outside(..)));
}

#[test]
fn the_domain_itself_says_what_it_is() {
    use RecordType::{A, NS, SOA, TXT};
    assert_eq!(records("dns-version.cluster.local.", TXT), ["1.1.0"]);
    assert_eq!(records("cluster.local.", NS), ["ns.dns.cluster.local."]);
    assert_eq!(records("ns.dns.cluster.local.", A), ["10.96.0.10"]);
    assert!(records("cluster.local.", SOA)[0].starts_with("ns.dns.cluster.local. hostmaster"));
    for there in ["cluster.local.", "svc.cluster.local.", "default.svc.cluster.local."] {
        assert!(records(there, A).is_empty(), "{there}");
    }
    assert_none("other.svc.cluster.local.");
}

#[test]
fn a_pods_address_is_a_name_in_its_namespace() {
    assert_eq!(records("10-1-2-3.default.pod.cluster.local.", RecordType::A), ["10.1.2.3"]);
    for none in ["10-1-2.default.pod", "010-1-2-3.default.pod", "10-1-2-3.other.pod", "x.pod"] {
        assert_none(&format!("{none}.cluster.local."));
    }
}
