//! Any bytes as a request's body of JSON, YAML or protobuf, checked as an object of a kind.

use bulkhead_api_server::body::{self, Body};
use bulkhead_api_server::options::FieldValidation;
use bulkhead_api_server::resource::{Registry, Resource};
use bulkhead_api_server::validation::Validation;
use bulkhead_api_server::{kinds, status::Status};
use http_body_util::Full;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::Script;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

thread_local! {
    static SHARED: (Runtime, Registry) =
        (Builder::new_current_thread().enable_all().build().unwrap(), kinds::registry());
}

/// Reads `bytes`.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let media_type = *script.choose(&[JSON, YAML, PROTOBUF]);
    SHARED.with(|(runtime, registry)| {
        let read = |bytes: &[u8], media_type| {
            runtime.block_on(body::read(Full::from(bytes.to_vec()), media_type))
        };
        let resources: Vec<_> = registry.iter().collect();
        let resource = script.choose(&resources);
        let framed = media_type == PROTOBUF && !script.once_in(4);
        let rest = script.rest();
        let bytes = if framed { message(resource, rest) } else { rest.to_vec() };
        let Ok(body) = read(&bytes, media_type) else { return };
        match media_type {
            JSON if !bytes.is_empty() => {
                assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), body.value);
            }
            PROTOBUF if framed => {
                let checked = check(resource, FieldValidation::Strict, &body);
                assert!(checked.is_ok(), "decoded to what is no {}: {checked:?}", resource.kind);
            }
            _ => {}
        }
        // Clients that apply send JSON and call it YAML.
        let json = serde_json::to_vec(&body.value).unwrap();
        if let Ok(again) = read(&json, YAML) {
            assert_eq!(again.value, body.value, "JSON read as YAML");
        }
        for mode in [FieldValidation::Strict, FieldValidation::Warn] {
            let _ = check(resource, mode, &body);
        }
    });
}

fn check(resource: &Resource, mode: FieldValidation, body: &Body) -> Result<Value, Status> {
    let body = Body { value: body.value.clone(), duplicates: body.duplicates.clone() };
    Validation::new(mode, resource, None).body(body)
}

/// `object` as the message of an object of `resource`, in the envelope of such bodies.
fn message(resource: &Resource, object: &[u8]) -> Vec<u8> {
    let mut named = Vec::new();
    field(&mut named, 1, resource.api_version().as_bytes());
    field(&mut named, 2, resource.kind.as_bytes());
    let mut message = b"k8s\0".to_vec();
    field(&mut message, 1, &named);
    field(&mut message, 2, object);
    message
}

/// Adds a field of bytes to a protobuf message.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        message.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    message.push(length.to_le_bytes()[0]);
    message.extend(bytes);
}
