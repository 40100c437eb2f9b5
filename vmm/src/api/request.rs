//! HTTP/1.1, as much of it as the API needs: a request line, a length, a body.

use std::os::fd::OwnedFd;

use bulkhead_vmm_api::ErrorBody;
use serde::Serialize;

/// Largest head of a request in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Largest body of a request in bytes.
pub(super) const MAX_BODY: usize = 256 << 10;
const MAX_HEADERS: usize = 32;

/// A whole request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
}

/// What the bytes until now amount to.
#[derive(Debug)]
pub(super) enum Parsed {
    Partial,
    Whole { request: Request, length: usize, close: bool },
}

/// Takes a request from the start of `input`, or refuses it.
pub(super) fn parse(input: &[u8]) -> Result<Parsed, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let start = match head.parse(input) {
        Ok(httparse::Status::Complete(start)) if start <= MAX_HEAD => start,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(Parsed::Partial),
        Ok(_) => return Err(Answer::error(431, "the request's head is too large")),
        Err(error) => return Err(Answer::error(400, &format!("not an HTTP request: {error}"))),
    };
    let mut length = 0;
    let mut close = head.version == Some(0);
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value)
                .ok()
                .and_then(|value| value.parse::<usize>().ok())
                .ok_or_else(|| Answer::error(400, "Content-Length is not a number"))?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Answer::error(501, "Transfer-Encoding is not supported: send a length"));
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    if length > MAX_BODY {
        return Err(Answer::error(413, "the request's body is too large"));
    }
    let Some(body) = input.get(start..start + length) else { return Ok(Parsed::Partial) };
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        body: body.to_vec(),
        files: Vec::new(),
    };
    Ok(Parsed::Whole { request, length: start + length, close })
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// 204, without a body.
    pub(super) fn done() -> Self {
        Self { status: 204, body: Vec::new() }
    }

    /// 200 with `value` as JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: 200, body },
            Err(error) => Self::error(500, &error.to_string()),
        }
    }

    /// A refusal.
    pub(super) fn error(status: u16, message: &str) -> Self {
        let body = serde_json::to_vec(&ErrorBody { error: message.to_owned() });
        Self { status, body: body.unwrap_or_default() }
    }

    pub(super) fn to_bytes(&self, close: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            _ => "Internal Server Error",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        if self.status != 204 {
            head += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                self.body.len()
            );
        }
        if close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(input: &[u8]) -> u16 {
        parse(input).unwrap_err().status
    }

    #[test]
    fn a_request_is_whole_only_with_its_body() {
        let bytes = b"PUT /vm HTTP/1.1\r\ncontent-length: 4\r\nConnection: close\r\n\r\nabcd+";
        for end in 0..bytes.len() - 1 {
            assert!(matches!(parse(&bytes[..end]).unwrap(), Parsed::Partial), "{end}");
        }
        let Parsed::Whole { request, length, close } = parse(bytes).unwrap() else {
            panic!("not whole")
        };
        assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/vm"));
        assert_eq!((request.body.as_slice(), length, close), (&b"abcd"[..], bytes.len() - 1, true));
    }

    #[test]
    fn bounds_are_kept() {
        assert_eq!(status(b"PUT / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"), 413);
        assert_eq!(status(b"PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n"), 400);
        assert_eq!(status(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
        assert_eq!(status(b"\x16\x03\x01"), 400);
        let endless = [b"GET /".to_vec(), vec![b'a'; MAX_HEAD]].concat();
        assert_eq!(status(&endless), 431);
    }
}
