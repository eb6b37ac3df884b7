//! What the machine allows, what hostkv reaches, and what peers reach, in one run.
//!
//! Starts real daemons in temporary folders, works through the Rust client as an engine would, and prints a table of
//! medians: ours, the physical limit measured in the same run, peers on the same work, and whether the target is met.
//! Figures are the machine's of the moment; only ratios mean anything. `README.md` beside this crate says how to read it.
//!
//! ```text
//!   main ──> rows (one file a kind of work) ──> report: Markdown, plots
//!              │  │  └──> peers: LMDB, memcached, Redis
//!              │  └─────> limits: programs that do nothing else
//!              └────────> pool, worker: daemons and other processes; measure: quiet runs, medians
//! ```

mod counters;
mod keys;
mod limits;
mod machine;
mod measure;
mod peers;
mod pool;
mod report;
mod rows;
mod table;
mod worker;

use report::Report;
use rows::Plan;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: hostkv-bench [--full] [--only GROUP] [--out FOLDER]\n\
    --full          also 10^7 keys and the engine\n\
    --only GROUP    groups whose name contains this\n\
    --out FOLDER    where the report goes (bench beside the folder of this program)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("worker") => worker::run(&arguments[1..]).map(|()| true),
        _ => options(&arguments).and_then(|(plan, out)| bench(&plan, out, &arguments)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("hostkv-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<(Plan, PathBuf), String> {
    let mut plan = Plan {
        is_full: false,
        only: String::new(),
    };
    let mut out = std::env::current_exe()
        .map_err(|error| error.to_string())?
        .ancestors()
        .nth(2)
        .map_or(PathBuf::from("."), |folder| folder.join("bench"));
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or(format!("{argument} needs a value\n{USAGE}"))
        };
        match argument.as_str() {
            "--full" => plan.is_full = true,
            "--only" => plan.only.clone_from(value()?),
            "--out" => out = PathBuf::from(value()?),
            other => return Err(format!("unknown argument '{other}'\n{USAGE}")),
        }
    }
    Ok((plan, out))
}

/// Whether everything could be measured.
fn bench(plan: &Plan, out: PathBuf, arguments: &[String]) -> Result<bool, String> {
    let mut report = Report::default();
    let command = format!("hostkv-bench {}", arguments.join(" "));
    rows::run(plan, &mut report)?;
    report.write(&out, command.trim())?;
    print!("{}", table::render(&report.rows));
    for skip in &report.skips {
        println!("SKIPPED: {skip}");
    }
    println!(
        "{}.\nThe report is {}.",
        report.summary(),
        out.join("report.md").display()
    );
    Ok(!report.has_failed())
}
