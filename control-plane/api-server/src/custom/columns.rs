//! The columns that a CustomResourceDefinition gives its kind, and the JSON paths of their cells.

use serde_json::Value;

use crate::object;
use crate::status::Cause;

/// A column whose cells lie at a path.
#[derive(Debug, Clone, PartialEq)]
pub struct PathColumn {
    /// Heading.
    pub name: String,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub kind: String,
    /// `name` and the like, or empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0: always shown; above: in the wide table.
    pub priority: u64,
    path: Vec<Step>,
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// The elements whose field is this text.
    Where(String, String),
}

impl PathColumn {
    /// The column that `value` writes.
    ///
    /// # Errors
    /// If its path is not one of fields, indexes and equality filters.
    pub(super) fn parse(value: &Value, path: &str) -> Result<Self, Cause> {
        let text = object::text(value, "jsonPath");
        let steps = parse(text).ok_or_else(|| {
            let why =
                "only fields, [INDEX], [*] and [?(@.FIELD==\"VALUE\")] are supported in paths";
            Cause::invalid(format!("{path}.jsonPath"), &value["jsonPath"], why)
        })?;
        let kind = object::text(value, "type");
        let kinds = ["boolean", "date", "integer", "number", "string"];
        if !kinds.contains(&kind) {
            return Err(Cause::not_supported(format!("{path}.type"), &value["type"], &kinds));
        }
        Ok(Self {
            name: object::text(value, "name").into(),
            kind: kind.into(),
            format: object::text(value, "format").into(),
            description: object::text(value, "description").into(),
            priority: value["priority"].as_u64().unwrap_or(0),
            path: steps,
        })
    }

    /// When objects were made: the column of kinds that have none of their own.
    pub(super) fn age() -> Self {
        let field = |name: &str| Step::Field(name.into());
        Self {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: "When the object was created".into(),
            priority: 0,
            path: vec![field("metadata"), field("creationTimestamp")],
        }
    }

    /// The cell of an object.
    #[must_use]
    pub fn cell(&self, object: &Value) -> Value {
        let found = select(object, &self.path);
        let Some(first) = found.first() else { return Value::Null };
        match (self.kind.as_str(), first) {
            ("date", Value::String(time)) => crate::kinds::age(time).into(),
            ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => {
                (*first).clone()
            }
            ("string", _) => {
                let text = found.iter().map(|one| match one {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                text.collect::<Vec<_>>().join(",").into()
            }
            _ => Value::Null,
        }
    }
}

fn select<'a>(object: &'a Value, path: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in path {
        found = found
            .into_iter()
            .flat_map(|value| match step {
                Step::Field(name) => value.get(name).into_iter().collect::<Vec<_>>(),
                Step::Index(index) => value.get(index).into_iter().collect(),
                Step::All => value.as_array().into_iter().flatten().collect(),
                Step::Where(field, text) => {
                    let list = value.as_array().into_iter().flatten();
                    list.filter(|one| object::text(one, field) == text).collect()
                }
            })
            .collect();
    }
    found
}

/// A path such as `.status.conditions[?(@.type=="Ready")].status`; dots in names are `\.`.
fn parse(text: &str) -> Option<Vec<Step>> {
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let mut rest = text.strip_prefix('$').unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (inside, after) = bracket.split_once(']')?;
            steps.push(bracketed(inside)?);
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.')?;
        let (mut name, mut end, mut escaped) = (String::new(), rest.len(), false);
        for (index, c) in rest.char_indices() {
            match c {
                '\\' if !escaped => escaped = true,
                '.' | '[' if !escaped => {
                    end = index;
                    break;
                }
                c => {
                    name.push(c);
                    escaped = false;
                }
            }
        }
        if name.is_empty() || name == "*" {
            return None;
        }
        steps.push(Step::Field(name));
        rest = &rest[end..];
    }
    (!steps.is_empty()).then_some(steps)
}

fn bracketed(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (field, value) = filter.split_once("==")?;
        let field = field.trim().strip_prefix("@.")?;
        return Some(Step::Where(field.into(), unquoted(value.trim())?.into()));
    }
    match unquoted(inside) {
        Some(name) => Some(Step::Field(name.into())),
        None => inside.parse().ok().map(Step::Index),
    }
}

fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cell(kind: &str, path: &str) -> Value {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"size": 3, "on": true, "names": ["p", "q"]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let column = json!({"name": "n", "type": kind, "jsonPath": path});
        PathColumn::parse(&column, "c").unwrap().cell(&object)
    }

    #[test]
    fn cells() {
        assert_eq!(cell("integer", ".spec.size"), 3);
        assert_eq!(cell("string", ".spec.size"), "3");
        assert_eq!(cell("boolean", "{.spec.on}"), true);
        assert_eq!(cell("string", r#".status.conditions[?(@.type=="Ready")].status"#), "True");
        assert_eq!(cell("string", ".spec.names[1]"), "q");
        assert_eq!(cell("string", ".spec.names[*]"), "p,q");
        assert_eq!(cell("string", r".metadata.annotations.a\.b/c"), "x");
        assert_eq!(cell("string", ".metadata.annotations['a.b/c']"), "x");
        assert_eq!(cell("string", ".spec.none"), Value::Null);
        assert_eq!(cell("integer", ".spec.names"), Value::Null);
        for wrong in ["", "spec", "..x", ".a[", ".a[?(@.x>1)]", ".a.*"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in r#"[.\[\]?()@=*"'a\\é1]{0,20}"#) {
            let _ = parse(&text);
        }
    }
}
