//! Optional values.
//! <https://pkg.go.dev/github.com/google/cel-go/cel#OptionalTypes>

use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{List, Map, Value};

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("optional.none", "", "optional<dyn>", |_, _| Ok(Value::Optional(None))),
    Declared::global("optional.of", "A", "optional<A>", |a, _| match a {
        [value] => Ok(Value::some(value.clone())),
        _ => mismatch(),
    }),
    Declared::global("optional.ofNonZeroValue", "A", "optional<A>", |a, _| match a {
        [value] if is_zero(value) => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => mismatch(),
    }),
    Declared::member("hasValue", "optional<A>", "bool", |a, _| match a {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => mismatch(),
    }),
    Declared::member("value", "optional<A>", "A", |a, _| match a {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::failed("optional.none() dereference")),
        _ => mismatch(),
    }),
    Declared::member("or", "optional<A>, optional<A>", "optional<A>", |a, _| match a {
        [Value::Optional(None), other] => Ok(other.clone()),
        [some, _] => Ok(some.clone()),
        _ => mismatch(),
    }),
    Declared::member("orValue", "optional<A>, A", "A", |a, _| match a {
        [Value::Optional(Some(value)), _] => Ok((**value).clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => mismatch(),
    }),
];

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) => true,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(duration) => duration.is_zero(),
        Value::List(list @ (List::Json(..) | List::Made(_))) => list.len() == 0,
        Value::Map(map @ (Map::Json(..) | Map::Made(_))) => map.len() == 0,
        Value::Object(fields, _) => fields.is_empty(),
        Value::Optional(value) => value.is_none(),
        _ => false,
    }
}
