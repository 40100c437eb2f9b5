//! Parts of times and of lengths of time.
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md#timezones>

use ::time::{OffsetDateTime, UtcOffset};

use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Result, Value};

/// `UTC` or `+01:00`. Zones of places change with their laws, and their tables are not here.
fn zone(text: &str) -> std::result::Result<UtcOffset, String> {
    if matches!(text, "UTC" | "GMT" | "Etc/UTC" | "Z" | "") {
        return Ok(UtcOffset::UTC);
    }
    let parse = || {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (hours, minutes) = rest.split_once(':')?;
        let (hours, minutes): (i8, i8) = (hours.parse().ok()?, minutes.parse().ok()?);
        let sign = if negative { -1 } else { 1 };
        let is_right = (0..24).contains(&hours) && (0..60).contains(&minutes);
        is_right.then(|| UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()).flatten()
    };
    parse().ok_or_else(|| {
        format!("the time zone '{text}' is not supported by this server; use UTC or an offset such as +01:00")
    })
}

fn constant(text: &str) -> std::result::Result<Option<Value<'static>>, String> {
    zone(text).map(|_| None)
}

/// The time in an argument, in the zone of the next.
fn at(arguments: &[Value<'_>]) -> Result<OffsetDateTime> {
    match arguments {
        [Value::Timestamp(time)] => Ok(time.to_offset(UtcOffset::UTC)),
        [Value::Timestamp(time), Value::String(text)] => {
            let zone = zone(text).map_err(EvalError::failed)?;
            let range = || EvalError::failed("the timestamp is out of range");
            time.checked_to_offset(zone).ok_or_else(range)
        }
        _ => mismatch(),
    }
}

macro_rules! parts {
    ($($name:literal => $part:expr),+) => {
        &[
            $(
                Declared::member($name, "timestamp", "int", |a, _| {
                    let part: fn(OffsetDateTime) -> i64 = $part;
                    at(a).map(|time| Value::Int(part(time)))
                }),
                Declared::member($name, "timestamp, string", "int", |a, _| {
                    let part: fn(OffsetDateTime) -> i64 = $part;
                    at(a).map(|time| Value::Int(part(time)))
                })
                .with_constant(constant),
            )+
            Declared::member("getHours", "duration", "int", |a, _| match a {
                [Value::Duration(duration)] => Ok(Value::Int(duration.whole_hours())),
                _ => mismatch(),
            }),
            Declared::member("getMinutes", "duration", "int", |a, _| match a {
                [Value::Duration(duration)] => Ok(Value::Int(duration.whole_minutes())),
                _ => mismatch(),
            }),
            Declared::member("getSeconds", "duration", "int", |a, _| match a {
                [Value::Duration(duration)] => Ok(Value::Int(duration.whole_seconds())),
                _ => mismatch(),
            }),
            Declared::member("getMilliseconds", "duration", "int", |a, _| match a {
                [Value::Duration(duration)] => {
                    let whole = i64::try_from(duration.whole_milliseconds());
                    Ok(Value::Int(whole.unwrap_or(i64::MAX)))
                }
                _ => mismatch(),
            }),
        ]
    };
}

pub(super) const FUNCTIONS: &[Declared] = parts!(
    "getFullYear" => |time| time.year().into(),
    "getMonth" => |time| i64::from(u8::from(time.month())) - 1,
    "getDate" => |time| time.day().into(),
    "getDayOfMonth" => |time| i64::from(time.day()) - 1,
    "getDayOfWeek" => |time| time.weekday().number_days_from_sunday().into(),
    "getDayOfYear" => |time| i64::from(time.ordinal()) - 1,
    "getHours" => |time| time.hour().into(),
    "getMinutes" => |time| time.minute().into(),
    "getSeconds" => |time| time.second().into(),
    "getMilliseconds" => |time| time.millisecond().into()
);
