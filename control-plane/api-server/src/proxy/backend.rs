//! Which port of which pod is meant by the name of a pod or a service.

use serde_json::Value;

use super::name::Name;
use crate::object::{list, name, namespace, text};
use crate::status::{Result, Status};

/// A port of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) port: u16,
}

impl Backend {
    /// The pod's own: the port that is asked for, else the first that a container of it declares,
    /// else the scheme's.
    pub(super) fn of_pod(pod: &Value, asked: &Name) -> Result<Self> {
        let declared = || {
            let ports = list(pod, "spec.containers").iter().flat_map(|one| list(one, "ports"));
            ports.filter_map(|port| number(&port["containerPort"])).next()
        };
        let port = match &asked.port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                Status::bad_request(format!("invalid pod request: {port:?} is no port number"))
            })?,
            None => declared().unwrap_or_else(|| asked.scheme.port()),
        };
        let namespace = namespace(pod).unwrap_or_default().to_owned();
        Ok(Self { namespace, pod: name(pod).to_owned(), port })
    }

    /// One of the ready pods in the service's `slices` that have the port that is asked for, by the
    /// number or the name that the service gives it; none is the port without a name.
    pub(super) fn of_service(service: &Value, slices: &[Value], asked: &Name) -> Result<Self> {
        let asked_port = asked.port.as_deref().unwrap_or_default();
        let port_name = match asked_port.parse::<u16>() {
            Err(_) => asked_port,
            Ok(wanted) => {
                let ports = list(service, "spec.ports");
                let port = ports.iter().find(|port| number(&port["port"]) == Some(wanted));
                text(
                    port.ok_or_else(|| {
                        Status::unavailable(format!(
                            "no service port {wanted} found for service {:?}",
                            asked.name
                        ))
                    })?,
                    "name",
                )
            }
        };
        let namespace = namespace(service).unwrap_or_default();
        let mut backends = Vec::new();
        for slice in slices {
            let ports = list(slice, "ports");
            let port = ports.iter().find(|port| text(port, "name") == port_name);
            let Some(port) = port.and_then(|port| number(&port["port"])) else { continue };
            for endpoint in list(slice, "endpoints") {
                // What does not say is ready.
                let is_ready = endpoint["conditions"]["ready"] != false;
                if is_ready && text(endpoint, "targetRef.kind") == "Pod" {
                    let pod = text(endpoint, "targetRef.name").to_owned();
                    // A slice speaks for its own namespace only, whatever it refers to.
                    backends.push(Self { namespace: namespace.to_owned(), pod, port });
                }
            }
        }
        if backends.is_empty() {
            return Err(no_endpoints(asked));
        }
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        let chosen = usize::try_from(random).unwrap_or_default() % backends.len();
        Ok(backends.swap_remove(chosen))
    }
}

/// 503: the service has no pod for what is asked.
pub(super) fn no_endpoints(asked: &Name) -> Status {
    let mut message = format!("no endpoints available for service {:?}", asked.name);
    if let Some(port) = &asked.port {
        message.push_str(&format!(" and port {port}"));
    }
    Status::unavailable(message)
}

fn number(port: &Value) -> Option<u16> {
    u16::try_from(port.as_u64()?).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_pods_port_is_the_one_named_or_its_first() {
        let pod = json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"containers": [
            {"name": "a"},
            {"name": "b", "ports": [{"containerPort": 8080}, {"containerPort": 9090}]},
        ]}});
        let port = |text: &str| Backend::of_pod(&pod, &asked(text)).map(|found| found.port);
        assert_eq!(port("web").unwrap(), 8080);
        assert_eq!(port("web:9").unwrap(), 9);
        for wrong in ["web:0", "web:70000", "web:http"] {
            assert_eq!(port(wrong).unwrap_err().code, 400, "{wrong}");
        }
        let bare = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(Backend::of_pod(&bare, &asked("https:web:")).unwrap().port, 443);
    }

    #[test]
    fn a_services_backend_is_a_ready_pod_with_its_port() {
        let service = json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81},
        ]}});
        let pod = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "elsewhere"});
        let slices = [
            json!({"ports": [{"name": "other", "port": 1}], "endpoints": [
                {"addresses": ["10.0.0.9"], "targetRef": pod("wrong")}]}),
            json!({"ports": [{"name": "http", "port": 8080}], "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}, "targetRef": pod("down")},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "targetRef": pod("up")},
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
            ]}),
        ];
        let found = |text: &str| Backend::of_service(&service, &slices, &asked(text));
        let up = Backend { namespace: "n".into(), pod: "up".into(), port: 8080 };
        assert_eq!(found("web:http").unwrap(), up);
        assert_eq!(found("web:80").unwrap(), up);
        for (text, message) in [
            ("web:82", "no service port 82 found for service \"web\""),
            ("web:81", "no endpoints available for service \"web\" and port 81"),
            ("web", "no endpoints available for service \"web\""),
        ] {
            let refused = found(text).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (503, message));
        }
    }
}
