//! How results are shown: tables for people, JSON for programs.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

/// What `-o` selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value.
    Json,
}

/// Prints `value` as JSON, or as what `table` makes of it.
pub(crate) fn show<T: Serialize + ?Sized>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<()> {
    match format {
        Format::Json => print(&(serde_json::to_string_pretty(value)? + "\n")),
        Format::Table => print(&table(value)),
    }
}

/// Writes to standard output. That nobody reads it any more (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output")
        }
        _ => Ok(()),
    }
}

/// A table in kubectl's manner: no lines, headings in capitals.
pub(crate) fn table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `text` on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_without_trailing_blanks() {
        let rows = [["a".into(), "1".into()], ["longer".into(), "".into()]];
        assert_eq!(table(["NAME", "N"], rows), "NAME    N\na       1\nlonger\n");
    }

    #[test]
    fn errors_fit_one_line() {
        assert_eq!(one_line("a\n  b\n\nc"), "a b c");
    }
}
