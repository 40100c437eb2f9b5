//! What the proxy itself answers.

use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use super::body::{self, Body};

/// An answer of one line.
pub(super) fn says(status: StatusCode, why: &dyn std::fmt::Display) -> Response<Body> {
    let mut answer = Response::new(body::text(format!("{why}\n")));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

/// Sends a client to the same resource over TLS; 308 keeps method and body.
pub(super) fn to_https(host: &str, port: u16, path_and_query: &str) -> Response<Body> {
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let name = name.map_or(host, |(name, _)| name);
    let location = format!("https://{name}{port}{path_and_query}");
    match HeaderValue::try_from(location) {
        Ok(location) => {
            let mut answer = Response::new(body::empty());
            *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
            answer.headers_mut().insert(LOCATION, location);
            answer
        }
        Err(error) => says(StatusCode::BAD_REQUEST, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_on_its_own_port() {
        let location = |host: &str, port| to_https(host, port, "/a?b").headers()[LOCATION].clone();
        assert_eq!(location("a.b:8080", 8443), "https://a.b:8443/a?b");
        assert_eq!(location("a.b", 443), "https://a.b/a?b");
        assert_eq!(location("[::1]:80", 8443), "https://[::1]:8443/a?b");
    }
}
