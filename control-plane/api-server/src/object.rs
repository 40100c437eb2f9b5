//! Objects as JSON values: what all kinds have in common. Reading is the clients' as well.

use serde_json::{Map, Value};

pub use bulkhead_client::object::{
    at, is_terminating, key_of, list, name, namespace, now, parse_time, text, timestamp,
};

/// So deep objects may nest: what is stored is read again by a parser that goes 128 deep.
pub const MAX_DEPTH: usize = 124;

/// Whether `value` nests deeper than `limit`; a scalar has depth 0.
#[must_use]
pub fn is_deeper(value: &Value, limit: usize) -> bool {
    let below = |value: &Value| limit.checked_sub(1).is_none_or(|left| is_deeper(value, left));
    match value {
        Value::Array(list) => limit == 0 || list.iter().any(below),
        Value::Object(fields) => limit == 0 || fields.values().any(below),
        _ => false,
    }
}

/// The map in `field` of `object`, made if it is not there. Nothing if `object` is not a map or
/// the field is something else.
pub fn map<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let slot = object.as_object_mut()?.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Map::new().into();
    }
    slot.as_object_mut()
}

/// Sets `field` of `object` to `value` if it is absent, null, or an empty text, which Kubernetes
/// does not tell apart from absent.
pub fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    let slot = fields.entry(field).or_insert(Value::Null);
    if slot.is_null() || slot.as_str() == Some("") {
        *slot = value.into();
    }
}

/// A new unique id, version 4.
#[must_use]
pub fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Five characters that make a generated name unique, of the alphabet that Kubernetes uses: no
/// vowels, so no words.
#[must_use]
pub fn name_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    let byte = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    random.as_bytes()[..5].iter().map(byte).collect()
}
