//! Ingresses, and the classes that say who serves them.

use serde_json::{Value, json};

use super::NETWORKING;
use crate::kinds::service::port_number;
use crate::kinds::{columns as c, pod, status, template};
use crate::names::{self, NameRule};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[status("Ingress")];

/// Ingresses.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        storage: "ingresses",
        generation: true,
        subresources: SUBRESOURCES,
        columns: c::INGRESS,
        behaviour: Behaviour {
            prepare_create: |ingress| ingress["status"] = json!({"loadBalancer": {}}),
            validate,
            ..Behaviour::PLAIN
        },
        ..NETWORKING
    }
}

/// IngressClasses.
pub(super) fn class() -> Resource {
    Resource {
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        storage: "ingressclasses",
        generation: true,
        columns: c::INGRESS_CLASS,
        behaviour: Behaviour {
            default: |class| {
                if let Some(parameters) = class["spec"].get_mut("parameters")
                    && parameters.is_object()
                {
                    object::set_default(parameters, "scope", "Cluster");
                }
            },
            validate: validate_class,
            validate_update: |new, old, causes| {
                template::immutable(new, old, "spec.controller", causes);
            },
            ..Behaviour::PLAIN
        },
        ..NETWORKING
    }
}

fn validate(ingress: &Value, causes: &mut Vec<Cause>) {
    let spec = &ingress["spec"];
    let rules = object::list(spec, "rules");
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", spec, why));
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", causes);
    }
    for (index, tls) in object::list(spec, "tls").iter().enumerate() {
        for (host_index, name) in object::list(tls, "hosts").iter().enumerate() {
            host(name, &format!("spec.tls[{index}].hosts[{host_index}]"), causes);
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if !object::text(rule, "host").is_empty() {
            host(&rule["host"], &format!("{path}.host"), causes);
        }
        if rule["http"].is_null() {
            continue;
        }
        let paths = object::list(rule, "http.paths");
        if paths.is_empty() {
            causes.push(Cause::required(format!("{path}.http.paths")));
        }
        for (index, one) in paths.iter().enumerate() {
            validate_path(one, &format!("{path}.http.paths[{index}]"), causes);
        }
    }
    let class = object::text(spec, "ingressClassName");
    if !class.is_empty()
        && let Some(why) = NameRule::Subdomain.violation(class)
    {
        causes.push(Cause::invalid("spec.ingressClassName", &spec["ingressClassName"], why));
    }
}

fn host(name: &Value, path: &str, causes: &mut Vec<Cause>) {
    let text = name.as_str().unwrap_or_default();
    if text.parse::<std::net::IpAddr>().is_ok() {
        causes.push(Cause::invalid(path, name, "must be a DNS name, not an IP address"));
    } else if let Some(why) = NameRule::Subdomain.violation(text.strip_prefix("*.").unwrap_or(text))
    {
        causes.push(Cause::invalid(path, name, why));
    }
}

fn validate_path(one: &Value, path: &str, causes: &mut Vec<Cause>) {
    let types = &["Exact", "ImplementationSpecific", "Prefix"];
    if object::text(one, "pathType").is_empty() {
        causes.push(Cause {
            message: "Required value: pathType must be specified".into(),
            ..Cause::required(format!("{path}.pathType"))
        });
    }
    pod::one_of(one, path, "pathType", types, causes);
    let text = object::text(one, "path");
    let field = format!("{path}.path");
    let is_free = one["pathType"] == "ImplementationSpecific";
    if !text.starts_with('/') && (!is_free || !text.is_empty()) {
        causes.push(Cause::invalid(&field, &one["path"], "must be an absolute path"));
    }
    if !is_free {
        let bad = ["//", "/./", "/../", "%2f", "%2F"].into_iter().find(|bad| text.contains(bad));
        if let Some(bad) = bad {
            causes.push(Cause::invalid(&field, &one["path"], &format!("must not contain '{bad}'")));
        }
        if let Some(bad) = ["/..", "/."].into_iter().find(|bad| text.ends_with(bad)) {
            causes.push(Cause::invalid(field, &one["path"], &format!("cannot end with '{bad}'")));
        }
    }
    backend(&one["backend"], &format!("{path}.backend"), causes);
}

fn backend(backend: &Value, path: &str, causes: &mut Vec<Cause>) {
    let service = &backend["service"];
    match (service.is_null(), backend["resource"].is_null()) {
        (true, true) => causes.push(Cause {
            message: "Required value: must specify a service or resource backend".into(),
            ..Cause::required(path)
        }),
        (false, false) => {
            let why = "cannot set both resource and service backends";
            causes.push(Cause::invalid(path, backend, why));
        }
        (true, false) => {}
        (false, true) => {
            let (name, port) = (object::text(service, "name"), &service["port"]);
            let path = format!("{path}.service");
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}.name")));
            } else if let Some(why) = NameRule::Rfc1035Label.violation(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &service["name"], why));
            }
            let named = object::text(port, "name");
            let number = port["number"].as_i64().filter(|number| *number != 0);
            match (named.is_empty(), number) {
                (true, None) => causes.push(Cause {
                    message: "Required value: port name or number is required".into(),
                    ..Cause::required(format!("{path}.port"))
                }),
                (false, Some(_)) => {
                    let why = "cannot set both port name & port number";
                    causes.push(Cause::invalid(format!("{path}.port"), port, why));
                }
                (true, Some(_)) => {
                    port_number(&port["number"], &format!("{path}.port.number"), causes);
                }
                (false, None) => {
                    if let Some(why) = names::port_name_violation(named) {
                        let path = format!("{path}.port.name");
                        causes.push(Cause::invalid(path, &port["name"], why));
                    }
                }
            }
        }
    }
}

fn validate_class(class: &Value, causes: &mut Vec<Cause>) {
    let controller = object::text(class, "spec.controller");
    let value = &class["spec"]["controller"];
    if controller.is_empty() {
        causes.push(Cause::required("spec.controller"));
    } else if !controller.split_once('/').is_some_and(|(domain, path)| {
        NameRule::Subdomain.violation(domain).is_none() && !path.is_empty()
    }) {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        causes.push(Cause::invalid("spec.controller", value, why));
    }
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return;
    }
    for field in ["kind", "name"] {
        if object::text(parameters, field).is_empty() {
            causes.push(Cause::required(format!("spec.parameters.{field}")));
        }
    }
    pod::one_of(parameters, "spec.parameters", "scope", &["Cluster", "Namespace"], causes);
    let namespaced = !object::text(parameters, "namespace").is_empty();
    match (object::text(parameters, "scope"), namespaced) {
        ("Namespace", false) => causes.push(Cause::required("spec.parameters.namespace")),
        ("Cluster", true) => {
            let why = "`parameters.scope` is set to 'Cluster'";
            causes.push(Cause::forbidden("spec.parameters.namespace", why));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn ingresses() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let of = |spec: Value| fields(validate, json!({"spec": spec}));
        let path =
            |path: Value| json!({"rules": [{"host": "*.example.com", "http": {"paths": [path]}}]});
        assert!(of(json!({"defaultBackend": backend})).is_empty());
        assert!(
            of(path(json!({"path": "/a", "pathType": "Prefix", "backend": backend}))).is_empty()
        );
        assert_eq!(of(json!({})), ["spec"]);
        assert_eq!(of(json!({"rules": [{"host": "10.0.0.1"}]})), ["spec.rules[0].host"]);
        let at = "spec.rules[0].http.paths[0]";
        for (one, field) in [
            (json!({"path": "/a", "backend": backend}), "pathType"),
            (json!({"path": "a", "pathType": "Prefix", "backend": backend}), "path"),
            (json!({"path": "/a//b", "pathType": "Exact", "backend": backend}), "path"),
            (json!({"path": "/", "pathType": "Exact"}), "backend"),
            (
                json!({"path": "/", "pathType": "Exact", "backend": {"service": {"name": "s"}}}),
                "backend.service.port",
            ),
        ] {
            assert_eq!(of(path(one.clone())), [format!("{at}.{field}")], "{one}");
        }
    }

    #[test]
    fn classes() {
        let of = |spec: Value| fields(validate_class, json!({"spec": spec}));
        assert!(of(json!({"controller": "example.com/ingress"})).is_empty());
        assert_eq!(of(json!({})), ["spec.controller"]);
        assert_eq!(of(json!({"controller": "ingress"})), ["spec.controller"]);
        let parameters = json!({"kind": "K", "name": "n", "scope": "Namespace"});
        assert_eq!(
            of(json!({"controller": "example.com/i", "parameters": parameters})),
            ["spec.parameters.namespace"]
        );
    }
}
