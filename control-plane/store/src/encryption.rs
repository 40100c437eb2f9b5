//! Encryption at rest, above any [`Store`]: the values below some prefixes are sealed with
//! AES-256-GCM, and bound to their key so that none can be moved to another's place.
//!
//! A sealed value is what Kubernetes' `aesgcm` provider writes: `k8s:enc:aesgcm:v1:KEY-NAME:`, a
//! random nonce of 12 bytes, the ciphertext and its tag of 16.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{Entry, Event, Page, Range, Result, Revision, Store, StoreError, Watch, Write};

const ENVELOPE: &[u8] = b"k8s:enc:aesgcm:v1:";
/// So many values are sealed anew between two looks at what is left.
const PAGE: usize = 500;

/// The length of a key in bytes.
pub const KEY_LENGTH: usize = 32;

/// The keys, the first of which seals; all of them open.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<(String, LessSafeKey)>,
    plain: bool,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Keyring").field("keys", &names).field("plain", &self.plain).finish()
    }
}

impl Keyring {
    /// The bytes of a new key.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<[u8; KEY_LENGTH]> {
        let mut key = [0; KEY_LENGTH];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| StoreError::Backend("encryption: no random bytes".into()))?;
        Ok(key)
    }

    /// A ring of keys by name, at least one. If `plain`, values that are not sealed are taken too:
    /// from before there was encryption.
    ///
    /// # Errors
    /// If there is no key, or a name has a colon.
    pub fn new(keys: Vec<(String, [u8; KEY_LENGTH])>, plain: bool) -> Result<Self> {
        let wrong = |what: &str| StoreError::Backend(format!("encryption: {what}").into());
        if keys.is_empty() {
            return Err(wrong("there is no key"));
        }
        let keys = keys.into_iter().map(|(name, key)| {
            if name.contains(':') {
                return Err(wrong("a key's name has a colon"));
            }
            let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| wrong("not a key"))?;
            Ok((name, LessSafeKey::new(key)))
        });
        Ok(Self { keys: keys.collect::<Result<_>>()?, plain })
    }

    fn seal(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>> {
        let (name, sealing) = &self.keys[0];
        let failed = |_| StoreError::Backend(format!("cannot encrypt {key}").into());
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut sealed = value;
        let bound = Aad::from(key.as_bytes());
        sealing
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut sealed)
            .map_err(failed)?;
        Ok([ENVELOPE, name.as_bytes(), b":", &nonce, &sealed].concat())
    }

    /// What was sealed at `key`.
    ///
    /// # Errors
    /// If it was sealed with another key, or for another place, or has been changed.
    pub fn open(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        let failed = |why: &str| StoreError::Backend(format!("cannot decrypt {key}: {why}").into());
        let Some((name, rest)) = split(value) else {
            return match self.plain {
                true => Ok(value.into()),
                false => Err(failed("it is not encrypted")),
            };
        };
        let found = self.keys.iter().find(|(own, _)| own.as_bytes() == name);
        let (_, opening) = found.ok_or_else(|| {
            failed(&format!("there is no key {:?}", String::from_utf8_lossy(name)))
        })?;
        let (nonce, sealed) =
            rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| failed("it is cut off"))?;
        let mut sealed = sealed.to_vec();
        let bound = Aad::from(key.as_bytes());
        let opened = opening
            .open_in_place(Nonce::assume_unique_for_key(*nonce), bound, &mut sealed)
            .map_err(|_| failed("it was sealed otherwise, or for another key"))?
            .len();
        sealed.truncate(opened);
        Ok(sealed)
    }

    /// Whether the key that sealed `value` is here, if it is sealed.
    fn knows(&self, value: &[u8]) -> bool {
        split(value).is_none_or(|(name, _)| self.keys.iter().any(|(own, _)| own.as_bytes() == name))
    }

    /// Whether the key that seals now has sealed `value`.
    fn is_current(&self, value: &[u8]) -> bool {
        split(value).is_some_and(|(name, _)| name == self.keys[0].0.as_bytes())
    }
}

/// The name of the key and the rest of a sealed value.
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = value.strip_prefix(ENVELOPE)?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// The name of the key that sealed `value`, if it is sealed.
#[must_use]
pub fn key_name(value: &[u8]) -> Option<String> {
    split(value).map(|(name, _)| String::from_utf8_lossy(name).into_owned())
}

/// A store that encrypts what lies below some prefixes.
#[derive(Clone)]
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    sealing: Arc<Sealing>,
}

/// Where newer keys come from.
type Reload = dyn Fn() -> Result<Keyring> + Send + Sync;

struct Sealing {
    prefixes: Vec<String>,
    keys: RwLock<Arc<Keyring>>,
    /// Asked for keys that are not known: another server of the cluster may have a new one.
    reload: Option<Box<Reload>>,
}

impl fmt::Debug for EncryptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStore").field("prefixes", &self.sealing.prefixes).finish()
    }
}

impl Sealing {
    fn covers(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys to open `value` with.
    fn keys_for(&self, value: &[u8]) -> Result<Arc<Keyring>> {
        let keys = self.keys();
        match &self.reload {
            Some(reload) if !keys.knows(value) => {
                let newer = Arc::new(reload()?);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&newer);
                Ok(newer)
            }
            _ => Ok(keys),
        }
    }

    fn open(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.keys_for(value)?.open(key, value)
    }

    fn opened(&self, mut entry: Entry) -> Result<Entry> {
        if self.covers(&entry.key) {
            entry.value = self.open(&entry.key, &entry.value)?.into();
        }
        Ok(entry)
    }

    fn opened_event(&self, event: Arc<Event>) -> Result<Arc<Event>> {
        if !self.covers(&event.key) {
            return Ok(event);
        }
        let open = |value: &Option<Arc<[u8]>>| {
            value.as_ref().map(|value| self.open(&event.key, value).map(Into::into)).transpose()
        };
        Ok(Arc::new(Event {
            revision: event.revision,
            key: event.key.clone(),
            value: open(&event.value)?,
            previous: open(&event.previous)?,
        }))
    }
}

impl EncryptedStore {
    /// Encrypts what `inner` keeps below `prefixes`.
    pub fn new(inner: Arc<dyn Store>, prefixes: Vec<String>, keys: Keyring) -> Self {
        let keys = RwLock::new(Arc::new(keys));
        Self { inner, sealing: Arc::new(Sealing { prefixes, keys, reload: None }) }
    }

    /// As [`new`](Self::new), over a store that other servers write as well: a value that was sealed
    /// with a key that is not known has `reload` called for the keys that there are now.
    pub fn shared(
        inner: Arc<dyn Store>,
        prefixes: Vec<String>,
        keys: Keyring,
        reload: impl Fn() -> Result<Keyring> + Send + Sync + 'static,
    ) -> Self {
        let keys = RwLock::new(Arc::new(keys));
        let reload: Option<Box<Reload>> = Some(Box::new(reload));
        Self { inner, sealing: Arc::new(Sealing { prefixes, keys, reload }) }
    }

    /// Seals with the first of `keys` from now on.
    pub fn set_keys(&self, keys: Keyring) {
        *self.sealing.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// The name of the key that seals now.
    #[must_use]
    pub fn sealing_key(&self) -> String {
        self.sealing.keys().keys[0].0.clone()
    }

    /// Seals everything anew that the first key has not sealed, and forgets the past, which has
    /// it as it was. Returns how many values that were.
    ///
    /// # Errors
    /// If the store fails, or a value cannot be opened.
    pub async fn reseal(&self) -> Result<usize> {
        let keys = self.sealing.keys();
        let mut count = 0;
        for prefix in &self.sealing.prefixes {
            let mut range = Range { prefix: prefix.clone(), limit: Some(PAGE), ..Range::default() };
            loop {
                let page = self.inner.list(range.clone()).await?;
                range.after = page.entries.last().map(|entry| entry.key.clone());
                for entry in page.entries {
                    if keys.is_current(&entry.value) {
                        continue;
                    }
                    let value = self.sealing.open(&entry.key, &entry.value)?;
                    let (key, expected) = (entry.key, entry.revision);
                    let value = keys.seal(&key, value)?;
                    match self.inner.write(Write::Update { key, value, expected }).await {
                        // Somebody has written it since, with the new key.
                        Ok(_) | Err(StoreError::Changed { .. } | StoreError::Absent(_)) => {}
                        Err(error) => return Err(error),
                    }
                    count += 1;
                }
                if page.remaining == 0 {
                    break;
                }
            }
        }
        if count > 0 {
            let newest = self.inner.revision().await?;
            self.inner.compact(newest).await?;
        }
        Ok(count)
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let entry = self.inner.get(key).await?;
        entry.map(|entry| self.sealing.opened(entry)).transpose()
    }

    async fn list(&self, range: Range) -> Result<Page> {
        let mut page = self.inner.list(range).await?;
        let opened = page.entries.into_iter().map(|entry| self.sealing.opened(entry));
        page.entries = opened.collect::<Result<_>>()?;
        Ok(page)
    }

    async fn write(&self, mut write: Write) -> Result<Revision> {
        match &mut write {
            Write::Create { key, value } | Write::Update { key, value, .. }
                if self.sealing.covers(key) =>
            {
                *value = self.sealing.keys().seal(key, std::mem::take(value))?;
            }
            _ => {}
        }
        self.inner.write(write).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>> {
        let inner = self.inner.watch(prefix, after).await?;
        let sealing = Arc::clone(&self.sealing);
        // One that cannot meet a sealed value need not look for them.
        let disjoint = sealing
            .prefixes
            .iter()
            .all(|own| !own.starts_with(prefix) && !prefix.starts_with(own.as_str()));
        Ok(if disjoint { inner } else { Box::new(OpeningWatch { inner, sealing }) })
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }
}

struct OpeningWatch {
    inner: Box<dyn Watch>,
    sealing: Arc<Sealing>,
}

#[async_trait]
impl Watch for OpeningWatch {
    async fn next(&mut self) -> Result<Vec<Arc<Event>>> {
        let events = self.inner.next().await?;
        events.into_iter().map(|event| self.sealing.opened_event(event)).collect()
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(names: &[&str], plain: bool) -> Keyring {
        let keys = names.iter().map(|&name| (name.into(), [name.as_bytes()[0]; KEY_LENGTH]));
        Keyring::new(keys.collect(), plain).unwrap()
    }

    #[test]
    fn a_value_opens_in_its_place_with_its_key_only() {
        let old = ring(&["old"], false);
        let sealed = old.seal("/s/a", b"secret".to_vec()).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:old:"));
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed, old.seal("/s/a", b"secret".to_vec()).unwrap(), "a nonce each");
        assert_eq!(old.open("/s/a", &sealed).unwrap(), b"secret");
        assert!(old.open("/s/b", &sealed).is_err(), "moved");
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(old.open("/s/a", &changed).is_err(), "changed");
        assert!(old.open("/s/a", &sealed[..30]).is_err(), "cut off");
        let both = ring(&["new", "old"], false);
        assert_eq!(both.open("/s/a", &sealed).unwrap(), b"secret");
        assert!(!both.is_current(&sealed) && old.is_current(&sealed));
        assert!(ring(&["new"], false).open("/s/a", &sealed).is_err(), "unknown key");
        assert!(old.open("/s/a", b"plain").is_err());
        assert_eq!(ring(&["new"], true).open("/s/a", b"plain").unwrap(), b"plain");
        assert!(Keyring::new(Vec::new(), true).is_err());
    }
}
