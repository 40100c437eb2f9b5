//! A proxied request and its answer: what is passed on of either, and what is not.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;

use super::{Way, unreachable};
use crate::body::{self, BoxError, ResponseBody};
use crate::kubelet::splice;
use crate::status::{Result, Status};

/// Headers that concern one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Passes a request on, and gives its answer, streams and upgraded connections included.
pub(super) async fn pass<B>(
    mut way: Way,
    below: &str,
    mut request: Request<B>,
) -> Result<Response<ResponseBody>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let path = request.uri().path();
    let here = path.strip_suffix(below).unwrap_or(path).to_owned();
    let upgrade = asked_upgrade(request.headers());
    let near = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let forwarded = forward(&way, below, &here, upgrade, request)?;
    let mut answer = way.sender.send_request(forwarded).await.map_err(unreachable)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let near = near.ok_or_else(|| unreachable("it switches protocols unasked"))?;
        let far = hyper::upgrade::on(&mut answer);
        tokio::spawn(splice(near, far));
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, body::full(Bytes::new())));
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|to| relocate(to, &here)) {
        parts.headers.insert(header::LOCATION, location);
    }
    parts.version = http::Version::default();
    let mut response = Response::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    response.extensions_mut().insert(body::Foreign);
    Ok(response)
}

/// The protocol that a client wants to switch to.
fn asked_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|one| one.to_str().ok());
    let mut options = connection.flat_map(|line| line.split(','));
    let asked = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

fn forward<B>(
    way: &Way,
    below: &str,
    here: &str,
    upgrade: Option<HeaderValue>,
    request: Request<B>,
) -> Result<Request<ResponseBody>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let mut uri = format!("{}/{}", way.prefix, below.trim_start_matches('/'));
    if let Some(query) = parts.uri.query() {
        uri.push('?');
        uri.push_str(query);
    }
    let host = match (parts.headers.get(header::HOST), parts.uri.authority()) {
        (Some(host), _) => host.clone(),
        (None, Some(authority)) => {
            HeaderValue::from_str(authority.as_str()).map_err(|error| bad(&error))?
        }
        (None, None) => HeaderValue::from_static("localhost"),
    };
    let mut headers = parts.headers;
    remove_hop_by_hop(&mut headers);
    // The client's credentials are for this server.
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    headers.insert(header::HOST, host.clone());
    headers.insert("x-forwarded-host", host);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert("x-forwarded-uri", HeaderValue::from_str(here).map_err(|error| bad(&error))?);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let mut forwarded = Request::new(body.map_err(Into::into).boxed_unsync());
    *forwarded.method_mut() = parts.method;
    *forwarded.uri_mut() = uri.parse::<Uri>().map_err(|error| bad(&error))?;
    *forwarded.headers_mut() = headers;
    Ok(forwarded)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Where a redirect to a path of what is proxied to leads through here; `None` if it leads elsewhere.
fn relocate(to: &HeaderValue, here: &str) -> Option<HeaderValue> {
    let to = to.to_str().ok()?;
    let is_path = to.starts_with('/') && !to.starts_with("//");
    is_path.then(|| HeaderValue::try_from(format!("{}{to}", here.trim_end_matches('/'))).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_own_headers_stay_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, X-Own"), ("x-own", "1"), ("te", "trailers"), ("accept", "*/*")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(asked_upgrade(&headers), None);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
        headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        assert_eq!(asked_upgrade(&headers).unwrap(), "websocket");
    }

    #[test]
    fn redirects_stay_below_the_proxy() {
        let relocated = |to: &'static str| {
            relocate(&HeaderValue::from_static(to), "/api/v1/pods/web/proxy/")
                .map(|to| to.to_str().unwrap().to_owned())
        };
        assert_eq!(relocated("/login?a=b").unwrap(), "/api/v1/pods/web/proxy/login?a=b");
        for elsewhere in ["https://example.org/", "//example.org/", "login"] {
            assert_eq!(relocated(elsewhere), None, "{elsewhere}");
        }
    }
}
