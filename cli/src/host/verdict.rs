//! What this machine's KVM is worth, by `bulkhead-vmm probe`.
//!
//! Measuring an emulated KVM takes a noticeable time, so its verdict is kept until the next boot.
//! What a user may mend at any time (no device, no permission) is looked at anew.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::home;

/// A probe that takes longer hangs, or runs on a KVM that is of no use anyway.
const PATIENCE: Duration = Duration::from_secs(2);

/// The probe's finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kvm {
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mips: Option<f64>,
    message: String,
}

/// The finding in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Usable,
    Emulated,
    Absent,
    Denied,
    Broken,
}

impl Verdict {
    /// What to do about it, if there is anything to do.
    pub(crate) const fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Usable => return None,
            Self::Emulated => "use a machine with hardware virtualization for speed",
            Self::Absent => {
                "enable virtualization in the firmware or the cloud's settings and load kvm-intel \
                 or kvm-amd"
            }
            Self::Denied => {
                "join the device's group: sudo usermod -aG kvm $USER, then log in again"
            }
            Self::Broken => "see dmesg",
        })
    }
}

/// Why this user cannot open `/dev/kvm`, with what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("there is no /dev/kvm: {}", Verdict::Absent.advice().unwrap_or_default())]
    Absent,
    #[error("there is no permission on /dev/kvm: {}", Verdict::Denied.advice().unwrap_or_default())]
    Denied,
}

/// Looks whether `/dev/kvm` opens, without measuring it.
pub(crate) fn check_device() -> std::result::Result<(), Obstacle> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Obstacle::Denied),
        Err(_) => Err(Obstacle::Absent),
    }
}

impl Kvm {
    pub(crate) fn is_usable(&self) -> bool {
        self.verdict == Verdict::Usable
    }

    pub(crate) const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The finding in a few words, for the middle of a sentence.
    pub(crate) fn in_short(&self) -> String {
        match (self.verdict, self.mips) {
            (Verdict::Emulated, Some(mips)) => format!("software-emulated, {mips:.1} MIPS"),
            (Verdict::Emulated, None) => "software-emulated".into(),
            (Verdict::Absent, _) => "no /dev/kvm".into(),
            (Verdict::Denied, _) => {
                "no permission on /dev/kvm; 'bulkhead doctor' says how to get it".into()
            }
            (Verdict::Broken | Verdict::Usable, _) => self.message.clone(),
        }
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A finding that holds until the next boot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    boot: String,
    kvm: Kvm,
}

/// This boot's finding, measured if need be.
pub(crate) async fn get() -> Result<Kvm> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if let Some(kept) = kept()
        && kept.boot == boot
        && check_device().is_ok()
    {
        return Ok(kept.kvm);
    }
    let kvm = measure().await?;
    if matches!(kvm.verdict, Verdict::Usable | Verdict::Emulated) && !boot.is_empty() {
        keep(&Kept { boot, kvm: kvm.clone() });
    }
    Ok(kvm)
}

/// Runs the probe now.
pub(crate) async fn measure() -> Result<Kvm> {
    let program = home::program("bulkhead-vmm")?;
    let probe = tokio::process::Command::new(&program)
        .args(["probe", "-o", "json"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = tokio::time::timeout(PATIENCE, probe).await else {
        return Ok(Kvm {
            verdict: Verdict::Emulated,
            mips: None,
            message: format!("/dev/kvm did not run a short loop in {} s", PATIENCE.as_secs()),
        });
    };
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("{} probe gave no verdict: {said}", program.display())
    })
}

fn path() -> Option<PathBuf> {
    home::cache().ok().map(|cache| cache.join("kvm.json"))
}

fn kept() -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(path()?).ok()?).ok()
}

/// A verdict that cannot be kept is measured again.
fn keep(kept: &Kept) {
    let Some(path) = path() else { return };
    if let (Some(parent), Ok(text)) = (path.parent(), serde_json::to_vec(kept)) {
        let _ = home::create(parent);
        let _ = std::fs::write(path, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_report_is_understood() {
        let text = r#"{"verdict":"emulated","mips":1.7,"message":"slow"}"#;
        let kvm: Kvm = serde_json::from_str(text).unwrap();
        assert!(!kvm.is_usable());
        assert_eq!(kvm.in_short(), "software-emulated, 1.7 MIPS");
        let text = r#"{"verdict":"denied","message":"no"}"#;
        let kvm: Kvm = serde_json::from_str(text).unwrap();
        assert!(kvm.in_short().starts_with("no permission on /dev/kvm"), "{}", kvm.in_short());
        assert!(kvm.verdict().advice().unwrap().contains("usermod -aG kvm"));
    }
}
