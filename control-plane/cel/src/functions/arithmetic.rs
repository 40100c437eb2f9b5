//! Arithmetic, and joining of what can be joined.

use std::sync::Arc;

use ::time::Duration;

use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Result, Value};

const OVERFLOW: &str = "integer overflow";

fn exact<T>(value: Option<T>, make: impl Fn(T) -> Value<'static>) -> Result<Value<'static>> {
    value.map(make).ok_or_else(|| EvalError::failed(OVERFLOW))
}

fn sum_of_durations(a: Duration, b: Duration) -> Result<Value<'static>> {
    exact(a.checked_add(b), Value::Duration)
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("_+_", "int, int", "int", |a, _| match a {
        [Value::Int(a), Value::Int(b)] => exact(a.checked_add(*b), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("_+_", "uint, uint", "uint", |a, _| match a {
        [Value::Uint(a), Value::Uint(b)] => exact(a.checked_add(*b), Value::Uint),
        _ => mismatch(),
    }),
    Declared::global("_+_", "double, double", "double", |a, _| match a {
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        _ => mismatch(),
    }),
    Declared::global("_+_", "string, string", "string", |a, budget| match a {
        [Value::String(a), Value::String(b)] => {
            budget.bytes(a.len() + b.len())?;
            Ok(Value::text(format!("{a}{b}")))
        }
        _ => mismatch(),
    }),
    Declared::global("_+_", "bytes, bytes", "bytes", |a, budget| match a {
        [Value::Bytes(a), Value::Bytes(b)] => {
            budget.bytes(a.len() + b.len())?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        _ => mismatch(),
    }),
    Declared::global("_+_", "duration, duration", "duration", |a, _| match a {
        [Value::Duration(a), Value::Duration(b)] => sum_of_durations(*a, *b),
        _ => mismatch(),
    }),
    Declared::global("_+_", "timestamp, duration", "timestamp", |a, _| match a {
        [Value::Timestamp(a), Value::Duration(b)] => exact(a.checked_add(*b), Value::Timestamp),
        _ => mismatch(),
    }),
    Declared::global("_+_", "duration, timestamp", "timestamp", |a, _| match a {
        [Value::Duration(b), Value::Timestamp(a)] => exact(a.checked_add(*b), Value::Timestamp),
        _ => mismatch(),
    }),
    Declared::global("_-_", "int, int", "int", |a, _| match a {
        [Value::Int(a), Value::Int(b)] => exact(a.checked_sub(*b), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("_-_", "uint, uint", "uint", |a, _| match a {
        [Value::Uint(a), Value::Uint(b)] => exact(a.checked_sub(*b), Value::Uint),
        _ => mismatch(),
    }),
    Declared::global("_-_", "double, double", "double", |a, _| match a {
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        _ => mismatch(),
    }),
    Declared::global("_-_", "duration, duration", "duration", |a, _| match a {
        [Value::Duration(a), Value::Duration(b)] => exact(a.checked_sub(*b), Value::Duration),
        _ => mismatch(),
    }),
    Declared::global("_-_", "timestamp, duration", "timestamp", |a, _| match a {
        [Value::Timestamp(a), Value::Duration(b)] => exact(a.checked_sub(*b), Value::Timestamp),
        _ => mismatch(),
    }),
    Declared::global("_-_", "timestamp, timestamp", "duration", |a, _| match a {
        [Value::Timestamp(a), Value::Timestamp(b)] => Ok(Value::Duration(*a - *b)),
        _ => mismatch(),
    }),
    Declared::global("_*_", "int, int", "int", |a, _| match a {
        [Value::Int(a), Value::Int(b)] => exact(a.checked_mul(*b), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("_*_", "uint, uint", "uint", |a, _| match a {
        [Value::Uint(a), Value::Uint(b)] => exact(a.checked_mul(*b), Value::Uint),
        _ => mismatch(),
    }),
    Declared::global("_*_", "double, double", "double", |a, _| match a {
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => mismatch(),
    }),
    Declared::global("_/_", "int, int", "int", |a, _| match a {
        [_, Value::Int(0)] => Err(EvalError::failed("division by zero")),
        [Value::Int(a), Value::Int(b)] => exact(a.checked_div(*b), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("_/_", "uint, uint", "uint", |a, _| match a {
        [_, Value::Uint(0)] => Err(EvalError::failed("division by zero")),
        [Value::Uint(a), Value::Uint(b)] => exact(a.checked_div(*b), Value::Uint),
        _ => mismatch(),
    }),
    Declared::global("_/_", "double, double", "double", |a, _| match a {
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => mismatch(),
    }),
    Declared::global("_%_", "int, int", "int", |a, _| match a {
        [_, Value::Int(0)] => Err(EvalError::failed("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => exact(a.checked_rem(*b), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("_%_", "uint, uint", "uint", |a, _| match a {
        [_, Value::Uint(0)] => Err(EvalError::failed("modulus by zero")),
        [Value::Uint(a), Value::Uint(b)] => exact(a.checked_rem(*b), Value::Uint),
        _ => mismatch(),
    }),
    Declared::global("-_", "int", "int", |a, _| match a {
        [Value::Int(a)] => exact(a.checked_neg(), Value::Int),
        _ => mismatch(),
    }),
    Declared::global("-_", "double", "double", |a, _| match a {
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => mismatch(),
    }),
    Declared::global("!_", "bool", "bool", |a, _| match a {
        [Value::Bool(a)] => Ok(Value::Bool(!a)),
        _ => mismatch(),
    }),
    Declared::global("_+_", "list<A>, list<A>", "list<A>", |a, budget| match a {
        [Value::List(a), Value::List(b)] => {
            Ok(Value::List(crate::value::List::Made(Arc::new(super::lists::joined(a, b, budget)?))))
        }
        _ => mismatch(),
    }),
];
