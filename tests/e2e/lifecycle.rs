//! Start, one instance per socket, named segments, and the clean end.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use hostkv_tests::{
    Daemon, DaemonSpec, RawClient, Worker, assert_reads, daemon_program, keys, keyspace, request,
    skip, store,
};
use nix::sys::signal::Signal;

use crate::assert_refused;

#[test]
fn a_daemon_serves_from_the_first_connection_on_and_says_what_it_grants() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.0625", "--chunk-size", "64"]);
    let info = daemon.session().info().unwrap();
    assert_eq!(info.capacity_bytes, 64 << 20);
    assert_eq!(info.align_bytes, 4096);
    assert_eq!(info.pin_quota_bytes, 32 << 20);
    assert_eq!(info.reserve_quota_bytes, 8 << 20);
    assert_eq!(info.max_object_bytes, 8 << 20);
    assert_eq!(
        (info.pin_slot_count, info.max_batch_keys, info.chunk_size),
        (16_384, 1024, 64)
    );
    assert_eq!(info.server_version, env!("CARGO_PKG_VERSION"));
    let start = daemon.wait_for_line("hostkvd 0");
    for part in [
        "67108864 bytes",
        "LRU eviction from 0.80",
        "loopback only: --prometheus-host",
    ] {
        assert!(start.contains(part), "{part:?} is not in: {start}");
    }
    daemon.finish();
}

#[test]
fn sigterm_and_sigint_end_it_with_code_0_and_without_socket_and_lock() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&[]);
        let session = daemon.session();
        let space = keyspace(&session);
        let stored = keys("k", 2);
        store(&session, space, &stored, 100);
        let lease = session.acquire(space, &stored, &request(0)).unwrap();
        daemon.audit();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log_text());
        let left: Vec<PathBuf> = std::fs::read_dir(daemon.spec().folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert_refused(
            session.lookup(space, &stored, None),
            hostkv::Status::Disconnected,
        );
        assert_reads(&lease, 1, &stored[1]);
        lease.release().unwrap();
        session.close().unwrap();
    }
}

#[test]
fn a_second_start_on_the_socket_fails_and_names_the_pid_of_the_first() {
    let daemon = Daemon::start(&[]);
    let second = DaemonSpec::default()
        .beside(daemon.spec())
        .start_must_fail();
    let pid = format!("pid {}", daemon.pid());
    second.assert_says(1, &["hostkv.sock", &pid, "--socket"]);
    // The first one is none the worse for it.
    daemon.finish();
}

#[test]
fn of_daemons_that_race_for_a_socket_exactly_one_serves() {
    for _ in 0..5 {
        let place = DaemonSpec::new(&[]);
        let mut serving: Vec<_> = (0..4)
            .map(|_| {
                let spec = DaemonSpec::new(&["--disable-prometheus"]).beside(&place);
                spec.command().spawn().unwrap()
            })
            .collect();
        let mut refused = Vec::new();
        // The losers end by themselves, the winner runs until it is told.
        hostkv_tests::wait_until("one serves and three have ended", || {
            for mut racer in std::mem::take(&mut serving) {
                match racer.try_wait().unwrap() {
                    None => serving.push(racer),
                    Some(status) => {
                        let output = racer.wait_with_output().unwrap();
                        refused.push((status, String::from_utf8(output.stderr).unwrap()));
                    }
                }
            }
            serving.len() <= 1 && RawClient::connect(place.socket()).is_ok()
        });
        let pids: Vec<u32> = serving.iter().map(std::process::Child::id).collect();
        for mut daemon in serving {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        assert_eq!(pids.len(), 1, "{refused:?}");
        for (status, text) in refused {
            assert_eq!(status.code(), Some(1), "{text}");
            let line = text.lines().last().unwrap();
            assert!(line.contains(&format!("pid {}", pids[0])), "{line}");
        }
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let daemon = Daemon::start(&[]);
    let spec = daemon.kill();
    let stale = std::fs::symlink_metadata(spec.socket()).unwrap();
    assert!(stale.file_type().is_socket());
    spec.start().finish();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let spec = DaemonSpec::default();
    std::fs::write(spec.socket(), b"mine").unwrap();
    let failed = spec.start_must_fail();
    failed.assert_says(1, &["hostkv.sock", "--socket"]);
    assert_eq!(std::fs::read(spec.socket()).unwrap(), b"mine");
}

/// A name that no other run of the tests has.
fn shm_name(what: &str) -> (String, PathBuf) {
    let name = format!("hostkv-e2e-{}-{what}", std::process::id());
    let path = Path::new("/dev/shm").join(&name);
    (name, path)
}

#[test]
fn a_named_segment_serves_end_to_end_and_is_unlinked_at_the_end() {
    let (name, path) = shm_name("end-to-end");
    let daemon = Daemon::start(&["--shm-name", &name]);
    assert_eq!(path.metadata().unwrap().len(), 32 << 20);
    let session = daemon.session();
    let space = keyspace(&session);
    let stored = keys("k", 20);
    store(&session, space, &stored, 10_000);
    let reader = daemon.reader();
    let lease = reader
        .acquire(keyspace(&reader), &stored, &request(0))
        .unwrap();
    assert_eq!(lease.prefix_count(), 20);
    for (index, key) in stored.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.release().unwrap();
    drop((session, reader));
    daemon.finish();
    assert!(!path.exists());
}

#[test]
fn a_stale_named_segment_is_taken_over_and_a_live_one_is_not() {
    let (name, path) = shm_name("stale");
    let daemon = Daemon::start(&["--shm-name", &name]);
    let other = DaemonSpec::new(&["--shm-name", &name]).start_must_fail();
    other.assert_says(1, &["--shm-name", &name]);
    let spec = daemon.kill();
    assert!(path.exists(), "a SIGKILL leaves the name");
    spec.start().finish();
    assert!(!path.exists());
}

#[test]
fn daemon_and_client_find_each_other_at_the_usual_place() {
    let spec = DaemonSpec::default();
    let folder = spec.folder().to_owned();
    let runtime = folder.join("hostkv");
    // The daemon makes the last folder of the way itself.
    let daemon = spec
        .at_the_usual_place(runtime.join("hostkv.sock"))
        .variable("XDG_RUNTIME_DIR", folder.to_str().unwrap())
        .start();
    Worker::start_with(&[("XDG_RUNTIME_DIR", &folder)]).must("open");
    // HOSTKV_SOCKET goes before it.
    let socket = daemon.socket();
    let mut worker = Worker::start_with(&[
        ("HOSTKV_SOCKET", &socket),
        ("XDG_RUNTIME_DIR", Path::new("/no/such/folder")),
    ]);
    worker.must("open");
    drop(worker);
    // RUNTIME_DIRECTORY is the daemon's alone: a client may be a service with one of its own.
    if Path::new("/run/hostkv/hostkv.sock").exists() {
        skip(
            "a client does not look at RUNTIME_DIRECTORY: another hostkvd is at the last place that it looks at",
        );
    } else {
        let answer = Worker::start_with(&[("RUNTIME_DIRECTORY", &runtime)]).ask("open");
        assert!(answer.starts_with("DISCONNECTED "), "{answer}");
    }
    daemon.finish();

    let spec = DaemonSpec::default();
    let (first, second) = (spec.folder().join("one"), spec.folder().join("two"));
    std::fs::create_dir(&first).unwrap();
    let both = format!("{}:{}", first.display(), second.display());
    spec.at_the_usual_place(first.join("hostkv.sock"))
        .variable("RUNTIME_DIRECTORY", &both)
        .start()
        .finish();
}

#[test]
fn the_configuration_can_be_seen_without_a_start() {
    let output = std::process::Command::new(daemon_program())
        .args([
            "--socket",
            "/tmp/x.sock",
            "--l1-size-gb",
            "0.5",
            "--print-config",
        ])
        .env("HOSTKV_MAX_PINS", "1024")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for (key, value, origin) in [
        ("l1_size_gb", "0.5", "# flag"),
        ("max_pins", "1024", "# environment"),
        ("chunk_size", "256", "# default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line.contains(value) && line.contains(origin), "{line}");
    }
    assert!(!Path::new("/tmp/x.sock").exists());
}
