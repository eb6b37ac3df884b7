//! A real engine: the demonstration's table for growing prompts, restore and save beside copies of the same bytes.
//!
//! `scripts/demo.sh` builds llama.cpp once per machine (minutes) and checks that logits are identical, counters right and
//! every chunk hit; this only reads its table. llama.cpp copies with `memcpy`, a tensor's part of a chunk at a time, and so
//! does the limit, between the same extents and private memory, in the same process and in the same rounds; what streaming
//! stores would take stands in the remark.

use super::Plan;
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use std::process::{Command, Stdio};

const PROMPTS: [u64; 3] = [2049, 4097, 8193];
/// Times that a prompt is restored, saved and copied.
const ROUNDS: u64 = 11;

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
            .args(["--rounds", &ROUNDS.to_string()])
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
        for what in ["restore", "save"] {
            let rounds = Rounds::find(&text, what)?;
            report.row(
                Row::new(
                    format!("llama.cpp: {what} the KV of {tokens} tokens"),
                    Unit::Nanoseconds,
                    rounds.engine_s * 1e9,
                    // 80 % of the copy's rate.
                    Goal::RatioAtMost(1.25),
                )
                .limit(
                    format!("memcpy of {:.1} MiB", restored.kv_mib),
                    rounds.memcpy_s * 1e9,
                )
                .note(format!(
                    "hostkv_copy: {}",
                    Unit::Nanoseconds.show(rounds.hostkv_copy_s * 1e9)
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

/// Medians of the rounds of one direction.
#[derive(Debug, PartialEq)]
struct Rounds {
    engine_s: f64,
    memcpy_s: f64,
    hostkv_copy_s: f64,
}

impl Rounds {
    fn find(text: &str, direction: &str) -> Result<Rounds, String> {
        let (_, lines) = text
            .split_once("medians of ")
            .ok_or("the demonstration shows no rounds")?;
        let words: Vec<&str> = lines
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<&str>>())
            .find(|words| words.first() == Some(&direction))
            .ok_or_else(|| format!("the demonstration has no rounds of '{direction}'"))?;
        match words[1..] {
            [engine, "memcpy", memcpy, "hostkv_copy", hostkv_copy] => {
                let number = |word: &str| {
                    word.parse()
                        .map_err(|_| format!("not a number of seconds: {word}"))
                };
                Ok(Rounds {
                    engine_s: number(engine)?,
                    memcpy_s: number(memcpy)?,
                    hostkv_copy_s: number(hostkv_copy)?,
                })
            }
            _ => Err(format!("not a line of rounds: {}", words.join(" "))),
        }
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
    #[test]
    fn the_medians_of_the_rounds_are_read_by_their_names() {
        let text = "0 restore 1\nmedians of 11 rounds, in seconds\n  restore  0.006500  memcpy 0.006200  hostkv_copy 0.004100\n  save     0.007100  memcpy 0.005600  hostkv_copy 0.004300\n";
        let save = Rounds::find(text, "save").expect("the line is there");
        assert_eq!(
            save,
            Rounds {
                engine_s: 0.0071,
                memcpy_s: 0.0056,
                hostkv_copy_s: 0.0043
            }
        );
        assert!(Rounds::find("restore 1 memcpy 2 hostkv_copy 3", "restore").is_err());
        assert!(Rounds::find("medians of 1\nrestore x memcpy 2 hostkv_copy 3", "restore").is_err());
    }
}
