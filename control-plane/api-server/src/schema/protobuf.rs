//! Kubernetes' protobuf encoding of objects: `k8s\0`, then a `runtime.Unknown` that names the kind
//! and holds the object's message.
//!
//! Messages become the objects that their JSON would be, by the field numbers of the table. Go
//! writes fields that are values even if they are zero, where its JSON leaves them out: those are
//! left out here too. Fields of numbers that the table does not have are ignored, as protobuf asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::DecodeError;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Number, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Field, Scalar, Shape, Struct, builtin};

const MAGIC: &[u8] = b"k8s\0";
/// Messages may lie in each other so deep, as JSON objects may.
const MAX_DEPTH: usize = 128;

/// A body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin as such bodies do.
    #[error("it does not begin with the bytes `k8s\\0`")]
    NoMagic,
    /// The wire format is broken.
    #[error(transparent)]
    Wire(#[from] DecodeError),
    /// A field ends past the end of its message.
    #[error("a field of {0} bytes ends past the end of its message")]
    Truncated(u64),
    /// The kind is not built in.
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    UnknownKind {
        /// `apiVersion`.
        version: String,
        /// `kind`.
        kind: String,
    },
    /// A field's value is not of its type.
    #[error("{field}: {why}")]
    Value {
        /// The field.
        field: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Too deep.
    #[error("messages lie in each other more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A field whose protobuf form is not known.
    #[error("{0} is not understood in protobuf; send it as application/json")]
    Unsupported(String),
}

type Result<T> = std::result::Result<T, Error>;

/// A field on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order in which they are written.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = split.ok_or(Error::Truncated(length))?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (number, kind) = decode_key(&mut self.0)?;
        let wire = match kind {
            WireType::Varint => Wire::Number(decode_varint(&mut self.0)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0)?;
                Wire::Bytes(self.take(length)?)
            }
            WireType::SixtyFourBit => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Wire::Double(f64::from_le_bytes(bytes))
            }
            WireType::ThirtyTwoBit => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Wire::Double(f32::from_le_bytes(bytes).into())
            }
            WireType::StartGroup | WireType::EndGroup => {
                return Err(Error::Value {
                    field: number.to_string(),
                    why: "groups are not part of Kubernetes' protobuf",
                });
            }
        };
        Ok(Some((number, wire)))
    }
}

/// The object in a body.
///
/// # Errors
/// If the body is not one, or of no built-in kind.
pub fn decode(body: &[u8]) -> Result<Value> {
    let unknown = body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut fields = Fields(unknown);
    while let Some((number, wire)) = fields.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => {
                let mut fields = Fields(bytes);
                while let Some((number, wire)) = fields.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => version = text("apiVersion", bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text("kind", bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(Error::Unsupported("contentEncoding".into()));
            }
            _ => {}
        }
    }
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let shape = match kind.as_str() {
        // Options are of whatever group the request goes to.
        "DeleteOptions" => builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        _ => builtin().kind(group, short, &kind),
    };
    let Some(of) = shape.as_ref().and_then(Shape::as_struct) else {
        return Err(Error::UnknownKind { version, kind });
    };
    let mut object = Map::new();
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), version.into());
    message(raw, of, &[], &mut object, 0)?;
    Ok(object.into())
}

fn text(field: &str, bytes: &[u8]) -> Result<String> {
    let why = "the text is not UTF-8";
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Value { field: field.into(), why })?;
    Ok(text.into())
}

/// Adds the fields of a message of type `of` to `object`. `path` is where Go embeds it in `of`.
fn message(
    bytes: &[u8],
    of: &Struct,
    path: &[u32],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        let here = |field: &&Field| {
            field.number.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&number))
        };
        let Some(field) = of.fields.iter().find(here) else { continue };
        if field.number.len() > path.len() + 1 {
            if let Wire::Bytes(bytes) = wire {
                message(bytes, of, &[path, &[number]].concat(), object, depth + 1)?;
            }
            continue;
        }
        add(field, wire, object, depth)?;
    }
    Ok(())
}

fn add(field: &Field, wire: Wire<'_>, object: &mut Map<String, Value>, depth: usize) -> Result<()> {
    match &field.shape {
        Shape::List(element) => {
            let list = object.entry(&*field.name).or_insert_with(|| json!([]));
            let Some(list) = list.as_array_mut() else { return Ok(()) };
            match (&**element, wire) {
                // Numbers may come one by one or all in one field.
                (
                    Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool),
                    Wire::Bytes(mut packed),
                ) => {
                    while !packed.is_empty() {
                        let number = Wire::Number(decode_varint(&mut packed)?);
                        list.push(value(&field.name, element, number, depth)?);
                    }
                }
                _ => list.push(value(&field.name, element, wire, depth)?),
            }
        }
        Shape::Map(of) => {
            let Wire::Bytes(entry) = wire else { return Err(mistyped(&field.name)) };
            let (mut key, mut found) = (String::new(), None);
            let mut fields = Fields(entry);
            while let Some((number, wire)) = fields.next()? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(&field.name, bytes)?,
                    (2, wire) => found = Some(value(&field.name, of, wire, depth)?),
                    _ => {}
                }
            }
            let found = match found {
                Some(found) => found,
                None => value(&field.name, of, Wire::Bytes(&[]), depth)?,
            };
            let map = object.entry(&*field.name).or_insert_with(|| json!({}));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, found);
            }
        }
        shape => {
            let value = value(&field.name, shape, wire, depth)?;
            if value.is_null() || (field.zero_is_absent && is_zero(&value)) {
                object.remove(&*field.name);
            } else {
                object.insert(field.name.to_string(), value);
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn mistyped(field: &str) -> Error {
    Error::Value { field: field.into(), why: "the wire type is not that of the field" }
}

fn value(field: &str, shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<Value> {
    let bytes = match wire {
        Wire::Bytes(bytes) => Some(bytes),
        _ => None,
    };
    let bytes = bytes.ok_or_else(|| mistyped(field));
    Ok(match shape {
        Shape::Builtin(_) | Shape::Custom(_) => {
            let mut object = Map::new();
            if let Some(of) = shape.as_struct() {
                message(bytes?, of, &[], &mut object, depth + 1)?;
            }
            object.into()
        }
        // Only as a map's value: a message with the list in its first field.
        Shape::List(element) => {
            let mut list = Vec::new();
            let mut fields = Fields(bytes?);
            while let Some((number, wire)) = fields.next()? {
                if number == 1 {
                    list.push(value(field, element, wire, depth + 1)?);
                }
            }
            list.into()
        }
        Shape::Map(_) => return Err(Error::Unsupported(field.into())),
        Shape::Scalar(scalar) => match (scalar, wire) {
            (Scalar::Bool, Wire::Number(number)) => (number != 0).into(),
            // Negative numbers are sign-extended to 64 bits.
            (Scalar::Int32, Wire::Number(number)) => (number as i32).into(),
            (Scalar::Int64, Wire::Number(number)) => (number as i64).into(),
            (Scalar::Double, Wire::Double(number)) => Number::from_f64(number)
                .ok_or_else(|| Error::Value {
                    field: field.into(),
                    why: "the number is not finite",
                })?
                .into(),
            (Scalar::String, _) => text(field, bytes?)?.into(),
            (Scalar::Bytes, _) => BASE64.encode(bytes?).into(),
            (Scalar::Quantity, _) => match first(bytes?, 1)? {
                Some(Wire::Bytes(quantity)) => text(field, quantity)?.into(),
                _ => "0".into(),
            },
            (Scalar::Time | Scalar::MicroTime, _) => timestamp(field, *scalar, bytes?)?,
            (Scalar::IntOrString, _) => int_or_string(field, bytes?)?,
            (Scalar::Any, _) => match first(bytes?, 1)? {
                Some(Wire::Bytes(raw)) if !raw.is_empty() => {
                    let why = "what is raw is not JSON";
                    serde_json::from_slice(raw)
                        .map_err(|_| Error::Value { field: field.into(), why })?
                }
                _ => Value::Null,
            },
            (Scalar::AnyButProtobuf, _) => return Err(Error::Unsupported(field.into())),
            _ => return Err(mistyped(field)),
        },
    })
}

/// The last value of the field `number` of a message.
fn first(bytes: &[u8], number: u32) -> Result<Option<Wire<'_>>> {
    let (mut fields, mut found) = (Fields(bytes), None);
    while let Some((here, wire)) = fields.next()? {
        if here == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn number(bytes: &[u8], field: u32) -> Result<u64> {
    Ok(match first(bytes, field)? {
        Some(Wire::Number(number)) => number,
        _ => 0,
    })
}

/// `metav1.Time` or `MicroTime`: seconds since 1970 and nanoseconds; both zero is no time.
fn timestamp(field: &str, scalar: Scalar, bytes: &[u8]) -> Result<Value> {
    let (seconds, nanos) = (number(bytes, 1)? as i64, number(bytes, 2)? as i64);
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let wrong = || Error::Value { field: field.into(), why: "the time is out of range" };
    let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| wrong())?;
    if scalar == Scalar::Time {
        return Ok(time.format(&Rfc3339).map_err(|_| wrong())?.into());
    }
    let micros = u32::try_from(nanos / 1000).ok().filter(|micros| *micros < 1_000_000);
    let micros = micros.ok_or_else(wrong)?;
    let whole = time.format(&Rfc3339).map_err(|_| wrong())?;
    Ok(format!("{}.{micros:06}Z", whole.trim_end_matches('Z')).into())
}

/// `intstr.IntOrString`: which of the two, the integer, the text.
fn int_or_string(field: &str, bytes: &[u8]) -> Result<Value> {
    Ok(match number(bytes, 1)? {
        0 => (number(bytes, 2)? as i32).into(),
        _ => match first(bytes, 3)? {
            Some(Wire::Bytes(bytes)) => text(field, bytes)?.into(),
            _ => "".into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field that holds bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        field.extend(bytes);
        field
    }

    fn number(field: u8, number: u8) -> Vec<u8> {
        vec![field << 3, number]
    }

    fn body(version: &str, kind: &str, raw: &[Vec<u8>]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, &raw.concat()), field(3, b""), field(4, b"")]
            .concat()
    }

    #[test]
    fn messages_become_objects() {
        let metadata = [
            field(1, b"web"),
            field(3, b""),
            field(8, &[number(1, 0), number(2, 0)].concat()),
            field(11, &[field(1, b"app"), field(2, b"x")].concat()),
        ];
        let port = [number(3, 80), field(4, b"TCP"), number(2, 0)].concat();
        let limit = [field(1, b"cpu"), field(2, &field(1, b"500m"))].concat();
        let probe_port = [number(1, 1), number(2, 0), field(3, b"http")].concat();
        let get = [field(1, b"/"), field(2, &probe_port)].concat();
        // The handler is embedded: its field 1 holds what JSON has beside the delays.
        let probe = [field(1, &field(2, &get)), number(3, 0), number(2, 5)].concat();
        let container = [
            field(1, b"c"),
            field(2, b"busybox"),
            field(3, b"sh"),
            field(3, b"-c"),
            field(6, &port),
            field(8, &field(1, &limit)),
            field(10, &probe),
        ];
        let container = container.concat();
        let volume = [field(1, b"v"), field(2, &field(2, &field(1, b"")))].concat();
        let spec =
            [field(1, &volume), field(2, &container), field(3, b""), number(4, 0), number(11, 0)];
        let pod = body(
            "v1",
            "Pod",
            &[field(1, &metadata.concat()), field(2, &spec.concat()), field(3, b"")],
        );
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "x"}},
            "spec": {
                // A pointer in Go: zero is zero.
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{
                    "name": "c", "image": "busybox", "command": ["sh", "-c"],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {
                        "httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 5},
                }],
            },
        });
        assert_eq!(decode(&pod).unwrap(), expected);
    }

    #[test]
    fn bytes_become_base64_and_options_are_of_any_group() {
        let data = [field(1, b"k"), field(2, b"\xff\x00")].concat();
        let secret = decode(&body("v1", "Secret", &[field(2, &data)])).unwrap();
        assert_eq!(secret["data"], json!({"k": "/wA="}));
        let options = decode(&body("apps/v1", "DeleteOptions", &[number(1, 0)])).unwrap();
        assert_eq!(options["gracePeriodSeconds"], 0);
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let pod = |raw: &[Vec<u8>]| decode(&body("v1", "Pod", raw));
        assert!(matches!(decode(b"{}"), Err(Error::NoMagic)));
        assert!(matches!(decode(&body("v1", "Widget", &[])), Err(Error::UnknownKind { .. })));
        assert!(matches!(pod(&[vec![1 << 3 | 2, 200, 1, 0]]), Err(Error::Truncated(200))));
        assert!(matches!(pod(&[number(1, 5)]), Err(Error::Value { .. })));
        assert!(matches!(pod(&[vec![1 << 3 | 3]]), Err(Error::Value { .. })));
        // A schema's `not` (28) is a schema: spec (2), versions (7), schema (4), openAPIV3Schema (1).
        let deep = |depth| {
            let mut not = Vec::new();
            for _ in 0..depth {
                let inner = std::mem::take(&mut not);
                prost::encoding::encode_varint(28 << 3 | 2, &mut not);
                prost::encoding::encode_varint(inner.len() as u64, &mut not);
                not.extend(inner);
            }
            let spec = field(7, &field(4, &field(1, &not)));
            decode(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[field(2, &spec)]))
        };
        let shallow = deep(10).unwrap();
        assert!(shallow["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["not"].is_object());
        assert!(matches!(deep(MAX_DEPTH + 2), Err(Error::TooDeep)));
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&raw);
            for kind in ["Pod", "Secret", "Event", "Node", "Service"] {
                let _ = decode(&body("v1", kind, std::slice::from_ref(&raw)));
            }
            let _ = decode(&body("apps/v1", "Deployment", std::slice::from_ref(&raw)));
            let _ = decode(&body("autoscaling/v2", "HorizontalPodAutoscaler", &[raw]));
        }

        #[test]
        fn what_is_decoded_is_of_its_type(
            mutations in proptest::collection::vec((0_usize..80, any::<u8>()), 0..6),
        ) {
            let container = [field(1, b"c"), field(2, b"image"), field(6, &number(3, 80))].concat();
            let mut pod =
                body("v1", "Pod", &[field(1, &field(1, b"web")), field(2, &field(2, &container))]);
            for (at, byte) in mutations {
                let at = at % pod.len();
                pod[at] = byte;
            }
            if let Ok(object) = decode(&pod) {
                let shape = builtin().kind("", "v1", "Pod").unwrap();
                if object["kind"] == "Pod" {
                    prop_assert_eq!(crate::schema::check::check(&object, &shape), Ok(Vec::new()));
                }
            }
        }
    }
}
