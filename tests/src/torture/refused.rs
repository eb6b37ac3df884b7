//! F22: a system call fails, each one once, in the daemon and in a client.
//!
//! ```text
//!   strace, once                                 how often a whole run makes each call: start, a client's life, the end
//!   strace -e inject=CALL:error=ERRNO:when=N     for each call, each N and each error that it may give
//! ```
//!
//! The daemon ends its start by one sentence and code 1, or it serves. It may lose the client that it was talking to;
//! the next one finds all in order. A client gets a status, and its next try succeeds. Nobody dies of a signal, hangs or
//! leaves something behind.
//!
//! The calls of the loader are left out, and those whose failure the kernel does not know or which strace would leave
//! undone: what is not closed or unmapped stays, whoever is to blame. strace counts the calls of each thread for itself.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hostkv::session::{Session, SessionConfig};
use hostkv::{Error, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Fault, Run, Skipped, Stage};
use crate::{
    DaemonSpec, PATIENCE, RawClient, Worker, end_with_parent, is_filled, keys, keyspace_config,
    request, reserve_items,
};

/// In the daemon.
pub static OF_THE_DAEMON: Fault = Fault {
    id: "F22",
    name: "each system call of the daemon fails once, by each of its errors",
    required: "ends by one sentence or goes on; 0 signals, 0 hangs, 0 leaks",
    full_cycles: 1500,
    weight: 6,
    run: of_the_daemon,
};

/// In a client.
pub static OF_A_CLIENT: Fault = Fault {
    id: "F22",
    name: "each system call of a client fails once, by each of its errors",
    required: "a status, and the next try succeeds; 0 signals, 0 hangs, 0 leaks",
    full_cycles: 500,
    weight: 2,
    run: of_a_client,
};

/// Calls that are left alone: beginning and end of a program or a thread, calls that cannot fail as they are used, and
/// those that give something back.
const LEFT_ALONE: &[&str] = &[
    "execve",
    "exit",
    "exit_group",
    "brk",
    "arch_prctl",
    "set_tid_address",
    "rseq",
    "rt_sigreturn",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "futex",
    "close",
    "munmap",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getegid",
    "getgid",
    "umask",
    "sched_yield",
    "restart_syscall",
    "clock_nanosleep",
];

/// The errors of each call that the kernel may give to a right caller.
const ERRORS: &[(&[&str], &[&str])] = &[
    (
        &["openat", "open"],
        &["EMFILE", "ENFILE", "EACCES", "ENOMEM"],
    ),
    (
        &["accept4", "accept"],
        &["EMFILE", "ENFILE", "ECONNABORTED"],
    ),
    (&["socket", "socketpair"], &["EMFILE", "ENOBUFS"]),
    (
        &[
            "eventfd2",
            "epoll_create1",
            "timerfd_create",
            "signalfd4",
            "memfd_create",
            "pidfd_open",
            "pipe2",
        ],
        &["EMFILE", "ENOMEM"],
    ),
    (&["epoll_ctl"], &["ENOSPC", "ENOMEM"]),
    (
        &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"],
        &["EINTR"],
    ),
    (&["bind"], &["EADDRINUSE", "EACCES"]),
    (&["connect"], &["ECONNREFUSED", "EAGAIN"]),
    (&["sendmsg", "sendto"], &["ENOBUFS", "EINTR", "ECONNRESET"]),
    (&["recvmsg", "recvfrom"], &["ENOMEM", "EINTR", "ECONNRESET"]),
    (&["read", "pread64"], &["EINTR", "EIO"]),
    (&["write", "writev"], &["EINTR", "EIO", "ENOSPC"]),
    (&["fallocate"], &["ENOSPC", "EINTR"]),
    (&["ftruncate"], &["EINTR", "ENOSPC"]),
    (&["flock"], &["EINTR", "ENOLCK"]),
    (&["getrandom"], &["EINTR"]),
    (&["clone3", "clone"], &["EAGAIN"]),
    (
        &["unlink", "unlinkat", "mkdir", "chmod", "fchmodat"],
        &["EACCES"],
    ),
    (&["fcntl", "fchmod", "prctl", "seccomp"], &["EPERM"]),
];

/// What any other call may give.
const OTHERWISE: &[&str] = &["ENOMEM"];

/// One failure.
#[derive(Debug, Clone)]
struct Point {
    call: String,
    number: u32,
    error: &'static str,
}

impl Point {
    fn inject(&self) -> String {
        format!(
            "inject={}:error={}:when={}",
            self.call, self.error, self.number
        )
    }
}

/// Every failure of every call that the trace has behind the program's own beginning.
fn points(trace: &str, own: &[&str]) -> Vec<Point> {
    let mut before: BTreeMap<&str, u32> = BTreeMap::new();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut has_begun = false;
    for line in trace.lines() {
        // "1234 sendmsg(3, ..."
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !call.bytes().all(is_name) || LEFT_ALONE.contains(&call) || own.contains(&call) {
            // The runtime of Rust gives the first thread its second stack, and then comes `main`.
            has_begun |= line.contains("sigaltstack({");
            continue;
        }
        if !has_begun {
            *before.entry(call).or_default() += 1;
        }
        *counts.entry((call, thread)).or_default() += 1;
    }
    let mut most: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    let errors_of = |call: &str| {
        ERRORS
            .iter()
            .find(|(calls, _)| calls.contains(&call))
            .map_or(OTHERWISE, |(_, errors)| *errors)
    };
    most.into_iter()
        .flat_map(|(call, count)| {
            let first = before.get(call).copied().unwrap_or(0) + 1;
            (first..=count).flat_map(move |number| {
                errors_of(call).iter().map(move |error| Point {
                    call: call.to_owned(),
                    number,
                    error,
                })
            })
        })
        .collect()
}

/// Takes the points in any order, each once before any comes again.
struct Sweep {
    all: Vec<Point>,
    left: Vec<Point>,
}

impl Sweep {
    fn new(all: Vec<Point>) -> Sweep {
        assert!(!all.is_empty(), "the trace shows no call");
        Sweep {
            all,
            left: Vec::new(),
        }
    }

    fn next(&mut self, run: &mut Run) -> Point {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let at = run.random.below(self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }
}

/// Waits for the end of a process; SIGKILLs it and panics when it does not come.
fn end_of(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A hostkvd under strace, which may not come to serve.
struct Traced {
    child: Child,
    log: Option<JoinHandle<String>>,
    spec: DaemonSpec,
    what: String,
}

impl Traced {
    /// strace is a grandchild, so that the child is the daemon itself.
    fn start(arguments: &[&str], what: String) -> Traced {
        let words = [&["strace", "-D", "-qq", "-f"], arguments].concat();
        let flags = ["--l1-size-gb", "0.0078125", "--enable-telemetry"];
        let spec = DaemonSpec::new(&flags).wrapped(&words);
        let mut command = spec.command();
        command.stdout(Stdio::null());
        let mut child = command.spawn().expect("strace can be run");
        let mut stderr = child.stderr.take().expect("standard error is a pipe");
        let log = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read until an error is what there is.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Traced {
            child,
            log: Some(log),
            spec,
            what,
        }
    }

    /// Whether it serves; otherwise it has ended.
    fn serves(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            if RawClient::connect(self.spec.socket()).is_ok() {
                return true;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("{}: it neither serves nor ends", self.what);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Waits for its end and judges how it ended; gives whether that was by a sentence.
    fn judge_end(&mut self) -> bool {
        let status = end_of(&mut self.child, &self.what);
        let log = self.log.take().expect("it ends once");
        let log = log.join().expect("the reader of the log ends with it");
        let last = log.lines().last().unwrap_or_default();
        let what = &self.what;
        assert!(status.signal().is_none(), "{what}: {status}\n{log}");
        // A part that another crate starts may fail so; then it is told, and the start ends by its sentence. Threads of
        // another crate's own have no name, all others have one.
        let is_foreign =
            |line: &str| line.contains("metrics-start") || line.contains("Thread without a name");
        let is_panic = |line: &str| line.contains("panicked") && !is_foreign(line);
        assert!(!log.lines().any(is_panic), "{what}: {log}");
        if status.success() {
            return false;
        }
        // Who may not write can't say why.
        let is_said = last.starts_with("hostkvd: ") || what.contains("write");
        assert!(
            status.code() == Some(1) && is_said,
            "{what}: {status}\n{log}"
        );
        true
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // It may have ended by itself; then both are refused, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole life as a client.
fn live(socket: &Path) -> Result<(), Error> {
    let session = Session::open(&SessionConfig {
        socket_path: Some(socket.to_owned()),
        timeout_ms: 5000,
        ..SessionConfig::default()
    })?;
    let space = session.open_keyspace(&keyspace_config("test-model"))?;
    let own = keys("life", 4);
    let items = reserve_items(&own, 8000);
    let reservation = session.reserve(space, &items, &request(0))?;
    for (index, key) in own.iter().enumerate() {
        // A life before this one may have ended with its objects stored.
        let Ok(span) = reservation.span(index) else {
            continue;
        };
        // SAFETY: a granted span is this thread's alone until the commit.
        unsafe { crate::fill(key, span.data, span.len_bytes) };
    }
    reservation.commit()?;
    let lease = session.acquire(space, &own, &request(0))?;
    for (index, key) in own.iter().enumerate() {
        let span = lease.span(index)?;
        // SAFETY: the lease keeps the bytes, and committed bytes do not change.
        let is_right = unsafe { is_filled(key, span.data, span.len_bytes) };
        assert!(is_right, "wrong bytes");
    }
    lease.release()?;
    session.remove(space, &own, None)?;
    session.close()
}

/// Lives until one life comes to its end, or the daemon has ended; the errors before it.
fn live_on(daemon: &mut Traced) -> u32 {
    for failures in 0..5 {
        match live(&daemon.spec.socket()) {
            Ok(()) => return failures,
            Err(error) => {
                let is_known = ![Status::Internal, Status::InvalidArgument].contains(&error.status);
                assert!(is_known, "{}: {}", daemon.what, error.message);
                if daemon.child.try_wait().unwrap().is_some() {
                    return failures + 1;
                }
                // What the lost one reserved is still charged until its process ends: that is this one.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    panic!("{}: nobody can live with the daemon any more", daemon.what);
}

fn of_the_daemon(run: &mut Run) -> Result<(), Skipped> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("calls");
    let trace_text = trace.to_str().expect("the path is text");
    let mut untouched = Traced::start(&["-o", trace_text], "without a failure".to_owned());
    if !untouched.serves() {
        return Err(Skipped("strace is missing, or may not trace".to_owned()));
    }
    assert_eq!(live_on(&mut untouched), 0);
    kill(Pid::from_raw(untouched.child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(!untouched.judge_end(), "{}", untouched.what);
    drop(untouched);
    let mut sweep = Sweep::new(points(&std::fs::read_to_string(&trace).unwrap(), &[]));
    let (mut refused, mut lost) = (0, 0);
    while run.goes_on() {
        let point = sweep.next(run);
        let inject = point.inject();
        let what = format!(
            "the daemon's {} number {} gives {}",
            point.call, point.number, point.error
        );
        let mut daemon = Traced::start(&["-o", "/dev/null", "-e", &inject], what);
        run.count(1);
        if !daemon.serves() {
            assert!(
                daemon.judge_end(),
                "{}: it ends without a reason",
                daemon.what
            );
            refused += 1;
            continue;
        }
        lost += live_on(&mut daemon);
        if daemon.child.try_wait().unwrap().is_none() {
            assert_in_order(&mut daemon);
            kill(Pid::from_raw(daemon.child.id() as i32), Signal::SIGTERM).unwrap();
        }
        refused += u32::from(daemon.judge_end());
    }
    run.note(format!(
        "{} failures of {} calls; {refused} ends by a sentence, {lost} clients lost",
        sweep.all.len(),
        distinct(&sweep.all)
    ));
    Ok(())
}

fn distinct(points: &[Point]) -> usize {
    let calls: std::collections::BTreeSet<_> = points.iter().map(|point| &point.call).collect();
    calls.len()
}

/// An audit without a finding, by a client of its own, unless the failure hits it; then the next one.
fn assert_in_order(daemon: &mut Traced) {
    for _ in 0..3 {
        let audited = Session::open(&SessionConfig {
            socket_path: Some(daemon.spec.socket()),
            ..SessionConfig::default()
        })
        .and_then(|session| session.audit());
        match audited {
            Ok(audit) => {
                assert_eq!(audit.verdict, "", "{}: {audit:?}", daemon.what);
                return;
            }
            Err(_) if daemon.child.try_wait().unwrap().is_some() => return,
            Err(_) => {}
        }
    }
    panic!("{}: no audit can be had", daemon.what);
}

/// Two lives of a worker under strace; what it answered, and how it ended.
fn lives(stage: &Stage, arguments: &[&str]) -> (ExitStatus, String) {
    let orders = stage.daemon.spec().folder().join("lives");
    let mut command = Command::new("strace");
    command
        .args(["-D", "-qq", "-f"])
        .args(arguments)
        .arg(Worker::program())
        .arg(stage.daemon.socket())
        .stdin(std::fs::File::open(orders).expect("the orders are written"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches nothing of this process.
    unsafe { command.pre_exec(end_with_parent) };
    let mut child = command.spawn().expect("strace can be run");
    let status = end_of(&mut child, &format!("a client with {arguments:?}"));
    let mut answers = String::new();
    let mut out = child.stdout.take().expect("standard output is a pipe");
    out.read_to_string(&mut answers).unwrap();
    (status, answers)
}

fn of_a_client(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let folder = stage.daemon.spec().folder().to_owned();
    std::fs::write(folder.join("lives"), "life\nlife\n").unwrap();
    let trace = folder.join("calls");
    let trace_text = trace.to_str().expect("the path is text");
    let (status, answers) = lives(&stage, &["-o", trace_text]);
    if !status.success() {
        return Err(Skipped("strace is missing, or may not trace".to_owned()));
    }
    assert_eq!(answers, "OK\nOK\n");
    // By read and write the worker takes orders and answers; the library makes neither.
    let trace = std::fs::read_to_string(&trace).unwrap();
    let mut sweep = Sweep::new(points(&trace, &["read", "write"]));
    let mut refused = 0;
    while run.goes_on() {
        let point = sweep.next(run);
        let inject = point.inject();
        let (status, answers) = lives(&stage, &["-o", "/dev/null", "-e", &inject]);
        assert!(status.success(), "{inject}: {status} {answers}");
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines.len(), 2, "{inject}: {answers}");
        assert!(lines.contains(&"OK"), "{inject}: {answers}");
        assert!(!answers.contains("INTERNAL"), "{inject}: {answers}");
        refused += u32::from(lines != ["OK", "OK"]);
        stage.assert_nothing_leaked();
        run.count(1);
    }
    run.note(format!(
        "{} failures of {} calls; {refused} lives ended by a status",
        sweep.all.len(),
        distinct(&sweep.all)
    ));
    stage.finish(run);
    Ok(())
}
