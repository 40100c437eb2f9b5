//! What probes and hooks do, read from a container's specification and checked.

use std::{net::IpAddr, time::Duration};

use bulkhead_agent_protocol::{
    pod::Container,
    probe::{HttpGetAction, LifecycleHandler, Probe},
};
use serde_json::Value;

/// One thing to do to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Run this in it: success is exit code 0.
    Exec(Vec<String>),
    /// Connect to it.
    Tcp(Target),
    /// Ask it: success is a status from 200 to 399.
    Http {
        /// Whom.
        target: Target,
        /// Whether over TLS.
        tls: bool,
        /// The request, head and all.
        request: Vec<u8>,
    },
    /// Ask its gRPC health service: success is `SERVING`.
    Grpc {
        /// Whom.
        target: Target,
        /// About what; empty for the server as a whole.
        service: String,
    },
    /// Do nothing for so long.
    Sleep(Duration),
}

/// Where to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The pod's own address unless given.
    pub(crate) host: Option<IpAddr>,
    pub(crate) port: u16,
}

impl Action {
    /// A probe's action.
    ///
    /// # Errors
    /// What is not supported, by its path in the probe.
    pub(crate) fn of_probe(container: &Container, probe: &Probe) -> Result<Self, String> {
        match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
            (Some(exec), None, None, None) => command(&exec.command),
            (None, Some(get), None, None) => http(container, get),
            (None, None, None, Some(grpc)) => {
                let target = target(container, &grpc.port.into(), None)
                    .map_err(|why| format!("grpc.{why}"))?;
                Ok(Self::Grpc { target, service: grpc.service.clone().unwrap_or_default() })
            }
            (None, None, Some(tcp), None) => {
                let target = target(container, &tcp.port, tcp.host.as_deref())
                    .map_err(|why| format!("tcpSocket.{why}"))?;
                Ok(Self::Tcp(target))
            }
            _ => Err(String::from("must have one of exec, httpGet, tcpSocket and grpc")),
        }
    }

    /// A hook's action.
    ///
    /// # Errors
    /// As [`Action::of_probe`].
    pub(crate) fn of_hook(container: &Container, hook: &LifecycleHandler) -> Result<Self, String> {
        match (&hook.exec, &hook.http_get, &hook.sleep) {
            (Some(exec), None, None) => command(&exec.command),
            (None, Some(get), None) => http(container, get),
            (None, None, Some(sleep)) => Ok(Self::Sleep(Duration::from_secs(sleep.seconds))),
            _ => Err(String::from("must have one of exec, httpGet and sleep")),
        }
    }
}

fn command(command: &[String]) -> Result<Action, String> {
    if command.is_empty() {
        return Err(String::from("exec.command: is empty"));
    }
    Ok(Action::Exec(command.to_vec()))
}

fn http(container: &Container, get: &HttpGetAction) -> Result<Action, String> {
    let tls = match get.scheme.as_deref() {
        None | Some("" | "HTTP") => false,
        Some("HTTPS") => true,
        Some(other) => return Err(format!("httpGet.scheme: {other} is not supported")),
    };
    let target = target(container, &get.port, get.host.as_deref())
        .map_err(|why| format!("httpGet.{why}"))?;
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err(format!("httpGet.path: {path:?} is no path"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("GET {slash}{path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in [("User-Agent", "kube-probe/1.36"), ("Accept", "*/*")] {
        if !get.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    for header in &get.http_headers {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if header.name.is_empty()
            || !header.name.chars().all(token)
            || header.value.contains(|c: char| c.is_ascii_control())
        {
            return Err(format!("httpGet.httpHeaders: {:?} is no header", header.name));
        }
        head += &format!("{}: {}\r\n", header.name, header.value);
    }
    Ok(Action::Http { target, tls, request: head.into_bytes() })
}

fn target(container: &Container, port: &Value, host: Option<&str>) -> Result<Target, String> {
    let named = |name: &str| {
        let ports = container.ports.as_ref().and_then(Value::as_array);
        let named = |port: &&Value| port.get("name").and_then(Value::as_str) == Some(name);
        ports.into_iter().flatten().find(named)?.get("containerPort")?.as_u64()
    };
    let number = port.as_u64().or_else(|| port.as_str()?.parse().ok());
    let number = number.or_else(|| named(port.as_str()?));
    let port = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| format!("port: {port} is neither a port nor the name of one"))?;
    let host = match host.filter(|host| !host.is_empty()) {
        Some(host) => {
            Some(host.parse().map_err(|_| format!("host: {host}: only addresses are supported"))?)
        }
        None => None,
    };
    Ok(Target { host, port })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn action(probe: Value) -> Result<Action, String> {
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(container).unwrap();
        Action::of_probe(&container, &serde_json::from_value(probe).unwrap())
    }

    #[test]
    fn probes_name_one_action_and_a_port_that_exists() {
        let target = Target { host: None, port: 8080 };
        for port in [json!("web"), json!(8080), json!("8080")] {
            assert_eq!(action(json!({"tcpSocket": {"port": port}})).unwrap(), Action::Tcp(target));
        }
        for (probe, problem) in [
            (json!({}), "one of"),
            (json!({"exec": {"command": []}}), "exec.command"),
            (json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}), "one of"),
            (json!({"tcpSocket": {"port": "http"}}), "tcpSocket.port"),
            (json!({"tcpSocket": {"port": 70000}}), "tcpSocket.port"),
            (json!({"httpGet": {"port": 1, "scheme": "FTP"}}), "httpGet.scheme: FTP"),
            (json!({"grpc": {"port": 0}}), "grpc.port"),
            (json!({"grpc": {"port": 1}, "tcpSocket": {"port": 1}}), "one of"),
            (json!({"httpGet": {"port": 1, "host": "example.org"}}), "httpGet.host"),
            (json!({"httpGet": {"port": 1, "path": "/ x"}}), "httpGet.path"),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "A", "value": "x\r\nB: y"}]}}),
                "httpHeaders",
            ),
        ] {
            let message = action(probe).unwrap_err();
            assert!(message.contains(problem), "{problem}: {message}");
        }
    }

    #[test]
    fn a_request_says_what_the_probe_says() {
        let probe = json!({"httpGet": {"port": "web", "path": "healthz?x=1", "host": "10.0.0.1",
            "httpHeaders": [{"name": "user-agent", "value": "me"}]}});
        let Action::Http { target, tls, request } = action(probe).unwrap() else { panic!() };
        assert!(!tls);
        assert_eq!(target, Target { host: Some([10, 0, 0, 1].into()), port: 8080 });
        let request = String::from_utf8(request).unwrap();
        assert_eq!(
            request,
            "GET /healthz?x=1 HTTP/1.1\r\nConnection: close\r\nAccept: */*\r\nuser-agent: me\r\n"
        );
    }
}
