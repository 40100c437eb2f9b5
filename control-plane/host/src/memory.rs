//! Whether the host's memory suffices for nodes that are asked for.

use bulkhead_host_api::ApiError;

use crate::fault;

/// What a monitor takes beside its guest's memory, in bytes, rounded up generously.
const MONITOR_OVERHEAD: u64 = 8 << 20;

/// What stays for the host itself, in bytes.
const HOST_RESERVE: u64 = 128 << 20;

/// The host's memory, in bytes (`/proc/meminfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

impl Memory {
    pub(crate) fn read() -> Result<Self, ApiError> {
        let text = std::fs::read_to_string("/proc/meminfo")
            .map_err(|error| fault::internal(format!("/proc/meminfo: {error}")))?;
        Self::parse(&text).ok_or_else(|| fault::internal("/proc/meminfo lacks MemAvailable"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { total: field("MemTotal:")?, available: field("MemAvailable:")? })
    }

    /// Refuses nodes of these sizes if the host cannot carry them beside those of `promised`,
    /// which other clusters were given and may not have touched yet.
    pub(crate) fn admit(self, wanted: &[u64], promised: &[u64]) -> Result<(), ApiError> {
        let sum = |nodes: &[u64]| -> u64 { nodes.iter().map(|n| n + MONITOR_OVERHEAD).sum() };
        let (needed, promised) = (sum(wanted), sum(promised));
        let free = self.total.saturating_sub(promised).min(self.available);
        let free = free.saturating_sub(HOST_RESERVE);
        if needed <= free {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(fault::insufficient(format!(
            "not enough memory: {} nodes need {} MiB, {} MiB of {} MiB are free ({} MiB promised \
             to other nodes): ask for fewer or smaller nodes, or stop another cluster",
            wanted.len(),
            mib(needed),
            free >> 20,
            self.total >> 20,
            mib(promised),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(Memory::parse(text), Some(Memory { total: 1_024_000, available: 512_000 }));
        assert_eq!(Memory::parse("MemTotal: 1 kB\n"), None);
        Memory::read().unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused_with_figures() {
        let memory = Memory { total: 4 * GIB, available: 3 * GIB };
        memory.admit(&[GIB, GIB], &[]).unwrap();
        let error = memory.admit(&[GIB, GIB, GIB], &[]).unwrap_err();
        assert_eq!(error.reason, "InsufficientResources");
        assert!(error.message.contains("3 nodes need 3096 MiB"), "{}", error.message);
        memory.admit(&[GIB, GIB], &[GIB, GIB]).unwrap_err();
    }
}
