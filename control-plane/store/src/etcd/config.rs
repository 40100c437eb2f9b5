//! Where etcd is, and how to speak to it.

use std::fmt;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use super::failure::Failure;
use crate::{Result, StoreError};

/// A connection that says nothing for this long is asked whether it lives …
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// … and given up if it does not answer for this long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where etcd is, and which of its keys are the store's.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT` of one or more members of one etcd cluster.
    pub servers: Vec<String>,
    /// How to trust them and be trusted; for `https` and nothing else.
    pub tls: Option<EtcdTls>,
    /// All keys lie below this and a slash: `/registry`.
    pub prefix: String,
    /// What the store's own keys begin with, in whose place the prefix stands in etcd. A key that
    /// does not begin so cannot be written.
    pub replaces: String,
}

/// PEM texts.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authorities that sign the members' certificates.
    pub authorities: Vec<u8>,
    /// The client's certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// `etcd at SERVERS`, for messages.
    pub(super) fn name(&self) -> String {
        format!("etcd at {}", self.servers.join(","))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.servers.is_empty() {
            return Err("no etcd server is named".into());
        }
        if !self.prefix.starts_with('/') || self.prefix.ends_with('/') {
            return Err(format!(
                "the etcd prefix {:?} must begin with a slash and not end with one",
                self.prefix
            ));
        }
        for server in &self.servers {
            match (server.split_once("://"), &self.tls) {
                (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => {}
                (Some(("http", _)), Some(_)) => {
                    return Err(format!("etcd server {server}: certificates need https://"));
                }
                (Some(("https", _)), None) => {
                    return Err(format!("etcd server {server}: its authority is not given"));
                }
                _ => return Err(format!("etcd server {server:?} is no http:// or https:// URL")),
            }
        }
        Ok(())
    }

    /// A client, which connects when it is used.
    pub(super) async fn client(&self) -> Result<Client> {
        self.check().map_err(|why| StoreError::Backend(why.into()))?;
        let mut options = ConnectOptions::new()
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(CONNECT_TIMEOUT)
            // A member that has lost its leader ends its watches instead of falling silent.
            .with_require_leader(true);
        if let Some(tls) = &self.tls {
            let mut config =
                TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.authorities));
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(config);
        }
        let connected = Client::connect(&self.servers, Some(options)).await;
        connected.map_err(|error| Failure::from(error).at(&self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_etcd_is_refused() {
        let refused = |server: &str, prefix: &str, tls: bool| {
            let config = EtcdConfig {
                servers: vec![server.into()],
                tls: tls.then(|| EtcdTls { authorities: Vec::new(), identity: None }),
                prefix: prefix.into(),
                replaces: "/".into(),
            };
            config.check().unwrap_err()
        };
        assert!(refused("127.0.0.1:2379", "/registry", false).contains("no http://"));
        assert!(refused("http://a:2379", "registry", false).contains("begin with a slash"));
        assert!(refused("http://a:2379", "/registry/", false).contains("not end with one"));
        assert!(refused("http://a:2379", "/registry", true).contains("need https"));
        assert!(refused("https://a:2379", "/registry", false).contains("authority is not given"));
    }
}
