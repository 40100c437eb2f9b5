//! `kubectl port-forward`, and requests through it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};

use crate::Kubectl;

/// `kubectl port-forward` under way, ended when dropped.
pub struct PortForward {
    process: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    /// Read for as long as it runs: a closed pipe would end it.
    _output: BufReader<ChildStdout>,
}

impl PortForward {
    /// Forwards a free port to `port` of `target`: a pod, `deploy/NAME`, `svc/NAME`.
    ///
    /// # Panics
    /// If kubectl does not say that it forwards.
    #[must_use]
    #[track_caller]
    pub fn start(kubectl: &Kubectl, target: &str, port: u16) -> Self {
        let mut process = kubectl
            .command(&["port-forward", target, &format!(":{port}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address =
            line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "));
        let (address, _) = address.unwrap_or_else(|| panic!("kubectl port-forward: {line:?}"));
        Self { address: address.to_owned(), process, _output: output }
    }

    /// What a request for `path` is answered, head and body.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
