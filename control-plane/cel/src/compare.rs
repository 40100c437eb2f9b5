//! Equality and order.

use std::cmp::Ordering;

use crate::budget::Budget;
use crate::types::Topology;
use crate::value::{List, Map, Result, Value};

/// Whether two values are the same. Numbers are by what they count, sets and maps without order.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>, budget: &Budget) -> Result<bool> {
    budget.spend(1)?;
    Ok(match (a, b) {
        (Value::List(a), Value::List(b)) => lists_equal(a, b, budget)?,
        (Value::Map(a), Value::Map(b)) => maps_equal(a, b, budget)?,
        (Value::Object(a, ty), Value::Object(b, _)) => {
            budget.spend(a.len())?;
            if a.len() != b.len() {
                return Ok(false);
            }
            for (name, one) in *a {
                let Some(other) = b.get(name) else { return Ok(false) };
                let field = ty.fields.values().find(|field| field.name == *name);
                let same = match field {
                    Some(field) => equal(
                        &Value::read(one, &field.ty)?,
                        &Value::read(other, &field.ty)?,
                        budget,
                    )?,
                    None => one == other,
                };
                if !same {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(a, b, budget)?,
        (Value::String(a), Value::String(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            **a == **b
        }
        _ => scalars_equal(a, b),
    })
}

/// Whether two values that contain no others are the same.
pub(crate) fn scalars_equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) | (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => **a == **b,
        (Value::Opaque(a), Value::Opaque(b)) => a == b,
        _ => order(a, b) == Some(Ordering::Equal),
    }
}

fn lists_equal(a: &List<'_>, b: &List<'_>, budget: &Budget) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    let unordered = match (a.topology(), b.topology()) {
        (Topology::Atomic, other) | (other, _) => *other != Topology::Atomic,
    };
    if !unordered {
        for (one, other) in a.iter().zip(b.iter()) {
            if !equal(&one?, &other?, budget)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    // Elements are unique in both: each of the first must be in the second.
    for one in a.iter() {
        if !contains(b, &one?, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `list` has an element like `value`.
pub(crate) fn contains(list: &List<'_>, value: &Value<'_>, budget: &Budget) -> Result<bool> {
    for one in list.iter() {
        if equal(&one?, value, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>, budget: &Budget) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for key in a.keys() {
        budget.spend(1)?;
        let (Some(one), Some(other)) = (a.get(&key), b.get(&key)) else { return Ok(false) };
        if !equal(&one?, &other?, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two values of kinds that have one.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uint(a), Value::Uint(b)) => a.cmp(b),
        (Value::Int(a), Value::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b)?,
        (Value::Double(a), Value::Int(b)) => float_order(*a, i128::from(*b))?,
        (Value::Double(a), Value::Uint(b)) => float_order(*a, i128::from(*b))?,
        (Value::Int(a), Value::Double(b)) => float_order(*b, i128::from(*a))?.reverse(),
        (Value::Uint(a), Value::Double(b)) => float_order(*b, i128::from(*a))?.reverse(),
        _ => text(a)?.cmp(text(b)?),
    })
}

fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::String(text) => Some(text),
        Value::Pattern(regex) => Some(regex.as_str()),
        _ => None,
    }
}

/// Exact: a float is compared by its whole part first.
#[expect(clippy::cast_possible_truncation, reason = "the conversion saturates, which keeps order")]
fn float_order(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    let whole = a.floor() as i128;
    Some(whole.cmp(&b).then(if a > a.floor() { Ordering::Greater } else { Ordering::Equal }))
}
