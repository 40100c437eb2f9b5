//! Making and deleting a workload's pods, many at a time, with the events that tell of it.

use std::sync::Arc;

use bulkhead_client::object;
use bulkhead_client::{Cache, ClientError, DeleteOptions, Kind};
use serde_json::Value;

use crate::context::{Context, Written, unless_gone};

/// A write that waits for others in the store is one of so many.
pub(crate) const PARALLEL: usize = 128;

/// How events word what was done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wording {
    /// `Created pod: web-x7k2p`.
    Plain,
    /// `create Pod web-0 in StatefulSet web successful`.
    Named,
}

/// Writes pods for owners, and remembers what a cache must have seen before it may be counted.
pub(crate) struct PodControl {
    pub(crate) context: Context,
    written: Written,
    wording: Wording,
}

/// Pods could not be made or deleted.
#[derive(Debug)]
pub(crate) struct Failure {
    /// `FailedCreate`, `FailedDelete`.
    pub(crate) reason: &'static str,
    pub(crate) error: ClientError,
}

impl PodControl {
    pub(crate) fn new(context: Context, wording: Wording) -> Self {
        Self { context, written: Written::default(), wording }
    }

    /// Whether `cache` has seen what was written for the owner with this key.
    pub(crate) fn is_in(&self, key: &str, cache: &Cache) -> bool {
        self.written.is_in(key, cache)
    }

    /// Notes a write of a pod that was made elsewhere.
    pub(crate) fn note(&self, key: &str, pod: &Value) {
        self.written.note(key, pod);
    }

    /// Makes `pods` for `owner`, which has this key: one, then twice as many, so that what fails for
    /// all fails for few.
    pub(crate) async fn create(
        &self,
        key: &str,
        owner: &Value,
        mut pods: impl Iterator<Item = Value> + Send,
    ) -> Result<(), Failure> {
        let (client, kind) = (self.context.client(), Kind::PODS);
        let mut batch = 1;
        loop {
            let pods: Vec<Value> = pods.by_ref().take(batch).collect();
            if pods.is_empty() {
                return Ok(());
            }
            // Pods that are named by the server have no name to tell.
            let names: Vec<String> = pods.iter().map(|pod| object::name(pod).to_owned()).collect();
            let creates = pods.into_iter().map(|pod| client.create(&kind, pod));
            let mut failed = None;
            for (name, created) in
                names.into_iter().zip(futures_util::future::join_all(creates).await)
            {
                match created {
                    Ok(pod) => {
                        self.written.note(key, &pod);
                        self.done(owner, Verb::Create, object::name(&pod));
                    }
                    Err(error) => failed = Some((name, error)),
                }
            }
            if let Some((name, error)) = failed {
                return Err(self.failed(owner, Verb::Create, &name, error));
            }
            batch = (batch * 2).min(PARALLEL);
        }
    }

    /// Deletes `pods` of `owner`, which has this key. Those that are gone already are no failure.
    pub(crate) async fn delete(
        &self,
        key: &str,
        owner: &Value,
        pods: &[Arc<Value>],
    ) -> Result<(), Failure> {
        let client = self.context.client();
        let mut failed = None;
        for batch in pods.chunks(PARALLEL) {
            let deletes = batch.iter().map(|pod| async move {
                let options = DeleteOptions::of(object::uid(pod));
                let name = object::name(pod);
                let deleted =
                    client.delete(&Kind::PODS, object::namespace(pod), name, &options).await;
                (name, deleted)
            });
            for (name, deleted) in futures_util::future::join_all(deletes).await {
                match unless_gone(deleted) {
                    Ok(Some(pod)) => {
                        self.written.note(key, &pod);
                        self.done(owner, Verb::Delete, name);
                    }
                    Ok(None) => {}
                    Err(error) => failed = Some((name, error)),
                }
            }
        }
        match failed {
            None => Ok(()),
            Some((name, error)) => Err(self.failed(owner, Verb::Delete, name, error)),
        }
    }

    fn done(&self, owner: &Value, verb: Verb, pod: &str) {
        let message = match self.wording {
            Wording::Plain => format!("{} pod: {pod}", verb.past()),
            Wording::Named => format!("{} successful", verb.of(owner, pod)),
        };
        self.context.recorder.normal(owner, verb.reason(), message);
    }

    fn failed(&self, owner: &Value, verb: Verb, pod: &str, error: ClientError) -> Failure {
        let message = match self.wording {
            Wording::Plain => format!("Error {}: {error}", verb.ongoing()),
            Wording::Named => format!("{} failed error: {error}", verb.of(owner, pod)),
        };
        let reason = verb.failure();
        self.context.recorder.warning(owner, reason, message);
        Failure { reason, error }
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Create,
    Delete,
}

impl Verb {
    fn past(self) -> &'static str {
        match self {
            Self::Create => "Created",
            Self::Delete => "Deleted",
        }
    }

    fn ongoing(self) -> &'static str {
        match self {
            Self::Create => "creating",
            Self::Delete => "deleting",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Create => "SuccessfulCreate",
            Self::Delete => "SuccessfulDelete",
        }
    }

    fn failure(self) -> &'static str {
        match self {
            Self::Create => "FailedCreate",
            Self::Delete => "FailedDelete",
        }
    }

    /// `create Pod web-0 in StatefulSet web`.
    fn of(self, owner: &Value, pod: &str) -> String {
        let verb = match self {
            Self::Create => "create",
            Self::Delete => "delete",
        };
        let kind = object::text(owner, "kind");
        format!("{verb} Pod {pod} in {kind} {}", object::name(owner))
    }
}
