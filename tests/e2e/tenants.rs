//! Tenants: what one may do to another is bounded, and what is told to keep them apart is kept.

use std::time::{Duration, Instant};

use hostkv::session::Session;
use hostkv::{KeyspaceId, Status};
use hostkv_tests::{
    Daemon, PATIENCE, Worker, assert_reads, key, keys, keyspace_config, request, reserve_items,
    statuses_of, store,
};

use crate::assert_refused;

const MIB: u64 = 1 << 20;

fn tenant(session: &Session, salt: &str) -> KeyspaceId {
    let mut config = keyspace_config("test-model");
    config.cache_salt = salt.to_owned();
    session.open_keyspace(&config).unwrap()
}

#[test]
fn with_require_salt_a_keyspace_without_one_is_refused_with_the_remedy() {
    let daemon = Daemon::start(&["--require-salt"]);
    let session = daemon.session();
    let message = assert_refused(
        session.open_keyspace(&keyspace_config("test-model")),
        Status::InvalidArgument,
    );
    assert!(message.contains("--require-salt"), "{message}");
    assert!(
        message.contains("give each tenant a salt of its own"),
        "{message}"
    );
    // The session goes on.
    let keyspace = tenant(&session, "a");
    store(&session, keyspace, &keys("k", 2), 100);
    drop(session);
    daemon.finish();
}

#[test]
fn one_tenants_flood_evicts_its_own_objects_and_no_others() {
    // 64 MiB, of which a keyspace may use 16.
    let daemon = Daemon::start(&["--l1-size-gb", "0.0625", "--keyspace-quota", "0.25"]);
    let session = daemon.session();
    let quiet = tenant(&session, "quiet");
    let loud = tenant(&session, "loud");
    let theirs = keys("quiet", 14);
    store(&session, quiet, &theirs, MIB);
    for number in 0..200 {
        store(&session, loud, &[key("flood", number)], MIB);
    }
    let lease = session.acquire(quiet, &theirs, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 14, "the quiet tenant lost objects");
    for (index, key) in theirs.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    let flood = keys("flood", 200);
    let mut present = vec![0; 200];
    session.lookup(loud, &flood, Some(&mut present)).unwrap();
    let is_there: Vec<usize> = (0..200).filter(|n| present[*n] == 1).collect();
    assert_eq!(
        is_there,
        (184..200).collect::<Vec<_>>(),
        "the newest 16 stay"
    );
    let figures = session.figures().unwrap();
    assert_eq!(figures.l1_evicted_keys, 184);
    let scrape = daemon.scrape();
    assert_eq!(
        scrape.sample("hostkv_keyspace_quota_evictions_total"),
        184.0
    );
    drop(lease);
    drop(session);
    daemon.finish();
}

#[test]
fn a_keyspace_that_can_make_no_room_says_quota_and_names_the_limit() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.0625", "--keyspace-quota", "0.25"]);
    let session = daemon.session();
    let loud = tenant(&session, "loud");
    let held = keys("held", 16);
    store(&session, loud, &held, MIB);
    let lease = session.acquire(loud, &held, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 16);
    let more = keys("more", 1);
    let asked = reserve_items(&more, MIB);
    let reservation = session.reserve(loud, &asked, &request(0)).unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Quota]);
    let message = assert_refused(reservation.span(0), Status::Quota);
    for part in ["keyspace_quota", "16777216 bytes", "--keyspace-quota"] {
        assert!(message.contains(part), "{message}");
    }
    reservation.abort().unwrap();
    assert_eq!(
        daemon
            .scrape()
            .sample("hostkv_write_failures_total{reason=\"keyspace_quota\"}"),
        1.0
    );
    // Another tenant has room, and so has this one when its lease has ended.
    let quiet = tenant(&session, "quiet");
    store(&session, quiet, &more, MIB);
    drop(lease);
    store(&session, loud, &more, MIB);
    drop(session);
    daemon.finish();
}

/// Reserves `len_bytes` for each key and looks at what was granted to the last byte of each extent.
fn assert_grants_zeros(session: &Session, keyspace: KeyspaceId, family: &str, len_bytes: u64) {
    let asked = reserve_items(&keys(family, 4), len_bytes);
    let reservation = session.reserve(keyspace, &asked, &request(0)).unwrap();
    for index in 0..reservation.count() {
        let span = reservation.span(index).unwrap();
        let extent_bytes = len_bytes.next_multiple_of(4096);
        // SAFETY: the extent lies inside the mapping and is this reservation's alone.
        let extent = unsafe { std::slice::from_raw_parts_mut(span.data, extent_bytes as usize) };
        assert!(
            extent.iter().all(|byte| *byte == 0),
            "{family}: a granted extent has other bytes than zeros"
        );
        // What lies behind the object is part of the extent too.
        extent.fill(0x5a);
    }
    reservation.commit().unwrap();
}

#[test]
fn with_zero_on_reuse_nobody_is_granted_bytes_of_another_tenant() {
    let daemon = Daemon::start(&["--zero-on-reuse"]);
    let session = daemon.session();
    let tenants = ["a", "b", "c"].map(|salt| tenant(&session, salt));
    // The pool is 32 MiB: twenty rounds of 3 x 4 objects of up to a MB evict, split and join extents of all sizes.
    for round in 0..20_u64 {
        for (turn, keyspace) in tenants.iter().enumerate() {
            let len_bytes = 400_003 + 70_000 * (round * 3 + turn as u64) % 600_000;
            assert_grants_zeros(&session, *keyspace, &format!("round{round}"), len_bytes);
        }
        // What was aborted, and what a session left behind at its end, too.
        let asked = reserve_items(&keys("aborted", 2), MIB);
        for reservation in [tenants[0], tenants[1]]
            .map(|space| session.reserve(space, &asked, &request(0)).unwrap())
        {
            for index in 0..reservation.count() {
                if let Ok(span) = reservation.span(index) {
                    // SAFETY: the span is this reservation's alone.
                    unsafe { span.data.write_bytes(0x77, span.len_bytes as usize) };
                }
            }
            reservation.abort().unwrap();
        }
        session
            .remove(tenants[2], &keys(&format!("round{round}"), 4), None)
            .unwrap();
        let mut worker = Worker::start(&daemon);
        for order in ["open", "reserve killed 2 1000000", "fill"] {
            worker.must(order);
        }
        worker.kill();
    }
    let evicted = session.figures().unwrap().l1_evicted_keys;
    assert!(evicted > 50, "only {evicted} objects were evicted");
    drop(session);
    daemon.finish();
}

#[test]
fn zeroing_a_large_extent_holds_no_other_request_up() {
    // The largest object is 64 MiB.
    let daemon = Daemon::start(&["--zero-on-reuse", "--l1-size-gb", "0.5"]);
    let (session, other) = (daemon.session(), daemon.session());
    let keyspace = tenant(&session, "a");
    let large = keys("large", 4);
    for key in &large {
        let asked = reserve_items(&[*key], 64 * MIB);
        let reservation = session.reserve(keyspace, &asked, &request(0)).unwrap();
        reservation.span(0).unwrap();
        reservation.commit().unwrap();
    }
    let mut slowest = Duration::ZERO;
    session.remove(keyspace, &large, None).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut pings = 0;
    while daemon.scrape().sample("hostkv_l1_used_bytes") > 0.0 {
        for _ in 0..50 {
            let asked = Instant::now();
            other.ping().unwrap();
            slowest = slowest.max(asked.elapsed());
            pings += 1;
        }
        assert!(Instant::now() < deadline, "256 MiB are never zeroed");
    }
    println!("256 MiB zeroed; of {pings} requests meanwhile the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop((session, other));
    daemon.finish();
}
