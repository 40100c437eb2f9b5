//! Kubernetes' quantities: `100m`, `1.5`, `256Mi`, `1e3`.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

use std::iter::Sum;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// An amount, exact to a billionth; what is finer is rounded up, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity {
    nanos: i128,
}

/// The text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity such as 500m, 2 or 64Mi")]
pub struct ParseQuantityError;

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// The whole amount.
    #[must_use]
    pub const fn whole(amount: i64) -> Self {
        Self { nanos: amount as i128 * NANO }
    }

    /// How much of `all` this is, 0 to 1; 1 of nothing.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a score needs no exactness")]
    pub fn share_of(self, all: Self) -> f64 {
        if all.nanos <= 0 { 1.0 } else { (self.nanos as f64 / all.nanos as f64).clamp(0.0, 1.0) }
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos) }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (sign, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        // More digits than this is more than any unit can need, and would not fit.
        if whole.len() > 19 || fraction.len() > 18 {
            return Err(ParseQuantityError);
        }
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| ParseQuantityError)?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| ParseQuantityError)?);
        let (numerator, denominator) = unit(suffix).ok_or(ParseQuantityError)?;
        let scaled = digits.checked_mul(numerator).ok_or(ParseQuantityError)?;
        let divisor = scale.checked_mul(denominator).ok_or(ParseQuantityError)?;
        let rounded_up = scaled / divisor + i128::from(scaled % divisor != 0);
        Ok(Self { nanos: sign * rounded_up })
    }
}

/// A suffix as a fraction of billionths.
fn unit(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((NANO << (10 * power), 1));
    match suffix {
        "Ki" => return binary(1),
        "Mi" => return binary(2),
        "Gi" => return binary(3),
        "Ti" => return binary(4),
        "Pi" => return binary(5),
        "Ei" => return binary(6),
        _ => {}
    }
    let exponent: i32 = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        exponent => exponent.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    let power = exponent.checked_add(9)?;
    let amount = |power: u32| (power <= 27).then(|| 10_i128.pow(power));
    match u32::try_from(power) {
        Ok(power) => Some((amount(power)?, 1)),
        Err(_) => Some((1, amount(power.unsigned_abs())?)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_same_amount_in_other_words() {
        for (one, other) in [
            ("1", "1000m"),
            ("0.5", "500m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("1k", "1e3"),
            ("1E3", "1000"),
            ("1E", "1000P"),
            (".5", "500m"),
            ("5.", "5"),
            ("100e-2", "1"),
            ("+2", "2"),
            ("1e-12", "1n"),
        ] {
            assert_eq!(parse(one), parse(other), "{one} = {other}");
        }
        assert!(parse("-1") < parse("0") && parse("128Mi") < parse("1Gi"));
    }

    #[test]
    fn what_is_no_quantity() {
        for bad in ["", "x", "1x", "1 Gi", "1.2.3", ".", "--1", "1e", "1e99", "1KiB", "Mi", "1ee3"]
        {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+0-9.eEinumkKMGTPx]{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
