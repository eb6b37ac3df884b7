//! The hostkvd on disk: beside this program, else in PATH. Asked for its version and for a configuration, never started
//! as a daemon.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to print a version or a configuration.
const PATIENCE: Duration = Duration::from_secs(5);

/// A hostkvd that can be run.
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its version as it tells it.
    pub version: String,
}

/// Finds it; the error says why it can't be asked.
pub fn find() -> Result<Program, String> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(|folder| folder.join("hostkvd")));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&in_path).map(|folder| folder.join("hostkvd"));
    let path = beside
        .into_iter()
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or("there is no hostkvd beside this program or in PATH")?;
    let told = output_of(&path, &[OsString::from("--version")], &[])?;
    let version = told
        .stdout
        .strip_prefix("hostkvd ")
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| format!("{} does not tell its version", path.display()))?;
    Ok(Program { path, version })
}

/// What a run of the program printed.
pub struct Told {
    /// Whether its exit code was 0.
    pub is_success: bool,
    /// Its standard output.
    pub stdout: String,
    /// The last line of its standard error.
    pub last_line: String,
}

/// The configuration that these flags give, as the program prints it. A socket that they do not name is `socket`.
pub fn print_config(
    program: &Program,
    flags: &[OsString],
    socket: Option<&Path>,
) -> Result<Told, String> {
    let names_socket = flags
        .iter()
        .any(|flag| flag == "--socket" || flag.as_encoded_bytes().starts_with(b"--socket="));
    let mut arguments = vec![OsString::from("--print-config")];
    arguments.extend_from_slice(flags);
    if let Some(socket) = socket.filter(|_| !names_socket) {
        arguments.extend([OsString::from("--socket"), socket.into()]);
    }
    // A client's variable, which would name the daemon's socket here.
    output_of(&program.path, &arguments, &[OsStr::new("HOSTKV_SOCKET")])
}

fn output_of(path: &Path, arguments: &[OsString], without: &[&OsStr]) -> Result<Told, String> {
    let fault = |error: std::io::Error| format!("{} can't be run: {error}", path.display());
    let mut command = Command::new(path);
    for name in without {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fault)?;
    // Both fit into a pipe, so that nobody has to read while it runs.
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(fault)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            None => {
                // It may have ended in this moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "{} did not end within {} s",
                    path.display(),
                    PATIENCE.as_secs()
                ));
            }
        }
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout).map_err(fault)?;
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut stderr).map_err(fault)?;
    }
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Ok(Told {
        is_success: status.success(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        last_line: stderr.lines().last().unwrap_or_default().to_owned(),
    })
}
