//! Checks objects against their types, as Kubernetes' decoder does before anything else looks at
//! them: values of the wrong type are refused, fields that the type does not have are reported.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::{Scalar, Shape, Struct};
use crate::object;

/// So many unknown fields are reported.
const MAX_UNKNOWN: usize = 100;

/// A value is not of its field's type. The words are those of Go's JSON decoder.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TypeError {
    /// A value of another type.
    #[error("json: cannot unmarshal {got} into Go struct field {field} of type {expected}")]
    Mistyped {
        /// What it is.
        got: String,
        /// The field: its struct, and its path without indexes.
        field: String,
        /// What it must be.
        expected: String,
    },
    /// The object itself is none.
    #[error("json: cannot unmarshal {got} into Go value of type {expected}")]
    NoObject {
        /// What it is.
        got: String,
        /// What it must be.
        expected: String,
    },
    /// A text that does not say what it must.
    #[error("{field}: {why}: {text:?}")]
    Malformed {
        /// The field's path.
        field: String,
        /// What is wrong.
        why: &'static str,
        /// The text.
        text: String,
    },
}

/// Checks `value`, which is of type `shape`; the result are the paths of its unknown fields.
///
/// # Errors
/// The first value that is not of its type.
pub fn check(value: &Value, shape: &Shape) -> Result<Vec<String>, TypeError> {
    if let (Some(of), false) = (shape.as_struct(), value.is_object()) {
        return Err(TypeError::NoObject { got: kind_of(value), expected: go_struct(of) });
    }
    let mut check = Check::default();
    check.value(value, shape)?;
    Ok(check.unknown)
}

/// A walk through a value.
#[derive(Debug, Default)]
struct Check {
    /// Where it is: fields behind dots, indexes in brackets.
    path: String,
    /// Where it is, without indexes: as Go says it.
    go_path: String,
    /// The struct whose field it is in.
    owner: String,
    unknown: Vec<String>,
}

impl Check {
    fn value(&mut self, value: &Value, shape: &Shape) -> Result<(), TypeError> {
        if value.is_null() {
            return Ok(());
        }
        match (shape, value) {
            (Shape::List(of), Value::Array(list)) => {
                let length = self.path.len();
                for (index, element) in list.iter().enumerate() {
                    // Writing to a string does not fail.
                    let _ = write!(self.path, "[{index}]");
                    self.value(element, of)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            (Shape::Map(of), Value::Object(map)) => {
                for (key, value) in map {
                    self.step(key, |check| check.value(value, of))?;
                }
                Ok(())
            }
            (Shape::Scalar(scalar), _) => self.scalar(value, *scalar),
            _ => match (shape.as_struct(), value) {
                (Some(of), Value::Object(fields)) => self.object(fields, of),
                _ => Err(self.mistyped(value, shape)),
            },
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, of: &Struct) -> Result<(), TypeError> {
        for (name, value) in fields {
            match of.field(name) {
                Some(field) => {
                    let name_of = of.name.rsplit('.').next().unwrap_or_default();
                    let before = std::mem::replace(&mut self.owner, name_of.to_owned());
                    self.step(name, |check| check.value(value, &field.shape))?;
                    self.owner = before;
                }
                None if of.open || self.unknown.len() >= MAX_UNKNOWN => {}
                None => self.step(name, |check| {
                    check.unknown.push(check.path.clone());
                    Ok(())
                })?,
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        name: &str,
        then: impl FnOnce(&mut Self) -> Result<(), TypeError>,
    ) -> Result<(), TypeError> {
        let (path, go_path) = (self.path.len(), self.go_path.len());
        for text in [&mut self.path, &mut self.go_path] {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        then(self)?;
        self.path.truncate(path);
        self.go_path.truncate(go_path);
        Ok(())
    }

    fn scalar(&self, value: &Value, scalar: Scalar) -> Result<(), TypeError> {
        let fits = match (scalar, value) {
            (Scalar::Any | Scalar::AnyButProtobuf, _)
            | (Scalar::String | Scalar::Quantity, Value::String(_))
            | (Scalar::Bool, Value::Bool(_))
            | (Scalar::Double | Scalar::Quantity, Value::Number(_))
            | (Scalar::IntOrString, Value::String(_)) => true,
            (Scalar::Int64, Value::Number(number)) => number.is_i64(),
            (Scalar::Int32 | Scalar::IntOrString, Value::Number(number)) => {
                number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
            }
            (Scalar::Bytes, Value::String(text)) => {
                return match BASE64.decode(text) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(self.malformed("illegal base64 data", text)),
                };
            }
            (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
                return match object::parse_time(text) {
                    Some(_) => Ok(()),
                    None => Err(self.malformed("not a time of RFC 3339", text)),
                };
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.mistyped(value, &Shape::Scalar(scalar))) }
    }

    fn malformed(&self, why: &'static str, text: &str) -> TypeError {
        // The text may be a secret, or 3 MiB long.
        let text = text.chars().take(16).collect();
        TypeError::Malformed { field: self.path.clone(), why, text }
    }

    fn mistyped(&self, value: &Value, shape: &Shape) -> TypeError {
        TypeError::Mistyped {
            got: kind_of(value),
            field: format!("{}.{}", self.owner, self.go_path),
            expected: go_type(shape),
        }
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

/// `v1.PodSpec`.
fn go_struct(of: &Struct) -> String {
    let mut parts = of.name.rsplitn(3, '.');
    let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{version}.{name}")
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::List(of) => format!("[]{}", go_type(of)),
        Shape::Map(of) => format!("map[string]{}", go_type(of)),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "string",
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Double => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::IntOrString => "intstr.IntOrString",
            Scalar::Any | Scalar::AnyButProtobuf => "interface {}",
        }
        .into(),
        _ => shape.as_struct().map(go_struct).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    fn pod(pod: Value) -> Result<Vec<String>, String> {
        let shape = builtin().kind("", "v1", "Pod").unwrap();
        check(&pod, &shape).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_fields_have_paths() {
        let unknown = pod(json!({
            "metadata": {"labels": {"any": "x"}, "naem": "x"},
            "spec": {"containers": [{"name": "a"}, {"name": "b", "immage": "x"}], "x": {"y": 1}},
        }));
        let expected = ["metadata.naem", "spec.containers[1].immage", "spec.x"];
        assert_eq!(unknown.unwrap(), expected);
    }

    #[test]
    fn values_have_types() {
        let mistyped = |got: &str, field: &str, expected: &str| {
            format!("json: cannot unmarshal {got} into Go struct field {field} of type {expected}")
        };
        for (wrong, expected) in [
            (
                json!({"spec": {"hostNetwork": "yes"}}),
                mistyped("string", "PodSpec.spec.hostNetwork", "bool"),
            ),
            (
                json!({"spec": {"containers": [{"name": 1}]}}),
                mistyped("number 1", "Container.spec.containers.name", "string"),
            ),
            (
                json!({"spec": {"containers": {"name": "x"}}}),
                mistyped("object", "PodSpec.spec.containers", "[]v1.Container"),
            ),
            (
                json!({"metadata": {"labels": {"a": true}}}),
                mistyped("bool", "ObjectMeta.metadata.labels.a", "string"),
            ),
            (
                json!({"spec": {"priority": 3_000_000_000_u64}}),
                mistyped("number 3000000000", "PodSpec.spec.priority", "int32"),
            ),
            (json!({"spec": []}), mistyped("array", "Pod.spec", "v1.PodSpec")),
            (json!(5), "json: cannot unmarshal number 5 into Go value of type v1.Pod".into()),
            (
                json!({"metadata": {"creationTimestamp": "now"}}),
                "metadata.creationTimestamp: not a time of RFC 3339: \"now\"".into(),
            ),
        ] {
            assert_eq!(pod(wrong.clone()).unwrap_err(), expected, "{wrong}");
        }
    }

    #[test]
    fn what_is_right_passes() {
        let right = json!({"metadata": {"name": "x", "labels": null}, "spec": {
            "containers": [{
                "name": "a", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"httpGet": {"port": 80}},
            }],
        }});
        assert_eq!(pod(right), Ok(Vec::new()));
    }
}
