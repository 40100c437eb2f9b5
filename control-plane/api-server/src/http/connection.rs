//! A client's connection: TLS, who it is, and its requests.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Front;
use crate::auth::User;
use crate::status::Status;

/// How long a client may take for a TLS handshake or a request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
    let service = service_fn(move |request| {
        let (front, user) = (front.clone(), Arc::clone(&user));
        async move {
            Ok::<_, std::convert::Infallible>(match user.as_ref() {
                Ok(user) => front.answer(user.as_ref(), request).await,
                Err(()) => crate::body::failure(&Status::unauthorized()),
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error, "connection");
    }
}
