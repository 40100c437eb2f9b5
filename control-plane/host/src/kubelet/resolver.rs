//! A pod's `/etc/resolv.conf`, by its `dnsPolicy` and `dnsConfig`
//! (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>).

use std::path::Path;

use bulkhead_agent_protocol::Pod;
use bulkhead_agent_protocol::pod::DnsConfig;
use bulkhead_network::address::DNS;

use crate::name_server::DOMAIN;

/// resolv.conf(5): the most that resolvers look at.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// What a resolver is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The file's text.
pub(super) fn of(pod: &Pod) -> String {
    // A host without the file has no name server to offer.
    let host = std::fs::read_to_string(Path::new("/etc/resolv.conf")).unwrap_or_default();
    compose(pod, &host)
}

fn compose(pod: &Pod, host: &str) -> String {
    let mut resolver = match pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "Default" => Resolver::parse(host),
        // With the host's network, `ClusterFirst` alone means the host's resolver as well.
        "ClusterFirst" if pod.spec.host_network => Resolver::parse(host),
        _ => Resolver::of_cluster(&pod.metadata.namespace, Resolver::parse(host)),
    };
    if let Some(config) = &pod.spec.dns_config {
        resolver.extend(config);
    }
    resolver.text()
}

impl Resolver {
    /// The cluster's, for a pod of this namespace: names are looked for there first, then in the
    /// cluster, then where the host looks for them.
    fn of_cluster(namespace: &str, host: Self) -> Self {
        let mut searches =
            vec![format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.to_owned()];
        searches.extend(host.searches);
        Self {
            nameservers: vec![DNS.to_string()],
            searches,
            // Enough for `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc`.
            options: vec!["ndots:5".to_owned()],
        }
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let first = words.next();
            let rest = || words.map(str::to_owned);
            match first {
                Some("nameserver") => resolver.nameservers.extend(rest().take(1)),
                // The last of several counts.
                Some("search") => resolver.searches = rest().collect(),
                Some("options") => resolver.options = rest().collect(),
                _ => {}
            }
        }
        resolver
    }

    /// Adds what a pod says; its options take the place of those of the same name.
    fn extend(&mut self, config: &DnsConfig) {
        let add = |to: &mut Vec<String>, more: &[String]| {
            for one in more {
                if !to.contains(one) {
                    to.push(one.clone());
                }
            }
        };
        add(&mut self.nameservers, &config.nameservers);
        add(&mut self.searches, &config.searches);
        for option in &config.options {
            self.options.retain(|old| old.split(':').next() != Some(option.name.as_str()));
            self.options.push(match &option.value {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            });
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let searches = self.searches.get(..MAX_SEARCHES).unwrap_or(&self.searches);
            text += &format!("search {}\n", searches.join(" "));
        }
        for server in self.nameservers.iter().take(MAX_NAMESERVERS) {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOST: &str =
        "# by hand\nnameserver 10.0.0.2\nsearch example.org\noptions ndots:1 rotate\n";

    fn text(spec: Value) -> String {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        let pod =
            Pod::parse(&json!({"metadata": {"name": "p", "namespace": "apps"}, "spec": spec}))
                .unwrap();
        compose(&pod, HOST)
    }

    #[test]
    fn the_clusters_name_server_is_asked_unless_a_pod_wants_the_hosts() {
        let cluster = "search apps.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(text(json!({})), cluster);
        assert_eq!(text(json!({"dnsPolicy": "ClusterFirst"})), cluster);
        let with = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(text(with), cluster);
        let host = "search example.org\nnameserver 10.0.0.2\noptions ndots:1 rotate\n";
        assert_eq!(text(json!({"dnsPolicy": "Default"})), host);
        assert_eq!(text(json!({"hostNetwork": true})), host);
    }

    #[test]
    fn a_pods_own_settings_are_added_or_stand_alone() {
        let config = json!({
            "nameservers": ["1.1.1.1", "10.0.0.2"],
            "searches": ["a.b"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}],
        });
        let merged = text(json!({"dnsPolicy": "Default", "dnsConfig": config}));
        assert_eq!(
            merged,
            "search example.org a.b\nnameserver 10.0.0.2\nnameserver 1.1.1.1\n\
             options rotate ndots:5 edns0\n"
        );
        let alone = text(json!({"dnsPolicy": "None", "dnsConfig": config}));
        assert_eq!(
            alone,
            "search a.b\nnameserver 1.1.1.1\nnameserver 10.0.0.2\noptions ndots:5 edns0\n"
        );
    }
}
