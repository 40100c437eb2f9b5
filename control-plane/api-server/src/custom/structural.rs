//! Structural schemas: the types of custom resources, by which objects are pruned, defaulted and
//! validated.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::rules::Rules;
use super::shape::topology;
use super::validations::{self, Validation};
use crate::object;
use crate::schema::Topology;
use crate::status::Cause;

/// A pattern may compile to so many bytes.
const MAX_PATTERN: usize = 1 << 20;

/// A schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) kind: Option<Type>,
    pub(super) properties: BTreeMap<String, Schema>,
    /// What all fields that are not listed are.
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) nullable: bool,
    /// Whether fields that are not listed stay.
    pub(super) preserve: bool,
    pub(super) int_or_string: bool,
    /// Whether it is an object with kind and metadata.
    pub(super) embedded: bool,
    pub(super) default: Option<Value>,
    pub(super) topology: Topology,
    pub(super) rules: Rules,
    pub(super) validations: Vec<Validation>,
    /// Whether it, or a schema below it, has validations.
    pub(super) has_rules: bool,
    /// Whether it, or a schema below it, has a default.
    pub(super) has_defaults: bool,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
}

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    pub(super) fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Object, Value::Object(_))
            | (Self::Array, Value::Array(_))
            | (Self::String, Value::String(_))
            | (Self::Number, Value::Number(_))
            | (Self::Boolean, Value::Bool(_)) => true,
            (Self::Integer, Value::Number(number)) => {
                number.is_i64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            _ => false,
        }
    }
}

/// Fields of a schema that Kubernetes forbids, or that this server does not have.
const REFUSED: &[(&str, &str)] = &[
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
];

/// Where a schema is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Below `allOf` and the like: it is about values, and needs no type.
    pub(super) is_value: bool,
    /// Whether it is known which old value a value was.
    pub(super) correlatable: bool,
}

impl Position {
    /// A kind's.
    pub(super) const ROOT: Self = Self { is_value: false, correlatable: true };
}

impl Schema {
    /// The schema that `value` writes; what is wrong with it goes to `causes`.
    pub(super) fn parse(
        value: &Value,
        path: &str,
        position: Position,
        causes: &mut Vec<Cause>,
    ) -> Self {
        let is_value = position.is_value;
        for (field, why) in REFUSED {
            if value.get(field).is_some_and(|value| !value.is_null()) {
                causes.push(Cause::forbidden(format!("{path}.{field}"), why));
            }
        }
        if value["uniqueItems"] == true {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            causes.push(Cause::forbidden(format!("{path}.uniqueItems"), why));
        }
        let text = object::text(value, "type");
        let kind = Type::parse(text);
        let int_or_string = value["x-kubernetes-int-or-string"] == true;
        let preserve = value["x-kubernetes-preserve-unknown-fields"] == true;
        if kind.is_none() && (!text.is_empty() || !(is_value || int_or_string || preserve)) {
            let path = format!("{path}.type");
            causes.push(match text {
                "" => Cause::required(path),
                _ => {
                    let all = ["array", "boolean", "integer", "number", "object", "string"];
                    Cause::not_supported(path, &value["type"], &all)
                }
            });
        }
        let topology = topology(value);
        let mut child = |field: &str, value: &Value, position: Position| {
            Box::new(Self::parse(value, &format!("{path}.{field}"), position, causes))
        };
        let properties = value["properties"].as_object().into_iter().flatten();
        let properties = properties
            .map(|(name, schema)| {
                (name.clone(), *child(&format!("properties[{name}]"), schema, position))
            })
            .collect();
        let additional = match &value["additionalProperties"] {
            Value::Object(_) => {
                Some(child("additionalProperties", &value["additionalProperties"], position))
            }
            Value::Bool(true) => Some(Box::new(Self { preserve: true, ..Self::default() })),
            _ => None,
        };
        let items = value.get("items").filter(|items| items.is_object());
        let of_items = Position {
            correlatable: position.correlatable && matches!(topology, Topology::Map(_)),
            ..position
        };
        let items = items.map(|items| child("items", items, of_items));
        let below = Position { is_value: true, ..position };
        let mut several = |field: &str| -> Vec<Self> {
            let list = object::list(value, field).iter().enumerate();
            list.map(|(index, schema)| *child(&format!("{field}[{index}]"), schema, below))
                .collect()
        };
        let (all_of, any_of, one_of) = (several("allOf"), several("anyOf"), several("oneOf"));
        let not = value.get("not").filter(|not| not.is_object());
        let not = not.map(|not| child("not", not, below));
        if kind == Some(Type::Array) && items.is_none() && !is_value && !preserve {
            causes.push(Cause::required(format!("{path}.items")));
        }
        let pattern = pattern(value, path, causes);
        let validations = if is_value {
            if !object::list(value, validations::FIELD).is_empty() {
                let why = "must be empty to be structural";
                causes.push(Cause::forbidden(format!("{path}.{}", validations::FIELD), why));
            }
            Vec::new()
        } else {
            validations::parse(value, path, position.correlatable, causes)
        };
        let schema = Self {
            kind,
            properties,
            additional,
            items,
            nullable: value["nullable"] == true,
            preserve,
            int_or_string,
            embedded: value["x-kubernetes-embedded-resource"] == true,
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            topology,
            rules: Rules::parse(value, pattern),
            validations,
            has_rules: false,
            has_defaults: false,
            all_of,
            any_of,
            one_of,
            not,
        };
        schema.check_lists(value, path, causes);
        schema.check_default(path, causes);
        let any = |has: fn(&Self) -> bool| {
            let below = schema.additional.iter().chain(&schema.items).map(|one| &**one);
            schema.properties.values().chain(below).any(has)
        };
        let has_rules = !schema.validations.is_empty() || any(|one| one.has_rules);
        let has_defaults = schema.default.is_some() || any(|one| one.has_defaults);
        Self { has_rules, has_defaults, ..schema }
    }

    /// What tells elements of lists apart must be comparable and there.
    fn check_lists(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let is_scalar = |schema: &Self| {
            schema.int_or_string || !matches!(schema.kind, None | Some(Type::Object | Type::Array))
        };
        let Some(items) = &self.items else { return };
        match &self.topology {
            Topology::Set => {
                let is_atomic = matches!(items.topology, Topology::Atomic);
                if !is_scalar(items) && !is_atomic {
                    let field = format!("{path}.items.x-kubernetes-map-type");
                    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                    causes.push(Cause::invalid(field, &Value::Null, why));
                }
            }
            Topology::Map(keys) if keys.is_empty() => {
                causes.push(Cause::required(format!("{path}.x-kubernetes-list-map-keys")));
            }
            Topology::Map(keys) => {
                for (index, key) in keys.iter().enumerate() {
                    let shown = &value["x-kubernetes-list-map-keys"][index];
                    let field = format!("{path}.x-kubernetes-list-map-keys[{index}]");
                    let item = format!("{path}.items.properties[{key}]");
                    match items.properties.get(&**key) {
                        None => {
                            let why = "entries must all be names of item properties";
                            causes.push(Cause::invalid(field, shown, why));
                        }
                        Some(of) if !is_scalar(of) => {
                            let why = "must be a scalar type if the parent array's x-kubernetes-list-type is map";
                            causes.push(Cause::invalid(format!("{item}.type"), shown, why));
                        }
                        Some(of) if of.default.is_none() && !items.rules.requires(key) => {
                            let message = "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                            let cause = Cause::required(format!("{item}.default"));
                            causes.push(Cause { message: message.into(), ..cause });
                        }
                        Some(_) => {}
                    }
                }
            }
            Topology::Unsaid | Topology::Atomic => {}
        }
    }

    /// A default must be a value of the schema.
    fn check_default(&self, path: &str, causes: &mut Vec<Cause>) {
        let Some(default) = &self.default else { return };
        let mut pruned = default.clone();
        self.prune(&mut pruned, false);
        let path = format!("{path}.default");
        if pruned != *default {
            causes.push(Cause::invalid(&path, default, "must not have unknown fields"));
        }
        // What the default leaves out has defaults of its own.
        self.fill(&mut pruned);
        self.validate(&pruned, &path, causes);
        self.validate_rules(&pruned, None, &path, causes);
    }

    /// The schema of the field `name`.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// The type, as messages say it.
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            Some(kind) => kind.as_str(),
            None if self.int_or_string => "integer or string",
            None => "object",
        }
    }

    /// Removes the fields that the schema does not have. `top` objects have kind and metadata.
    pub(super) fn prune(&self, value: &mut Value, top: bool) {
        match value {
            Value::Object(fields) => {
                let own = |name: &str| {
                    (top || self.embedded) && matches!(name, "apiVersion" | "kind" | "metadata")
                };
                fields.retain(|name, _| {
                    self.preserve
                        || self.additional.is_some()
                        || self.properties.contains_key(name)
                        || own(name)
                });
                for (name, value) in fields.iter_mut().filter(|(name, _)| !own(name)) {
                    if let Some(schema) = self.field(name) {
                        schema.prune(value, false);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|element| items.prune(element, false));
                }
            }
            _ => {}
        }
    }

    /// Sets the defaults of fields that are absent, or null where that is not allowed.
    pub(super) fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, schema) in &self.properties {
                    let is_absent = match fields.get(name) {
                        None => true,
                        Some(value) => value.is_null() && !schema.nullable,
                    };
                    if let (true, Some(default)) = (is_absent, &schema.default) {
                        fields.insert(name.clone(), default.clone());
                    } else if is_absent {
                        fields.remove(name);
                    }
                }
                for (name, value) in fields.iter_mut() {
                    if let Some(schema) = self.field(name) {
                        schema.fill(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|element| items.fill(element));
                }
            }
            _ => {}
        }
    }
}

fn pattern(schema: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<Regex> {
    let text = schema["pattern"].as_str().filter(|text| !text.is_empty())?;
    let regex = RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
    if let Err(error) = &regex {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &schema["pattern"], &why));
    }
    regex.ok()
}

/// Whether `value` is an empty object or absent.
pub(super) fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(value: &Value) -> Schema {
        let mut causes = Vec::new();
        let schema = Schema::parse(value, "s", Position::ROOT, &mut causes);
        assert_eq!(causes, []);
        schema
    }

    fn widget() -> Schema {
        schema(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "port": {"x-kubernetes-int-or-string": true},
                "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            },
        }}}))
    }

    #[test]
    fn objects_are_pruned_and_defaulted() {
        let mut object = json!({"apiVersion": "x/v1", "kind": "W", "metadata": {"name": "w", "x": 1}, "other": 1,
            "spec": {"size": 1, "x": 1, "free": {"y": [1]}, "labels": {"any": "z"}, "name": null}});
        let widget = widget();
        widget.prune(&mut object, true);
        widget.fill(&mut object);
        let expected = json!({"apiVersion": "x/v1", "kind": "W", "metadata": {"name": "w", "x": 1},
            "spec": {"size": 1, "mode": "fast", "free": {"y": [1]}, "labels": {"any": "z"}}});
        assert_eq!(object, expected);
    }

    #[test]
    fn objects_are_validated() {
        let fields = |spec: Value| {
            let mut causes = Vec::new();
            widget().validate(&json!({"spec": spec}), "", &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let right =
            json!({"size": 3, "mode": "slow", "port": "http", "tags": ["a"], "one": {"a": ""}});
        assert_eq!(fields(right), Vec::<String>::new());
        for (wrong, field) in [
            (json!({}), "spec.size"),
            (json!({"size": "1"}), "spec.size"),
            (json!({"size": 0}), "spec.size"),
            (json!({"size": 1.5}), "spec.size"),
            (json!({"size": 1, "mode": "none"}), "spec.mode"),
            (json!({"size": 1, "name": "ABC"}), "spec.name"),
            (json!({"size": 1, "name": "abcd"}), "spec.name"),
            (json!({"size": 1, "port": true}), "spec.port"),
            (json!({"size": 1, "tags": ["a", "b", "c"]}), "spec.tags"),
            (json!({"size": 1, "tags": [1]}), "spec.tags[0]"),
            (json!({"size": 1, "labels": {"a": 1}}), "spec.labels.a"),
            (json!({"size": 1, "one": {"a": "", "b": ""}}), "spec.one"),
        ] {
            assert_eq!(fields(wrong.clone()), [field], "{wrong}");
        }
    }

    #[test]
    fn what_is_not_structural_is_refused() {
        for (wrong, field) in [
            (json!({}), "s.type"),
            (json!({"type": "text"}), "s.type"),
            (json!({"type": "array"}), "s.items"),
            (json!({"type": "string", "pattern": "("}), "s.pattern"),
            (json!({"type": "object", "$ref": "#/x"}), "s.$ref"),
            (
                json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.x"}]}),
                "s.x-kubernetes-validations[0].rule",
            ),
            (json!({"type": "object", "properties": {"a": {}}}), "s.properties[a].type"),
        ] {
            let mut causes = Vec::new();
            Schema::parse(&wrong, "s", Position::ROOT, &mut causes);
            let fields: Vec<_> = causes.into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [field], "{wrong}");
        }
    }
}
