//! Objects as JSON values: what all kinds have in common.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, as `metav1.Time` writes it: RFC 3339, whole seconds.
#[must_use]
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// `time` as `metav1.Time` writes it.
#[must_use]
pub fn timestamp(time: OffsetDateTime) -> String {
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    // Years of four digits always format.
    whole.format(&Rfc3339).unwrap_or_default()
}

/// The time that `text` says.
#[must_use]
pub fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// The text at a dotted path; empty if it is not there.
#[must_use]
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at a dotted path.
#[must_use]
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, step| value.get(step))
}

/// The elements of the list at a dotted path; none if it is not there.
#[must_use]
pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, "metadata.name")
}

/// `metadata.namespace`, if it has one.
#[must_use]
pub fn namespace(object: &Value) -> Option<&str> {
    object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty())
}

/// Whether it is being deleted.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
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
