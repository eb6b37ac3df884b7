//! Keyspaces: which model, which layout, which tenant.

use hostkv::{KeyspaceId, Status};
use hostkv_tests::{Daemon, assert_reads, keys, keyspace, keyspace_config, request, store};

use crate::assert_refused;

#[test]
fn two_keyspaces_never_see_each_others_keys() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let mut salted = keyspace_config("test-model");
    salted.cache_salt = "tenant".to_owned();
    let spaces = [
        keyspace(&session),
        session.open_keyspace(&salted).unwrap(),
        session
            .open_keyspace(&keyspace_config("other-model"))
            .unwrap(),
    ];
    let asked = keys("k", 3);
    for (index, space) in spaces.iter().enumerate() {
        store(
            &session,
            *space,
            &asked[..index + 1],
            100 * (index as u64 + 1),
        );
    }
    for (index, space) in spaces.iter().enumerate() {
        assert_eq!(session.lookup(*space, &asked, None).unwrap(), index + 1);
        let lease = session.acquire(*space, &asked, &request(0)).unwrap();
        assert_eq!(lease.span(0).unwrap().len_bytes, 100 * (index as u64 + 1));
        assert_reads(&lease, 0, &asked[0]);
    }
    // A clear takes all keyspaces that the session opened, and no others.
    let other = daemon.session();
    assert_eq!(other.clear(0).unwrap(), 0);
    other.open_keyspace(&salted).unwrap();
    assert_eq!(other.clear(0).unwrap(), 2);
    assert_eq!(session.lookup(spaces[0], &asked, None).unwrap(), 1);
    assert_eq!(session.lookup(spaces[1], &asked, None).unwrap(), 0);
    drop((session, other));
    daemon.finish();
}

#[test]
fn a_number_that_the_session_did_not_open_is_refused() {
    let daemon = Daemon::start(&[]);
    let (first, second) = (daemon.session(), daemon.session());
    let foreign = keyspace(&first);
    let asked = keys("k", 1);
    for number in [foreign, KeyspaceId(0), KeyspaceId(12_345)] {
        assert_refused(second.lookup(number, &asked, None), Status::InvalidArgument);
        assert_refused(
            second.acquire(number, &asked, &request(0)),
            Status::InvalidArgument,
        );
        assert_refused(second.remove(number, &asked, None), Status::InvalidArgument);
        let items = hostkv_tests::reserve_items(&asked, 10);
        assert_refused(
            second.reserve(number, &items, &request(0)),
            Status::InvalidArgument,
        );
    }
    assert_eq!(
        keyspace(&first),
        foreign,
        "the same one again gives the same number"
    );
    drop((first, second));
    daemon.finish();
}

#[test]
fn names_and_salts_have_their_lengths_and_no_nul() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let named = |model: usize, salt: usize| {
        let mut config = keyspace_config(&"m".repeat(model));
        config.cache_salt = "s".repeat(salt);
        config
    };
    session.open_keyspace(&named(144, 128)).unwrap();
    for bad in [
        named(0, 0),
        named(145, 0),
        named(1, 129),
        keyspace_config("a\0b"),
    ] {
        assert_refused(session.open_keyspace(&bad), Status::InvalidArgument);
    }
    drop(session);
    daemon.finish();
}

#[test]
fn a_new_layout_takes_over_when_nobody_has_the_keyspace_open() {
    let daemon = Daemon::start(&[]);
    let asked = keys("k", 5);
    let old = daemon.session();
    let space = keyspace(&old);
    store(&old, space, &asked, 5000);
    let held = old.acquire(space, &asked, &request(0)).unwrap();
    let mut changed = keyspace_config("test-model");
    changed.layout_fingerprint = 8;
    let new = daemon.session();
    assert_refused(new.open_keyspace(&changed), Status::LayoutMismatch);
    held.release().unwrap();
    old.close().unwrap();
    // Read-only sessions never take over.
    let reader = daemon.reader();
    assert_refused(reader.open_keyspace(&changed), Status::LayoutMismatch);
    assert_eq!(reader.lookup(keyspace(&reader), &asked, None).unwrap(), 5);
    reader.close().unwrap();
    let space = new.open_keyspace(&changed).unwrap();
    assert_eq!(new.lookup(space, &asked, None).unwrap(), 0);
    let audit = daemon.audit_until("the old objects go", |audit| audit.object_count == 0);
    assert_eq!(audit.free_bytes, audit.capacity_bytes);
    let scrape = daemon.scrape();
    assert_eq!(scrape.sample("hostkv_layout_replaced_keys_total"), 5.0);
    assert_eq!(scrape.counter("l1_evicted_keys_total"), 0);
    drop(new);
    daemon.finish();
}

#[test]
fn the_operators_tool_takes_a_keyspace_as_it_stands() {
    let daemon = Daemon::start(&[]);
    let engine = daemon.session();
    let asked = keys("k", 1);
    let space = keyspace(&engine);
    store(&engine, space, &asked, 10);
    let tool = daemon.session();
    let mut config = keyspace_config("test-model");
    config.layout_fingerprint = 0xabc;
    config.as_it_stands = true;
    let seen = tool.open_keyspace(&config).unwrap();
    assert_eq!(tool.lookup(seen, &asked, None).unwrap(), 1);
    drop((engine, tool));
    daemon.finish();
}

#[test]
fn ten_thousand_keyspaces_work_in_one_session() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let asked = keys("k", 1);
    let open = |number: usize| {
        let mut config = keyspace_config("many");
        config.cache_salt = format!("tenant {number}");
        session.open_keyspace(&config).unwrap()
    };
    let spaces: Vec<KeyspaceId> = (0..10_000).map(open).collect();
    for space in spaces.iter().step_by(100) {
        store(&session, *space, &asked, 64);
    }
    for (number, space) in spaces.iter().enumerate() {
        let is_there = session.lookup(*space, &asked, None).unwrap() == 1;
        assert_eq!(is_there, number % 100 == 0, "keyspace {number}");
    }
    assert_eq!(open(4711), spaces[4711]);
    assert_eq!(daemon.scrape().sample("hostkv_keyspaces"), 10_000.0);
    session.close().unwrap();
    // Those without objects are forgotten with the session.
    hostkv_tests::wait_until("empty keyspaces go", || {
        daemon.scrape().sample("hostkv_keyspaces") == 100.0
    });
    daemon.finish();
}
