//! JSON and YAML into values, noting fields that are said twice: parsers keep the last one, and
//! clients that ask for strict validation want to hear of it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// So many duplicates are remembered.
const MAX_DUPLICATES: usize = 100;

/// A value as it was parsed.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// The value; of fields that are said twice, the last.
    pub(super) value: Value,
    /// The paths of the others.
    pub(super) duplicates: Vec<String>,
}

impl From<Value> for Parsed {
    fn from(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can say")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Value::Bool(value).into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Value::from(value).into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Value::from(value).into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Parsed, E> {
        let number = Number::from_f64(value);
        Ok(Value::Number(number.ok_or_else(|| E::custom("a number is not finite"))?).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Value::from(value).into())
    }

    fn visit_string<E>(self, value: String) -> Result<Parsed, E> {
        Ok(Value::from(value).into())
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::default())
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Parsed, A::Error> {
        let (mut list, mut duplicates) = (Vec::new(), Vec::new());
        while let Some(element) = elements.next_element::<Parsed>()? {
            let index = format_args!("[{}]", list.len()).to_string();
            note(&mut duplicates, &index, element.duplicates);
            list.push(element.value);
        }
        Ok(Parsed { value: list.into(), duplicates })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let (mut map, mut duplicates) = (Map::new(), Vec::new());
        while let Some((key, entry)) = entries.next_entry::<String, Parsed>()? {
            note(&mut duplicates, &key, entry.duplicates);
            if map.contains_key(&key) && duplicates.len() < MAX_DUPLICATES {
                duplicates.push(key.clone());
            }
            map.insert(key, entry.value);
        }
        Ok(Parsed { value: map.into(), duplicates })
    }
}

/// Adds the duplicates `below` a field or element to those of what holds it.
fn note(duplicates: &mut Vec<String>, step: &str, below: Vec<String>) {
    let room = MAX_DUPLICATES.saturating_sub(duplicates.len());
    for path in below.into_iter().take(room) {
        let dot = if path.starts_with('[') { "" } else { "." };
        duplicates.push(format!("{step}{dot}{path}"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_named_by_their_path() {
        let text = r#"{"a": 1, "b": [{"c": 1}, {"c": 1, "c": {"d": 2, "d": 3}}], "a": 2}"#;
        let parsed: Parsed = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.value, json!({"a": 2, "b": [{"c": 1}, {"c": {"d": 3}}]}));
        assert_eq!(parsed.duplicates, ["b[1].c.d", "b[1].c", "a"]);
    }

    proptest! {
        #[test]
        fn json_is_parsed_as_serde_json_does(text in r#"[\[\]{}:,"a-c0-9. -]{0,40}"#) {
            let expected = serde_json::from_str::<Value>(&text).ok();
            let parsed = serde_json::from_str::<Parsed>(&text).ok();
            prop_assert_eq!(parsed.map(|parsed| parsed.value), expected);
        }
    }
}
