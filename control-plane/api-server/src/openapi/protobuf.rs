//! The OpenAPI v2 document as protobuf: gnostic's `openapi.v2.Document`, which is what kubectl asks
//! for. Field numbers are those of
//! <https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto>.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// Encodes a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    message.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    message.message(8, |paths| {
        for (path, item) in fields(&document["paths"]) {
            paths.named(2, path, |message| path_item(message, item));
        }
    });
    message.message(9, |definitions| named_schemas(definitions, &document["definitions"]));
    message.0
}

/// A message that is being made.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u32, text: &Value) {
        if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, texts: &Value) {
        for text in texts.as_array().into_iter().flatten() {
            self.text(number, text);
        }
    }

    fn flag(&mut self, number: u32, flag: &Value) {
        if flag == true {
            encode_key(number, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
    }

    fn integer(&mut self, number: u32, integer: &Value) {
        if let Some(integer) = integer.as_u64() {
            encode_key(number, WireType::Varint, &mut self.0);
            encode_varint(integer, &mut self.0);
        }
    }

    fn double(&mut self, number: u32, double: &Value) {
        if let Some(double) = double.as_f64() {
            encode_key(number, WireType::SixtyFourBit, &mut self.0);
            self.0.extend_from_slice(&double.to_le_bytes());
        }
    }

    fn message(&mut self, number: u32, fill: impl FnOnce(&mut Self)) {
        let mut message = Self::default();
        fill(&mut message);
        self.bytes(number, &message.0);
    }

    /// A name and its value, as maps are written.
    fn named(&mut self, number: u32, name: &str, fill: impl FnOnce(&mut Self)) {
        self.message(number, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, fill);
        });
    }

    /// Any value: as YAML, of which JSON is a part.
    fn any(&mut self, number: u32, value: &Value) {
        self.message(number, |any| any.bytes(2, value.to_string().as_bytes()));
    }

    /// Whatever of `object` is named `x-…`.
    fn extensions(&mut self, number: u32, object: &Value) {
        for (name, value) in fields(object).filter(|(name, _)| name.starts_with("x-")) {
            self.message(number, |pair| {
                pair.bytes(1, name.as_bytes());
                pair.any(2, value);
            });
        }
    }
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

fn named_schemas(message: &mut Message, schemas: &Value) {
    for (name, of) in fields(schemas) {
        message.named(1, name, |message| schema(message, of));
    }
}

fn schema(message: &mut Message, of: &Value) {
    for (name, value) in fields(of) {
        match name.as_str() {
            "$ref" => message.text(1, value),
            "format" => message.text(2, value),
            "title" => message.text(3, value),
            "description" => message.text(4, value),
            "default" => message.any(5, value),
            "multipleOf" => message.double(6, value),
            "maximum" => message.double(7, value),
            "exclusiveMaximum" => message.flag(8, value),
            "minimum" => message.double(9, value),
            "exclusiveMinimum" => message.flag(10, value),
            "maxLength" => message.integer(11, value),
            "minLength" => message.integer(12, value),
            "pattern" => message.text(13, value),
            "maxItems" => message.integer(14, value),
            "minItems" => message.integer(15, value),
            "uniqueItems" => message.flag(16, value),
            "maxProperties" => message.integer(17, value),
            "minProperties" => message.integer(18, value),
            "required" => message.texts(19, value),
            "enum" => value.as_array().into_iter().flatten().for_each(|one| message.any(20, one)),
            "additionalProperties" => message.message(21, |item| match value {
                Value::Bool(_) => item.flag(2, value),
                of => item.message(1, |message| schema(message, of)),
            }),
            "type" => message.message(22, |item| item.text(1, value)),
            "items" => {
                message.message(23, |item| item.message(1, |message| schema(message, value)))
            }
            "properties" => message.message(25, |properties| named_schemas(properties, value)),
            "readOnly" => message.flag(27, value),
            "example" => message.any(30, value),
            _ => {}
        }
    }
    message.extensions(31, of);
}

fn path_item(message: &mut Message, item: &Value) {
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(of) = item.get(method) {
            message.message(number, |message| operation(message, of));
        }
    }
}

fn operation(message: &mut Message, of: &Value) {
    message.texts(6, &of["produces"]);
    message.texts(7, &of["consumes"]);
    for one in crate::object::list(of, "parameters") {
        message.message(8, |item| item.message(1, |message| parameter(message, one)));
    }
    message.message(9, |responses| {
        for (code, response) in fields(&of["responses"]) {
            responses.named(1, code, |value| {
                value.message(1, |message| {
                    message.text(1, &response["description"]);
                    message.message(2, |item| {
                        item.message(1, |message| schema(message, &response["schema"]));
                    });
                });
            });
        }
    });
    message.extensions(13, of);
}

fn parameter(message: &mut Message, of: &Value) {
    if of["in"] == "body" {
        message.message(1, |body| {
            body.text(2, &of["name"]);
            body.text(3, &of["in"]);
            body.flag(4, &of["required"]);
            body.message(5, |message| schema(message, &of["schema"]));
        });
    } else {
        message.message(2, |other| {
            other.message(3, |query| {
                query.text(2, &of["in"]);
                query.text(4, &of["name"]);
                query.text(6, &of["type"]);
                query.flag(20, &of["uniqueItems"]);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_gnostics() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "t", "version": "v"},
            "paths": {},
            "definitions": {"a": {"type": "object", "x-b": [1], "properties": {"c": {"maxLength": 300}}}},
        });
        let field = |number: u8, bytes: &[u8]| {
            let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
            field.extend(bytes);
            field
        };
        let property = [field(1, b"c"), field(2, &[11 << 3, 0xac, 2])].concat();
        let mut a = vec![0xca, 1];
        a.extend(&field(25, &field(1, &property))[1..]);
        a.extend([0xb2, 1]);
        a.extend(&field(22, &field(1, b"object"))[1..]);
        a.extend([0xfa, 1]);
        let extension = [field(1, b"x-b"), field(2, &field(2, b"[1]"))].concat();
        a.extend(&field(31, &extension)[1..]);
        let expected = [
            field(1, b"2.0"),
            field(2, &[field(1, b"t"), field(2, b"v")].concat()),
            field(8, b""),
            field(9, &field(1, &[field(1, b"a"), field(2, &a)].concat())),
        ];
        assert_eq!(encode(&document), expected.concat());
    }
}
