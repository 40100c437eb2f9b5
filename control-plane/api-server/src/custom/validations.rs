//! `x-kubernetes-validations`: rules in CEL, which hold of the values of a schema.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>
//!
//! They are compiled with the definition, and run over objects that are right by the rest of their
//! schema. All rules of an object share a budget; when it is spent, the object is refused.

use bulkhead_cel::{Budget, EvalError, Expected, Program, Type};
use serde_json::{Value, json};

use super::structural::Schema;
use super::types;
use crate::object;
use crate::schema::Topology;
use crate::status::Cause;

/// Where rules are.
pub(super) const FIELD: &str = "x-kubernetes-validations";
/// A message may be so long, in characters.
const MAX_MESSAGE: usize = 5 << 10;
const REASONS: [&str; 4] =
    ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];

/// A rule.
#[derive(Debug)]
pub(super) struct Validation {
    rule: Program,
    text: String,
    /// What to say if it does not hold; empty for the rule itself.
    message: String,
    message_expression: Option<Program>,
    reason: &'static str,
    /// The field that it is about, behind the path of the value.
    field_path: String,
    optional_old: bool,
}

/// The rules of the schema `value` at `path`, with what is wrong with them in `causes`. Values of a
/// schema that is not `correlatable` have no old ones.
pub(super) fn parse(
    value: &Value,
    path: &str,
    correlatable: bool,
    causes: &mut Vec<Cause>,
) -> Vec<Validation> {
    let list = object::list(value, FIELD);
    if list.is_empty() {
        return Vec::new();
    }
    let is_root = value.pointer("/x-kubernetes-embedded-resource") != Some(&Value::Bool(true))
        && path.ends_with(".openAPIV3Schema");
    let Some(ty) = types::of(value, "object", is_root) else {
        let why = "rules need a schema that says the type of its values";
        causes.push(Cause::forbidden(format!("{path}.{FIELD}"), why));
        return Vec::new();
    };
    let mut parsed = Vec::new();
    for (index, one) in list.iter().enumerate() {
        let path = format!("{path}.{FIELD}[{index}]");
        if list.iter().take(index).any(|other| other["rule"] == one["rule"]) {
            causes.push(Cause::duplicate(&path, &json!({"rule": one["rule"]})));
        }
        parsed.extend(validation(value, one, &ty, &path, correlatable, causes));
    }
    parsed
}

fn validation(
    schema: &Value,
    one: &Value,
    ty: &Type,
    path: &str,
    correlatable: bool,
    causes: &mut Vec<Cause>,
) -> Option<Validation> {
    let text = object::text(one, "rule").trim();
    if text.is_empty() {
        let message = "Required value: rule is not specified".into();
        causes.push(Cause { message, ..Cause::required(format!("{path}.rule")) });
        return None;
    }
    let optional_old = one["optionalOldSelf"] == true;
    let message = object::text(one, "message");
    let before = causes.len();
    if message.contains('\n') {
        let why = "message must not contain line breaks";
        causes.push(Cause::invalid(format!("{path}.message"), &one["message"], why));
    }
    if message.is_empty() && text.contains('\n') {
        let message = "Required value: message must be specified if rule contains line breaks";
        let cause = Cause::required(format!("{path}.message"));
        causes.push(Cause { message: message.into(), ..cause });
    }
    let reason = match object::text(one, "reason") {
        "" => Some(REASONS[0]),
        said => REASONS.into_iter().find(|reason| *reason == said),
    };
    if reason.is_none() {
        causes.push(Cause::not_supported(format!("{path}.reason"), &one["reason"], &REASONS));
    }
    let mut compile = |field: &str, expected: Expected| {
        let text = object::text(one, field);
        let program = Program::compile(text.trim(), ty, optional_old, expected);
        program
            .map_err(|error| {
                let path = format!("{path}.{field}");
                causes.push(Cause::invalid(path, one, &error.to_string()));
            })
            .ok()
    };
    let rule = compile("rule", Expected::Bool);
    let message_expression = match object::text(one, "messageExpression") {
        "" => None,
        _ => compile("messageExpression", Expected::String),
    };
    let field_path = field_path(schema, object::text(one, "fieldPath"));
    if field_path.is_none() {
        let why = "fieldPath must be a valid path of fields below the rule's, such as .spec.size";
        causes.push(Cause::invalid(format!("{path}.fieldPath"), &one["fieldPath"], why));
    }
    let rule = rule?;
    if rule.uses_old_self() && !correlatable {
        let why = "oldSelf cannot be used on the uncorrelatable portion of the schema: elements of lists are known again by x-kubernetes-list-type: map alone";
        causes.push(Cause::invalid(format!("{path}.rule"), one, why));
    }
    if optional_old && !rule.uses_old_self() {
        let why = "may not be set if oldSelf is not used in rule";
        causes.push(Cause::invalid(format!("{path}.optionalOldSelf"), &json!(true), why));
    }
    (causes.len() == before).then_some(Validation {
        rule,
        text: text.into(),
        message: message.into(),
        message_expression,
        reason: reason?,
        field_path: field_path?,
        optional_old,
    })
}

/// A path such as `.spec['a.b']`, of fields that the schema has; as causes write it.
fn field_path(schema: &Value, text: &str) -> Option<String> {
    let (mut rest, mut at, mut path) = (text.trim(), schema, String::new());
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix("['") {
            Some(inside) => inside.split_once("']")?,
            None => {
                let after = rest.strip_prefix('.')?;
                after.split_at(after.find(['.', '[']).unwrap_or(after.len()))
            }
        };
        let of_map = Some(&at["additionalProperties"]).filter(|of| of.is_object());
        match at["properties"].get(name) {
            Some(field) => {
                at = field;
                path.push('.');
                path.push_str(name);
            }
            None => {
                at = of_map?;
                path.push_str(&format!("[{name}]"));
            }
        }
        rest = after;
    }
    Some(path)
}

/// Why no more rules are looked at.
struct Stop;

impl Schema {
    /// Reports which rules do not hold of `value`, at `path`, which was `old`.
    pub(super) fn validate_rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        // Why it stopped is a cause.
        let _ = self.run_rules(value, old, path, &Budget::new(), causes);
    }

    fn run_rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &Budget,
        causes: &mut Vec<Cause>,
    ) -> Result<(), Stop> {
        if !self.has_rules || value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        for validation in &self.validations {
            if validation.rule.uses_old_self() && old.is_none() && !validation.optional_old {
                continue;
            }
            let result = validation.check(value, old, path, self.type_name(), budget, causes);
            result.inspect_err(|Stop| {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                causes.push(Cause::invalid(path, &json!(self.type_name()), why));
            })?;
        }
        let dot = if path.is_empty() { "" } else { "." };
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let Some(schema) = self.field(name) else { continue };
                    if schema.has_rules {
                        let old = old.and_then(|old| old.get(name));
                        schema.run_rules(
                            value,
                            old,
                            &format!("{path}{dot}{name}"),
                            budget,
                            causes,
                        )?;
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = self.items.as_deref().filter(|items| items.has_rules) else {
                    return Ok(());
                };
                for (index, element) in list.iter().enumerate() {
                    let old = old.and_then(|old| self.counterpart(element, old, budget));
                    items.run_rules(element, old, &format!("{path}[{index}]"), budget, causes)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The element of the `old` list that has the keys of `element`.
    fn counterpart<'v>(
        &self,
        element: &Value,
        old: &'v Value,
        budget: &Budget,
    ) -> Option<&'v Value> {
        let Topology::Map(keys) = &self.topology else { return None };
        if budget.is_spent() {
            return None;
        }
        let same = |other: &&Value| keys.iter().all(|key| other.get(&**key) == element.get(&**key));
        old.as_array()?.iter().find(same)
    }
}

impl Validation {
    fn check(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        kind: &str,
        budget: &Budget,
        causes: &mut Vec<Cause>,
    ) -> Result<(), Stop> {
        let say = |field: String, why: &str| Cause::invalid(field, &json!(kind), why);
        let named = if self.message.is_empty() { &self.text } else { &self.message };
        match self.rule.holds(value, old, budget) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(EvalError::OverBudget) => {
                let why = format!("call cost exceeds limit for rule: {}", self.text);
                causes.push(say(path.into(), &why));
                return Err(Stop);
            }
            Err(EvalError::Failed(why)) => {
                causes.push(say(path.into(), &format!("{why} evaluating rule: {named}")));
                return Ok(());
            }
        }
        let made = match &self.message_expression {
            Some(expression) => match expression.text(value, old, budget) {
                Err(EvalError::OverBudget) => return Err(Stop),
                // One that fails is as if it was not there.
                other => other.ok().map(|text| text.trim().to_owned()),
            },
            None => None,
        };
        let is_message = |text: &String| {
            !text.is_empty() && !text.contains('\n') && text.chars().count() <= MAX_MESSAGE
        };
        let message = match made.filter(is_message) {
            Some(made) => made,
            None if self.message.is_empty() => format!("failed rule: {}", self.text),
            None => self.message.clone(),
        };
        let field = format!("{path}{}", self.field_path);
        let field = field.strip_prefix('.').unwrap_or(&field).to_owned();
        causes.push(match self.reason {
            "FieldValueForbidden" => Cause::forbidden(field, &message),
            "FieldValueRequired" => {
                Cause { message: format!("Required value: {message}"), ..Cause::required(field) }
            }
            "FieldValueDuplicate" => Cause::duplicate(field, value),
            _ => say(field, &message),
        });
        Ok(())
    }
}
