//! An endpoint and its idle connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Target;
use crate::proxy::Body;

/// How long an idle connection is kept: shorter than any usual server does (Node.js 5 s, Apache 5 s,
/// nginx 75 s), so that none ends it just as a request is sent.
const IDLE: Duration = Duration::from_secs(4);
/// How many idle connections are kept.
const MAX_IDLE: usize = 64;
/// For how long others are preferred to an endpoint that failed.
pub(super) const SUSPICION: Duration = Duration::from_secs(5);
/// How long what was sent may stay without acknowledgement: then the machine is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How often the other end of a silent connection is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(5);

/// A connection that takes one request at a time.
pub(crate) type Sender = SendRequest<Body>;

/// Where requests are sent.
#[derive(Debug)]
pub(crate) struct Endpoint {
    target: Target,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<(Sender, Instant)>,
    /// Whether a task ends connections that were idle for too long.
    swept: bool,
    /// It is an endpoint no more.
    retired: bool,
    suspect_until: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(target: Target) -> Self {
        Self { target, state: Mutex::default() }
    }

    pub(crate) const fn target(&self) -> &Target {
        &self.target
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prefers others for a while.
    pub(crate) fn suspect(&self) {
        let mut state = self.state();
        state.suspect_until = Some(Instant::now() + SUSPICION);
        state.idle.clear();
    }

    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.state().suspect_until.is_some_and(|until| now < until)
    }

    /// Ends its idle connections, and keeps none from now on.
    pub(super) fn retire(&self) {
        let mut state = self.state();
        state.retired = true;
        state.idle.clear();
    }

    /// A connection that is idle, the one last used.
    pub(super) fn take_idle(&self) -> Option<Sender> {
        let mut state = self.state();
        let oldest = Instant::now().checked_sub(IDLE);
        while let Some((sender, since)) = state.idle.pop() {
            if oldest.is_none_or(|oldest| since > oldest) && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> std::io::Result<Sender> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        // So that it ends with the machine, be it in the midst of a long answer.
        sockopt::set_tcp_user_timeout(&stream, limit)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, PROBE)?;
        sockopt::set_tcp_keepintvl(&stream, PROBE)?;
        let handshake = http1::Builder::new()
            .max_headers(crate::server::MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an endpoint");
            }
        });
        Ok(sender)
    }

    /// Keeps a connection for the next request, as soon as this one's answer has been read.
    pub(crate) fn keep(self: &Arc<Self>, mut sender: Sender) {
        // Whoever reads the answer must not keep an endpoint that is no more.
        let endpoint = Arc::downgrade(self);
        tokio::spawn(async move {
            // An error is a connection that has ended.
            if sender.ready().await.is_ok()
                && let Some(endpoint) = endpoint.upgrade()
            {
                endpoint.put(sender);
            }
        });
    }

    fn put(self: &Arc<Self>, sender: Sender) {
        let mut state = self.state();
        if state.retired || state.idle.len() >= MAX_IDLE {
            return;
        }
        state.idle.push((sender, Instant::now()));
        if !std::mem::replace(&mut state.swept, true) {
            let endpoint = Arc::downgrade(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(IDLE).await;
                    if endpoint.upgrade().is_none_or(|endpoint| endpoint.sweep()) {
                        return;
                    }
                }
            });
        }
    }

    /// Ends what was idle for too long; whether there is nothing left to watch.
    fn sweep(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        state.idle.retain(|(sender, since)| !sender.is_closed() && now - *since < IDLE);
        state.swept = !state.idle.is_empty();
        !state.swept
    }
}
