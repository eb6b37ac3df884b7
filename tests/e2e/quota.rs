//! What a session may hold: pins by slots and bytes, reserved bytes, keyspaces; and how many sessions there may be.

use hostkv::Status;
use hostkv::session::{ACQUIRE_ALL, Session, SessionConfig};
use hostkv_tests::{
    Daemon, Worker, keys, keyspace, keyspace_config, request, reserve_items, statuses_of, store,
    store_sized,
};

use crate::assert_refused;

const MIB: u64 = 1 << 20;

#[test]
fn pin_slots_end_the_run_and_say_quota() {
    let daemon = Daemon::start(&[]);
    let writer = daemon.session();
    let space = keyspace(&writer);
    let stored = keys("k", 300);
    store(&writer, space, &stored, 10);
    let few = Session::open(&SessionConfig {
        pin_slot_count: 256,
        ..daemon.config(0)
    })
    .unwrap();
    let space = keyspace(&few);
    for flags in [0, ACQUIRE_ALL] {
        let lease = few.acquire(space, &stored, &request(flags)).unwrap();
        assert_eq!(lease.prefix_count(), 256);
        let message = assert_refused(lease.span(256), Status::Quota);
        assert!(
            message.contains("256") && message.contains("pin_slot_count"),
            "{message}"
        );
        assert_refused(lease.span(257), Status::NotFound);
        assert_refused(lease.span(299), Status::NotFound);
        // Another lease gets nothing until this one ends.
        let more = few.acquire(space, &stored[299..], &request(0)).unwrap();
        assert_refused(more.span(0), Status::Quota);
    }
    let lease = few.acquire(space, &stored[299..], &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 1);
    drop((lease, few, writer));
    daemon.finish();
}

#[test]
fn more_pin_slots_than_max_pins_are_refused() {
    let daemon = Daemon::start(&["--max-pins", "512"]);
    let open = |pin_slot_count| {
        Session::open(&SessionConfig {
            pin_slot_count,
            ..daemon.config(0)
        })
    };
    let message = assert_refused(open(513), Status::InvalidArgument);
    assert!(
        message.contains("513") && message.contains("--max-pins is 512"),
        "{message}"
    );
    assert_eq!(open(512).unwrap().info().unwrap().pin_slot_count, 512);
    assert_eq!(open(0).unwrap().info().unwrap().pin_slot_count, 512);
    daemon.finish();
}

#[test]
fn pinned_bytes_are_at_most_half_of_the_pool_and_count_once_an_object() {
    let daemon = Daemon::start(&[]);
    let writer = daemon.session();
    let space = keyspace(&writer);
    let stored = keys("k", 20);
    store(&writer, space, &stored, MIB);
    let reader = daemon.reader();
    let space = keyspace(&reader);
    let lease = reader.acquire(space, &stored, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 16);
    let message = assert_refused(lease.span(16), Status::Quota);
    assert!(message.contains(&(16 * MIB).to_string()), "{message}");
    assert_refused(lease.span(17), Status::NotFound);
    // The same objects again cost nothing, another one does.
    let again = reader.acquire(space, &stored[..16], &request(0)).unwrap();
    assert_eq!(again.prefix_count(), 16);
    assert_refused(
        reader
            .acquire(space, &stored[16..], &request(0))
            .unwrap()
            .span(0),
        Status::Quota,
    );
    lease.release().unwrap();
    assert_refused(
        reader
            .acquire(space, &stored[16..], &request(0))
            .unwrap()
            .span(0),
        Status::Quota,
    );
    again.release().unwrap();
    let lease = reader.acquire(space, &stored[4..], &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 16);
    drop((lease, reader, writer));
    daemon.finish();
}

#[test]
fn the_gate_shuts_for_all_when_most_of_the_pool_is_pinned() {
    let daemon = Daemon::start(&["--eviction-trigger-watermark", "1"]);
    let writer = daemon.session();
    let space = keyspace(&writer);
    let stored = keys("k", 29);
    store(&writer, space, &stored, MIB);
    let readers = [daemon.reader(), daemon.reader(), daemon.reader()];
    let spaces = readers.each_ref().map(keyspace);
    let first = readers[0]
        .acquire(spaces[0], &stored[..14], &request(0))
        .unwrap();
    let second = readers[1]
        .acquire(spaces[1], &stored[14..28], &request(0))
        .unwrap();
    assert_eq!((first.prefix_count(), second.prefix_count()), (14, 14));
    let is_shut = |wanted: f64| {
        hostkv_tests::wait_until("the gate moves", || {
            daemon.scrape().sample("hostkv_pin_gate_shut") == wanted
        });
    };
    is_shut(1.0);
    let third = readers[2]
        .acquire(spaces[2], &stored[28..], &request(0))
        .unwrap();
    assert_refused(third.span(0), Status::Quota);
    // What was pinned before is honoured.
    first.check().unwrap();
    first.release().unwrap();
    is_shut(0.0);
    let third = readers[2]
        .acquire(spaces[2], &stored[28..], &request(0))
        .unwrap();
    assert_eq!(third.prefix_count(), 1);
    drop((second, third));
    drop((readers, writer));
    daemon.finish();
}

#[test]
fn reserved_bytes_of_a_session_are_an_eighth_of_the_pool() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    assert_eq!(session.info().unwrap().reserve_quota_bytes, 4 * MIB);
    let held = session
        .reserve(space, &reserve_items(&keys("k", 6), MIB), &request(0))
        .unwrap();
    let (ok, quota) = (Status::Ok, Status::Quota);
    assert_eq!(statuses_of(&held), [ok, ok, ok, ok, quota, quota]);
    let message = assert_refused(held.span(4), quota);
    let limit = (4 * MIB).to_string();
    assert!(
        message.contains(&limit) && message.contains("--max-reserved-ratio"),
        "{message}"
    );
    let more = session
        .reserve(space, &reserve_items(&keys("l", 1), 1), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&more), [quota]);
    assert_eq!(daemon.audit().reserved_bytes, 4 * MIB);
    held.commit().unwrap();
    store(&session, space, &keys("l", 1), 1);
    assert_eq!(daemon.scrape().write_failures("quota"), 3);
    drop((more, session));
    daemon.finish();
}

#[test]
fn reserved_bytes_of_all_sessions_are_half_of_the_pool() {
    let daemon = Daemon::start(&["--max-reserved-ratio", "0.5"]);
    let sessions = [daemon.session(), daemon.session()];
    let spaces = sessions.each_ref().map(keyspace);
    let held = store_sized(&sessions[0], spaces[0], &reserve_items(&keys("k", 12), MIB));
    let items = reserve_items(&keys("l", 5), MIB);
    let other = sessions[1].reserve(spaces[1], &items, &request(0)).unwrap();
    let (ok, quota) = (Status::Ok, Status::Quota);
    assert_eq!(statuses_of(&other), [ok, ok, ok, ok, quota]);
    let message = assert_refused(other.span(4), quota);
    assert!(message.contains("pool_reserved"), "{message}");
    held.abort().unwrap();
    other.abort().unwrap();
    assert_eq!(daemon.audit().reserved_bytes, 0);
    drop(sessions);
    daemon.finish();
}

#[test]
fn one_session_above_max_sessions_is_refused_until_another_ends() {
    let daemon = Daemon::start(&["--max-sessions", "3"]);
    let first = daemon.session();
    let second = daemon.session();
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    let message = assert_refused(Session::open(&daemon.config(0)), Status::Quota);
    assert!(message.contains("--max-sessions is 3"), "{message}");
    worker.kill();
    daemon.wait_for_sessions(2);
    let third = daemon.session();
    assert_refused(Session::open(&daemon.config(0)), Status::Quota);
    second.close().unwrap();
    daemon.session().ping().unwrap();
    drop((first, third));
    daemon.finish();
}

#[test]
fn one_keyspace_above_max_keyspaces_is_refused() {
    let daemon = Daemon::start(&["--max-keyspaces", "2"]);
    let session = daemon.session();
    session.open_keyspace(&keyspace_config("a")).unwrap();
    session.open_keyspace(&keyspace_config("b")).unwrap();
    let message = assert_refused(session.open_keyspace(&keyspace_config("c")), Status::Quota);
    assert!(message.contains("--max-keyspaces"), "{message}");
    session.open_keyspace(&keyspace_config("a")).unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn a_session_opens_16384_keyspaces_and_no_more() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let open = |number: usize| {
        let mut config = keyspace_config("many");
        config.cache_salt = number.to_string();
        session.open_keyspace(&config)
    };
    for number in 0..16_384 {
        open(number).unwrap();
    }
    let message = assert_refused(open(16_384), Status::Quota);
    assert!(message.contains("16384"), "{message}");
    open(5).unwrap();
    drop(session);
    daemon.finish();
}
