//! Renders what an installation needs as text: manual pages, shell completions and the default configuration.
//!
//! `scripts/install-files.sh` runs it while it puts the files together; it is not installed itself. Every fact comes
//! from where the programs have theirs: their command lines, the daemon's list of settings, and the library's header.
//!
//! ```text
//!   hostkv-pages HEADER DATE FOLDER          DATE as 2026-11-25, that of the release
//!     the daemon's settings ──> FOLDER/hostkvd.8, FOLDER/hostkvd.toml.5, FOLDER/hostkvd.toml
//!     the tool's command line ─> FOLDER/hostkv.1
//!     HEADER (hostkv.h) ──────> FOLDER/libhostkv.3
//!     both command lines ─────> FOLDER/PROGRAM.bash, _PROGRAM, PROGRAM.fish
//! ```

mod daemon;
mod library;
mod page;
mod tool;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::Shell;
use hostkv_daemon::config::document;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [header, date, folder] = arguments.as_slice() else {
        eprintln!("usage: hostkv-pages HEADER DATE FOLDER");
        return ExitCode::from(2);
    };
    match render(
        Path::new(header),
        &date.to_string_lossy(),
        Path::new(folder),
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostkv-pages: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(header: &Path, date: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let header = std::fs::read_to_string(header)
        .map_err(|error| format!("{} can't be read: {error}", header.display()))?;
    let files = [
        ("hostkvd.8", daemon::program(date)?),
        ("hostkvd.toml.5", daemon::file(date)?),
        ("hostkvd.toml", daemon::default_file()?),
        ("hostkv.1", tool::page(date)),
        ("libhostkv.3", library::page(&header, date)?),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut document::command(), "hostkvd", folder)?;
        clap_complete::generate_to(shell, &mut hostkv_cli::command(), "hostkv", folder)?;
    }
    Ok(())
}
