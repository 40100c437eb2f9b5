//! The client of the gRPC health checking protocol, `grpc.health.v1.Health/Check`
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): one call over cleartext
//! HTTP/2. Its messages have one field each, so they are written and read by hand.

use std::future::poll_fn;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, client};
use http::{HeaderMap, Method, Request, Version};
use tokio::net::TcpStream;

/// The most of an answer that is taken, in bytes: of its body, of its headers, and of both of an
/// HTTP/2 connection's buffers.
const MAX_ANSWER: u32 = 16 << 10;

/// A gRPC message's head: not compressed, then its length.
const HEAD: usize = 5;

/// `grpc-status` of a method that is not there.
const UNIMPLEMENTED: &str = "12";

/// Asks how `service` is; worded as a kubelet does.
///
/// # Errors
/// What went wrong, or how it is if it does not serve.
pub(super) async fn check(
    connection: TcpStream,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("error: health rpc probe failed: {why}");
    let shaken = client::Builder::new()
        .initial_window_size(MAX_ANSWER)
        .initial_connection_window_size(MAX_ANSWER)
        .max_header_list_size(MAX_ANSWER)
        .enable_push(false)
        .handshake(connection)
        .await;
    let (client, connection) = shaken.map_err(|error| failed(&error))?;
    let call = call(client, authority, service);
    let answered = tokio::select! {
        answered = call => answered,
        ended = connection => Err(match ended {
            Ok(()) => String::from("the server closed the connection"),
            Err(error) => error.to_string(),
        }),
    };
    let answer = answered.map_err(|why| failed(&why))?;
    match answer.code.as_str() {
        "0" => {}
        UNIMPLEMENTED => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {}",
                answer.message
            ));
        }
        code => return Err(failed(&format!("code = {code} desc = {}", answer.message))),
    }
    let status = match answer.status {
        Some(1) => return Ok(()),
        Some(0) => "UNKNOWN",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        _ => return Err(failed(&"the answer is no HealthCheckResponse")),
    };
    Err(format!("service unhealthy (responded with {status:?})"))
}

/// What a server answers.
struct Answer {
    /// `grpc-status`, a number.
    code: String,
    /// `grpc-message`.
    message: String,
    /// `HealthCheckResponse.ServingStatus`, if there is a message.
    status: Option<u64>,
}

async fn call(
    mut client: client::SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<Answer, String> {
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(())
        .map_err(|error| error.to_string())?;
    let text = |error: h2::Error| error.to_string();
    poll_fn(|context| client.poll_ready(context)).await.map_err(text)?;
    let (answer, mut body) = client.send_request(request, false).map_err(text)?;
    body.send_data(message(service), true).map_err(text)?;
    let (parts, mut body) = answer.await.map_err(text)?.into_parts();
    if !parts.status.is_success() {
        return Err(format!("unexpected HTTP status code {}", parts.status.as_u16()));
    }
    let received = receive(&mut body).await?;
    let trailers = body.trailers().await.map_err(text)?;
    // An answer without a body has its status at once.
    let trailers = trailers.unwrap_or(parts.headers);
    let of = |name: &str, headers: &HeaderMap| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(percent_decode(value))
    };
    Ok(Answer {
        code: of("grpc-status", &trailers).ok_or("the answer has no grpc-status")?,
        message: of("grpc-message", &trailers).unwrap_or_default(),
        status: received.get(HEAD..).and_then(serving_status),
    })
}

/// The body, which is no longer than the window that was given.
async fn receive(body: &mut RecvStream) -> Result<BytesMut, String> {
    let mut received = BytesMut::new();
    while let Some(data) = body.data().await {
        received.extend_from_slice(&data.map_err(|error| error.to_string())?);
        if received.len() >= MAX_ANSWER as usize {
            return Err(String::from("the answer is too long"));
        }
    }
    Ok(received)
}

/// A `HealthCheckRequest`: field 1 is the service.
fn message(service: &str) -> Bytes {
    let mut request = BytesMut::new();
    if !service.is_empty() {
        request.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            request.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        request.put_u8(length as u8);
        request.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(HEAD + request.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(request.len()).unwrap_or(u32::MAX));
    framed.unsplit(request);
    framed.freeze()
}

/// Field 1 of a `HealthCheckResponse`, the only one that it has; an enum's 0 is not written.
fn serving_status(message: &[u8]) -> Option<u64> {
    match message {
        [] => Some(0),
        [0x08, value] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

/// `%41` and the like, as `grpc-message` carries them.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let coded = after.get(..2).filter(|_| *first == b'%');
        let byte = coded
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a server that answers with these is taken for, and the message that it was sent.
    async fn asked(
        headers: &'static [(&'static str, &'static str)],
        body: Option<&'static [u8]>,
        trailers: &'static [(&'static str, &'static str)],
    ) -> (Result<(), String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let serve = async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["te"], "trailers");
                let sent = receive(&mut request.into_body()).await.unwrap();
                let mut response = http::Response::builder();
                for (name, value) in headers {
                    response = response.header(*name, *value);
                }
                let response = response.body(()).unwrap();
                let mut stream = respond.send_response(response, body.is_none()).unwrap();
                if let Some(body) = body {
                    stream.send_data(Bytes::from_static(body), false).unwrap();
                    let mut all = HeaderMap::new();
                    for (name, value) in trailers {
                        all.insert(*name, value.parse().unwrap());
                    }
                    stream.send_trailers(all).unwrap();
                }
                sent
            };
            let serve = tokio::spawn(serve);
            // The client hangs up when it has its answer.
            while connection.accept().await.is_some() {}
            serve.await.unwrap().to_vec()
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let checked = check(stream, &address.to_string(), "web").await;
        (checked, server.await.unwrap())
    }

    #[tokio::test]
    async fn only_a_server_that_serves_passes() {
        const OK: &[(&str, &str)] = &[("grpc-status", "0")];
        let (checked, sent) = asked(&[], Some(&[0, 0, 0, 0, 2, 8, 1]), OK).await;
        checked.unwrap();
        assert_eq!(sent, b"\0\0\0\0\x05\x0a\x03web");
        let (checked, _) = asked(&[], Some(&[0, 0, 0, 0, 2, 8, 2]), OK).await;
        assert_eq!(checked.unwrap_err(), "service unhealthy (responded with \"NOT_SERVING\")");
        let (checked, _) = asked(&[], Some(&[0, 0, 0, 0, 0]), OK).await;
        assert_eq!(checked.unwrap_err(), "service unhealthy (responded with \"UNKNOWN\")");
        let (checked, _) = asked(&[], Some(&[0, 0, 0, 0, 2, 8, 1]), &[("grpc-status", "13")]).await;
        assert!(checked.unwrap_err().contains("code = 13"));
        let (checked, _) = asked(&[], Some(&[1, 2, 3]), OK).await;
        assert!(checked.unwrap_err().contains("no HealthCheckResponse"));
        let none: &[(&str, &str)] = &[("grpc-status", "5"), ("grpc-message", "unknown%20service")];
        let (checked, _) = asked(none, None, &[]).await;
        assert!(checked.unwrap_err().ends_with("code = 5 desc = unknown service"));
        let (checked, _) = asked(&[("grpc-status", "12")], None, &[]).await;
        assert!(checked.unwrap_err().contains("does not implement the grpc health protocol"));
    }

    #[test]
    fn long_names_have_long_lengths() {
        let service = "s".repeat(300);
        let framed = message(&service);
        assert_eq!(&framed[..8], &[0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(message("").as_ref(), &[0; 5]);
    }
}
