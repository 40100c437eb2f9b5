//! A [`Client`] over objects in memory, for the controllers' tests: what a test puts there is
//! listed and watched, what a controller asks for is noted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{
    Change, Client, ClientError, DeleteOptions, Kind, Patch, ResourceInfo, Scale, Stream, Target,
};

/// What a controller asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A create.
    Create(Kind, Value),
    /// An update.
    Update(Kind, Value),
    /// A patch of the object of this name.
    Patch(Kind, String, Patch),
    /// The deletion of the object of this name and uid.
    Delete(Kind, String, Option<String>),
    /// The binding of a pod.
    Bind(String, Value),
}

/// The objects, who watches them, and what was asked for.
#[derive(Debug, Default)]
pub struct Objects {
    listed: Mutex<HashMap<Kind, Vec<Value>>>,
    watches: Mutex<HashMap<Kind, Vec<mpsc::UnboundedSender<Change>>>>,
    asked: Mutex<Vec<Asked>>,
    resources: Mutex<Vec<ResourceInfo>>,
}

impl Objects {
    /// With these objects there from the beginning.
    pub fn new(listed: impl IntoIterator<Item = (Kind, Vec<Value>)>) -> Arc<Self> {
        Arc::new(Self { listed: Mutex::new(listed.into_iter().collect()), ..Self::default() })
    }

    /// Lets discovery tell of a resource.
    pub fn serve(&self, resource: ResourceInfo) {
        self.resources.lock().unwrap().push(resource);
    }

    /// Tells those who watch `kind` that `object` looks like this now.
    pub fn present(&self, kind: &Kind, object: Value) {
        self.forget(kind, &object);
        self.listed.lock().unwrap().entry(kind.clone()).or_default().push(object.clone());
        self.change(kind, &Change::Present(Arc::new(object)));
    }

    /// Tells those who watch `kind` that `object` is gone.
    pub fn gone(&self, kind: &Kind, object: Value) {
        self.forget(kind, &object);
        self.change(kind, &Change::Gone(Arc::new(object)));
    }

    fn forget(&self, kind: &Kind, object: &Value) {
        let key = crate::object::key(object);
        let mut listed = self.listed.lock().unwrap();
        listed.entry(kind.clone()).or_default().retain(|one| crate::object::key(one) != key);
    }

    fn change(&self, kind: &Kind, change: &Change) {
        for watch in self.watches.lock().unwrap().entry(kind.clone()).or_default() {
            // A watch that has ended hears nothing.
            let _ = watch.send(change.clone());
        }
    }

    /// Everything that was asked for since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
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
    async fn resources(&self) -> Result<Vec<ResourceInfo>, ClientError> {
        Ok(self.resources.lock().unwrap().clone())
    }

    async fn list(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
    ) -> Result<(Vec<Value>, u64), ClientError> {
        Ok((self.listed.lock().unwrap().get(kind).cloned().unwrap_or_default(), 1))
    }

    async fn watch(&self, kind: &Kind, _from: u64) -> Result<Box<dyn Stream>, ClientError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.lock().unwrap().entry(kind.clone()).or_default().push(sender);
        Ok(Box::new(Watch(receiver)))
    }

    async fn get(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, ClientError> {
        let listed = self.listed.lock().unwrap();
        let found =
            listed.get(kind).into_iter().flatten().find(|one| crate::object::name(one) == name);
        found.cloned().ok_or_else(|| ClientError {
            code: 404,
            reason: "NotFound".into(),
            message: format!("{} \"{name}\" not found", kind.plural),
        })
    }

    async fn create(&self, kind: &Kind, object: Value) -> Result<Value, ClientError> {
        self.note(Asked::Create(kind.clone(), object.clone()));
        Ok(object)
    }

    async fn update(
        &self,
        kind: &Kind,
        _target: Target,
        object: Value,
    ) -> Result<Value, ClientError> {
        self.note(Asked::Update(kind.clone(), object.clone()));
        Ok(object)
    }

    async fn patch(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
        name: &str,
        _target: Target,
        patch: Patch,
    ) -> Result<Value, ClientError> {
        self.note(Asked::Patch(kind.clone(), name.to_owned(), patch));
        Ok(Value::Null)
    }

    async fn scale(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
        name: &str,
    ) -> Result<Scale, ClientError> {
        Err(unexpected(&format!("scale of {} {name}", kind.plural)))
    }

    async fn set_scale(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
        name: &str,
        replicas: i64,
    ) -> Result<(), ClientError> {
        Err(unexpected(&format!("scaling of {} {name} to {replicas}", kind.plural)))
    }

    async fn delete(
        &self,
        kind: &Kind,
        _namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ClientError> {
        self.note(Asked::Delete(kind.clone(), name.to_owned(), options.uid.clone()));
        Ok(Value::Null)
    }

    async fn delete_collection(&self, kind: &Kind, namespace: &str) -> Result<(), ClientError> {
        Err(unexpected(&format!("delete of all {} in {namespace}", kind.plural)))
    }

    async fn bind(&self, _namespace: &str, name: &str, binding: Value) -> Result<(), ClientError> {
        self.note(Asked::Bind(name.to_owned(), binding));
        Ok(())
    }

    async fn finalize_namespace(&self, namespace: &str) -> Result<(), ClientError> {
        Err(unexpected(&format!("finalizing of {namespace}")))
    }
}

fn unexpected(what: &str) -> ClientError {
    ClientError { code: 500, reason: "InternalError".into(), message: format!("unexpected {what}") }
}
