//! The formats of texts that a structural schema can ask for, as apiextensions-apiserver has them.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation>
//!
//! A format that is not among them says something to people only, there as here.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex::Regex;

use crate::names::{self, NameRule};
use crate::object;

/// A pattern of a format. They are constants, and known to compile.
type Pattern = LazyLock<Option<Regex>>;

macro_rules! pattern {
    ($name:ident, $pattern:literal) => {
        static $name: Pattern = LazyLock::new(|| Regex::new($pattern).ok());
    };
}

pattern!(BSON_ID, "^[0-9a-fA-F]{24}$");
pattern!(
    COLOR,
    r"^rgb\(\s*(?:(?:0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*){2}(?:0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
);
pattern!(HEX_COLOR, "^#?(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
// As Go reads one.
pattern!(DURATION, r"^[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$");
// As people write one.
pattern!(
    LONG_DURATION,
    r"(?i)\d+\s*(?:ns|nano|us|µs|micro|ms|milli|s\b|sec|m\b|min|h\b|hr|hour|d\b|day|w\b|wk|week)"
);
pattern!(
    EMAIL,
    r"^[\p{L}\p{N}!#$%&'*+/=?^_`{|}~-]+(?:\.[\p{L}\p{N}!#$%&'*+/=?^_`{|}~-]+)*@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)*$"
);
pattern!(
    HOST_NAME,
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
);
pattern!(
    MAC,
    r"^(?i)(?:(?:[0-9a-f]{2}:){5}(?:(?:[0-9a-f]{2}:){2}|(?:[0-9a-f]{2}:){14})?[0-9a-f]{2}|(?:[0-9a-f]{2}-){5}(?:(?:[0-9a-f]{2}-){2}|(?:[0-9a-f]{2}-){14})?[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}(?:[0-9a-f]{4}\.|(?:[0-9a-f]{4}\.){7})?[0-9a-f]{4})$"
);
pattern!(SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$");
pattern!(URI_SCHEME, "^[a-zA-Z][a-zA-Z0-9+.-]*:");
pattern!(UUID, "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(UUID3, "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(UUID4, "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$");
pattern!(UUID5, "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$");

/// Whether `text` is of `format`, if that says anything.
pub(super) fn is_of(format: &str, text: &str) -> bool {
    let matches = |pattern: &Pattern| pattern.as_ref().is_none_or(|one| one.is_match(text));
    match format {
        "bsonobjectid" => matches(&BSON_ID),
        "byte" => !text.is_empty() && BASE64.decode(text).is_ok(),
        "cidr" => names::is_cidr(text),
        "creditcard" => is_card(text),
        "date" => text.len() == 10 && object::parse_time(&format!("{text}T00:00:00Z")).is_some(),
        "date-time" | "datetime" => object::parse_time(text).is_some(),
        "duration" => matches(&DURATION) || matches(&LONG_DURATION),
        "email" => matches(&EMAIL),
        "hexcolor" => matches(&HEX_COLOR),
        "hostname" => {
            text.len() <= 255
                && text.split('.').all(|label| label.len() <= 63)
                && matches(&HOST_NAME)
        }
        "ipv4" => is_ipv4(text),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8s-short-name" => names::is_label(text),
        "k8s-long-name" => NameRule::Subdomain.violation(text).is_none(),
        "mac" => matches(&MAC),
        "rgbcolor" => matches(&COLOR),
        "ssn" => matches(&SSN),
        "uri" => is_uri(text, matches(&URI_SCHEME)),
        "uuid" => matches(&UUID),
        "uuid3" => matches(&UUID3),
        "uuid4" => matches(&UUID4),
        "uuid5" => matches(&UUID5),
        _ => true,
    }
}

/// As Go reads one: zeros may lead.
fn is_ipv4(text: &str) -> bool {
    let part = |part: &str| {
        let digits = part.trim_start_matches('0');
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    let parts: Vec<&str> = text.split('.').collect();
    let is_mapped =
        || text.strip_prefix("::ffff:").is_some_and(|rest| rest.parse::<Ipv4Addr>().is_ok());
    (parts.len() == 4 && parts.into_iter().all(part)) || is_mapped()
}

/// A URI with a scheme, or a path from the root.
fn is_uri(text: &str, has_scheme: bool) -> bool {
    let mut rest = text.split('%');
    let before = rest.next().unwrap_or_default();
    let is_escape = |part: &str| {
        part.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    (has_scheme || before.starts_with('/') || text == "*")
        && rest.all(is_escape)
        && !text.chars().any(|c| c.is_ascii_control() || c == ' ')
}

/// The digits of a text, of which dashes and spaces are no part; `None` if there is something else.
fn digits(text: &str) -> Option<Vec<u32>> {
    let digits = text.chars().filter(|c| !matches!(c, '-' | ' '));
    digits.map(|c| c.to_digit(10)).collect()
}

/// By Luhn's sum.
fn is_card(text: &str) -> bool {
    let Some(digits) = digits(text).filter(|digits| (13..=19).contains(&digits.len())) else {
        return false;
    };
    let twice = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let digits = digits.iter().rev().enumerate();
    let sum: u32 = digits.map(|(at, digit)| if at % 2 == 1 { twice(*digit) } else { *digit }).sum();
    sum.is_multiple_of(10)
}

fn is_isbn10(text: &str) -> bool {
    let (body, last) = match text.strip_suffix(['X', 'x']) {
        Some(body) => (body, Some(10)),
        None => (text, None),
    };
    let Some(mut digits) = digits(body) else { return false };
    digits.extend(last);
    let weighted = digits.iter().zip(1..).map(|(digit, weight): (&u32, u32)| digit * weight);
    digits.len() == 10 && weighted.sum::<u32>().is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let Some(digits) = digits(text).filter(|digits| digits.len() == 13) else { return false };
    let weighted = digits.iter().zip([1, 3].into_iter().cycle()).map(|(digit, by)| digit * by);
    weighted.sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_formats() {
        for (format, good, bad) in [
            ("ipv4", &["10.0.0.1", "010.0.0.1"][..], &["10.0.0", "::1", "10.0.0.256", ""][..]),
            ("ipv6", &["::1", "fe80::1"], &["10.0.0.1", "::g", ""]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]),
            ("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23:45:67:89", "x"]),
            (
                "uuid",
                &["123e4567-e89b-12d3-a456-426614174000", "123E4567e89b12d3a456426614174000"],
                &["123e4567", ""],
            ),
            (
                "uuid4",
                &["9d4ff1a0-6a0e-4d3c-9a8f-3b1f0f5d2c11"],
                &["123e4567-e89b-12d3-a456-426614174000"],
            ),
            ("email", &["a.b+c@example.com", "a@b"], &["a", "a@", "@b", "a b@c", "a..b@c"]),
            (
                "uri",
                &["https://example.com/a?b#c", "mailto:a@b", "/path"],
                &["example.com", "", "/a b", "/%zz", "/\n"],
            ),
            ("hostname", &["example.com", "host"], &["-a.com", "a..b", "a_b.com", ""]),
            ("byte", &["aGk=", "aGkh"], &["aGk", "%", ""]),
            ("date", &["2026-02-28"], &["2026-02-30", "2026-2-8", "today", ""]),
            ("date-time", &["2026-02-28T10:00:00Z"], &["2026-02-28", ""]),
            ("duration", &["1h30m", "0", "-1.5s", "3 days", "2 weeks"], &["1", "h", "", "soon"]),
            ("hexcolor", &["#fff", "a0b1c2"], &["#ff", "red"]),
            ("rgbcolor", &["rgb(0, 100, 255)"], &["rgb(0,0)", "rgb(0,0,256)"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("isbn", &["0-306-40615-2", "978-0-306-40615-7", "080442957X"], &["0-306-40615-3"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112", "4"]),
            ("ssn", &["111-22-3333"], &["11-22"]),
            ("k8s-short-name", &["a-b"], &["a.b"]),
            ("k8s-long-name", &["a.b"], &["A"]),
            ("anything", &["", "at all"], &[]),
        ] {
            for text in good {
                assert!(is_of(format, text), "{format}: {text:?}");
            }
            for text in bad {
                assert!(!is_of(format, text), "{format}: {text:?}");
            }
        }
    }
}
