//! `hostkv-torture`: every fault of the fault table, for as long as it is given, and a table of what was found.
//!
//! ```text
//!   hostkv-torture --minutes 80 --seed 7 --only F1,F7
//!     for each row of the table: its share of the time that is left ── attempt ──> Report
//!   fault | cycles | required | measured | verdict          exit code 1 when anything was violated
//! ```
//!
//! A row that ends early leaves its time to those that follow. The same seed repeats a run, save for what the
//! scheduler does.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use hostkv_tests::torture::{FAULTS, Fault, Report, Verdict, attempt};

/// Does the worst that one host allows to a daemon and its clients, and says what held.
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes for all faults together
    #[arg(long, default_value_t = 80.0)]
    minutes: f64,
    /// Seed of everything that is left to chance; drawn from the clock when absent
    #[arg(long)]
    seed: Option<u64>,
    /// These faults only, such as F1,F7
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Cycles as a multiple of a whole run's; 0.01 is what the tests do
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// List the faults and end
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&'static Fault> = FAULTS
        .iter()
        .copied()
        .filter(|fault| arguments.only.is_empty() || arguments.only.iter().any(|id| id == fault.id))
        .collect();
    for id in &arguments.only {
        if !chosen.iter().any(|fault| fault.id == id) {
            eprintln!("hostkv-torture: there is no fault {id}; --list shows them");
            return ExitCode::from(2);
        }
    }
    if arguments.list {
        for fault in chosen {
            println!(
                "{} {}: {} ({})",
                fault.id, fault.name, fault.required, fault.full_cycles
            );
        }
        return ExitCode::SUCCESS;
    }
    let is_time = |minutes: &f64| minutes.is_finite() && (0.0..1e6).contains(minutes);
    if !is_time(&arguments.minutes) || !is_time(&arguments.scale) {
        eprintln!("hostkv-torture: --minutes and --scale are numbers from 0 to a million");
        return ExitCode::from(2);
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |now| now.as_nanos() as u64)
    });
    println!("hostkv-torture: seed {seed}, {} minutes", arguments.minutes);
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut weight_left: u32 = chosen.iter().map(|fault| fault.weight).sum();
    let mut reports = Vec::new();
    for (number, fault) in chosen.into_iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = left.mul_f64(f64::from(fault.weight) / f64::from(weight_left.max(1)));
        weight_left -= fault.weight;
        let cycles = ((fault.full_cycles as f64 * arguments.scale) as u64).max(1);
        println!(
            "{} {}: {cycles} cycles in at most {share:.0?}",
            fault.id, fault.name
        );
        let report = attempt(
            fault,
            cycles,
            Instant::now() + share,
            seed.wrapping_add(number as u64),
        );
        println!(
            "    {} cycles, {}; {}",
            report.done,
            report.rate,
            verdict(&report)
        );
        reports.push(report);
    }
    conclude(seed, &reports)
}

/// The verdict in words.
fn verdict(report: &Report) -> String {
    match &report.verdict {
        Verdict::Held if report.done < report.wanted => "held so far".to_owned(),
        Verdict::Held => "held".to_owned(),
        Verdict::Violated(what) => format!("VIOLATED: {what}"),
        Verdict::Skipped(why) => format!("SKIPPED: {why}"),
    }
}

/// Prints the table and what was not reached; the exit code of the run.
fn conclude(seed: u64, reports: &[Report]) -> ExitCode {
    println!("\n| fault | cycles | required | measured | verdict |\n|---|---|---|---|---|");
    for report in reports {
        println!(
            "| {} {} | {} ({}) | {} | {} | {} |",
            report.fault.id,
            report.fault.name,
            report.done,
            report.rate,
            report.fault.required,
            report.measured,
            verdict(report).replace('\n', " ")
        );
    }
    let count = |is_it: fn(&Verdict) -> bool| {
        reports
            .iter()
            .filter(|report| is_it(&report.verdict))
            .count()
    };
    let held = count(|verdict| *verdict == Verdict::Held);
    let violated = count(|verdict| matches!(verdict, Verdict::Violated(_)));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    println!("\nnot reached in this time:");
    let short: Vec<&Report> = reports
        .iter()
        .filter(|report| report.verdict == Verdict::Held && report.done < report.wanted)
        .collect();
    for report in &short {
        println!(
            "  {} {}: {} of {} cycles",
            report.fault.id, report.fault.name, report.done, report.wanted
        );
    }
    if short.is_empty() {
        println!("  nothing");
    }
    println!("\nseed {seed}: {held} held, {violated} violated, {skipped} skipped");
    ExitCode::from(u8::from(violated > 0 || held == 0))
}
