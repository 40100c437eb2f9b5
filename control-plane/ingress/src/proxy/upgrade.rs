//! Connections that have become something else, such as a WebSocket.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long both sides may be silent. Protocols that live longer have heartbeats.
const SILENCE: Duration = Duration::from_secs(3600);
/// How long one side may take nothing of what the other sends.
const STALL: Duration = Duration::from_secs(60);
/// How much is on its way in each direction at most.
const BUFFER: usize = 16 << 10;

/// Passes bytes between two connections, once both have switched, until one ends.
pub(super) fn join(client: OnUpgrade, backend: OnUpgrade) {
    tokio::spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade"),
        };
        copy_both(client, backend).await;
    });
}

async fn copy_both(client: Upgraded, backend: Upgraded) {
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (backend_read, backend_write) = tokio::io::split(TokioIo::new(backend));
    let moved = tokio::sync::Notify::new();
    let both = async {
        tokio::join!(
            copy(client_read, backend_write, &moved),
            copy(backend_read, client_write, &moved)
        )
    };
    let silence = async { while timeout(SILENCE, moved.notified()).await.is_ok() {} };
    // Which of them it was changes nothing: both connections are closed.
    tokio::select! {
        _ = both => {}
        () = silence => {}
    }
}

/// Copies until the end or an error, then ends the other side as well.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &tokio::sync::Notify,
) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        moved.notify_one();
        let sent = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        if !matches!(timeout(STALL, sent).await, Ok(Ok(()))) {
            break;
        }
    }
    // Whoever is gone needs no goodbye.
    let _ = to.shutdown().await;
}
