//! Kubernetes resource quantities (`100m`, `1.5Gi`, `2e3`), as `resource.Quantity` reads them.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>. What is
//! finer than a nano-unit is rounded up, as there. Amounts of a resource are never negative, so a
//! sign of `-` is refused.

use std::{fmt, str::FromStr};

use serde_json::Value;

const NANO: u128 = 1_000_000_000;

/// An amount of a resource, exact to a billionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nano: u128,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not match the grammar.
    #[error("{0:?} is not a quantity such as 500m, 2 or 1.5Gi")]
    Malformed(String),
    /// It is negative.
    #[error("{0:?}: a resource cannot be negative")]
    Negative(String),
    /// It is over 2^63 − 1 units.
    #[error("{0:?} is over the largest quantity, 2^63 - 1")]
    TooLarge(String),
}

impl Quantity {
    /// So many whole units (CPUs, bytes, pods).
    #[must_use]
    pub const fn units(units: u64) -> Self {
        Self { nano: units as u128 * NANO }
    }

    /// So many thousandths.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self { nano: millis as u128 * (NANO / 1000) }
    }

    /// A quantity as it stands in an object: a JSON string or number.
    ///
    /// # Errors
    /// As parsing; anything but a string or number is malformed.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            other => Err(QuantityError::Malformed(other.to_string())),
        }
    }

    /// In whole units, rounded up: bytes, pods.
    #[must_use]
    pub fn value(self) -> u64 {
        u64::try_from(self.nano.div_ceil(NANO)).unwrap_or(u64::MAX)
    }

    /// In thousandths, rounded up: milli-CPUs.
    #[must_use]
    pub fn milli_value(self) -> u64 {
        u64::try_from(self.nano.div_ceil(NANO / 1000)).unwrap_or(u64::MAX)
    }

    /// In billionths, exactly.
    #[must_use]
    pub const fn nano(self) -> u128 {
        self.nano
    }

    /// How many times `unit` it is, rounded up; 0 of a unit that is nothing.
    #[must_use]
    pub fn in_units_of(self, unit: Self) -> u64 {
        let times = self.nano.checked_div(unit.nano).map(|_| self.nano.div_ceil(unit.nano));
        times.map_or(0, |times| u64::try_from(times).unwrap_or(u64::MAX))
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self { nano: self.nano.saturating_add(more.nano) }
    }

    /// What is left without `less`; nothing if that is more.
    #[must_use]
    pub const fn minus(self, less: Self) -> Self {
        Self { nano: self.nano.saturating_sub(less.nano) }
    }

    /// So many times as much, as another amount says.
    #[must_use]
    pub fn times(self, factor: Self) -> Self {
        let whole = self.nano / NANO;
        let rest = self.nano % NANO;
        let nano = whole.saturating_mul(factor.nano);
        Self { nano: nano.saturating_add(rest.saturating_mul(factor.nano) / NANO) }
    }

    /// How many times `part` it is, as nearly as a float tells.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
    pub fn ratio_to(self, part: Self) -> f64 {
        self.nano as f64 / part.nano as f64
    }

    /// As an amount of bytes is written: with the largest suffix (`Ki` to `Ei`) that leaves it
    /// whole.
    #[must_use]
    pub fn to_binary(self) -> String {
        let whole = self.nano.is_multiple_of(NANO).then_some(self.nano / NANO);
        let suffixes = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"];
        let of = |value: u128| {
            suffixes.iter().zip((1..=6u32).rev()).find_map(|(suffix, power)| {
                let unit = 1u128 << (10 * power);
                value.is_multiple_of(unit).then(|| format!("{}{suffix}", value / unit))
            })
        };
        whole.filter(|value| *value > 0).and_then(of).unwrap_or_else(|| self.to_string())
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nano == 0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano.is_multiple_of(NANO) {
            write!(f, "{}", self.nano / NANO)
        } else if self.nano.is_multiple_of(NANO / 1000) {
            write!(f, "{}m", self.nano / (NANO / 1000))
        } else {
            write!(f, "{}n", self.nano)
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.to_owned());
        if text.len() > 64 {
            return Err(malformed());
        }
        if text.starts_with('-') {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let number_len =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(malformed());
        }
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let digits = format!("{whole}{fraction}");
        let mantissa = match digits.trim_start_matches('0') {
            "" => 0,
            digits => digits.parse::<u128>().map_err(|_| too_large())?,
        };
        let point = i32::try_from(fraction.len()).map_err(|_| malformed())?;
        let (multiplier, exponent) = scale(suffix).ok_or_else(malformed)?;
        let scaled = mantissa.checked_mul(multiplier).ok_or_else(too_large)?;
        let nano = shift(scaled, exponent + 9 - point).ok_or_else(too_large)?;
        if nano > i64::MAX as u128 * NANO {
            return Err(too_large());
        }
        Ok(Self { nano })
    }
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let exponent: i32 = digits.parse().ok()?;
            (1, exponent.clamp(-1000, 1000))
        }
    })
}

/// `value · 10^exponent`, rounded up; `None` when it does not fit.
fn shift(value: u128, exponent: i32) -> Option<u128> {
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    if value == 0 {
        Some(0)
    } else if exponent >= 0 {
        value.checked_mul(power?)
    } else {
        Some(power.map_or(1, |power| value.div_ceil(power)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_suffix_has_its_factor() {
        for (text, units) in [
            ("0", 0),
            ("12", 12),
            ("+3", 3),
            ("1k", 1000),
            ("1.5G", 1_500_000_000),
            ("1Ki", 1024),
            ("1.5Gi", 3 << 29),
            ("2e3", 2000),
            ("2E3", 2000),
            ("12E-1", 2),
            ("7Ei", 7 << 60),
            (".5Mi", 1 << 19),
            ("5.", 5),
        ] {
            assert_eq!(parse(text).value(), units, "{text}");
        }
    }

    #[test]
    fn fractions_round_up_to_the_unit_asked_for() {
        assert_eq!(parse("100m").milli_value(), 100);
        assert_eq!(parse("100m").value(), 1);
        assert_eq!(parse("0.1").milli_value(), 100);
        assert_eq!(parse("1u").milli_value(), 1);
        assert_eq!(parse("0.00000000001"), parse("1n"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", ".", "Gi", "1.2.3", "1 Gi", "1gi", "0x10", "1e", "1e1.5", "NaN"] {
            assert!(matches!(text.parse::<Quantity>(), Err(QuantityError::Malformed(_))), "{text}");
        }
        assert!(matches!("-1".parse::<Quantity>(), Err(QuantityError::Negative(_))));
        for text in ["8Ei", "1e30", "99999999999999999999999999999999999999999"] {
            assert!(matches!(text.parse::<Quantity>(), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn sums_and_bytes() {
        assert_eq!(parse("100m").plus(parse("1900m")), parse("2"));
        assert_eq!(parse("2").minus(parse("500m")), parse("1500m"));
        assert_eq!(parse("1").minus(parse("2")), parse("0"));
        assert_eq!(parse("1500m").times(parse("2500m")), parse("3750m"));
        assert!((parse("3").ratio_to(parse("1500m")) - 2.0).abs() < 1e-9);
        for text in ["1536Mi", "1Gi", "8Ki", "1000", "0", "500m"] {
            assert_eq!(parse(text).to_binary(), text);
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["1500m", "2", "3n"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(Quantity::from_json(&serde_json::json!(2)).unwrap(), Quantity::units(2));
        assert_eq!(Quantity::from_json(&serde_json::json!(0.5)).unwrap(), Quantity::millis(500));
    }
}
