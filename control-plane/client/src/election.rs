//! Leader election by a `Lease`, as client-go does it: of several processes that do the same work,
//! one at a time does it.
//!
//! The leader renews its lease; the others look at it, and take it over when it has not changed for
//! as long as it says it lasts, by their own clocks. A leader that cannot renew gives up before
//! that. It holds whatever the clocks say, as long as they run at about the same speed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, ClientError, Kind, Target};
use crate::object;

/// How long leadership lasts, as kube-controller-manager's flags of the same names say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionTiming {
    /// How long the others wait for a leader that is silent. Whole seconds.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up; less than `lease_duration`.
    pub renew_deadline: Duration,
    /// How long to wait between two tries; less than `renew_deadline`.
    pub retry_period: Duration,
}

impl Default for ElectionTiming {
    /// Kubernetes' own.
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// A candidate.
pub struct Election {
    client: Arc<dyn Client>,
    namespace: String,
    name: String,
    identity: String,
    timing: ElectionTiming,
    seen: Option<Seen>,
}

/// The lease as it last changed, and when that was seen.
#[derive(Debug)]
struct Seen {
    lease: Value,
    at: Instant,
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election")
            .field("lease", &format_args!("{}/{}", self.namespace, self.name))
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Election {
    /// A candidate of this identity, which no other may have, for the lease `namespace/name`.
    #[must_use]
    pub fn new(
        client: Arc<dyn Client>,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: ElectionTiming,
    ) -> Self {
        let [namespace, name, identity] = [namespace, name, identity].map(String::from);
        Self { client, namespace, name, identity, timing, seen: None }
    }

    /// Until this candidate leads.
    pub async fn campaign(&mut self) {
        while !self.step(self.timing.renew_deadline).await {
            tokio::time::sleep(self.timing.retry_period).await;
        }
    }

    /// Renews the lease, until this candidate no longer leads. It has called
    /// [`campaign`](Self::campaign) right before.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry_period).await;
            let begun = Instant::now();
            let deadline = renewed + self.timing.renew_deadline;
            if self.step(deadline.saturating_duration_since(begun)).await {
                renewed = begun;
            } else if self.is_anothers() || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Lets the lease go, so that another need not wait for its end.
    pub async fn release(&mut self) {
        let Ok(mut lease) = self.client.get(&Kind::LEASES, Some(&self.namespace), &self.name).await
        else {
            return;
        };
        if holder(&lease) == self.identity {
            let now = micro_time();
            lease["spec"]["holderIdentity"] = "".into();
            lease["spec"]["leaseDurationSeconds"] = 1.into();
            lease["spec"]["renewTime"] = now.as_str().into();
            lease["spec"]["acquireTime"] = now.into();
            // If it fails, the lease ends by itself.
            let _ = self.client.update(&Kind::LEASES, Target::Main, lease).await;
        }
    }

    fn is_anothers(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| holder(&seen.lease) != self.identity)
    }

    /// One try, which may take so long; whether this candidate leads.
    async fn step(&mut self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.acquire_or_renew()).await {
            Ok(Ok(leads)) => leads,
            Ok(Err(error)) => {
                // Another was faster, as a rule.
                if error.code != 409 {
                    tracing::warn!(lease = self.name, %error, "leader election");
                }
                false
            }
            Err(_) => {
                tracing::warn!(lease = self.name, "leader election: no answer in {limit:?}");
                false
            }
        }
    }

    async fn acquire_or_renew(&mut self) -> Result<bool, ClientError> {
        let found = self.client.get(&Kind::LEASES, Some(&self.namespace), &self.name).await;
        let mut lease = match found {
            Ok(lease) => lease,
            Err(error) if error.code == 404 => {
                let created = self.client.create(&Kind::LEASES, self.first()).await?;
                self.note(created);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.note(lease.clone());
        let leads = holder(&lease) == self.identity;
        if !leads && !holder(&lease).is_empty() && !self.has_lapsed() {
            return Ok(false);
        }
        let now = micro_time();
        let seconds = self.timing.lease_duration.as_secs();
        let transitions = object::number(&lease, "spec.leaseTransitions").unwrap_or(0);
        if !lease["spec"].is_object() {
            lease["spec"] = json!({});
        }
        let spec = &mut lease["spec"];
        spec["leaseDurationSeconds"] = seconds.into();
        spec["renewTime"] = now.as_str().into();
        if !leads {
            spec["holderIdentity"] = self.identity.as_str().into();
            spec["acquireTime"] = now.into();
            spec["leaseTransitions"] = transitions.saturating_add(1).into();
        }
        let updated = self.client.update(&Kind::LEASES, Target::Main, lease).await?;
        self.note(updated);
        Ok(true)
    }

    fn first(&self) -> Value {
        let now = micro_time();
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self.timing.lease_duration.as_secs(),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        })
    }

    /// Takes note of the lease as it is; the clock starts anew when it has changed.
    fn note(&mut self, lease: Value) {
        if self.seen.as_ref().is_none_or(|seen| seen.lease["spec"] != lease["spec"]) {
            self.seen = Some(Seen { lease, at: Instant::now() });
        }
    }

    /// Whether the lease has not changed for as long as it lasts.
    fn has_lapsed(&self) -> bool {
        let Some(seen) = &self.seen else { return false };
        let seconds = object::number(&seen.lease, "spec.leaseDurationSeconds").unwrap_or(0);
        seen.at.elapsed() >= Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

fn holder(lease: &Value) -> &str {
    object::text(lease, "spec.holderIdentity")
}

/// Now, as `metav1.MicroTime` writes it.
fn micro_time() -> String {
    let now = time::OffsetDateTime::now_utc();
    let whole = object::timestamp(now);
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), now.microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds() {
        let now = micro_time();
        assert!(now.ends_with('Z') && now.len() == "2006-01-02T15:04:05.000000Z".len(), "{now}");
        assert!(object::parse_time(&now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lapses_when_it_has_not_changed_for_its_time() {
        let client = crate::testing::Objects::new([]);
        let mut election = Election::new(client, "n", "l", "me", ElectionTiming::default());
        let lease = |renewed: &str| {
            json!({"spec": {"holderIdentity": "other",
            "leaseDurationSeconds": 15, "renewTime": renewed}})
        };
        election.note(lease("1"));
        assert!(election.is_anothers());
        tokio::time::advance(Duration::from_secs(14)).await;
        election.note(lease("1"));
        assert!(!election.has_lapsed());
        tokio::time::advance(Duration::from_secs(1)).await;
        election.note(lease("1"));
        assert!(election.has_lapsed(), "whatever its renewTime says");
        election.note(lease("2"));
        assert!(!election.has_lapsed());
    }
}
