//! Start, one session's whole way, reload, and every kind of end.

use super::support::*;
use hostkv_shm_protocol::control::header::State;
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;
use memmap2::MmapOptions;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const FUTEX_OWNER_DIED: u32 = 0x4000_0000;

#[test]
fn what_is_committed_is_found_in_the_index_and_read_from_the_payload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let session = daemon.session();
    let reply = &session.reply;
    assert_eq!(reply.capacity_bytes, 32 << 20);
    assert_eq!(reply.pin_slot_count, 16_384);
    assert_eq!(reply.daemon_thread_id, daemon.pid() as u32);
    let header = session.header();
    assert_eq!(
        header.daemon_alive().load(Ordering::Relaxed),
        reply.daemon_thread_id
    );
    assert_eq!(
        header.state().load(Ordering::Relaxed),
        State::Serving as u32
    );
    assert_eq!(header.instance_words(), reply.instance_id.words());
    // SAFETY: the map is page-aligned and outlives the view.
    let lease = unsafe { View::new(session.lease.as_ptr(), session.lease.len() as u64) };
    assert_eq!(LeaseGeometry::read(&lease).unwrap().slot_count, 16_384);

    let keyspace = session.resolve();
    let keys = [key(keyspace, 1), key(keyspace, 2)];
    let granted = session.reserve(1, &keys, 5000);
    // SAFETY: the payload is sealed against shrinking; this test is its only writer.
    let mut payload = unsafe { MmapOptions::new().map_mut(&session.payload) }.unwrap();
    for (i, item) in granted.iter().enumerate() {
        assert_eq!(item.status, Status::Ok);
        let at = item.offset_units as usize * reply.align_bytes as usize;
        payload[at..at + 5000].fill(i as u8 + 1);
    }
    let index = IndexReader::new(session.control_view()).unwrap();
    assert!(index.find(&keys[0], index.hash(&keys[0])).is_none());
    let Reply::Committed(committed) = session.ask(&Request::Commit(held(1, &granted))) else {
        panic!("not committed");
    };
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(committed[i].status, Status::Ok);
        let found = index.find(key, index.hash(key)).expect("not readable");
        assert_eq!(found.seq, committed[i].generation);
        let (at, len) = found
            .extent
            .byte_range(reply.align_bytes, reply.capacity_bytes)
            .unwrap();
        assert_eq!(len, 5000);
        assert!(
            payload[at as usize..][..5000]
                .iter()
                .all(|b| *b == i as u8 + 1)
        );
    }
    let Reply::Audit(audit) = session.ask(&Request::Audit) else {
        panic!("no audit");
    };
    assert_eq!((audit.verdict.as_str(), audit.object_count), ("", 2));
    assert_eq!(session.ask(&Request::Bye), Reply::Bye);
    assert!(matches!(session.client.hear(), Heard::End));
}

#[test]
fn a_read_only_session_gets_a_payload_that_can_not_be_mapped_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let session = Session::open(daemon.client(), |wishes| {
        wishes.flags = hostkv_shm_protocol::wire::hello::hello_flags::READ_ONLY;
    });
    // SAFETY: it is not mapped at all.
    assert!(unsafe { MmapOptions::new().map_mut(&session.payload) }.is_err());
    assert!(matches!(
        session.ask(&Request::Clear { flags: 0 }),
        Reply::Error {
            status: Status::ReadOnly,
            ..
        }
    ));
}

#[test]
fn sigterm_tells_the_sessions_and_leaves_nothing_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/hostkv.sock");
        let mut daemon = Start::at(&path).with_metrics().serving();
        let session = daemon.session();
        let asked = Instant::now();
        daemon.signal(signal);
        assert!(matches!(session.client.hear(), Heard::End));
        let header = session.header();
        assert_eq!(header.daemon_alive().load(Ordering::Acquire), 0);
        assert_eq!(header.state().load(Ordering::Relaxed), State::Closed as u32);
        let (status, lines) = daemon.end();
        assert!(status.success(), "{lines:#?}");
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert!(lines.last().unwrap().ends_with("Stopped."), "{lines:#?}");
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_second_daemon_ends_with_the_pid_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let first = Start::at(&path).serving();
    let (status, lines) = Start::at(&path).spawn().end();
    assert_eq!(status.code(), Some(1));
    let last = lines.last().unwrap();
    assert!(last.starts_with("hostkvd: "), "{last}");
    assert!(last.contains(&format!("pid {}", first.pid())), "{last}");
    assert_eq!(first.session().ask(&Request::Ping), Reply::Pong);
}

#[test]
fn of_many_that_start_at_once_exactly_one_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    for _ in 0..3 {
        let mut all: Vec<Daemon> = (0..4).map(|_| Start::at(&path).spawn()).collect();
        let deadline = Instant::now() + PATIENCE;
        let client = loop {
            match Client::try_connect(&path) {
                Ok(client) => break client,
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            assert!(Instant::now() < deadline);
        };
        let session = Session::open(client, |_| {});
        let served_by = session.reply.daemon_thread_id as i32;
        for daemon in all.iter_mut().filter(|d| d.pid() != served_by) {
            let (status, lines) = daemon.end();
            assert_eq!(status.code(), Some(1), "{lines:#?}");
        }
        assert_eq!(session.ask(&Request::Ping), Reply::Pong);
        let winner = all.iter_mut().find(|d| d.pid() == served_by).unwrap();
        winner.signal(Signal::SIGTERM);
        assert!(winner.end().0.success());
    }
}

#[test]
fn a_killed_daemon_is_seen_to_be_dead_and_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let mut first = Start::at(&path).serving();
    let session = first.session();
    let mut watched = [PollFd::new(session.daemon.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut watched, PollTimeout::ZERO).unwrap(), 0);
    first.signal(Signal::SIGKILL);
    assert!(matches!(session.client.hear(), Heard::End));
    // The kernel has marked the word before it closed the socket.
    assert_eq!(
        session.header().daemon_alive().load(Ordering::Acquire),
        FUTEX_OWNER_DIED
    );
    assert_eq!(
        poll(&mut watched, PollTimeout::from(10_000_u16)).unwrap(),
        1
    );
    assert!(!first.end().0.success());
    assert!(path.exists(), "the stale socket is still there");

    let second = Start::at(&path).serving();
    let fresh = second.session();
    assert_ne!(fresh.reply.instance_id, session.reply.instance_id);
    assert_eq!(fresh.ask(&Request::Ping), Reply::Pong);
}

#[test]
fn a_missing_folder_and_a_taken_port_end_the_start_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/hostkv.sock");
    let (status, lines) = Start::at(&path).spawn().end();
    assert_eq!(status.code(), Some(1));
    assert!(lines.last().unwrap().starts_with("hostkvd: "), "{lines:#?}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let path = folder.path().join("hostkv.sock");
    let mut start = Start::at(&path).with(&["--prometheus-port", &port]);
    start.arguments.retain(|a| a != "--disable-prometheus");
    let (status, lines) = start.spawn().end();
    assert_eq!(status.code(), Some(1));
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("hostkvd: ") && last.contains(&port),
        "{last}"
    );
    assert!(!path.exists() && !folder.path().join("hostkv.sock.lock").exists());
}

#[test]
fn a_reload_changes_what_may_change_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let file = folder.path().join("hostkvd.toml");
    std::fs::write(&file, "max_sessions = 1\n").unwrap();
    let config = file.to_str().unwrap();
    let mut daemon = Start::at(&path).with(&["--config", config]).serving();
    let first = daemon.session();
    let refused = daemon.client();
    refused.say(&greeting(refused.nonce()).encode(1));
    assert!(matches!(
        refused.reply(),
        (1, Reply::Error { status: Status::Quota, text }) if text.contains("--max-sessions is 1")
    ));

    std::fs::write(&file, "max_sessions = 2\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.line_with("Reload: done.");
    let second = daemon.session();
    assert_eq!(second.ask(&Request::Ping), Reply::Pong);

    std::fs::write(&file, "max_sessions = \"many\"\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.line_with("nothing is changed");
    assert_eq!(first.ask(&Request::Ping), Reply::Pong);
}

#[test]
fn a_scrape_shows_the_figures_of_the_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let mut daemon = Start::at(&path).with_metrics().serving();
    let line = daemon.line_with("Prometheus metrics available at http://");
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .trim_end_matches("/metrics");
    let scrape = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(scrape().contains("\nhostkv_sessions 0\n"));
    let session = daemon.session();
    let keyspace = session.resolve();
    let granted = session.reserve(1, &[key(keyspace, 1)], 4096);
    session.ask(&Request::Commit(held(1, &granted)));
    let text = scrape();
    for expected in [
        "hostkv_sessions 1",
        "lmcache_mp:sm_write_requests_total 1",
        "lmcache_mp:l1_write_keys_total 1",
        "hostkv_l1_objects 1",
    ] {
        assert!(
            text.contains(&format!("\n{expected}\n")),
            "{expected} in {text}"
        );
    }
}

#[test]
fn a_limit_of_file_sizes_ends_the_start_with_a_sentence_and_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let ended = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 0; exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_hostkvd"), "--disable-prometheus"])
        .args(["--l1-size-gb", "0.01", "--socket"])
        .arg(folder.path().join("hostkv.sock"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1), "{:?}", ended.status);
    let said = String::from_utf8(ended.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("hostkvd: ") && last.contains("RLIMIT_FSIZE"),
        "{last}"
    );
}
