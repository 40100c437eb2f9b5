//! A [`Client`] over objects in memory, for the controllers' tests: what a test puts there is
//! listed and watched, what a controller asks for is noted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Change, Client, ClientError, Kind, Stream};

/// What a controller asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A new status of the object of this name.
    PatchStatus(String, Value),
    /// The deletion of a pod: name, uid.
    DeletePod(String, String),
}

/// The objects, who watches them, and what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    listed: Mutex<HashMap<Kind, Vec<Value>>>,
    watches: Mutex<HashMap<Kind, Vec<mpsc::UnboundedSender<Change>>>>,
    asked: Mutex<Vec<Asked>>,
}

impl Objects {
    /// With these objects there from the beginning.
    pub(crate) fn new(listed: impl IntoIterator<Item = (Kind, Vec<Value>)>) -> Arc<Self> {
        Arc::new(Self { listed: Mutex::new(listed.into_iter().collect()), ..Self::default() })
    }

    /// Tells those who watch `kind` of a change.
    pub(crate) fn change(&self, kind: Kind, change: &Change) {
        for watch in self.watches.lock().unwrap().entry(kind).or_default() {
            // A watch that has ended hears nothing.
            let _ = watch.send(change.clone());
        }
    }

    /// Everything that was asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

struct Watch(mpsc::UnboundedReceiver<Change>);

#[async_trait]
impl Stream for Watch {
    async fn next(&mut self) -> Result<Option<Change>, ClientError> {
        Ok(self.0.recv().await)
    }
}

#[async_trait]
impl Client for Objects {
    async fn list(&self, kind: Kind) -> Result<(Vec<Value>, u64), ClientError> {
        Ok((self.listed.lock().unwrap().get(&kind).cloned().unwrap_or_default(), 1))
    }

    async fn watch(&self, kind: Kind, _from: u64) -> Result<Box<dyn Stream>, ClientError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.lock().unwrap().entry(kind).or_default().push(sender);
        Ok(Box::new(Watch(receiver)))
    }

    async fn patch_status(
        &self,
        _kind: Kind,
        _namespace: Option<&str>,
        name: &str,
        patch: Value,
    ) -> Result<(), ClientError> {
        self.asked.lock().unwrap().push(Asked::PatchStatus(name.to_owned(), patch));
        Ok(())
    }

    async fn delete_pod(&self, _namespace: &str, name: &str, uid: &str) -> Result<(), ClientError> {
        self.asked.lock().unwrap().push(Asked::DeletePod(name.to_owned(), uid.to_owned()));
        Ok(())
    }

    async fn create(&self, kind: Kind, _object: Value) -> Result<(), ClientError> {
        Err(unexpected(&format!("create of {}", kind.plural)))
    }

    async fn bind(&self, _namespace: &str, name: &str, _binding: Value) -> Result<(), ClientError> {
        Err(unexpected(&format!("binding of {name}")))
    }

    async fn empty_namespace(&self, namespace: &str) -> Result<usize, ClientError> {
        Err(unexpected(&format!("emptying of {namespace}")))
    }

    async fn finalize_namespace(&self, namespace: &str) -> Result<(), ClientError> {
        Err(unexpected(&format!("finalizing of {namespace}")))
    }
}

fn unexpected(what: &str) -> ClientError {
    ClientError { code: 500, message: format!("unexpected {what}") }
}
