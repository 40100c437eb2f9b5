//! The hash that tells one template from another in names and labels.

use serde_json::Value;

/// The hash of a template: FNV-1a over its fields in order, in an alphabet that makes no words.
/// `collisions` of it with other templates make it another.
pub(crate) fn hash(template: &Value, collisions: i64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = Fnv(0x811c_9dc5);
    hash.value(template);
    if collisions > 0 {
        hash.bytes(&collisions.to_le_bytes());
    }
    let digits = hash.0.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

struct Fnv(u32);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                let mut names: Vec<_> = fields.keys().collect();
                names.sort_unstable();
                for name in names {
                    self.bytes(name.as_bytes());
                    self.bytes(b"=");
                    self.value(&fields[name]);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                items.iter().for_each(|item| self.value(item));
                self.bytes(b"]");
            }
            scalar => {
                self.bytes(scalar.to_string().as_bytes());
                self.bytes(b",");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hash_is_of_the_content() {
        let one = json!({"spec": {"a": 1, "b": [1, 2]}});
        let same: Value = serde_json::from_str(r#"{"spec": {"b": [1, 2], "a": 1}}"#).unwrap();
        assert_eq!(hash(&one, 0), hash(&same, 0));
        for other in
            [json!({"spec": {"a": 1, "b": [1], "c": 2}}), json!({"spec": {"a": 1, "b": [12]}})]
        {
            assert_ne!(hash(&one, 0), hash(&other, 0));
        }
        assert_ne!(hash(&one, 0), hash(&one, 1));
    }
}
