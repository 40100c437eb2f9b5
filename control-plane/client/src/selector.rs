//! Label selectors as objects carry them: `metav1.LabelSelector`, and plain maps of labels.

use std::fmt;

use serde_json::Value;

use crate::object;
use crate::requirement::{Requirement, Test};

/// A label selector: all its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

/// A selector has an operator that does not exist, or values that do not go with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid label selector operator for these values")]
pub struct SelectorError(String);

impl Selector {
    /// Reads a `LabelSelector`: `matchLabels` and `matchExpressions`. The empty one selects
    /// everything.
    ///
    /// # Errors
    /// If an expression is not valid.
    pub fn read(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = labels(&selector["matchLabels"]);
        for expression in object::list(selector, "matchExpressions") {
            let values: Vec<String> = object::list(expression, "values")
                .iter()
                .filter_map(|value| value.as_str().map(Into::into))
                .collect();
            let operator = object::text(expression, "operator");
            let test = match (operator, values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                _ => return Err(SelectorError(operator.into())),
            };
            requirements.push(Requirement { key: object::text(expression, "key").into(), test });
        }
        Ok(Self(requirements))
    }

    /// A selector of what has all the labels of a map.
    #[must_use]
    pub fn of_labels(map: &Value) -> Self {
        Self(labels(map))
    }

    /// A selector of what meets all requirements.
    #[must_use]
    pub fn of(requirements: Vec<Requirement>) -> Self {
        Self(requirements)
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects what has these labels.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        let value = |key: &str| labels.get(key).and_then(Value::as_str);
        self.0.iter().all(|requirement| requirement.holds(value(&requirement.key)))
    }

    /// Whether it selects `object`, by its `metadata.labels`.
    #[must_use]
    pub fn selects(&self, object: &Value) -> bool {
        self.matches(&object["metadata"]["labels"])
    }
}

fn labels(map: &Value) -> Vec<Requirement> {
    let entries = map.as_object().into_iter().flatten();
    let equal = |(key, value): (&String, &Value)| Requirement {
        key: key.clone(),
        test: Test::In(vec![value.as_str().unwrap_or_default().into()]),
    };
    entries.map(equal).collect()
}

impl fmt::Display for Selector {
    /// As query parameters carry it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requirements_hold_together() {
        let selector = Selector::read(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "zone", "operator": "NotIn", "values": ["x"]},
            ],
        }))
        .unwrap();
        assert!(selector.matches(&json!({"app": "web", "tier": "b"})));
        for labels in [
            json!(null),
            json!({"app": "web"}),
            json!({"app": "web", "tier": "c"}),
            json!({"app": "web", "tier": "a", "old": ""}),
            json!({"app": "web", "tier": "a", "zone": "x"}),
        ] {
            assert!(!selector.matches(&labels), "{labels}");
        }
        assert_eq!(selector.to_string(), "app=web,tier in (a,b),!old,zone notin (x)");
    }

    #[test]
    fn what_is_no_selector() {
        for (operator, values) in [("In", json!([])), ("Exists", json!(["a"])), ("Like", json!([]))]
        {
            let expression = json!({"key": "k", "operator": operator, "values": values});
            assert!(Selector::read(&json!({"matchExpressions": [expression]})).is_err());
        }
    }
}
