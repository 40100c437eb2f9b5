//! `bulkhead doctor`: what this machine can do, and what to mend.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::host::verdict::{self, Kvm, Verdict};
use crate::host::{self, Place};
use crate::output::{self, Format, show};
use crate::{home, size::Size};

/// Whether shared memory, which a node's is, may consist of huge pages.
const SHARED_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It costs something, but clusters run.
    Warning,
    /// No cluster can run.
    Blocked,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), advice: None }
    }

    fn bad(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, level, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Everything found, and where clusters would run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// `local` or `emulated`.
    host: &'static str,
    findings: Vec<Finding>,
}

pub(super) async fn doctor(format: Format) -> Result<ExitCode> {
    let report = examine().await?;
    show(format, &report, text)?;
    let blocked = report.findings.iter().any(|finding| finding.level == Level::Blocked);
    Ok(if blocked { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine() -> Result<Report> {
    let mut findings = vec![programs()];
    let wanted = Place::wanted()?;
    let place = if home::program("bulkhead-vmm").is_ok() {
        let kvm = verdict::measure().await?;
        findings.push(self::kvm(&kvm, wanted.as_ref()));
        wanted.unwrap_or_else(|| Place::by(&kvm))
    } else {
        Place::Local
    };
    let emulated = matches!(place, Place::Emulated { .. });
    findings.push(privileges(emulated));
    if emulated {
        findings.push(qemu());
    } else {
        findings.extend(features());
        findings.push(mkfs());
        let setting = std::fs::read_to_string(SHARED_HUGE_PAGES).unwrap_or_default();
        findings.push(huge_pages(setting.trim()));
    }
    findings.push(memory(emulated));
    findings.push(disk()?);
    findings.push(node_image());
    Ok(Report { host: if emulated { "emulated" } else { "local" }, findings })
}

fn programs() -> Finding {
    const CHECK: &str = "programs";
    let needed = [
        "bulkhead-vmm",
        "bulkhead-host",
        "bulkhead-api-server",
        "bulkhead-dns",
        "bulkhead-emulated-host",
    ];
    let missing: Vec<&str> =
        needed.into_iter().filter(|name| home::program(name).is_err()).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "all beside this one");
    }
    let found = format!("not beside this one: {}", missing.join(", "));
    Finding::bad(CHECK, Level::Blocked, found, "build them: make build")
}

fn kvm(kvm: &Kvm, wanted: Option<&Place>) -> Finding {
    const CHECK: &str = "kvm";
    let Some(advice) = kvm.verdict().advice() else { return Finding::ok(CHECK, kvm.to_string()) };
    let (level, until) = match (wanted, kvm.verdict()) {
        // It is slow, and was asked for.
        (Some(Place::Local), Verdict::Emulated) => (Level::Warning, "unset BULKHEAD_HOST"),
        (Some(Place::Local), _) => (Level::Blocked, "or unset BULKHEAD_HOST"),
        _ => (Level::Warning, "until then, clusters run in the emulated host"),
    };
    Finding::bad(CHECK, level, kvm.to_string(), format!("{advice}; {until}"))
}

fn privileges(emulated: bool) -> Finding {
    const CHECK: &str = "privileges";
    if host::may_administer_network() {
        return Finding::ok(CHECK, "CAP_NET_ADMIN");
    }
    if emulated {
        return Finding::ok(CHECK, "no CAP_NET_ADMIN; the emulated host needs none");
    }
    Finding::bad(
        CHECK,
        Level::Blocked,
        "no CAP_NET_ADMIN, which nodes' network devices take",
        "run as root, or set BULKHEAD_HOST=emulated",
    )
}

/// What a node's devices and network stand on.
fn features() -> Vec<Finding> {
    let present = |check, path: &str, what: &str, advice: &str| {
        if Path::new(path).exists() {
            Finding::ok(check, what)
        } else {
            Finding::bad(check, Level::Blocked, format!("no {path}"), advice)
        }
    };
    vec![
        present("tun", "/dev/net/tun", "/dev/net/tun", "modprobe tun"),
        present(
            "cgroup2",
            "/sys/fs/cgroup/cgroup.controllers",
            "the unified hierarchy",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        present(
            "netns",
            "/proc/self/ns/net",
            "network namespaces",
            "use a kernel with CONFIG_NET_NS",
        ),
        nftables(),
    ]
}

fn nftables() -> Finding {
    const CHECK: &str = "nftables";
    if find_program("nft").is_none() {
        return Finding::bad(CHECK, Level::Blocked, "nft is not installed", "apt install nftables");
    }
    let loaded = Path::new("/sys/module/nf_tables").exists();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    let listed = ["modules.dep", "modules.builtin"].iter().any(|list| {
        std::fs::read_to_string(modules.join(list)).is_ok_and(|text| text.contains("/nf_tables.ko"))
    });
    if loaded || listed {
        Finding::ok(CHECK, "nft, and the kernel has nf_tables")
    } else {
        Finding::bad(
            CHECK,
            Level::Warning,
            "nf_tables is not loaded, and no module of it was found",
            "modprobe nf_tables; if that fails, use a kernel with CONFIG_NF_TABLES",
        )
    }
}

fn mkfs() -> Finding {
    match find_program("mkfs.ext4") {
        Some(path) => Finding::ok("mkfs.ext4", path),
        None => Finding::bad(
            "mkfs.ext4",
            Level::Blocked,
            "is not installed; nodes' scratch disks are made with it",
            "apt install e2fsprogs",
        ),
    }
}

fn qemu() -> Finding {
    match find_program("qemu-system-x86_64") {
        Some(path) => Finding::ok("qemu", path),
        None => Finding::bad(
            "qemu",
            Level::Blocked,
            "qemu-system-x86_64 is not installed; the emulated host runs in it",
            "apt install qemu-system-x86",
        ),
    }
}

/// Where `$PATH`, or the directories that only root's has, holds a program.
fn find_program(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
}

/// Nodes work without huge pages, and boot with thousands of faults on their memory more.
fn huge_pages(setting: &str) -> Finding {
    const CHECK: &str = "huge pages";
    if ["[advise]", "[within_size]", "[always]", "[force]"].iter().any(|on| setting.contains(on)) {
        return Finding::ok(CHECK, "nodes' memory may have them");
    }
    let advice = match setting {
        "" => "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE".to_owned(),
        _ => format!("echo advise > {SHARED_HUGE_PAGES}"),
    };
    Finding::bad(CHECK, Level::Warning, "not for nodes' memory, so they boot slower", advice)
}

fn memory(emulated: bool) -> Finding {
    const CHECK: &str = "memory";
    // A node of 256 MiB and the programs around it; an emulated host before its first node.
    let least: u64 = if emulated { 2 << 30 } else { 512 << 20 };
    let available = host::memory_available();
    let found =
        format!("{} available of {}", Size::from(available), Size::from(host::memory_total()));
    if available >= least {
        return Finding::ok(CHECK, found);
    }
    let advice = format!("have {} available for a small cluster", Size::from(least));
    Finding::bad(CHECK, Level::Warning, found, advice)
}

fn disk() -> Result<Finding> {
    const CHECK: &str = "disk";
    const LEAST: u64 = 2 << 30;
    let state = home::state()?;
    let there = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = match rustix::fs::statvfs(there) {
        Ok(stat) => stat,
        Err(error) => {
            let found = format!("{}: {error}", there.display());
            return Ok(Finding::bad(CHECK, Level::Blocked, found, "set BULKHEAD_HOME elsewhere"));
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} free in {}", Size::from(free), state.display());
    if rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_err() {
        let advice = "run as its owner, or set BULKHEAD_HOME to a place of yours";
        return Ok(Finding::bad(
            CHECK,
            Level::Blocked,
            format!("{} cannot be written", there.display()),
            advice,
        ));
    }
    if free < LEAST {
        let advice = format!("free {} there, or set BULKHEAD_HOME elsewhere", Size::from(LEAST));
        return Ok(Finding::bad(CHECK, Level::Warning, found, advice));
    }
    Ok(Finding::ok(CHECK, found))
}

/// Whether the first cluster has to wait for a build.
fn node_image() -> Finding {
    const CHECK: &str = "node image";
    match bulkhead_node_image::find(&bulkhead_node_image::BuildOptions::discover()) {
        Ok(Some(image)) => {
            let (kernel, root) = (image.kernel.display(), image.root.display());
            Finding::ok(CHECK, format!("{kernel}, {root}"))
        }
        Ok(None) => Finding::bad(
            CHECK,
            Level::Warning,
            "not built yet, or of other sources; the first cluster takes minutes longer",
            "bulkhead image build",
        ),
        Err(error) => Finding::bad(
            CHECK,
            Level::Blocked,
            error.to_string(),
            "put vmlinux and root.erofs beside this program, or build them in a source tree",
        ),
    }
}

fn text(report: &Report) -> String {
    let rows = report.findings.iter().map(|finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Blocked => "BLOCKED",
        };
        [finding.check.to_owned(), level.to_owned(), finding.found.clone()]
    });
    let mut text = output::table(["CHECK", "", "FOUND"], rows);
    for finding in &report.findings {
        if let Some(advice) = &finding.advice {
            text += &format!("\n{}: {advice}", finding.check);
        }
    }
    if report.findings.iter().any(|finding| finding.advice.is_some()) {
        text += "\n";
    }
    let blocked = report.findings.iter().any(|finding| finding.level == Level::Blocked);
    let place = if report.host == "emulated" { "in the emulated host" } else { "on this machine" };
    let verdict = if blocked { "cannot run yet: mend what is BLOCKED" } else { place };
    text + &format!("\nClusters {}{verdict}.\n", if blocked { "" } else { "run " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_what_was_found() {
        let report = Report {
            host: "local",
            findings: vec![
                Finding::ok("tun", "/dev/net/tun"),
                Finding::bad("disk", Level::Warning, "1G free", "free 2G there"),
            ],
        };
        let shown = text(&report);
        assert!(shown.contains("disk: free 2G there\n"), "{shown}");
        assert!(shown.ends_with("Clusters run on this machine.\n"), "{shown}");
    }

    #[test]
    fn huge_pages_are_a_matter_of_the_host() {
        let choices = "always within_size [advise] never deny force";
        assert_eq!(huge_pages(choices).level, Level::Ok);
        let never = huge_pages("always within_size advise [never] deny force");
        assert_eq!(never.level, Level::Warning);
        assert!(never.advice.unwrap().starts_with("echo advise > /sys/"));
    }

    #[test]
    fn what_blocks_is_the_verdict() {
        let finding = Finding::bad("qemu", Level::Blocked, "missing", "apt install it");
        let shown = text(&Report { host: "emulated", findings: vec![finding] });
        assert!(shown.ends_with("Clusters cannot run yet: mend what is BLOCKED.\n"), "{shown}");
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("bulkhead-no-such-program"), None);
    }
}
