//! What a path calls the object that is proxied to: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    /// Its certificate is not verified: nothing here says who it ought to be.
    Https,
}

impl Scheme {
    /// The port if none is named.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Such a name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) scheme: Scheme,
    pub(super) name: String,
    /// A number, or the name of a service's port.
    pub(super) port: Option<String>,
}

impl Name {
    /// Parses it; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let port = (!port.is_empty()).then(|| port.to_owned());
        (!name.is_empty()).then(|| Self { scheme, name: name.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart() {
        let name = |text| Name::parse(text).map(|name| (name.scheme, name.name, name.port));
        let expected = |scheme, port: Option<&str>| {
            Some((scheme, "web".to_owned(), port.map(ToOwned::to_owned)))
        };
        assert_eq!(name("web"), expected(Scheme::Http, None));
        assert_eq!(name("web:8080"), expected(Scheme::Http, Some("8080")));
        assert_eq!(name("https:web:admin"), expected(Scheme::Https, Some("admin")));
        assert_eq!(name("https:web:"), expected(Scheme::Https, None));
        for wrong in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }
}
