//! The types of expressions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known only when the program runs.
    Dyn,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without one.
    Uint,
    /// IEEE 754, 64 bits.
    Double,
    /// Unicode text.
    String,
    /// Bytes; base64 in JSON.
    Bytes,
    /// A time; RFC 3339 in JSON.
    Timestamp,
    /// A length of time; `1h30m` in JSON.
    Duration,
    /// A type as a value.
    Type,
    /// A list.
    List(Arc<ListType>),
    /// A map, with the types of its keys and values.
    Map(Arc<(Type, Type)>),
    /// An object of a schema.
    Object(Arc<ObjectType>),
    /// A value or none.
    Optional(Arc<Type>),
    /// One of Kubernetes' libraries' types.
    Opaque(&'static str),
    /// Whatever it is elsewhere in the same signature.
    Param(u8),
}

/// The type of a list.
#[derive(Debug, Clone)]
pub struct ListType {
    /// Its elements'.
    pub element: Type,
    /// When two lists are the same.
    pub topology: Topology,
}

impl PartialEq for ListType {
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// Order matters.
    Atomic,
    /// Order does not matter.
    Set,
    /// Order does not matter; elements are told apart by these fields.
    Map(Vec<String>),
}

/// The type of objects of a schema. Types of one name are the same.
#[derive(Debug, Clone)]
pub struct ObjectType {
    /// Its name in messages.
    pub name: String,
    /// Its fields, by how rules write them ([`escape`]).
    pub fields: BTreeMap<String, Field>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    /// How JSON writes it.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

impl Type {
    /// A list that compares by order.
    #[must_use]
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(ListType { element, topology: Topology::Atomic }))
    }

    /// A map.
    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub(crate) fn optional(of: Self) -> Self {
        Self::Optional(Arc::new(of))
    }

    fn takes_null(&self) -> bool {
        matches!(
            self,
            Self::Object(_)
                | Self::Timestamp
                | Self::Duration
                | Self::Optional(_)
                | Self::Opaque(_)
        )
    }

    /// The type of which both are.
    pub(crate) fn join(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => Self::Dyn,
            (Self::Null, some) | (some, Self::Null) if some.takes_null() => some.clone(),
            (Self::List(a), Self::List(b)) => match a == b {
                true => self.clone(),
                false => Self::list(a.element.join(&b.element)?),
            },
            (Self::Map(a), Self::Map(b)) => Self::map(a.0.join(&b.0)?, a.1.join(&b.1)?),
            (Self::Optional(a), Self::Optional(b)) => Self::optional(a.join(b)?),
            _ => return (self == other).then(|| self.clone()),
        })
    }

    /// Whether `given` can be passed where this is expected; what parameters stand for is kept in
    /// `bound`.
    pub(crate) fn accepts(&self, given: &Self, bound: &mut [Option<Self>; 3]) -> bool {
        match (self, given) {
            (Self::Param(index), _) => {
                let Some(slot) = bound.get_mut(usize::from(*index)) else { return false };
                match slot.as_ref().map_or(Some(given.clone()), |slot| slot.join(given)) {
                    Some(joined) => {
                        *slot = Some(joined);
                        true
                    }
                    None => false,
                }
            }
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (some, Self::Null) if some.takes_null() => true,
            (Self::List(a), Self::List(b)) => a.element.accepts(&b.element, bound),
            (Self::Map(a), Self::Map(b)) => a.0.accepts(&b.0, bound) && a.1.accepts(&b.1, bound),
            (Self::Optional(a), Self::Optional(b)) => a.accepts(b, bound),
            _ => self == given,
        }
    }

    /// With what parameters stand for in their place.
    pub(crate) fn resolved(&self, bound: &[Option<Self>; 3]) -> Self {
        match self {
            Self::Param(index) => {
                bound.get(usize::from(*index)).cloned().flatten().unwrap_or(Self::Dyn)
            }
            Self::List(list) => Self::List(Arc::new(ListType {
                element: list.element.resolved(bound),
                topology: list.topology.clone(),
            })),
            Self::Map(of) => Self::map(of.0.resolved(bound), of.1.resolved(bound)),
            Self::Optional(of) => Self::optional(of.resolved(bound)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Type => f.write_str("type"),
            Self::List(list) => write!(f, "list({})", list.element),
            Self::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Param(index) => write!(f, "{}", char::from(b'A' + index)),
        }
    }
}

/// Words that are no names in CEL.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// How rules write the field `name`; `None` if they cannot.
/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>
#[must_use]
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.bytes().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => escaped.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        for (name, escaped) in [
            ("a", "a"),
            ("a-b.c/d", "a__dash__b__dot__c__slash__d"),
            ("a__b", "a__underscores__b"),
            ("namespace", "__namespace__"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(escaped));
        }
        assert_eq!(
            (escape(""), escape("1a"), escape("a b"), escape("é")),
            (None, None, None, None)
        );
    }
}
