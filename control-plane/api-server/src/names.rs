//! The names that Kubernetes allows: DNS labels and subdomains, RFC 1123; and how it orders those of
//! versions.

use std::cmp::Ordering;

/// How the names of a kind must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// At most 63 of `a-z0-9-`, alphanumeric at both ends.
    Label,
    /// A label that begins with a letter, RFC 1035.
    Rfc1035Label,
    /// Labels joined by dots, at most 253 characters.
    Subdomain,
    /// Whatever can be one segment of a path.
    PathSegment,
}

/// What is said of a text that is no [label](is_label).
pub const NO_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character";
const RFC_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters \
    or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. \
    'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character";

impl NameRule {
    /// Why `name` is not such a name.
    #[must_use]
    pub fn violation(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Label | Self::Rfc1035Label if name.len() > 63 => {
                Some("must be no more than 63 characters")
            }
            Self::Label if !is_label(name) => Some(NO_LABEL),
            Self::Rfc1035Label
                if !is_label(name)
                    || !name.starts_with(|first: char| first.is_ascii_lowercase()) =>
            {
                Some(RFC_1035_LABEL)
            }
            Self::Subdomain if name.len() > 253 => Some("must be no more than 253 characters"),
            Self::Subdomain if !name.split('.').all(is_part) => Some(SUBDOMAIN),
            Self::PathSegment if matches!(name, "" | "." | "..") => {
                Some("may not be empty, '.' or '..'")
            }
            Self::PathSegment if name.contains(['/', '%']) => Some("may not contain '/' or '%'"),
            Self::Label | Self::Rfc1035Label | Self::Subdomain | Self::PathSegment => None,
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

/// What is said of a text that is not [such a key](is_qualified).
pub const NO_QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character";

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

/// Why `name` cannot be the name of a port, by which others refer to it.
#[must_use]
pub fn port_name_violation(name: &str) -> Option<&'static str> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > 15 {
        Some("must be no more than 15 characters")
    } else if name.is_empty() || !name.bytes().all(inner) {
        Some(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), and not be empty",
        )
    } else if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("must not begin or end with a hyphen")
    } else {
        None
    }
}

/// The parts of a version that is of Kubernetes' form: its number, its stage (alpha, beta and then
/// neither), and that stage's number.
fn version(name: &str) -> Option<(u64, u8, u64)> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let name = name.strip_prefix('v')?;
    for (stage, rank) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = name.split_once(stage) {
            return Some((number(major)?, rank, number(minor)?));
        }
    }
    Some((number(name)?, 2, 0))
}

/// The order in which clients prefer versions: stable ones before beta before alpha, of each the
/// newest first; then what is not of that form, by the alphabet.
/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#version-priority>
#[must_use]
pub fn compare_versions(one: &str, other: &str) -> Ordering {
    match (version(one), version(other)) {
        (Some((major, stage, minor)), Some(than)) => {
            (than.1, than.0, than.2).cmp(&(stage, major, minor))
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// Why `key` cannot be a key of a ConfigMap or Secret, which may become a file's name.
#[must_use]
pub fn config_key_violation(key: &str) -> Option<&'static str> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if key.len() > 253 {
        Some("must be no more than 253 characters")
    } else if key.is_empty() || !key.bytes().all(inner) {
        Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        )
    } else if key == "." {
        Some("must not be '.'")
    } else if key == ".." {
        Some("must not be '..'")
    } else if key.starts_with("..") {
        Some("must not start with '..'")
    } else {
        None
    }
}

/// What is said of a text that is not [one of addresses](is_cidr).
pub const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Whether `text` is a range of addresses: an address and the length of its prefix in bits.
#[must_use]
pub fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    digits && length.parse::<u8>().is_ok_and(|length| length <= most)
}

/// What is said of a text that is no [label's value](is_label_value).
pub const NO_LABEL_VALUE: &str = "a valid label must be an empty string or consist of at most 63 \
    alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

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
    fn versions_are_ordered_as_clients_prefer_them() {
        let sorted = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
            "v1gamma1",
        ];
        let mut versions = sorted;
        versions.reverse();
        versions.sort_by(|one, other| compare_versions(one, other));
        assert_eq!(versions, sorted);
    }

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
        assert_eq!(NameRule::Rfc1035Label.violation("a-1"), None);
        assert!(NameRule::Rfc1035Label.violation("1-a").is_some());
        for good in ["http", "a1", "1a"] {
            assert_eq!(port_name_violation(good), None, "{good}");
        }
        for bad in ["", "80", "a--b", "-a", "Http", "sixteen-letters-"] {
            assert!(port_name_violation(bad).is_some(), "{bad}");
        }
        assert!(NameRule::Label.violation("a.b").is_some());
        for good in ["a", ".dockerconfigjson", "A_b-c.d", "..."] {
            assert_eq!(config_key_violation(good).is_some(), good == "...", "{good}");
        }
        for bad in ["", "a b", "a/b", ".", "..", "..a", &"a".repeat(254)] {
            assert!(config_key_violation(bad).is_some(), "{bad}");
        }
        assert!(NameRule::Label.violation(&"a".repeat(64)).is_some());
    }

    #[test]
    fn ranges_of_addresses() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/64"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "/8", "x/8"] {
            assert!(!is_cidr(bad), "{bad}");
        }
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
