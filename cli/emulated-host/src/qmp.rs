//! A client for QEMU's machine protocol (QMP): JSON objects, a line each, over a unix socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

/// Why QEMU did not do as it was asked.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket failed, or QEMU was silent for too long.
    #[error("QEMU's control socket: {0}")]
    Io(#[from] io::Error),
    /// QEMU sent something that is not QMP.
    #[error("QEMU answered with something that is not QMP: {0}")]
    Malformed(#[from] serde_json::Error),
    /// QEMU refused.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// What it was asked.
        command: String,
        /// What it said.
        reason: String,
    },
}

/// A connection that has been greeted.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        qmp.message()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command of the human monitor, which is silent when all is well.
    pub(crate) fn monitor(&mut self, line: &str) -> Result<(), QmpError> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        match answer.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(reason) => {
                Err(QmpError::Refused { command: line.to_owned(), reason: reason.to_owned() })
            }
        }
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            // Anything else is an event, which may come at any time.
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn message(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(QmpError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that greets and then answers each line with the next of `answers`.
    fn fake(answers: &'static [&'static str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(theirs);
            reader.get_mut().write_all(b"{\"QMP\": {}}\n").unwrap();
            for answer in ["{\"return\": {}}"].iter().chain(answers) {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                reader.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        ours
    }

    #[test]
    fn events_are_passed_over() {
        let stream = fake(&["{\"event\": \"RESUME\"}\n{\"return\": \"\"}"]);
        let mut qmp = Qmp::new(stream, Duration::from_secs(60)).unwrap();
        qmp.monitor("info status").unwrap();
    }

    #[test]
    fn what_the_monitor_says_is_an_error() {
        let stream = fake(&["{\"return\": \"could not set up host forwarding rule\\r\\n\"}"]);
        let error = Qmp::new(stream, Duration::from_secs(60))
            .unwrap()
            .monitor("hostfwd_add x")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "QEMU refused hostfwd_add x: could not set up host forwarding rule"
        );
    }

    #[test]
    fn a_silent_qemu_is_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(matches!(Qmp::new(ours, Duration::from_millis(50)), Err(QmpError::Io(_))));
    }
}
