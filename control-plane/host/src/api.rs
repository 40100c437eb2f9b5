//! The management API ([`bulkhead_host_api`]): requests to what they do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_host_api::client::CONSOLE_PROTOCOL;
use bulkhead_host_api::{ApiError, ImageSummary, Progress, PullRequest};
use bulkhead_images::{Error as ImageStoreError, Image, PullOptions, RegistryAuth};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::clusters::{Backup, Clusters};
use crate::config::{Checked, cluster_name, parse_body};
use crate::daemon::Host;
use crate::fault;
use crate::progress::Reporter;

/// The longest JSON body that is taken, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How often a console that is followed is looked at.
const CONSOLE_POLL: Duration = Duration::from_millis(50);

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The API's state.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) host: Arc<Host>,
    pub(crate) clusters: Arc<Clusters>,
    /// What TCP clients must show.
    pub(crate) token: Option<String>,
    /// Ends the daemon.
    pub(crate) end: mpsc::Sender<()>,
}

impl Api {
    /// Answers a request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let authorized = self.token.as_ref().is_none_or(|token| {
            let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            shown
                .and_then(|shown| shown.strip_prefix("Bearer "))
                .is_some_and(|shown| same(shown.as_bytes(), token.as_bytes()))
        });
        let answer =
            if authorized { self.route(request).await } else { Err(fault::unauthorized()) };
        answer.unwrap_or_else(|error| json_body(fault::status(&error), &error))
    }

    async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ApiError> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let segments: Vec<String> = path
            .strip_prefix("/v1/")
            .into_iter()
            .flat_map(|rest| rest.split('/'))
            .map(|segment| {
                percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
            })
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (request.method().clone(), segments.as_slice()) {
            (Method::GET, ["host"]) => Ok(ok(&self.host.info())),
            (Method::GET, ["clusters"]) => Ok(ok(&self.clusters.list()?)),
            (Method::POST, ["clusters"]) => {
                let checked = Checked::new(parse_body(&body(request).await?)?)?;
                Ok(stream(
                    async move |it, progress| it.clusters.create(checked, &progress).await,
                    self,
                ))
            }
            (Method::GET, ["clusters", name]) => {
                Ok(ok(&self.clusters.status(&cluster_name(name)?)?))
            }
            (Method::DELETE, ["clusters", name]) => {
                let name = cluster_name(name)?;
                self.clusters.status(&name)?;
                Ok(stream(
                    async move |it, progress| it.clusters.delete(&name, &progress).await,
                    self,
                ))
            }
            (Method::POST, ["clusters", name, "start"]) => {
                let name = cluster_name(name)?;
                self.clusters.status(&name)?;
                Ok(stream(
                    async move |it, progress| it.clusters.start(&name, &progress).await,
                    self,
                ))
            }
            (Method::POST, ["clusters", name, "stop"]) => {
                let name = cluster_name(name)?;
                self.clusters.status(&name)?;
                Ok(stream(async move |it, progress| it.clusters.stop(&name, &progress).await, self))
            }
            (Method::GET, ["clusters", name, "backup"]) => {
                Ok(download(self.clusters.backup(&cluster_name(name)?).await?))
            }
            (Method::POST, ["clusters", name, "restore"]) => {
                let name = cluster_name(name)?;
                Ok(stream(
                    async move |it, progress| {
                        let mut backup = reader(request.into_body());
                        let restored = it.clusters.restore(&name, &mut backup, &progress).await;
                        if restored.is_err() {
                            discard(backup).await;
                        }
                        restored
                    },
                    self,
                ))
            }
            (Method::POST, ["clusters", name, "rotate-secrets-key"]) => {
                Ok(ok(&self.clusters.rotate_secrets_key(&cluster_name(name)?).await?))
            }
            (Method::GET, ["clusters", name, "kubeconfig"]) => {
                let text = self.clusters.kubeconfig(&cluster_name(name)?)?;
                Ok(plain(StatusCode::OK, "application/yaml", text))
            }
            (Method::POST, ["clusters", name, "nodes"]) => {
                let name = cluster_name(name)?;
                let wanted = parse_body(&body(request).await?)?;
                self.clusters.status(&name)?;
                Ok(stream(
                    async move |it, progress| it.clusters.add_nodes(&name, wanted, &progress).await,
                    self,
                ))
            }
            (Method::DELETE, ["clusters", name, "nodes", node]) => {
                let (name, node) = (cluster_name(name)?, (*node).to_owned());
                self.clusters.status(&name)?;
                Ok(stream(
                    async move |it, progress| {
                        it.clusters.remove_node(&name, &node, &progress).await
                    },
                    self,
                ))
            }
            (Method::GET, ["clusters", name, "nodes", node, "console"]) => {
                let file = self.clusters.console(&cluster_name(name)?, node)?;
                console(request, file, parameter(&query, "follow").as_deref() == Some("true"))
            }
            (Method::GET, ["images"]) => {
                let images = self.host.images.list().await.map_err(|error| image_fault(&error))?;
                Ok(ok(&images.iter().map(summary).collect::<Vec<_>>()))
            }
            (Method::POST, ["images", "pull"]) => {
                let wanted: PullRequest = parse_body(&body(request).await?)?;
                Ok(stream(async move |it, progress| it.pull(wanted, progress).await, self))
            }
            (Method::POST, ["images", "load"]) => {
                let name = parameter(&query, "name");
                Ok(stream(
                    async move |it, progress| it.load(request.into_body(), name, progress).await,
                    self,
                ))
            }
            (Method::DELETE, ["images", reference]) => {
                self.host.images.remove(reference).await.map_err(|error| image_fault(&error))?;
                Ok(ok(&Value::Null))
            }
            (Method::POST, ["shutdown"]) => Ok(stream(
                async move |it, progress| {
                    it.clusters.stop_all(&progress).await;
                    // Full means that the daemon ends already.
                    let _ = it.end.try_send(());
                    Ok(Value::Null)
                },
                self,
            )),
            (method, _) => Err(fault::not_found(format!("there is no {method} {path}"))),
        }
    }

    async fn pull(&self, wanted: PullRequest, progress: Reporter) -> Result<Value, ApiError> {
        let options = PullOptions {
            authorities: wanted.authorities.map(String::into_bytes),
            auth: wanted.credentials.map_or(RegistryAuth::Anonymous, |user| {
                RegistryAuth::Basic(user.username, user.password)
            }),
            ..self.host.pull_options(wanted.insecure)
        };
        let message = format!("pulling {}", wanted.reference);
        let report = report(progress, message);
        let image = self.host.images.pull(&wanted.reference, options, Some(report)).await;
        to_value(&summary(&image.map_err(|error| image_fault(&error))?))
    }

    async fn load(
        &self,
        body: Incoming,
        name: Option<String>,
        progress: Reporter,
    ) -> Result<Value, ApiError> {
        let report = report(progress, "loading".to_owned());
        let images =
            self.host.images.import_stream(reader(body), name.as_deref(), Some(report)).await;
        let images = images.map_err(|error| image_fault(&error))?;
        match images.as_slice() {
            [image] => to_value(&summary(image)),
            images => to_value(&images.iter().map(summary).collect::<Vec<_>>()),
        }
    }
}

/// Reads a body as it comes.
fn reader(body: Incoming) -> impl tokio::io::AsyncBufRead + Send + Unpin {
    let stream = http_body_util::BodyDataStream::new(body).map_err(std::io::Error::other);
    tokio_util::io::StreamReader::new(stream)
}

/// Takes what a client is still sending of an upload that was refused: it reads the answer after that,
/// and would find its connection reset instead. Whoever sends for longer than 10 s does.
async fn discard(mut upload: impl tokio::io::AsyncBufRead + Unpin) {
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy_buf(&mut upload, &mut nowhere);
    drop(tokio::time::timeout(Duration::from_secs(10), rest).await);
}

/// A file as a body. One that cannot be read to its end breaks off before its length.
fn download(backup: Backup) -> Response<Body> {
    let pieces = tokio_util::io::ReaderStream::with_capacity(backup.file, 256 << 10);
    let pieces = pieces
        .filter_map(|piece| std::future::ready(piece.ok()))
        .map(|piece| Ok(Frame::data(piece)));
    let mut response = Response::new(BoxBody::new(http_body_util::StreamBody::new(pieces)));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CONTENT_LENGTH, backup.length.into());
    response
}

fn report(progress: Reporter, message: String) -> bulkhead_images::ProgressFn {
    Arc::new(move |now: bulkhead_images::Progress| {
        progress.step(message.clone(), now.bytes, now.total);
    })
}

/// Compares without telling by its time where the difference lies.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

fn summary(image: &Image) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        references: image.references.clone(),
        size: image.size(),
        layers: image.layers.len(),
    }
}

fn image_fault(error: &ImageStoreError) -> ApiError {
    match error {
        ImageStoreError::InvalidName { .. }
        | ImageStoreError::Load(_)
        | ImageStoreError::Authorities(_) => fault::invalid(error),
        ImageStoreError::NotFound(_) => fault::not_found(error),
        ImageStoreError::InUse { .. } => fault::conflict(error),
        _ => fault::internal(error),
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        (decode(key) == name).then(|| decode(value))
    })
}

async fn body(request: Request<Incoming>) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    Ok(body.map_err(|error| fault::invalid(format!("the request's body: {error}")))?.to_bytes())
}

fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(fault::internal)
}

fn ok<T: serde::Serialize>(value: &T) -> Response<Body> {
    json_body(StatusCode::OK, value)
}

fn json_body<T: serde::Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    plain(status, "application/json", json!(value).to_string())
}

fn plain(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Runs a long request in a task of its own, which a client that goes away does not end, and
/// answers with its progress.
fn stream<F, R>(work: F, api: Arc<Api>) -> Response<Body>
where
    F: FnOnce(Arc<Api>, Reporter) -> R + Send + 'static,
    R: Future<Output = Result<Value, ApiError>> + Send + 'static,
{
    let (reporter, mut receiver) = Reporter::new();
    tokio::spawn(async move {
        let result = work(api, reporter.clone()).await;
        reporter.finish(result);
    });
    let lines =
        futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)).map_line();
    let mut response = Response::new(BoxBody::new(http_body_util::StreamBody::new(lines)));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Lines of JSON from progress.
trait MapLine: futures_util::Stream<Item = Progress> + Sized {
    fn map_line(
        self,
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
        self.map(|progress| {
            let mut line = json!(progress).to_string();
            line.push('\n');
            Ok(Frame::data(Bytes::from(line)))
        })
    }
}

impl<S: futures_util::Stream<Item = Progress>> MapLine for S {}

/// Switches to a node's console: its file's bytes, and with `follow` those to come.
fn console(
    mut request: Request<Incoming>,
    file: PathBuf,
    follow: bool,
) -> Result<Response<Body>, ApiError> {
    let wants = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if wants != Some(CONSOLE_PROTOCOL) {
        return Err(fault::invalid(format!("a console needs Upgrade: {CONSOLE_PROTOCOL}")));
    }
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(connection) = upgrading.await else { return };
        let mut connection = TokioIo::new(connection);
        // It ends when the client does.
        drop(copy_console(&mut connection, &file, follow).await);
        drop(connection.shutdown().await);
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "text/plain", String::new());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(CONSOLE_PROTOCOL));
    Ok(response)
}

async fn copy_console(
    connection: &mut TokioIo<hyper::upgrade::Upgraded>,
    path: &PathBuf,
    follow: bool,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = file.read(&mut buffer).await?;
        if let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) {
            connection.write_all(bytes).await?;
            connection.flush().await?;
        } else if follow {
            let mut typed = [0; 256];
            tokio::select! {
                // What is typed goes nowhere; the end of it is the client's.
                count = connection.read(&mut typed) => if count? == 0 { return Ok(()) },
                () = tokio::time::sleep(CONSOLE_POLL) => {}
            }
        } else {
            return Ok(());
        }
    }
}
