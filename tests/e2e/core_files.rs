//! Core files: what a process leaves that dies of a bug is small and has no object's bytes in it.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use hostkv_tests::{DaemonSpec, Worker, keys, keyspace, skip, store};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a core file has at most.
const MOST_BYTES: u64 = 16 << 20;
/// The payload, all of it in use.
const SIZE_GB: &str = "0.125";

/// Whether a process that aborts leaves a file in its working folder.
fn leaves_core_files(what: &str) -> bool {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    let is_so = pattern.starts_with("core") && !pattern.contains('/') && hard == RLIM_INFINITY;
    if !is_so {
        skip(&format!(
            "the core file of {what}: core_pattern is {:?}, the limit {hard} bytes; its maps are looked at",
            pattern.trim()
        ));
    }
    is_so
}

/// Words that run a program where its core file is to be, with no limit on it.
fn dying_in(folder: &Path) -> [String; 4] {
    let script = format!(
        "ulimit -c unlimited; cd '{}'; exec \"$@\"",
        folder.display()
    );
    ["sh".into(), "-c".into(), script, "sh".into()]
}

/// Payload and lease segments are left out of a core file of this process, and what is in it of all segments is little.
fn assert_left_out(pid: u32) {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut name, mut size_kib) = ("", 0);
    let (mut left_out_kib, mut dumped_kib) = (0, 0);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Size:", kib, "kB"] => size_kib = kib.parse().unwrap(),
            ["VmFlags:", flags @ ..] if name.contains("memfd:") => {
                let is_left_out = flags.contains(&"dd");
                let has_bytes = name.contains("payload") || name.contains("lease");
                assert!(is_left_out || !has_bytes, "{name}: {flags:?}");
                *match is_left_out {
                    true => &mut left_out_kib,
                    false => &mut dumped_kib,
                } += size_kib;
            }
            [first, ..] if first.contains('-') && !first.ends_with(':') => name = line,
            _ => {}
        }
    }
    assert!(
        left_out_kib >= 128 << 10,
        "the payload is mapped: {left_out_kib} KiB"
    );
    assert!(
        dumped_kib << 10 < MOST_BYTES,
        "{dumped_kib} KiB of segments"
    );
}

/// Panics unless the end left one core file there; gives its length, and what it takes of the disk.
fn core_bytes(folder: &Path, status: ExitStatus) -> (u64, u64) {
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(status.core_dumped());
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("core")
        })
        .collect();
    let [file] = files.as_slice() else {
        panic!("one core file: {files:?}");
    };
    let found = std::fs::metadata(file).unwrap();
    (found.len(), found.blocks() * 512)
}

#[test]
fn a_client_that_aborts_leaves_a_small_core_file() {
    let daemon = DaemonSpec::new(&["--l1-size-gb", SIZE_GB]).start();
    let folder = tempfile::tempdir().unwrap();
    let wrapper = dying_in(folder.path());
    let mut worker = Worker::start_at(&daemon.socket(), &wrapper.each_ref().map(String::as_str));
    worker.must("open");
    // All pages of the objects have been touched by this process.
    for order in ["reserve k 10 1500000", "fill", "commit"] {
        worker.must(order);
    }
    for order in ["acquire k 10", "verify"] {
        assert_eq!(worker.must(order), "10");
    }
    assert_left_out(worker.pid());
    if leaves_core_files("a client") {
        kill(Pid::from_raw(worker.pid() as i32), Signal::SIGABRT).unwrap();
        let (len_bytes, _) = core_bytes(folder.path(), worker.end());
        assert!((4096..MOST_BYTES).contains(&len_bytes), "{len_bytes} bytes");
    }
    drop(worker);
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn a_daemon_that_aborts_leaves_a_small_core_file() {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = dying_in(folder.path());
    // In the sandbox it could make no file there.
    let mut daemon = DaemonSpec::new(&["--l1-size-gb", SIZE_GB, "--sandbox", "off"])
        .wrapped(&wrapper.each_ref().map(String::as_str))
        .start();
    let session = daemon.session();
    let space = keyspace(&session);
    for round in 0..8 {
        store(&session, space, &keys(&format!("k{round}"), 8), 1 << 20);
    }
    drop(session);
    assert_left_out(daemon.pid());
    if !leaves_core_files("the daemon") {
        daemon.finish();
        return;
    }
    daemon.signal(Signal::SIGABRT);
    // Its length counts the stacks of all threads, of which most was never touched and is a hole.
    let (_, disk_bytes) = core_bytes(folder.path(), daemon.wait());
    assert!(
        (4096..MOST_BYTES).contains(&disk_bytes),
        "{disk_bytes} bytes"
    );
}
