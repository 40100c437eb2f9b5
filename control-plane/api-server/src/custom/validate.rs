//! What is wrong with an object, by its schema.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::structural::{Schema, Type};
use crate::schema::Topology;
use crate::status::Cause;

impl Schema {
    /// Reports what is wrong with `value`, which lies at `path`.
    pub(super) fn validate(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        let mistyped = |expected: &str| {
            let why = format!("{path} in body must be of type {expected}");
            Cause {
                reason: "FieldValueTypeInvalid",
                ..Cause::invalid(path, &json!(kind_of(value)), &why)
            }
        };
        if self.int_or_string {
            if !Type::Integer.fits(value) && !value.is_string() {
                return causes.push(mistyped("integer,string"));
            }
        } else if let Some(kind) = self.kind.filter(|kind| !kind.fits(value)) {
            return causes.push(mistyped(kind.as_str()));
        }
        self.rules.validate(value, path, causes);
        match value {
            Value::Object(fields) => {
                if self.embedded {
                    embedded(value, path, causes);
                }
                for (name, value) in fields {
                    if let Some(schema) = self.field(name) {
                        let dot = if path.is_empty() { "" } else { "." };
                        schema.validate(value, &format!("{path}{dot}{name}"), causes);
                    }
                }
            }
            Value::Array(list) => {
                self.unique(list, path, causes);
                for (index, element) in list.iter().enumerate() {
                    if let Some(items) = &self.items {
                        items.validate(element, &format!("{path}[{index}]"), causes);
                    }
                }
            }
            _ => {}
        }
        self.all_of.iter().for_each(|schema| schema.validate(value, path, causes));
        let fits = |schema: &&Self| {
            let mut causes = Vec::new();
            schema.validate(value, path, &mut causes);
            causes.is_empty()
        };
        if !self.any_of.is_empty() && !self.any_of.iter().any(|schema| fits(&schema)) {
            let why = format!("{path} in body must validate at least one schema (anyOf)");
            causes.push(Cause::invalid(path, value, &why));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(fits).count() != 1 {
            let why = format!("{path} in body must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, value, &why));
        }
        if self.not.as_deref().is_some_and(|not| fits(&not)) {
            let why = format!("{path} in body must not validate the schema (not)");
            causes.push(Cause::invalid(path, value, &why));
        }
    }

    /// Reports elements that are there twice, of lists that say what tells elements apart.
    fn unique(&self, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
        let mut seen = HashSet::with_capacity(list.len());
        for (index, element) in list.iter().enumerate() {
            let told_by = match &self.topology {
                Topology::Set => element.clone(),
                Topology::Map(keys) => {
                    let own = keys
                        .iter()
                        .filter_map(|key| Some((key.to_string(), element.get(&**key)?.clone())));
                    own.collect::<serde_json::Map<_, _>>().into()
                }
                Topology::Unsaid | Topology::Atomic => return,
            };
            if !seen.insert(told_by.to_string()) {
                causes.push(Cause::duplicate(format!("{path}[{index}]"), &told_by));
            }
        }
    }
}

/// Reports what an object in an object must have and has not.
fn embedded(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["apiVersion", "kind"] {
        match &object[field] {
            Value::String(text) if !text.is_empty() => {}
            Value::Null | Value::String(_) => {
                let message = "Required value: must not be empty".into();
                causes.push(Cause { message, ..Cause::required(format!("{path}.{field}")) });
            }
            other => {
                let why = format!("{path}.{field} in body must be of type string");
                causes.push(Cause::invalid(format!("{path}.{field}"), other, &why));
            }
        }
    }
    if !object["metadata"].is_null() && !object["metadata"].is_object() {
        let why = format!("{path}.metadata in body must be of type object");
        causes.push(Cause::invalid(format!("{path}.metadata"), &object["metadata"], &why));
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
