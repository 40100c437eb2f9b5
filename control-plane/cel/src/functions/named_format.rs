//! Named formats of Kubernetes.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-format-library>

use base64::Engine as _;

use crate::budget::Budget;
use crate::overload::{Declared, mismatch};
use crate::value::{Opaque, Result, Value};

/// Why a text is not of a format.
type Check = fn(&str) -> Option<&'static str>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |c: char| c != '-';
    !text.is_empty() && text.bytes().all(inner) && text.starts_with(edge) && text.ends_with(edge)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_label_value(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= 63
            && text.bytes().all(inner)
            && text.starts_with(edge)
            && text.ends_with(edge)
}

fn is_qualified(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(a, b)| (Some(a), b));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match dashes.contains(&index) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}

fn is_date(text: &str) -> bool {
    let format = time::format_description::parse_borrowed::<2>("[year]-[month]-[day]");
    format.is_ok_and(|format| time::Date::parse(text, &format).is_ok())
}

fn unless(holds: bool, why: &'static str) -> Option<&'static str> {
    (!holds).then_some(why)
}

const FORMATS: &[(&str, Check)] = &[
    ("dns1123Label", |text| unless(is_label(text), LABEL)),
    ("dns1123Subdomain", |text| unless(is_subdomain(text), SUBDOMAIN)),
    ("dns1035Label", |text| {
        let alphabetic = text.starts_with(|c: char| c.is_ascii_lowercase());
        unless(is_label(text) && alphabetic, LABEL_1035)
    }),
    ("dns1123LabelPrefix", |text| unless(is_label(text.trim_end_matches('-')), LABEL)),
    ("dns1123SubdomainPrefix", |text| unless(is_subdomain(text.trim_end_matches('-')), SUBDOMAIN)),
    ("dns1035LabelPrefix", |text| {
        let alphabetic = text.starts_with(|c: char| c.is_ascii_lowercase());
        unless(is_label(text.trim_end_matches('-')) && alphabetic, LABEL_1035)
    }),
    ("qualifiedName", |text| unless(is_qualified(text), QUALIFIED)),
    ("labelValue", |text| unless(is_label_value(text), LABEL_VALUE)),
    ("uri", |text| unless(super::url::is_url(text), "must be an absolute URI or a path")),
    ("uuid", |text| unless(is_uuid(text), "does not match the UUID format")),
    ("byte", |text| {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        unless(decoded.is_ok(), "invalid base64")
    }),
    ("date", |text| unless(is_date(text), "invalid date")),
    ("datetime", |text| unless(crate::convert::timestamp(text).is_ok(), "invalid datetime")),
];

fn named<'a>(name: &str) -> Value<'a> {
    match FORMATS.iter().find(|(one, _)| *one == name) {
        Some((name, _)) => Value::opaque(Opaque::Format(name)),
        None => Value::Null,
    }
}

fn validate<'a>(name: &str, text: &str, budget: &Budget) -> Result<Value<'a>> {
    budget.bytes(text.len())?;
    let Some((_, check)) = FORMATS.iter().find(|(one, _)| *one == name) else { return mismatch() };
    Ok(match check(text) {
        Some(why) => Value::some(Value::list(vec![Value::text(why)])),
        None => Value::Optional(None),
    })
}

macro_rules! formats {
    ($($function:literal => $name:literal),+) => {
        &[
            $(Declared::global($function, "", "format", |_, _| Ok(named($name))),)+
            Declared::global("format.named", "string", "optional<format>", |a, _| match a {
                [Value::String(name)] => Ok(match named(name) {
                    Value::Null => Value::Optional(None),
                    format => Value::some(format),
                }),
                _ => mismatch(),
            }),
            Declared::member("validate", "format, string", "optional<list<string>>", |a, budget| {
                match a {
                    [Value::Opaque(format), Value::String(text)] => match **format {
                        Opaque::Format(name) => validate(name, text, budget),
                        _ => mismatch(),
                    },
                    _ => mismatch(),
                }
            }),
        ]
    };
}

pub(super) const FUNCTIONS: &[Declared] = formats!(
    "format.dns1123Label" => "dns1123Label",
    "format.dns1123Subdomain" => "dns1123Subdomain",
    "format.dns1035Label" => "dns1035Label",
    "format.dns1123LabelPrefix" => "dns1123LabelPrefix",
    "format.dns1123SubdomainPrefix" => "dns1123SubdomainPrefix",
    "format.dns1035LabelPrefix" => "dns1035LabelPrefix",
    "format.qualifiedName" => "qualifiedName",
    "format.labelValue" => "labelValue",
    "format.uri" => "uri",
    "format.uuid" => "uuid",
    "format.byte" => "byte",
    "format.date" => "date",
    "format.datetime" => "datetime"
);
