//! CertificateSigningRequests of the group `certificates.k8s.io`.
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::{PLAIN, STATUS_VERBS, columns as c, status, template};
use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

/// The kind's group.
pub(crate) const GROUP: &str = "certificates.k8s.io";
/// Its plural.
pub(crate) const PLURAL: &str = "certificatesigningrequests";
/// The conditions by which a request is decided.
pub(crate) const DECISIONS: [&str; 2] = ["Approved", "Denied"];

const KIND: &str = "CertificateSigningRequest";
const SUBRESOURCES: &[Subresource] = &[
    Subresource { name: "approval", kind: KIND, group_version: None, verbs: STATUS_VERBS },
    status(KIND),
];
/// Ten minutes.
const SHORTEST_SECONDS: i64 = 600;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        group: GROUP,
        kind: KIND,
        plural: PLURAL,
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        namespaced: false,
        storage: PLURAL,
        subresources: SUBRESOURCES,
        fields: &["spec.signerName"],
        columns: c::CERTIFICATE_SIGNING_REQUEST,
        behaviour: Behaviour {
            prepare_create: |request| request["status"] = json!({}),
            validate,
            validate_update,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// The groups that the subject of a request's certificate would have; `None` if it is no request.
pub(crate) fn organizations(request: &Value) -> Option<Vec<String>> {
    let pem = BASE64.decode(object::text(request, "spec.request")).ok()?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let groups = subject.iter_organization().map(|one| one.as_str().map(Into::into));
    groups.collect::<Result<_, _>>().ok()
}

fn validate(request: &Value, causes: &mut Vec<Cause>) {
    let spec = &request["spec"];
    if object::text(spec, "request").is_empty() {
        causes.push(Cause::required("spec.request"));
    } else if organizations(request).is_none() {
        let why = "must be a PEM-encoded certificate request of type 'CERTIFICATE REQUEST'";
        causes.push(Cause::invalid("spec.request", &spec["request"], why));
    }
    let signer = object::text(spec, "signerName");
    let well_formed = |(domain, path): (&str, &str)| {
        domain.contains('.')
            && NameRule::Subdomain.violation(domain).is_none()
            && !path.is_empty()
            && path
                .split('.')
                .all(|part| NameRule::Subdomain.violation(&part.to_lowercase()).is_none())
    };
    if signer.is_empty() {
        causes.push(Cause::required("spec.signerName"));
    } else if !signer.split_once('/').is_some_and(well_formed) {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        causes.push(Cause::invalid("spec.signerName", &spec["signerName"], why));
    }
    if !spec["expirationSeconds"].is_null()
        && spec["expirationSeconds"].as_i64().is_none_or(|seconds| seconds < SHORTEST_SECONDS)
    {
        let why =
            format!("may not specify a duration less than {SHORTEST_SECONDS} seconds (10 minutes)");
        causes.push(Cause::invalid("spec.expirationSeconds", &spec["expirationSeconds"], &why));
    }
    let usages = object::list(spec, "usages");
    if usages.is_empty() {
        causes.push(Cause::required("spec.usages"));
    }
    let mut seen = HashSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let path = format!("spec.usages[{index}]");
        match usage.as_str() {
            Some(text) if !USAGES.contains(&text) => {
                causes.push(Cause::not_supported(path, usage, USAGES));
            }
            Some(text) if !seen.insert(text) => causes.push(Cause::duplicate(path, usage)),
            _ => {}
        }
    }
    if DECISIONS.iter().all(|kind| decision(request, kind).is_some()) {
        let why = "Approved and Denied conditions are mutually exclusive";
        causes.push(Cause::invalid("status.conditions", &json!("Denied"), why));
    }
}

fn decision<'a>(request: &'a Value, kind: &str) -> Option<&'a Value> {
    object::list(request, "status.conditions").iter().find(|condition| condition["type"] == kind)
}

fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    template::immutable(new, old, "spec", causes);
    for kind in DECISIONS.into_iter().chain(["Failed"]) {
        if decision(old, kind).is_some() && decision(new, kind).is_none() {
            let why = format!("updates may not remove a condition of type \"{kind}\"");
            causes.push(Cause::forbidden("status.conditions", &why));
        }
    }
    if !object::text(old, "status.certificate").is_empty() {
        template::immutable(new, old, "status.certificate", causes);
    }
}

/// The conditions of `new`, with the decisions of `old`: what a write of the status makes of them.
/// Those are the subresource `approval`'s.
pub(crate) fn undecided(new: &Value, old: &Value) -> Vec<Value> {
    let is_decision = |one: &&Value| DECISIONS.iter().any(|kind| one["type"] == *kind);
    let kept = object::list(old, "status.conditions").iter().filter(is_decision);
    let others = object::list(new, "status.conditions").iter().filter(|one| !is_decision(one));
    kept.chain(others).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"spec": {"request": BASE64.encode(pem), "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client"}})
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let fields = |object: &Value| {
            let mut causes = Vec::new();
            validate(object, &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&request()), Vec::<String>::new());
        assert_eq!(organizations(&request()).unwrap(), ["devs"]);
        for (field, value, expected) in [
            ("request", json!("bm90IFBFTQ=="), "spec.request"),
            ("signerName", json!("client"), "spec.signerName"),
            ("usages", json!(["fun"]), "spec.usages[0]"),
            ("usages", json!([]), "spec.usages"),
            ("expirationSeconds", json!(599), "spec.expirationSeconds"),
        ] {
            let mut request = request();
            request["spec"][field] = value;
            assert_eq!(fields(&request), [expected], "{field}");
        }
        let mut both = request();
        both["status"]["conditions"] = json!([{"type": "Approved"}, {"type": "Denied"}]);
        assert_eq!(fields(&both), ["status.conditions"]);
    }
}
