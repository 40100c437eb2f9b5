//! kubectl, with a cluster's kubeconfig.

use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Outcome, setting, until};

/// A kubectl bound to one cluster.
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    /// What it finds in its environment besides.
    settings: Vec<(&'static str, &'static str)>,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: PathBuf) -> Self {
        Self { binary: setting("BULKHEAD_KUBECTL"), kubeconfig, settings: Vec::new() }
    }

    /// It in another version (`1.20`).
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.binary.set_file_name(format!("kubectl-{version}"));
        self
    }

    /// It with a variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// `kubectl ARGS…`, not yet started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).env("KUBECONFIG", &self.kubeconfig);
        command.envs(self.settings.iter().copied());
        command
    }

    /// Runs `kubectl ARGS…` to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Runs a shell script in a pod's container.
    pub fn sh(&self, pod: &str, script: &str) -> Outcome {
        self.run(&["exec", pod, "--", "sh", "-c", script])
    }

    /// `kubectl apply -f -` of one object.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.apply_text(&object.to_string());
    }

    /// `kubectl apply -f -` of a manifest.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn apply_text(&self, manifest: &str) {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(manifest.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl apply: {output:?}");
    }

    /// A pod, as JSON.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, name: &str) -> Value {
        self.run(&["get", "pod", name, "-o", "json"]).json()
    }

    /// Waits until `accept` likes the pod, and gives it.
    ///
    /// # Panics
    /// If it does not within a minute and a half.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        const LIMIT: Duration = Duration::from_secs(90);
        let deadline = Instant::now() + LIMIT;
        until(&format!("pod {name} {what}"), LIMIT, || {
            let left = deadline.saturating_duration_since(Instant::now());
            self.watch_pod(name, left, &accept)
        })
    }

    /// As [`Kubectl::wait_pod`], while one kubectl tells of every change: to start one for each look would
    /// take the processor from what is waited for. It ends at once if there is no such pod.
    fn watch_pod(
        &self,
        name: &str,
        limit: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let limit = format!("--request-timeout={}s", limit.as_secs() + 1);
        let mut watch = self
            .command(&["get", "pod", name, "-o", "json", "--watch", &limit])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pods = BufReader::new(watch.stdout.take().unwrap());
        let pods = serde_json::Deserializer::from_reader(pods).into_iter();
        let mut last = Value::Null;
        for pod in pods.map_while(Result::<Value, _>::ok) {
            if accept(&pod) {
                watch.kill().unwrap();
                watch.wait().unwrap();
                return Ok(pod);
            }
            last = pod;
        }
        let said = watch.wait_with_output().unwrap().stderr;
        Err(format!("{:#}\n{}", last["status"], String::from_utf8_lossy(&said)))
    }

    /// Waits for a phase.
    ///
    /// # Panics
    /// As [`Kubectl::wait_pod`].
    #[track_caller]
    pub fn wait_phase(&self, name: &str, phase: &str) -> Value {
        self.wait_pod(name, phase, |pod| pod["status"]["phase"] == phase)
    }
}
