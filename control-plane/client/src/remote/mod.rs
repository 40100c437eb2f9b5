//! A [`Client`] over a connection: what a process beside the API server uses. [`Connection`] is the
//! part of it that knows nothing of kinds.

mod connection;
pub mod credentials;
mod events;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::client::{
    Client, ClientError, DeleteOptions, Kind, Patch, Propagation, ResourceInfo, Scale, Stream,
    Target,
};
use crate::object;
use crate::selector::Selector;

pub use connection::{Connection, ConnectionError, Server};
pub use credentials::CredentialsError;
pub use events::{Event, Events};

/// How many objects are listed at a time.
const PAGE: usize = 500;

/// A client of an API server elsewhere. Cheap to clone; keeps connections open.
#[derive(Debug, Clone)]
pub struct Remote {
    connection: Connection,
    /// Namespace and name of the only object that is listed and watched.
    only: Option<(Arc<str>, Arc<str>)>,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Remote {
    /// A client of this server; it is not asked yet.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn new(server: &Server) -> std::result::Result<Self, CredentialsError> {
        Ok(Self { connection: Connection::new(server)?, only: None })
    }

    /// A client whose lists and watches are of one object: who may read no other follows it so.
    #[must_use]
    pub fn only(&self, namespace: &str, name: &str) -> Self {
        Self { only: Some((namespace.into(), name.into())), ..self.clone() }
    }

    /// The path of a kind's objects, and what restricts it to [`only`](Self::only).
    fn collection(&self, kind: &Kind, namespace: Option<&str>) -> (String, String) {
        match &self.only {
            None => (path(kind, namespace, None), String::new()),
            Some((namespace, name)) => {
                let selector = format!("&fieldSelector=metadata.name%3D{}", escaped(name));
                (path(kind, Some(namespace), None), selector)
            }
        }
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value> {
        Ok(self.connection.json(method, path, body).await?)
    }
}

/// The server could not be asked, or did not answer as it should.
fn transport(error: &dyn std::fmt::Display) -> ClientError {
    ClientError { code: 0, reason: "Transport".into(), message: format!("the API server: {error}") }
}

fn escaped(text: &str) -> percent_encoding::PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// The path of an object, or of all of a kind if it has no name.
fn path(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let Kind { group, version, plural } = kind;
    let mut path = match group.is_empty() {
        true => format!("/api/{version}"),
        false => format!("/apis/{group}/{version}"),
    };
    if let Some(namespace) = namespace {
        path.push_str(&format!("/namespaces/{}", escaped(namespace)));
    }
    path.push_str(&format!("/{plural}"));
    if let Some(name) = name {
        path.push_str(&format!("/{}", escaped(name)));
    }
    path
}

fn part(target: Target) -> &'static str {
    match target {
        Target::Main => "",
        Target::Status => "/status",
    }
}

/// Takes the items of a list; each is given the kind that a list leaves out.
fn items(list: &mut Value) -> Vec<Value> {
    let version = list["apiVersion"].clone();
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
    let kind = Value::from(kind);
    let Some(Value::Array(mut items)) = list.get_mut("items").map(Value::take) else {
        return Vec::new();
    };
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.entry("apiVersion").or_insert_with(|| version.clone());
        item.entry("kind").or_insert_with(|| kind.clone());
    }
    items
}

/// Reads a Scale's selector, `label=value,…`.
fn selector(text: &str) -> Result<Selector> {
    let mut labels = serde_json::Map::new();
    for one in text.split(',').filter(|one| !one.is_empty()) {
        let Some((label, value)) = one.split_once('=').filter(|_| !one.contains([' ', '!'])) else {
            return Err(transport(&format!("{text:?} is not a selector of labels' values alone")));
        };
        labels.insert(label.into(), value.trim_start_matches('=').into());
    }
    Ok(Selector::of_labels(&labels.into()))
}

#[async_trait]
impl Client for Remote {
    async fn resources(&self) -> Result<Vec<ResourceInfo>> {
        let groups = self.json(Method::GET, "/apis", None).await?;
        let mut versions = vec![(String::new(), "v1".to_owned())];
        versions.extend(object::list(&groups, "groups").iter().map(|group| {
            let version = object::text(group, "preferredVersion.version");
            (object::text(group, "name").to_owned(), version.to_owned())
        }));
        let mut found = Vec::new();
        for (group, version) in versions {
            let at = match group.is_empty() {
                true => format!("/api/{version}"),
                false => format!("/apis/{group}/{version}"),
            };
            let list = self.json(Method::GET, &at, None).await?;
            let resources = object::list(&list, "resources").iter();
            found.extend(resources.filter(|one| !object::text(one, "name").contains('/')).map(
                |one| {
                    let kind = Kind {
                        group: Cow::Owned(group.clone()),
                        version: Cow::Owned(version.clone()),
                        plural: Cow::Owned(object::text(one, "name").to_owned()),
                    };
                    ResourceInfo {
                        resource: kind,
                        kind: object::text(one, "kind").into(),
                        namespaced: one["namespaced"] == true,
                    }
                },
            ));
        }
        Ok(found)
    }

    async fn list(&self, kind: &Kind, namespace: Option<&str>) -> Result<(Vec<Value>, u64)> {
        let (path, selector) = self.collection(kind, namespace);
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit={PAGE}&continue={}{selector}", escaped(&next));
            let mut list = self.json(Method::GET, &page, None).await?;
            all.append(&mut items(&mut list));
            next = object::text(&list, "metadata.continue").into();
            if next.is_empty() {
                let version = object::text(&list, "metadata.resourceVersion");
                let version =
                    version.parse().map_err(|_| transport(&"a list without a version"))?;
                return Ok((all, version));
            }
        }
    }

    async fn watch(&self, kind: &Kind, from: u64) -> Result<Box<dyn Stream>> {
        let (path, selector) = self.collection(kind, None);
        let path = format!("{path}?watch=true&resourceVersion={from}{selector}");
        Ok(Box::new(self.connection.events(&path).await?))
    }

    async fn get(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Value> {
        self.json(Method::GET, &path(kind, namespace, Some(name)), None).await
    }

    async fn create(&self, kind: &Kind, object: Value) -> Result<Value> {
        let path = path(kind, object::namespace(&object), None);
        self.json(Method::POST, &path, Some(("application/json", &object))).await
    }

    async fn update(&self, kind: &Kind, target: Target, object: Value) -> Result<Value> {
        let path = path(kind, object::namespace(&object), Some(object::name(&object)));
        let path = path + part(target);
        self.json(Method::PUT, &path, Some(("application/json", &object))).await
    }

    async fn patch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        target: Target,
        patch: Patch,
    ) -> Result<Value> {
        let (media_type, body) = match &patch {
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
        };
        let path = path(kind, namespace, Some(name)) + part(target);
        self.json(Method::PATCH, &path, Some((media_type, body))).await
    }

    async fn scale(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Scale> {
        let path = path(kind, namespace, Some(name)) + "/scale";
        let scale = self.json(Method::GET, &path, None).await?;
        Ok(Scale {
            uid: object::uid(&scale).into(),
            wanted: object::number(&scale, "spec.replicas").unwrap_or(0),
            replicas: object::number(&scale, "status.replicas").unwrap_or(0),
            selector: selector(object::text(&scale, "status.selector"))?,
        })
    }

    async fn set_scale(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        replicas: i64,
    ) -> Result<()> {
        let path = path(kind, namespace, Some(name)) + "/scale";
        let patch = json!({"spec": {"replicas": replicas}});
        let body = Some(("application/merge-patch+json", &patch));
        self.json(Method::PATCH, &path, body).await.map(drop)
    }

    async fn delete(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value> {
        let propagation = options.propagation.map(|propagation| match propagation {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        });
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": options.grace_period_seconds,
            "preconditions": {"uid": options.uid, "resourceVersion": options.resource_version},
            "propagationPolicy": propagation,
        });
        let path = path(kind, namespace, Some(name));
        self.json(Method::DELETE, &path, Some(("application/json", &options))).await
    }

    async fn delete_collection(&self, kind: &Kind, namespace: &str) -> Result<()> {
        self.json(Method::DELETE, &path(kind, Some(namespace), None), None).await.map(drop)
    }

    async fn bind(&self, namespace: &str, name: &str, binding: Value) -> Result<()> {
        let path = path(&Kind::PODS, Some(namespace), Some(name)) + "/binding";
        let body = Some(("application/json", &binding));
        self.json(Method::POST, &path, body).await.map(drop)
    }

    async fn finalize_namespace(&self, namespace: &str) -> Result<()> {
        let path = path(&Kind::NAMESPACES, None, Some(namespace));
        let mut object = self.json(Method::GET, &path, None).await?;
        object["spec"]["finalizers"] = json!([]);
        let body = Some(("application/json", &object));
        self.json(Method::PUT, &(path + "/finalize"), body).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let ingresses = Kind::new("networking.k8s.io", "v1", "ingresses");
        assert_eq!(path(&Kind::PODS, None, None), "/api/v1/pods");
        assert_eq!(
            path(&ingresses, Some("default"), Some("a/../b")),
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses/a%2F%2E%2E%2Fb"
        );
    }

    #[test]
    fn selectors_of_scales() {
        let labels = Selector::of_labels(&json!({"app": "web", "tier": "front"}));
        assert_eq!(selector("app=web,tier==front").unwrap(), labels);
        assert!(selector("").unwrap().is_empty());
        for other in ["app in (a", "app!=b", "app"] {
            assert!(selector(other).unwrap_err().message.contains(other), "{other}");
        }
    }

    #[test]
    fn items_of_a_list_say_what_they_are() {
        let mut list = json!({"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {}}]});
        assert_eq!(items(&mut list), [json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}})]);
    }
}
