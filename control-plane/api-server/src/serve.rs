//! Puts the server together: store, keys, the HTTP front, and what runs beside it, which is
//! housekeeping, scheduler and controllers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::Informers;
use bulkhead_store::encryption::EncryptedStore;
use bulkhead_store::{SqliteStore, StoreError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::api::{Api, services};
use crate::auth::authorizer::Authorizer;
use crate::auth::keys::{Keys, KeysError};
use crate::auth::rbac::{aggregation, bootstrap};
use crate::auth::token::Tokens;
use crate::cidr::Ipv4Range;
use crate::custom::CustomResources;
use crate::encryption::{self, EncryptionError};
use crate::http::{Front, connection};
use crate::kubelet::Kubelets;
use crate::local::LocalClient;
use crate::own_service::{self, OwnService};
use crate::proxy::Proxy;
use crate::status::Status;
use crate::tls::{self, TlsError};
use crate::{first_objects, housekeeping, kinds};

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}; choose another address with --listen")]
    Listen(SocketAddr, std::io::Error),
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
    /// The database cannot be used.
    #[error("{0}: {1}")]
    Store(PathBuf, StoreError),
    /// The authority's certificate, which pods get, cannot be read.
    #[error("{0}: {1}")]
    RootCertificate(PathBuf, std::io::Error),
    /// The first objects cannot be made.
    #[error("cannot make the first objects: {0}")]
    Bootstrap(#[from] Status),
}

/// What a server is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's directory: `pki/` and `store.db`.
    pub dir: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The address at which pods and other servers reach it; that it listens on if unset.
    pub advertise: Option<IpAddr>,
    /// Where Services get their addresses from, in a cluster that is new.
    pub service_range: Ipv4Range,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    front: Front,
    api: Api,
    authorizer: Arc<Authorizer>,
    custom: Arc<CustomResources>,
    root_certificate: Arc<str>,
    secrets: Secrets,
    own_service: OwnService,
}

/// How secrets are encrypted, and with what from now on.
#[derive(Debug, Clone)]
pub struct Secrets {
    pki: PathBuf,
    store: EncryptedStore,
}

impl Secrets {
    /// Takes the keys that the file has now, and seals every secret with the first.
    ///
    /// # Errors
    /// If the file or the store fails; the keys from before are kept.
    pub async fn reload(&self) -> Result<(), EncryptionError> {
        self.store.set_keys(encryption::load(&self.pki, false)?);
        encryption::settle(&self.pki, &self.store).await
    }
}

impl Server {
    /// Opens a cluster and listens.
    ///
    /// # Errors
    /// If that is not possible; the message says what to do.
    pub async fn open(options: Options) -> Result<Self, ServeError> {
        let Options { dir, listen: address, advertise, service_range } = options;
        let listener =
            TcpListener::bind(address).await.map_err(|error| ServeError::Listen(address, error))?;
        let tls = tls::load(&dir.join("pki"))?;
        let path = dir.join("pki").join("ca.crt");
        let root_certificate = std::fs::read_to_string(&path)
            .map_err(|error| ServeError::RootCertificate(path, error))?;
        let path = dir.join("store.db");
        let pki = dir.join("pki");
        let keys = encryption::load(&pki, path.exists())?;
        let store =
            SqliteStore::open(&path).map_err(|error| ServeError::Store(path.clone(), error))?;
        let store = EncryptedStore::new(Arc::new(store), vec![encryption::PREFIX.into()], keys);
        encryption::settle(&pki, &store).await?;
        let secrets = Secrets { pki: pki.clone(), store: store.clone() };
        let registry = Arc::new(kinds::registry());
        let api = Api::new(Arc::new(store), Arc::clone(&registry));
        first_objects::make(&api).await?;
        bootstrap::reconcile(&api).await?;
        let store_failure = |error| ServeError::Store(path.clone(), error);
        let authorizer = Authorizer::start(api.store()).await.map_err(store_failure)?;
        let authorizer = Arc::new(authorizer);
        let custom = CustomResources::start(api.store(), registry).await.map_err(store_failure)?;
        let custom = Arc::new(custom);
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
        let front = Front::new(api.clone(), rights, tokens, kinds, kubelets, proxy);
        let root_certificate = root_certificate.into();
        let tls = tls.server;
        Ok(Self {
            listener,
            tls,
            front,
            api,
            authorizer,
            custom,
            root_certificate,
            secrets,
            own_service,
        })
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
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut own = JoinSet::new();
        own.spawn(housekeeping::run(self.api.clone()));
        own.spawn(services::keep_repaired(self.api.clone()));
        own.spawn(self.own_service.clone().run());
        own.spawn(Arc::clone(&self.custom).clean_up(self.api.clone()));
        own.spawn(aggregation::run(self.api.clone(), Arc::clone(&self.authorizer)));
        let informers = Informers::new(Arc::new(LocalClient::new(self.api.clone())));
        let scheduler = tokio::spawn(bulkhead_scheduler::run(Arc::clone(&informers)));
        let controllers =
            bulkhead_controllers::start(&informers, Arc::clone(&self.root_certificate));
        let tls = TlsAcceptor::from(Arc::clone(&self.tls));
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let (tls, front) = (tls.clone(), self.front.clone());
                        tokio::spawn(connection::serve(stream, tls, front));
                    }
                    Err(error) => {
                        // Out of file descriptors, as a rule: some will be closed.
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
        drop(own);
        if let Err(error) = self.own_service.leave().await {
            tracing::warn!(%error, "leaving the Service kubernetes");
        }
        scheduler.abort();
        drop(controllers);
    }
}
