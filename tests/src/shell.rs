//! A shell that stays open in a container, and runs one script after the other.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use crate::Outcome;
use crate::output::code;

/// Written after a script's output, on a line of its own: nothing else says where it ends.
const END: &str = "--- the script has ended ---";

/// A command that gives a shell what it reads, killed when dropped.
pub(crate) struct Shell {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// Neither stream has ended.
    open: bool,
}

impl Shell {
    /// Starts `command`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let stderr = BufReader::new(process.stderr.take().unwrap());
        Self { process, stdin, stdout, stderr, open: true }
    }

    /// Whether it still runs. Its container, or what lies between, may have ended since.
    pub(crate) fn is_open(&mut self) -> bool {
        self.open && matches!(self.process.try_wait(), Ok(None))
    }

    /// Runs a script, which reads nothing, in a shell of its own. If this one ends instead, its exit
    /// status and what it said are the outcome.
    pub(crate) fn run(&mut self, script: &str) -> Outcome {
        let quoted = script.replace('\'', "'\\''");
        let end = format!("printf '\\n%s %s\\n' '{END}' $status");
        let line = format!("sh -c '{quoted}' </dev/null; status=$?; {end}; {end} >&2\n");
        // If there is no shell any more, that shows where it is read from.
        let _ = self.stdin.write_all(line.as_bytes());
        let (stdout, stderr) = std::thread::scope(|scope| {
            let stderr = scope.spawn(|| said(&mut self.stderr));
            (said(&mut self.stdout), stderr.join().unwrap())
        });
        let status = match (stdout.status, stderr.status) {
            (Some(status), Some(_)) => status,
            _ => {
                self.open = false;
                code(self.process.wait().unwrap())
            }
        };
        Outcome::ended(script, status, &stdout.text, &stderr.text)
    }
}

/// What a script said on one of its streams.
struct Said {
    text: Vec<u8>,
    /// Its exit status, unless the stream ended.
    status: Option<i32>,
}

fn said(stream: &mut impl BufRead) -> Said {
    let mut text = Vec::new();
    loop {
        let begun = text.len();
        if !matches!(stream.read_until(b'\n', &mut text), Ok(1..)) {
            return Said { text, status: None };
        }
        let line = String::from_utf8_lossy(&text[begun..]);
        if let Some(status) = line.strip_prefix(END).and_then(|rest| rest.trim().parse().ok()) {
            // With the line's end before it, which is not the script's.
            text.truncate(begun.saturating_sub(1));
            return Said { text, status: Some(status) };
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_run_one_after_the_other() {
        let mut shell = Shell::start(Command::new("sh"));
        let first = shell.run("read line; echo \"it's\" $?; printf none >&2\nexit 3");
        assert_eq!(
            (first.code, first.stdout.as_str(), first.stderr.as_str()),
            (3, "it's 1\n", "none")
        );
        let second = shell.run("seq 100000 | tee /dev/fd/2; printf end");
        assert_eq!((second.code, second.stdout.len(), second.stderr.len()), (0, 588_898, 588_895));
        assert!(shell.is_open());
        let last = shell.run("kill -9 $PPID");
        assert_eq!((last.code, last.stdout.as_str()), (137, ""));
        assert!(!shell.is_open());
    }
}
