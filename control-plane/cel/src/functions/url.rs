//! URLs, as Go's `url.ParseRequestURI` reads them: absolute, or a path.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-url-library>

use std::sync::Arc;

use crate::budget::Budget;
use crate::eval::EvalError;
use crate::overload::{Declared, mismatch};
use crate::value::{Map, Opaque, Result, Value};

/// A URL's parts, as they are written.
#[derive(Debug, PartialEq)]
pub(crate) struct Url {
    scheme: String,
    /// The host without brackets and escapes.
    hostname: String,
    /// The host as it is written, with its port.
    host: String,
    port: String,
    path: String,
    query: String,
}

/// `%XX` made bytes again; `None` if an escape or the text is not right.
fn unescape(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = rest.get(..2)?;
                let value = std::str::from_utf8(digits).ok()?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                bytes.push(u8::from_str_radix(value, 16).ok()?);
                rest = rest.get(2..)?;
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return None;
    }
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ if text.starts_with('/') => (String::new(), text),
        _ => return None,
    };
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !before.starts_with('/') {
        return None;
    }
    let (authority, path) = match before.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() => match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        },
        _ => ("", before),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (hostname, port) = match host.strip_prefix('[') {
        Some(inside) => {
            let (name, after) = inside.split_once(']')?;
            (name, after.strip_prefix(':').or(after.is_empty().then_some(""))?)
        }
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !hostname.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']);
    unescape(path, false).filter(|_| is_port && is_host)?;
    Some(Url {
        scheme,
        hostname: unescape(hostname, false)?,
        host: unescape(host, false)?,
        port: port.into(),
        path: path.replace(' ', "%20"),
        query: query.into(),
    })
}

/// Whether it is one.
pub(super) fn is_url(text: &str) -> bool {
    parse(text).is_some()
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn query<'a>(url: &Url, budget: &Budget) -> Result<Value<'a>> {
    budget.bytes(url.query.len())?;
    let mut map: Vec<(String, Vec<Value<'a>>)> = Vec::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) else {
            continue;
        };
        budget.spend(map.len())?;
        match map.iter_mut().find(|(one, _)| *one == key) {
            Some((_, values)) => values.push(Value::text(value)),
            None => map.push((key, vec![Value::text(value)])),
        }
    }
    let entries = map.into_iter().map(|(key, values)| (Value::text(key), Value::list(values)));
    Ok(Value::Map(Map::Made(Arc::new(entries.collect()))))
}

fn part<'a>(arguments: &[Value<'a>], pick: fn(&Url) -> &str) -> Result<Value<'a>> {
    match arguments {
        [Value::Opaque(opaque)] => match &**opaque {
            Opaque::Url(url) => Ok(Value::text(pick(url))),
            _ => mismatch(),
        },
        _ => mismatch(),
    }
}

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("url", "string", "url", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            let why =
                || EvalError::failed(format!("URL parse error during conversion: \"{text}\""));
            Ok(Value::opaque(Opaque::Url(parse(text).ok_or_else(why)?)))
        }
        _ => mismatch(),
    }),
    Declared::global("isURL", "string", "bool", |a, budget| match a {
        [Value::String(text)] => {
            budget.bytes(text.len())?;
            Ok(Value::Bool(parse(text).is_some()))
        }
        _ => mismatch(),
    }),
    Declared::member("getScheme", "url", "string", |a, _| part(a, |url| &url.scheme)),
    Declared::member("getHost", "url", "string", |a, _| part(a, |url| &url.host)),
    Declared::member("getHostname", "url", "string", |a, _| part(a, |url| &url.hostname)),
    Declared::member("getPort", "url", "string", |a, _| part(a, |url| &url.port)),
    Declared::member("getEscapedPath", "url", "string", |a, _| part(a, |url| &url.path)),
    Declared::member("getQuery", "url", "map<string, list<string>>", |a, budget| match a {
        [Value::Opaque(opaque)] => match &**opaque {
            Opaque::Url(url) => query(url, budget),
            _ => mismatch(),
        },
        _ => mismatch(),
    }),
];
