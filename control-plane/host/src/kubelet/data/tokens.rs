//! ServiceAccount tokens bound to a pod: asked for with `TokenRequest`
//! (authentication.k8s.io/v1), kept until it is time for another.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bulkhead_agent_protocol::Pod;
use bulkhead_agent_protocol::volume::{ServiceAccountTokenProjection, VolumeProjection};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Problem;
use crate::kubelet::client::Kube;

/// A token's life if the pod names none, in seconds.
const DEFAULT_LIFE: u64 = 3600;

/// No token is used for longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Audience and life in seconds: what tells a pod's tokens apart.
type Key = (Option<String>, u64);

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew: Instant,
}

/// A pod's tokens.
#[derive(Debug, Default)]
pub(in crate::kubelet) struct Tokens(BTreeMap<Key, Token>);

fn key(source: &ServiceAccountTokenProjection) -> Key {
    (source.audience.clone(), source.expiration_seconds.unwrap_or(DEFAULT_LIFE))
}

impl Tokens {
    /// The token for a projection.
    pub(super) fn get(&self, source: &ServiceAccountTokenProjection) -> Option<&str> {
        self.0.get(&key(source)).map(|token| token.text.as_str())
    }

    /// When the first of them is to be renewed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|token| token.renew).min()
    }

    /// Asks for those that the pod needs and that are not there or due.
    pub(super) async fn refresh(&mut self, kube: &Kube, pod: &Pod) -> Result<(), Problem> {
        for volume in &pod.spec.volumes {
            for projection in volume.projected.iter().flat_map(|projected| &projected.sources) {
                let VolumeProjection::ServiceAccountToken(source) = projection else { continue };
                let key = key(source);
                if self.0.get(&key).is_some_and(|token| token.renew > Instant::now()) {
                    continue;
                }
                let failed = |why: String| Problem::Volume { volume: volume.name.clone(), why };
                let token = request(kube, pod, &key)
                    .await
                    .map_err(|why| failed(format!("failed to fetch token: {why}")))?;
                self.0.insert(key, token);
            }
        }
        Ok(())
    }
}

async fn request(kube: &Kube, pod: &Pod, (audience, life): &Key) -> Result<Token, String> {
    let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        pod.metadata.namespace,
        super::segment(account.unwrap_or("default")),
    );
    let audiences: Vec<&str> = audience.iter().map(String::as_str).collect();
    let asked = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": life,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod.metadata.name,
                "uid": pod.metadata.uid,
            },
        },
    });
    let answer = kube.create(&path, &asked).await.map_err(|error| error.to_string())?;
    parse(&answer).ok_or_else(|| String::from("the API server's answer holds no token"))
}

fn parse(answer: &Value) -> Option<Token> {
    let text = answer.pointer("/status/token")?.as_str()?.to_owned();
    let expires = answer.pointer("/status/expirationTimestamp")?.as_str()?;
    let expires = humantime::parse_rfc3339(expires).ok()?;
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    Some(Token { text, renew: Instant::now() + left.mul_f64(0.8).min(LONGEST) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_after_four_fifths_of_its_life() {
        let answer = |seconds| {
            let expires = SystemTime::now() + Duration::from_secs(seconds);
            json!({"status": {
                "token": "t",
                "expirationTimestamp": humantime::format_rfc3339(expires).to_string(),
            }})
        };
        let life = |seconds| (parse(&answer(seconds)).unwrap().renew - Instant::now()).as_secs();
        // The clock goes on meanwhile.
        assert!((2800..=2880).contains(&life(3600)));
        assert_eq!(life(1_000_000), LONGEST.as_secs());
        assert!(parse(&json!({"status": {"token": "t"}})).is_none());
    }
}
