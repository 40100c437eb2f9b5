//! Ports on the host's loopback that clusters get.

use std::net::{Ipv4Addr, TcpListener};

use bulkhead_host_api::{ApiError, ClusterConfig, IngressPorts};

use crate::fault;

/// The ports of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Of the Kubernetes API.
    pub(crate) api: u16,
    /// Of its Ingresses.
    pub(crate) ingress: IngressPorts,
}

impl Ports {
    /// Those that the configuration names, which must be free; for others those that the cluster had
    /// before, if they are, or else any.
    pub(crate) fn pick(
        config: &ClusterConfig,
        before: Option<u16>,
        ingress: Option<IngressPorts>,
    ) -> Result<Self, ApiError> {
        // All are held until all are there, so that none is picked twice.
        let api = pick("apiPort", config.api_port, before)?;
        let http = pick("httpPort", config.http_port, ingress.map(|ports| ports.http))?;
        let https = pick("httpsPort", config.https_port, ingress.map(|ports| ports.https))?;
        Ok(Self {
            api: port(&api)?,
            ingress: IngressPorts { http: port(&http)?, https: port(&https)? },
        })
    }
}

/// Where Ingresses of a cluster are to be served that was made before it had ports for them.
pub(crate) fn pick_ingress(config: &ClusterConfig) -> Result<IngressPorts, ApiError> {
    let http = pick("httpPort", config.http_port, None)?;
    let https = pick("httpsPort", config.https_port, None)?;
    Ok(IngressPorts { http: port(&http)?, https: port(&https)? })
}

fn pick(field: &str, wanted: Option<u16>, before: Option<u16>) -> Result<TcpListener, ApiError> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let Some(port) = wanted else {
        let bound = before.map_or_else(|| bind(0), |port| bind(port).or_else(|_| bind(0)));
        return bound.map_err(fault::internal);
    };
    bind(port).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => fault::conflict(format!(
            "port {port} on 127.0.0.1 is in use: name another as {field}, or none"
        )),
        _ => fault::invalid(format!("port {port} on 127.0.0.1: {error}")),
    })
}

fn port(listener: &TcpListener) -> Result<u16, ApiError> {
    listener.local_addr().map(|address| address.port()).map_err(fault::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> ClusterConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn ports_are_the_wanted_ones_or_those_from_before_or_free() {
        let any = config(serde_json::json!({"name": "a"}));
        let free = Ports::pick(&any, None, None).unwrap();
        let IngressPorts { http, https } = free.ingress;
        assert!(free.api != http && http != https && free.api != https);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = (taken.local_addr().unwrap().port(), taken);
        let again = Ports::pick(&any, Some(taken.0), None).unwrap();
        assert_ne!(again.api, taken.0);
        let wants = config(serde_json::json!({"name": "a", "httpPort": taken.0}));
        let error = Ports::pick(&wants, None, None).unwrap_err();
        assert!(error.message.contains("name another as httpPort"), "{error}");
    }
}
