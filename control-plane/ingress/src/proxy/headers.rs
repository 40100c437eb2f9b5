//! What becomes of headers on the way.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, Entry, FORWARDED, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who asks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The port on which it was accepted.
    pub(crate) port: u16,
    /// Whether it speaks TLS.
    pub(crate) secure: bool,
}

/// What a request asks its connection to become.
pub(super) fn wanted_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = version == Version::HTTP_11 && tokens(headers, &CONNECTION).any(|t| t == "upgrade");
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + 'a {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

/// Takes away what is about one connection (RFC 9110, section 7.6.1), and what `Connection` says is.
fn take_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    // Who may name a header here may not take away what says where a message ends or goes.
    for name in named.iter().filter(|name| ![CONTENT_LENGTH, HOST].contains(name)) {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// Puts what an upgrade needs back.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes a request's headers those that a backend gets. What a client says of itself is replaced by
/// what is known: nobody is before this proxy that could be believed.
pub(super) fn towards_backend(headers: &mut HeaderMap, host: &str, client: Client) {
    let trailers = tokens(headers, &TE).any(|token| token == "trailers");
    take_hop_by_hop(headers);
    headers.remove(EXPECT);
    headers.remove(FORWARDED);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    join_cookies(headers);
    let proto = if client.secure { "https" } else { "http" };
    for (name, value) in [
        (HOST, host.to_owned()),
        (FORWARDED_HOST, host.to_owned()),
        (FORWARDED_FOR, client.address.to_canonical().to_string()),
        (REAL_IP, client.address.to_canonical().to_string()),
        (FORWARDED_PORT, client.port.to_string()),
        (FORWARDED_PROTO, proto.to_owned()),
    ] {
        // Hosts have been looked at, and the rest is ours.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// HTTP/2 clients may send a field per cookie; HTTP/1.1 has one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut cookies) = headers.entry(http::header::COOKIE) else { return };
    if cookies.iter().nth(1).is_some() {
        let all: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            cookies.insert(joined);
        }
    }
}

/// Makes an answer's headers those that a client gets.
pub(super) fn towards_client(headers: &mut HeaderMap) {
    take_hop_by_hop(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Client =
        Client { address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port: 80, secure: false };

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn what_is_about_the_connection_stays_behind() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("Connection", "x-forwarded-for, content-length, host"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        towards_backend(&mut map, "a.b:81", CLIENT);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let expected = [
            "accept",
            "connection",
            "content-length",
            "host",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-real-ip",
        ];
        assert_eq!(left, expected);
        assert_eq!(
            (&map["te"], &map["connection"]),
            (&"trailers".parse().unwrap(), &"te".parse().unwrap())
        );
    }

    #[test]
    fn a_client_says_nothing_of_itself_that_is_believed() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        towards_backend(&mut map, "a.b:81", CLIENT);
        let all = |name: &str| -> Vec<&str> {
            map.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(all("x-real-ip"), ["127.0.0.1"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("x-forwarded-host"), ["a.b:81"]);
        assert_eq!(all("x-forwarded-port"), ["80"]);
        assert!(all("forwarded").is_empty());
    }

    #[test]
    fn cookies_become_one_field() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        towards_backend(&mut map, "a", CLIENT);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_upgrade_is_asked_for_by_two_headers() {
        let asks = |list: &[(&str, &str)]| wanted_upgrade(Version::HTTP_11, &headers(list));
        assert!(asks(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]).is_some());
        assert!(asks(&[("upgrade", "websocket")]).is_none());
        assert!(asks(&[("connection", "upgrade")]).is_none());
        let both = headers(&[("upgrade", "websocket"), ("connection", "upgrade")]);
        assert!(wanted_upgrade(Version::HTTP_10, &both).is_none());
    }
}
