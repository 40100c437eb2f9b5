//! Puts the server together: store, keys, the HTTP front, and what runs beside it ([`leader`]).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::ElectionTiming;
use bulkhead_store::StoreError;
use bulkhead_store::encryption::EncryptedStore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::api::Api;
use crate::auth::authorizer::Authorizer;
use crate::auth::keys::{Keys, KeysError};
use crate::auth::rbac::{aggregation, bootstrap};
use crate::auth::token::Tokens;
use crate::cidr::Ipv4Range;
use crate::custom::CustomResources;
use crate::encryption::{self, EncryptionError};
use crate::http::{Front, connection};
use crate::kubelet::Kubelets;
use crate::leader::{self, Duties};
use crate::own_service::{self, OwnService};
use crate::proxy::Proxy;
use crate::status::Status;
use crate::storage::{Storage, StorageError};
use crate::tls::{self, TlsError};
use crate::{Boxed, first_objects, kinds};

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}; choose another address with --listen")]
    Listen(SocketAddr, std::io::Error),
    /// A socket that was handed over cannot be used.
    #[error("cannot listen on an inherited socket: {0}")]
    Inherited(std::io::Error),
    /// The certificates cannot be used.
    #[error("{0}; `bulkhead-api-server init` makes them")]
    Tls(#[from] TlsError),
    /// TLS to what is proxied to cannot be set up.
    #[error("TLS to pods: {0}")]
    Proxy(#[from] tokio_rustls::rustls::Error),
    /// The keys of tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The keys of secrets cannot be used.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The database cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority's certificate, which pods get, cannot be read.
    #[error("{0}: {1}")]
    RootCertificate(PathBuf, std::io::Error),
    /// The first objects cannot be made.
    #[error("cannot make the first objects: {0}")]
    Bootstrap(#[from] Status),
}

/// What a server is told when it starts.
#[derive(Debug)]
pub struct Options {
    /// The cluster's directory, in which is `pki/`.
    pub dir: PathBuf,
    /// Where its objects are.
    pub storage: Storage,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Sockets that listen already, of another network namespace perhaps.
    pub inherited: Vec<std::net::TcpListener>,
    /// The address at which pods and other servers reach it; that it listens on if unset.
    pub advertise: Option<IpAddr>,
    /// Where Services get their addresses from, in a cluster that is new.
    pub service_range: Ipv4Range,
    /// How servers that share a store elect who leads.
    pub election: ElectionTiming,
    /// How long a node's lease may go without renewal before the node counts as lost.
    pub node_monitor_grace_period: Duration,
    /// How long the past is kept at least: watches begin no earlier.
    pub compaction_interval: Duration,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    inherited: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    front: Front,
    duties: Duties,
    /// How the servers of the cluster choose who leads, if there may be several.
    election: Option<ElectionTiming>,
    secrets: Secrets,
    own_service: OwnService,
}

/// How secrets are encrypted, and with what from now on.
#[derive(Debug, Clone)]
pub struct Secrets {
    pki: PathBuf,
    store: EncryptedStore,
    shared: bool,
}

/// How often a server that shares its store looks whether the keys have changed.
const KEYS_INTERVAL: Duration = Duration::from_secs(5);

impl Secrets {
    /// Opens `storage` with the keys in `pki`, and seals with the first what it has not sealed.
    async fn open(storage: &Storage, pki: PathBuf) -> Result<Self, ServeError> {
        let inner = storage.open().await?;
        let older = inner.revision().await? > bulkhead_store::Revision(0);
        let keys = encryption::load(&pki, older)?;
        let prefixes = vec![encryption::PREFIX.into()];
        let shared = storage.is_shared();
        let store = if shared {
            let from = pki.clone();
            let reload = move || {
                let keys = encryption::load(&from, false);
                keys.map_err(|error| StoreError::Backend(error.to_string().into()))
            };
            EncryptedStore::shared(inner, prefixes, keys, reload)
        } else {
            EncryptedStore::new(inner, prefixes, keys)
        };
        let secrets = Self { pki, store, shared };
        secrets.settle().await?;
        Ok(secrets)
    }

    async fn settle(&self) -> Result<(), EncryptionError> {
        // Another server may seal with the last key until it has seen the newest.
        let keep = if self.shared { 2 } else { 1 };
        encryption::settle(&self.pki, &self.store, keep).await
    }

    /// Takes the keys that the file has now, and seals every secret with the first.
    ///
    /// # Errors
    /// If the file or the store fails; the keys from before are kept.
    pub async fn reload(&self) -> Result<(), EncryptionError> {
        self.store.set_keys(encryption::load(&self.pki, false)?);
        self.settle().await
    }

    /// Until the file has changed. The only server of a store is told by a signal, and waits for
    /// ever.
    pub async fn changed(&self) {
        if !self.shared {
            return std::future::pending().await;
        }
        let newest = self.store.sealing_key();
        loop {
            tokio::time::sleep(KEYS_INTERVAL).await;
            if encryption::newest(&self.pki).is_ok_and(|name| name != newest) {
                return;
            }
        }
    }
}

impl Server {
    /// Opens a cluster and listens.
    ///
    /// # Errors
    /// If that is not possible; the message says what to do.
    pub fn open(options: Options) -> Boxed<'static, Result<Self, ServeError>> {
        Box::pin(Self::start(options))
    }

    async fn start(options: Options) -> Result<Self, ServeError> {
        let Options {
            dir,
            storage,
            listen: address,
            inherited,
            advertise,
            service_range,
            election,
            node_monitor_grace_period,
            compaction_interval,
        } = options;
        let not_listening = |error| ServeError::Listen(address, error);
        let listener = TcpListener::bind(address).await.map_err(not_listening)?;
        let inherited = inherited.into_iter().map(|socket| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        });
        let inherited = inherited.collect::<std::io::Result<_>>().map_err(ServeError::Inherited)?;
        let pki = dir.join("pki");
        let tls = tls::load(&pki)?;
        let path = pki.join("ca.crt");
        let root_certificate = std::fs::read_to_string(&path)
            .map_err(|error| ServeError::RootCertificate(path, error))?;
        let secrets = Secrets::open(&storage, pki.clone()).await?;
        let registry = Arc::new(kinds::registry());
        let api = Api::new(Arc::new(secrets.store.clone()), Arc::clone(&registry));
        first_objects::make(&api).await?;
        bootstrap::reconcile(&api).await?;
        let authorizer = Arc::new(Authorizer::start(api.store()).await?);
        let custom = Arc::new(CustomResources::start(api.store(), registry).await?);
        aggregation::settle(&api, &authorizer).await?;
        let keys = Keys::load(&pki)?;
        let address = listener.local_addr().map_err(|error| ServeError::Listen(address, error))?;
        let advertised = match advertise {
            Some(ip) => SocketAddr::new(ip, address.port()),
            None => own_service::advertised(address),
        };
        let own_service = OwnService::new(api.clone(), advertised, service_range);
        own_service.make_range().await?;
        let tokens = Tokens::new(api.clone(), keys, address);
        let kubelets = Arc::new(Kubelets::new(tls.client));
        let proxy = Proxy::new(api.clone(), Arc::clone(&kubelets))?;
        let (rights, kinds) = (Arc::clone(&authorizer), Arc::clone(&custom));
        let front =
            Front::new(api.clone(), rights, tokens.clone(), kinds, Arc::clone(&kubelets), proxy);
        let root_certificate = root_certificate.into();
        let duties = Duties {
            api,
            authorizer,
            custom,
            kubelets,
            tokens,
            root_certificate,
            pki,
            node_monitor_grace_period,
            compaction_interval,
        };
        let election = storage.is_shared().then_some(election);
        Ok(Self {
            listener,
            inherited,
            tls: tls.server,
            front,
            duties,
            election,
            secrets,
            own_service,
        })
    }

    /// What answers its requests, also those of who is in the same process.
    #[must_use]
    pub const fn front(&self) -> &Front {
        &self.front
    }

    /// How secrets are encrypted.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is done. Requests under way are dropped then: what was acknowledged is
    /// stored, and clients repeat the rest.
    pub fn run(self, stop: Boxed<'_, ()>) -> Boxed<'_, ()> {
        Box::pin(self.serve(stop))
    }

    async fn serve(self, stop: Boxed<'_, ()>) {
        let own_service = tokio::spawn(self.own_service.clone().run());
        let leading = leader::start(self.duties, self.election);
        let tls = TlsAcceptor::from(Arc::clone(&self.tls));
        let mut listening = JoinSet::new();
        for listener in std::iter::once(self.listener).chain(self.inherited) {
            listening.spawn(accept(listener, tls.clone(), self.front.clone()));
        }
        stop.await;
        drop(listening);
        own_service.abort();
        if let Err(error) = self.own_service.leave().await {
            tracing::warn!(%error, "leaving the Service kubernetes");
        }
        leading.stop().await;
    }
}

/// Serves what connects, until aborted.
async fn accept(listener: TcpListener, tls: TlsAcceptor, front: Front) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection::serve(stream, tls.clone(), front.clone()));
            }
            Err(error) => {
                // Out of file descriptors, as a rule: some will be closed.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
