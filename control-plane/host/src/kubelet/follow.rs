//! List, then watch, for ever.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::client::{Kube, KubeError};

/// How long to wait before a broken watch is opened again.
const RETRY: Duration = Duration::from_millis(200);

/// What following a resource tells.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// These are all the objects there are; what is not among them is gone.
    All(Vec<Arc<Value>>),
    /// One is like this now, or was before it went.
    One { object: Arc<Value>, gone: bool },
}

impl Told {
    /// Brings it to who keeps the objects; whether it was all of them.
    pub(super) fn bring<T>(
        &self,
        keeper: &mut T,
        retain: impl FnOnce(&mut T, &[Arc<Value>]),
        set: impl Fn(&mut T, &Value),
        remove: impl FnOnce(&mut T, &Value),
    ) -> bool {
        match self {
            Self::All(objects) => {
                retain(keeper, objects);
                objects.iter().for_each(|object| set(keeper, object));
                return true;
            }
            Self::One { object, gone: false } => set(keeper, object),
            Self::One { object, gone: true } => remove(keeper, object),
        }
        false
    }
}

/// Follows the objects at `path` until dropped.
pub(super) async fn follow(kube: &Kube, path: &str, mut tell: impl FnMut(Told)) {
    loop {
        if let Err(error) = list_and_watch(kube, path, &mut tell).await {
            tracing::warn!("watching {path}: {error}");
        }
        sleep(RETRY).await;
    }
}

/// All the news there is, once there is some; `None` when nobody tells any more. If what came before
/// is not `settled` it is tried again, after `retry` even if nothing is new.
pub(super) async fn all_news<T>(
    news: &mut UnboundedReceiver<T>,
    settled: bool,
    retry: Duration,
) -> Option<Vec<T>> {
    let first = if settled {
        news.recv().await
    } else {
        timeout(retry, news.recv()).await.unwrap_or_default()
    };
    if first.is_none() && news.is_closed() {
        return None;
    }
    Some(first.into_iter().chain(std::iter::from_fn(|| news.try_recv().ok())).collect())
}

async fn list_and_watch(
    kube: &Kube,
    path: &str,
    tell: &mut impl FnMut(Told),
) -> Result<(), KubeError> {
    let text = |value: &Value, path: &str| {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut list = kube.get(path).await?;
    let mut version = text(&list, "/metadata/resourceVersion");
    let items = match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    tell(Told::All(items.into_iter().map(Arc::new).collect()));
    loop {
        let path = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        let mut watch = kube.watch(&path).await?;
        while let Some(event) = watch.event().await? {
            if event.kind == "ERROR" {
                // Most often 410: the version is too old. A list starts over.
                return Err(KubeError::Transport(text(&event.object, "/message")));
            }
            version = text(&event.object, "/metadata/resourceVersion");
            let gone = match event.kind.as_str() {
                "ADDED" | "MODIFIED" => false,
                "DELETED" => true,
                _ => continue,
            };
            tell(Told::One { object: Arc::new(event.object), gone });
        }
    }
}
