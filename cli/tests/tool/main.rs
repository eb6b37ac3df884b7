//! The tool as people and programs use it: in pipes, in a real terminal, against a real daemon and against hosts with
//! something wrong. One module for each promise.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, with the place and the error"
)]

mod admins;
mod commands;
mod doctor;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hostkv_tests::Daemon;

/// The tool of this build.
const TOOL: &str = env!("CARGO_BIN_EXE_hostkv");

/// Variables of the caller that would change what the tool does.
const FOREIGN_VARIABLES: [&str; 5] = [
    "HOSTKV_SOCKET",
    "HOSTKV_SALT",
    "XDG_RUNTIME_DIR",
    "NO_COLOR",
    "RUNTIME_DIRECTORY",
];

/// What a run of the tool gave.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics unless it ended with this code and all of the parts are on standard error.
    fn assert_says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in: {self:?}");
        }
    }

    /// Its standard output; panics unless it ended with code 0 and without a word on standard error.
    fn done(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.text()
    }

    fn json(self) -> serde_json::Value {
        let text = self.done();
        assert_eq!(text.lines().count(), 1, "one document, one line: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The tool with these arguments, without the caller's environment of hostkv.
fn tool_at(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The tool with these arguments.
fn tool(arguments: &[&str]) -> Command {
    tool_at(Path::new(TOOL), arguments)
}

/// Runs the tool at a daemon.
fn run(daemon: &Daemon, arguments: &[&str]) -> Ran {
    let mut command = tool(arguments);
    Ran::of(
        command
            .env("HOSTKV_SOCKET", daemon.socket())
            .output()
            .unwrap(),
    )
}

/// A copy of the tool that every user may run, in a folder that they may enter.
fn tool_for_everybody() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("hostkv");
    make_program(TOOL.as_ref(), &program);
    (folder, program)
}

/// Copies a program or a script to where everybody may run it.
///
/// A process of its own writes it: what this one had open for writing, a child that another test forks at that moment
/// would have open too, and nobody may run a file that somebody has open for writing.
fn make_program(from: &Path, to: &Path) {
    let made = Command::new("install")
        .args(["-m", "755"])
        .args([from, to])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}
