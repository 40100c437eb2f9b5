//! Schemas as types of the table: for field validation and server-side apply.

use std::sync::Arc;

use serde_json::Value;

use super::structural::{Schema, Type};
use crate::object;
use crate::schema::{Field, PatchStrategy, Scalar, Shape, Struct, Topology, builtin};

impl Schema {
    /// As a type of the table: for field validation and server-side apply. Values are any; what they
    /// must be is said better by [`validate`](Self::validate).
    pub(super) fn shape(&self, name: &str) -> Shape {
        if self.kind == Some(Type::Array) {
            let items = self.items.as_ref();
            let items = items.map_or(Shape::Scalar(Scalar::Any), |items| items.shape(name));
            return Shape::List(Box::new(items));
        }
        if let (true, Some(values)) = (self.properties.is_empty(), &self.additional) {
            return Shape::Map(Box::new(values.shape(name)));
        }
        if self.properties.is_empty() && !self.embedded {
            return Shape::Scalar(Scalar::Any);
        }
        let mut fields: Vec<Field> = self
            .properties
            .iter()
            .map(|(field, schema)| Field {
                topology: schema.topology.clone(),
                ..plain_field(field, schema.shape(field))
            })
            .collect();
        if self.embedded {
            add_object_fields(&mut fields);
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Shape::Custom(Arc::new(Struct {
            name: name.into(),
            open: self.preserve || self.additional.is_some(),
            fields,
            ..Struct::default()
        }))
    }

    /// As [`shape`](Self::shape), of the objects of a kind: with kind and metadata.
    pub(super) fn object_shape(&self, name: &str) -> Shape {
        let mut of = match self.shape(name) {
            Shape::Custom(of) => (*of).clone(),
            _ => Struct { name: name.into(), open: true, ..Struct::default() },
        };
        add_object_fields(&mut of.fields);
        of.fields.sort_by(|a, b| a.name.cmp(&b.name));
        Shape::Custom(Arc::new(of))
    }
}

fn plain_field(name: &str, shape: Shape) -> Field {
    Field {
        name: name.into(),
        shape,
        number: Vec::new(),
        required: false,
        zero_is_absent: false,
        topology: Topology::Unsaid,
        patch: PatchStrategy::default(),
        values: Vec::new(),
        line: 0,
    }
}

fn add_object_fields(fields: &mut Vec<Field>) {
    let string = || Shape::Scalar(Scalar::String);
    for (name, shape) in
        [("apiVersion", string()), ("kind", string()), ("metadata", builtin().object_meta())]
    {
        fields.retain(|field| &*field.name != name);
        fields.push(plain_field(name, shape));
    }
}

/// `x-kubernetes-list-type` and `x-kubernetes-map-type`.
pub(super) fn topology(schema: &Value) -> Topology {
    match (
        object::text(schema, "x-kubernetes-list-type"),
        object::text(schema, "x-kubernetes-map-type"),
    ) {
        ("set", _) => Topology::Set,
        ("map", _) => {
            let keys = object::list(schema, "x-kubernetes-list-map-keys").iter();
            Topology::Map(keys.filter_map(Value::as_str).map(Into::into).collect())
        }
        ("atomic", _) | (_, "atomic") => Topology::Atomic,
        _ => Topology::Unsaid,
    }
}
