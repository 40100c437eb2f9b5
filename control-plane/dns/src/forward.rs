//! Names that are not the cluster's: the host's name servers are asked, and their answers kept.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::timeout;

use crate::zone::Answer;

/// Where name servers listen.
const PORT: u16 = 53;

/// How many answers are kept.
const CACHE: u64 = 4096;
/// How long they are at most.
const MAX_AGE: Duration = Duration::from_secs(3600);
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(30);

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take with all servers and repetitions.
const LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked whether other servers are to be asked.
const LOOK: Duration = Duration::from_secs(5);

/// The name servers that are asked.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// Those of a file as resolv.conf(5) describes it, as it is at the time.
    File(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// Asks other name servers.
pub struct Forwarder {
    upstreams: Upstreams,
    /// Where this server itself listens: it is not asked, for that would have no end.
    own: Vec<SocketAddr>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    looked: Option<Instant>,
    modified: Option<SystemTime>,
    resolver: Option<TokioResolver>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Asks `upstreams`, but not what listens at `own`.
    #[must_use]
    pub fn new(upstreams: Upstreams, own: Vec<SocketAddr>) -> Self {
        Self { upstreams, own, current: Mutex::default() }
    }

    /// What others say of a name.
    pub(crate) async fn ask(&self, name: Name, kind: RecordType) -> Answer {
        let Some(resolver) = self.resolver() else { return failure(ResponseCode::ServFail) };
        match timeout(LIMIT, resolver.lookup(name, kind)).await {
            Ok(Ok(found)) => Answer { answers: found.answers().to_vec(), ..Answer::default() },
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Answer {
                code: none.response_code,
                authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
                ..Answer::default()
            },
            Ok(Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)))) => {
                failure(ResponseCode::Refused)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "asking others");
                failure(ResponseCode::ServFail)
            }
            Err(_) => failure(ResponseCode::ServFail),
        }
    }

    /// What asks the servers that are to be asked now; `None` if there are none.
    fn resolver(&self) -> Option<TokioResolver> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.is_none_or(|looked| looked.elapsed() > LOOK) {
            let first = current.looked.replace(Instant::now()).is_none();
            let modified = match &self.upstreams {
                Upstreams::File(path) => path.metadata().and_then(|file| file.modified()).ok(),
                Upstreams::Servers(_) => None,
            };
            if first || modified != current.modified {
                current.modified = modified;
                current.resolver = self.make();
            }
        }
        current.resolver.clone()
    }

    fn make(&self) -> Option<TokioResolver> {
        let mut servers = match &self.upstreams {
            Upstreams::Servers(servers) => servers.iter().copied().map(server).collect::<Vec<_>>(),
            Upstreams::File(path) => {
                let text = std::fs::read(path)
                    .inspect_err(|error| tracing::warn!("{}: {error}", path.display()))
                    .unwrap_or_default();
                // A line that is wrong does not make the others so.
                let (config, errors) = resolv_conf::Config::parse_with_errors(&text);
                for error in errors {
                    tracing::warn!("{}: {error}", path.display());
                }
                let address = |ip: &resolv_conf::ScopedIp| SocketAddr::new(ip.into(), PORT);
                config.nameservers.iter().map(address).map(server).collect()
            }
        };
        servers.retain(|server| {
            let own = server
                .connections
                .iter()
                .any(|connection| self.own.contains(&SocketAddr::new(server.ip, connection.port)));
            if own {
                tracing::warn!("the name server {} is this one: it is not asked", server.ip);
            }
            !own
        });
        if servers.is_empty() {
            tracing::warn!("there is no name server for names outside the cluster");
            return None;
        }
        let mut options = ResolverOpts::default();
        options.cache_size = CACHE;
        options.positive_max_ttl = Some(MAX_AGE);
        options.negative_max_ttl = Some(MAX_NEGATIVE_AGE);
        options.timeout = PATIENCE;
        options.use_hosts_file = ResolveHosts::Never;
        let config = ResolverConfig::from_name_servers(servers);
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build();
        resolver.inspect_err(|error| tracing::warn!("asking others: {error}")).ok()
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn failure(code: ResponseCode) -> Answer {
    Answer { code, ..Answer::default() }
}
