//! The names that Kubernetes allows: DNS labels and subdomains, RFC 1123.

/// How the names of a kind must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// At most 63 of `a-z0-9-`, alphanumeric at both ends.
    Label,
    /// Labels joined by dots, at most 253 characters.
    Subdomain,
    /// Whatever can be one segment of a path.
    PathSegment,
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character";

impl NameRule {
    /// Why `name` is not such a name.
    #[must_use]
    pub fn violation(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Label if name.len() > 63 => Some("must be no more than 63 characters"),
            Self::Label if !is_label(name) => Some(LABEL),
            Self::Subdomain if name.len() > 253 => Some("must be no more than 253 characters"),
            Self::Subdomain if !name.split('.').all(is_part) => Some(SUBDOMAIN),
            Self::PathSegment if matches!(name, "" | "." | "..") => {
                Some("may not be empty, '.' or '..'")
            }
            Self::PathSegment if name.contains(['/', '%']) => Some("may not contain '/' or '%'"),
            Self::Label | Self::Subdomain | Self::PathSegment => None,
        }
    }
}

/// Whether `name` is a DNS label.
#[must_use]
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

fn is_part(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

/// Whether `key` can be a label's or annotation's key: an optional subdomain and `/`, then at most
/// 63 of alphanumerics, `-`, `_` and `.`, alphanumeric at both ends.
#[must_use]
pub fn is_qualified(key: &str) -> bool {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if NameRule::Subdomain.violation(prefix).is_some() {
                return false;
            }
            name
        }
        None => key,
    };
    !name.is_empty() && is_label_value(name)
}

/// Whether `value` can be a label's value.
#[must_use]
pub fn is_label_value(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    value.len() <= 63
        && value.bytes().all(inner)
        && end(value.bytes().next())
        && end(value.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-1", "0", "a.b-c.d"] {
            assert_eq!(NameRule::Subdomain.violation(good), None, "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a/b", "ä"] {
            assert!(NameRule::Subdomain.violation(bad).is_some(), "{bad}");
        }
        assert_eq!(NameRule::PathSegment.violation("system:aggregate-to-view"), None);
        for bad in ["", "..", "a/b", "a%2f"] {
            assert!(NameRule::PathSegment.violation(bad).is_some(), "{bad}");
        }
        assert!(NameRule::Label.violation("a.b").is_some());
        assert!(NameRule::Label.violation(&"a".repeat(64)).is_some());
    }

    #[test]
    fn labels() {
        for good in ["app", "kubernetes.io/hostname", "A_b.c"] {
            assert!(is_qualified(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "A.b/c d"] {
            assert!(!is_qualified(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("a") && !is_label_value("a "));
    }
}
