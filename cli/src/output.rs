//! What goes to standard output: tables for people, JSON for programs.
//!
//! Everything is written through [`Output`], so that a closed pipe ends the command quietly. Text that others chose (a
//! model's name, a client's) is shown without control characters: a name must not move the cursor of an operator.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};

use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use crate::failure::Failure;

/// Standard output.
pub struct Output {
    stdout: io::BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
    has_colour: bool,
}

/// How a piece of text stands out where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As the rest.
    Plain,
    /// A heading.
    Bold,
    /// All is well.
    Good,
    /// To be looked at.
    Bad,
}

impl Output {
    /// Standard output, with colours when it is a terminal and `NO_COLOR` is not set.
    pub fn new() -> Output {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            stdout: io::BufWriter::new(stdout.lock()),
            is_terminal,
            has_colour: is_terminal && !wants_none && !is_dumb_terminal(),
        }
    }

    /// Whether a person may be looking.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// One line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stdout.write_all(bytes)?)
    }

    /// One line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        Ok(writeln!(self.stdout)?)
    }

    /// Makes all that was written visible.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }

    /// The text in its tone.
    pub fn toned(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.has_colour => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Bold => "1",
            Tone::Good => "32",
            Tone::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Names and what they are, the names in one column.
    pub fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let width = pairs
            .iter()
            .map(|(name, _)| name.width())
            .max()
            .unwrap_or(0);
        for (name, value) in pairs {
            let line = format!("{}  {value}", padded(name, width, false));
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Rows under headings. Columns of numbers stand to the right.
    pub fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let width_of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.width()).max().unwrap_or(0);
            widest.max(headings[column].width())
        };
        let widths: Vec<usize> = (0..headings.len()).map(width_of).collect();
        let is_right = |column: usize| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            cells.all(|cell| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()))
        };
        let rights: Vec<bool> = (0..headings.len()).map(is_right).collect();
        let line_of = |cells: &[&str]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(widths.iter().zip(&rights))
                .map(|(cell, (width, is_right))| padded(cell, *width, *is_right))
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let heading = self.toned(Tone::Bold, &line_of(headings));
        self.line(&heading)?;
        for row in rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.line(&line_of(&cells))?;
        }
        Ok(())
    }
}

/// Whether the terminal, by its name, can't move its cursor.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn padded(text: &str, width: usize, is_right: bool) -> String {
    let padding = " ".repeat(width.saturating_sub(text.width()));
    if is_right {
        padding + text
    } else {
        text.to_owned() + &padding
    }
}

/// A text of somebody else without control characters.
pub fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Bytes in the largest unit that leaves a number above one.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A duration in its two largest units.
pub fn human_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A share in percent; of nothing it is unknown.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_largest_that_fit() {
        for (bytes, wanted) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(human_bytes(bytes), wanted);
        }
        for (seconds, wanted) in [
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h 0m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(human_seconds(seconds), wanted);
        }
        assert_eq!(
            (percent(1, 8), percent(1, 0)),
            ("12.5 %".into(), "-".into())
        );
    }

    #[test]
    fn a_name_of_somebody_else_moves_no_cursor() {
        assert_eq!(shown("a\x1b[2J\nü"), "a\\u{1b}[2J\\nü");
    }

    #[test]
    fn padding_counts_columns_not_bytes() {
        assert_eq!(padded("模型", 6, false), "模型  ");
        assert_eq!(padded("7", 3, true), "  7");
    }
}
