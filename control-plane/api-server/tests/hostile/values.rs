//! Values that look like what a type says, most of the time.

use bulkhead_api_server::schema::{Field, Scalar, Shape, Struct};
use serde_json::{Map, Value, json};

use super::Script;

/// Deeper, there are only plain values.
const MAX_DEPTH: usize = 12;

/// Texts that mean something to one field or another.
const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "app",
    "0",
    "1",
    "-1",
    "100m",
    "1Gi",
    "1e400",
    "50%",
    "101%",
    "http",
    "80",
    "TCP",
    "10.0.0.1",
    "10.96.0.0/12",
    "::1",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "*/5 * * * *",
    "PT1H",
    "1h30m",
    "/a/../b",
    "a.b/c",
    "example.com",
    "widgets.example.com",
    "widgets",
    "Widget",
    "v1",
    "v1beta1",
    "object",
    "string",
    "integer",
    "array",
    "boolean",
    "number",
    "date-time",
    "self.a == self.b",
    "oldSelf != self",
    "self.all(x, x > 0)",
    ".spec.replicas",
    ".a[0].b",
    "^(a+)+$",
    "In",
    "Exists",
    "NoSchedule",
    "RollingUpdate",
    "Cluster",
    "Namespaced",
    "default",
    "busybox:1",
    "$(A)",
    "\u{0}",
    "\u{1f980}\u{301}",
];

/// Directives of strategic merge.
const DIRECTIVES: &[&str] = &["delete", "replace", "merge", "b"];

/// How values are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As objects.
    Object,
    /// As strategic merge patches, with directives and nulls.
    Patch,
}

/// A value that looks like `shape`.
pub fn of_shape(script: &mut Script<'_>, shape: Option<&Shape>, manner: Manner) -> Value {
    value(script, shape, manner, 0)
}

fn value(script: &mut Script<'_>, shape: Option<&Shape>, manner: Manner, depth: usize) -> Value {
    if script.once_in(if manner == Manner::Patch { 16 } else { 48 }) {
        return anything(script, depth);
    }
    let Some(shape) = shape else { return anything(script, depth) };
    if let Some(fields) = shape.as_struct() {
        return object(script, fields, manner, depth);
    }
    match shape {
        Shape::List(element) => {
            let count = if depth < MAX_DEPTH { script.below(5) } else { 0 };
            let mut list: Vec<Value> =
                (0..count).map(|_| value(script, Some(element), manner, depth + 1)).collect();
            if count > 1 && script.once_in(8) {
                list[1] = list[0].clone();
            }
            list.into()
        }
        Shape::Map(element) => {
            let count = if depth < MAX_DEPTH { script.below(4) } else { 0 };
            let entries = (0..count)
                .map(|_| (string(script), value(script, Some(element), manner, depth + 1)));
            Value::Object(entries.collect())
        }
        Shape::Scalar(scalar) => plain(script, *scalar, depth),
        Shape::Builtin(_) | Shape::Custom(_) => Value::Null,
    }
}

fn object(script: &mut Script<'_>, of: &Struct, manner: Manner, depth: usize) -> Value {
    let mut map = Map::new();
    if of.fields.is_empty() {
        return anything(script, depth);
    }
    if depth >= MAX_DEPTH {
        return map.into();
    }
    // What must be there is there most of the time: objects without it are refused at once.
    for field in of.fields.iter().filter(|field| field.required && manner == Manner::Object) {
        if !script.once_in(32) {
            let value = field_value(script, field, manner, depth);
            map.insert(field.name.to_string(), value);
        }
    }
    for _ in 0..script.below(6) {
        let field = script.choose(&of.fields);
        let value = field_value(script, field, manner, depth);
        if manner == Manner::Patch && script.once_in(6) {
            direct(script, &mut map, &field.name, &value);
        }
        map.insert(field.name.to_string(), value);
    }
    if script.once_in(32) {
        map.insert(string(script), anything(script, depth + 1));
    }
    map.into()
}

fn field_value(script: &mut Script<'_>, field: &Field, manner: Manner, depth: usize) -> Value {
    if manner == Manner::Patch && script.once_in(10) {
        return Value::Null;
    }
    if !field.values.is_empty() && !script.once_in(16) {
        let text: &str = script.choose::<Box<str>>(&field.values);
        return text.into();
    }
    value(script, Some(&field.shape), manner, depth + 1)
}

/// Adds a directive about the field `name`, of which the patch says `value`.
fn direct(script: &mut Script<'_>, map: &mut Map<String, Value>, name: &str, value: &Value) {
    let (key, value) = match script.below(4) {
        0 => ("$patch".into(), (*script.choose(DIRECTIVES)).into()),
        1 => ("$retainKeys".into(), json!([name, string(script)])),
        2 => (format!("$setElementOrder/{name}"), value.clone()),
        _ => (format!("$deleteFromPrimitiveList/{name}"), value.clone()),
    };
    map.insert(key, value);
}

fn plain(script: &mut Script<'_>, scalar: Scalar, depth: usize) -> Value {
    match scalar {
        Scalar::Bool => script.once_in(2).into(),
        Scalar::Int32 | Scalar::Int64 => number(script),
        Scalar::Double => json!(f64::from(script.byte()) / 3.0 - 10.0),
        Scalar::Any | Scalar::AnyButProtobuf => anything(script, depth),
        Scalar::IntOrString if script.once_in(2) => number(script),
        Scalar::Quantity if script.once_in(4) => number(script),
        Scalar::Bytes => (*script.choose(&["", "YQ==", "YWJj", "*"])).into(),
        Scalar::Time | Scalar::MicroTime if !script.once_in(8) => {
            (*script.choose(&["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z"])).into()
        }
        _ => string(script).into(),
    }
}

fn number(script: &mut Script<'_>) -> Value {
    match script.byte() {
        small @ 0..200 => (i64::from(small) - 3).into(),
        200..=210 => i64::from(i32::MAX).into(),
        211..=220 => i64::from(i32::MIN).into(),
        221..=230 => i64::MAX.into(),
        231..=240 => i64::MIN.into(),
        241..=245 => u64::MAX.into(),
        byte => json!(f64::from(byte) * 1e300),
    }
}

/// A text, mostly one that means something somewhere.
pub fn string(script: &mut Script<'_>) -> String {
    match script.once_in(8) {
        true => script.text(),
        false => (*script.choose(TEXTS)).into(),
    }
}

/// A value of any type.
pub fn anything(script: &mut Script<'_>, depth: usize) -> Value {
    match script.below(if depth < MAX_DEPTH { 8 } else { 5 }) {
        0 => Value::Null,
        1 => true.into(),
        2 => number(script),
        3 | 4 => string(script).into(),
        5 => (0..script.below(4)).map(|_| anything(script, depth + 1)).collect(),
        _ => {
            let entries =
                (0..script.below(4)).map(|_| (string(script), anything(script, depth + 1)));
            Value::Object(entries.collect())
        }
    }
}
