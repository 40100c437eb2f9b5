//! Columns of CertificateSigningRequests.

use serde_json::Value;

use super::{AGE, NAME, column, human_duration};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", |request| text(request, "spec.signerName").into()),
    column("Requestor", |request| text(request, "spec.username").into()),
    column("RequestedDuration", |request| match request["spec"]["expirationSeconds"].as_i64() {
        Some(seconds) => human_duration(time::Duration::seconds(seconds)).into(),
        None => "<none>".into(),
    }),
    column("Condition", |request| condition(request).into()),
];

fn condition(request: &Value) -> String {
    let is = |kind: &str| list(request, "status.conditions").iter().any(|one| one["type"] == kind);
    let decision = match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if is("Failed") { ",Failed" } else { "" };
    let issued = if text(request, "status.certificate").is_empty() { "" } else { ",Issued" };
    format!("{decision}{failed}{issued}")
}
