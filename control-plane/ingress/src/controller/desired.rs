//! What Ingresses ask for, as rules and certificates; and what of it cannot be had, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_client::object;
use serde_json::Value;

use crate::routing::{Routes, normalized};

/// What an IngressClass says in `spec.controller` to have its Ingresses served by this proxy.
pub const CONTROLLER: &str = "bulkhead.dev/ingress";
/// The name of the IngressClass that a cluster begins with.
pub const CLASS: &str = "bulkhead";
/// The annotation of an Ingress that, with `false`, serves hosts with certificates without TLS too.
pub const REDIRECT: &str = "ingress.bulkhead.dev/ssl-redirect";
/// How an Ingress named its class before Kubernetes 1.18.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// A port of a Service: key (`namespace/name`) and the port's name, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServicePort {
    pub(crate) service: String,
    pub(crate) port: String,
}

/// Where a rule leads; nowhere if what it names is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leads {
    pub(crate) to: Option<ServicePort>,
    pub(crate) https: bool,
}

/// Something that cannot be served as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// The Ingress' key.
    pub(crate) ingress: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What a cluster's Ingresses come to.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pub(crate) routes: Routes<Leads>,
    /// Hosts with the keys of the Secrets that have their certificates, and the keys of the
    /// Ingresses that say so; what comes first counts.
    pub(crate) certificates: Vec<(String, String, String)>,
    pub(crate) problems: BTreeSet<Problem>,
    /// The Ingresses that are served, the oldest first.
    pub(crate) served: Vec<Arc<Value>>,
    /// Every Service that is named, there or not.
    pub(crate) services: BTreeSet<String>,
}

/// What is known of a cluster, each by its key.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) classes: BTreeMap<String, Arc<Value>>,
    pub(crate) ingresses: BTreeMap<String, Arc<Value>>,
    pub(crate) services: BTreeMap<String, Arc<Value>>,
}

impl Objects {
    /// What they come to. Where two Ingresses say the same, the older counts.
    pub(crate) fn desired(&self) -> Desired {
        let mut served: Vec<_> =
            self.ingresses.iter().filter(|(_, ingress)| self.is_served(ingress)).collect();
        served.sort_by_cached_key(|(key, ingress)| {
            (object::text(ingress, "metadata.creationTimestamp").to_owned(), (*key).clone())
        });
        let mut desired = Desired::default();
        for (key, ingress) in served {
            let mut reader = Reader { objects: self, key, ingress, desired: &mut desired };
            reader.read();
            desired.served.push(Arc::clone(ingress));
        }
        desired
    }

    fn is_served(&self, ingress: &Value) -> bool {
        let class = ingress["spec"]["ingressClassName"].as_str();
        let class = class.or_else(|| ingress["metadata"]["annotations"][OLD_CLASS].as_str());
        let class = class.and_then(|class| self.classes.get(class));
        !object::is_terminating(ingress)
            && class.is_some_and(|class| object::text(class, "spec.controller") == CONTROLLER)
    }
}

/// Reads one Ingress.
struct Reader<'a> {
    objects: &'a Objects,
    key: &'a str,
    ingress: &'a Value,
    desired: &'a mut Desired,
}

impl Reader<'_> {
    fn read(&mut self) {
        let rules = object::list(self.ingress, "spec.rules");
        let default = &self.ingress["spec"]["defaultBackend"];
        let default = (!default.is_null()).then(|| self.backend(default));
        self.read_certificates(rules);
        for rule in rules {
            let host = object::text(rule, "host");
            let https = self.is_secure(host);
            for path in object::list(rule, "http.paths") {
                let to = self.backend(&path["backend"]);
                self.path(host, path, Leads { to, https });
            }
            if let Some(to) = &default {
                self.desired.routes.host(host).set_fallback(Leads { to: to.clone(), https });
            }
        }
        if let Some(to) = default {
            let https = self.is_secure("");
            self.desired.routes.host("").set_fallback(Leads { to, https });
        }
    }

    fn path(&mut self, host: &str, rule: &Value, leads: Leads) {
        let path = object::text(rule, "path");
        let path = if path.is_empty() { "/" } else { path };
        let free = rule["pathType"] == "ImplementationSpecific";
        if free && path.contains(['(', ')', '*', '$', '^', '|', '\\']) {
            let message = format!(
                "path {path:?} looks like a regular expression: it is taken as the prefix that it is"
            );
            self.problem("UnsupportedPath", message);
        }
        match normalized(path) {
            Ok(path) if rule["pathType"] == "Exact" => {
                self.desired.routes.host(host).exact(&path, leads);
            }
            // What is up to the class is a prefix.
            Ok(path) => self.desired.routes.host(host).prefix(&path, leads),
            Err(error) => self.problem("UnsupportedPath", format!("path {path:?}: {error}")),
        }
    }

    /// The port that a backend names, if it is there.
    fn backend(&mut self, backend: &Value) -> Option<ServicePort> {
        let namespace = object::namespace(self.ingress);
        let (service, port) = (&backend["service"], &backend["service"]["port"]);
        if service.is_null() {
            let (kind, name) =
                (object::text(backend, "resource.kind"), object::text(backend, "resource.name"));
            let message = format!("backend {kind} {name:?} is not supported: name a Service");
            self.problem("UnsupportedBackend", message);
            return None;
        }
        let name = object::text(service, "name");
        let key = object::key_of(namespace, name);
        self.desired.services.insert(key.clone());
        let Some(found) = self.objects.services.get(&key) else {
            self.problem("ServiceNotFound", format!("Service {key:?} is not there"));
            return None;
        };
        if found["spec"]["type"] == "ExternalName" {
            let message =
                format!("Service {key:?} is of type ExternalName, which has no endpoints");
            self.problem("UnsupportedBackend", message);
            return None;
        }
        let wanted = |one: &&Value| match port["name"].as_str().filter(|name| !name.is_empty()) {
            Some(name) => one["name"] == name,
            None => one["port"] == port["number"],
        };
        let Some(one) = object::list(found, "spec.ports").iter().find(wanted) else {
            let port =
                port["name"].as_str().map_or_else(|| port["number"].to_string(), str::to_owned);
            self.problem("ServicePortNotFound", format!("Service {key:?} has no port {port}"));
            return None;
        };
        let number = &one["port"];
        if !matches!(one["protocol"].as_str(), None | Some("TCP")) {
            let message = format!("port {number} of Service {key:?} is not TCP");
            self.problem("UnsupportedBackend", message);
            return None;
        }
        let protocol = object::text(one, "appProtocol");
        if ["https", "h2c", "kubernetes.io/h2c", "kubernetes.io/wss", "grpc"]
            .contains(&protocol.to_ascii_lowercase().as_str())
        {
            let message = format!(
                "port {number} of Service {key:?} speaks {protocol}: only HTTP/1.1 is spoken to \
                 backends"
            );
            self.problem("UnsupportedBackend", message);
            return None;
        }
        Some(ServicePort { service: key, port: object::text(one, "name").into() })
    }

    fn read_certificates(&mut self, rules: &[Value]) {
        for tls in object::list(self.ingress, "spec.tls") {
            let secret = object::text(tls, "secretName");
            if secret.is_empty() {
                // The default certificate's hosts.
                continue;
            }
            let secret = object::key_of(object::namespace(self.ingress), secret);
            let mut hosts: Vec<&str> = hosts(tls).collect();
            if hosts.is_empty() {
                hosts = rules.iter().map(|rule| object::text(rule, "host")).collect();
            }
            if hosts.is_empty() {
                hosts.push("");
            }
            let all = hosts.into_iter();
            let all = all.map(|host| (host.to_owned(), secret.clone(), self.key.to_owned()));
            self.desired.certificates.extend(all);
        }
    }

    /// Whether clients without TLS are to come back with it: the Ingress has a certificate for the
    /// host, and does not say otherwise.
    fn is_secure(&self, host: &str) -> bool {
        if self.ingress["metadata"]["annotations"][REDIRECT] == "false" {
            return false;
        }
        let covers = |name: &str| {
            let parent = || host.split_once('.').map(|(_, parent)| parent);
            name == host || name.strip_prefix("*.").is_some_and(|name| Some(name) == parent())
        };
        object::list(self.ingress, "spec.tls")
            .iter()
            .any(|tls| hosts(tls).next().is_none() || hosts(tls).any(covers))
    }

    fn problem(&mut self, reason: &'static str, message: String) {
        let ingress = self.key.to_owned();
        self.desired.problems.insert(Problem { ingress, reason, message });
    }
}

fn hosts(tls: &Value) -> impl Iterator<Item = &str> {
    object::list(tls, "hosts").iter().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(ingresses: &[Value]) -> Objects {
        let mut objects = Objects::default();
        let class = |controller: &str| Arc::new(json!({"spec": {"controller": controller}}));
        objects.classes.insert("bulkhead".into(), class(CONTROLLER));
        objects.classes.insert("other".into(), class("example.com/other"));
        let web = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "h2", "port": 82, "appProtocol": "kubernetes.io/h2c"},
        ]}});
        objects.services.insert("d/web".into(), Arc::new(web));
        let elsewhere = json!({"spec": {"type": "ExternalName"}});
        objects.services.insert("d/elsewhere".into(), Arc::new(elsewhere));
        for ingress in ingresses {
            objects.ingresses.insert(object::key(ingress), Arc::new(ingress.clone()));
        }
        objects
    }

    fn backend(service: &str, port: Value) -> Value {
        json!({"service": {"name": service, "port": port}})
    }

    fn ingress(name: &str, spec: Value) -> Value {
        let mut ingress = json!({
            "metadata": {"namespace": "d", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        });
        if ingress["spec"]["ingressClassName"].is_null() {
            ingress["spec"]["ingressClassName"] = "bulkhead".into();
        }
        ingress
    }

    fn rule(host: &str, path: &str, kind: &str, backend: Value) -> Value {
        json!({"host": host, "http": {"paths": [
            {"path": path, "pathType": kind, "backend": backend},
        ]}})
    }

    fn http() -> Value {
        backend("web", json!({"number": 80}))
    }

    #[test]
    fn only_those_of_its_classes_are_served() {
        let rules = json!([rule("a.b", "/", "Prefix", http())]);
        let mut old = ingress("old", json!({"rules": rules}));
        old["spec"]["ingressClassName"] = Value::Null;
        old["metadata"]["annotations"] = json!({OLD_CLASS: "bulkhead"});
        let mut none = old.clone();
        none["metadata"] = json!({"namespace": "d", "name": "none"});
        let all = [
            ingress("ours", json!({"rules": rules})),
            ingress("theirs", json!({"rules": rules, "ingressClassName": "other"})),
            ingress("nobodys", json!({"rules": rules, "ingressClassName": "missing"})),
            old,
            none,
        ];
        let desired = objects(&all).desired();
        let served: Vec<&str> = desired.served.iter().map(|one| object::name(one)).collect();
        assert_eq!(served, ["old", "ours"]);
        let to = Some(ServicePort { service: "d/web".into(), port: "http".into() });
        assert_eq!(desired.routes.find("a.b", "/x"), Some(&Leads { to, https: false }));
        assert!(desired.problems.is_empty());
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        for (backend, reason, part) in [
            (backend("none", json!({"number": 80})), "ServiceNotFound", "\"d/none\""),
            (backend("web", json!({"number": 81})), "ServicePortNotFound", "port 81"),
            (backend("web", json!({"name": "x"})), "ServicePortNotFound", "port x"),
            (backend("web", json!({"name": "dns"})), "UnsupportedBackend", "not TCP"),
            (backend("web", json!({"name": "h2"})), "UnsupportedBackend", "kubernetes.io/h2c"),
            (backend("elsewhere", json!({"number": 80})), "UnsupportedBackend", "ExternalName"),
            (
                json!({"resource": {"kind": "Bucket", "name": "b"}}),
                "UnsupportedBackend",
                "Bucket \"b\"",
            ),
        ] {
            let one = ingress("a", json!({"rules": [rule("", "/", "Prefix", backend)]}));
            let desired = objects(&[one]).desired();
            let problem = desired.problems.first().unwrap();
            assert_eq!((problem.reason, problem.ingress.as_str()), (reason, "d/a"));
            assert!(problem.message.contains(part), "{problem:?}");
            let leads = desired.routes.find("x", "/").unwrap();
            assert_eq!(leads.to, None, "no other rule takes it");
        }
        let path = rule("", "/api(/|$)(.*)", "ImplementationSpecific", http());
        let desired = objects(&[ingress("a", json!({"rules": [path]}))]).desired();
        assert_eq!(desired.problems.first().unwrap().reason, "UnsupportedPath");
    }

    #[test]
    fn the_older_of_two_counts() {
        let one = |name: &str, created: &str, port: &str| {
            let backend = backend("web", json!({"name": port}));
            let mut one = ingress(name, json!({"rules": [rule("a.b", "/", "Prefix", backend)]}));
            one["metadata"]["creationTimestamp"] = created.into();
            one
        };
        let all =
            [one("a", "2026-01-02T00:00:00Z", "missing"), one("b", "2026-01-01T00:00:00Z", "http")];
        let desired = objects(&all).desired();
        assert!(desired.routes.find("a.b", "/").unwrap().to.is_some());
    }

    #[test]
    fn hosts_with_certificates_are_redirected_unless_told_otherwise() {
        let spec = json!({
            "tls": [
                {"hosts": ["a.b", "*.wild.b"], "secretName": "s"},
                {"hosts": ["default.b"]},
            ],
            "rules": [
                rule("a.b", "/", "Prefix", http()),
                rule("x.wild.b", "/", "Prefix", http()),
                rule("default.b", "/", "Prefix", http()),
                rule("plain.b", "/", "Prefix", http()),
            ],
        });
        let mut one = ingress("a", spec);
        let desired = objects(&[one.clone()]).desired();
        let https = |desired: &Desired, host| desired.routes.find(host, "/").unwrap().https;
        assert!(["a.b", "x.wild.b", "default.b"].iter().all(|host| https(&desired, host)));
        assert!(!https(&desired, "plain.b"));
        let certificates: Vec<_> = desired
            .certificates
            .iter()
            .map(|(host, secret, _)| (host.as_str(), secret.as_str()))
            .collect();
        assert_eq!(certificates, [("a.b", "d/s"), ("*.wild.b", "d/s")]);
        one["metadata"]["annotations"] = json!({REDIRECT: "false"});
        assert!(!https(&objects(&[one]).desired(), "a.b"));
    }

    #[test]
    fn certificates_without_hosts_are_those_of_the_rules() {
        let rules = json!([rule("a.b", "/", "Prefix", http())]);
        let with = ingress("a", json!({"tls": [{"secretName": "s"}], "rules": rules}));
        let alone = json!({"tls": [{"secretName": "s"}], "defaultBackend": http()});
        let hosts = |one: Value| objects(&[one]).desired().certificates.swap_remove(0).0;
        assert_eq!(hosts(with), "a.b");
        assert_eq!(hosts(ingress("a", alone)), "");
    }

    #[test]
    fn default_backends_take_what_no_rule_takes() {
        let spec = json!({
            "defaultBackend": http(),
            "rules": [rule("a.b", "/x", "Exact", backend("none", json!({"number": 1})))],
        });
        let desired = objects(&[ingress("a", spec)]).desired();
        let to = |host, path| desired.routes.find(host, path).unwrap().to.is_some();
        assert!(!to("a.b", "/x") && to("a.b", "/y") && to("c.d", "/"));
    }
}
