//! What a run found, and how it is written: Markdown with plots beside it.

pub mod curve;
pub mod svg;

use crate::machine;
use crate::table::{self, Row, Unit, Verdict};
use curve::Curve;
use std::path::Path;

/// Everything that a run found.
#[derive(Default)]
pub struct Report {
    /// Rows of the table of targets.
    pub rows: Vec<Row>,
    /// The machine's limits: what, its unit, the figure.
    pub limits: Vec<(String, Unit, f64)>,
    /// The plots.
    pub curves: Vec<Curve>,
    /// Tables of their own: a heading, and Markdown.
    pub sections: Vec<(String, String)>,
    /// What this machine lacks.
    pub skips: Vec<String>,
}

impl Report {
    /// Adds a row and says it on standard error, where who waits can see it.
    pub fn row(&mut self, row: Row) {
        eprint!(
            "{}",
            table::render(std::slice::from_ref(&row))
                .lines()
                .skip(2)
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        );
        self.rows.push(row);
    }

    /// Adds a limit.
    pub fn limit(&mut self, what: impl Into<String>, unit: Unit, figure: f64) {
        self.limits.push((what.into(), unit, figure));
    }

    /// Says what is left out, and why.
    pub fn skip(&mut self, why: impl Into<String>) {
        let why = why.into();
        eprintln!("SKIPPED: {why}");
        self.skips.push(why);
    }

    /// How many rows came to what, in a sentence.
    pub fn summary(&self) -> String {
        let count = |verdict| {
            self.rows
                .iter()
                .filter(|row| row.verdict() == verdict)
                .count()
        };
        format!(
            "{} rows: {} met or only shown, {} missed, {} not measurable, {} failed; {} SKIPPED",
            self.rows.len(),
            count(Verdict::Met),
            count(Verdict::Missed),
            count(Verdict::NotMeasurable),
            count(Verdict::Failed),
            count(Verdict::Absent) + self.skips.len(),
        )
    }

    /// Whether measuring failed somewhere.
    pub fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict() == Verdict::Failed)
    }

    /// The whole report; plots are files beside it.
    pub fn markdown(&self, command: &str) -> String {
        let mut text = format!(
            "# hostkv on this machine\n\n`{command}`\n\n{}\n{}.\n\n## Targets\n\n{}",
            machine::describe(),
            self.summary(),
            table::render(&self.rows)
        );
        if !self.skips.is_empty() {
            text += "\n## Left out\n\n";
            for skip in &self.skips {
                text += &format!("- SKIPPED: {skip}\n");
            }
        }
        text += "\n## Limits\n\n| what | median |\n|---|---:|\n";
        for (what, unit, figure) in &self.limits {
            text += &format!("| {what} | {} |\n", unit.show(*figure));
        }
        for curve in &self.curves {
            text += &curve.markdown();
        }
        for (heading, body) in &self.sections {
            text += &format!("\n## {heading}\n\n{body}");
        }
        text
    }

    /// Writes the report and its plots into the folder.
    pub fn write(&self, folder: &Path, command: &str) -> Result<(), String> {
        let fault = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(fault)?;
        for curve in &self.curves {
            std::fs::write(folder.join(format!("{}.svg", curve.file)), svg::draw(curve))
                .map_err(fault)?;
        }
        std::fs::write(folder.join("report.md"), self.markdown(command)).map_err(fault)
    }
}
