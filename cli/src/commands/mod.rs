//! The commands, one file each; each opens a session, asks, and prints.

mod bench;
mod clear;
mod get;
mod ls;
mod ping;
mod put;
mod reload;
mod rm;
mod status;

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::{Arguments, Command};
use crate::failure::{FAILED, Failure};
use crate::output::Output;
use crate::{doctor, top};

/// Carries a command out.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let common = &arguments.common;
    let mut output = Output::new();
    let output = &mut output;
    match &arguments.command {
        Command::Status(status) => status::run(common, status, output)?,
        Command::Top => return top::run(common, output),
        Command::Ls(ls) => ls::run(common, ls, output)?,
        Command::Get(get) => get::run(common, get, output)?,
        Command::Put(put) => put::run(common, put, output)?,
        Command::Rm(rm) => rm::run(common, rm, output)?,
        Command::Clear(clear) => clear::run(common, clear, output)?,
        Command::Ping(ping) => ping::run(common, ping, output)?,
        Command::Bench(bench) => bench::run(common, bench, output)?,
        Command::Reload => reload::run(common, output)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "hostkv", &mut script);
            output.bytes(&script)?;
        }
        Command::Doctor(doctor) => {
            let found = doctor::run(common, doctor, output)?;
            output.flush()?;
            return Ok(ExitCode::from(if found { FAILED } else { 0 }));
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
