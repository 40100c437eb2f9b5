//! The Secrets that Ingresses name, each followed by itself: nobody here may read another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_client::remote::Remote;
use bulkhead_client::{Change, Informers, Kind, Told, object};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::News;
use crate::certificates::{CertificateError, of_secret};

const SECRETS: Kind = Kind::core("secrets");

/// What is known of a Secret.
#[derive(Debug)]
pub(crate) enum Secret {
    /// Nothing yet.
    Unknown,
    /// It is not there.
    Missing,
    /// What it holds.
    Found(Result<Arc<CertifiedKey>, CertificateError>),
}

/// Secrets that are followed, by their keys.
#[derive(Debug)]
pub(crate) struct Secrets {
    client: Remote,
    news: UnboundedSender<News>,
    followed: BTreeMap<String, Followed>,
}

#[derive(Debug)]
struct Followed {
    secret: Secret,
    /// Ends the list and watch with this.
    _informers: Arc<Informers>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Secrets {
    pub(crate) const fn new(client: Remote, news: UnboundedSender<News>) -> Self {
        Self { client, news, followed: BTreeMap::new() }
    }

    /// Follows these and no others.
    pub(crate) fn follow(&mut self, keys: &BTreeSet<String>) {
        self.followed.retain(|key, _| keys.contains(key));
        for key in keys {
            if !self.followed.contains_key(key) {
                let followed = self.start(key);
                self.followed.insert(key.clone(), followed);
            }
        }
    }

    fn start(&self, key: &str) -> Followed {
        let (namespace, name) = object::split_key(key);
        let client = self.client.only(namespace.unwrap_or_default(), name);
        let informers = Informers::new(Arc::new(client));
        let mut changes = informers.follow(&SECRETS);
        let (news, key) = (self.news.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            while let Some(told) = changes.recv().await {
                if news.send(News::Secret(key.clone(), told)).is_err() {
                    return;
                }
            }
        });
        Followed { secret: Secret::Unknown, _informers: informers, task }
    }

    /// Takes what was told of one.
    pub(crate) fn take(&mut self, key: &str, told: Told) {
        let Some(followed) = self.followed.get_mut(key) else { return };
        let found: Option<Arc<Value>> = match told {
            Told::All(mut all) => all.pop(),
            Told::One(Change::Present(secret)) => Some(secret),
            Told::One(Change::Gone(_)) => None,
        };
        followed.secret = match found {
            Some(secret) => Secret::Found(of_secret(&secret)),
            None => Secret::Missing,
        };
    }

    pub(crate) fn get(&self, key: &str) -> &Secret {
        self.followed.get(key).map_or(&Secret::Unknown, |followed| &followed.secret)
    }

    /// Whether something is known of each.
    pub(crate) fn are_known(&self) -> bool {
        self.followed.values().all(|followed| !matches!(followed.secret, Secret::Unknown))
    }
}
