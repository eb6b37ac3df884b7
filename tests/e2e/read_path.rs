//! Reads: bytes where they lie, pinned until they are released, whatever happens to the key.

use std::sync::Arc;

use hostkv::session::{ACQUIRE_ALL, Mapping, Session, SessionConfig};
use hostkv::{ChunkKey, Status};
use hostkv_tests::{
    Daemon, Random, assert_reads, fill, is_filled, key, keys, keyspace, request, reserve_items,
    seed, statuses_of, store, store_sized,
};

use crate::assert_refused;

/// Statuses of the spans of a lease, in order.
fn spans(lease: &hostkv::lease::Lease) -> Vec<Status> {
    (0..lease.count())
        .map(|index| match lease.span(index) {
            Ok(_) => Status::Ok,
            Err(error) => error.status,
        })
        .collect()
}

#[test]
fn what_one_session_stores_another_reads_in_place_byte_for_byte() {
    let daemon = Daemon::start(&[]);
    let writer = daemon.session();
    let space = keyspace(&writer);
    let lengths = [1, 63, 64, 4095, 4096, 4097, 100_000, 1 << 20];
    let stored = keys("k", lengths.len());
    let mut items = reserve_items(&stored, 1);
    for (item, length) in items.iter_mut().zip(lengths) {
        item.len_bytes = length;
    }
    let reservation = store_sized(&writer, space, &items);
    let written_at: Vec<u64> = (0..lengths.len())
        .map(|index| {
            let span = reservation.span(index).unwrap();
            let (base, _) = writer.mapping(Mapping::Write).unwrap();
            span.data as u64 - base as u64
        })
        .collect();
    reservation.commit().unwrap();

    let reader = daemon.reader();
    let space = keyspace(&reader);
    let mut present = vec![9; lengths.len()];
    assert_eq!(
        reader.lookup(space, &stored, Some(&mut present)).unwrap(),
        lengths.len()
    );
    assert_eq!(present, vec![1; lengths.len()]);
    let lease = reader.acquire(space, &stored, &request(0)).unwrap();
    assert_eq!(
        (lease.count(), lease.prefix_count()),
        (lengths.len(), lengths.len())
    );
    let (base, mapped_len) = reader.mapping(Mapping::Read).unwrap();
    assert_eq!(mapped_len, 32 << 20);
    for (index, length) in lengths.into_iter().enumerate() {
        let span = lease.span(index).unwrap();
        assert_eq!(span.len_bytes, length);
        // The very bytes that the writer wrote: the same offset of the segment, no copy.
        let offset = span.data as u64 - base as u64;
        assert_eq!(offset, written_at[index]);
        assert!(offset + length <= mapped_len);
        assert_eq!(offset % 4096, 0);
        assert_reads(&lease, index, &stored[index]);
    }
    assert_refused(lease.span(lengths.len()), Status::InvalidArgument);
    lease.check().unwrap();
    lease.release().unwrap();
    drop((reader, writer));
    daemon.finish();
}

#[test]
fn uncommitted_bytes_are_never_readable() {
    let daemon = Daemon::start(&[]);
    let (writer, reader) = (daemon.session(), daemon.reader());
    let (space, seen) = (keyspace(&writer), keyspace(&reader));
    let stored = keys("k", 4);
    let reservation = store_sized(&writer, space, &reserve_items(&stored, 5000));
    let nothing = |why: &str| {
        assert_eq!(reader.lookup(seen, &stored, None).unwrap(), 0, "{why}");
        let lease = reader
            .acquire(seen, &stored, &request(ACQUIRE_ALL))
            .unwrap();
        assert_eq!(spans(&lease), [Status::NotFound; 4], "{why}");
    };
    nothing("reserved and written");
    reservation.abort().unwrap();
    nothing("aborted");
    drop(store_sized(&writer, space, &reserve_items(&stored, 5000)));
    nothing("dropped");
    store(&writer, space, &stored, 5000);
    assert_eq!(reader.lookup(seen, &stored, None).unwrap(), 4);
    drop((writer, reader));
    daemon.finish();
}

#[test]
fn acquire_pins_the_leading_run_and_acquire_all_every_present_key() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 6);
    store(
        &session,
        space,
        &[asked[0], asked[1], asked[3], asked[5]],
        100,
    );
    let mut present = [9; 6];
    assert_eq!(
        session.lookup(space, &asked, Some(&mut present)).unwrap(),
        2
    );
    assert_eq!(present, [1, 1, 0, 1, 0, 1]);
    let (ok, not) = (Status::Ok, Status::NotFound);
    let lease = session.acquire(space, &asked, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 2);
    assert_eq!(spans(&lease), [ok, ok, not, not, not, not]);
    assert_eq!(daemon.audit().pin_count, 2);
    let all = session
        .acquire(space, &asked, &request(ACQUIRE_ALL))
        .unwrap();
    assert_eq!(all.prefix_count(), 2);
    assert_eq!(spans(&all), [ok, ok, not, ok, not, ok]);
    assert_reads(&all, 5, &asked[5]);
    assert_eq!(daemon.audit().pin_count, 6);
    drop((lease, all));
    let nothing = session.acquire(space, &asked[2..3], &request(0)).unwrap();
    assert_eq!((nothing.count(), nothing.prefix_count()), (1, 0));
    nothing.release().unwrap();
    assert_eq!(daemon.audit().pin_count, 0);
    drop(session);
    daemon.finish();
}

#[test]
fn each_occurrence_of_a_duplicate_is_answered_alike_and_takes_its_own_pin() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let (here, gone) = (key("here", 0), key("gone", 0));
    store(&session, space, &[here], 100);
    let asked = [here, here, gone, gone, here];
    let mut present = [9; 5];
    assert_eq!(
        session.lookup(space, &asked, Some(&mut present)).unwrap(),
        2
    );
    assert_eq!(present, [1, 1, 0, 0, 1]);
    let lease = session
        .acquire(space, &asked, &request(ACQUIRE_ALL))
        .unwrap();
    let (ok, not) = (Status::Ok, Status::NotFound);
    assert_eq!(spans(&lease), [ok, ok, not, not, ok]);
    assert_eq!(lease.span(0).unwrap().data, lease.span(4).unwrap().data);
    assert_eq!(daemon.audit().pin_count, 3);
    lease.release().unwrap();
    assert_eq!(daemon.audit().pin_count, 0);
    drop(session);
    daemon.finish();
}

#[test]
fn a_call_takes_1_to_1024_keys() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 1025);
    for bad in [&asked[..0], &asked[..]] {
        assert_refused(session.lookup(space, bad, None), Status::InvalidArgument);
        assert_refused(
            session.acquire(space, bad, &request(0)),
            Status::InvalidArgument,
        );
        assert_refused(session.remove(space, bad, None), Status::InvalidArgument);
        let message = assert_refused(
            session.reserve(space, &reserve_items(bad, 10), &request(0)),
            Status::InvalidArgument,
        );
        assert!(message.contains("1024"), "{message}");
    }
    let most = &asked[..1024];
    let reservation = store_sized(&session, space, &reserve_items(most, 300));
    reservation.commit().unwrap();
    assert_eq!(session.lookup(space, most, None).unwrap(), 1024);
    let lease = session.acquire(space, most, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 1024);
    assert_reads(&lease, 1023, &most[1023]);
    lease.release().unwrap();
    let mut removed = vec![9; 1024];
    session.remove(space, most, Some(&mut removed)).unwrap();
    assert_eq!(removed, vec![1; 1024]);
    drop(session);
    daemon.finish();
}

#[test]
fn malformed_keys_flags_and_names_are_refused() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    for length in [0, 33, u32::MAX] {
        let bad = ChunkKey {
            chunk_hash_len: length,
            ..key("k", 0)
        };
        assert_refused(session.lookup(space, &[bad], None), Status::InvalidArgument);
        assert_refused(
            session.acquire(space, &[bad], &request(0)),
            Status::InvalidArgument,
        );
        assert_refused(session.remove(space, &[bad], None), Status::InvalidArgument);
        let items = reserve_items(&[bad], 10);
        assert_refused(
            session.reserve(space, &items, &request(0)),
            Status::InvalidArgument,
        );
    }
    let asked = keys("k", 1);
    assert_refused(
        session.acquire(space, &asked, &request(2)),
        Status::InvalidArgument,
    );
    let items = reserve_items(&asked, 10);
    assert_refused(
        session.reserve(space, &items, &request(ACQUIRE_ALL)),
        Status::InvalidArgument,
    );
    let long = "x".repeat(129);
    for bad in ["", "a\nb", &long] {
        let mut named = request(0);
        named.request_id = Some(bad);
        assert_refused(
            session.acquire(space, &asked, &named),
            Status::InvalidArgument,
        );
        assert_refused(
            session.reserve(space, &items, &named),
            Status::InvalidArgument,
        );
    }
    let mut named = request(0);
    named.device = Some(&long[..33]);
    assert_refused(
        session.reserve(space, &items, &named),
        Status::InvalidArgument,
    );
    // Bytes behind the length are ignored, the length itself is not.
    let short = ChunkKey {
        chunk_hash_len: 2,
        ..key("k", 0)
    };
    let mut other_tail = short;
    other_tail.chunk_hash[5] = 99;
    store(&session, space, &[short], 10);
    assert_eq!(session.lookup(space, &[other_tail], None).unwrap(), 1);
    assert_eq!(session.lookup(space, &[key("k", 0)], None).unwrap(), 0);
    drop(session);
    daemon.finish();
}

#[test]
fn a_removed_or_cleared_key_stays_readable_for_those_who_hold_it() {
    let daemon = Daemon::start(&[]);
    let (writer, reader) = (daemon.session(), daemon.reader());
    let (space, seen) = (keyspace(&writer), keyspace(&reader));
    let stored = keys("k", 3);
    store(&writer, space, &stored, 50_000);
    let lease = reader.acquire(seen, &stored, &request(0)).unwrap();
    let mut removed = [9; 3];
    writer
        .remove(
            space,
            &[stored[0], stored[0], key("gone", 1)],
            Some(&mut removed),
        )
        .unwrap();
    assert_eq!(removed, [1, 0, 0], "the second occurrence is not there");
    assert_eq!(writer.clear(0).unwrap(), 2);
    assert_eq!(reader.lookup(seen, &stored, None).unwrap(), 0);
    // New objects of the same names, and others until the pool is used all over, do not touch the old bytes.
    store(&writer, space, &stored, 50_000);
    for round in 0..12 {
        store(&writer, space, &keys(&format!("fill{round}"), 8), 400_000);
    }
    assert_eq!(daemon.audit().zombie_count, 3);
    for (index, key) in stored.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.check().unwrap();
    lease.release().unwrap();
    daemon.audit_until("the bytes are given back", |audit| audit.zombie_bytes == 0);
    let scrape = daemon.scrape();
    assert_eq!(scrape.sample("hostkv_removed_keys_total"), 1.0);
    assert_eq!(scrape.sample("hostkv_cleared_keys_total"), 2.0);
    drop((writer, reader));
    daemon.finish();
}

#[test]
fn a_lease_and_a_reservation_outlive_the_close_of_their_session() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let stored = keys("k", 2);
    store(&session, space, &stored, 9000);
    let lease = session.acquire(space, &stored, &request(0)).unwrap();
    let more = keys("more", 1);
    let late = store_sized(&session, space, &reserve_items(&more, 10));
    session.close().unwrap();
    assert_refused(session.close(), Status::InvalidArgument);
    assert_refused(
        session.lookup(space, &stored, None),
        Status::InvalidArgument,
    );
    assert_refused(late.commit(), Status::InvalidArgument);
    assert_reads(&lease, 1, &stored[1]);
    lease.check().unwrap();
    assert_eq!(daemon.audit().pin_count, 2);
    daemon.wait_for_sessions(1);
    lease.release().unwrap();
    daemon.wait_for_sessions(0);
    let audit = daemon.audit();
    assert_eq!(
        (audit.pin_count, audit.reserved_bytes, audit.object_count),
        (0, 0, 2)
    );
    daemon.finish();
}

#[test]
fn a_lease_that_outlives_the_read_ttl_says_expired_once_its_object_is_gone() {
    let daemon = Daemon::start(&["--l1-read-ttl-seconds", "0.2"]);
    let (writer, reader) = (daemon.session(), daemon.reader());
    let (space, seen) = (keyspace(&writer), keyspace(&reader));
    let stored = keys("k", 2);
    store(&writer, space, &stored, 5000);
    let old = reader.acquire(seen, &stored, &request(0)).unwrap();
    writer.remove(space, &stored[..1], None).unwrap();
    // Before its time the object is kept.
    old.check().unwrap();
    assert_reads(&old, 0, &stored[0]);
    let audit = daemon.audit_until("the pin is revoked", |audit| audit.revoked_count == 1);
    assert_eq!(audit.zombie_bytes, 0);
    assert_refused(old.check(), Status::Expired);
    assert_refused(old.release(), Status::Expired);
    let young = reader.acquire(seen, &stored[1..], &request(0)).unwrap();
    young.check().unwrap();
    young.release().unwrap();
    daemon.audit_until("the entry is free again", |audit| audit.revoked_count == 0);
    assert_eq!(daemon.scrape().sample("hostkv_expired_pins_total"), 1.0);
    drop((writer, reader));
    daemon.finish();
}

#[test]
fn one_mapping_serves_reads_and_writes_when_asked() {
    let daemon = Daemon::start(&[]);
    let flags = hostkv::session::SINGLE_MAPPING | hostkv::session::POPULATE;
    let session = Session::open(&daemon.config(flags)).unwrap();
    let space = keyspace(&session);
    let stored = keys("k", 1);
    store(&session, space, &stored, 3000);
    let lease = session.acquire(space, &stored, &request(0)).unwrap();
    assert_reads(&lease, 0, &stored[0]);
    let (read, write) = (
        session.mapping(Mapping::Read).unwrap(),
        session.mapping(Mapping::Write).unwrap(),
    );
    assert_eq!(read, write);
    let both = hostkv::session::SINGLE_MAPPING | hostkv::session::READ_ONLY;
    assert_refused(Session::open(&daemon.config(both)), Status::InvalidArgument);
    assert_refused(
        Session::open(&daemon.config(1 << 7)),
        Status::InvalidArgument,
    );
    drop((lease, session));
    daemon.finish();
}

#[test]
fn many_threads_share_a_session_and_a_lease() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.125"]);
    let session = Arc::new(
        Session::open(&SessionConfig {
            timeout_ms: 20_000,
            ..daemon.config(0)
        })
        .unwrap(),
    );
    let space = keyspace(&session);
    let common = keys("common", 16);
    store(&session, space, &common, 2000);
    let lease = session.acquire(space, &common, &request(0)).unwrap();
    let start = seed("many_threads_share_a_session_and_a_lease");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (session, lease, common) = (&session, &lease, &common);
            scope.spawn(move || {
                let mut random = Random(start ^ thread);
                for round in 0..150 {
                    let index = random.below(16) as usize;
                    assert_reads(lease, index, &common[index]);
                    lease.check().unwrap();
                    let own = keys(&format!("t{thread}r{}", round % 20), 6);
                    let items = reserve_items(&own, 1 + random.below(9000));
                    let reservation = session.reserve(space, &items, &request(0)).unwrap();
                    for (index, status) in statuses_of(&reservation).into_iter().enumerate() {
                        assert!(matches!(status, Status::Ok | Status::Exists), "{status}");
                        if status == Status::Ok {
                            let span = reservation.span(index).unwrap();
                            // SAFETY: the span is this thread's alone until the commit.
                            unsafe { fill(&own[index], span.data, span.len_bytes) };
                        }
                    }
                    reservation.commit().unwrap();
                    let mine = session.acquire(space, &own, &request(0)).unwrap();
                    assert_eq!(mine.prefix_count(), 6);
                    for (index, key) in own.iter().enumerate() {
                        assert_reads(&mine, index, key);
                    }
                    mine.release().unwrap();
                    if random.below(3) == 0 {
                        session.remove(space, &own, None).unwrap();
                    }
                }
            });
        }
    });
    lease.release().unwrap();
    assert_eq!(daemon.audit().pin_count, 0);
    drop(session);
    daemon.finish();
}

#[test]
fn readers_see_whole_objects_while_writers_replace_them() {
    let daemon = Daemon::start(&[]);
    let contested = keys("contested", 4);
    let start = seed("readers_see_whole_objects_while_writers_replace_them");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let found = std::thread::scope(|scope| {
        for writer in 0..2 {
            let (daemon, contested) = (&daemon, &contested);
            scope.spawn(move || {
                let session = daemon.session();
                let space = keyspace(&session);
                let mut random = Random(start ^ writer);
                while std::time::Instant::now() < end {
                    let items = reserve_items(contested, 1 + random.below(20_000));
                    let reservation = session.reserve(space, &items, &request(0)).unwrap();
                    for (index, key) in contested.iter().enumerate() {
                        if let Ok(span) = reservation.span(index) {
                            // SAFETY: the span is this thread's alone until the commit.
                            unsafe { fill(key, span.data, span.len_bytes) };
                        }
                    }
                    reservation.commit().unwrap();
                    session.remove(space, contested, None).unwrap();
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (daemon, contested) = (&daemon, &contested);
                scope.spawn(move || {
                    let session = daemon.reader();
                    let space = keyspace(&session);
                    let mut found = 0_u64;
                    while std::time::Instant::now() < end {
                        let lease = session
                            .acquire(space, contested, &request(ACQUIRE_ALL))
                            .unwrap();
                        for (index, key) in contested.iter().enumerate() {
                            let Ok(span) = lease.span(index) else {
                                continue;
                            };
                            // SAFETY: the lease keeps the bytes, and committed bytes do not change.
                            assert!(unsafe { is_filled(key, span.data, span.len_bytes) });
                            found += 1;
                        }
                        lease.release().unwrap();
                    }
                    found
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum::<u64>()
    });
    eprintln!("readers_see_whole_objects_while_writers_replace_them: {found} objects read");
    assert!(found > 0);
    daemon.audit_until("all is given back", |audit| audit.zombie_bytes == 0);
    daemon.finish();
}
