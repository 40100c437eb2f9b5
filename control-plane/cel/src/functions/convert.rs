//! Conversions.

use ::time::OffsetDateTime;

use crate::budget::Budget;
use crate::convert::{
    double_text, duration, duration_text, float_to_int, timestamp, timestamp_text,
};
use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Opaque, Result, Text, Value};

/// A value as a text; `None` of those that have none.
pub(crate) fn text_of(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        Value::String(text) | Value::Type(text) => text.to_string(),
        Value::Pattern(pattern) => pattern.to_string(),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        Value::Timestamp(time) => timestamp_text(*time).ok()?,
        Value::Duration(duration) => duration_text(*duration),
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(ip, length) => format!("{ip}/{length}"),
            _ => return None,
        },
        Value::List(_) | Value::Map(_) | Value::Object(..) | Value::Optional(_) => return None,
    })
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| EvalError::failed(format!("\"{text}\" is not of type {what}")))
}

fn range<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| EvalError::failed("range error"))
}

/// What is of the type already.
fn same<'a>(arguments: &[Value<'a>], _: &Budget) -> Result<Value<'a>> {
    arguments.first().cloned().map_or_else(mismatch, Ok)
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("int", "int", "int", same),
    Declared::global("int", "uint", "int", |a, _| match a {
        [Value::Uint(value)] => Ok(Value::Int(range(i64::try_from(*value).ok())?)),
        _ => mismatch(),
    }),
    Declared::global("int", "double", "int", |a, _| match a {
        [Value::Double(value)] => Ok(Value::Int(range(float_to_int(*value))?)),
        _ => mismatch(),
    }),
    Declared::global("int", "string", "int", |a, _| match a {
        [Value::String(text)] => Ok(Value::Int(number(text, "int")?)),
        _ => mismatch(),
    }),
    Declared::global("int", "timestamp", "int", |a, _| match a {
        [Value::Timestamp(time)] => Ok(Value::Int(time.unix_timestamp())),
        _ => mismatch(),
    }),
    Declared::global("int", "duration", "int", |a, _| match a {
        [Value::Duration(duration)] => {
            Ok(Value::Int(range(i64::try_from(duration.whole_nanoseconds()).ok())?))
        }
        _ => mismatch(),
    }),
    Declared::global("uint", "uint", "uint", same),
    Declared::global("uint", "int", "uint", |a, _| match a {
        [Value::Int(value)] => Ok(Value::Uint(range(u64::try_from(*value).ok())?)),
        _ => mismatch(),
    }),
    Declared::global("uint", "double", "uint", |a, _| match a {
        [Value::Double(value)] => {
            let whole = float_to_int(*value).and_then(|value| u64::try_from(value).ok());
            Ok(Value::Uint(range(whole)?))
        }
        _ => mismatch(),
    }),
    Declared::global("uint", "string", "uint", |a, _| match a {
        [Value::String(text)] => Ok(Value::Uint(number(text, "uint")?)),
        _ => mismatch(),
    }),
    Declared::global("double", "double", "double", same),
    #[expect(clippy::cast_precision_loss, reason = "as CEL converts")]
    Declared::global("double", "int", "double", |a, _| match a {
        [Value::Int(value)] => Ok(Value::Double(*value as f64)),
        _ => mismatch(),
    }),
    #[expect(clippy::cast_precision_loss, reason = "as CEL converts")]
    Declared::global("double", "uint", "double", |a, _| match a {
        [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
        _ => mismatch(),
    }),
    Declared::global("double", "string", "double", |a, _| match a {
        [Value::String(text)] => Ok(Value::Double(number(text, "double")?)),
        _ => mismatch(),
    }),
    Declared::global("bool", "bool", "bool", same),
    Declared::global("bool", "string", "bool", |a, _| match a {
        [Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::failed(format!("\"{other}\" is not of type bool"))),
        },
        _ => mismatch(),
    }),
    Declared::global("bytes", "bytes", "bytes", same),
    Declared::global("bytes", "string", "bytes", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => mismatch(),
    }),
    Declared::global("string", "string", "string", same),
    Declared::global("string", "bytes", "string", |a, budget| match a {
        [Value::Bytes(bytes)] => {
            budget.bytes(bytes.len())?;
            let text = std::str::from_utf8(bytes);
            let text = text.map_err(|_| EvalError::failed("invalid UTF-8 in bytes"))?;
            Ok(Value::text(text))
        }
        _ => mismatch(),
    }),
    text_of_a("bool"),
    text_of_a("int"),
    text_of_a("uint"),
    text_of_a("double"),
    text_of_a("timestamp"),
    text_of_a("duration"),
    text_of_a("ip"),
    text_of_a("cidr"),
    Declared::global("timestamp", "timestamp", "timestamp", same),
    Declared::global("timestamp", "string", "timestamp", |a, _| match a {
        [Value::String(text)] => Ok(Value::Timestamp(timestamp(text)?)),
        _ => mismatch(),
    }),
    Declared::global("timestamp", "int", "timestamp", |a, _| match a {
        [Value::Int(seconds)] => {
            Ok(Value::Timestamp(range(OffsetDateTime::from_unix_timestamp(*seconds).ok())?))
        }
        _ => mismatch(),
    }),
    Declared::global("duration", "duration", "duration", same),
    Declared::global("duration", "string", "duration", |a, _| match a {
        [Value::String(text)] => Ok(Value::Duration(duration(text)?)),
        _ => mismatch(),
    }),
    Declared::global("dyn", "A", "dyn", same),
    Declared::global("type", "A", "type", |a, _| match a {
        [value] => Ok(Value::Type(Text::Borrowed(value.type_name()))),
        _ => mismatch(),
    }),
];

const fn text_of_a(kind: &'static str) -> Declared {
    Declared::global("string", kind, "string", |a, _| match a {
        [value] => text_of(value).map_or_else(mismatch, |text| Ok(Value::text(text))),
        _ => mismatch(),
    })
}
