//! hostkv: arguments, one command, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hostkv_cli::run(std::env::args_os())
}
