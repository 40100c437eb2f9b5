//! What etcd's errors mean.

use std::error::Error as _;

use crate::{Revision, StoreError};

/// gRPC's codes for who cannot answer now: cancelled, deadline exceeded, aborted, unavailable.
const PASSING: [i32; 4] = [1, 4, 10, 14];
/// A broken connection is of the code `Unknown` and says so.
const TRANSPORT: &str = "transport error";

/// A request failed.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The revision is compacted away.
    Compacted,
    /// The revision has not happened.
    Future,
    /// The value is larger than etcd takes.
    TooLarge,
    /// It cannot answer now.
    Unavailable(String),
    /// Anything else.
    Other(String),
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = error else {
            return match error {
                etcd_client::Error::TransportError(error) => Self::Unavailable(with_causes(&error)),
                other => Self::Other(other.to_string()),
            };
        };
        let message = status.message();
        if message.contains("required revision has been compacted") {
            Self::Compacted
        } else if message.contains("required revision is a future revision") {
            Self::Future
        } else if message.contains("request is too large") || message.contains("larger than max") {
            Self::TooLarge
        } else if PASSING.contains(&i32::from(status.code())) || message == TRANSPORT {
            let cause = status.source().map_or_else(String::new, with_causes);
            let message = if cause.is_empty() { message.to_owned() } else { cause };
            Self::Unavailable(message)
        } else {
            Self::Other(message.into())
        }
    }
}

/// An error and what it comes from, each text once.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl Failure {
    /// The failure of a request to `etcd`, which asked for no revision.
    pub(super) fn at(self, etcd: &str) -> StoreError {
        match self {
            Self::Unavailable(why) => StoreError::Unavailable(format!("{etcd}: {why}").into()),
            Self::Other(why) => StoreError::Backend(format!("{etcd}: {why}").into()),
            Self::TooLarge => StoreError::TooLarge,
            Self::Compacted | Self::Future => {
                StoreError::Backend(format!("{etcd}: revision out of range").into())
            }
        }
    }

    /// The failure of a request for `requested`, when `compacted` and `current` are the bounds as
    /// far as they are known.
    pub(super) fn of(
        self,
        etcd: &str,
        requested: Revision,
        (compacted, current): (Revision, Revision),
    ) -> StoreError {
        match self {
            Self::Compacted => {
                StoreError::Compacted { requested, compacted: compacted.max(requested.next()) }
            }
            Self::Future => StoreError::Future { requested, current },
            other => other.at(etcd),
        }
    }
}
