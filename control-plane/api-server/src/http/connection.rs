//! A client's connection: TLS, who it is, and its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Front;
use super::stream::HangUp;
use crate::auth::User;
use crate::status::Status;

/// How long a client may take for a TLS handshake, and then for its first request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an HTTP/1 client may take from one request to the end of the next one's headers. Clients
/// keep connections for later, and are surprised by those that are closed.
const IDLE: Duration = Duration::from_secs(90);
/// How often an HTTP/2 client that is silent is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// Requests, watches for the most part, that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 1000;
/// The headers of an HTTP/2 request, in bytes: a path with long selectors fits.
const MAX_HEADERS: u32 = 64 << 10;

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, tls: TlsAcceptor, front: Front) {
    // Small answers and watch events go out at once; a system that cannot is only slower.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = match certificates.and_then(<[_]>::first) {
        None => Ok(None),
        Some(certificate) => User::from_certificate(certificate).map(Some).ok_or(()),
    };
    let user = Arc::new(user);
    let asked = Arc::new(AtomicBool::new(false));
    let hang_up = HangUp::default();
    let (ask, own) = (Arc::clone(&asked), hang_up.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        ask.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(own.clone());
        let (front, user) = (front.clone(), Arc::clone(&user));
        async move {
            Ok::<_, std::convert::Infallible>(match user.as_ref() {
                Ok(user) => front.answer(user.as_ref(), request).await,
                Err(()) => crate::body::failure(&Status::unauthorized()),
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(HANDSHAKE);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(served);
    let silent = async {
        tokio::time::sleep(HANDSHAKE).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = &mut served => served,
        // Before its first request, a client has said nothing that anyone waits for.
        () = silent => return tracing::debug!("a connection without a request"),
        () = hang_up.wanted() => return,
    };
    if let Err(error) = served {
        tracing::debug!(error, "connection");
    }
}
