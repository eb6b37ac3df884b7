//! A hostkvd of a test's own, and starts that must fail.
//!
//! ```text
//!   DaemonSpec ── start ──> Daemon ── finish ──> audited, SIGTERM, exit code 0, socket gone    (a drop audits too)
//!        │                    └── kill ──> its DaemonSpec again, for a restart in the same folder
//!        └── start_must_fail ──> FailedStart: exit code and standard error
//! ```
//!
//! A thread for each daemon collects its standard error, line by line, until the daemon ends.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use hostkv::session::{Session, SessionConfig};
use hostkv_shm_protocol::wire::reply::{Audit, Figures};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::worker::end_with_parent;
use crate::{PATIENCE, RawClient, Scrape, wait_until};

/// Variables of the caller that would change what a daemon or a client does.
const FOREIGN_VARIABLES: [&str; 11] = [
    "LMCACHE_LOG_LEVEL",
    "JOURNAL_STREAM",
    "NO_COLOR",
    "RUNTIME_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Flags of a test that says nothing of them: small, quick, and out of the way of others.
const DEFAULTS: [(&str, &str); 3] = [
    ("--l1-size-gb", "0.03125"),
    ("--prometheus-port", "0"),
    ("--start-wait", "5"),
];

/// The folder with the programs of this build, `target/<profile>`.
pub(crate) fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("this program knows its own path");
    let mut folder = own.parent().expect("a program is in a folder").to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder
}

/// The hostkvd of this build.
pub fn daemon_program() -> PathBuf {
    let program = profile_folder().join("hostkvd");
    assert!(
        program.exists(),
        "there is no {}: the tests run the real daemon, so run `cargo build --workspace` first, with the profile of the \
         tests",
        program.display()
    );
    program
}

/// How a daemon is to be started.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    flags: Vec<OsString>,
    variables: Vec<(String, String)>,
    folder: Arc<TempDir>,
    socket: Option<PathBuf>,
    is_at_usual_place: bool,
    wrapper: Vec<OsString>,
    passed: Option<Arc<OwnedFd>>,
    reads_stderr: bool,
}

impl Default for DaemonSpec {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl DaemonSpec {
    /// With these flags beside the defaults, in a new temporary folder.
    pub fn new(flags: &[&str]) -> DaemonSpec {
        let folder = tempfile::Builder::new()
            .prefix("hostkv-e2e-")
            .tempdir()
            .expect("a temporary folder can be made");
        DaemonSpec {
            flags: flags.iter().map(OsString::from).collect(),
            variables: Vec::new(),
            folder: Arc::new(folder),
            socket: None,
            is_at_usual_place: false,
            wrapper: Vec::new(),
            passed: None,
            reads_stderr: true,
        }
    }

    /// With one more flag.
    pub fn flag(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self.flags.push(value.into());
        self
    }

    /// With this variable in its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In the folder of another one.
    pub fn beside(mut self, other: &DaemonSpec) -> Self {
        self.folder = Arc::clone(&other.folder);
        self.socket = other.socket.clone();
        self
    }

    /// Without `--socket`: its environment has to name a folder, in which this is to be the socket.
    pub fn at_the_usual_place(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = Some(socket.into());
        self.is_at_usual_place = true;
        self
    }

    /// On this socket instead of one in its temporary folder.
    pub fn at(mut self, socket: impl Into<PathBuf>) -> Self {
        self.socket = Some(socket.into());
        self
    }

    /// Run by another program: `words`, then the daemon's own command line.
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// With this descriptor as number 3, as a service manager passes it. Its environment gets the process's own id by a
    /// shell in between, which becomes the daemon.
    pub fn passed(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.passed = Some(Arc::new(descriptor.into()));
        self.variable("LISTEN_FDS", "1")
            .variable("LISTEN_FDNAMES", "hostkvd.socket")
            .wrapped(&["sh", "-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"])
    }

    /// With a standard error that nobody reads.
    pub fn with_stuck_stderr(mut self) -> Self {
        self.reads_stderr = false;
        self
    }

    /// Its temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.folder().join("hostkv.sock"))
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let program = daemon_program();
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        if !self.names("--socket") && !self.is_at_usual_place {
            command.arg("--socket").arg(self.socket());
        }
        for (flag, value) in DEFAULTS {
            let has_no_port = flag == "--prometheus-port" && self.names("--disable-prometheus");
            if !self.names(flag) && !self.names("--config") && !has_no_port {
                command.arg(flag).arg(value);
            }
        }
        command.args(&self.flags);
        for name in FOREIGN_VARIABLES {
            command.env_remove(name);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOSTKV_") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe { command.pre_exec(end_with_parent) };
        if let Some(passed) = &self.passed {
            let passed = Arc::clone(passed);
            // SAFETY: dup and dup2 are async-signal-safe, and the descriptor is open as long as the command is there.
            unsafe { command.pre_exec(move || pass_as_3(passed.as_raw_fd())) };
        }
        command
    }

    fn names(&self, flag: &str) -> bool {
        let with_value = format!("{flag}=");
        self.flags
            .iter()
            .any(|given| given == flag || given.to_string_lossy().starts_with(&with_value))
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Daemon {
        let mut child = self.command().spawn().expect("hostkvd can be run");
        let log = Log::default();
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let unread = if self.reads_stderr {
            log.collect(stderr);
            None
        } else {
            Some(stderr)
        };
        let mut daemon = Daemon {
            child,
            log,
            spec: self,
            metrics: None,
            has_ended: false,
            _unread: unread,
        };
        daemon.wait_until_ready();
        daemon
    }

    /// Starts it where it may serve or refuse to start; its log must be read.
    pub fn start_or_refuse(self) -> Result<Daemon, FailedStart> {
        let mut child = self.command().spawn().expect("hostkvd can be run");
        let log = Log::default();
        let collector = log.collect(child.stderr.take().expect("standard error is a pipe"));
        let deadline = Instant::now() + PATIENCE;
        while RawClient::connect(self.socket()).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                collector.join().expect("the collector ends with the log");
                return Err(FailedStart {
                    status,
                    stderr: log.lines().join("\n"),
                });
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!(
                    "hostkvd neither serves nor ends: {}",
                    log.lines().join("\n")
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let mut daemon = Daemon {
            child,
            log,
            spec: self,
            metrics: None,
            has_ended: false,
            _unread: None,
        };
        daemon.wait_until_ready();
        Ok(daemon)
    }

    /// Starts it where it must end by itself at once.
    pub fn start_must_fail(&self) -> FailedStart {
        let mut child = self.command().spawn().expect("hostkvd can be run");
        let mut stderr = child.stderr.take().expect("standard error is a pipe");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                let stderr = reader.join().unwrap().unwrap();
                panic!("hostkvd serves where it must refuse to start: {stderr}");
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        FailedStart {
            status,
            stderr: reader.join().unwrap().unwrap(),
        }
    }
}

/// Makes a descriptor number 3 of a child, for it to inherit.
fn pass_as_3(descriptor: RawFd) -> std::io::Result<()> {
    // SAFETY: the calls take numbers. The copy in between clears close-on-exec also when it is number 3 already.
    let done = unsafe {
        let copy = libc::dup(descriptor);
        copy >= 0 && libc::dup2(copy, 3) == 3 && (copy == 3 || libc::close(copy) == 0)
    };
    if done {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// A start that did not come about.
#[derive(Debug)]
pub struct FailedStart {
    /// How the process ended.
    pub status: ExitStatus,
    /// Its whole standard error.
    pub stderr: String,
}

impl FailedStart {
    /// The last line of standard error.
    pub fn last_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or("")
    }

    /// Panics unless the exit code is `code` and the last line begins with `hostkvd: ` and has all of `parts`.
    pub fn assert_says(&self, code: i32, parts: &[&str]) {
        let line = self.last_line();
        assert_eq!(self.status.code(), Some(code), "{}", self.stderr);
        assert!(line.starts_with("hostkvd: "), "{}", self.stderr);
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
    }
}

/// Lines of standard error, as they come.
#[derive(Debug, Clone, Default)]
struct Log {
    /// Guards the lines so far; held for a push or a look, never while reading or waiting for a daemon.
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Log {
    fn collect(&self, stderr: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        })
    }

    fn lines(&self) -> Vec<String> {
        self.lines.0.lock().unwrap().clone()
    }

    fn wait(&self, is_it: &dyn Fn(&str) -> bool) -> Option<String> {
        let lines = self.lines.0.lock().unwrap();
        let find = |lines: &Vec<String>| lines.iter().find(|line| is_it(line)).cloned();
        let (lines, _) = self
            .lines
            .1
            .wait_timeout_while(lines, PATIENCE, |lines| find(lines).is_none())
            .unwrap();
        find(&lines)
    }
}

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
    spec: DaemonSpec,
    metrics: Option<SocketAddr>,
    has_ended: bool,
    /// The pipe of a standard error that nobody reads.
    _unread: Option<std::process::ChildStderr>,
}

impl Daemon {
    /// Starts one with these flags beside the defaults.
    pub fn start(flags: &[&str]) -> Daemon {
        DaemonSpec::new(flags).start()
    }

    fn wait_until_ready(&mut self) {
        let socket = self.socket();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.has_ended = true;
                // The collector may be a line behind.
                std::thread::sleep(std::time::Duration::from_millis(50));
                panic!("hostkvd ended with {status}:\n{}", self.log_text());
            }
            if RawClient::connect(&socket).is_ok() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "hostkvd is not ready:\n{}",
                self.log_text()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let level = self
            .spec
            .variables
            .iter()
            .find(|(name, _)| name == "LMCACHE_LOG_LEVEL");
        let is_quiet = level.is_some_and(|(_, level)| {
            ["WARNING", "ERROR", "CRITICAL"].contains(&level.to_uppercase().as_str())
        });
        if self.spec.reads_stderr && !is_quiet && !self.spec.names("--disable-prometheus") {
            let begin = "Prometheus metrics available at http://";
            let line = self.wait_for_line(begin);
            let (_, rest) = line.split_once(begin).unwrap();
            let address = rest.trim_end_matches("/metrics");
            self.metrics = Some(address.parse().expect("the log names an address"));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.spec.socket()
    }

    /// How it was started.
    pub fn spec(&self) -> &DaemonSpec {
        &self.spec
    }

    /// Its metrics endpoint.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
            .expect("this daemon serves metrics and says where")
    }

    /// A configuration of a session with it.
    pub fn config(&self, flags: u32) -> SessionConfig {
        SessionConfig {
            flags,
            socket_path: Some(self.socket()),
            client_name: "e2e".to_owned(),
            ..SessionConfig::default()
        }
    }

    /// A session with it that may write.
    pub fn session(&self) -> Session {
        Session::open(&self.config(0)).unwrap()
    }

    /// A read-only session with it.
    pub fn reader(&self) -> Session {
        Session::open(&self.config(hostkv::session::READ_ONLY)).unwrap()
    }

    /// A client that speaks the protocol by hand, its HELLO accepted.
    pub fn raw_client(&self) -> RawClient {
        let mut raw = RawClient::connect(self.socket()).unwrap();
        raw.open().unwrap();
        raw
    }

    /// One scrape, whose keys add up.
    pub fn scrape(&self) -> Scrape {
        let scrape = Scrape::get(self.metrics_address(), "/metrics").unwrap();
        assert!(scrape.head.starts_with("HTTP/1.1 200"), "{}", scrape.head);
        scrape.assert_adds_up();
        scrape
    }

    /// The pool's figures.
    pub fn figures(&self) -> Figures {
        self.session().figures().unwrap()
    }

    /// A recount of everything, in which nothing may be off.
    pub fn audit(&self) -> Audit {
        let audit = self.session().audit().unwrap();
        assert_eq!(audit.verdict, "", "{audit:?}\n{}", self.log_text());
        audit
    }

    /// Waits until the recount fulfils the claim, and gives it.
    pub fn audit_until(&self, what: &str, claim: impl Fn(&Audit) -> bool) -> Audit {
        let deadline = Instant::now() + PATIENCE;
        let session = self.session();
        loop {
            let audit = session.audit().unwrap();
            assert_eq!(audit.verdict, "", "{audit:?}\n{}", self.log_text());
            if claim(&audit) {
                return audit;
            }
            assert!(
                Instant::now() < deadline,
                "it does not happen: {what}; {audit:?}\n{}",
                self.log_text()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Waits until `count` sessions are open, without being one.
    pub fn wait_for_sessions(&self, count: u64) {
        wait_until(&format!("{count} sessions are open"), || {
            self.scrape().sample("hostkv_sessions") as u64 == count
        });
    }

    /// What stands on its standard error so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// As [`Daemon::log_lines`], as one text.
    pub fn log_text(&self) -> String {
        self.log.lines().join("\n")
    }

    /// Waits for a line with this part.
    pub fn wait_for_line(&self, part: &str) -> String {
        match self.log.wait(&|line| line.contains(part)) {
            Some(line) => line,
            None => panic!("there is no line with {part:?}:\n{}", self.log_text()),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(!self.has_ended, "hostkvd has ended");
        // The child is not reaped, so the pid is still its own.
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.has_ended = true;
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "hostkvd does not end:\n{}",
                self.log_text()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// SIGKILLs it; gives what can start the next one in the same folder.
    pub fn kill(mut self) -> DaemonSpec {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().signal(), Some(libc::SIGKILL));
        self.spec.clone()
    }

    /// Audits it, SIGTERMs it, and panics unless it ends with exit code 0.
    pub fn stop(&mut self) {
        self.audit();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log_text());
        assert!(!self.socket().exists(), "the socket is still there");
    }

    /// Ends a test: nothing may be off in the audit, and SIGTERM must end the daemon cleanly.
    pub fn finish(mut self) {
        self.stop();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that ends without `finish` ends with an audit all the same, unless it fails already.
        if !self.has_ended && self.is_running() && !std::thread::panicking() {
            self.audit();
        }
        if !self.has_ended {
            // It may have ended by itself; then both are refused, which is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            for line in self.log_lines() {
                eprintln!("  hostkvd | {line}");
            }
        }
    }
}
