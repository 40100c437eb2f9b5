//! What a command did, and assertions about it that show all of it when they fail.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Output};

use serde_json::Value;

/// A finished command.
#[derive(Debug)]
pub struct Outcome {
    command: String,
    /// The exit status; 128+n for signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let output =
            command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self::from_output(&format!("{command:?}"), &output)
    }

    /// Runs a shell script on the host; what fails in it or is not set ends it.
    ///
    /// # Panics
    /// If there is no shell.
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::of(Command::new("sh").args(["-euc", script]))
    }

    fn from_output(command: &str, output: &Output) -> Self {
        Self::ended(command, code(output.status), &output.stdout, &output.stderr)
    }

    /// Of a command that ended with `code`.
    pub(crate) fn ended(command: &str, code: i32, stdout: &[u8], stderr: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { command: command.to_owned(), code, stdout: text(stdout), stderr: text(stderr) }
    }

    /// Asserts success, and gives standard output.
    ///
    /// # Panics
    /// If the exit status is not 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout
    }

    /// Asserts success, and gives standard output as JSON.
    ///
    /// # Panics
    /// If the exit status is not 0 or the output is not JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        assert_eq!(self.code, 0, "{self}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Asserts the refusal that a user should see: a non-zero exit and, last on standard error,
    /// one line that holds every one of `words`. Before it may be said what was under way.
    ///
    /// # Panics
    /// If it is anything else.
    #[track_caller]
    pub fn refused(self, words: &[&str]) {
        assert_ne!(self.code, 0, "{self}");
        assert!(self.code < 128, "ended by a signal: {self}");
        let line = self.stderr.lines().rfind(|line| !line.trim().is_empty());
        let line = line.unwrap_or_else(|| panic!("nothing on stderr: {self}"));
        let errors = self.stderr.lines().filter(|line| line.to_lowercase().starts_with("error"));
        assert!(errors.count() <= 1, "more than one error: {self}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line:?}: {self}");
        }
    }
}

/// An exit status as shells count it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} exited with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}
