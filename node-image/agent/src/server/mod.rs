//! The agent's end of the protocol: a listener, and a task per connection.

mod connection;

use std::{io, path::Path, rc::Rc, time::Duration};

use bulkhead_agent_protocol::PORT;
use tokio::net::UnixListener;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::Agent;

/// Between tries after a connection could not be accepted (no descriptors left, say).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves vsock port 1024, for ever.
///
/// # Errors
/// If the port cannot be listened on.
pub(crate) async fn vsock(agent: Rc<Agent>) -> io::Result<()> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, PORT))?;
    // Who looks at the console of a node that is quiet sees that it came up.
    eprintln!("bulkhead-agent {} listens on vsock port {PORT}", env!("CARGO_PKG_VERSION"));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (reader, writer) = tokio::io::split(stream);
                tokio::task::spawn_local(connection::serve(Rc::clone(&agent), reader, writer));
            }
            Err(error) => retry(&error).await,
        }
    }
}

/// Serves a unix socket, for ever.
///
/// # Errors
/// If the socket cannot be bound.
pub(crate) async fn unix(agent: Rc<Agent>, path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (reader, writer) = stream.into_split();
                tokio::task::spawn_local(connection::serve(Rc::clone(&agent), reader, writer));
            }
            Err(error) => retry(&error).await,
        }
    }
}

async fn retry(error: &io::Error) {
    eprintln!("agent: a connection was not accepted: {error}");
    tokio::time::sleep(ACCEPT_RETRY).await;
}
