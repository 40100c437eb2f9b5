//! Sizes in bytes as people write them: `256M`, `1.5Gi`, `8G`.
//!
//! Units are powers of 1024 with or without the `i`, as for virtual machines everywhere; a plain
//! number is bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// An amount of memory or disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("{0:?} is not a size such as 256M, 1.5G or a number of bytes")]
    Malformed(String),
    #[error("{0:?} is more than 2^64 bytes")]
    TooLarge(String),
}

const UNITS: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];

impl Size {
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start();
        let shift = match unit.trim_end_matches(['B', 'b']).trim_end_matches('i') {
            "" if unit.is_empty() || unit == "B" => 0,
            letter => UNITS
                .iter()
                .find(|(_, name)| name.eq_ignore_ascii_case(letter))
                .map(|(shift, _)| *shift)
                .ok_or_else(malformed)?,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
            return Err(malformed());
        }
        // Nine digits behind the point are a billionth of the unit: finer than any use.
        if fraction.len() > 9 || fraction.contains('.') {
            return Err(malformed());
        }
        let too_large = || SizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let part: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| malformed())? };
        let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
        let bytes = (u128::from(whole) << shift) + (part << shift) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, name) in UNITS {
            let unit = 1_u64 << shift;
            if self.0 >= unit {
                if self.0.is_multiple_of(unit) {
                    return write!(f, "{}{name}", self.0 >> shift);
                }
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(f, "{}.{}{name}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 256M")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::custom(SizeError::Malformed(bytes.to_string())))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_usual_form() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("100B", 100),
            ("1k", 1 << 10),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("256 MB", 256 << 20),
            ("1.5Gi", 3 << 29),
            ("8g", 8 << 30),
            ("4T", 4 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "M", "-1", "1.", ".5G", "1..5G", "12Q", "256Mx", "i", "1iB", "1e3", "b"] {
            assert!(matches!(bad.parse::<Size>(), Err(SizeError::Malformed(_))), "{bad:?}");
        }
        for bad in ["18446744073709551616", "16777216T"] {
            assert!(matches!(bad.parse::<Size>(), Err(SizeError::TooLarge(_))), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (256 << 20, "256M"), (3 << 29, "1.5G"), (8 << 30, "8G")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
