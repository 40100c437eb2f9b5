//! Compression of large answers, for clients that accept it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use crate::body::{self, ResponseBody};
use crate::status::{Result, Status};

/// Answers up to this size are not worth the time, as in Kubernetes.
const THRESHOLD: u64 = 128 << 10;

/// Whether a request's client accepts gzip.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let refused = |part: &str| {
            part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32))
        };
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

/// Compresses an answer of this server whose body is there and large; others, such as watches, pass
/// unchanged.
pub(super) async fn compress(response: Response<ResponseBody>) -> Result<Response<ResponseBody>> {
    let is_large = response.body().size_hint().exact().is_some_and(|size| size > THRESHOLD);
    let is_foreign = response.extensions().get::<body::Foreign>().is_some();
    if !is_large || is_foreign || response.headers().contains_key(header::CONTENT_ENCODING) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
        encoder.write_all(&bytes)?;
        encoder.finish()
    });
    let compressed = compressed.await.map_err(Status::internal)?.map_err(Status::internal)?;
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(Response::from_parts(parts, body::full(compressed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_accept() {
        for (value, expected) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(is_accepted(&headers), expected, "{value}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }
}
