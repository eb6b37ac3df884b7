//! A real engine: the demonstration's table for growing prompts, restore and save beside a copy of the same bytes.
//!
//! `scripts/demo.sh` builds llama.cpp once per machine (minutes) and checks that logits are identical, counters right and
//! every chunk hit; this only reads its table.

use super::Plan;
use crate::limits::copy::copies;
use crate::limits::pages::{Pages, Region};
use crate::measure::{median_of, typical_ns};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use std::process::{Command, Stdio};

const PROMPTS: [u64; 3] = [2049, 4097, 8193];

/// Two rows and the table, in full runs.
pub fn rows(plan: &Plan, report: &mut Report) -> Result<(), String> {
    if !plan.is_full {
        report.skip("the engine's restore and save; make bench-full measures them");
        return Ok(());
    }
    let mut table = String::from(
        "| prompt | KV | prefill | restore | save | first token, computed | first token, restored |\n|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for tokens in PROMPTS {
        let output = Command::new("scripts/demo.sh")
            .args(["--tokens", &tokens.to_string(), "--pool-gib", "4"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| {
                format!("scripts/demo.sh does not start (run in the repository's root): {error}")
            })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(format!(
                "scripts/demo.sh --tokens {tokens}: {}",
                output.status
            ));
        }
        let cold = Line::find(&text, "0  no cache")?;
        let stored = Line::find(&text, "1  computes and stores")?;
        let restored = Line::find(&text, "2  same prompt, restores")?;
        table += &format!(
            "| {tokens} | {:.1} MiB | {:.2} s | {:.1} ms | {:.1} ms | {:.2} s | {:.3} s |\n",
            restored.kv_mib,
            cold.prefill_s,
            restored.restore_s * 1e3,
            stored.save_s * 1e3,
            cold.first_token_s,
            restored.first_token_s
        );
        let copy = copy_ns((restored.kv_mib * 1048576.0) as usize)?;
        for (what, seconds) in [("restore", restored.restore_s), ("save", stored.save_s)] {
            report.row(
                Row::new(
                    format!("llama.cpp: {what} the KV of {tokens} tokens"),
                    Unit::Nanoseconds,
                    seconds * 1e9,
                    // 80 % of the copy's rate.
                    Goal::RatioAtMost(1.25),
                )
                .limit(format!("copy of {:.1} MiB", restored.kv_mib), copy)
                .note(format!(
                    "{:.0} % of the copy's rate; one run",
                    copy / (seconds * 1e9) * 100.0
                )),
            );
        }
    }
    report.sections.push((
        "llama.cpp with a generated model of 106 M parameters".to_owned(),
        table,
    ));
    Ok(())
}

/// The best copy of as many bytes from the pool's kind of pages into private memory, in pieces of 1 MiB.
fn copy_ns(len: usize) -> Result<f64, String> {
    const PIECE: usize = 1 << 20;
    let len = len.next_multiple_of(PIECE);
    let from = Region::new(len, Pages::Huge)?;
    let to = Region::new(len, Pages::Small)?;
    let mut best = f64::MAX;
    for (_, copy) in copies() {
        let figures = (0..5)
            .map(|_| {
                typical_ns(len / PIECE, len / PIECE, |at| {
                    // SAFETY: both regions are `len` bytes long and ours.
                    unsafe {
                        copy(
                            to.bytes().add(at * PIECE),
                            from.bytes().add(at * PIECE),
                            PIECE,
                        )
                    };
                    Ok(())
                })
                .map(|ns| ns * (len / PIECE) as f64)
            })
            .collect::<Result<Vec<f64>, String>>()?;
        best = best.min(median_of(figures));
    }
    Ok(best)
}

/// A process's line of the demonstration's table.
#[derive(Debug, PartialEq)]
struct Line {
    kv_mib: f64,
    prefill_s: f64,
    restore_s: f64,
    save_s: f64,
    first_token_s: f64,
}

impl Line {
    fn find(text: &str, name: &str) -> Result<Line, String> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .ok_or_else(|| format!("the demonstration's table has no line '{name}'"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| {
            words
                .get(at)
                .and_then(|word| word.parse::<f64>().ok())
                .ok_or_else(|| format!("not a line of the demonstration's table: {line}"))
        };
        Ok(Line {
            kv_mib: number(1)?,
            prefill_s: number(3)?,
            restore_s: number(4)?,
            save_s: number(5)?,
            first_token_s: number(6)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_demonstration_is_read_by_its_columns() {
        let text = "process tokens\n2  same prompt, restores                 2049    45.00        8/8     0.0100     0.0120   0.0000        0.0400\n";
        let line = Line::find(text, "2  same prompt, restores").expect("the line is there");
        assert_eq!(
            line,
            Line {
                kv_mib: 45.0,
                prefill_s: 0.01,
                restore_s: 0.012,
                save_s: 0.0,
                first_token_s: 0.04
            }
        );
        assert!(Line::find(text, "1  computes").is_err());
    }
}
