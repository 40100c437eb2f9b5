//! A whole API server, without a network around it and without controllers.

use std::path::Path;
use std::time::Duration;

use bulkhead_api_server::api::Api;
use bulkhead_api_server::auth::{AUTHENTICATED, MASTERS, User};
use bulkhead_api_server::http::Front;
use bulkhead_api_server::pki;
use bulkhead_api_server::resource::Resource;
use bulkhead_api_server::serve::{self, Options};
use bulkhead_api_server::storage::{Storage, StorageOptions};
use bulkhead_store::Write;
use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// JSON's media type.
pub const JSON: &str = "application/json";
/// That of tables.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Where objects of kinds that have namespaces lie.
const NAMESPACE: &str = "default";

/// A server over a store of its own, which is gone with it.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    front: Front,
    /// What looks at the objects behind the front's back.
    api: Api,
    admin: User,
    _dir: TempDir,
}

/// What a request was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status.
    pub code: u16,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// Whether it is a success.
    pub fn is_ok(&self) -> bool {
        self.code < 300
    }
}

thread_local! {
    static SERVER: Server = Server::start();
}

/// Hands `work` this thread's server.
pub fn with<T>(work: impl FnOnce(&Server) -> T) -> T {
    SERVER.with(work)
}

impl Server {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (front, api) = runtime.block_on(open(dir.path()));
        let groups = vec![MASTERS.into(), AUTHENTICATED.into()];
        let admin = User { name: "admin".into(), groups, ..User::default() };
        Self { runtime, front, api, admin, _dir: dir }
    }

    /// The kinds.
    pub fn resources(&self) -> Vec<std::sync::Arc<Resource>> {
        self.api.registry().iter().collect()
    }

    /// Answers a request of an administrator.
    ///
    /// # Panics
    /// If the server fails, or refuses without saying why as Kubernetes does.
    pub fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, media_type)
            .header(header::USER_AGENT, "fuzz")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        self.runtime.block_on(async {
            let answer = self.front.answer(Some(&self.admin), request).await;
            let code = answer.status().as_u16();
            Answer { code, body: read(answer, &format!("{method} {path}")).await }
        })
    }

    /// Answers a request with an object.
    pub fn send_object(&self, method: &str, path: &str, media_type: &str, body: &Value) -> Answer {
        self.send(method, path, media_type, &serde_json::to_vec(body).unwrap())
    }

    /// Answers a get.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, JSON, b"")
    }

    /// Asks for what lies at `uri` in a form, and looks at no more than whether it is refused: a
    /// watch does not end.
    pub fn ask(&self, uri: Uri, accept: &str) {
        let asked = uri.to_string();
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        if let Ok(accept) = accept.parse() {
            request.headers_mut().insert(header::ACCEPT, accept);
        }
        self.runtime.block_on(async {
            let answer = self.front.answer(Some(&self.admin), request).await;
            if !answer.status().is_success() {
                read(answer, &asked).await;
            }
        });
    }

    /// Removes the object at `path`, whatever holds it.
    pub fn remove(&self, resource: &Resource, name: &str) {
        let path = format!("{}/{name}", collection(resource));
        for _ in 0..2 {
            if self.get(&path).code == 404 {
                return;
            }
            self.send("DELETE", &format!("{path}?gracePeriodSeconds=0"), JSON, b"");
            let free = br#"{"metadata": {"finalizers": null}}"#;
            self.send("PATCH", &path, "application/merge-patch+json", free);
        }
        let key = resource.key(resource.namespaced.then_some(NAMESPACE), name);
        self.runtime.block_on(async {
            if let Some(entry) = self.api.store().get(&key).await.unwrap() {
                let write = Write::Delete { key, expected: entry.revision };
                self.api.store().write(write).await.unwrap();
            }
        });
    }
}

/// A server in `dir`, which is new.
async fn open(dir: &Path) -> (Front, Api) {
    let pki = dir.join("pki");
    pki::init(&pki, "fuzz", "fuzz", [10, 96, 0, 1].into()).unwrap();
    let options = Options {
        storage: Storage::new(&StorageOptions::default(), dir).unwrap(),
        dir: dir.into(),
        listen: ([127, 0, 0, 1], 0).into(),
        inherited: Vec::new(),
        advertise: None,
        service_range: "10.96.0.0/12".parse().unwrap(),
        election: Default::default(),
        node_monitor_grace_period: Duration::from_secs(40),
        compaction_interval: Duration::from_secs(300),
    };
    let server = serve::Server::open(options).await.unwrap();
    (server.front().clone(), server.front().api().clone())
}

/// The body of an answer that is JSON.
async fn read<B>(answer: Response<B>, asked: &str) -> Value
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    // Who proxies to what is not there, or waits for a version that is to come, is told so.
    assert!(code < 500 || matches!(code, 503 | 504), "{asked}: {body}");
    if code >= 400 {
        let said = (&body["kind"], &body["status"], body["code"].as_u64());
        assert_eq!(said, (&"Status".into(), &"Failure".into(), Some(code.into())), "{asked}");
    }
    body
}

/// The path of the objects of `resource`.
pub fn collection(resource: &Resource) -> String {
    let Resource { group, version, plural, namespaced, .. } = resource;
    let root = match group.is_empty() {
        true => format!("/api/{version}"),
        false => format!("/apis/{group}/{version}"),
    };
    match namespaced {
        true => format!("{root}/namespaces/{NAMESPACE}/{plural}"),
        false => format!("{root}/{plural}"),
    }
}
