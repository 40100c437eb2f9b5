//! The types that rules see in a schema.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_cel::{Field, ListType, ObjectType, Topology, Type, escape};
use serde_json::{Map, Value};

use crate::object;

/// The type of the values of `schema`, which messages call `name`; `None` of those that rules cannot
/// see. The values of `is_root` are whole objects.
pub(super) fn of(schema: &Value, name: &str, is_root: bool) -> Option<Type> {
    if schema["x-kubernetes-int-or-string"] == true {
        return Some(Type::Dyn);
    }
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    Some(match object::text(schema, "type") {
        "boolean" => Type::Bool,
        "integer" => Type::Int,
        "number" => Type::Double,
        "string" => match object::text(schema, "format") {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        "array" => {
            let element = of(&schema["items"], &format!("{name}.items"), false)?;
            let topology = match object::text(schema, "x-kubernetes-list-type") {
                "set" => Topology::Set,
                "map" => {
                    let keys = object::list(schema, "x-kubernetes-list-map-keys").iter();
                    Topology::Map(keys.filter_map(Value::as_str).map(Into::into).collect())
                }
                _ => Topology::Atomic,
            };
            Type::List(Arc::new(ListType { element, topology }))
        }
        "object" if schema["additionalProperties"].is_object() => {
            let name = format!("{name}.additionalProperties");
            Type::map(Type::String, of(&schema["additionalProperties"], &name, false)?)
        }
        "object" => {
            let nothing = Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&nothing);
            let mut fields = BTreeMap::new();
            for (field, schema) in properties {
                if (is_root || embedded) && field == "metadata" {
                    continue;
                }
                let (Some(escaped), Some(ty)) =
                    (escape(field), of(schema, &format!("{name}.{field}"), false))
                else {
                    continue;
                };
                fields.insert(escaped, Field { name: field.clone(), ty });
            }
            if is_root || embedded {
                let text =
                    |name: &str| (name.into(), Field { name: name.into(), ty: Type::String });
                let metadata = ObjectType {
                    name: format!("{name}.metadata"),
                    fields: [text("name"), text("generateName")].into_iter().collect(),
                };
                let ty = Type::Object(Arc::new(metadata));
                fields.extend([text("apiVersion"), text("kind")]);
                fields.insert("metadata".into(), Field { name: "metadata".into(), ty });
            }
            Type::Object(Arc::new(ObjectType { name: name.into(), fields }))
        }
        _ => return None,
    })
}
