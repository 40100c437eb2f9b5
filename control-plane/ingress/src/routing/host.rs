//! The host that a request is for.

use http::header::HOST;
use http::{Request, Version};

/// A request does not say for whom it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// It has no Host, which HTTP/1.1 asks for.
    #[error("the request has no Host")]
    Missing,
    /// It names several hosts.
    #[error("the request has more than one Host")]
    Several,
    /// What it names is no host.
    #[error("the request's Host is not one")]
    Invalid,
}

/// The host and port that a request names, as it has them: in its target, or else in `Host`. Empty
/// where an HTTP/1.0 client names none.
///
/// # Errors
/// If it names none or several, or if that is none.
pub(crate) fn host_of<B>(request: &Request<B>) -> Result<&str, HostError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(HostError::Several);
    }
    let header = header.map(|host| host.to_str().map_err(|_| HostError::Invalid)).transpose()?;
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let host = match (target, header) {
        // A proxy before this one may have believed the header (RFC 9112, section 3.2.2, says the
        // target counts).
        (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
            return Err(HostError::Several);
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) if request.version() == Version::HTTP_10 => "",
        (None, None) => return Err(HostError::Missing),
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.len() > 300 || !host.bytes().all(legal) {
        return Err(HostError::Invalid);
    }
    Ok(host)
}

/// The name in a host and port, as rules are compared with it: in lower case, without the root's dot.
pub(crate) fn name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        // Those of an IPv6 address are inside its brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(target: &str, hosts: &[&str]) -> Result<String, HostError> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        host_of(&request.body(()).unwrap()).map(name)
    }

    #[test]
    fn a_host_is_a_name_without_its_port() {
        assert_eq!(host("/", &["WWW.Example.com:8080"]).unwrap(), "www.example.com");
        assert_eq!(host("/", &["example.com."]).unwrap(), "example.com");
        assert_eq!(host("/", &["[::1]:80"]).unwrap(), "[::1]");
        assert_eq!(host("/", &["[::1]"]).unwrap(), "[::1]");
        assert_eq!(host("http://a.b/x", &[]).unwrap(), "a.b");
        assert_eq!(host("http://a.b/x", &["A.b"]).unwrap(), "a.b");
    }

    #[test]
    fn who_names_none_or_several_is_refused() {
        assert_eq!(host("/", &[]), Err(HostError::Missing));
        assert_eq!(host("/", &["a", "a"]), Err(HostError::Several));
        assert_eq!(host("http://a/", &["b"]), Err(HostError::Several));
        for bad in ["a b", "a@b", "a/b", "a,b", "a\tb", "ä"] {
            assert_eq!(host("/", &[bad]), Err(HostError::Invalid), "{bad}");
        }
        let old = Request::builder().version(Version::HTTP_10).uri("/").body(()).unwrap();
        assert_eq!(host_of(&old), Ok(""));
    }
}
