//! Ranges of IPv4 addresses, from which Services get theirs.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network of 4 to 2^20 addresses: a prefix of 12 to 30 bits. The first address names the
/// network and the last is its broadcast; neither is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Range {
    network: Ipv4Addr,
    length: u8,
}

/// The text is no such range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network of IPv4 addresses with a prefix of 12 to 30 bits, as 10.96.0.0/12 is"
)]
pub struct RangeError(String);

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let bad = || RangeError(text.into());
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network: Ipv4Addr = network.parse().map_err(|_| bad())?;
        let range = match prefix.parse::<u8>() {
            Ok(length @ 12..=30) if length.to_string() == prefix => Self { network, length },
            _ => return Err(bad()),
        };
        // The bits after the prefix are zero.
        if u32::from(network) & (range.addresses() - 1) == 0 { Ok(range) } else { Err(bad()) }
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl Ipv4Range {
    const fn addresses(self) -> u32 {
        1 << (32 - self.length)
    }

    /// How many addresses can be given away.
    #[must_use]
    pub const fn size(self) -> u32 {
        self.addresses() - 2
    }

    /// The `index`th address that can be given away, from 0 on.
    #[must_use]
    pub fn nth(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).wrapping_add(index).wrapping_add(1))
    }

    /// Whether `address` is one of those that can be given away.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        (1..=self.size()).contains(&offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range: Ipv4Range = "10.96.0.0/12".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/12");
        assert_eq!(range.size(), (1 << 20) - 2);
        assert_eq!(range.nth(0), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(range.nth(range.size() - 1), Ipv4Addr::new(10, 111, 255, 254));
        assert!(range.contains(range.nth(0)) && range.contains(range.nth(range.size() - 1)));
        for outside in ["10.96.0.0", "10.111.255.255", "10.95.255.255", "10.112.0.1", "0.0.0.0"] {
            assert!(!range.contains(outside.parse().unwrap()), "{outside}");
        }
        for bad in [
            "",
            "10.96.0.0",
            "10.96.0.1/12",
            "10.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.0/+12",
            "x/12",
            "fd00::/20",
            "10.96.0.0/012",
        ] {
            assert!(bad.parse::<Ipv4Range>().is_err(), "{bad}");
        }
    }
}
