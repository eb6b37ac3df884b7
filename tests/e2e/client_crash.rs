//! What a worker held when it was killed, stopped, forked or replaced itself comes back, and nothing of it before.
//! `torture.rs` does the same many times.

use hostkv::Status;
use hostkv_shm_protocol::wire::reply::Audit;
use hostkv_tests::{
    Daemon, Worker, keys, keyspace, request, reserve_items, statuses_of, store, wait_until,
};

/// Objects that are there before anybody is killed.
const BASE: usize = 3;

/// A pool with [`BASE`] objects of 5000 bytes.
fn pool() -> Daemon {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("base", BASE), 5000);
    drop(session);
    daemon.wait_for_sessions(0);
    daemon
}

/// Panics unless the base and `count` more objects of 8 KiB are there and all else is free.
fn assert_clean(step: &str, audit: &Audit, count: usize) {
    let expected = (BASE + count) as u64;
    assert_eq!(audit.object_count, expected, "{step}: {audit:?}");
    assert_eq!(audit.object_bytes, expected * 8192, "{step}: {audit:?}");
    assert_eq!(
        audit.free_bytes,
        audit.capacity_bytes - expected * 8192,
        "{step}: {audit:?}"
    );
    assert_eq!(audit.pin_count, 0, "{step}: {audit:?}");
}

#[test]
fn a_worker_killed_while_the_daemon_stands_still_has_its_queued_commit_carried_out() {
    let daemon = pool();
    let mut worker = Worker::start(&daemon);
    for order in ["raw connect", "raw hello", "raw reserve k 4 8000"] {
        worker.must(order);
    }
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    worker.must("raw commit-behind-unread-replies");
    worker.kill();
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    daemon.wait_for_sessions(0);
    assert_clean("commit queued", &daemon.audit(), 4);
    daemon.finish();
}

#[test]
fn a_closed_socket_alone_gives_nothing_back_the_end_of_the_process_does() {
    let daemon = pool();
    let mut worker = Worker::start(&daemon);
    for order in [
        "raw connect",
        "raw hello",
        "raw reserve k 4 8000",
        "raw close-socket",
    ] {
        worker.must(order);
    }
    let orphaned = || daemon.scrape().sample("hostkv_orphaned_bytes") as u64;
    wait_until("the gauge shows it", || orphaned() == 4 * 8192);
    daemon.wait_for_line("has no socket any more and its process lives");
    let session = daemon.session();
    let space = keyspace(&session);
    let items = reserve_items(&keys("k", 4), 100);
    // Its keys stay its own, and its extents are nobody else's: the whole pool can be filled without meeting them.
    let reservation = session.reserve(space, &items, &request(0)).unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Reserved; 4]);
    for round in 0..70 {
        store(&session, space, &keys(&format!("fill{round}"), 4), 1 << 18);
    }
    let audit = daemon.audit();
    assert_eq!((audit.reserved_count, audit.reserved_bytes), (4, 4 * 8192));
    assert_eq!(orphaned(), 4 * 8192);
    worker.kill();
    wait_until("the gauge goes", || orphaned() == 0);
    assert_eq!(daemon.audit().reserved_count, 0);
    drop(reservation);
    let reservation = session.reserve(space, &items, &request(0)).unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Ok; 4]);
    drop((reservation, session));
    daemon.finish();
}
