//! What the server knows of the types of Kubernetes' API, in one table: fields and their types,
//! list types, merge keys, protobuf numbers, descriptions. OpenAPI ([`crate::openapi`]), the checks
//! of request bodies ([`check`]), protobuf ([`protobuf`]) and strategic merge ([`crate::patch`]) all
//! read it.
//!
//! `schema/facts.tsv` and `schema/docs.tsv` hold the table of the built-in kinds (their format:
//! `schema/generate.py`). The facts are parsed at first use; the descriptions stay in the binary,
//! untouched until somebody asks for them. Custom resources bring a [`Struct`] of their own.

pub mod check;
pub mod protobuf;
mod table;

use std::sync::Arc;

pub use table::{builtin, docs};

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A value without parts.
    Scalar(Scalar),
    /// A list of values of one type.
    List(Box<Shape>),
    /// A map from texts to values of one type.
    Map(Box<Shape>),
    /// A built-in type, by its place in the table.
    Builtin(usize),
    /// A type of a custom resource.
    Custom(Arc<Struct>),
}

/// A type without parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// Truth.
    Bool,
    /// Integer of 32 bits.
    Int32,
    /// Integer of 64 bits.
    Int64,
    /// Floating point.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// A quantity (`500m`, `1Gi`), as text or number.
    Quantity,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// An integer or a text.
    IntOrString,
    /// Anything.
    Any,
    /// Anything, and a protobuf form that differs from it.
    AnyButProtobuf,
}

/// How server-side apply treats a list or a map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Topology {
    /// Each element (of a set), entry or field has owners of its own; lists are atomic.
    #[default]
    Unsaid,
    /// One value with one owner.
    Atomic,
    /// A list without duplicates, whose elements have owners.
    Set,
    /// A list of objects, each named by its values of these fields.
    Map(Vec<Box<str>>),
}

/// How strategic merge patch treats a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists are merged, by the key or as sets.
    pub merge: bool,
    /// A union: a patch says which fields stay. Clients send `$retainKeys` for it.
    pub retain_keys: bool,
    /// The field that names an element; empty for a list of plain values.
    pub key: Box<str>,
}

/// A field of a [`Struct`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub name: Box<str>,
    /// Its type.
    pub shape: Shape,
    /// Its protobuf number; two where Go embeds a struct. Empty if there is none.
    pub number: Vec<u32>,
    /// Whether objects must have it.
    pub required: bool,
    /// Whether its zero value on the protobuf wire means that it is absent.
    pub zero_is_absent: bool,
    /// Its topology.
    pub topology: Topology,
    /// Its patch strategy.
    pub patch: PatchStrategy,
    /// The values that it can have; empty for any.
    pub values: Vec<Box<str>>,
    /// The line of its description in the built-in table.
    pub line: usize,
}

/// A type with fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Struct {
    /// Its OpenAPI name (`io.k8s.api.core.v1.Pod`).
    pub name: Box<str>,
    /// For which kinds it stands: group, version, kind.
    pub kinds: Vec<[Box<str>; 3]>,
    /// Whether values have one owner as a whole.
    pub atomic: bool,
    /// Whether fields that are not listed are welcome.
    pub open: bool,
    /// The fields, by name.
    pub fields: Vec<Field>,
    /// The line of its description in the built-in table.
    pub line: usize,
}

impl Struct {
    /// The field `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|field| (*field.name).cmp(name));
        found.ok().map(|index| &self.fields[index])
    }
}

impl Shape {
    /// The type of what has fields; `None` of anything else.
    #[must_use]
    pub fn as_struct(&self) -> Option<&Struct> {
        match self {
            Self::Builtin(index) => builtin().get(*index),
            Self::Custom(custom) => Some(custom),
            _ => None,
        }
    }

    /// The type of a list's elements or a map's values.
    #[must_use]
    pub fn element(&self) -> Option<&Shape> {
        match self {
            Self::List(element) | Self::Map(element) => Some(element),
            _ => None,
        }
    }
}
