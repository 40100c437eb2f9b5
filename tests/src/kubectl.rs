//! kubectl, with a cluster's kubeconfig.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::{Client, Target};
use crate::shell::Shell;
use crate::{Outcome, setting, until};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// How long what is asked of a pod may take.
const LIMIT: Duration = Duration::from_secs(90);

/// A kubectl bound to one cluster.
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    /// What it finds in its environment besides.
    settings: Vec<(&'static str, &'static str)>,
    /// By namespace and pod.
    shells: Mutex<HashMap<(String, String), Shell>>,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: PathBuf) -> Self {
        let (binary, settings) = (setting("BULKHEAD_KUBECTL"), Vec::new());
        Self { binary, kubeconfig, settings, shells: Mutex::default() }
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

    /// Runs a shell script in a pod's container. All of a pod's scripts are given to one `kubectl exec`
    /// that stays: to start it takes longer than most of them.
    ///
    /// # Panics
    /// If kubectl cannot be started.
    pub fn sh(&self, pod: &str, script: &str) -> Outcome {
        self.sh_in("default", pod, script)
    }

    /// As [`Kubectl::sh`], in a pod of a namespace.
    ///
    /// # Panics
    /// If kubectl cannot be started.
    pub fn sh_in(&self, namespace: &str, pod: &str, script: &str) -> Outcome {
        let place = (namespace.to_owned(), pod.to_owned());
        let mut kept = self.shells.lock().unwrap().remove(&place);
        drop(kept.take_if(|shell| !shell.is_open()));
        let mut shell = kept.unwrap_or_else(|| {
            Shell::start(self.command(&["exec", "-n", namespace, "-i", pod, "--", "sh"]))
        });
        let outcome = shell.run(script);
        self.shells.lock().unwrap().insert(place, shell);
        outcome
    }

    /// `kubectl apply -f -` of one object.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.apply_text(&object.to_string());
    }

    /// `kubectl apply -f -` of several objects at once.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn apply_all(&self, objects: &[Value]) {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
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
        let pod = self.api(LIMIT, async |mut client| {
            let pod = client.get(&format!("{PODS}/{name}")).await?;
            Ok(serde_json::from_slice(&pod)?)
        });
        pod.unwrap_or_else(|error| panic!("pod {name}: {error:#}"))
    }

    /// Waits until `accept` likes the pod, and gives it.
    ///
    /// # Panics
    /// If it does not within a minute and a half.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        until(&format!("pod {name} {what}"), LIMIT, || {
            let left = deadline.saturating_duration_since(Instant::now());
            self.watch_pod(name, left, &accept).map_err(|error| format!("{error:#}"))
        })
    }

    /// As [`Kubectl::wait_pod`], of every change that a watch tells of.
    fn watch_pod(
        &self,
        name: &str,
        limit: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3D{name}");
        let found = self.api(limit, async |client| {
            let mut watch = client.watch(&path).await?;
            loop {
                let mut event: Value = serde_json::from_slice(&watch.next().await?)?;
                last = event["object"].take();
                if accept(&last) {
                    return Ok(last.take());
                }
            }
        });
        found.with_context(|| format!("{:#}", last["status"]))
    }

    /// Speaks with the API server, no longer than `limit`.
    fn api<T>(
        &self,
        limit: Duration,
        speak: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let target = Target::of_kubeconfig(&std::fs::read_to_string(&self.kubeconfig)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let spoken = async { speak(target.connect().await?).await };
        runtime.block_on(async { timeout(limit, spoken).await? })
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
