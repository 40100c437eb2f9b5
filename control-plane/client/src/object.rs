//! Reading objects, which are JSON values.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, as `metav1.Time` writes it.
#[must_use]
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// `time` as `metav1.Time` writes it: RFC 3339, whole seconds.
#[must_use]
pub fn timestamp(time: OffsetDateTime) -> String {
    // Years of four digits always format.
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
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

/// The number at a dotted path.
#[must_use]
pub fn number(object: &Value, path: &str) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
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

/// `metadata.uid`.
#[must_use]
pub fn uid(object: &Value) -> &str {
    text(object, "metadata.uid")
}

/// `namespace/name`, or the name of what has no namespace.
#[must_use]
pub fn key(object: &Value) -> String {
    key_of(namespace(object), name(object))
}

/// The key of an object of this namespace and name.
#[must_use]
pub fn key_of(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.into(),
    }
}

/// The namespace, if there is one, and the name of a key.
#[must_use]
pub fn split_key(key: &str) -> (Option<&str>, &str) {
    match key.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, key),
    }
}

/// Whether it is being deleted.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The owner reference that says `controller`.
#[must_use]
pub fn controller(object: &Value) -> Option<&Value> {
    list(object, "metadata.ownerReferences").iter().find(|owner| owner["controller"] == true)
}

/// The status condition of a type.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "status.conditions").iter().find(|condition| condition["type"] == kind)
}

/// Whether a status condition is `True`.
#[must_use]
pub fn has_condition(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}
