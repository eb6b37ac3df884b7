//! Tenants: what one may do to another is bounded, and what is told to keep them apart is kept.

use hostkv::session::Session;
use hostkv::{KeyspaceId, Status};
use hostkv_tests::{
    Daemon, assert_reads, key, keys, keyspace_config, request, reserve_items, statuses_of, store,
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
