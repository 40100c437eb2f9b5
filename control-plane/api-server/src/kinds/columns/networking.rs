//! Columns of the group `networking.k8s.io`.

use super::{AGE, NAME, column};
use crate::object::{list, text};
use crate::resource::Column;
use serde_json::Value;

pub(in crate::kinds) const IP_ADDRESS: &[Column] = &[
    NAME,
    column("ParentRef", |address| {
        let parent = &address["spec"]["parentRef"];
        let parts = ["group", "resource", "namespace", "name"].map(|field| text(parent, field));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into()
    }),
    AGE,
];

pub(in crate::kinds) const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", |range| {
        let all: Vec<_> = list(range, "spec.cidrs").iter().filter_map(Value::as_str).collect();
        all.join(",").into()
    }),
    AGE,
];
