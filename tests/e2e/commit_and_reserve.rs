//! A commit and the next reserve in one round trip: batch after batch, and what is left when one half of it fails or its
//! writer dies.

use hostkv::reservation::Reservation;
use hostkv::session::{RESERVE_NO_WAIT, ReserveItem, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::id::{KeyspaceId as WireKeyspace, OpId};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request, Reserve};
use hostkv_tests::{
    Daemon, RawClient, Worker, assert_reads, fill, keys, keyspace, request, reserve_items,
    statuses_of,
};

use crate::assert_refused;

const MIB: u64 = 1 << 20;

/// Writes into what of these keys was granted.
fn fill_all(reservation: &Reservation, keys: &[ChunkKey]) {
    for (index, key) in keys.iter().enumerate() {
        if let Ok(span) = reservation.span(index) {
            // SAFETY: a granted span is this test's alone until the commit.
            unsafe { fill(key, span.data, span.len_bytes) };
        }
    }
}

fn reserved(session: &Session, space: KeyspaceId, keys: &[ChunkKey], len: u64) -> Reservation {
    let items = reserve_items(keys, len);
    let reservation = session.reserve(space, &items, &request(0)).unwrap();
    fill_all(&reservation, keys);
    reservation
}

fn trusting_nobody(flags: &[&str]) -> Daemon {
    let own = nix::unistd::geteuid().to_string();
    let mut all = vec!["--untrusted-uid", "0", "--untrusted-uid", &own];
    all.extend(flags);
    Daemon::start(&all)
}

/// Batches that each take the whole reserve quota of 4 MiB, and together more than the pool of 32 MiB: the first ones are read
/// back, the others are only granted, because the evictor may take them.
fn batch_after_batch(daemon: Daemon) {
    let session = daemon.session();
    let space = keyspace(&session);
    let batch = |number: usize| keys(&format!("batch{number}"), 4);
    let mut reservation = reserved(&session, space, &batch(0), MIB);
    for number in 1..12 {
        let next = batch(number);
        reservation = reservation
            .commit_and_reserve(space, &reserve_items(&next, MIB), &request(0))
            .unwrap();
        assert_eq!(statuses_of(&reservation), [Status::Ok; 4]);
        fill_all(&reservation, &next);
        if number > 5 {
            continue;
        }
        let lease = session
            .acquire(space, &batch(number - 1), &request(0))
            .unwrap();
        assert_eq!(lease.prefix_count(), 4, "batch {}", number - 1);
        for (index, key) in batch(number - 1).iter().enumerate() {
            assert_reads(&lease, index, key);
        }
        assert_eq!(session.lookup(space, &next, None).unwrap(), 0);
    }
    reservation.commit().unwrap();
    let figures = daemon.figures();
    assert_eq!((figures.l1_write_keys, figures.sm_write_requests), (48, 12));
    assert_eq!(figures.reserved_bytes, 0);
    drop(session);
    daemon.finish();
}

#[test]
fn batch_after_batch_is_readable_with_its_bytes() {
    batch_after_batch(Daemon::start(&[]));
}

#[test]
fn batch_after_batch_is_readable_where_each_is_summed_first() {
    batch_after_batch(Daemon::start(&["--integrity", "full"]));
}

#[test]
fn batch_after_batch_of_an_untrusted_writer_goes_through_the_staging_segment() {
    batch_after_batch(trusting_nobody(&[]));
}

#[test]
fn keys_that_are_there_or_do_not_fit_say_so_and_the_commit_is_done() {
    let daemon = Daemon::start(&["--eviction-policy", "noop"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let first = keys("first", 2);
    let reservation = reserved(&session, space, &first, MIB);
    let mut wanted = keys("second", 5);
    wanted.insert(1, first[0]);
    // Of the quota of 4 MiB nothing is held any more when the reserve comes.
    let next = reservation
        .commit_and_reserve(space, &reserve_items(&wanted, MIB), &request(0))
        .unwrap();
    let (ok, exists, quota) = (Status::Ok, Status::Exists, Status::Quota);
    assert_eq!(statuses_of(&next), [ok, exists, ok, ok, ok, quota]);
    next.abort().unwrap();
    // Nothing was granted, so there is nothing to commit, and the reserve goes on.
    let none = session
        .reserve(space, &reserve_items(&first, MIB), &request(0))
        .unwrap();
    let next = none
        .commit_and_reserve(space, &reserve_items(&keys("third", 1), MIB), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&next), [ok]);
    next.abort().unwrap();
    hostkv_tests::store(&session, space, &keys("fill", 28), MIB);
    let reservation = reserved(&session, space, &keys("last", 2), MIB);
    let next = reservation
        .commit_and_reserve(space, &reserve_items(&keys("none", 2), MIB), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&next), [Status::NoSpace; 2]);
    drop(next);
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (32, 0));
    drop(session);
    daemon.finish();
}

#[test]
fn a_refused_reserve_commits_nothing_and_gives_back_what_was_to_be_committed() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 2);
    let most = session.info().unwrap().max_object_bytes;
    let good = reserve_items(&keys("next", 2), 100);
    let long = reserve_items(&keys("next", 2), most + 1);
    let many = reserve_items(&keys("next", 1025), 100);
    let cases: [(KeyspaceId, &[ReserveItem], u32); 5] = [
        (space, &long, 0),
        (space, &many, 0),
        (space, &[], 0),
        (KeyspaceId(99), &good, 0),
        (space, &good, 1 << 7),
    ];
    for (bad_space, items, flags) in cases {
        let reservation = reserved(&session, space, &asked, 100);
        let outcome = reservation.commit_and_reserve(bad_space, items, &request(flags));
        assert_refused(outcome, Status::InvalidArgument);
        assert_eq!(session.lookup(space, &asked, None).unwrap(), 0);
        assert_eq!(daemon.audit().reserved_bytes, 0);
    }
    drop(session);
    daemon.finish();
}

#[test]
fn the_daemon_itself_refuses_a_reserve_without_form_before_it_commits() {
    let daemon = Daemon::start(&[]);
    let mut raw = daemon.raw_client();
    let space = raw.keyspace();
    let (asked, more) = (keys("k", 2), keys("l", 2));
    let (held, _) = RawClient::held(1, &raw.ask(&RawClient::reserve(1, space, &asked, 100)));
    let reserve_of =
        |op_id, space, len_bytes| match RawClient::reserve(op_id, space, &more, len_bytes) {
            Request::Reserve(reserve) => reserve,
            other => panic!("{other:?} is no reserve"),
        };
    for bad in [
        reserve_of(2, space, 0),
        reserve_of(2, WireKeyspace(99), 100),
        // That operation is not over yet.
        reserve_of(1, space, 100),
    ] {
        let reply = raw.ask(&Request::CommitReserve(held.clone(), bad));
        assert!(
            matches!(
                &reply,
                Reply::Error {
                    status: Status::InvalidArgument,
                    ..
                }
            ),
            "{reply:?}"
        );
        assert_eq!(daemon.audit().object_count, 0);
    }
    // What was never reserved is not committed, and nothing is reserved behind it.
    let foreign = Held {
        op_id: OpId(7),
        items: vec![HeldItem {
            entry: held.items[0].entry,
            generation: 2,
        }],
    };
    let good: Reserve = reserve_of(2, space, 100);
    let reply = raw.ask(&Request::CommitReserve(foreign, good.clone()));
    assert!(
        matches!(&reply, Reply::CommitReserved(committed, reserved)
            if committed[0].status == Status::NotFound && reserved.is_empty()),
        "{reply:?}"
    );
    let reply = raw.ask(&Request::CommitReserve(held, good));
    let Reply::CommitReserved(committed, reserved) = reply else {
        panic!("{reply:?}");
    };
    assert!(committed.iter().all(|item| item.status == Status::Ok));
    assert!(reserved.iter().all(|item| item.status == Status::Ok));
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (2, 2));
    drop(raw);
    daemon.finish();
}

#[test]
fn an_expired_commit_says_so_and_reserves_nothing() {
    let daemon = Daemon::start(&["--l1-write-ttl-seconds", "0.2"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 2);
    let late = reserved(&session, space, &asked, 8192);
    daemon.audit_until("it expires", |audit| audit.quarantined_count == 2);
    let next = reserve_items(&keys("next", 2), 100);
    assert_refused(
        late.commit_and_reserve(space, &next, &request(0)),
        Status::Expired,
    );
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (0, 0));
    assert_eq!(audit.quarantined_bytes, 0);
    // And nobody holds the keys that were to come.
    let again = session.reserve(space, &next, &request(0)).unwrap();
    assert_eq!(statuses_of(&again), [Status::Ok; 2]);
    drop((again, session));
    daemon.finish();
}

#[test]
fn a_writer_killed_at_any_step_leaves_what_it_committed_and_nothing_else() {
    const OPEN: [&str; 3] = ["open", "reserve k 4 8000", "fill"];
    const RAW: [&str; 3] = ["raw connect", "raw hello", "raw reserve k 4 8000"];
    let next = "commit-and-reserve l 4 8000";
    let steps: [(&[&str], &[&str], u64); 7] = [
        (&OPEN[..2], &[], 0),
        (&OPEN, &[], 0),
        (&OPEN, &[next], 4),
        (&OPEN, &[next, "fill"], 4),
        (&OPEN, &[next, "fill", "commit-and-reserve m 4 8000"], 8),
        (&OPEN, &[next, "fill", "commit"], 8),
        (&RAW, &["raw commit-and-reserve-unread l 4 8000"], 4),
    ];
    for daemon in [
        Daemon::start(&[]),
        Daemon::start(&["--integrity", "full"]),
        trusting_nobody(&[]),
    ] {
        let admin = daemon.session();
        keyspace(&admin);
        for (first, then, stored) in steps {
            let mut worker = Worker::start(&daemon);
            for order in first.iter().chain(then) {
                worker.must(order);
            }
            worker.kill();
            daemon.wait_for_sessions(1);
            let audit = daemon.audit_until("all is given back", |audit| {
                (audit.reserved_bytes, audit.zombie_bytes) == (0, 0)
            });
            assert_eq!(audit.object_count, stored, "{first:?}, {then:?}");
            assert_eq!(admin.clear(0).unwrap(), stored);
        }
        drop(admin);
        daemon.finish();
    }
}

#[test]
fn a_writer_killed_while_the_daemon_stands_still_has_its_queued_commit_carried_out() {
    let daemon = Daemon::start(&[]);
    let mut worker = Worker::start(&daemon);
    for order in ["raw connect", "raw hello", "raw reserve k 4 8000"] {
        worker.must(order);
    }
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    worker.must("raw commit-and-reserve-unread l 4 8000");
    worker.kill();
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    daemon.wait_for_sessions(0);
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_bytes), (4, 0));
    daemon.finish();
}

#[test]
fn a_late_answer_leaves_the_commit_done_and_its_grants_given_back() {
    let daemon = Daemon::start(&[]);
    let quick = Session::open(&hostkv::session::SessionConfig {
        timeout_ms: 300,
        ..daemon.config(0)
    })
    .unwrap();
    let space = keyspace(&quick);
    let asked = keys("k", 2);
    let reservation = reserved(&quick, space, &asked, 8192);
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    let next = reserve_items(&keys("next", 2), 8192);
    let outcome = reservation.commit_and_reserve(space, &next, &request(0));
    assert_refused(outcome, Status::Timeout);
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    hostkv_tests::wait_until("the commit is carried out", || {
        quick.lookup(space, &asked, None).unwrap() == 2
    });
    // The late grants go back with the session's next call.
    hostkv_tests::wait_until("the grants are given back", || {
        quick.ping().unwrap();
        daemon.audit().reserved_count == 0
    });
    drop(quick);
    daemon.finish();
}

fn not_waiting(session: &Session, space: KeyspaceId, keys: &[ChunkKey], len: u64) -> Reservation {
    session
        .reserve(space, &reserve_items(keys, len), &request(RESERVE_NO_WAIT))
        .unwrap()
}

/// Stores ten batches, each asked for two copies before its own.
fn two_batches_ahead(daemon: Daemon) {
    let session = daemon.session();
    let space = keyspace(&session);
    let batch = |number: usize| keys(&format!("batch{number}"), 4);
    let mut first = not_waiting(&session, space, &batch(0), 100_000);
    let mut second = not_waiting(&session, space, &batch(1), 100_000);
    for number in 0..10 {
        first.wait(5000).unwrap();
        assert_eq!(statuses_of(&first), [Status::Ok; 4], "batch {number}");
        fill_all(&first, &batch(number));
        let items = reserve_items(&batch(number + 2), 100_000);
        let third = first
            .commit_and_reserve(space, &items, &request(RESERVE_NO_WAIT))
            .unwrap();
        first = std::mem::replace(&mut second, third);
    }
    // An abort waits for what its request commits.
    first.abort().unwrap();
    second.abort().unwrap();
    for number in 0..10 {
        let lease = session.acquire(space, &batch(number), &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), 4, "batch {number}");
        for (index, key) in batch(number).iter().enumerate() {
            assert_reads(&lease, index, key);
        }
    }
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (40, 0));
    drop(session);
    daemon.finish();
}

#[test]
fn batches_that_are_asked_for_ahead_are_readable_with_their_bytes() {
    two_batches_ahead(Daemon::start(&[]));
}

#[test]
fn batches_of_an_untrusted_writer_that_are_asked_for_ahead_are_too() {
    two_batches_ahead(trusting_nobody(&[]));
}

#[test]
fn what_is_not_waited_for_needs_no_answer_to_go_on() {
    let daemon = Daemon::start(&[]);
    let session = Session::open(&hostkv::session::SessionConfig {
        timeout_ms: 300,
        ..daemon.config(0)
    })
    .unwrap();
    let space = keyspace(&session);
    let (asked, next) = (keys("k", 2), keys("next", 2));
    let held = reserved(&session, space, &asked, 8192);
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    // The daemon answers nothing, and nothing of this fails.
    let mut alone = not_waiting(&session, space, &keys("alone", 1), 8192);
    let items = reserve_items(&next, 8192);
    let mut behind = held
        .commit_and_reserve(space, &items, &request(RESERVE_NO_WAIT))
        .unwrap();
    assert_refused(alone.wait(0), Status::Timeout);
    assert_refused(behind.wait(10), Status::Timeout);
    assert_refused(behind.span(0), Status::InvalidArgument);
    // An abort waits in vain, and what comes late is given back.
    assert_refused(alone.abort(), Status::Timeout);
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    behind.wait(5000).unwrap();
    assert_eq!(statuses_of(&behind), [Status::Ok; 2]);
    assert_eq!(session.lookup(space, &asked, None).unwrap(), 2);
    hostkv_tests::wait_until("the late grant is given back", || {
        session.ping().unwrap();
        daemon.audit().reserved_count == 2
    });
    behind.abort().unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn the_wait_tells_what_became_of_the_commit() {
    let daemon = Daemon::start(&["--l1-write-ttl-seconds", "0.2"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let late = reserved(&session, space, &keys("k", 2), 8192);
    let other = reserved(&session, space, &keys("l", 2), 8192);
    daemon.audit_until("they expire", |audit| audit.quarantined_count == 4);
    let items = reserve_items(&keys("next", 2), 8192);
    let no_wait = request(RESERVE_NO_WAIT);
    let mut next = late.commit_and_reserve(space, &items, &no_wait).unwrap();
    for _ in 0..2 {
        assert_refused(next.wait(5000), Status::Expired);
    }
    assert_eq!(next.count(), 2);
    assert_refused(next.span(0), Status::Expired);
    assert_refused(next.commit(), Status::Expired);
    // An abort that comes instead of the wait says it too.
    let next = other.commit_and_reserve(space, &items, &no_wait).unwrap();
    assert_refused(next.abort(), Status::Expired);
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (0, 0));
    assert_eq!(audit.quarantined_count, 0);
    drop(session);
    daemon.finish();
}

#[test]
fn the_65th_that_is_not_waited_for_is_refused_and_other_calls_go_on() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let one = |number: usize| keys(&format!("one{number}"), 1);
    let mut made: Vec<_> = (0..64)
        .map(|number| not_waiting(&session, space, &one(number), 100))
        .collect();
    let items = reserve_items(&one(64), 100);
    let message = assert_refused(
        session.reserve(space, &items, &request(RESERVE_NO_WAIT)),
        Status::Quota,
    );
    assert!(
        message.contains("64") && message.contains("wait"),
        "{message}"
    );
    // Those that have their answer and are not asked for it are in nobody's way.
    session.ping().unwrap();
    session
        .reserve(space, &items, &request(0))
        .unwrap()
        .commit()
        .unwrap();
    for reservation in &mut made {
        reservation.wait(5000).unwrap();
    }
    let mut more = not_waiting(&session, space, &one(65), 100);
    more.wait(5000).unwrap();
    drop((made, more, session));
    daemon.finish();
}

#[test]
fn the_longest_answers_wait_for_a_thread_that_reads_them_late() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    // 64 answers of 28 KiB are more than the daemon keeps for a session.
    let family = |number: usize| keys(&format!("family{number}"), 1024);
    let mut made: Vec<_> = (0..64)
        .map(|number| not_waiting(&session, space, &family(number), 64))
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(200));
    for (number, reservation) in made.iter_mut().enumerate() {
        reservation.wait(5000).unwrap();
        let (ok, quota) = (Status::Ok, Status::Quota);
        let expected = if number == 0 { ok } else { quota };
        // The first takes the whole quota.
        assert_eq!(
            statuses_of(reservation),
            [expected; 1024],
            "reserve {number}"
        );
    }
    drop((made, session));
    daemon.finish();
}
