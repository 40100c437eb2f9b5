//! Semantic versions.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-semver-library>

use std::cmp::Ordering;

use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Opaque, Result, Value};

/// A version, <https://semver.org/spec/v2.0.0.html>. What is built from is not compared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Semver {
    numbers: [u64; 3],
    before: Vec<Identifier>,
}

/// Numbers come before words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

impl Semver {
    fn order(&self, other: &Self) -> Ordering {
        // What comes before a release is less than it.
        let before = match (self.before.is_empty(), other.before.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.before.cmp(&other.before),
        };
        self.numbers.cmp(&other.numbers).then(before)
    }
}

fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn parse(text: &str) -> Option<Semver> {
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    if build.is_some_and(|build| !build.split('.').all(is_word)) {
        return None;
    }
    let (core, before) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
    let identifier = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match is_number {
            true => number(text).map(Identifier::Number),
            false => is_word(text).then(|| Identifier::Word(text.into())),
        }
    };
    let before = before.map(|before| before.split('.').map(identifier).collect::<Option<_>>());
    Some(Semver { numbers: numbers.try_into().ok()?, before: before.unwrap_or(Some(Vec::new()))? })
}

/// `v1.2` as `1.2.0`.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let trim = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    };
    let mut parts: Vec<String> = core.split('.').map(trim).collect();
    while parts.len() < 3 {
        parts.push("0".into());
    }
    format!("{}{rest}", parts.join("."))
}

fn versions<'v>(arguments: &'v [Value<'_>]) -> Result<Vec<&'v Semver>> {
    let version = |value: &'v Value<'_>| match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Semver(version) => Ok(version),
            _ => mismatch(),
        },
        _ => mismatch(),
    };
    arguments.iter().map(version).collect()
}

fn compare(arguments: &[Value<'_>]) -> Result<Ordering> {
    match versions(arguments)?.as_slice() {
        [a, b] => Ok(a.order(b)),
        _ => mismatch(),
    }
}

fn part<'a>(arguments: &[Value<'a>], index: usize) -> Result<Value<'a>> {
    match versions(arguments)?.as_slice() {
        [version] => {
            let number = version.numbers.get(index).copied().unwrap_or_default();
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => mismatch(),
    }
}

fn made<'a>(text: &str) -> Result<Value<'a>> {
    let why = || EvalError::failed(format!("\"{text}\" is not a semantic version"));
    Ok(Value::opaque(Opaque::Semver(parse(text).ok_or_else(why)?)))
}

fn read(text: &str, normalize: bool) -> String {
    if normalize { normalized(text) } else { text.to_owned() }
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("semver", "string", "semver", |a, _| match a {
        [Value::String(text)] => made(text),
        _ => mismatch(),
    }),
    Declared::global("semver", "string, bool", "semver", |a, _| match a {
        [Value::String(text), Value::Bool(normalize)] => made(&read(text, *normalize)),
        _ => mismatch(),
    }),
    Declared::global("isSemver", "string", "bool", |a, _| match a {
        [Value::String(text)] => Ok(Value::Bool(parse(text).is_some())),
        _ => mismatch(),
    }),
    Declared::global("isSemver", "string, bool", "bool", |a, _| match a {
        [Value::String(text), Value::Bool(normalize)] => {
            Ok(Value::Bool(parse(&read(text, *normalize)).is_some()))
        }
        _ => mismatch(),
    }),
    Declared::member("major", "semver", "int", |a, _| part(a, 0)),
    Declared::member("minor", "semver", "int", |a, _| part(a, 1)),
    Declared::member("patch", "semver", "int", |a, _| part(a, 2)),
    Declared::member("isLessThan", "semver, semver", "bool", |a, _| {
        Ok(Value::Bool(compare(a)?.is_lt()))
    }),
    Declared::member("isGreaterThan", "semver, semver", "bool", |a, _| {
        Ok(Value::Bool(compare(a)?.is_gt()))
    }),
    Declared::member("compareTo", "semver, semver", "int", |a, _| {
        Ok(Value::Int(compare(a)? as i64))
    }),
];
