//! List, then watch, for ever: the changes of a kind as one channel.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Change, Client, ClientError, Kind};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// A controller that is busy lets so many changes wait.
const BUFFER: usize = 256;

/// What an informer tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// These are all the objects there are; what is not among them is gone.
    All(Vec<Value>),
    /// One changed.
    One(Change),
}

/// Follows a kind until the receiver is dropped.
pub(crate) fn follow(client: Arc<dyn Client>, kind: Kind) -> mpsc::Receiver<Told> {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(error) = list_and_watch(&client, kind, &sender).await {
                if error.code != 410 {
                    tracing::warn!(%error, resource = kind.plural, "a controller's watch");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    });
    receiver
}

async fn list_and_watch(
    client: &Arc<dyn Client>,
    kind: Kind,
    sender: &mpsc::Sender<Told>,
) -> Result<(), ClientError> {
    let (items, mut version) = client.list(kind).await?;
    if sender.send(Told::All(items)).await.is_err() {
        return Ok(());
    }
    loop {
        let mut stream = client.watch(kind, version).await?;
        loop {
            let change = tokio::select! {
                change = stream.next() => change?,
                () = sender.closed() => return Ok(()),
            };
            let Some(change) = change else { break };
            let (Change::Present(object) | Change::Gone(object)) = &change;
            let seen = object["metadata"]["resourceVersion"].as_str();
            version = seen.and_then(|seen| seen.parse().ok()).unwrap_or(version);
            if sender.send(Told::One(change)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// `namespace/name`, or the name of what has no namespace.
pub(crate) fn key(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.into(),
    }
}
