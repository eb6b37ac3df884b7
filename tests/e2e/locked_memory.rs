//! `--mlock`: payload and index stay in memory, or the start says which limit to raise.

use std::os::unix::process::CommandExt as _;

use hostkv_tests::{Daemon, DaemonSpec, is_root, skip};
use nix::sys::resource::{Resource, getrlimit};

/// A field of `/proc/PID/status`, in KiB.
fn kib_of(daemon: &Daemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn payload_and_index_are_locked_when_asked_and_only_then() {
    let daemon = Daemon::start(&[]);
    assert_eq!(kib_of(&daemon, "VmLck"), 0);
    daemon.finish();
    let (_, hard_bytes) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    if !is_root() && hard_bytes < 128 << 20 {
        skip("locked memory: this user may lock too little");
        return;
    }
    let daemon = Daemon::start(&["--mlock"]);
    let index_kib = kib_of(&daemon, "VmLck").checked_sub(32 << 10);
    assert!(index_kib.is_some_and(|kib| kib > 1 << 10), "{index_kib:?}");
    daemon.finish();
}

#[test]
fn a_limit_that_is_too_low_ends_the_start_with_the_limit_to_raise() {
    let spec = DaemonSpec::new(&["--mlock"]);
    let mut command = spec.command();
    // SAFETY: both calls are async-signal-safe and concern the child alone.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 1 << 20,
                rlim_max: 1 << 20,
            };
            // CAP_IPC_LOCK, which root would have without a bound; others can't drop what they lack.
            libc::prctl(libc::PR_CAPBSET_DROP, 14, 0, 0, 0);
            match libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or("");
    for part in [
        "hostkvd: locking ",
        "this process may lock 1.0 MiB",
        "RLIMIT_MEMLOCK",
        "LimitMEMLOCK=",
        "--mlock",
    ] {
        assert!(last.contains(part), "{part:?} is not in: {last}");
    }
}
