//! The kernel options that are wanted, and whether a configuration has them.
//!
//! Kconfig drops an option silently when one that it depends on is unset, so what was asked for says
//! nothing: only the written `.config` does.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// Why a configuration is not used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A line of a fragment is neither an option nor a comment.
    #[error("{fragment}:{line}: expected CONFIG_NAME=VALUE or # CONFIG_NAME is not set")]
    Malformed {
        /// The fragment's name.
        fragment: String,
        /// The line's number, from 1.
        line: usize,
    },
    /// Two lines name one option.
    #[error("{fragment}: {option} is there already")]
    Twice {
        /// The second fragment's name.
        fragment: String,
        /// The option.
        option: String,
    },
    /// The kernel's configuration lacks what was wanted.
    #[error("the kernel's configuration did not take {} wanted options:{}", .0.len(), listed(.0))]
    Dropped(Vec<Unmet>),
}

/// A wanted option that a configuration does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// `CONFIG_NAME`.
    pub option: String,
    /// As wanted: `y`, `32`, `"text"`, or `n`.
    pub wanted: String,
    /// As found.
    pub found: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: wanted {}, got {}", self.option, self.wanted, self.found)
    }
}

fn listed(unmet: &[Unmet]) -> String {
    unmet.iter().map(|unmet| format!("\n  {unmet}")).collect()
}

/// The options that fragments ask for, each once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wanted(BTreeMap<String, String>);

impl Wanted {
    /// Reads fragments, given as (name, text).
    ///
    /// # Errors
    /// When a line is neither option nor comment, or an option comes twice.
    pub fn parse(fragments: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let mut wanted = Self::default();
        for (name, text) in fragments {
            for (number, line) in text.lines().enumerate() {
                let malformed =
                    || ConfigError::Malformed { fragment: (*name).to_owned(), line: number + 1 };
                let Some((option, value)) = setting(line) else {
                    if line.trim().is_empty() || line.starts_with('#') {
                        continue;
                    }
                    return Err(malformed());
                };
                if value.is_empty() {
                    return Err(malformed());
                }
                if wanted.0.insert(option.to_owned(), value.to_owned()).is_some() {
                    return Err(ConfigError::Twice {
                        fragment: (*name).to_owned(),
                        option: option.to_owned(),
                    });
                }
            }
        }
        Ok(wanted)
    }

    /// Checks a finished `.config`, where an option that is not mentioned is off.
    ///
    /// # Errors
    /// Names every option that is not as wanted.
    pub fn check(&self, config: &str) -> Result<(), ConfigError> {
        let found: BTreeMap<_, _> = config.lines().filter_map(setting).collect();
        let unmet: Vec<_> = self
            .0
            .iter()
            .map(|(option, wanted)| (option, wanted, *found.get(option.as_str()).unwrap_or(&"n")))
            .filter(|(_, wanted, found)| wanted != found)
            .map(|(option, wanted, found)| Unmet {
                option: option.clone(),
                wanted: wanted.clone(),
                found: found.to_owned(),
            })
            .collect();
        if unmet.is_empty() { Ok(()) } else { Err(ConfigError::Dropped(unmet)) }
    }
}

/// The option and value of a line, `n` for one that is not set.
fn setting(line: &str) -> Option<(&str, &str)> {
    let off = line
        .strip_prefix("# ")
        .and_then(|line| line.strip_suffix(" is not set"))
        .map(|option| (option, "n"));
    let (option, value) = off.or_else(|| line.split_once('='))?;
    let name = option.strip_prefix("CONFIG_")?;
    let plain =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, ConfigError> {
        Wanted::parse(&[("test.config", text)])
    }

    #[test]
    fn every_dropped_option_is_named() {
        let wanted = wanted(
            "CONFIG_A=y\nCONFIG_B=y\nCONFIG_N=32\n# CONFIG_OFF is not set\nCONFIG_ALSO_OFF=n\n",
        )
        .unwrap();
        wanted.check("CONFIG_A=y\nCONFIG_B=y\nCONFIG_N=32\n").unwrap();
        let error = wanted.check(
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\nCONFIG_OFF=y\nCONFIG_ALSO_OFF=m\n",
        );
        let message = error.unwrap_err().to_string();
        for expected in [
            "4 wanted",
            "CONFIG_B: wanted y, got n",
            "CONFIG_N: wanted 32, got 8",
            "CONFIG_OFF: wanted n, got y",
            "CONFIG_ALSO_OFF",
        ] {
            assert!(message.contains(expected), "{message}");
        }
        assert!(!message.contains("CONFIG_A:"), "{message}");
    }

    #[test]
    fn a_line_that_asks_for_nothing_is_refused() {
        for (text, line) in
            [("\nCONFIG_A\n", 2), ("CONFIG_A=\n", 1), ("A=y\n", 1), ("CONFIG_=y\n", 1)]
        {
            assert_eq!(
                wanted(text),
                Err(ConfigError::Malformed { fragment: "test.config".into(), line }),
                "{text}"
            );
        }
    }

    #[test]
    fn an_option_comes_once() {
        let error =
            Wanted::parse(&[("a", "CONFIG_A=y"), ("b", "# CONFIG_A is not set")]).unwrap_err();
        assert_eq!(error.to_string(), "b: CONFIG_A is there already");
    }
}
