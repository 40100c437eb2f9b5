//! Which keys encrypt secrets at rest: `pki/encryption.json`, an `EncryptionConfiguration` of
//! `apiserver.config.k8s.io/v1` with the provider `aesgcm`. It is made with the cluster.
//!
//! The first key seals, the others open. [`rotate`] puts a new key first; the server takes it when
//! it starts or gets SIGHUP, seals every secret anew, and takes the keys out that nothing needs
//! any more. Servers that share a store read the file again when it changes or names a key that they
//! do not know; with them the key from before the newest stays in it, as one of them may still be
//! sealing with that.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead_store::StoreError;
use bulkhead_store::encryption::{EncryptedStore, KEY_LENGTH, Keyring};
use serde::{Deserialize, Serialize};

use crate::pki::{self, PkiError};

/// Where what is encrypted lies in the store.
pub const PREFIX: &str = "/registry/secrets/";

/// Its name in `pki/`.
pub(crate) const FILE: &str = "encryption.json";
/// Locked by whoever changes the file.
const LOCK: &str = "encryption.lock";
const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] PkiError),
    /// It is not such a configuration, or asks for what is not supported.
    #[error("{0}: {1}")]
    Configuration(PathBuf, String),
    /// Secrets cannot be sealed anew.
    #[error("encrypting secrets: {0}")]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, EncryptionError>;

/// Keeps others from changing the file while the answer lives.
fn lock(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let locked = options.open(&path).and_then(|file| file.lock().map(|()| file));
    Ok(locked.map_err(|source| PkiError::File { path, source })?)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    resources: Vec<Rule>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Provider {
    Aesgcm {
        keys: Vec<Key>,
    },
    /// Not encrypted: what was there before.
    Identity {},
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    fn generate() -> Result<Self> {
        let secret = Keyring::generate()?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        Ok(Self { name: format!("key-{}", &id[..8]), secret: BASE64.encode(secret) })
    }
}

impl Configuration {
    fn new(keys: Vec<Key>, plain: bool) -> Self {
        let mut providers = vec![Provider::Aesgcm { keys }];
        if plain {
            providers.push(Provider::Identity {});
        }
        let resources = vec![Rule { resources: vec!["secrets".into()], providers }];
        Self { api_version: API_VERSION.into(), kind: KIND.into(), resources }
    }

    /// The keys, and whether what is plain is taken.
    fn parts(self) -> std::result::Result<(Vec<Key>, bool), &'static str> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err("it is no EncryptionConfiguration of apiserver.config.k8s.io/v1");
        }
        let [rule] = <[Rule; 1]>::try_from(self.resources)
            .map_err(|_| "one entry of resources is supported, for secrets")?;
        if rule.resources != ["secrets"] {
            return Err("secrets, and nothing else, can be encrypted");
        }
        let mut providers = rule.providers.into_iter();
        let Some(Provider::Aesgcm { keys }) = providers.next() else {
            return Err("the first provider must be aesgcm");
        };
        match (providers.next(), providers.next()) {
            (None, None) => Ok((keys, false)),
            (Some(Provider::Identity {}), None) => Ok((keys, true)),
            _ => Err("after aesgcm, identity is supported and nothing else"),
        }
    }
}

fn read(dir: &Path) -> Result<(Vec<Key>, bool)> {
    let path = dir.join(FILE);
    let text = pki::read(&path)?;
    let wrong = |why: String| EncryptionError::Configuration(path.clone(), why);
    let configuration: Configuration =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    configuration.parts().map_err(|why| wrong(why.into()))
}

fn write(dir: &Path, keys: Vec<Key>, plain: bool) -> Result<()> {
    // A struct of texts always serializes.
    let text = serde_json::to_string_pretty(&Configuration::new(keys, plain)).unwrap_or_default();
    Ok(pki::write(&dir.join(FILE), &text, 0o600)?)
}

/// The keys of the cluster whose PKI lies in `dir`, made if there are none. A database that is
/// older than its keys has secrets in the clear, which are taken until they are sealed.
///
/// # Errors
/// If the file cannot be read or written, or asks for what is not supported.
pub fn load(dir: &Path, older_database: bool) -> Result<Keyring> {
    if !dir.join(FILE).exists() {
        let _lock = lock(dir)?;
        // Another server may have been faster.
        if !dir.join(FILE).exists() {
            write(dir, vec![Key::generate()?], older_database)?;
        }
    }
    let (keys, plain) = read(dir)?;
    let wrong = |why: String| EncryptionError::Configuration(dir.join(FILE), why);
    let keys = keys.into_iter().map(|key| {
        let secret = BASE64.decode(&key.secret).ok();
        let secret = secret.and_then(|secret| <[u8; KEY_LENGTH]>::try_from(secret).ok());
        let secret = secret
            .ok_or_else(|| wrong(format!("key {}: not {KEY_LENGTH} bytes in base64", key.name)))?;
        Ok((key.name, secret))
    });
    Keyring::new(keys.collect::<Result<_>>()?, plain).map_err(|error| wrong(error.to_string()))
}

/// The names of the keys in `dir`.
///
/// # Errors
/// As [`load`].
pub(crate) fn names(dir: &Path) -> Result<std::collections::BTreeSet<String>> {
    let (keys, _) = read(dir)?;
    Ok(keys.into_iter().map(|key| key.name).collect())
}

/// The name of the key that is to seal.
///
/// # Errors
/// As [`load`].
pub fn newest(dir: &Path) -> Result<String> {
    let (keys, _) = read(dir)?;
    let newest = keys.into_iter().next().map(|key| key.name);
    newest.ok_or_else(|| EncryptionError::Configuration(dir.join(FILE), "it has no key".into()))
}

/// Puts a new key first; the server takes it when it starts or gets SIGHUP. Returns its name.
///
/// # Errors
/// As [`load`].
pub fn rotate(dir: &Path) -> Result<String> {
    let _lock = lock(dir)?;
    let (mut keys, plain) = read(dir)?;
    let key = Key::generate()?;
    let name = key.name.clone();
    keys.insert(0, key);
    write(dir, keys, plain)?;
    Ok(name)
}

/// Seals with the first key whatever it has not sealed, and takes all but the newest `keep` keys
/// out of the file. They still open what watchers have not seen yet, until the server ends.
///
/// # Errors
/// If the store or the file fails.
pub async fn settle(dir: &Path, store: &EncryptedStore, keep: usize) -> Result<()> {
    let sealing = store.sealing_key();
    let count = store.reseal().await?;
    if count > 0 {
        tracing::info!(count, "secrets were encrypted with the newest key");
    }
    let _lock = lock(dir)?;
    let (mut keys, plain) = read(dir)?;
    // There may be newer ones by now, with which nothing is sealed yet.
    let newer = keys.iter().position(|key| key.name == sealing).unwrap_or(keys.len());
    let keep = newer.saturating_add(keep);
    if keys.len() > keep || plain {
        keys.truncate(keep);
        write(dir, keys, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_made_private_and_rotates() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path(), false).unwrap();
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (first, plain) = read(dir.path()).unwrap();
        assert!(!plain);
        let name = rotate(dir.path()).unwrap();
        let (second, _) = read(dir.path()).unwrap();
        assert_eq!((&second[0].name, &second[1].secret), (&name, &first[0].secret));
        assert_ne!(second[0].secret, second[1].secret);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join(FILE), text).unwrap();
        let refused = || load(dir.path(), false).unwrap_err().to_string();
        write("{}");
        assert!(refused().contains("apiVersion"));
        load(dir.path(), false).unwrap_err();
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        load(dir.path(), false).unwrap();
        let good = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        write(&good.replace("\"secrets\"", "\"configmaps\""));
        assert!(refused().contains("secrets, and nothing else"));
        write(&good.replace("aesgcm", "kms"));
        assert!(refused().contains("kms"));
        write(&good.replace("\"secret\": \"", "\"secret\": \"AAAA"));
        assert!(refused().contains("not 32 bytes"));
    }
}
