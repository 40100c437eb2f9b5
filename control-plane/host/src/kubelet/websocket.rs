//! Switching an HTTP connection to a WebSocket (RFC 6455) with one of Kubernetes' subprotocols.

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
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

/// A request that may become one.
pub(super) struct Offer {
    key: HeaderValue,
    /// What was agreed upon.
    pub(super) protocol: &'static str,
    upgrade: OnUpgrade,
}

impl Offer {
    /// Agrees upon the first of `protocols` that the client offers.
    ///
    /// # Errors
    /// Why a request is no such offer.
    pub(super) fn of(
        mut request: Request<Incoming>,
        protocols: &[&'static str],
    ) -> Result<Self, Refusal> {
        let bad = |message| Refusal { status: StatusCode::BAD_REQUEST, message };
        let offered = request
            .headers()
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect::<Vec<_>>();
        let Some(protocol) = protocols.iter().find(|protocol| offered.contains(protocol)) else {
            let needed = protocols.join(" or ");
            return Err(bad(format!("a WebSocket with subprotocol {needed} is needed")));
        };
        let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
            return Err(bad(String::from("no Sec-WebSocket-Key")));
        };
        Ok(Self { key, protocol, upgrade: hyper::upgrade::on(&mut request) })
    }

    /// The answer that accepts it, and the socket once that has been sent; `None` if the client has
    /// left.
    pub(super) fn accept(self) -> (Response<Body>, impl Future<Output = Option<Socket>>) {
        let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(self.key.as_bytes())) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        let upgrade = self.upgrade;
        let socket = async move {
            let connection = TokioIo::new(upgrade.await.ok()?);
            Some(WebSocketStream::from_raw_socket(connection, Role::Server, None).await)
        };
        (response, socket)
    }
}
