//! The table of figures: what was measured, on both sides, and what was to be reached.

use std::fmt;

/// The rows so far.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    /// Adds a figure. `reached` compares against `goal` in words.
    pub(crate) fn row(
        &mut self,
        figure: &str,
        ours: String,
        peer: String,
        value: String,
        goal: &str,
    ) {
        eprintln!("  {figure}: {ours} against {peer}: {value} (to reach: {goal})");
        self.rows.push([figure.to_owned(), ours, peer, value, goal.to_owned()]);
    }

    /// Adds a figure that is a ratio of two measurements in `unit`.
    pub(crate) fn ratio(&mut self, figure: &str, ours: f64, peer: f64, unit: &str, goal: &str) {
        self.row(
            figure,
            format!("{ours:.1} {unit}"),
            format!("{peer:.1} {unit}"),
            format!("{:.2}", ours / peer),
            goal,
        );
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | Bulkhead | QEMU microvm | ratio or value | to reach |")?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}
