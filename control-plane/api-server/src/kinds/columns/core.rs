//! Columns of what holds data and has no status.

use serde_json::Value;

use super::{AGE, NAME, column, integer};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const CONFIG_MAP: &[Column] = &[NAME, integer("Data", data_count), AGE];

pub(in crate::kinds) const SECRET: &[Column] =
    &[NAME, column("Type", |secret| text(secret, "type").into()), integer("Data", data_count), AGE];

pub(in crate::kinds) const SERVICE_ACCOUNT: &[Column] =
    &[NAME, integer("Secrets", |account| list(account, "secrets").len().into()), AGE];

pub(in crate::kinds) const NAMESPACE: &[Column] =
    &[NAME, column("Status", |namespace| text(namespace, "status.phase").into()), AGE];

pub(in crate::kinds) const LEASE: &[Column] =
    &[NAME, column("Holder", |lease| text(lease, "spec.holderIdentity").into()), AGE];

fn data_count(object: &Value) -> Value {
    let count = |field: &str| object[field].as_object().map_or(0, |data| data.len());
    (count("data") + count("binaryData")).into()
}
