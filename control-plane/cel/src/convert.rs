//! Texts of times and numbers.

use std::fmt::Write as _;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::eval::EvalError;
use crate::value::Result;

/// The time that an RFC 3339 text says.
pub(crate) fn timestamp(text: &str) -> Result<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| EvalError::failed(format!("\"{text}\" is not an RFC 3339 timestamp")))
}

/// The length of time that a text such as `1h30m`, `-1.5s` or `10ms` says.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    parse_duration(text)
        .ok_or_else(|| EvalError::failed(format!("\"{text}\" is not a duration such as 1h30m")))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(15)];
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?.checked_add(part * unit / scale)?;
        rest = after;
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(Duration::nanoseconds(nanos))
}

/// As CEL writes lengths of time: seconds, `1.5s`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let (seconds, nanos) = (duration.whole_seconds(), duration.subsec_nanoseconds());
    let sign = if duration.is_negative() { "-" } else { "" };
    let mut text = format!("{sign}{}", seconds.unsigned_abs());
    if nanos != 0 {
        let fraction = format!("{:09}", nanos.unsigned_abs());
        let _ = write!(text, ".{}", fraction.trim_end_matches('0'));
    }
    text.push('s');
    text
}

/// As CEL writes times: RFC 3339.
pub(crate) fn timestamp_text(time: OffsetDateTime) -> Result<String> {
    let failed = |_| EvalError::failed("the timestamp is out of range");
    time.to_offset(time::UtcOffset::UTC).format(&Rfc3339).map_err(failed)
}

/// As Go writes floats: the shortest text that reads as the same.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{value}")
}

/// The whole part of a float; `None` if an integer cannot be that.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
pub(crate) fn float_to_int(value: f64) -> Option<i64> {
    // 2^63 is exact, and one more than the largest.
    let limit = 9_223_372_036_854_775_808.0;
    (value >= -limit && value < limit).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1h30m", "5400s"),
            ("-1.5s", "-1.5s"),
            ("10ms", "0.01s"),
            ("0", "0s"),
            ("1us", "0.000001s"),
        ] {
            assert_eq!(duration_text(duration(text).unwrap()), expected, "{text}");
        }
        for wrong in ["", "1", "h", "1x", "-", "..s", "1.2.3s", "99999999999999999999h", "1h-1m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn floats() {
        for (value, expected) in [(1.5, "1.5"), (1e30, "1e+30"), (1.0, "1"), (1e-7, "1e-07")] {
            assert_eq!(double_text(value), expected);
        }
        assert_eq!(float_to_int(-9_223_372_036_854_775_808.0), Some(i64::MIN));
        assert_eq!((float_to_int(1e19), float_to_int(f64::NAN)), (None, None));
    }
}
