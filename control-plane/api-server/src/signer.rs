//! The signer `kubernetes.io/kube-apiserver-client`: approved CertificateSigningRequests get a
//! client certificate of the cluster's authority. Requests to other signers are theirs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::api::{Api, Place, Target, WatchEventKind};
use crate::kinds::certificates::{self, GROUP, PLURAL};
use crate::object;
use crate::options::{ReadOptions, WriteOptions};
use crate::pki::{self, PkiError};
use crate::status::{Result, Status};

/// Whose requests are signed.
pub(crate) const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

const RETRY: Duration = Duration::from_secs(1);
/// For clocks that are behind.
const BACKDATE: time::Duration = time::Duration::minutes(5);
/// Where the request does not say.
const YEAR: time::Duration = time::Duration::days(365);

/// Signs what is approved, for ever; the authority lies in `pki`.
pub(crate) async fn run(api: Api, pki: PathBuf) {
    let issuer = match issuer(&pki) {
        Ok(issuer) => issuer,
        Err(error) => {
            tracing::error!(%error, "certificate requests are not signed");
            return;
        }
    };
    loop {
        if let Err(error) = follow(&api, &issuer).await {
            tracing::warn!(%error, "signing certificates");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn issuer(pki: &Path) -> std::result::Result<Issuer<'static, KeyPair>, PkiError> {
    let key = pki::key(&pki.join("ca.key"))?;
    let path = pki.join("ca.crt");
    Issuer::from_ca_cert_pem(&pki::read(&path)?, key)
        .map_err(|source| PkiError::Certificate { path, source })
}

async fn follow(api: &Api, issuer: &Issuer<'static, KeyPair>) -> Result<()> {
    let resource = api.registry().find(GROUP, "v1", PLURAL).ok_or_else(Status::no_such_resource)?;
    let place = Place::new(&resource, None);
    let mut watch = api.watch(&place, &ReadOptions::default()).await?;
    while let Some(event) = watch.next().await? {
        if matches!(event.kind, WatchEventKind::Deleted | WatchEventKind::Bookmark) {
            continue;
        }
        let request = event.object.decode(&resource)?;
        if !waits(&request) {
            continue;
        }
        let signed = sign(&request, issuer);
        let set = |current: &Value| {
            let mut request = current.clone();
            if waits(current) {
                answer(&mut request, &signed);
            }
            Ok(request)
        };
        let options = WriteOptions::default();
        match api.modify(&place, object::name(&request), Target::Status, &options, set).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the request is approved and has no answer yet.
fn waits(request: &Value) -> bool {
    let is = |kind: &str| {
        object::list(request, "status.conditions").iter().any(|one| one["type"] == kind)
    };
    request["spec"]["signerName"] == SIGNER
        && is("Approved")
        && !is("Denied")
        && !is("Failed")
        && object::text(request, "status.certificate").is_empty()
}

fn answer(request: &mut Value, signed: &std::result::Result<String, String>) {
    match signed {
        Ok(pem) => request["status"]["certificate"] = BASE64.encode(pem).into(),
        Err(why) => {
            let now = object::now();
            let failed = json!({
                "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                "message": why, "lastUpdateTime": now, "lastTransitionTime": now,
            });
            if let Some(conditions) = request["status"]["conditions"].as_array_mut() {
                conditions.push(failed);
            }
        }
    }
}

/// The certificate, PEM, or why there is none.
fn sign(request: &Value, issuer: &Issuer<'static, KeyPair>) -> std::result::Result<String, String> {
    let usages = object::list(request, "spec.usages");
    if !usages.iter().any(|usage| usage == "client auth") {
        return Err("usages did not contain \"client auth\"".into());
    }
    // Names of one kind are read as one.
    if certificates::organizations(request).is_none_or(|groups| groups.len() > 1) {
        return Err("subjects with several organizations are not supported".into());
    }
    let mut purposes = Vec::new();
    for usage in usages.iter().filter_map(Value::as_str) {
        match usage {
            "client auth" => {}
            "digital signature" | "signing" => purposes.push(KeyUsagePurpose::DigitalSignature),
            "key encipherment" => purposes.push(KeyUsagePurpose::KeyEncipherment),
            other => return Err(format!("usage {other:?} is not one of a client's certificate")),
        }
    }
    let pem = BASE64.decode(object::text(request, "spec.request")).unwrap_or_default();
    let mut wanted = CertificateSigningRequestParams::from_pem(&String::from_utf8_lossy(&pem))
        .map_err(|error| error.to_string())?;
    let mut serial = *uuid::Uuid::new_v4().as_bytes();
    // It is a positive number.
    serial[0] &= 0x7f;
    let seconds = request["spec"]["expirationSeconds"].as_i64();
    let now = OffsetDateTime::now_utc();
    let params = &mut wanted.params;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::NoCa;
    params.key_usages = purposes;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATE;
    params.not_after = now + seconds.map_or(YEAR, time::Duration::seconds).min(YEAR);
    wanted.signed_by(issuer).map(|signed| signed.pem()).map_err(|error| error.to_string())
}
