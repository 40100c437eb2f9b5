//! The server under measurement: the one beside this program, over a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bulkhead_tests::api::Target;

pub(crate) struct Server {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) target: Target,
    /// From its start to its first answer.
    pub(crate) started_in: Duration,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name("bulkhead-api-server"))
}

impl Server {
    /// Starts a server of a new cluster, whose database lies on the disk of the working directory.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let program = program()?;
        let made =
            Command::new(&program).args(["init", "--dir"]).arg(dir.path().join("pki")).status();
        ensure!(made.with_context(|| program.display().to_string())?.success(), "init failed");
        let start = Instant::now();
        let mut child = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--ready-fd", "1", "--dir"])
            .arg(dir.path())
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready ").context("the server did not start")?;
        let target = Target::new(address.parse()?, &dir.path().join("pki"))?;
        target.connect().await?.get("/readyz").await?;
        Ok(Self { started_in: start.elapsed(), dir, child, target })
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
        Ok(pages * rustix::param::page_size() as u64)
    }

    /// The processor time that it has used.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split(' ').collect();
        let ticks: u64 = fields[12].parse::<u64>()? + fields[13].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// Bytes of the database.
    pub(crate) fn database(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.dir.path().join("store.db"))?.len())
    }
}
