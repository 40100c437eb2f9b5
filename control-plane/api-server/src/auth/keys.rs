//! The keys of service accounts' tokens, ECDSA P-256 (ES256, RFC 7518).
//!
//! `sa.key` signs. Every `sa*.key` beside it verifies: to rotate, rename it to `sa-OLD.key`, start
//! the server, which makes a new one, and remove the old one when the last token that it signed has
//! expired.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::pki::{self, PkiError};

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read, or is no key.
    #[error(transparent)]
    File(#[from] PkiError),
    /// The directory cannot be read.
    #[error("{0}: {1}")]
    Directory(PathBuf, std::io::Error),
    /// A key is of another kind.
    #[error("{0}: tokens are signed with ECDSA P-256 keys")]
    Kind(PathBuf),
}

/// The keys.
pub struct Keys {
    signing: EncodingKey,
    signing_id: String,
    verifying: Vec<Key>,
}

struct Key {
    id: String,
    x: String,
    y: String,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("signing", &self.signing_id).finish_non_exhaustive()
    }
}

impl Keys {
    /// Loads the keys in `dir`; makes `sa.key` if it is not there.
    ///
    /// # Errors
    /// If a file cannot be read or written, or is not such a key.
    pub fn load(dir: &Path) -> Result<Self, KeysError> {
        let path = dir.join("sa.key");
        let pair = pki::key(&path)?;
        let own = Key::new(&path, &pair)?;
        let mut keys = Self {
            signing: EncodingKey::from_ec_der(pair.serialized_der()),
            signing_id: own.id.clone(),
            verifying: vec![own],
        };
        let unreadable = |error| KeysError::Directory(dir.into(), error);
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("sa-") && name.ends_with(".key") {
                keys.verifying.push(Key::new(&path, &pki::key(&path)?)?);
            }
        }
        Ok(keys)
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// If the key cannot sign, which a loaded one can.
    pub fn sign(&self, claims: &impl Serialize) -> jsonwebtoken::errors::Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.signing_id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// The claims of a token that one of the keys has signed for `issuer` and that holds now. For
    /// whom it is meant is the caller's to check.
    #[must_use]
    pub fn verify<T: DeserializeOwned>(&self, token: &str, issuer: &str) -> Option<T> {
        self.decode(token, issuer, Validation::new(Algorithm::ES256))
    }

    /// As [`verify`](Self::verify), of tokens that say no end: the caller must know of something
    /// that ends them.
    #[must_use]
    pub fn verify_endless<T: DeserializeOwned>(&self, token: &str, issuer: &str) -> Option<T> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims(&["iss"]);
        self.decode(token, issuer, validation)
    }

    fn decode<T: DeserializeOwned>(
        &self,
        token: &str,
        issuer: &str,
        mut validation: Validation,
    ) -> Option<T> {
        let id = jsonwebtoken::decode_header(token).ok()?.kid?;
        let key = self.verifying.iter().find(|key| key.id == id)?;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.set_issuer(&[issuer]);
        let token = jsonwebtoken::decode(token, &key.decoding, &validation).ok()?;
        Some(token.claims)
    }

    /// The public keys as a JSON Web Key Set (RFC 7517).
    #[must_use]
    pub fn to_jwks(&self) -> Value {
        let keys = self.verifying.iter().map(|key| {
            json!({
                "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                "x": key.x, "y": key.y,
            })
        });
        json!({"keys": keys.collect::<Vec<_>>()})
    }
}

impl Key {
    fn new(path: &Path, pair: &KeyPair) -> Result<Self, KeysError> {
        // An uncompressed point: 4, then the coordinates (SEC 1, 2.3.3).
        let wrong = || KeysError::Kind(path.into());
        let [4, point @ ..] = pair.der_bytes() else { return Err(wrong()) };
        let (x, y) = point.split_at_checked(32).ok_or_else(wrong)?;
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let decoding = DecodingKey::from_ec_components(&x, &y).map_err(|_| wrong())?;
        let id = BASE64.encode(Sha256::digest(pair.subject_public_key_info()));
        Ok(Self { id, x, y, decoding })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_key_verifies_what_it_signed() {
        let dir = tempfile::tempdir().unwrap();
        let claims = json!({"iss": "us", "exp": 4_102_444_800_u64, "sub": "x"});
        let old = Keys::load(dir.path()).unwrap();
        let token = old.sign(&claims).unwrap();
        assert_eq!(old.verify::<Value>(&token, "us"), Some(claims.clone()));
        assert_eq!(old.verify::<Value>(&token, "others"), None);
        std::fs::rename(dir.path().join("sa.key"), dir.path().join("sa-1.key")).unwrap();
        let new = Keys::load(dir.path()).unwrap();
        assert_eq!(new.verify::<Value>(&token, "us"), Some(claims.clone()));
        assert_eq!(new.to_jwks()["keys"].as_array().unwrap().len(), 2);
        assert_ne!(new.sign(&claims).unwrap().split('.').next(), token.split('.').next());
        std::fs::remove_file(dir.path().join("sa-1.key")).unwrap();
        assert_eq!(Keys::load(dir.path()).unwrap().verify::<Value>(&token, "us"), None);
    }

    #[test]
    fn what_was_changed_or_has_expired_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load(dir.path()).unwrap();
        let sign = |claims: Value| keys.sign(&claims).unwrap();
        let past = json!({"iss": "us", "exp": 1_000_000_000, "sub": "x"});
        assert_eq!(keys.verify::<Value>(&sign(past), "us"), None);
        let endless = sign(json!({"iss": "us"}));
        assert_eq!(keys.verify::<Value>(&endless, "us"), None, "no end");
        assert!(keys.verify_endless::<Value>(&endless, "us").is_some());
        assert_eq!(keys.verify_endless::<Value>(&endless, "others"), None);
        assert_eq!(keys.verify_endless::<Value>(&sign(json!({})), "us"), None, "no issuer");
        let good = sign(json!({"iss": "us", "exp": 4_102_444_800_u64, "sub": "x"}));
        let parts: Vec<&str> = good.split('.').collect();
        let forged = BASE64.encode(r#"{"iss":"us","exp":4102444800,"sub":"y"}"#);
        let forged = [parts[0], &forged, parts[2]].join(".");
        assert_eq!(keys.verify::<Value>(&forged, "us"), None);
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        assert_eq!(keys.verify::<Value>(&[&none, parts[1], ""].join("."), "us"), None);
    }
}
