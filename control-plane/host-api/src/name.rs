//! Names of clusters.

use std::fmt;
use std::str::FromStr;

/// Nodes are called `NAME-1`, `NAME-2` …, which have to stay DNS labels.
const MAX_LENGTH: usize = 40;

/// A cluster's name: a DNS label of at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName(String);

/// A text is not a cluster's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cluster's name is 1 to {MAX_LENGTH} of a-z, 0-9 and '-', with a letter or digit at both ends"
)]
pub struct IllegalName;

impl ClusterName {
    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that nothing else has: `run-` and 48 random bits.
    #[must_use]
    pub fn throw_away() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        // Each state is keyed from the system's randomness.
        let random = std::hash::RandomState::new().build_hasher().finish();
        Self(format!("run-{:012x}", random & 0xffff_ffff_ffff))
    }

    /// The name of the node with this index.
    #[must_use]
    pub fn node(&self, index: u32) -> String {
        format!("{}-{index}", self.0)
    }
}

impl FromStr for ClusterName {
    type Err = IllegalName;

    fn from_str(text: &str) -> Result<Self, IllegalName> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let legal = (1..=MAX_LENGTH).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if legal { Ok(Self(text.to_owned())) } else { Err(IllegalName) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_of_forty_at_most() {
        for good in ["a", "demo", "x-1", "0", &"a".repeat(40)] {
            assert_eq!(good.parse::<ClusterName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "../x", "ä", &"a".repeat(41)] {
            assert_eq!(bad.parse::<ClusterName>(), Err(IllegalName), "{bad:?}");
        }
    }

    #[test]
    fn throw_away_names_are_legal_and_differ() {
        let (one, two) = (ClusterName::throw_away(), ClusterName::throw_away());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse(), Ok(one));
    }

    #[test]
    fn a_nodes_name_has_its_number() {
        assert_eq!("demo".parse::<ClusterName>().unwrap().node(3), "demo-3");
    }
}
