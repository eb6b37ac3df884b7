//! What the machine allows and what hostkv reaches, in one run.
//!
//! Starts a real daemon in a temporary folder, works through the Rust client as an engine would, and prints a table of
//! medians: ours, the physical limit measured by `limits` in the same run, and their ratio. Figures are the machine's of
//! the moment; only ratios mean anything. `README.md` beside this crate says how to read it.
//!
//! Modules: [`limits`] measures the machine, [`pool`] starts a daemon and fills it, [`rows`] and [`observed`] do the work
//! and assert that they did it, [`table`] prints.

mod limits;
mod observed;
mod pool;
mod rows;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    match rows::run() {
        Ok(rows) => {
            print!("{}", table::render(&rows));
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("hostkv-bench: {message}");
            ExitCode::FAILURE
        }
    }
}
