//! The daemon may be killed at any moment: workers notice, keep what they hold, and go on with the next one.

use std::time::{Duration, Instant};

use hostkv::Status;
use hostkv_tests::{
    Daemon, Worker, assert_reads, keys, keyspace, request, reserve_items, store, store_sized,
    wait_until,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::assert_refused;

#[test]
fn after_a_sigkill_calls_say_disconnected_and_held_leases_stay_readable() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let stored = keys("k", 4);
    store(&session, space, &stored, 10_000);
    let lease = session.acquire(space, &stored, &request(0)).unwrap();
    let other = session.acquire(space, &stored[..1], &request(0)).unwrap();
    let writing = store_sized(&session, space, &reserve_items(&keys("new", 1), 100));
    let late = store_sized(&session, space, &reserve_items(&keys("late", 1), 100));
    // SAFETY: the session keeps the descriptor open.
    let pidfd = unsafe { std::os::fd::BorrowedFd::borrow_raw(session.daemon_fd()) };
    let mut watched = [PollFd::new(pidfd, PollFlags::POLLIN)];
    assert_eq!(poll(&mut watched, PollTimeout::ZERO).unwrap(), 0);

    let spec = daemon.kill();
    assert_eq!(poll(&mut watched, PollTimeout::from(5000_u16)).unwrap(), 1);
    let begin = Instant::now();
    let gone = Status::Disconnected;
    let message = assert_refused(session.lookup(space, &stored, None), gone);
    assert!(message.contains("open a new session"), "{message}");
    assert_refused(session.acquire(space, &stored, &request(0)), gone);
    let items = reserve_items(&stored, 10);
    assert_refused(session.reserve(space, &items, &request(0)), gone);
    assert_refused(session.remove(space, &stored, None), gone);
    assert_refused(session.clear(0), gone);
    assert_refused(session.figures(), gone);
    assert_refused(session.ping(), gone);
    assert_refused(writing.commit(), gone);
    assert!(
        begin.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begin.elapsed()
    );
    for (index, key) in stored.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.check().unwrap();
    let span = late.span(0).unwrap();
    // SAFETY: the span is this test's alone.
    unsafe { hostkv_tests::fill(&stored[0], span.data, span.len_bytes) };
    let _ = late.abort();

    // The next one serves while the old pool is still held.
    let next = spec.start();
    let fresh = next.session();
    let space = keyspace(&fresh);
    assert_eq!(fresh.lookup(space, &stored, None).unwrap(), 0);
    store(&fresh, space, &stored, 500);
    assert_reads(&lease, 3, &stored[3]);
    assert_refused(session.ping(), gone);
    lease.release().unwrap();
    other.release().unwrap();
    session.close().unwrap();
    drop(fresh);
    next.finish();
}

#[test]
fn the_dead_pool_is_unmapped_when_nothing_is_held_any_more() {
    let daemon = Daemon::start(&[]);
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    worker.must("reserve k 2 5000");
    worker.must("fill");
    worker.must("commit");
    worker.must("acquire k 2");
    let maps_the_payload = |worker: &mut Worker| worker.must("maps").contains("payload");
    assert!(maps_the_payload(&mut worker));
    let spec = daemon.kill();
    assert!(worker.ask("lookup k 2").starts_with("DISCONNECTED"));
    assert!(maps_the_payload(&mut worker), "a lease holds it");
    assert_eq!(worker.must("verify"), "2");
    worker.must("release");
    assert!(!maps_the_payload(&mut worker));
    // The worker opens again, with the next daemon.
    let next = spec.start();
    worker.must("close");
    worker.must("open");
    assert_eq!(worker.must("lookup k 2"), "0");
    worker.must("close");
    next.finish();
}

#[test]
fn without_a_daemon_an_open_says_disconnected_and_where_it_looked() {
    let daemon = Daemon::start(&[]);
    let config = daemon.config(0);
    let spec = daemon.kill();
    let message = assert_refused(
        hostkv::session::Session::open(&config),
        Status::Disconnected,
    );
    assert!(
        message.contains(spec.socket().to_str().unwrap()),
        "{message}"
    );
    let mut elsewhere = config.clone();
    elsewhere.socket_path = Some(spec.folder().join("none.sock"));
    assert_refused(
        hostkv::session::Session::open(&elsewhere),
        Status::Disconnected,
    );
    elsewhere.socket_path = Some(spec.folder().join("x".repeat(120)));
    assert_refused(
        hostkv::session::Session::open(&elsewhere),
        Status::InvalidArgument,
    );
}

#[test]
fn a_stop_is_noticed_within_300_ms_on_the_read_path() {
    let mut daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 1);
    store(&session, space, &asked, 10);
    daemon.stop();
    let begin = Instant::now();
    wait_until("a lookup says so", || {
        session.lookup(space, &asked, None).is_err()
    });
    assert!(begin.elapsed() < Duration::from_millis(300));
    assert_refused(session.lookup(space, &asked, None), Status::Disconnected);
    session.close().unwrap();
}
