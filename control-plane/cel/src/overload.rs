//! The functions that programs may call, by name: their types, and what they do.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::budget::Budget;
use crate::eval::EvalError;
use crate::functions;
use crate::types::Type;
use crate::value::{Result, Value};

/// What a function does with arguments of its types.
pub(crate) type Function = for<'a, 'b> fn(&'b [Value<'a>], &'b Budget) -> Result<Value<'a>>;
/// Why an argument that is written in a program can never be one, or what it is kept as.
pub(crate) type Constant = fn(&str) -> std::result::Result<Option<Value<'static>>, String>;

/// A line of a library's table.
pub(crate) struct Declared {
    name: &'static str,
    member: bool,
    parameters: &'static str,
    result: &'static str,
    call: Function,
    constant: Option<Constant>,
}

impl Declared {
    /// `name(…)`.
    pub(crate) const fn global(
        name: &'static str,
        parameters: &'static str,
        result: &'static str,
        call: Function,
    ) -> Self {
        Self { name, member: false, parameters, result, call, constant: None }
    }

    /// `x.name(…)`; the first parameter is `x`.
    pub(crate) const fn member(
        name: &'static str,
        parameters: &'static str,
        result: &'static str,
        call: Function,
    ) -> Self {
        Self { name, member: true, parameters, result, call, constant: None }
    }

    /// With a look at its last argument when the program is compiled, if that is a literal.
    pub(crate) const fn with_constant(mut self, constant: Constant) -> Self {
        self.constant = Some(constant);
        self
    }
}

/// A function of these types.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) member: bool,
    pub(crate) parameters: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) call: Function,
    pub(crate) constant: Option<Constant>,
}

static OVERLOADS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut all: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for declared in functions::LIBRARIES.iter().copied().flatten() {
        // A test reads the whole table: every line of it is right.
        let (Some(parameters), Some(mut result)) =
            (types(declared.parameters), types(declared.result))
        else {
            continue;
        };
        let overload = Overload {
            member: declared.member,
            parameters,
            result: result.pop().unwrap_or(Type::Dyn),
            call: declared.call,
            constant: declared.constant,
        };
        all.entry(declared.name).or_default().push(overload);
    }
    all
});

/// The functions called `name`.
pub(crate) fn named(name: &str) -> &'static [Overload] {
    OVERLOADS.get(name).map_or(&[], Vec::as_slice)
}

/// The answer to arguments of other types.
pub(crate) fn mismatch<T>() -> Result<T> {
    Err(EvalError::failed("no such overload"))
}

fn types(text: &str) -> Option<Vec<Type>> {
    let mut rest = text;
    let mut list = Vec::new();
    while !rest.is_empty() {
        let (ty, after) = parse_type(rest)?;
        list.push(ty);
        rest = after.strip_prefix(", ").unwrap_or(after);
        if rest.len() == after.len() && !rest.is_empty() {
            return None;
        }
    }
    Some(list)
}

fn parse_type(text: &str) -> Option<(Type, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let ty = match word {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "url" => Type::Opaque("kubernetes.URL"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "list" => {
            let (of, rest) = parse_type(rest.strip_prefix('<')?)?;
            return Some((Type::list(of), rest.strip_prefix('>')?));
        }
        "optional" => {
            let (of, rest) = parse_type(rest.strip_prefix('<')?)?;
            return Some((Type::optional(of), rest.strip_prefix('>')?));
        }
        "map" => {
            let (key, rest) = parse_type(rest.strip_prefix('<')?)?;
            let (value, rest) = parse_type(rest.strip_prefix(", ")?)?;
            return Some((Type::map(key, value), rest.strip_prefix('>')?));
        }
        _ => return None,
    };
    Some((ty, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_right() {
        for declared in functions::LIBRARIES.iter().copied().flatten() {
            let line = format!("{}({})", declared.name, declared.parameters);
            assert!(types(declared.parameters).is_some(), "{line}");
            assert_eq!(types(declared.result).map(|list| list.len()), Some(1), "{line}");
            assert!(!declared.member || !declared.parameters.is_empty(), "{line}");
        }
    }
}
