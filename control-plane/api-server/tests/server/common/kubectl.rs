//! A real kubectl: of those that `ci/install-tools` puts into the workspace's `target/tools`.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::Cluster;

/// The version that tests use which say nothing of it.
pub(crate) const NEWEST: &str = "1.36";

/// The older version that most of them are run with as well. It does not begin
/// its watches with a list, for one.
pub(crate) const OLDER: &str = "1.33";

/// Makes two tests, `newest` and `older`, of each function that takes a version of kubectl.
macro_rules! with_each_kubectl {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn newest() {
                super::$test(crate::common::kubectl::NEWEST).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn older() {
                super::$test(crate::common::kubectl::OLDER).await;
            }
        }
    )+};
}
pub(crate) use with_each_kubectl;

/// Where a version of it is.
fn binary(version: &str) -> PathBuf {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools");
    let binary = PathBuf::from(tools).join(format!("kubectl-{version}"));
    let version = Command::new(&binary).args(["version", "--client"]).output();
    let works = version.is_ok_and(|output| output.status.success());
    assert!(works, "{} does not run: ci/install-tools installs it", binary.display());
    binary
}

/// It, with a cluster's kubeconfig.
pub(crate) struct Kubectl<'a> {
    pub(crate) binary: PathBuf,
    pub(crate) cluster: &'a Cluster,
}

impl<'a> Kubectl<'a> {
    /// Writes the admin's kubeconfig into the cluster's directory.
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self::version(NEWEST, cluster)
    }

    /// As [`new`](Self::new), of a version.
    pub(crate) fn version(version: &str, cluster: &'a Cluster) -> Self {
        let server = format!("https://{}", cluster.address);
        let config =
            bulkhead_api_server::pki::kubeconfig(&cluster.pki(""), "test", &server).unwrap();
        let kubectl = Self { binary: binary(version), cluster };
        kubectl.file("kubeconfig", &config);
        kubectl
    }

    /// Where the kubeconfig is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cluster.dir.path().join("kubeconfig")
    }

    /// It with these arguments, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.cluster.dir.path())
            .env("TMPDIR", self.cluster.dir.path())
            .args(arguments);
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it and returns what it printed; it must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.output(&line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a file into the cluster's directory and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.cluster.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
