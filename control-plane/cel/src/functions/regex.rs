//! Patterns.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-regex-library>

use std::sync::Arc;

use ::regex::{Regex, RegexBuilder};

use crate::budget::Budget;
use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Result, Value};

/// A pattern may compile to so many bytes.
const MAX_SIZE: usize = 1 << 18;

fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_SIZE)
        .dfa_size_limit(MAX_SIZE)
        .build()
        .map_err(|error| format!("error parsing regexp: {error}"))
}

/// A pattern that a program writes is compiled with it.
fn constant(pattern: &str) -> std::result::Result<Option<Value<'static>>, String> {
    compile(pattern).map(|regex| Some(Value::Pattern(Arc::new(regex))))
}

/// The pattern in an argument. One that is only known now costs its making.
fn pattern(argument: &Value<'_>, text: &str, budget: &Budget) -> Result<Arc<Regex>> {
    let regex = match argument {
        Value::Pattern(regex) => Arc::clone(regex),
        Value::String(pattern) => {
            // A short pattern can be a large machine: `[α-ω]{999}`.
            budget.spend(pattern.len().saturating_mul(50) + 1_000)?;
            Arc::new(compile(pattern).map_err(EvalError::failed)?)
        }
        _ => return mismatch(),
    };
    budget.bytes(text.len().saturating_mul(regex.as_str().len() / 4 + 1))?;
    Ok(regex)
}

fn matches<'a>(arguments: &[Value<'a>], budget: &Budget) -> Result<Value<'a>> {
    match arguments {
        [Value::String(text), regex] => {
            Ok(Value::Bool(pattern(regex, text, budget)?.is_match(text)))
        }
        _ => mismatch(),
    }
}

fn find_all<'a>(text: &str, regex: &Value<'_>, limit: usize, budget: &Budget) -> Result<Value<'a>> {
    let regex = pattern(regex, text, budget)?;
    let mut found = Vec::new();
    for one in regex.find_iter(text).take(limit) {
        budget.bytes(one.len())?;
        found.push(Value::text(one.as_str()));
    }
    Ok(Value::list(found))
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::member("matches", "string, string", "bool", matches).with_constant(constant),
    Declared::global("matches", "string, string", "bool", matches).with_constant(constant),
    Declared::member("find", "string, string", "string", |a, budget| match a {
        [Value::String(text), regex] => {
            let regex = pattern(regex, text, budget)?;
            Ok(Value::text(regex.find(text).map_or("", |found| found.as_str())))
        }
        _ => mismatch(),
    })
    .with_constant(constant),
    Declared::member("findAll", "string, string", "list<string>", |a, budget| match a {
        [Value::String(text), regex] => find_all(text, regex, usize::MAX, budget),
        _ => mismatch(),
    })
    .with_constant(constant),
    Declared::member("findAll", "string, string, int", "list<string>", |a, budget| match a {
        [Value::String(text), regex, Value::Int(limit)] => {
            find_all(text, regex, usize::try_from(*limit).unwrap_or(usize::MAX), budget)
        }
        _ => mismatch(),
    }),
];
