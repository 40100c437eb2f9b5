//! Names of images, made full as Docker does.

use std::{fmt, net::IpAddr, str::FromStr};

use oci_client::Reference;

use crate::Error;

/// An image's full name: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Reference);

impl Name {
    /// Takes `[registry/]repository[:tag][@digest]`.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn parse(name: &str) -> Result<Self, Error> {
        Reference::from_str(name)
            .map(Self)
            .map_err(|error| Error::InvalidName { name: name.into(), problem: error.to_string() })
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.0
    }

    /// Host and port of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.resolve_registry()
    }

    /// Registry and repository, without tag and digest: what credentials are for.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }

    /// The same image, asked of `address` if its registry is on loopback. The name stays.
    pub(crate) fn with_loopback_at(self, address: IpAddr) -> Self {
        if !self.is_loopback() {
            return self;
        }
        let port = self.0.registry().rsplit_once(':').map(|(_, port)| port.to_owned());
        let mut reference = self.0;
        reference.set_mirror_registry(match port {
            Some(port) => format!("{address}:{port}"),
            None => address.to_string(),
        });
        Self(reference)
    }

    /// Whether the registry is on this machine, and so spoken to without TLS.
    pub(crate) fn is_loopback(&self) -> bool {
        let registry = self.0.registry();
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_docker_hub_s() {
        let full = |name| Name::parse(name).unwrap().to_string();
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("me/app:1"), "docker.io/me/app:1");
        assert_eq!(full("localhost:5000/app"), "localhost:5000/app:latest");
    }

    #[test]
    fn loopback_may_be_elsewhere_and_keeps_its_name() {
        let moved = |name| Name::parse(name).unwrap().with_loopback_at([10, 0, 2, 2].into());
        let local = moved("127.0.0.1:5000/a:1");
        assert_eq!(local.registry(), "10.0.2.2:5000");
        assert_eq!(local.to_string(), "127.0.0.1:5000/a:1");
        assert!(local.is_loopback());
        assert_eq!(moved("example.com/a").registry(), "example.com");
    }

    #[test]
    fn illegal_names_are_refused() {
        for name in ["", "UPPER", "a b", "x:y:z", "../etc", "-"] {
            let error = Name::parse(name).unwrap_err();
            assert_eq!(error.reason(), crate::Reason::InvalidImageName, "{name}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |name| Name::parse(name).unwrap().is_loopback();
        assert!(loopback("localhost/a") && loopback("localhost:5000/a"));
        assert!(loopback("127.0.0.2:5000/a"));
        assert!(!loopback("a") && !loopback("10.0.0.1:5000/a") && !loopback("localhost.example/a"));
    }
}
