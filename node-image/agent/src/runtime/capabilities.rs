//! Linux capabilities by name, and the set a container gets: containerd's default, changed by
//! `securityContext.capabilities`.

use bulkhead_agent_protocol::pod::SecurityContext;

const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capability of that name, in any case, with or without `CAP_`.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|known| *known == bare)
}

/// A container's capabilities, `CAP_…`. Dropping comes first: `drop: [ALL], add: [X]` leaves X.
pub(crate) fn of(context: &SecurityContext) -> Vec<String> {
    let changes = context.capabilities.clone().unwrap_or_default();
    let names = |list: &[String], name: &str| {
        list.iter().any(|entry| entry == "ALL" || find(entry) == Some(name))
    };
    let privileged = context.privileged == Some(true);
    ALL.into_iter()
        .filter(|name| {
            privileged
                || names(&changes.add, name)
                || (DEFAULT.contains(name) && !names(&changes.drop, name))
        })
        .map(|name| format!("CAP_{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use bulkhead_agent_protocol::pod::Capabilities;

    use super::*;

    fn with(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        of(&SecurityContext {
            capabilities: Some(Capabilities { add: list(add), drop: list(drop) }),
            ..SecurityContext::default()
        })
    }

    #[test]
    fn the_default_set_is_changed_by_what_is_dropped_and_then_added() {
        assert_eq!(with(&[], &[]).len(), DEFAULT.len());
        assert_eq!(with(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(with(&["ALL"], &[]).len(), ALL.len());
        assert!(!with(&[], &["cap_mknod"]).contains(&String::from("CAP_MKNOD")));
    }
}
