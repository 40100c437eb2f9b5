//! Listening, and what a client may hold: every limit on what is hostile before it is a request.

mod stall;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::proxy::{Client, Proxy};
use stall::Stall;

/// Connections of clients at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for a TLS handshake, and then for its first request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an HTTP/1 client may take from one request to the end of the next one's headers.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client may take nothing of what it is sent.
const STALL: Duration = Duration::from_secs(60);
/// How often a silent HTTP/2 client is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// Header fields of a message.
pub(crate) const MAX_HEADERS: usize = 128;
/// Bytes of a request's line and headers: a browser sends 16 KiB of cookies without remorse.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Requests that an HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 128;
/// Bytes of each of their answers that wait to be sent.
const SEND_BUFFER: usize = 64 << 10;
/// How long requests under way get when the proxy ends.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long to wait when the system has no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What connections share.
#[derive(Debug, Clone)]
pub struct Server {
    proxy: Arc<Proxy>,
    connections: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Server {
    /// A server of what `proxy` knows, until `stop` says true. `descriptors` is how many files may
    /// be open: a connection takes one, and its request another.
    #[must_use]
    pub fn new(proxy: Arc<Proxy>, descriptors: u64, stop: watch::Receiver<bool>) -> Self {
        let affordable = usize::try_from(descriptors / 3).unwrap_or(usize::MAX);
        let connections = Arc::new(Semaphore::new(affordable.clamp(1, MAX_CONNECTIONS)));
        Self { proxy, connections, stop }
    }

    /// Serves those who connect to `listener`, over TLS if there is an acceptor, and returns when it
    /// is to stop and nobody is left or the [`GRACE`] is over.
    pub async fn serve(mut self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let mut connections = tokio::task::JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                () = wanted(&mut stop) => break,
                accepted = self.accept(&listener) => accepted,
                // So that those that have ended are forgotten.
                Some(_) = connections.join_next() => continue,
            };
            let Some((stream, peer, permit)) = accepted else { continue };
            connections.spawn(self.clone().connection(stream, peer, tls.clone(), permit));
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // Who is not done by then is cut off.
        let _ = timeout(GRACE, all).await;
    }

    async fn accept(
        &mut self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, peer)) => Some((stream, peer, permit)),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                sleep(EXHAUSTED).await;
                None
            }
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
        _permit: OwnedSemaphorePermit,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        // A system that cannot is only slower.
        let _ = stream.set_nodelay(true);
        let client = Client { address: peer.ip(), port: local.port(), secure: tls.is_some() };
        let stream = Stall::new(stream, STALL);
        let Some(tls) = tls else { return self.http1(stream, client).await };
        match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => self.http2(stream, client).await,
                _ => self.http1(stream, client).await,
            },
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    async fn http1(self, stream: impl Stream, client: Client) {
        let asked = Asked::default();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEADER_BYTES as usize)
            .max_buf_size(MAX_HEADER_BYTES as usize)
            .serve_connection(TokioIo::new(stream), self.service(client, &asked))
            .with_upgrades();
        self.drive(connection, http1::UpgradeableConnection::graceful_shutdown, &asked).await;
    }

    async fn http2(self, stream: impl Stream, client: Client) {
        let asked = Asked::default();
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING)
            .keep_alive_timeout(HANDSHAKE)
            .serve_connection(TokioIo::new(stream), self.service(client, &asked));
        self.drive(connection, http2::Connection::graceful_shutdown, &asked).await;
    }

    /// Until the connection has ended, be it that it was asked to, or nothing was asked over it in
    /// time.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        end: impl FnOnce(Pin<&mut C>),
        asked: &Asked,
    ) {
        let mut connection = pin!(connection);
        let mut stop = self.stop.clone();
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = asked.not_in(HANDSHAKE) => return,
            () = wanted(&mut stop) => {
                end(connection.as_mut());
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection");
        }
    }

    fn service(
        &self,
        client: Client,
        asked: &Asked,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = http::Response<crate::proxy::Body>,
        Error = Infallible,
        Future: Send,
    > + use<> {
        let (proxy, asked) = (Arc::clone(&self.proxy), asked.clone());
        service_fn(move |request| {
            asked.0.store(true, Ordering::Relaxed);
            let proxy = Arc::clone(&proxy);
            async move { Ok(proxy.answer(client, request).await) }
        })
    }
}

/// Returns when it is to stop, or when nobody is left who could say so.
async fn wanted(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Something to speak HTTP over.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Whether a client has asked anything yet.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Returns after `limit` if it has not; else never.
    async fn not_in(&self, limit: Duration) {
        sleep(limit).await;
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        tracing::debug!("a connection without a request");
    }
}
