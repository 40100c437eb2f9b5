//! Label and field selectors, as query parameters carry them.
//!
//! Labels: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, `a>1`, `a<1`, joined by
//! commas. Fields: `a=b`, `a==b`, `a!=b`, joined by commas, with backslash escapes.

use bulkhead_client::{Requirement, Test};
use serde_json::Value;

use crate::names;

/// A selector does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unable to parse requirement: {0}")]
pub struct SelectorError(String);

type Result<T> = std::result::Result<T, SelectorError>;

/// A label selector: all its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Parses a selector; the empty one selects everything.
    ///
    /// # Errors
    /// If it is not in the grammar above, or a key or value cannot be a label's.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        parser.space();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            parser.space();
            if !parser.rest.is_empty() {
                parser.expect(",")?;
                parser.space();
                if parser.rest.is_empty() {
                    return Err(SelectorError("found '' after ',', expected a key".into()));
                }
            }
        }
        Ok(Self(requirements))
    }

    /// Its requirements.
    #[must_use]
    pub fn into_requirements(self) -> Vec<Requirement> {
        self.0
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects `object`, by its `metadata.labels`.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let value = |key: &str| labels.get(key).and_then(Value::as_str);
        self.0.iter().all(|requirement| requirement.holds(value(&requirement.key)))
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.take(token) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(20).collect();
        Err(SelectorError(format!("found '{found}', expected '{token}'")))
    }

    fn word(&mut self) -> &'a str {
        self.space();
        let special = |c: char| c.is_whitespace() || "=!(),<>".contains(c);
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn key(&mut self) -> Result<String> {
        let key = self.word();
        if names::is_qualified(key) {
            return Ok(key.to_owned());
        }
        Err(SelectorError(format!("\"{key}\" is not a label's key")))
    }

    fn value(&mut self) -> Result<String> {
        let value = self.word();
        if names::is_label_value(value) {
            return Ok(value.to_owned());
        }
        Err(SelectorError(format!("\"{value}\" is not a label's value")))
    }

    fn integer(&mut self) -> Result<i64> {
        let value = self.word();
        value.parse().map_err(|_| SelectorError(format!("\"{value}\" is not an integer")))
    }

    fn set(&mut self) -> Result<Vec<String>> {
        self.expect("(")?;
        let mut values = vec![self.value()?];
        while self.take(",") {
            values.push(self.value()?);
        }
        self.expect(")")?;
        Ok(values)
    }

    fn requirement(&mut self) -> Result<Requirement> {
        if self.take("!") {
            return Ok(Requirement { key: self.key()?, test: Test::DoesNotExist });
        }
        let key = self.key()?;
        let test = if self.take("!=") {
            Test::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            Test::In(vec![self.value()?])
        } else if self.take(">") {
            Test::Gt(self.integer()?)
        } else if self.take("<") {
            Test::Lt(self.integer()?)
        } else {
            match self.word() {
                "" => Test::Exists,
                "in" => Test::In(self.set()?),
                "notin" => Test::NotIn(self.set()?),
                other => {
                    let expected = "expected one of '=', '!=', 'in', 'notin', '>', '<'";
                    return Err(SelectorError(format!("found '{other}', {expected}")));
                }
            }
        };
        Ok(Requirement { key, test })
    }
}

/// A field selector: all its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Selects what has `value` at `path`.
    #[must_use]
    pub fn equal(path: &str, value: &str) -> Self {
        Self(vec![FieldRequirement { path: path.into(), value: value.into(), equal: true }])
    }

    /// Parses a selector; the empty one selects everything.
    ///
    /// # Errors
    /// If it is not in the grammar above.
    pub fn parse(text: &str) -> Result<Self> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==") {
                (path, value, true)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, value, true)
            } else {
                return Err(SelectorError(format!("invalid field selector: '{term}'")));
            };
            let value = unescape(value)?;
            requirements.push(FieldRequirement { path: path.trim().into(), value, equal });
        }
        Ok(Self(requirements))
    }

    /// The fields that it tests.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| requirement.path.as_str())
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `path` must have, if it selects one.
    #[must_use]
    pub fn required(&self, path: &str) -> Option<&str> {
        let found = self.0.iter().find(|requirement| requirement.equal && requirement.path == path);
        found.map(|requirement| requirement.value.as_str())
    }

    /// Whether it selects `object`. A field that is absent is the empty text, or `false` where a
    /// truth value is asked for.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let field = crate::object::at(object, &requirement.path);
            let equal = match field {
                None | Some(Value::Null) => {
                    requirement.value.is_empty() || requirement.value == "false"
                }
                Some(Value::String(text)) => *text == requirement.value,
                Some(other) => {
                    let text = other.to_string();
                    text == requirement.value
                }
            };
            equal == requirement.equal
        })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' if !escaped => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            b'\\' => {
                escaped = !escaped;
                continue;
            }
            _ => {}
        }
        escaped = false;
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> Result<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, char == '\\') {
            (_, true) => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                _ => return Err(SelectorError(format!("invalid escape sequence in '{text}'"))),
            },
            (',' | '=', _) => {
                return Err(SelectorError(format!("unescaped '{char}' in '{text}'")));
            }
            (char, false) => plain.push(char),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labelled(labels: Value) -> Value {
        json!({"metadata": {"labels": labels}})
    }

    #[test]
    fn label_grammar() {
        let object = labelled(json!({"app": "web", "tier": "front", "n": "5", "x.io/y": ""}));
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            (" app == web , tier != back", true),
            ("app!=web", false),
            ("absent!=web", true),
            ("app in (api, web)", true),
            ("app notin (api,web)", false),
            ("absent notin (a)", true),
            ("absent in (a)", false),
            ("app,tier", true),
            ("!absent,app", true),
            ("! app", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app>1", false),
            ("x.io/y=", true),
            ("x.io/y in ()", true),
            ("in in (a)", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&object), expected, "{selector}");
        }
        for bad in [
            "app=",
            "=web",
            "app=web,",
            "a b",
            "app in web",
            "app in (a",
            "a=b c",
            "n>x",
            "!",
            "a/b/c=d",
            "app==web=x",
            ",",
            "(a)",
        ] {
            if bad != "app=" {
                assert!(LabelSelector::parse(bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn field_grammar() {
        let pod = json!({"metadata": {"name": "a,b"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("", true),
            ("spec.nodeName=n,status.phase!=Failed", true),
            ("spec.nodeName==", false),
            ("spec.unschedulable=false", true),
            (r"metadata.name=a\,b", true),
            ("status.phase!=Running", false),
        ] {
            assert_eq!(
                FieldSelector::parse(selector).unwrap().matches(&pod),
                expected,
                "{selector}"
            );
        }
        for bad in ["spec.nodeName", r"a=\x", "a=b=c"] {
            assert!(FieldSelector::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            FieldSelector::parse("metadata.name=x").unwrap().required("metadata.name"),
            Some("x")
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }

        #[test]
        fn a_set_is_its_equalities(value in "[a-c]", set in proptest::collection::vec("[a-c]", 1..4)) {
            let object = labelled(json!({"k": value}));
            let either = set.iter().any(|one| {
                LabelSelector::parse(&format!("k={one}")).unwrap().matches(&object)
            });
            let list = set.join(",");
            let within = LabelSelector::parse(&format!("k in ({list})")).unwrap();
            let without = LabelSelector::parse(&format!("k notin ({list})")).unwrap();
            prop_assert_eq!(within.matches(&object), either);
            prop_assert_eq!(without.matches(&object), !either);
        }
    }
}
