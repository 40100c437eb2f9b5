//! How much of something clients may have at a time.
//!
//! A pod has its address and a node's pods share a network of 256, and neither can be feigned: so
//! whoever takes over a node takes the share of that node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bounds for one client, for the clients of one network, and for all.
#[derive(Debug)]
pub struct Limits {
    per_client: usize,
    per_network: usize,
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    of: HashMap<IpNet, usize>,
}

impl Limits {
    /// These bounds; nothing is held yet.
    #[must_use]
    pub fn new(per_client: usize, per_network: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { per_client, per_network, total, held: Mutex::default() })
    }

    /// One for this client until the permit is dropped; `None` if it has, or all have, enough.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, client: IpAddr) -> Option<Permit> {
        let keys = keys(client);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |key: &IpNet| held.of.get(key).copied().unwrap_or_default();
        let [own, network] = &keys;
        if held.total >= self.total
            || has(own) >= self.per_client
            || has(network) >= self.per_network
        {
            return None;
        }
        held.total += 1;
        for key in keys {
            *held.of.entry(key).or_default() += 1;
        }
        Some(Permit { limits: Arc::clone(self), keys })
    }
}

/// The client and its network.
fn keys(client: IpAddr) -> [IpNet; 2] {
    let network = match client {
        IpAddr::V4(address) => Ipv4Net::new(address, 24).map(|network| network.trunc().into()),
        IpAddr::V6(address) => Ipv6Net::new(address, 64).map(|network| network.trunc().into()),
    };
    [client.into(), network.unwrap_or_else(|_| client.into())]
}

/// One of what is bounded.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    keys: [IpNet; 2],
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.limits.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total = held.total.saturating_sub(1);
        for key in self.keys {
            if let Some(count) = held.of.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    held.of.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_a_network_and_all_have_their_bounds() {
        let limits = Limits::new(2, 3, 5);
        let take = |client: &str| limits.acquire(client.parse().unwrap());
        let one = [take("10.0.0.1").unwrap(), take("10.0.0.1").unwrap()];
        assert!(take("10.0.0.1").is_none(), "the client's");
        let two = take("10.0.0.2").unwrap();
        assert!(take("10.0.0.3").is_none(), "the network's");
        let others = [take("10.0.1.1").unwrap(), take("10.0.2.1").unwrap()];
        assert!(take("10.0.3.1").is_none(), "all that there are");
        drop((one, others));
        assert!(take("10.0.0.1").is_some());
        drop(two);
        assert!(limits.held.lock().unwrap().of.is_empty());
        assert_eq!(limits.held.lock().unwrap().total, 0);
    }
}
