//! A requirement on a label or field: what label selectors and node selectors are made of.

use std::fmt;

/// What the value of a key must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The key.
    pub key: String,
    /// What its value must be.
    pub test: Test,
}

/// A test of a value, which may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// It is one of these. Of none, it never holds.
    In(Vec<String>),
    /// It is absent or none of these.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
    /// It is a number greater than this.
    Gt(i64),
    /// It is a number less than this.
    Lt(i64),
}

impl Requirement {
    /// Whether `value`, which the key has, is as required.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let is = |values: &[String]| value.is_some_and(|value| values.iter().any(|v| v == value));
        let number = || value?.parse::<i64>().ok();
        match &self.test {
            Test::In(values) => is(values),
            Test::NotIn(values) => !is(values),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Gt(bound) => number().is_some_and(|number| number > *bound),
            Test::Lt(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl fmt::Display for Requirement {
    /// As query parameters carry it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Test::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Test::Exists => f.write_str(key),
            Test::DoesNotExist => write!(f, "!{key}"),
            Test::Gt(bound) => write!(f, "{key}>{bound}"),
            Test::Lt(bound) => write!(f, "{key}<{bound}"),
        }
    }
}
