//! The endpoints behind a port of a Service, and connections to them.

mod connect;
mod endpoint;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use connect::ConnectError;
pub(crate) use endpoint::Endpoint;

/// What a Service's port leads to, followed live. Requests take its endpoints in turn.
#[derive(Debug)]
pub struct Upstream {
    /// `namespace/service:port`, for people.
    name: String,
    endpoints: RwLock<Arc<[Arc<Endpoint>]>>,
    next: AtomicUsize,
}

/// An endpoint's address, and whose it is: the next pod at an address is another endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// The pod's uid; empty for what is none.
    pub uid: String,
}

impl Upstream {
    /// One without endpoints yet.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, endpoints: RwLock::new(Arc::new([])), next: AtomicUsize::new(0) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes these for its endpoints. Idle connections to those that are no more end; requests under
    /// way go on.
    pub fn set(&self, targets: &[Target]) {
        let old = self.endpoints();
        let keep = |target: &Target| {
            let same = old.iter().find(|endpoint| endpoint.target() == target);
            same.map_or_else(|| Arc::new(Endpoint::new(target.clone())), Arc::clone)
        };
        let new: Arc<[Arc<Endpoint>]> = targets.iter().map(keep).collect();
        *self.endpoints.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        for endpoint in old.iter().filter(|one| !new.iter().any(|new| Arc::ptr_eq(one, new))) {
            endpoint.retire();
        }
    }

    fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.endpoints.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every endpoint once, each time another first; those that failed a moment ago come last.
    fn candidates(&self) -> impl Iterator<Item = Arc<Endpoint>> + use<> {
        let all = self.endpoints();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = all.len();
        let now = tokio::time::Instant::now();
        (0..count * 2).filter_map(move |index| {
            let endpoint = all.get((first.wrapping_add(index)) % count)?;
            (endpoint.is_suspect(now) == (index >= count)).then(|| Arc::clone(endpoint))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(last: u8) -> Target {
        Target { address: ([10, 0, 0, last], 80).into(), uid: format!("pod-{last}") }
    }

    fn order(upstream: &Upstream) -> Vec<u8> {
        let last = |endpoint: Arc<Endpoint>| match endpoint.target().address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        };
        upstream.candidates().map(last).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_take_turns_and_suspects_come_last() {
        let upstream = Upstream::new("default/web:80".into());
        assert!(order(&upstream).is_empty());
        upstream.set(&[target(1), target(2), target(3)]);
        let turns: Vec<_> = (0..3).map(|_| order(&upstream)).collect();
        assert!(turns.contains(&vec![1, 2, 3]) && turns.contains(&vec![3, 1, 2]), "{turns:?}");
        upstream.endpoints()[1].suspect();
        for _ in 0..3 {
            assert_eq!(order(&upstream)[2], 2);
        }
        tokio::time::advance(endpoint::SUSPICION).await;
        assert!((0..3).map(|_| order(&upstream)[0]).any(|first| first == 2));
    }

    #[test]
    fn an_endpoint_stays_the_same_while_its_pod_does() {
        let upstream = Upstream::new("default/web:80".into());
        upstream.set(&[target(1), target(2)]);
        let old = upstream.endpoints();
        upstream.set(&[Target { uid: "another".into(), ..target(1) }, target(2)]);
        let new = upstream.endpoints();
        assert!(!Arc::ptr_eq(&old[0], &new[0]) && Arc::ptr_eq(&old[1], &new[1]));
    }
}
