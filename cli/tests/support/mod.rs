//! `bulkhead` as a user runs it, and a daemon that says what a test wants.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It failed with one line that names all of `parts`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "one line: {self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// `bulkhead ARGS…` in the home `home`, whose daemon is this machine's.
pub(crate) fn bulkhead(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command
        .args(args)
        .env("BULKHEAD_HOME", home)
        .env("BULKHEAD_HOST", "local")
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("HOME", home)
        .env_remove("KUBECONFIG")
        .env_remove("BULKHEAD_NODE_IMAGE_DIR");
    command
}

/// A stand-in for the host daemon, on the home's socket, with clusters by name.
#[derive(Clone)]
pub(crate) struct Daemon(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    clusters: Vec<String>,
    /// Every request that changes something, `METHOD path`.
    changes: Vec<String>,
    /// What a create ends in, instead of a cluster.
    failure: Option<String>,
    /// A create never ends.
    hangs: bool,
}

impl Daemon {
    pub(crate) fn start(home: &Path) -> Self {
        let listener = UnixListener::bind(home.join("host.sock")).unwrap();
        let daemon = Self(Arc::default());
        let answering = daemon.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let daemon = answering.clone();
                std::thread::spawn(move || daemon.answer(stream));
            }
        });
        daemon
    }

    pub(crate) fn with_cluster(self, name: &str) -> Self {
        self.0.lock().unwrap().clusters.push(name.into());
        self
    }

    pub(crate) fn failing(self, message: &str) -> Self {
        self.0.lock().unwrap().failure = Some(message.into());
        self
    }

    pub(crate) fn hanging(self) -> Self {
        self.0.lock().unwrap().hangs = true;
        self
    }

    pub(crate) fn clusters(&self) -> Vec<String> {
        self.0.lock().unwrap().clusters.clone()
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        self.0.lock().unwrap().changes.clone()
    }

    fn answer(&self, mut stream: UnixStream) {
        let Some((method, path, body)) = request(&stream) else { return };
        let (status, text) = self.respond(&method, &path, &body);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", text.len());
        // The client may have been killed by then.
        let _ = stream.write_all((head + &text).as_bytes());
    }

    fn respond(&self, method: &str, path: &str, body: &str) -> (&'static str, String) {
        let mut state = self.0.lock().unwrap();
        if method != "GET" {
            state.changes.push(format!("{method} {path}"));
        }
        let missing = || ("404 Not Found", error("NotFound", "there is no such cluster"));
        let done = ("200 OK", "{\"done\":null}\n".to_owned());
        match (method, path.trim_start_matches("/v1/")) {
            ("GET", "host") => {
                let info = r#"{"version":"0","pid":1,"cpus":1,"memory":1,"diskFree":1}"#;
                ("200 OK", info.into())
            }
            ("GET", "clusters") => {
                let all: Vec<String> = state.clusters.iter().map(|name| cluster(name)).collect();
                ("200 OK", format!("[{}]", all.join(",")))
            }
            ("POST", "clusters") => {
                let config: serde_json::Value = serde_json::from_str(body).unwrap();
                state.clusters.push(config["name"].as_str().unwrap().into());
                let (hangs, failure) = (state.hangs, state.failure.clone());
                drop(state);
                if hangs {
                    std::thread::sleep(std::time::Duration::from_secs(600));
                }
                match failure {
                    Some(message) => {
                        let failure = error("Internal", &message);
                        ("200 OK", format!("{{\"failed\":{failure}}}\n"))
                    }
                    None => done,
                }
            }
            (_, rest) => {
                let rest = rest.trim_start_matches("clusters/").replace("%2D", "-");
                let (name, below) = rest.split_once('/').unwrap_or((&rest, ""));
                if !state.clusters.iter().any(|known| known == name) {
                    return missing();
                }
                match (method, below) {
                    ("GET", "") => ("200 OK", cluster(name)),
                    ("GET", "kubeconfig") => ("200 OK", kubeconfig(name)),
                    ("DELETE", "") => {
                        state.clusters.retain(|known| known != name);
                        done
                    }
                    _ => missing(),
                }
            }
        }
    }
}

fn request(stream: &UnixStream) -> Option<(String, String, String)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, String::from_utf8(body).ok()?))
}

fn error(reason: &str, message: &str) -> String {
    serde_json::json!({"reason": reason, "message": message}).to_string()
}

fn cluster(name: &str) -> String {
    serde_json::json!({
        "config": {"name": name},
        "phase": "Running",
        "server": "https://127.0.0.1:6443",
        "ingress": {"http": 8080, "https": 8443},
        "created": "2030-01-01T00:00:00Z",
        "nodes": [{
            "name": format!("{name}-1"),
            "ip": "10.88.0.2",
            "shape": {},
            "phase": "Ready",
            "pid": 7,
            "message": null,
        }],
    })
    .to_string()
}

fn kubeconfig(name: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": "https://127.0.0.1:6443",
            "certificate-authority-data": "Q0E=",
        }}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
    .to_string()
}
