//! hostkvd: arguments, configuration, run, exit code.

use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;

use hostkv_daemon::ballast::Ballast;
use hostkv_daemon::config::{self, Invocation};
use hostkv_daemon::error::StartError;

#[global_allocator]
static ALLOCATOR: Ballast<System> = Ballast(System);

fn main() -> ExitCode {
    match config::from_process() {
        Ok(Invocation::Run(config)) => match hostkv_daemon::run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => error.report(),
        },
        Ok(Invocation::PrintConfig(text) | Invocation::Text(text)) => {
            match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                // A closed pipe, as behind `head`: who reads has had enough.
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => StartError::from(error).report(),
    }
}
