//! Order.

use std::cmp::Ordering;

use crate::budget::Budget;
use crate::compare;
use crate::overload::{Declared, Function, mismatch};
use crate::value::{Result, Value};

fn compare(arguments: &[Value<'_>], budget: &Budget, holds: fn(Ordering) -> bool) -> Result<bool> {
    let [a, b] = arguments else { return mismatch() };
    if let (Value::String(a), Value::String(b)) = (a, b) {
        budget.bytes(a.len().min(b.len()))?;
    }
    // What cannot be compared, such as NaN, is in no order.
    Ok(compare::order(a, b).is_some_and(holds))
}

const LESS: Function = |a, budget| Ok(Value::Bool(compare(a, budget, Ordering::is_lt)?));
const LESS_EQUAL: Function = |a, budget| Ok(Value::Bool(compare(a, budget, Ordering::is_le)?));
const GREATER: Function = |a, budget| Ok(Value::Bool(compare(a, budget, Ordering::is_gt)?));
const GREATER_EQUAL: Function = |a, budget| Ok(Value::Bool(compare(a, budget, Ordering::is_ge)?));

macro_rules! ordered {
    ($($types:literal),+) => {
        &[$(
            Declared::global("_<_", $types, "bool", LESS),
            Declared::global("_<=_", $types, "bool", LESS_EQUAL),
            Declared::global("_>_", $types, "bool", GREATER),
            Declared::global("_>=_", $types, "bool", GREATER_EQUAL),
        )+]
    };
}

pub(super) const FUNCTIONS: &[Declared] = ordered!(
    "int, int",
    "uint, uint",
    "double, double",
    "string, string",
    "bytes, bytes",
    "bool, bool",
    "timestamp, timestamp",
    "duration, duration",
    "int, uint",
    "uint, int",
    "int, double",
    "double, int",
    "uint, double",
    "double, uint"
);
