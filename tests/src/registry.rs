//! A real image, made by `ci/make-busybox-image`, and a real registry on loopback to pull it from.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Outcome, setting, until};

/// A docker-archive of the busybox image, named `localhost/busybox:test`.
#[must_use]
pub fn busybox_archive() -> PathBuf {
    setting("BULKHEAD_BUSYBOX").join("archive.tar")
}

/// Debian's `docker-registry` on a free loopback port, ended when dropped.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts one that keeps its data below `dir`.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.join("registry.yml");
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (ci/install-packages)");
        until("registry", Duration::from_secs(60), || {
            TcpStream::connect(&address).map_err(|error| error.to_string())
        });
        Self { process, address }
    }

    /// Pushes the busybox image and gives its reference here.
    ///
    /// # Panics
    /// If skopeo is missing or fails.
    #[must_use]
    pub fn push_busybox(&self) -> String {
        let reference = format!("{}/busybox:1", self.address);
        let from = format!("oci:{}:latest", setting("BULKHEAD_BUSYBOX").join("layout").display());
        let to = format!("docker://{reference}");
        let args = ["copy", "--quiet", "--dest-tls-verify=false", &from, &to];
        Outcome::of(Command::new("skopeo").args(args)).ok();
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
