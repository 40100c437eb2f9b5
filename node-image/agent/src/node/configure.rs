//! Identity after boot: hostname, clock, entropy, and the node's network.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::Engine as _;
use bulkhead_agent_protocol::{AgentError, ErrorReason, NodeConfig};
use rtnetlink::{Handle, LinkUnspec, packet_route::rule::RuleAction};

use crate::{
    node::identity::meminfo,
    runtime::{
        cgroup::Cgroup,
        sandbox::{SandboxError, default_route, index_of, netlink},
    },
};

/// The clock is stepped when it is off by more.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(100);
const MAX_ENTROPY: usize = 512;
/// Routes of what comes from pods: everything goes to the host, even to a pod next door.
const POD_TABLE: u32 = 100;

/// Carries a configuration out.
///
/// # Errors
/// What failed; what was done until then stays done.
pub(crate) async fn apply(config: &NodeConfig) -> Result<(), AgentError> {
    let failed = |what: &'static str| {
        move |error: io::Error| AgentError {
            reason: ErrorReason::Internal,
            message: format!("{what}: {error}"),
        }
    };
    let entropy = base64::engine::general_purpose::STANDARD
        .decode(&config.entropy)
        .ok()
        .filter(|bytes| bytes.len() <= MAX_ENTROPY)
        .ok_or_else(|| AgentError {
            reason: ErrorReason::BadRequest,
            message: format!("entropy: not base64 of at most {MAX_ENTROPY} bytes"),
        })?;
    rustix::system::sethostname(config.name.as_bytes())
        .map_err(|error| failed("set the hostname")(error.into()))?;
    step_clock(config.unix_time_ns).map_err(failed("set the clock"))?;
    add_entropy(&entropy).map_err(failed("add entropy"))?;
    let available = meminfo("MemTotal:").saturating_sub(config.reserved_memory);
    Cgroup::pods()
        .limit_memory((config.reserved_memory > 0).then_some(available))
        .map_err(failed("reserve memory"))?;
    if let (Some(ip), Some(gateway)) = (config.ip, config.gateway) {
        network(ip, gateway, config.mtu).await.map_err(|error| AgentError {
            reason: ErrorReason::Internal,
            message: format!("configure eth0: {error}"),
        })?;
    }
    Ok(())
}

fn step_clock(unix_time_ns: u64) -> io::Result<()> {
    let wanted = Duration::from_nanos(unix_time_ns);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.abs_diff(wanted) <= CLOCK_TOLERANCE {
        return Ok(());
    }
    let time = nix::sys::time::TimeSpec::from_duration(wanted);
    nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time).map_err(io::Error::from)
}

/// random(4), `RNDADDENTROPY`.
fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    #[repr(C)]
    struct PoolInfo {
        bits: libc::c_int,
        length: libc::c_int,
        bytes: [u8; MAX_ENTROPY],
    }
    let mut info = PoolInfo { bits: 0, length: 0, bytes: [0; MAX_ENTROPY] };
    let target = info.bytes.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
    target.copy_from_slice(bytes);
    info.length = libc::c_int::try_from(bytes.len()).map_err(io::Error::other)?;
    info.bits = info.length * 8;
    let pool = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: `info` is a `rand_pool_info` whose length is within its buffer.
    let result = unsafe { libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

async fn network(ip: Ipv4Addr, gateway: Ipv4Addr, mtu: Option<u16>) -> Result<(), SandboxError> {
    let handle = netlink()?;
    let step = |what| move |error| SandboxError::Netlink(what, error);
    let eth0 = index_of(&handle, "eth0").await?;
    for (path, value) in
        [("/proc/sys/net/ipv4/ip_forward", "1"), ("/proc/sys/net/ipv4/conf/all/rp_filter", "0")]
    {
        fs::write(path, value).map_err(|error| SandboxError::Sysctl(path.to_owned(), error))?;
    }
    let mut link = LinkUnspec::new_with_index(eth0).up();
    if let Some(mtu) = mtu {
        link = link.mtu(mtu.into());
    }
    handle.link().set(link.build()).execute().await.map_err(step("set eth0 up"))?;
    let address = handle.address().add(eth0, ip.into(), 32).replace();
    address.execute().await.map_err(step("give eth0 its address"))?;
    default_route(&handle, eth0, gateway, None).await?;
    default_route(&handle, eth0, gateway, Some(POD_TABLE)).await?;
    rules(&handle).await
}

/// What comes from the wire or from the node itself goes by the main table; what comes from
/// pods goes out, so that the host's rules see it.
async fn rules(handle: &Handle) -> Result<(), SandboxError> {
    const MAIN: u32 = 254;
    for (priority, interface, table) in
        [(100, Some("eth0"), MAIN), (101, Some("lo"), MAIN), (102, None, POD_TABLE)]
    {
        let mut rule = handle
            .rule()
            .add()
            .v4()
            .action(RuleAction::ToTable)
            .priority(priority)
            .table_id(table)
            .replace();
        if let Some(interface) = interface {
            rule = rule.input_interface(interface);
        }
        match rule.execute().await {
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => {
            }
            other => other.map_err(|e| SandboxError::Netlink("add a routing rule", e))?,
        }
    }
    Ok(())
}
