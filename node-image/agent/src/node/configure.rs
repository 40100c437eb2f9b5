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
use rtnetlink::{
    Handle, LinkUnspec, RuleAddRequest,
    packet_route::{
        AddressFamily, IpProtocol,
        rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
    },
};

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
/// The ports that Services of type NodePort may have.
const NODE_PORTS: RulePortRange = RulePortRange { start: 30_000, end: 32_767 };

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
    rules(&handle, ip).await
}

/// What comes from the wire or from the node itself goes by the usual tables; what comes from pods
/// goes out, so that the host's rules see it, but for what is for the node itself. Of that the host
/// must see what is for a node port: it knows who answers there.
async fn rules(handle: &Handle, node: Ipv4Addr) -> Result<(), SandboxError> {
    const LOCAL: u32 = 255;
    const MAIN: u32 = 254;
    let add = |priority, table| {
        let rules = handle.rule().add().v4().action(RuleAction::ToTable);
        rules.priority(priority).table_id(table).replace()
    };
    for (priority, interface, table) in
        [(1, "eth0", LOCAL), (2, "lo", LOCAL), (100, "eth0", MAIN), (101, "lo", MAIN)]
    {
        if_missing(add(priority, table).input_interface(interface)).await?;
    }
    for (priority, protocol) in [(3, IpProtocol::Tcp), (4, IpProtocol::Udp), (5, IpProtocol::Sctp)]
    {
        let mut rule = add(priority, POD_TABLE).destination_prefix(node, 32);
        rule.message_mut().attributes.extend([
            RuleAttribute::IpProtocol(protocol),
            RuleAttribute::DestinationPortRange(NODE_PORTS),
        ]);
        if_missing(rule).await?;
    }
    if_missing(add(6, LOCAL)).await?;
    if_missing(add(102, POD_TABLE)).await?;
    // The kernel's own, which is before all others.
    let mut first = RuleMessage::default();
    first.header.family = AddressFamily::Inet;
    first.header.action = RuleAction::ToTable;
    first.attributes.extend([RuleAttribute::Priority(0), RuleAttribute::Table(LOCAL)]);
    match handle.rule().del(first).execute().await {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENOENT => {
            Ok(())
        }
        other => other.map_err(|e| SandboxError::Netlink("remove a routing rule", e)),
    }
}

async fn if_missing(rule: RuleAddRequest<Ipv4Addr>) -> Result<(), SandboxError> {
    match rule.execute().await {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => {
            Ok(())
        }
        other => other.map_err(|e| SandboxError::Netlink("add a routing rule", e)),
    }
}
