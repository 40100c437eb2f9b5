//! The rules of a schema about values: bounds, lengths, enumerations, patterns.

use regex::Regex;
use serde_json::Value;

use super::formats;
use crate::object;
use crate::status::Cause;

/// What values must be, beside their type.
#[derive(Debug, Default)]
pub(super) struct Rules {
    required: Vec<String>,
    values: Vec<Value>,
    pattern: Option<Regex>,
    format: String,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: Bounds,
    items: Bounds,
    properties: Bounds,
}

/// At least and at most so many.
#[derive(Debug, Default, Clone, Copy)]
struct Bounds(Option<u64>, Option<u64>);

impl Bounds {
    fn parse(schema: &Value, min: &str, max: &str) -> Self {
        Self(schema[min].as_u64(), schema[max].as_u64())
    }

    fn violation(self, count: usize, what: &str) -> Option<String> {
        let count = count as u64;
        match self {
            Self(Some(min), _) if count < min => Some(format!("should have at least {min} {what}")),
            Self(_, Some(max)) if count > max => Some(format!("should have at most {max} {what}")),
            _ => None,
        }
    }
}

impl Rules {
    /// The rules that a schema writes, with its pattern.
    pub(super) fn parse(schema: &Value, pattern: Option<Regex>) -> Self {
        let bound = |field: &str, exclusive: &str| {
            schema[field].as_f64().map(|bound| (bound, schema[exclusive] == true))
        };
        let required = object::list(schema, "required").iter();
        Self {
            required: required.filter_map(Value::as_str).map(Into::into).collect(),
            values: object::list(schema, "enum").to_vec(),
            pattern,
            format: object::text(schema, "format").into(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64().filter(|of| *of > 0.0),
            length: Bounds::parse(schema, "minLength", "maxLength"),
            items: Bounds::parse(schema, "minItems", "maxItems"),
            properties: Bounds::parse(schema, "minProperties", "maxProperties"),
        }
    }

    /// Whether the field `name` must be there.
    pub(super) fn requires(&self, name: &str) -> bool {
        self.required.iter().any(|one| one == name)
    }

    /// Reports what is wrong with `value`, which lies at `path`.
    pub(super) fn validate(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if !self.values.is_empty() && !self.values.contains(value) {
            let shown: Vec<String> = self.values.iter().map(Value::to_string).collect();
            let shown: Vec<&str> = shown.iter().map(|one| one.trim_matches('"')).collect();
            causes.push(Cause::not_supported(path, value, &shown));
        }
        let violation = match value {
            Value::Object(fields) => {
                for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
                    let dot = if path.is_empty() { "" } else { "." };
                    causes.push(Cause::required(format!("{path}{dot}{name}")));
                }
                self.properties.violation(fields.len(), "properties")
            }
            Value::Array(list) => self.items.violation(list.len(), "items"),
            Value::String(text) => self.text(text),
            Value::Number(number) => self.number(number.as_f64().unwrap_or_default()),
            _ => None,
        };
        if let Some(why) = violation {
            causes.push(Cause::invalid(path, value, &format!("{path} in body {why}")));
        }
    }

    fn text(&self, text: &str) -> Option<String> {
        if let Some(why) = self.length.violation(text.chars().count(), "characters") {
            return Some(why);
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            return Some(format!("should match '{pattern}'"));
        }
        (!formats::is_of(&self.format, text)).then(|| format!("must be of type {}", self.format))
    }

    fn number(&self, number: f64) -> Option<String> {
        let or_equal = |exclusive: bool| if exclusive { "" } else { " or equal to" };
        match (self.minimum, self.maximum) {
            (Some((min, exclusive)), _) if number < min || (exclusive && number == min) => {
                return Some(format!("should be greater than{} {min}", or_equal(exclusive)));
            }
            (_, Some((max, exclusive))) if number > max || (exclusive && number == max) => {
                return Some(format!("should be less than{} {max}", or_equal(exclusive)));
            }
            _ => {}
        }
        if self.format == "int32" && !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number)
        {
            return Some("must be of type int32".into());
        }
        let of = self.multiple_of.filter(|of| (number / of).fract() != 0.0)?;
        Some(format!("should be a multiple of {of}"))
    }
}
