//! Texts.
//! <https://github.com/google/cel-go/blob/master/ext/README.md#strings>

use crate::budget::Budget;
use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Result, Value};

fn whole(count: usize) -> Value<'static> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Where the character `index` begins, for `index` up to the count of characters.
fn offset(text: &str, index: i64) -> Result<usize> {
    let found = usize::try_from(index)
        .ok()
        .and_then(|index| text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index));
    found.ok_or_else(|| EvalError::failed(format!("index out of range: {index}")))
}

/// A position in bytes as one in characters; -1 of none.
fn position(text: &str, found: Option<usize>) -> Value<'static> {
    match found.and_then(|at| text.get(..at)) {
        Some(before) => whole(before.chars().count()),
        None => Value::Int(-1),
    }
}

fn replace(text: &str, from: &str, to: &str, limit: i64, budget: &Budget) -> Result<String> {
    budget.bytes(text.len())?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count = text.matches(from).take(limit).count();
    budget.bytes(count.saturating_mul(to.len()))?;
    Ok(text.replacen(from, to, limit))
}

fn split<'a>(text: &str, separator: &str, limit: i64, budget: &Budget) -> Result<Value<'a>> {
    budget.bytes(text.len())?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = match (limit, separator) {
        (0, _) => Vec::new(),
        (_, "") => {
            let mut rest = text;
            let mut parts = Vec::new();
            while let Some(c) = rest.chars().next() {
                if parts.len() + 1 == limit {
                    parts.push(Value::text(rest));
                    break;
                }
                let (one, after) = rest.split_at(c.len_utf8());
                parts.push(Value::text(one));
                rest = after;
            }
            parts
        }
        _ => text.splitn(limit, separator).map(Value::text).collect(),
    };
    budget.spend(parts.len())?;
    Ok(Value::list(parts))
}

fn join(list: &crate::value::List<'_>, separator: &str, budget: &Budget) -> Result<String> {
    let mut joined = String::new();
    for (index, one) in list.iter().enumerate() {
        let Value::String(text) = one? else { return mismatch() };
        budget.bytes(text.len() + separator.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&text);
    }
    Ok(joined)
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::member("contains", "string, string", "bool", |a, budget| match a {
        [Value::String(text), Value::String(part)] => {
            budget.bytes(text.len() + part.len())?;
            Ok(Value::Bool(text.contains(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("startsWith", "string, string", "bool", |a, budget| match a {
        [Value::String(text), Value::String(part)] => {
            budget.bytes(part.len())?;
            Ok(Value::Bool(text.starts_with(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("endsWith", "string, string", "bool", |a, budget| match a {
        [Value::String(text), Value::String(part)] => {
            budget.bytes(part.len())?;
            Ok(Value::Bool(text.ends_with(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("charAt", "string, int", "string", |a, budget| match a {
        [Value::String(text), Value::Int(index)] => {
            budget.bytes(text.len())?;
            let rest = text.get(offset(text, *index)?..).unwrap_or_default();
            Ok(Value::text(rest.chars().take(1).collect::<String>()))
        }
        _ => mismatch(),
    }),
    Declared::member("indexOf", "string, string", "int", |a, budget| match a {
        [Value::String(text), Value::String(part)] => {
            budget.bytes(text.len() + part.len())?;
            Ok(position(text, text.find(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("indexOf", "string, string, int", "int", |a, budget| match a {
        [Value::String(text), Value::String(part), Value::Int(start)] => {
            budget.bytes(text.len() + part.len())?;
            let start = offset(text, *start)?;
            let found = text.get(start..).and_then(|rest| rest.find(&**part));
            Ok(position(text, found.map(|at| at + start)))
        }
        _ => mismatch(),
    }),
    Declared::member("lastIndexOf", "string, string", "int", |a, budget| match a {
        [Value::String(text), Value::String(part)] => {
            budget.bytes(text.len() + part.len())?;
            Ok(position(text, text.rfind(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("lastIndexOf", "string, string, int", "int", |a, budget| match a {
        [Value::String(text), Value::String(part), Value::Int(last)] => {
            budget.bytes(text.len() + part.len())?;
            // The match may begin at `last` and no later.
            let end = offset(text, *last)?.saturating_add(part.len()).min(text.len());
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end));
            let before = end.and_then(|end| text.get(..end)).unwrap_or(text);
            Ok(position(text, before.rfind(&**part)))
        }
        _ => mismatch(),
    }),
    Declared::member("lowerAscii", "string", "string", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(Value::text(text.to_ascii_lowercase()))
        }
        _ => mismatch(),
    }),
    Declared::member("upperAscii", "string", "string", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(Value::text(text.to_ascii_uppercase()))
        }
        _ => mismatch(),
    }),
    Declared::member("trim", "string", "string", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(Value::text(text.trim()))
        }
        _ => mismatch(),
    }),
    Declared::member("replace", "string, string, string", "string", |a, budget| match a {
        [Value::String(text), Value::String(from), Value::String(to)] => {
            Ok(Value::text(replace(text, from, to, -1, budget)?))
        }
        _ => mismatch(),
    }),
    Declared::member("replace", "string, string, string, int", "string", |a, budget| match a {
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(limit)] => {
            Ok(Value::text(replace(text, from, to, *limit, budget)?))
        }
        _ => mismatch(),
    }),
    Declared::member("split", "string, string", "list<string>", |a, budget| match a {
        [Value::String(text), Value::String(separator)] => split(text, separator, -1, budget),
        _ => mismatch(),
    }),
    Declared::member("split", "string, string, int", "list<string>", |a, budget| match a {
        [Value::String(text), Value::String(separator), Value::Int(limit)] => {
            split(text, separator, *limit, budget)
        }
        _ => mismatch(),
    }),
    Declared::member("substring", "string, int", "string", |a, budget| match a {
        [Value::String(text), Value::Int(start)] => {
            budget.bytes(text.len())?;
            Ok(Value::text(text.get(offset(text, *start)?..).unwrap_or_default()))
        }
        _ => mismatch(),
    }),
    Declared::member("substring", "string, int, int", "string", |a, budget| match a {
        [Value::String(text), Value::Int(start), Value::Int(end)] => {
            budget.bytes(text.len())?;
            let part = text.get(offset(text, *start)?..offset(text, *end)?);
            let invalid = || EvalError::failed(format!("invalid substring range: {start}, {end}"));
            Ok(Value::text(part.ok_or_else(invalid)?))
        }
        _ => mismatch(),
    }),
    Declared::member("join", "list<string>", "string", |a, budget| match a {
        [Value::List(list)] => Ok(Value::text(join(list, "", budget)?)),
        _ => mismatch(),
    }),
    Declared::member("join", "list<string>, string", "string", |a, budget| match a {
        [Value::List(list), Value::String(separator)] => {
            Ok(Value::text(join(list, separator, budget)?))
        }
        _ => mismatch(),
    }),
    Declared::global("strings.quote", "string", "string", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            let mut quoted = String::from("\"");
            for c in text.chars() {
                match c {
                    '\x07' => quoted.push_str("\\a"),
                    '\x08' => quoted.push_str("\\b"),
                    '\x0c' => quoted.push_str("\\f"),
                    '\n' => quoted.push_str("\\n"),
                    '\r' => quoted.push_str("\\r"),
                    '\t' => quoted.push_str("\\t"),
                    '\x0b' => quoted.push_str("\\v"),
                    '\\' => quoted.push_str("\\\\"),
                    '"' => quoted.push_str("\\\""),
                    c => quoted.push(c),
                }
            }
            quoted.push('"');
            Ok(Value::text(quoted))
        }
        _ => mismatch(),
    }),
    Declared::global("size", "string", "int", size_of_text),
    Declared::member("size", "string", "int", size_of_text),
    Declared::global("size", "bytes", "int", size_of_bytes),
    Declared::member("size", "bytes", "int", size_of_bytes),
];

fn size_of_text<'a>(arguments: &[Value<'a>], budget: &Budget) -> Result<Value<'a>> {
    match arguments {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(whole(text.chars().count()))
        }
        _ => mismatch(),
    }
}

fn size_of_bytes<'a>(arguments: &[Value<'a>], _: &Budget) -> Result<Value<'a>> {
    match arguments {
        [Value::Bytes(bytes)] => Ok(whole(bytes.len())),
        _ => mismatch(),
    }
}
