//! Choosing an address or a port that is free. As in Kubernetes, the first few of a range are left
//! to those who ask for them by name, as long as there are others.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use bulkhead_store::Range;

use super::{ADDRESSES_PREFIX, Allocation, Claim, NODE_PORTS, PORTS_PREFIX};
use crate::api::{Api, Place, store_failure};
use crate::cidr::Ipv4Range;
use crate::object;
use crate::options::ReadOptions;
use crate::status::{Result, Status};

/// So many are guessed before what is taken is looked at.
const GUESSES: usize = 8;

impl Api {
    /// The ranges that Services get addresses from: those of every ServiceCIDR.
    pub(super) async fn service_ranges(&self) -> Result<Vec<Ipv4Range>> {
        let Some(resource) = self.registry.find("networking.k8s.io", "v1", "servicecidrs") else {
            return Ok(Vec::new());
        };
        let all = self.list(&Place::new(&resource, None), &ReadOptions::default()).await?.items;
        let usable = all.iter().filter(|one| !object::is_terminating(one));
        let ranges = usable.flat_map(|one| object::list(one, "spec.cidrs"));
        Ok(ranges.filter_map(|text| text.as_str()?.parse().ok()).collect())
    }
}

impl Allocation<'_> {
    /// Takes a free address.
    pub(super) async fn any_address(&mut self) -> Result<Ipv4Addr> {
        for range in self.api.service_ranges().await? {
            let size = range.size();
            let reserved = (size / 16).clamp(16, 256).min(size);
            let claim = |index| Claim::Address(range.nth(index));
            if let Some(index) = self.any(size, reserved, ADDRESSES_PREFIX, claim).await? {
                return Ok(range.nth(index));
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    /// Takes a free port.
    pub(super) async fn any_port(&mut self) -> Result<u16> {
        let size = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let reserved = (size / 32).clamp(16, 128);
        let port = |index: u32| NODE_PORTS.start().saturating_add(index.try_into().unwrap_or(size));
        let claim = |index| Claim::NodePort(port(index));
        match self.any(size.into(), reserved.into(), PORTS_PREFIX, claim).await? {
            Some(index) => Ok(port(index)),
            None => Err(Status::internal("failed to allocate a nodePort: range is full")),
        }
    }

    /// Takes one of `size` claims, and one of the first `reserved` only if there are no others;
    /// answers which, or `None` if all are taken.
    async fn any(
        &mut self,
        size: u32,
        reserved: u32,
        prefix: &str,
        claim: impl Fn(u32) -> Claim,
    ) -> Result<Option<u32>> {
        for _ in 0..GUESSES {
            let Some(open) = size.checked_sub(reserved).filter(|open| *open > 0) else { break };
            let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
            let index = reserved + u32::from_le_bytes([a, b, c, d]) % open;
            if self.take(claim(index)).await? {
                return Ok(Some(index));
            }
        }
        let range = Range { prefix: prefix.into(), ..Range::default() };
        let taken = self.api.store.list(range).await.map_err(|error| store_failure(&error))?;
        let taken: HashSet<String> = taken.entries.into_iter().map(|entry| entry.key).collect();
        for index in (reserved..size).chain(0..reserved) {
            if !taken.contains(&claim(index).key()) && self.take(claim(index)).await? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}
