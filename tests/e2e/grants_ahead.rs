//! Stores that never wait, in a session with a commit ring: they come to their extents ahead of need, within the quota.

use hostkv::reservation::Reservation;
use hostkv::session::{ASYNC_COMMIT, RESERVE_NO_WAIT, Session, SessionConfig};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_tests::{
    Daemon, assert_reads, fill, key, keys, keyspace, request, reserve_items, statuses_of, store,
    wait_until,
};
use nix::sys::signal::Signal;

use crate::assert_refused;

/// Objects of a batch.
const BATCH: usize = 4;
const LEN: u64 = 5000;
/// What one takes.
const EXTENT: u64 = 8192;
/// Extents of a session's first grant.
const FIRST_GRANT: usize = 16;

/// A session whose calls end soon where the daemon stands still.
fn open(daemon: &Daemon) -> (Session, KeyspaceId) {
    let session = Session::open(&SessionConfig {
        timeout_ms: 2000,
        ..daemon.config(ASYNC_COMMIT)
    })
    .unwrap();
    let space = keyspace(&session);
    (session, space)
}

fn batch(number: usize) -> Vec<ChunkKey> {
    keys(&format!("batch{number}"), BATCH)
}

fn not_waiting(session: &Session, space: KeyspaceId, number: usize) -> Reservation {
    let items = reserve_items(&batch(number), LEN);
    session
        .reserve(space, &items, &request(RESERVE_NO_WAIT))
        .unwrap()
}

fn fill_batch(reservation: &Reservation, number: usize) {
    assert_eq!(statuses_of(reservation), [Status::Ok; BATCH]);
    for (index, key) in batch(number).iter().enumerate() {
        let span = reservation.span(index).unwrap();
        // SAFETY: a granted span is this test's alone until the commit.
        unsafe { fill(key, span.data, span.len_bytes) };
    }
}

/// Waits until the daemon has granted what is asked for ahead, beside `held` extents; the answer is in the socket then.
fn granted(daemon: &Daemon, held: usize) {
    wait_until("extents are granted ahead of need", || {
        daemon.audit().reserved_bytes == (held + FIRST_GRANT) as u64 * EXTENT
    });
}

fn assert_stored(session: &Session, space: KeyspaceId, batches: usize) {
    session.flush().unwrap();
    for number in 0..batches {
        let lease = session.acquire(space, &batch(number), &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), BATCH, "batch {number}");
        for (index, key) in batch(number).iter().enumerate() {
            assert_reads(&lease, index, key);
        }
    }
}

#[test]
fn a_session_that_stores_often_without_waiting_gets_extents_ahead_of_need() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    let mut first = not_waiting(&session, space, 0);
    first.wait(5000).unwrap();
    fill_batch(&first, 0);
    first.commit().unwrap();
    granted(&daemon, 0);
    // No answer comes any more, and so many stores need none.
    daemon.signal(Signal::SIGSTOP);
    let without = FIRST_GRANT / BATCH;
    for number in 1..=without {
        let mut next = not_waiting(&session, space, number);
        next.wait(0).unwrap();
        fill_batch(&next, number);
        next.commit().unwrap();
    }
    let mut beyond = not_waiting(&session, space, without + 1);
    assert_refused(beyond.wait(0), Status::Timeout);
    daemon.signal(Signal::SIGCONT);
    beyond.wait(5000).unwrap();
    fill_batch(&beyond, without + 1);
    beyond.commit().unwrap();
    assert_stored(&session, space, without + 2);
    drop(session);
    daemon.wait_for_sessions(0);
    assert_eq!(daemon.audit().reserved_bytes, 0, "all grants are back");
    daemon.finish();
}

#[test]
fn what_is_granted_to_stores_that_do_not_wait_stays_within_the_share_also_in_a_full_pool() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    let share = daemon.audit().capacity_bytes / 64;
    // More than the pool in all: the last ones are stored in the place of the first.
    let rounds = 2 * daemon.audit().capacity_bytes / (BATCH as u64 * EXTENT);
    let mut next = not_waiting(&session, space, 0);
    for number in 1..=rounds as usize {
        let after = not_waiting(&session, space, number);
        next.wait(5000).unwrap();
        assert_eq!(statuses_of(&next), [Status::Ok; BATCH], "batch {number}");
        if number % 100 == 0 {
            // Beside them, what the socket may have given for the two batches.
            let most = share + 2 * BATCH as u64 * EXTENT;
            let audit = daemon.audit();
            assert!(audit.reserved_bytes <= most, "batch {number}: {audit:?}");
        }
        std::mem::replace(&mut next, after).commit().unwrap();
    }
    next.abort().unwrap();
    session.flush().unwrap();
    let audit = daemon.audit();
    assert!(audit.reserved_bytes <= share, "{audit:?}");
    let figures = daemon.figures();
    assert_eq!(figures.l1_write_keys, rounds * BATCH as u64);
    assert!(figures.l1_evicted_keys > 0, "{figures:?}");
    drop(session);
    daemon.finish();
}

/// Stores batch after batch, each with the reserve of the next one, and comes over to the extents that it is granted on the way.
fn chain(flags: u32) {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    let next_of = |held: Reservation, number: usize, timeout_ms: u32| {
        fill_batch(&held, number - 1);
        let items = reserve_items(&batch(number), LEN);
        let mut next = held
            .commit_and_reserve(space, &items, &request(flags))
            .unwrap();
        next.wait(timeout_ms).unwrap();
        next
    };
    // What the socket has given is not waited for; what else it asks for is then on its way.
    let mut first = not_waiting(&session, space, 0);
    first.wait(5000).unwrap();
    granted(&daemon, BATCH);
    let mut held = next_of(first, 1, 5000);
    assert_eq!(session.lookup(space, &batch(0), None).unwrap(), BATCH);
    daemon.signal(Signal::SIGSTOP);
    let without = FIRST_GRANT / BATCH;
    for number in 2..=without {
        held = next_of(held, number, 0);
    }
    fill_batch(&held, without);
    held.commit().unwrap();
    daemon.signal(Signal::SIGCONT);
    assert_stored(&session, space, without + 1);
    drop(session);
    daemon.wait_for_sessions(0);
    let audit = daemon.audit();
    assert_eq!(audit.object_count as usize, (without + 1) * BATCH);
    assert_eq!(audit.reserved_bytes, 0);
    daemon.finish();
}

#[test]
fn batches_that_are_reserved_with_the_commit_before_come_over_to_grants() {
    chain(0);
}

#[test]
fn batches_that_are_asked_for_ahead_with_the_commit_before_come_over_to_grants() {
    chain(RESERVE_NO_WAIT);
}

#[test]
fn the_wait_for_extents_that_were_granted_ahead_tells_what_became_of_the_commit() {
    let daemon = Daemon::start(&["--l1-write-ttl-seconds", "0.3"]);
    let (session, space) = open(&daemon);
    let mut late = not_waiting(&session, space, 0);
    late.wait(5000).unwrap();
    daemon.audit_until("it expires", |audit| {
        audit.quarantined_count == BATCH as u64
    });
    let items = reserve_items(&batch(1), LEN);
    let mut next = late
        .commit_and_reserve(space, &items, &request(RESERVE_NO_WAIT))
        .unwrap();
    assert_refused(next.span(0), Status::InvalidArgument);
    for _ in 0..2 {
        assert_refused(next.wait(5000), Status::Expired);
    }
    assert_refused(next.span(0), Status::Expired);
    assert_refused(next.commit(), Status::Expired);
    daemon.audit_until("it is given back", |audit| audit.quarantined_count == 0);
    // Its extents are there for other stores: all that the session was granted.
    daemon.signal(Signal::SIGSTOP);
    for number in 2..2 + FIRST_GRANT / BATCH {
        let mut next = not_waiting(&session, space, number);
        next.wait(0).unwrap();
        fill_batch(&next, number);
        next.commit().unwrap();
    }
    daemon.signal(Signal::SIGCONT);
    session.flush().unwrap();
    assert_eq!(daemon.audit().object_count as usize, FIRST_GRANT);
    drop(session);
    daemon.finish();
}

#[test]
fn the_grant_ahead_of_need_takes_no_place_of_the_64_and_needs_no_answer() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    daemon.signal(Signal::SIGSTOP);
    let mut made: Vec<_> = (0..64)
        .map(|number| not_waiting(&session, space, number))
        .collect();
    let items = reserve_items(&batch(64), LEN);
    let message = assert_refused(
        session.reserve(space, &items, &request(RESERVE_NO_WAIT)),
        Status::Quota,
    );
    assert!(message.contains("64"), "{message}");
    daemon.signal(Signal::SIGCONT);
    for (number, reservation) in made.iter_mut().enumerate() {
        reservation.wait(5000).unwrap();
        fill_batch(reservation, number);
    }
    for reservation in made {
        reservation.commit().unwrap();
    }
    assert_stored(&session, space, 64);
    drop(session);
    daemon.finish();
}

#[test]
fn grants_that_came_ahead_of_need_go_back_when_they_are_recalled() {
    let daemon = Daemon::start(&["--eviction-policy", "noop"]);
    let (session, space) = open(&daemon);
    let mut first = not_waiting(&session, space, 0);
    first.wait(5000).unwrap();
    first.abort().unwrap();
    granted(&daemon, 0);
    // The answer lies in the socket, and the session makes no call while the pool fills up.
    let other = daemon.session();
    let other_space = keyspace(&other);
    for number in 0.. {
        let items = reserve_items(&[key("fill", number)], EXTENT);
        let reservation = other.reserve(other_space, &items, &request(0)).unwrap();
        if statuses_of(&reservation) != [Status::Ok] {
            break;
        }
        reservation.commit().unwrap();
    }
    session.flush().unwrap();
    wait_until("they are back", || daemon.audit().reserved_bytes == 0);
    store(&other, other_space, &[key("now", 1)], EXTENT);
    drop((session, other));
    daemon.finish();
}
