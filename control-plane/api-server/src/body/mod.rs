//! Request and response bodies.

mod parse;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use parse::Parsed;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use crate::schema::protobuf;
use crate::status::{Result, Status};

/// The largest request body, as in Kubernetes.
pub const MAX_BODY: usize = 3 << 20;
/// A body may take so long to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What streams may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Marks an answer that is another server's, to be passed on as it is.
#[derive(Debug, Clone, Copy)]
pub struct Foreign;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of JSON.
#[must_use]
pub fn json(code: u16, value: &Value, media_type: &str) -> Response<ResponseBody> {
    // A `Value` always serializes.
    encoded(code, serde_json::to_vec(value).unwrap_or_default(), media_type)
}

/// An answer that is encoded already.
#[must_use]
pub fn encoded(code: u16, bytes: Vec<u8>, media_type: &str) -> Response<ResponseBody> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = HeaderValue::from_str(media_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

/// An answer of text.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

/// The answer that a failure is.
#[must_use]
pub fn failure(status: &Status) -> Response<ResponseBody> {
    let mut response = json(status.code, &status.to_value(), "application/json");
    if let Some(seconds) = status.details.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The media type of Kubernetes' protobuf encoding.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What a request's body says.
#[derive(Debug, Default)]
pub struct Body {
    /// Its value; null if it is empty.
    pub value: Value,
    /// Paths of fields that it says twice. The last one counts.
    pub duplicates: Vec<String>,
}

/// The value in a request's body: JSON, or YAML or protobuf if the media type says so. Nesting
/// beyond what the parsers allow is refused by them.
///
/// # Errors
/// `RequestEntityTooLarge`, `UnsupportedMediaType`, `BadRequest`.
pub async fn read<B>(body: B, media_type: &str) -> Result<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await;
    let collected = collected.map_err(|_| Status::timeout("the body did not come in time"))?;
    let collected = collected.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Status::too_large(MAX_BODY)
        } else {
            Status::bad_request(format!("reading the body: {error}"))
        }
    })?;
    let bytes = collected.to_bytes();
    if bytes.is_empty() {
        return Ok(Body::default());
    }
    let parsed = match media_type {
        "application/yaml" | "application/apply-patch+yaml" => {
            let text = std::str::from_utf8(&bytes)
                .map_err(|error| Status::bad_request(format!("the body is not UTF-8: {error}")))?;
            let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
            serde_saphyr::from_str_with_options(text, options)
                .map_err(|error| Status::bad_request(format!("the body is not YAML: {error}")))
        }
        PROTOBUF => protobuf::decode(&bytes).map(Into::into).map_err(|error| match error {
            protobuf::Error::Unsupported(_) => Status::unsupported_media_type(error.to_string()),
            _ => Status::bad_request(format!("the body is not protobuf: {error}")),
        }),
        "" | "application/json" => parse(&bytes),
        json if json.ends_with("+json") => parse(&bytes),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, {PROTOBUF}; got {other}"
        ))),
    }?;
    Ok(Body { value: parsed.value, duplicates: parsed.duplicates })
}

fn parse(bytes: &[u8]) -> Result<Parsed> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::bad_request(format!("the body is not JSON: {error}")))
}

/// The media type of a `Content-Type`, without parameters.
#[must_use]
pub fn media_type(headers: &http::HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let value = value.unwrap_or("").split(';').next().unwrap_or("");
    value.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(1);
        sender.send_data(Bytes::from_static(b"{\"a\": ")).await.unwrap();
        let refused = read(body, "application/json").await.unwrap_err();
        assert_eq!((refused.code, refused.reason), (504, "Timeout"));
        drop(sender);
    }
}
