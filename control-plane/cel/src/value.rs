//! The values of expressions.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value as Json;
use time::{Duration, OffsetDateTime};

use crate::eval::EvalError;
use crate::types::{ObjectType, Topology, Type};

pub(crate) type Result<T> = std::result::Result<T, EvalError>;

/// A value. What comes from an object is read in place, as its type says.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(OffsetDateTime),
    Duration(Duration),
    List(List<'a>),
    Map(Map<'a>),
    Object(&'a serde_json::Map<String, Json>, &'a ObjectType),
    Optional(Option<Arc<Value<'a>>>),
    /// A type, by its name.
    Type(Text<'a>),
    /// A pattern that was written in the program: a text to everything but what matches with it.
    Pattern(Arc<Regex>),
    Opaque(Arc<Opaque>),
}

/// A value of one of Kubernetes' libraries.
#[derive(Debug, PartialEq)]
pub(crate) enum Opaque {
    /// In billionths.
    Quantity(i128),
    Url(crate::functions::Url),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    /// A named format, by its name.
    Format(&'static str),
    Semver(crate::functions::Semver),
}

/// A text that lies in an object or was made.
#[derive(Debug, Clone)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Owned(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// A list.
#[derive(Debug, Clone)]
pub(crate) enum List<'a> {
    /// Of an object, with the elements' type.
    Json(&'a [Json], &'a Type, &'a Topology),
    Made(Arc<Vec<Value<'a>>>),
}

/// A map.
#[derive(Debug, Clone)]
pub(crate) enum Map<'a> {
    /// Of an object, with the values' type.
    Json(&'a serde_json::Map<String, Json>, &'a Type),
    Made(Arc<Vec<(Value<'a>, Value<'a>)>>),
}

static DYN: Type = Type::Dyn;

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(list, ..) => list.len(),
            Self::Made(list) => list.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Result<Value<'a>>> {
        match self {
            Self::Json(list, element, _) => list.get(index).map(|one| Value::read(one, element)),
            Self::Made(list) => list.get(index).cloned().map(Ok),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Value<'a>>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(crate) fn topology(&self) -> &Topology {
        match self {
            Self::Json(_, _, topology) => topology,
            Self::Made(_) => &Topology::Atomic,
        }
    }
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Made(map) => map.len(),
        }
    }

    /// The keys, in order.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map, _) => {
                map.keys().map(|key| Value::String(Text::Borrowed(key))).collect()
            }
            Self::Made(map) => map.iter().map(|(key, _)| key.clone()).collect(),
        }
    }

    /// The value at `key`.
    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>>> {
        match self {
            Self::Json(map, ty) => {
                let Value::String(key) = key else { return None };
                map.get(&**key).map(|value| Value::read(value, ty))
            }
            Self::Made(map) => map
                .iter()
                .find(|(one, _)| crate::compare::scalars_equal(one, key))
                .map(|(_, value)| Ok(value.clone())),
        }
    }
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Owned(text.into()))
    }

    pub(crate) fn list(list: Vec<Value<'a>>) -> Self {
        Self::List(List::Made(Arc::new(list)))
    }

    pub(crate) fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    pub(crate) fn opaque(value: Opaque) -> Self {
        Self::Opaque(Arc::new(value))
    }

    /// What `json` is as a `ty`.
    pub(crate) fn read(json: &'a Json, ty: &'a Type) -> Result<Self> {
        let invalid = || {
            let kind = match json {
                Json::Null => "null",
                Json::Bool(_) => "bool",
                Json::Number(_) => "number",
                Json::String(_) => "string",
                Json::Array(_) => "list",
                Json::Object(_) => "object",
            };
            EvalError::failed(format!("invalid data, expected {ty}, got {kind}"))
        };
        Ok(match (ty, json) {
            (_, Json::Null) => Self::Null,
            (Type::Bool | Type::Dyn, Json::Bool(value)) => Self::Bool(*value),
            (Type::Double, Json::Number(number)) => {
                Self::Double(number.as_f64().ok_or_else(invalid)?)
            }
            (Type::Int, Json::Number(number)) => Self::Int(whole(number).ok_or_else(invalid)?),
            (Type::Dyn, Json::Number(number)) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Double(number.as_f64().ok_or_else(invalid)?),
            },
            (Type::String | Type::Dyn, Json::String(text)) => Self::String(Text::Borrowed(text)),
            (Type::Timestamp, Json::String(text)) => {
                Self::Timestamp(crate::convert::timestamp(text)?)
            }
            (Type::Duration, Json::String(text)) => Self::Duration(crate::convert::duration(text)?),
            (Type::Bytes, Json::String(text)) => {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Self::Bytes(bytes.map_err(|_| invalid())?.into())
            }
            (Type::List(list), Json::Array(array)) => {
                Self::List(List::Json(array, &list.element, &list.topology))
            }
            (Type::Dyn, Json::Array(array)) => {
                Self::List(List::Json(array, &DYN, &Topology::Atomic))
            }
            (Type::Map(of), Json::Object(map)) => Self::Map(Map::Json(map, &of.1)),
            (Type::Dyn, Json::Object(map)) => Self::Map(Map::Json(map, &DYN)),
            (Type::Object(object), Json::Object(map)) => Self::Object(map, object),
            _ => return Err(invalid()),
        })
    }

    /// Its type's name.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) | Self::Pattern(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(..) => "object",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// Whether it may be a `ty`, as far as one sees without looking into it.
    pub(crate) fn is(&self, ty: &Type) -> bool {
        match (ty, self) {
            (Type::Dyn | Type::Param(_), _)
            | (Type::Null, Self::Null)
            | (Type::Bool, Self::Bool(_))
            | (Type::Int, Self::Int(_))
            | (Type::Uint, Self::Uint(_))
            | (Type::Double, Self::Double(_))
            | (Type::String, Self::String(_) | Self::Pattern(_))
            | (Type::Bytes, Self::Bytes(_))
            | (Type::Timestamp, Self::Timestamp(_))
            | (Type::Duration, Self::Duration(_))
            | (Type::List(_), Self::List(_))
            | (Type::Map(_), Self::Map(_))
            | (Type::Object(_), Self::Object(..))
            | (Type::Optional(_), Self::Optional(_))
            | (Type::Type, Self::Type(_)) => true,
            (Type::Opaque(name), Self::Opaque(opaque)) => *name == opaque.type_name(),
            _ => false,
        }
    }
}

impl Opaque {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
        }
    }
}

/// A JSON number that is an integer, however it is written.
fn whole(number: &serde_json::Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        crate::convert::float_to_int(float).filter(|_| float.fract() == 0.0)
    })
}
