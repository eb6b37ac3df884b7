//! `hostkv`, the operator's tool: looks into a running daemon, moves single objects, and says what is wrong.
//!
//! `main` calls [`run`]; whoever makes man pages or completions calls [`command`]. Everything runs on the main thread.
//! A command is a file: it opens a session as any client does, asks, and prints. Its answer goes to standard output, a
//! table for people or with `--json` JSON for programs; what went wrong goes to standard error, one sentence.
//!
//! ```text
//!   args --> commands/<name> --> connect --> the Rust client ====> hostkvd
//!                |   \--> doctor: the host itself, too
//!                \--> output: tables, JSON, a closed pipe         failure: a sentence and the exit code
//! ```
//!
//! Module order, each using only those above it: [`failure`], `output`, `key`, `args`, `connect`, `top`, `doctor`,
//! `commands`.

mod args;
mod commands;
mod connect;
mod doctor;
pub mod failure;
mod key;
mod output;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::Arguments;
use failure::Failure;

/// The command line, for man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Carries out a command line, which begins with the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(failure::USAGE);
            // A closed pipe, as behind `head`: who reads has had enough.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match commands::execute(&arguments) {
        Ok(code) => code,
        // Who reads has had enough.
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Told { code, text }) => {
            eprintln!("hostkv: {text}");
            ExitCode::from(code)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_put_together_rightly() {
        super::command().debug_assert();
    }
}
