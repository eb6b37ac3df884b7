//! Socket activation: the daemon serves on a socket that the service manager made and keeps.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt};
use std::path::Path;

use hostkv_tests::{
    Daemon, DaemonSpec, RawClient, Worker, assert_reads, is_root, keys, keyspace, request, skip,
    store, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

/// A socket as a `.socket` unit makes it: listening, and blocking.
fn listening(path: &Path, kind: SockType) -> OwnedFd {
    let made = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(made.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&made, Backlog::new(64).unwrap()).unwrap();
    made
}

/// A start on the socket, without `--socket`.
fn activated(passed: &OwnedFd, path: &Path, flags: &[&str]) -> DaemonSpec {
    DaemonSpec::new(flags)
        .at_the_usual_place(path)
        .passed(passed.try_clone().unwrap())
}

/// SIGTERM, exit code 0, the socket still there and the lock gone.
fn stop(mut daemon: Daemon) {
    daemon.audit();
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait();
    assert_eq!(status.code(), Some(0), "{}", daemon.log_text());
    let socket = daemon.socket();
    let found = std::fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert!(!socket.with_extension("sock.lock").exists());
}

#[test]
fn who_comes_before_the_daemon_is_served_by_it_and_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let passed = listening(&path, SockType::SeqPacket);
    for _ in 0..2 {
        let mut early = RawClient::connect(&path).unwrap();
        let daemon = activated(&passed, &path, &[]).start();
        early.open().unwrap();
        let session = daemon.session();
        let space = keyspace(&session);
        let stored = keys("k", 3);
        store(&session, space, &stored, 5000);
        let lease = session.acquire(space, &stored, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), 3);
        assert_reads(&lease, 2, &stored[2]);
        lease.release().unwrap();
        let start = daemon.wait_for_line("hostkvd 0");
        assert!(start.contains(path.to_str().unwrap()), "{start}");
        drop((session, early));
        stop(daemon);
    }
}

#[test]
fn a_socket_that_is_passed_blocking_does_not_hold_the_loop_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = activated(&listening(&path, SockType::SeqPacket), &path, &[]).start();
    // After each accept the loop looks for another one; blocking, it would sit there and miss the scrape.
    for _ in 0..3 {
        daemon.session();
        daemon.scrape();
    }
    stop(daemon);
}

#[test]
fn a_second_daemon_on_the_passed_socket_is_refused_and_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let passed = listening(&path, SockType::SeqPacket);
    let daemon = activated(&passed, &path, &[]).start();
    let pid = format!("pid {}", daemon.pid());
    let second = activated(&passed, &path, &[]).start_must_fail();
    second.assert_says(1, &["hostkv.sock", &pid]);
    // Nor may one without a passed socket take the place.
    let third = DaemonSpec::default().at(&path).start_must_fail();
    third.assert_says(1, &["hostkv.sock", &pid]);
    stop(daemon);
}

#[test]
fn what_cannot_be_served_on_ends_the_start_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let passed = listening(&path, SockType::SeqPacket);
    let elsewhere = activated(&passed, &path, &["--socket", "/tmp/other.sock"]).start_must_fail();
    elsewhere.assert_says(2, &["--socket", "/tmp/other.sock", path.to_str().unwrap()]);

    let stream = listening(&folder.path().join("stream"), SockType::Stream);
    let failed = activated(&stream, &path, &[]).start_must_fail();
    failed.assert_says(
        1,
        &["hostkvd.socket", "type Stream", "ListenSequentialPacket="],
    );
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let failed = activated(&file, &path, &[]).start_must_fail();
    failed.assert_says(1, &["is no socket"]);
    let idle = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(
        idle.as_raw_fd(),
        &UnixAddr::new(&folder.path().join("idle")).unwrap(),
    )
    .unwrap();
    let failed = activated(&idle, &path, &[]).start_must_fail();
    failed.assert_says(1, &["does not listen", "Accept=no"]);

    let several = activated(&passed, &path, &[])
        .variable("LISTEN_FDS", "2")
        .variable("LISTEN_FDNAMES", "a:b")
        .wrapped(&["sh", "-c", "export LISTEN_PID=$$; exec \"$@\" 4<&3", "sh"]);
    several
        .start_must_fail()
        .assert_says(1, &["2 sockets (a, b)"]);
    let missing = activated(&passed, &path, &[]).variable("LISTEN_FDS", "40");
    missing.start_must_fail().assert_says(1, &["LISTEN_FDS"]);

    std::fs::remove_file(&path).unwrap();
    let failed = activated(&passed, &path, &[]).start_must_fail();
    failed.assert_says(1, &["hostkv.sock", "restart the socket unit"]);
    assert!(!path.exists(), "it makes none of its own");
}

#[test]
fn variables_that_mean_another_process_are_left_alone() {
    let daemon = DaemonSpec::default()
        .variable("LISTEN_PID", "1")
        .variable("LISTEN_FDS", "1")
        .start();
    daemon.finish();
}

#[test]
fn a_passed_socket_that_everybody_reaches_admits_nobody_more() {
    if !is_root() {
        skip("who may connect to a passed socket: becoming another user needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let path = folder.path().join("hostkv.sock");
    let passed = listening(&path, SockType::SeqPacket);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    for (flags, answer) in [
        (&["--socket-mode", "600"][..], "PERMISSION"),
        (&["--allow-uid", "65534"], "OK"),
    ] {
        let daemon = activated(&passed, &path, flags).start();
        if flags[0] == "--socket-mode" {
            daemon.wait_for_line("has mode 0666, not 0600: SocketMode= of the socket unit decides");
        }
        let mut worker = Worker::start(&daemon);
        worker.must("uid 65534");
        let said = worker.ask("open");
        assert!(said.starts_with(answer), "{said}");
        drop(worker);
        daemon.wait_for_sessions(0);
        stop(daemon);
    }
}

#[test]
fn the_real_socket_activation_starts_the_daemon_with_the_first_client() {
    const PROGRAM: &str = "systemd-socket-activate";
    let has_it = std::process::Command::new(PROGRAM)
        .arg("--version")
        .output();
    if has_it.is_err() {
        skip("the real socket activation: there is no systemd-socket-activate");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let spec = DaemonSpec::default().at_the_usual_place(&path).wrapped(&[
        PROGRAM,
        "--seqpacket",
        "--fdname=hostkv",
        "-l",
        path.to_str().unwrap(),
    ]);
    let mut child = spec.command().spawn().unwrap();
    // Its name is there a moment before it takes connections.
    let mut first = None;
    wait_until("the socket takes a connection", || {
        first = RawClient::connect(&path).ok();
        first.is_some()
    });
    first.take().unwrap().open().unwrap();
    RawClient::connect(&path).unwrap().open().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists());
}
