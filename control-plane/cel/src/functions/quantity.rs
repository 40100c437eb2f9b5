//! Quantities.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-quantity-library>

use bulkhead_agent_protocol::quantity::Quantity;

use crate::eval::EvalError;
use crate::overload::{Declared, Function, mismatch};
use crate::value::{Opaque, Result, Value};

/// The billionths in a unit.
const NANO: i128 = 1_000_000_000;

/// A quantity in billionths; a resource's amount with a sign.
fn parse(text: &str) -> Result<i128> {
    let (negative, amount) = match text.strip_prefix('-') {
        // One sign is enough.
        Some(amount) if !amount.starts_with(['+', '-']) => (true, amount),
        Some(_) => return Err(malformed(text)),
        None => (false, text),
    };
    let parsed: Quantity = amount.parse().map_err(|_| malformed(text))?;
    let nano = i128::try_from(parsed.nano()).map_err(|_| malformed(text))?;
    Ok(if negative { -nano } else { nano })
}

fn malformed(text: &str) -> EvalError {
    EvalError::failed(format!("\"{text}\" is not a quantity such as 500m, 2 or 1.5Gi"))
}

fn nano(value: &Value<'_>) -> Result<i128> {
    match value {
        Value::Opaque(opaque) => match **opaque {
            Opaque::Quantity(nano) => Ok(nano),
            _ => mismatch(),
        },
        Value::Int(whole) => Ok(i128::from(*whole) * NANO),
        _ => mismatch(),
    }
}

fn integer(nano: i128) -> Option<i64> {
    (nano % NANO == 0).then(|| i64::try_from(nano / NANO).ok()).flatten()
}

fn made(nano: Option<i128>) -> Result<Value<'static>> {
    let overflow = || EvalError::failed("quantity overflow");
    Ok(Value::opaque(Opaque::Quantity(nano.ok_or_else(overflow)?)))
}

const ADD: Function = |a, _| match a {
    [a, b] => made(nano(a)?.checked_add(nano(b)?)),
    _ => mismatch(),
};
const SUB: Function = |a, _| match a {
    [a, b] => made(nano(a)?.checked_sub(nano(b)?)),
    _ => mismatch(),
};

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("quantity", "string", "quantity", |a, _| match a {
        [Value::String(text)] => made(Some(parse(text)?)),
        _ => mismatch(),
    }),
    Declared::global("isQuantity", "string", "bool", |a, _| match a {
        [Value::String(text)] => Ok(Value::Bool(parse(text).is_ok())),
        _ => mismatch(),
    }),
    Declared::member("isInteger", "quantity", "bool", |a, _| match a {
        [a] => Ok(Value::Bool(integer(nano(a)?).is_some())),
        _ => mismatch(),
    }),
    Declared::member("asInteger", "quantity", "int", |a, _| match a {
        [a] => {
            let why = || EvalError::failed("cannot convert value to integer");
            Ok(Value::Int(integer(nano(a)?).ok_or_else(why)?))
        }
        _ => mismatch(),
    }),
    #[expect(clippy::cast_precision_loss, reason = "it is approximate by name")]
    Declared::member("asApproximateFloat", "quantity", "double", |a, _| match a {
        [a] => Ok(Value::Double(nano(a)? as f64 / NANO as f64)),
        _ => mismatch(),
    }),
    Declared::member("sign", "quantity", "int", |a, _| match a {
        [a] => Ok(Value::Int(i64::try_from(nano(a)?.signum()).unwrap_or_default())),
        _ => mismatch(),
    }),
    Declared::member("add", "quantity, quantity", "quantity", ADD),
    Declared::member("add", "quantity, int", "quantity", ADD),
    Declared::member("sub", "quantity, quantity", "quantity", SUB),
    Declared::member("sub", "quantity, int", "quantity", SUB),
    Declared::member("isLessThan", "quantity, quantity", "bool", |a, _| match a {
        [a, b] => Ok(Value::Bool(nano(a)? < nano(b)?)),
        _ => mismatch(),
    }),
    Declared::member("isGreaterThan", "quantity, quantity", "bool", |a, _| match a {
        [a, b] => Ok(Value::Bool(nano(a)? > nano(b)?)),
        _ => mismatch(),
    }),
    Declared::member("compareTo", "quantity, quantity", "int", |a, _| match a {
        [a, b] => Ok(Value::Int(nano(a)?.cmp(&nano(b)?) as i64)),
        _ => mismatch(),
    }),
];
