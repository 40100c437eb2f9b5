//! Programs that the build runs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use thiserror::Error;

/// How much of a failed program's last words is repeated.
const TAIL: usize = 20;

/// Why a program did not do what it was run for.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("{program} is not installed; install Debian's {package}")]
    Missing {
        /// The program.
        program: String,
        /// The package that has it.
        package: &'static str,
    },
    /// It failed.
    #[error("{program} failed ({status}):\n{tail}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The last that it said.
        tail: String,
    },
    /// It could not be run.
    #[error("{program}: {source}")]
    Io {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs a program of `package` to its end, showing `line` each line of its two outputs.
pub(crate) fn run(
    command: &mut Command,
    package: &'static str,
    line: &mut dyn FnMut(&str),
) -> Result<(), CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let io = |source| CommandError::Io { program: program.clone(), source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CommandError::Missing { program: program.clone(), package },
        _ => io(source),
    })?;
    let (sender, lines) = std::sync::mpsc::channel::<String>();
    let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|output| Box::new(output) as _),
        child.stderr.take().map(|output| Box::new(output) as _),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for bytes in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut tail = VecDeque::new();
    for text in lines {
        line(&text);
        tail.push_back(text);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    let status = child.wait().map_err(io)?;
    if status.success() {
        return Ok(());
    }
    let tail = tail.make_contiguous().join("\n");
    Err(CommandError::Failed { program: program.clone(), status: status.to_string(), tail })
}

/// Runs a program of `package` and returns its standard output's first line.
pub(crate) fn answer(command: &mut Command, package: &'static str) -> Result<String, CommandError> {
    let mut first = None;
    run(command.stderr(Stdio::null()), package, &mut |line| {
        first.get_or_insert_with(|| line.to_owned());
    })?;
    Ok(first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_repeats_the_last_words() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run(&mut command, "dash", &mut |line| seen.push(line.to_owned())).unwrap_err();
        assert_eq!(seen.len(), 2);
        assert!(
            error.to_string().contains("exit status: 3") && error.to_string().contains("two"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = run(&mut Command::new("no-such-program"), "make", &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("install Debian's make"), "{error}");
    }
}
