//! Addresses and networks.
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-ip-address-library>,
//! <https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-cidr-library>

use std::net::IpAddr;

use crate::eval::EvalError;
use crate::overload::{Declared, Function, mismatch};
use crate::value::{Opaque, Result, Value};

/// An address. As in Kubernetes, IPv4 in IPv6 and zones are refused.
fn parse_ip(text: &str) -> Result<IpAddr> {
    let malformed = || EvalError::failed(format!("IP Address \"{text}\" parse error"));
    match text.parse().map_err(|_| malformed())? {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Err(malformed()),
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8)> {
    let malformed = || EvalError::failed(format!("network address \"{text}\" parse error"));
    let (ip, length) = text.split_once('/').ok_or_else(malformed)?;
    let ip = parse_ip(ip)?;
    let is_plain = length.bytes().all(|byte| byte.is_ascii_digit())
        && (length == "0" || !length.starts_with('0'));
    let length: u8 = length.parse().map_err(|_| malformed())?;
    if is_plain && length <= bits(ip) { Ok((ip, length)) } else { Err(malformed()) }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn contains(network: (IpAddr, u8), ip: IpAddr) -> bool {
    network.0.is_ipv4() == ip.is_ipv4() && masked(network.0, network.1) == masked(ip, network.1)
}

fn ip(value: &Value<'_>) -> Result<IpAddr> {
    match value {
        Value::Opaque(opaque) => match **opaque {
            Opaque::Ip(ip) => Ok(ip),
            _ => mismatch(),
        },
        Value::String(text) => parse_ip(text),
        _ => mismatch(),
    }
}

fn cidr(value: &Value<'_>) -> Result<(IpAddr, u8)> {
    match value {
        Value::Opaque(opaque) => match **opaque {
            Opaque::Cidr(ip, length) => Ok((ip, length)),
            _ => mismatch(),
        },
        Value::String(text) => parse_cidr(text),
        _ => mismatch(),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || is_broadcast
        || is_link_local(ip))
}

const CONTAINS_IP: Function = |a, _| match a {
    [network, address] => Ok(Value::Bool(contains(cidr(network)?, ip(address)?))),
    _ => mismatch(),
};
const CONTAINS_CIDR: Function = |a, _| match a {
    [network, other] => {
        let (network, other) = (cidr(network)?, cidr(other)?);
        Ok(Value::Bool(other.1 >= network.1 && contains(network, other.0)))
    }
    _ => mismatch(),
};

pub(super) const FUNCTIONS: &[Declared] = &[
    Declared::global("ip", "string", "ip", |a, _| match a {
        [text] => Ok(Value::opaque(Opaque::Ip(ip(text)?))),
        _ => mismatch(),
    }),
    Declared::global("isIP", "string", "bool", |a, _| match a {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text).is_ok())),
        _ => mismatch(),
    }),
    Declared::global("ip.isCanonical", "string", "bool", |a, _| match a {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == **text)),
        _ => mismatch(),
    }),
    Declared::member("family", "ip", "int", |a, _| match a {
        [value] => Ok(Value::Int(if ip(value)?.is_ipv4() { 4 } else { 6 })),
        _ => mismatch(),
    }),
    Declared::member("isUnspecified", "ip", "bool", |a, _| match a {
        [value] => Ok(Value::Bool(ip(value)?.is_unspecified())),
        _ => mismatch(),
    }),
    Declared::member("isLoopback", "ip", "bool", |a, _| match a {
        [value] => Ok(Value::Bool(ip(value)?.is_loopback())),
        _ => mismatch(),
    }),
    Declared::member("isLinkLocalMulticast", "ip", "bool", |a, _| match a {
        [value] => Ok(Value::Bool(is_link_local_multicast(ip(value)?))),
        _ => mismatch(),
    }),
    Declared::member("isLinkLocalUnicast", "ip", "bool", |a, _| match a {
        [value] => Ok(Value::Bool(is_link_local(ip(value)?))),
        _ => mismatch(),
    }),
    Declared::member("isGlobalUnicast", "ip", "bool", |a, _| match a {
        [value] => Ok(Value::Bool(is_global_unicast(ip(value)?))),
        _ => mismatch(),
    }),
    Declared::global("cidr", "string", "cidr", |a, _| match a {
        [text] => {
            let (ip, length) = cidr(text)?;
            Ok(Value::opaque(Opaque::Cidr(ip, length)))
        }
        _ => mismatch(),
    }),
    Declared::global("isCIDR", "string", "bool", |a, _| match a {
        [Value::String(text)] => Ok(Value::Bool(parse_cidr(text).is_ok())),
        _ => mismatch(),
    }),
    Declared::member("containsIP", "cidr, ip", "bool", CONTAINS_IP),
    Declared::member("containsIP", "cidr, string", "bool", CONTAINS_IP),
    Declared::member("containsCIDR", "cidr, cidr", "bool", CONTAINS_CIDR),
    Declared::member("containsCIDR", "cidr, string", "bool", CONTAINS_CIDR),
    Declared::member("ip", "cidr", "ip", |a, _| match a {
        [value] => Ok(Value::opaque(Opaque::Ip(cidr(value)?.0))),
        _ => mismatch(),
    }),
    Declared::member("prefixLength", "cidr", "int", |a, _| match a {
        [value] => Ok(Value::Int(cidr(value)?.1.into())),
        _ => mismatch(),
    }),
    Declared::member("masked", "cidr", "cidr", |a, _| match a {
        [value] => {
            let (ip, length) = cidr(value)?;
            Ok(Value::opaque(Opaque::Cidr(masked(ip, length), length)))
        }
        _ => mismatch(),
    }),
];
