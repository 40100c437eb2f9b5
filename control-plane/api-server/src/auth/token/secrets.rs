//! Secrets of the type `kubernetes.io/service-account-token`: tokens without an end, which hold as
//! long as their Secret and their account are there.
//! <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>
//!
//! A Secret names its account in an annotation, and is filled in here. One whose account is not
//! there, or no longer, is deleted.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ISSUER, Tokens};
use crate::api::{Api, Place, Target, WatchEventKind};
use crate::auth::User;
use crate::auth::rbac::index::service_account_name;
use crate::kinds::{SECRET_ACCOUNT, SECRET_TOKEN};
use crate::object;
use crate::options::{DeleteOptions, Preconditions, ReadOptions, WriteOptions};
use crate::selector::FieldSelector;
use crate::status::{Result, Status};

/// Who issues these tokens, as in Kubernetes.
const SECRETS_ISSUER: &str = "kubernetes/serviceaccount";
/// The annotation that says which account of the name is meant.
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const RETRY: Duration = Duration::from_secs(1);

/// The claims, as Kubernetes writes them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SecretClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

/// What a secret's annotation says.
fn annotation<'a>(secret: &'a Value, key: &str) -> &'a str {
    secret["metadata"]["annotations"][key].as_str().unwrap_or_default()
}

fn decoded(secret: &Value, key: &str) -> Vec<u8> {
    let text = secret["data"][key].as_str().unwrap_or_default();
    BASE64.decode(text).unwrap_or_default()
}

impl Tokens {
    /// As [`authenticate`](Self::authenticate), of a token out of a Secret. Those are for this
    /// server only.
    pub(super) async fn authenticate_secret(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Option<(User, Vec<String>)> {
        let claims: SecretClaims = self.keys.verify_endless(token, SECRETS_ISSUER)?;
        let name = service_account_name(&claims.namespace, &claims.account);
        if claims.sub != name || !audiences.iter().any(|one| one == ISSUER) {
            return None;
        }
        let namespace = Some(claims.namespace.as_str());
        let secret = self.find("secrets", namespace, &claims.secret).await.ok()?;
        if object::is_terminating(&secret) || decoded(&secret, "token") != token.as_bytes() {
            return None;
        }
        let account = self.find("serviceaccounts", namespace, &claims.account).await.ok()?;
        if object::is_terminating(&account) || account["metadata"]["uid"] != claims.uid {
            return None;
        }
        let user = super::account_user(&claims.namespace, &claims.account, &claims.uid);
        Some((user, vec![ISSUER.into()]))
    }

    fn endless(&self, secret: &Value, account: &Value) -> Result<String> {
        let namespace = object::text(account, "metadata.namespace");
        let claims = SecretClaims {
            iss: SECRETS_ISSUER.into(),
            namespace: namespace.into(),
            secret: object::name(secret).into(),
            account: object::name(account).into(),
            uid: object::text(account, "metadata.uid").into(),
            sub: service_account_name(namespace, object::name(account)),
        };
        self.keys.sign(&claims).map_err(Status::internal)
    }
}

/// Fills such Secrets in and deletes those without an account, for ever. `root` is the cluster's
/// certificate, PEM.
pub(crate) async fn run(tokens: Tokens, root: Arc<str>) {
    let keeper = Keeper { api: tokens.api.clone(), tokens, root };
    loop {
        if let Err(error) = keeper.follow().await {
            tracing::warn!(%error, "tokens in secrets");
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Keeper {
    api: Api,
    tokens: Tokens,
    root: Arc<str>,
}

impl Keeper {
    fn place(&self, plural: &str, namespace: Option<&str>) -> Result<Place> {
        let resource = self.api.registry().find("", "v1", plural);
        Ok(Place::new(&resource.ok_or_else(Status::no_such_resource)?, namespace))
    }

    async fn follow(&self) -> Result<()> {
        // Accounts first: of those that went before, the secrets that there are tell.
        let (all_accounts, all_secrets) =
            (self.place("serviceaccounts", None)?, self.place("secrets", None)?);
        let now = ReadOptions { send_initial_events: Some(false), ..ReadOptions::default() };
        let mut accounts = self.api.watch(&all_accounts, &now).await?;
        let mut secrets = self.api.watch(&all_secrets, &of_type()).await?;
        let fill = async {
            while let Some(event) = secrets.next().await? {
                if matches!(event.kind, WatchEventKind::Added | WatchEventKind::Modified) {
                    self.settle(&event.object.decode(&all_secrets.resource)?).await?;
                }
            }
            Ok::<_, Status>(())
        };
        let sweep = async {
            while let Some(event) = accounts.next().await? {
                if event.kind == WatchEventKind::Deleted {
                    self.sweep(&event.object.decode(&all_accounts.resource)?).await?;
                }
            }
            Ok(())
        };
        tokio::try_join!(fill, sweep).map(drop)
    }

    /// Deletes what is left of an account that is gone.
    async fn sweep(&self, account: &Value) -> Result<()> {
        let place = self.place("secrets", object::namespace(account))?;
        let (name, uid) = (object::name(account), object::text(account, "metadata.uid"));
        for secret in self.api.list(&place, &of_type()).await?.items {
            let said = annotation(&secret, ACCOUNT_UID);
            if annotation(&secret, SECRET_ACCOUNT) == name && (said.is_empty() || said == uid) {
                self.delete(&place, &secret).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, place: &Place, secret: &Value) -> Result<()> {
        let uid = Some(object::text(secret, "metadata.uid").into());
        let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        match self.api.delete(place, object::name(secret), &options).await {
            Err(error) if !matches!(error.code, 404 | 409) => Err(error),
            _ => Ok(()),
        }
    }

    /// Fills one in, or deletes it.
    async fn settle(&self, secret: &Value) -> Result<()> {
        if object::is_terminating(secret) {
            return Ok(());
        }
        let namespace = object::namespace(secret);
        let place = self.place("secrets", namespace)?;
        let accounts = self.place("serviceaccounts", namespace)?;
        let account = match self.api.get(&accounts, annotation(secret, SECRET_ACCOUNT)).await {
            Ok(account) => account,
            Err(error) if error.code == 404 => return self.delete(&place, secret).await,
            Err(error) => return Err(error),
        };
        let uid = object::text(&account, "metadata.uid");
        let said = annotation(secret, ACCOUNT_UID);
        if !said.is_empty() && said != uid {
            return self.delete(&place, secret).await;
        }
        let fill = |current: &Value| {
            let mut filled = current.clone();
            if current["metadata"]["uid"] == secret["metadata"]["uid"] {
                self.fill(&mut filled, &account)?;
            }
            Ok(filled)
        };
        let options =
            WriteOptions { client: "kube-controller-manager".into(), ..WriteOptions::default() };
        let name = object::name(secret);
        match self.api.modify(&place, name, Target::Main, &options, fill).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code, 404 | 409) => Ok(()),
            // One that is immutable is what it is.
            Err(error) if error.code == 422 => {
                tracing::warn!(namespace, name, %error, "a token's secret cannot be filled in");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn fill(&self, secret: &mut Value, account: &Value) -> Result<()> {
        let is_filled = |key: &str| !decoded(secret, key).is_empty();
        let token = match is_filled("token") {
            true => None,
            false => Some(self.tokens.endless(secret, account)?),
        };
        let namespace = object::text(account, "metadata.namespace");
        let all = [
            ("ca.crt", Some(&*self.root)),
            ("namespace", Some(namespace)),
            ("token", token.as_deref()),
        ];
        let missing: Vec<_> = all
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .filter(|(key, value)| decoded(secret, key) != value.as_bytes())
            .collect();
        if let Some(data) = object::map(secret, "data") {
            for (key, value) in missing {
                data.insert(key.into(), BASE64.encode(value).into());
            }
        }
        secret["metadata"]["annotations"][ACCOUNT_UID] = account["metadata"]["uid"].clone();
        Ok(())
    }
}

/// Every Secret of the type.
fn of_type() -> ReadOptions {
    ReadOptions { fields: FieldSelector::equal("type", SECRET_TOKEN), ..ReadOptions::default() }
}
