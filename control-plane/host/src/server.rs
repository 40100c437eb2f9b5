//! The management API's listener: a unix socket, mode 0600, or TCP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::api::Api;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => address
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("{address:?} is no ADDRESS:PORT")),
            _ => Err("must be unix:PATH or tcp:ADDRESS:PORT".into()),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A bound listener.
pub(crate) enum Server {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Listens, in place of a socket that an earlier daemon left: the home's lock says that it ended.
pub(crate) async fn bind(listen: &Listen) -> std::io::Result<Server> {
    match listen {
        Listen::Unix(path) => {
            crate::home::remove_file(path)?;
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(Server::Unix(listener))
        }
        Listen::Tcp(address) => Ok(Server::Tcp(TcpListener::bind(address).await?)),
    }
}

impl Server {
    /// Serves until aborted.
    pub(crate) async fn serve(self, api: Arc<Api>) {
        loop {
            let accepted = match &self {
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(connection(stream, Arc::clone(&api)));
                }),
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(connection(stream, Arc::clone(&api)));
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!("accepting a connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, api: Arc<Api>) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A connection that breaks concerns its client alone.
    drop(serving.await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_two_kinds() {
        assert_eq!("unix:/x".parse(), Ok(Listen::Unix("/x".into())));
        assert_eq!("tcp:127.0.0.1:1".parse(), Ok(Listen::Tcp(([127, 0, 0, 1], 1).into())));
        for bad in ["", "/x", "unix:", "tcp:x", "tcp:127.0.0.1"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
