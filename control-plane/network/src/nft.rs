//! `nft`, which carries a script out as one transaction: all of it or nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::NetError;

/// Where it is, if `PATH` does not say: a user's often leaves these out.
const PLACES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Runs a script in the calling thread's network namespace.
pub(crate) fn run(script: &str) -> Result<(), NetError> {
    ask(&["-f", "-"], script).map(drop)
}

/// What nft prints for `arguments`, in the calling thread's network namespace.
pub(crate) fn ask(arguments: &[&str], input: &str) -> Result<String, NetError> {
    let mut child = Command::new(program()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetError::io("starting nft"))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(NetError::io("waiting for nft"))?;
    if output.status.success() {
        written.transpose().map_err(NetError::io("telling nft its rules"))?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let problem = String::from_utf8_lossy(&output.stderr);
    if problem.contains("Operation not permitted") {
        return Err(NetError::Forbidden { what: "changing nftables' rules".into() });
    }
    Err(NetError::Rules(problem.trim().to_owned()))
}

fn program() -> Result<PathBuf, NetError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.iter().map(|place| Path::new(place).to_owned()))
        .map(|directory| directory.join("nft"))
        .find(|program| program.is_file())
        .ok_or(NetError::Missing { program: "nft", package: "nftables" })
}
