//! ConfigMaps and Secrets: data for pods.
//! <https://kubernetes.io/docs/concepts/configuration/secret/#secret-types>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::{PLAIN, columns as c, template};
use crate::names;
use crate::object;
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// So many bytes the values of one have together.
const MOST: usize = 1 << 20;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";
/// The type of a Secret that is a service account's token.
pub(crate) const TOKEN: &str = "kubernetes.io/service-account-token";
/// The annotation by which it says whose.
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";

pub(super) fn config_map() -> Resource {
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        storage: "configmaps",
        columns: c::CONFIG_MAP,
        behaviour: Behaviour {
            validate: validate_map,
            validate_update: |new, old, causes| fixed(new, old, &["data", "binaryData"], causes),
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

pub(super) fn secret() -> Resource {
    Resource {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        storage: "secrets",
        fields: &["type"],
        columns: c::SECRET,
        behaviour: Behaviour {
            prepare_create: |secret| object::set_default(secret, "type", "Opaque"),
            prepare_update: |new, old| object::set_default(new, "type", old["type"].clone()),
            default: string_data,
            validate: validate_secret,
            validate_update: |new, old, causes| {
                template::immutable(new, old, "type", causes);
                fixed(new, old, &["data"], causes);
            },
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// A secret's `stringData` is written, never read: it goes into `data`, in base64.
fn string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) =
        secret.as_object_mut().and_then(|fields| fields.remove("stringData"))
    else {
        return;
    };
    let Some(data) = object::map(secret, "data") else { return };
    for (key, value) in plain {
        let encoded = BASE64.encode(value.as_str().unwrap_or_default());
        data.insert(key, encoded.into());
    }
}

fn entries<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object[field].as_object().filter(|entries| !entries.is_empty())
}

/// The bytes of a value in base64. What is none is no bytes: that is an error of another place.
fn decode(value: &Value) -> Vec<u8> {
    value.as_str().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default()
}

/// Reports what may not change of data that is fixed.
fn fixed(new: &Value, old: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        causes.push(Cause::forbidden("immutable", IMMUTABLE));
    }
    let changed = fields.iter().filter(|field| entries(new, field) != entries(old, field));
    causes.extend(changed.map(|field| Cause::forbidden(*field, IMMUTABLE)));
}

/// Reports keys that cannot be any.
fn keys(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    for key in entries(object, field).into_iter().flat_map(Map::keys) {
        if let Some(why) = names::config_key_violation(key) {
            causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), why));
        }
    }
}

fn validate_map(map: &Value, causes: &mut Vec<Cause>) {
    keys(map, "data", causes);
    keys(map, "binaryData", causes);
    let (texts, binary) = (entries(map, "data"), entries(map, "binaryData"));
    for key in texts.into_iter().flat_map(Map::keys) {
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let why = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(format!("data[{key}]"), &json!(key), why));
        }
    }
    let texts = texts.into_iter().flat_map(Map::values);
    let texts: usize = texts.map(|value| value.as_str().map_or(0, str::len)).sum();
    let binary = binary.into_iter().flat_map(Map::values);
    let binary: usize = binary.map(|value| decode(value).len()).sum();
    if texts + binary > MOST {
        // Not of one field: Kubernetes names the object so.
        causes.push(Cause::too_long("[]", MOST));
    }
}

fn validate_secret(secret: &Value, causes: &mut Vec<Cause>) {
    keys(secret, "data", causes);
    let values = entries(secret, "data").into_iter().flat_map(Map::values);
    if values.map(|value| decode(value).len()).sum::<usize>() > MOST {
        causes.push(Cause::too_long("data", MOST));
    }
    let data = &secret["data"];
    let mut required = |keys: &[&str]| {
        for key in keys.iter().filter(|key| data[**key].is_null()) {
            causes.push(Cause::required(format!("data[{key}]")));
        }
    };
    match object::text(secret, "type") {
        TOKEN => {
            let name = secret["metadata"]["annotations"][ACCOUNT].as_str();
            if name.is_none_or(str::is_empty) {
                causes.push(Cause::required(format!("metadata.annotations[{ACCOUNT}]")));
            }
        }
        "kubernetes.io/dockercfg" => registries(data, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => registries(data, ".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            required(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if decode(&data["ssh-privatekey"]).is_empty() => {
            causes.push(Cause::required("data[ssh-privatekey]"));
        }
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

/// Reports what is no JSON of registries and who may use them.
fn registries(data: &Value, key: &str, causes: &mut Vec<Cause>) {
    let path = format!("data[{key}]");
    if data[key].is_null() {
        causes.push(Cause::required(path));
    } else if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&decode(&data[key])) {
        let redacted = json!("<secret contents redacted>");
        causes.push(Cause::invalid(path, &redacted, &error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn maps_have_keys_that_can_be_files() {
        let map = |data: Value| fields(validate_map, json!({"data": data}));
        assert_eq!(map(json!({"a.b": "1", ".c": ""})), Vec::<String>::new());
        assert_eq!(map(json!({"a b": "1", "..": ""})), ["data[..]", "data[a b]"]);
        let both = json!({"data": {"a": ""}, "binaryData": {"a": ""}});
        assert_eq!(fields(validate_map, both), ["data[a]"]);
        assert_eq!(map(json!({"a": "x".repeat(MOST)})), Vec::<String>::new());
        assert_eq!(map(json!({"a": "x".repeat(MOST), "b": "x"})), ["[]"]);
    }

    #[test]
    fn secrets_have_what_their_types_need() {
        let wrong = |kind: &str, plain: Value| {
            let mut secret = json!({"type": kind, "stringData": plain});
            string_data(&mut secret);
            fields(validate_secret, secret)
        };
        let none = Vec::<String>::new();
        assert_eq!(wrong("example.com/any", json!({})), none);
        assert_eq!(wrong("kubernetes.io/tls", json!({"tls.crt": ""})), ["data[tls.key]"]);
        assert_eq!(wrong("kubernetes.io/tls", json!({"tls.crt": "", "tls.key": ""})), none);
        assert_eq!(
            wrong("kubernetes.io/basic-auth", json!({})),
            ["data[username]", "data[password]"]
        );
        assert_eq!(wrong("kubernetes.io/basic-auth", json!({"password": ""})), none);
        assert_eq!(
            wrong("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""})),
            ["data[ssh-privatekey]"]
        );
        let docker = "kubernetes.io/dockerconfigjson";
        assert_eq!(wrong(docker, json!({})), ["data[.dockerconfigjson]"]);
        assert_eq!(wrong(docker, json!({".dockerconfigjson": "[]"})), ["data[.dockerconfigjson]"]);
        assert_eq!(wrong(docker, json!({".dockerconfigjson": "{}"})), none);
        assert_eq!(
            wrong("kubernetes.io/service-account-token", json!({})),
            ["metadata.annotations[kubernetes.io/service-account.name]"]
        );
        assert_eq!(wrong("Opaque", json!({"a": "x".repeat(MOST + 1)})), ["data"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}, "metadata": {}});
        let said = |new: &Value| {
            let mut causes = Vec::new();
            fixed(new, &old, &["data", "binaryData"], &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let same = json!({"immutable": true, "data": {"a": "1"}, "binaryData": {}, "metadata": 1});
        assert_eq!(said(&same), Vec::<String>::new());
        assert_eq!(
            said(&json!({"data": {"a": "2"}, "binaryData": {"b": ""}})),
            ["immutable", "data", "binaryData"]
        );
    }
}
