//! Credentials for registries, as Docker keeps them in its configuration and Kubernetes in Secrets, and
//! which of them are for an image.
//! <https://kubernetes.io/docs/concepts/containers/images/#config-json>

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::Name;

/// A configuration is no longer than this, in bytes, as a Secret is.
const MAX_CONFIG: usize = 1 << 20;

/// What Docker calls its hub where it keeps credentials.
const HUB: &str = "index.docker.io";

/// Why credentials cannot be read. Says nothing of what is in them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// It is longer than 1 MiB.
    #[error("is over the limit of {MAX_CONFIG} bytes")]
    Long,
    /// It is not such a document.
    #[error("is no Docker configuration: error at line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An `auth` that is not one.
    #[error("the auth of {0:?} is not base64 of username:password")]
    Auth(String),
}

impl From<serde_json::Error> for KeyringError {
    fn from(error: serde_json::Error) -> Self {
        // What serde says in words may cite a password.
        Self::Json { line: error.line(), column: error.column() }
    }
}

/// `config.json` of Docker.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// What there is for one registry.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    /// Both, and it counts more.
    auth: String,
}

impl Entry {
    fn credential(self, place: &str) -> Result<Credential, KeyringError> {
        let Self { mut username, mut password, auth } = self;
        if !auth.is_empty() {
            let engine = if auth.ends_with('=') { &STANDARD } else { &STANDARD_NO_PAD };
            let decoded = engine.decode(auth.trim()).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = text.as_deref().and_then(|text| text.split_once(':'));
            let (name, word) = pair.ok_or_else(|| KeyringError::Auth(place.to_owned()))?;
            (username, password) = (name.to_owned(), word.to_owned());
        }
        Ok(Credential { username, password })
    }
}

#[derive(Clone)]
struct Credential {
    username: String,
    password: String,
}

/// Credentials, by the registries and repositories that they are for.
#[derive(Clone, Default)]
pub struct Keyring(BTreeMap<String, Vec<Credential>>);

impl fmt::Debug for Keyring {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Keyring {
    /// Adds those of a `config.json`, as in a Secret of type `kubernetes.io/dockerconfigjson`.
    ///
    /// # Errors
    /// If it is not one; then nothing is added.
    pub fn add_config(&mut self, json: &[u8]) -> Result<(), KeyringError> {
        let config: Config = serde_json::from_slice(bounded(json)?)?;
        self.add(config.auths)
    }

    /// Adds those of a `.dockercfg`, as in a Secret of type `kubernetes.io/dockercfg`.
    ///
    /// # Errors
    /// If it is not one; then nothing is added.
    pub fn add_legacy(&mut self, json: &[u8]) -> Result<(), KeyringError> {
        self.add(serde_json::from_slice(bounded(json)?)?)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), KeyringError> {
        let read = entries.into_iter().map(|(place, entry)| {
            let credential = entry.credential(&place)?;
            Ok((key(&place), credential))
        });
        for (key, credential) in read.collect::<Result<Vec<_>, KeyringError>>()? {
            self.0.entry(key).or_default().push(credential);
        }
        Ok(())
    }

    /// Those that may be for an image, the most specific first.
    pub fn find(&self, image: &Name) -> impl Iterator<Item = RegistryAuth> + use<> {
        let image = image.repository();
        // What begins with another comes after it.
        let matching = self.0.iter().rev().filter(|(key, _)| matches(key, &image));
        let mut found: Vec<Credential> =
            matching.flat_map(|(_, credentials)| credentials).cloned().collect();
        if found.is_empty() && image.starts_with("docker.io/") {
            found = self.0.get(HUB).cloned().unwrap_or_default();
        }
        found.into_iter().map(|Credential { username, password }| {
            match username.is_empty() && password.is_empty() {
                true => RegistryAuth::Anonymous,
                false => RegistryAuth::Basic(username, password),
            }
        })
    }
}

fn bounded(json: &[u8]) -> Result<&[u8], KeyringError> {
    if json.len() > MAX_CONFIG { Err(KeyringError::Long) } else { Ok(json) }
}

/// What a place is known by: host, port and path, without what Docker puts around them.
fn key(place: &str) -> String {
    let bare = ["https://", "http://"].iter().find_map(|scheme| place.strip_prefix(scheme));
    let place = bare.unwrap_or(place);
    let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let versions = ["/v1/", "/v2/"];
    let path = if versions.iter().any(|version| path.starts_with(version)) {
        path.split_at("/v1".len()).1
    } else {
        path
    };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Whether credentials for `key`, whose host may have `*` and `?` within its labels, are for an image.
fn matches(key: &str, image: &str) -> bool {
    let parts = |text: &str| -> (String, Option<String>, String) {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (host, None),
        };
        (host.to_owned(), port, path.to_owned())
    };
    let (pattern, asked_port, prefix) = parts(key);
    let (host, port, path) = parts(image);
    let labels = |text: &str| text.split('.').count();
    asked_port == port
        && path.starts_with(&prefix)
        && labels(&pattern) == labels(&host)
        && pattern.split('.').zip(host.split('.')).all(|(pattern, label)| glob(pattern, label))
}

/// Whether text is as a pattern has it, whose `*` is any text and whose `?` is any byte.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // The last star, and what it is taken for at the least: nothing else is ever tried again.
    let mut star = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((begin, taken)) = star else { return false };
                star = Some((begin, taken + 1));
                (at, seen) = (begin + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        let found = keyring.find(&Name::parse(image).unwrap());
        found
            .map(|auth| match auth {
                RegistryAuth::Basic(user, password) => format!("{user}:{password}"),
                _ => "anonymous".to_owned(),
            })
            .collect()
    }

    fn keyring(places: &[&str]) -> Keyring {
        let auths = places.iter().map(|place| {
            ((*place).to_owned(), json!({"username": place, "password": "p", "email": "e"}))
        });
        let auths: serde_json::Map<_, _> = auths.collect();
        let mut keyring = Keyring::default();
        keyring
            .add_config(json!({"auths": auths, "credsStore": "x"}).to_string().as_bytes())
            .unwrap();
        keyring
    }

    #[test]
    fn the_most_specific_comes_first() {
        let keyring = keyring(&[
            "r.example.com",
            "https://r.example.com/v2/",
            "r.example.com/team",
            "r.example.com/team/app",
            "r.example.com:5000",
            "*.example.com",
            "other.example.com",
        ]);
        let found = users(&keyring, "r.example.com/team/app:1");
        assert_eq!(
            found,
            [
                "r.example.com/team/app:p",
                "r.example.com/team:p",
                "https://r.example.com/v2/:p",
                "r.example.com:p",
                "*.example.com:p"
            ]
        );
        assert_eq!(users(&keyring, "r.example.com:5000/x"), ["r.example.com:5000:p"]);
        assert_eq!(users(&keyring, "a.example.com/x"), ["*.example.com:p"]);
        assert_eq!(users(&keyring, "a.b.example.com/x"), [""; 0], "a star is one label's");
        assert_eq!(users(&keyring, "busybox"), [""; 0]);
    }

    #[test]
    fn dockers_hub_has_several_names() {
        for place in ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] {
            let keyring = keyring(&[place]);
            for image in ["busybox", "me/app:1", "docker.io/library/busybox"] {
                assert_eq!(users(&keyring, image), [format!("{place}:p")], "{place} {image}");
            }
            assert_eq!(users(&keyring, "quay.io/busybox"), [""; 0]);
        }
    }

    #[test]
    fn an_auth_counts_more_than_its_parts() {
        let mut keyring = Keyring::default();
        let entry = |auth: &str| json!({"r.example.com": {"username": "a", "auth": auth}});
        keyring.add_legacy(entry("dTpwOnc=").to_string().as_bytes()).unwrap();
        keyring.add_legacy(entry("dTpwdw").to_string().as_bytes()).unwrap();
        assert_eq!(users(&keyring, "r.example.com/x"), ["u:p:w", "u:pw"]);
        assert!(!format!("{keyring:?}").contains("pw"));
    }

    #[test]
    fn what_is_no_configuration_is_refused_and_not_cited() {
        let mut keyring = Keyring::default();
        let auth = |auth: &str| json!({"auths": {"r": {"auth": auth}}}).to_string().into_bytes();
        for bad in ["%%%", "bm9jb2xvbg==", "/w=="] {
            let error = keyring.add_config(&auth(bad)).unwrap_err();
            assert_eq!(error, KeyringError::Auth("r".into()));
        }
        for bad in ["", "[", "{\"auths\": []}", "{\"auths\": {\"r\": \"secret\"}}"] {
            let error = keyring.add_config(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("is no Docker configuration") && !error.contains("secret"));
        }
        let deep = "[".repeat(1 << 19);
        assert!(matches!(keyring.add_legacy(deep.as_bytes()), Err(KeyringError::Json { .. })));
        assert_eq!(keyring.add_config(&vec![b' '; MAX_CONFIG + 1]), Err(KeyringError::Long));
        assert!(keyring.0.is_empty());
    }

    #[test]
    fn patterns_match_within_a_label() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*b*b", "abab", true),
            ("?", "", false),
            ("r?", "r1", true),
            ("r", "r1", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
        // As hostile as it gets.
        assert!(!glob(&"*a".repeat(5000), &"a".repeat(4000)));
    }
}
