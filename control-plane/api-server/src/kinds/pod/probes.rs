//! Probes of containers, and what is done at their start and end.

use serde_json::Value;

use super::super::template;
use super::one_of;
use crate::names;
use crate::object::{list, text};
use crate::status::Cause;

pub(super) const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const NUMBERS: [&str; 5] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
];
/// How a probe looks.
const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
/// How something is done at a container's start or end.
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Reports what is wrong with the probes and hooks of the container at `path`, whose pod has
/// `grace` seconds to end. An init container that is to end has none.
pub(super) fn validate(
    container: &Value,
    path: &str,
    grace: Option<i64>,
    ends: bool,
    causes: &mut Vec<Cause>,
) {
    if ends {
        let why = "may not be set for init containers without restartPolicy=Always";
        for field in ["lifecycle"].into_iter().chain(PROBES) {
            if !container[field].is_null() {
                causes.push(Cause::forbidden(format!("{path}.{field}"), why));
            }
        }
        return;
    }
    for hook in ["postStart", "preStop"] {
        let hooks = &container["lifecycle"][hook];
        if !hooks.is_null() {
            let path = format!("{path}.lifecycle.{hook}");
            handler(hooks, HOOK_HANDLERS, &path, causes);
            sleep(&hooks["sleep"], grace, &format!("{path}.sleep"), causes);
        }
    }
    for field in PROBES {
        if !container[field].is_null() {
            probe(&container[field], field, &format!("{path}.{field}"), causes);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &str, causes: &mut Vec<Cause>) {
    handler(probe, PROBE_HANDLERS, path, causes);
    for field in NUMBERS {
        template::not_negative(probe, path, field, causes);
    }
    let successes = &probe["successThreshold"];
    if name != "readinessProbe" && !successes.is_null() && *successes != 1 {
        causes.push(Cause::invalid(format!("{path}.successThreshold"), successes, "must be 1"));
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    let why = match name {
        _ if grace.is_null() => return,
        "readinessProbe" => "must not be set for readinessProbes",
        _ if grace.as_i64().is_some_and(|seconds| seconds > 0) => return,
        _ => "must be greater than 0",
    };
    causes.push(Cause::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, why));
}

/// Reports a handler that is not exactly one of `kinds`, or is wrong itself.
fn handler(handler: &Value, kinds: &[&str], path: &str, causes: &mut Vec<Cause>) {
    let mut said = kinds.iter().filter(|kind| !handler[**kind].is_null());
    let Some(first) = said.next() else {
        causes.push(Cause::missing(path, "must specify a handler type"));
        return;
    };
    let more = |kind: &&str| {
        Cause::forbidden(format!("{path}.{kind}"), "may not specify more than 1 handler type")
    };
    let (one, at) = (&handler[*first], format!("{path}.{first}"));
    match *first {
        "exec" if list(one, "command").is_empty() => {
            causes.push(Cause::required(format!("{at}.command")));
        }
        "httpGet" => {
            port(&one["port"], &format!("{at}.port"), causes);
            one_of(one, &at, "scheme", &["HTTP", "HTTPS"], causes);
            for header in list(one, "httpHeaders") {
                if http::HeaderName::from_bytes(text(header, "name").as_bytes()).is_err() {
                    let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
                    causes.push(Cause::invalid(format!("{at}.httpHeaders"), &header["name"], why));
                }
            }
        }
        "tcpSocket" | "grpc" => port(&one["port"], &format!("{at}.port"), causes),
        _ => {}
    }
    causes.extend(said.map(more));
}

/// Reports what is neither a port's number nor its name.
fn port(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    let why = match port {
        Value::String(name) => names::port_name_violation(name),
        other if matches!(other.as_u64(), Some(1..=65535)) => None,
        _ => Some("must be between 1 and 65535, inclusive"),
    };
    if let Some(why) = why {
        causes.push(Cause::invalid(path, port, why));
    }
}

fn sleep(sleep: &Value, grace: Option<i64>, path: &str, causes: &mut Vec<Cause>) {
    let (Some(grace), false) = (grace, sleep.is_null()) else { return };
    let seconds = sleep["seconds"].as_i64().unwrap_or(0);
    if !(0..=grace).contains(&seconds) {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.push(Cause::invalid(path, &seconds.into(), &why));
    }
}
