//! `format`: texts with places for values.
//! <https://github.com/google/cel-go/blob/master/ext/README.md#format>

use std::fmt::Write as _;

use super::convert::text_of;
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Result, Value};

/// Digits behind the point that a place may ask for.
const MAX_PRECISION: usize = 100;
/// Lists in lists are shown so deep.
const MAX_DEPTH: usize = 32;

fn formatted(template: &str, list: &crate::value::List<'_>, budget: &Budget) -> Result<String> {
    budget.bytes(template.len())?;
    let mut arguments = list.iter();
    let mut text = String::new();
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut verb = rest.next();
        if verb == Some('%') {
            text.push('%');
            continue;
        }
        let mut precision = None;
        if verb == Some('.') {
            let mut digits = 0_usize;
            verb = rest.next();
            while let Some(digit) = verb.and_then(|c| c.to_digit(10)) {
                digits =
                    digits.saturating_mul(10).saturating_add(usize::try_from(digit).unwrap_or(0));
                verb = rest.next();
            }
            if digits > MAX_PRECISION {
                return Err(EvalError::failed("the precision is too large"));
            }
            precision = Some(digits);
        }
        let missing = || EvalError::failed("index out of range: more places than values");
        let value = arguments.next().ok_or_else(missing)??;
        let before = text.len();
        place(&mut text, verb, precision.unwrap_or(6), &value, budget)?;
        budget.bytes(text.len() - before)?;
    }
    Ok(text)
}

fn place(
    text: &mut String,
    verb: Option<char>,
    precision: usize,
    value: &Value<'_>,
    budget: &Budget,
) -> Result<()> {
    let wrong = || {
        let verb = verb.map(String::from).unwrap_or_default();
        let kind = value.type_name();
        EvalError::failed(format!("unrecognized formatting clause \"{verb}\" of a {kind}"))
    };
    // Writing to a text does not fail.
    let _ = match (verb, value) {
        (Some('s'), value) => {
            show(text, value, MAX_DEPTH, budget)?;
            Ok(())
        }
        (Some('d'), Value::Int(value)) => write!(text, "{value}"),
        (Some('d'), Value::Uint(value)) => write!(text, "{value}"),
        (Some('f'), Value::Double(value)) => write!(text, "{value:.precision$}"),
        (Some('e'), Value::Double(value)) => write!(text, "{value:.precision$e}"),
        (Some('b'), Value::Bool(value)) => write!(text, "{}", u8::from(*value)),
        (Some('b' | 'o' | 'x' | 'X'), Value::Int(value)) => {
            let sign = if *value < 0 { "-" } else { "" };
            based(text, verb, sign, value.unsigned_abs())
        }
        (Some('b' | 'o' | 'x' | 'X'), Value::Uint(value)) => based(text, verb, "", *value),
        (Some('x' | 'X'), Value::String(value)) => hex(text, verb, value.as_bytes(), budget),
        (Some('x' | 'X'), Value::Bytes(value)) => hex(text, verb, value, budget),
        _ => return Err(wrong()),
    };
    Ok(())
}

fn based(text: &mut String, verb: Option<char>, sign: &str, value: u64) -> std::fmt::Result {
    match verb {
        Some('b') => write!(text, "{sign}{value:b}"),
        Some('o') => write!(text, "{sign}{value:o}"),
        Some('x') => write!(text, "{sign}{value:x}"),
        _ => write!(text, "{sign}{value:X}"),
    }
}

fn hex(text: &mut String, verb: Option<char>, bytes: &[u8], budget: &Budget) -> std::fmt::Result {
    budget.bytes(bytes.len()).map_err(|_| std::fmt::Error)?;
    for byte in bytes {
        match verb {
            Some('x') => write!(text, "{byte:02x}")?,
            _ => write!(text, "{byte:02X}")?,
        }
    }
    Ok(())
}

/// A value as `%s` shows it.
fn show(text: &mut String, value: &Value<'_>, depth: usize, budget: &Budget) -> Result<()> {
    budget.spend(1)?;
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(EvalError::failed("the value nests too deep"));
    };
    match value {
        Value::List(list) => {
            text.push('[');
            for (index, one) in list.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                show(text, &one?, deeper, budget)?;
            }
            text.push(']');
            Ok(())
        }
        Value::Map(map) => {
            text.push('{');
            for (index, key) in map.keys().iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                show(text, key, deeper, budget)?;
                text.push_str(": ");
                if let Some(value) = map.get(key) {
                    show(text, &value?, deeper, budget)?;
                }
            }
            text.push('}');
            Ok(())
        }
        other => {
            let shown = text_of(other).map_or_else(mismatch, Ok)?;
            budget.bytes(shown.len())?;
            text.push_str(&shown);
            Ok(())
        }
    }
}

pub(super) const FUNCTIONS: &[Declared] =
    &[Declared::member("format", "string, list<dyn>", "string", |a, budget| match a {
        [Value::String(template), Value::List(list)] => {
            Ok(Value::text(formatted(template, list, budget)?))
        }
        _ => mismatch(),
    })];
