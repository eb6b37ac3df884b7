//! A daemon that stands still: reads go on, socket calls end in time, late replies leave nothing behind.

use std::time::{Duration, Instant};

use hostkv::session::{Session, SessionConfig};
use hostkv::{Error, KeyspaceId, Status};
use hostkv_tests::{
    Daemon, assert_reads, keys, keyspace_config, request, reserve_items, store, store_sized,
};
use nix::sys::signal::Signal;

use crate::{assert_refused, refusal};

/// The limit of most sessions here: long enough for a loaded machine while the daemon runs.
const LIMIT_MS: u32 = 500;

/// A session and its keyspace, opened as often as a short limit takes on a loaded machine.
fn impatient(daemon: &Daemon, timeout_ms: u32) -> (Session, KeyspaceId) {
    let config = SessionConfig {
        timeout_ms,
        ..daemon.config(0)
    };
    let mut opened = None;
    hostkv_tests::wait_until("a session opens", || {
        opened = Session::open(&config).ok().and_then(|session| {
            let space = session.open_keyspace(&keyspace_config("test-model")).ok()?;
            Some((session, space))
        });
        opened.is_some()
    });
    opened.unwrap()
}

/// Panics unless the call says TIMEOUT, neither at once nor late.
fn times_out<T>(call: impl FnOnce() -> Result<T, Error>) {
    let begin = Instant::now();
    let error = refusal(call());
    let took = begin.elapsed();
    assert_eq!(error.status, Status::Timeout, "{}", error.message);
    assert!(
        error.message.contains(&format!("{LIMIT_MS} ms")),
        "{}",
        error.message
    );
    assert!(
        took >= Duration::from_millis(u64::from(LIMIT_MS)),
        "{took:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_stopped_daemon_lets_reads_go_on_and_calls_time_out_and_loses_no_byte() {
    let daemon = Daemon::start(&[]);
    let (session, space) = impatient(&daemon, LIMIT_MS);
    let stored = keys("k", 4);
    store(&session, space, &stored, 10_000);
    let held = store_sized(&session, space, &reserve_items(&keys("held", 2), 5000));
    daemon.signal(Signal::SIGSTOP);
    times_out(|| session.reserve(space, &reserve_items(&keys("late", 3), 7000), &request(0)));
    times_out(|| session.reserve(space, &reserve_items(&keys("later", 3), 7000), &request(0)));
    times_out(|| session.figures());
    times_out(|| session.ping());
    times_out(|| session.open_keyspace(&keyspace_config("other")));
    times_out(|| session.remove(space, &stored[3..], None));
    times_out(|| held.commit());
    for _ in 0..1000 {
        assert_eq!(session.lookup(space, &stored, None).unwrap(), 4);
        let lease = session.acquire(space, &stored, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), 4);
        assert_reads(&lease, 2, &stored[2]);
        lease.check().unwrap();
        lease.release().unwrap();
    }
    daemon.signal(Signal::SIGCONT);
    // The next call of the session cleans up behind the late ones.
    session.ping().unwrap();
    let audit = daemon.audit_until("late grants are given back", |audit| {
        audit.reserved_bytes == 0 && audit.object_count == 5
    });
    assert_eq!(audit.zombie_bytes, 0);
    // Of the commit: each key is wholly readable or not there; here the daemon carried it out when it woke.
    let committed = keys("held", 2);
    let lease = session.acquire(space, &committed, &request(0)).unwrap();
    for (index, key) in committed.iter().enumerate().take(lease.prefix_count()) {
        assert_reads(&lease, index, key);
    }
    assert_eq!(lease.prefix_count(), 2);
    assert_eq!(session.lookup(space, &stored, None).unwrap(), 3);
    // The keys of the late reserves are nobody's.
    store(&session, space, &keys("late", 3), 7000);
    drop((lease, session));
    daemon.finish();
}

#[test]
fn a_close_while_the_daemon_stands_still_leaves_nothing_behind() {
    let daemon = Daemon::start(&[]);
    let (session, space) = impatient(&daemon, LIMIT_MS);
    daemon.signal(Signal::SIGSTOP);
    times_out(|| session.reserve(space, &reserve_items(&keys("late", 3), 7000), &request(0)));
    let begin = Instant::now();
    // The goodbye is sent; nobody answers it.
    let _ = session.close();
    assert!(begin.elapsed() < Duration::from_secs(5));
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for_sessions(0);
    let audit = daemon.audit();
    assert_eq!(
        (audit.reserved_bytes, audit.free_bytes),
        (0, audit.capacity_bytes)
    );
    daemon.finish();
}

#[test]
fn a_session_cannot_be_opened_while_the_daemon_stands_still() {
    let daemon = Daemon::start(&[]);
    daemon.signal(Signal::SIGSTOP);
    times_out(|| {
        Session::open(&SessionConfig {
            timeout_ms: LIMIT_MS,
            ..daemon.config(0)
        })
    });
    daemon.signal(Signal::SIGCONT);
    daemon.session().ping().unwrap();
    daemon.finish();
}

#[test]
fn more_than_64_late_replies_end_the_session_and_nothing_else() {
    let daemon = Daemon::start(&[]);
    let (session, space) = impatient(&daemon, 50);
    let items = reserve_items(&keys("late", 1), 4096);
    daemon.signal(Signal::SIGSTOP);
    for _ in 0..64 {
        assert_refused(session.reserve(space, &items, &request(0)), Status::Timeout);
    }
    let message = assert_refused(session.ping(), Status::Disconnected);
    assert!(message.contains("64"), "{message}");
    daemon.signal(Signal::SIGCONT);
    session.close().unwrap();
    daemon.wait_for_sessions(0);
    assert_eq!(daemon.audit().reserved_bytes, 0);
    daemon.finish();
}
