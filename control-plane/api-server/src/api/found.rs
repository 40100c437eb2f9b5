//! What reads find. Most answers are what is stored with a version put in, so an object is
//! decoded only when someone looks into it: a list or a watch of many costs little more than its
//! bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decode_value;
use crate::resource::Resource;
use crate::status::{Result, Status};

/// An object that was read.
#[derive(Debug, Clone)]
pub enum Found {
    /// Somebody has looked into it.
    Decoded(Value),
    /// As it is stored.
    Stored {
        /// Its bytes.
        value: Arc<[u8]>,
        /// Its version.
        revision: u64,
    },
}

/// The fields of a stored object, none of them looked into.
#[derive(Deserialize)]
#[serde(transparent)]
struct Fields<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);

impl Found {
    /// The object.
    ///
    /// # Errors
    /// `InternalError` if what is stored is not an object.
    pub fn decode(self, resource: &Resource) -> Result<Value> {
        match self {
            Self::Decoded(object) => Ok(object),
            Self::Stored { value, revision } => decode_value(resource, &value, revision),
        }
    }

    /// Appends the object's JSON to `out`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn write_json(self, resource: &Resource, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Stored { value, revision } if is_shown_as_stored(resource) => {
                splice(resource, &value, revision, out).map_err(|error| {
                    Status::internal(format!("a stored {}: {error}", resource.kind))
                })
            }
            other => serde_json::to_writer(out, &other.decode(resource)?).map_err(Status::internal),
        }
    }
}

/// Whether objects of `resource` are what is stored of them.
fn is_shown_as_stored(resource: &Resource) -> bool {
    let lacks = resource.custom.as_ref().is_some_and(|custom| custom.has_defaults());
    resource.behaviour.conversion.is_none() && !lacks
}

/// Writes a stored object as `resource` shows it: with its type, and its version in `metadata`.
fn splice(
    resource: &Resource,
    stored: &[u8],
    revision: u64,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let Fields(fields) = serde_json::from_slice(stored)?;
    out.reserve(stored.len() + 40);
    out.extend_from_slice(br#"{"apiVersion":"#);
    serde_json::to_writer(&mut *out, &resource.api_version())?;
    out.extend_from_slice(br#","kind":"#);
    serde_json::to_writer(&mut *out, resource.kind)?;
    for (name, value) in fields {
        if matches!(&*name, "apiVersion" | "kind") {
            continue;
        }
        out.push(b',');
        serde_json::to_writer(&mut *out, &name)?;
        out.push(b':');
        let value = value.get();
        match value.strip_prefix('{').filter(|_| name == "metadata") {
            // Writing to a vector does not fail.
            Some(rest) => {
                let comma = if rest.starts_with('}') { "" } else { "," };
                let _ = write!(out, r#"{{"resourceVersion":"{revision}"{comma}{rest}"#);
            }
            None => out.extend_from_slice(value.as_bytes()),
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::encode;
    use crate::kinds;

    fn shown(found: Found, plural: &str, group: &str) -> Value {
        let resource = kinds::registry().find(group, "v1", plural).unwrap();
        let mut out = b"before".to_vec();
        found.write_json(&resource, &mut out).unwrap();
        serde_json::from_slice(out.strip_prefix(b"before").unwrap()).unwrap()
    }

    #[test]
    fn events_of_another_group_are_converted() {
        let stored = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"},
            "involvedObject": {"kind": "Pod"}});
        let value = serde_json::to_vec(&stored).unwrap().into();
        let shown = shown(Found::Stored { value, revision: 7 }, "events", "events.k8s.io");
        assert_eq!(shown["regarding"], json!({"kind": "Pod"}));
        assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
        assert_eq!(shown["metadata"]["resourceVersion"], "7");
    }

    proptest! {
        #[test]
        fn bytes_say_what_the_decoded_object_says(
            data in proptest::collection::btree_map(".*", ".*", 0..4),
            labels in proptest::option::of(proptest::collection::btree_map("[a-z]*", ".*", 0..3)),
            revision: u64,
        ) {
            let resource = kinds::registry().find("", "v1", "configmaps").unwrap();
            let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {"resourceVersion": "1"}, "unknown \"field\"": [1.5, null]});
            if let Some(labels) = labels {
                object["metadata"]["labels"] = json!(labels);
            }
            let value: Arc<[u8]> = encode(&resource, &object).unwrap().into();
            let found = Found::Stored { value, revision };
            let decoded = found.clone().decode(&resource).unwrap();
            prop_assert_eq!(shown(found, "configmaps", ""), decoded);
        }
    }
}
