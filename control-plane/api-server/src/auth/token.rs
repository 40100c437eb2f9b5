//! Service accounts' tokens: issued by the subresource `token`, shown as bearer tokens, judged by
//! TokenReviews. A token holds as long as its time, its account and the object it is bound to.

pub(crate) mod secrets;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::admission::Admission;
use super::keys::Keys;
use super::rbac::index::{service_account_groups, service_account_name};
use super::{AUTHENTICATED, User, hosts};
use crate::api::{Api, Place};
use crate::object;
use crate::status::{Cause, Result, Status};

/// Who issues tokens, and for whom they are if they do not say, as in Kubernetes.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the issuer is described (OpenID Connect Discovery 1.0).
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where the public keys are.
pub const KEYS_PATH: &str = "/openid/v1/jwks";

/// How long a token holds that does not say, in seconds, and the least and most.
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// An object that is being deleted still counts for so long, in seconds: what runs ends.
const DELETION_LEEWAY: i64 = 60;

/// The claims, as Kubernetes writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Binding,
    nbf: i64,
    sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Binding {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl Reference {
    fn to(object: &Value) -> Self {
        let uid = object::text(object, "metadata.uid").into();
        Self { name: object::name(object).into(), uid }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RequestSpec {
    audiences: Option<Vec<String>>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<ObjectRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    kind: String,
    api_version: Option<String>,
    name: String,
    uid: Option<String>,
}

/// Issues and judges tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    api: Api,
    keys: Arc<Keys>,
    address: SocketAddr,
}

impl Tokens {
    /// Tokens of the accounts in `api`, signed by `keys`; the server is found at `address`.
    #[must_use]
    pub fn new(api: Api, keys: Keys, address: SocketAddr) -> Self {
        Self { api, keys: Arc::new(keys), address }
    }

    /// The public keys as a JSON Web Key Set.
    #[must_use]
    pub fn keys(&self) -> Value {
        self.keys.to_jwks()
    }

    /// The OpenID provider's configuration.
    #[must_use]
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{}{KEYS_PATH}", self.address),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    async fn find(&self, plural: &str, namespace: Option<&str>, name: &str) -> Result<Value> {
        let resource = self.api.registry().find("", "v1", plural);
        let resource = resource.ok_or_else(Status::no_such_resource)?;
        self.api.get(&Place::new(&resource, namespace), name).await
    }

    /// Answers a `TokenRequest` for the account `name` in the place of `admission`.
    ///
    /// # Errors
    /// `NotFound` for the account or the object to bind to; `Invalid`, `Conflict`, `Forbidden`.
    pub async fn issue(
        &self,
        admission: &Admission<'_>,
        name: &str,
        mut request: Value,
    ) -> Result<Value> {
        let namespace = admission.place.namespace.as_deref().unwrap_or_default();
        let account = self.find("serviceaccounts", Some(namespace), name).await?;
        let spec: RequestSpec = match request.get("spec") {
            None | Some(Value::Null) => RequestSpec::default(),
            Some(spec) => serde_json::from_value(spec.clone())
                .map_err(|error| Status::bad_request(format!("spec: {error}")))?,
        };
        let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        check_duration(name, seconds)?;
        let mut kubernetes = Binding {
            namespace: namespace.into(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Reference::to(&account),
        };
        let host = hosts::host_of(admission.user);
        match &spec.bound_object_ref {
            Some(reference) => {
                self.bind(admission, name, reference, &mut kubernetes).await?;
            }
            None if host.is_some() => {
                let why = "a host can only request tokens that are bound to a pod on its nodes";
                return Err(forbidden(name, why));
            }
            None => {}
        }
        let audiences = spec.audiences.filter(|audiences| !audiences.is_empty());
        let audiences = audiences.unwrap_or_else(|| vec![ISSUER.into()]);
        let now = OffsetDateTime::now_utc();
        let claims = Claims {
            aud: audiences.clone(),
            exp: now.unix_timestamp() + seconds,
            iat: now.unix_timestamp(),
            iss: ISSUER.into(),
            jti: object::uid(),
            kubernetes,
            nbf: now.unix_timestamp(),
            sub: service_account_name(namespace, name),
        };
        let token = self.keys.sign(&claims).map_err(Status::internal)?;
        if !request.is_object() {
            request = json!({});
        }
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["kind"] = "TokenRequest".into();
        request["metadata"] = json!({
            "name": name, "namespace": namespace, "creationTimestamp": object::timestamp(now),
        });
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = seconds.into();
        request["status"] = json!({
            "token": token,
            "expirationTimestamp": object::timestamp(now + time::Duration::seconds(seconds)),
        });
        Ok(request)
    }

    async fn bind(
        &self,
        admission: &Admission<'_>,
        account: &str,
        reference: &ObjectRef,
        binding: &mut Binding,
    ) -> Result<()> {
        let host = hosts::host_of(admission.user);
        let version = reference.api_version.as_deref().unwrap_or("v1");
        let plural = match (version, reference.kind.as_str()) {
            ("v1", "Pod") => "pods",
            ("v1", "Secret") if host.is_none() => "secrets",
            _ => {
                let why =
                    format!("cannot bind token to object of type {version} {}", reference.kind);
                return Err(Status::bad_request(why));
            }
        };
        let object = self.find(plural, Some(&binding.namespace), &reference.name).await?;
        let found = Reference::to(&object);
        if let Some(uid) =
            reference.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != found.uid)
        {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", plural, &reference.name, &why));
        }
        if plural == "secrets" {
            binding.secret = Some(found);
            return Ok(());
        }
        if object::text(&object, "spec.serviceAccountName") != account {
            let why = format!(
                "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
            );
            return Err(Status::bad_request(why));
        }
        let node = object::text(&object, "spec.nodeName");
        if host.is_some_and(|host| !admission.authorizer.owners().is_of(node, host)) {
            return Err(forbidden(account, "the pod is not on a node of this host"));
        }
        if !node.is_empty() {
            // A node that is not there is no reason to keep the pod from its token.
            binding.node =
                self.find("nodes", None, node).await.ok().map(|node| Reference::to(&node));
        }
        binding.pod = Some(found);
        Ok(())
    }

    /// The service account whose token this is and for which of `audiences` it is; `None` if it is
    /// not good, or no longer.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Option<(User, Vec<String>)> {
        let Some(claims) = self.keys.verify::<Claims>(token, ISSUER) else {
            return self.authenticate_secret(token, audiences).await;
        };
        let audiences: Vec<String> =
            audiences.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        let bound = &claims.kubernetes;
        let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
        let name = service_account_name(namespace, &account.name);
        if audiences.is_empty() || claims.sub != name {
            return None;
        }
        for (plural, reference) in [
            ("serviceaccounts", Some(account)),
            ("pods", bound.pod.as_ref()),
            ("secrets", bound.secret.as_ref()),
        ] {
            let Some(reference) = reference else { continue };
            let found = self.find(plural, Some(namespace), &reference.name).await.ok()?;
            if object::text(&found, "metadata.uid") != reference.uid || is_long_gone(&found) {
                return None;
            }
        }
        let mut user = account_user(namespace, &account.name, &account.uid);
        let mut note = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.into()]);
        };
        note("credential-id", &format!("JTI={}", claims.jti));
        for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
            if let Some(reference) = reference {
                note(&format!("{kind}-name"), &reference.name);
                note(&format!("{kind}-uid"), &reference.uid);
            }
        }
        Some((user, audiences))
    }

    /// The service account that makes a request with this `Authorization` header; `None` if the
    /// header is no bearer token's.
    ///
    /// # Errors
    /// `Unauthorized` for a token that is not good.
    pub async fn bearer(&self, headers: &http::HeaderMap) -> Result<Option<User>> {
        let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Status::unauthorized())?;
        let Some((scheme, token)) = text.trim().split_once(' ') else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let found = self.authenticate(token.trim(), &[ISSUER.into()]).await;
        found.map(|(user, _)| Some(user)).ok_or_else(Status::unauthorized)
    }

    /// The status of a `TokenReview`.
    ///
    /// # Errors
    /// `BadRequest` if it shows no token.
    pub async fn review(&self, review: &Value) -> Result<Value> {
        let token = object::text(review, "spec.token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences: Vec<String> = object::list(review, "spec.audiences")
            .iter()
            .filter_map(|one| one.as_str().map(Into::into))
            .collect();
        let audiences = if audiences.is_empty() { vec![ISSUER.into()] } else { audiences };
        Ok(match self.authenticate(token, &audiences).await {
            Some((user, audiences)) => json!({
                "authenticated": true,
                "user": super::review::user_info(&user),
                "audiences": audiences,
            }),
            None => json!({"user": {}, "error": "the token is not valid, or no longer"}),
        })
    }
}

/// The user that a service account is.
fn account_user(namespace: &str, name: &str, uid: &str) -> User {
    let mut groups = Vec::from(service_account_groups(namespace));
    groups.push(AUTHENTICATED.into());
    User {
        name: service_account_name(namespace, name),
        uid: uid.into(),
        groups,
        extra: std::collections::BTreeMap::new(),
    }
}

fn check_duration(name: &str, seconds: i64) -> Result<()> {
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), why);
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, vec![cause]))
}

fn is_long_gone(object: &Value) -> bool {
    let deletion = object::parse_time(object::text(object, "metadata.deletionTimestamp"));
    let limit = OffsetDateTime::now_utc() - time::Duration::seconds(DELETION_LEEWAY);
    deletion.is_some_and(|deletion| deletion < limit)
}

fn forbidden(name: &str, why: &str) -> Status {
    Status::forbidden("", "serviceaccounts", name, why)
}
