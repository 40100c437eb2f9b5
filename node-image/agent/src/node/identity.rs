//! Who the node is, learnt after boot.

use std::{cell::RefCell, net::Ipv4Addr};

use bulkhead_agent_protocol::{NodeConfig, NodeInfo, VERSION};

/// The largest IP packet until the host tells.
const DEFAULT_MTU: u16 = 1500;

/// The node's configuration, once the host has sent it.
#[derive(Debug, Default)]
pub(crate) struct Identity(RefCell<Option<NodeConfig>>);

impl Identity {
    pub(crate) fn set(&self, config: NodeConfig) {
        *self.0.borrow_mut() = Some(config);
    }

    pub(crate) fn ip(&self) -> Option<Ipv4Addr> {
        self.0.borrow().as_ref().and_then(|config| config.ip)
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.0.borrow().as_ref().and_then(|config| config.mtu).unwrap_or(DEFAULT_MTU).into()
    }

    /// Memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        meminfo("MemTotal:")
    }

    /// What pods may use of it, in bytes.
    pub(crate) fn allocatable_memory(&self) -> u64 {
        let reserved = self.0.borrow().as_ref().map_or(0, |config| config.reserved_memory);
        self.memory().saturating_sub(reserved)
    }

    /// Online processors.
    pub(crate) fn cpus() -> u32 {
        std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
    }

    pub(crate) fn info(&self) -> NodeInfo {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        NodeInfo {
            protocol: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: read("/proc/sys/kernel/osrelease"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            cpus: Self::cpus(),
            memory: self.memory(),
            name: self.0.borrow().as_ref().map(|config| config.name.clone()),
        }
    }
}

/// A value of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
