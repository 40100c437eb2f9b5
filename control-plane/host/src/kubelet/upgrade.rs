//! Switching an HTTP connection to what Kubernetes' clients stream over: a WebSocket (RFC 6455) or
//! SPDY/3.1, with one of Kubernetes' subprotocols on either; and, for the API server alone, plain TCP.

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::endpoint::{Body, Refusal, text};

/// A WebSocket with a client.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The subprotocols of SPDY: those that are offered, or the one that was agreed upon.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";

/// The subprotocols of a service, the preferred first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocols {
    pub(super) websocket: &'static [&'static str],
    /// The last is meant by who names none.
    pub(super) spdy: &'static [&'static str],
}

/// A request that may become one.
pub(super) struct Offer {
    kind: Kind,
    /// The subprotocol that was agreed upon.
    pub(super) protocol: &'static str,
    upgrade: OnUpgrade,
}

enum Kind {
    WebSocket { key: HeaderValue },
    Spdy,
}

/// What a connection has become.
pub(super) enum Switched {
    WebSocket(Box<Socket>),
    Spdy(TokioIo<Upgraded>),
}

impl Offer {
    /// Agrees upon the first of `protocols` that the client offers.
    ///
    /// # Errors
    /// Why a request is no such offer.
    pub(super) fn of(
        mut request: Request<Incoming>,
        protocols: &Protocols,
    ) -> Result<Self, Refusal> {
        let headers = request.headers();
        let (kind, protocol) = if asks_for(headers, SPDY) {
            (Kind::Spdy, spdy(headers, protocols.spdy)?)
        } else {
            websocket(headers, protocols.websocket)?
        };
        Ok(Self { kind, protocol, upgrade: hyper::upgrade::on(&mut request) })
    }

    /// The answer that accepts it, and the connection once that has been sent; `None` if the client
    /// has left.
    pub(super) fn accept(self) -> (Response<Body>, impl Future<Output = Option<Switched>>) {
        let protocol = HeaderValue::from_static(self.protocol);
        let mut response = match &self.kind {
            Kind::WebSocket { .. } => switching("websocket"),
            Kind::Spdy => switching(SPDY),
        };
        let headers = response.headers_mut();
        match &self.kind {
            Kind::WebSocket { key } => {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
            Kind::Spdy => {
                headers.insert(STREAM_PROTOCOL, protocol);
            }
        }
        let switched = async move {
            let connection = TokioIo::new(self.upgrade.await.ok()?);
            Some(match self.kind {
                Kind::WebSocket { .. } => {
                    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, None);
                    Switched::WebSocket(Box::new(socket.await))
                }
                Kind::Spdy => Switched::Spdy(connection),
            })
        };
        (response, switched)
    }
}

/// The answer that switches to plain TCP, and the connection once that has been sent.
pub(super) fn to_tcp(
    mut request: Request<Incoming>,
) -> (Response<Body>, impl Future<Output = Option<TokioIo<Upgraded>>>) {
    let upgrade = hyper::upgrade::on(&mut request);
    let connection = async move { Some(TokioIo::new(upgrade.await.ok()?)) };
    (switching("tcp"), connection)
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// Whether a request asks to switch to a protocol.
pub(super) fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    listed(headers, &UPGRADE).any(|asked| asked.eq_ignore_ascii_case(protocol))
}

/// What a header lists, in one line or several.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn websocket(
    headers: &HeaderMap,
    protocols: &[&'static str],
) -> Result<(Kind, &'static str), Refusal> {
    let bad = |message| Refusal { status: StatusCode::BAD_REQUEST, message };
    let offered: Vec<_> = listed(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let Some(protocol) = protocols.iter().find(|protocol| offered.contains(protocol)) else {
        let needed = protocols.join(" or ");
        return Err(bad(format!(
            "a WebSocket with subprotocol {needed} is needed, or an upgrade to {SPDY}"
        )));
    };
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).cloned() else {
        return Err(bad(String::from("no Sec-WebSocket-Key")));
    };
    Ok((Kind::WebSocket { key }, protocol))
}

fn spdy(headers: &HeaderMap, protocols: &[&'static str]) -> Result<&'static str, Refusal> {
    let offered: Vec<_> = listed(headers, &STREAM_PROTOCOL).collect();
    let agreed = protocols.iter().find(|protocol| offered.contains(protocol));
    let oldest = protocols.last().filter(|_| offered.is_empty());
    agreed.or(oldest).copied().ok_or_else(|| Refusal {
        status: StatusCode::FORBIDDEN,
        message: format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server \
             accepts {protocols:?}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_newest_subprotocol_that_both_know_is_taken() {
        let ours = ["v4", "v3", "v1"];
        let agreed = |lines: &[(&'static str, &'static str)]| spdy(&headers(lines), &ours);
        let name = STREAM_PROTOCOL.as_str().to_owned().leak();
        assert_eq!(agreed(&[(name, "v5"), (name, "v3"), (name, "v4")]).unwrap(), "v4");
        assert_eq!(agreed(&[(name, "v1, v3")]).unwrap(), "v3");
        assert_eq!(agreed(&[]).unwrap(), "v1", "who names none is old");
        let refused = agreed(&[(name, "v5")]).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert!(refused.message.contains("v5"), "{}", refused.message);
    }

    #[test]
    fn an_upgrade_is_asked_for_in_any_spelling() {
        assert!(asks_for(&headers(&[("upgrade", "spdy/3.1")]), SPDY));
        assert!(asks_for(&headers(&[("upgrade", "h2c, SPDY/3.1")]), SPDY));
        assert!(!asks_for(&headers(&[("upgrade", "websocket")]), SPDY));
    }
}
