//! Bytes that are no longer those that were committed: who notices, and what becomes of them.

use hostkv::session::{ACQUIRE_ALL, Mapping, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_shm_protocol::wire::request::Request;
use hostkv_tests::{
    Daemon, DaemonSpec, RawClient, assert_reads, keys, keyspace, request, store, wait_until,
};

use crate::assert_refused;

const LEN: u64 = 5000;
const CHANGED: usize = 1000;

/// Where the objects of these keys begin in the payload.
fn offsets(session: &Session, space: KeyspaceId, keys: &[ChunkKey]) -> Vec<usize> {
    let base = session.mapping(Mapping::Read).unwrap().0 as usize;
    keys.chunks(500)
        .flat_map(|keys| {
            let lease = session.acquire(space, keys, &request(0)).unwrap();
            assert_eq!(lease.prefix_count(), keys.len());
            (0..keys.len())
                .map(|index| lease.span(index).unwrap().data as usize - base)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A trusted writer breaks its contract: it flips one bit somewhere in each object, another one in each.
fn flip(session: &Session, offsets: &[usize]) {
    let base = session.mapping(Mapping::Write).unwrap().0;
    for (number, offset) in offsets.iter().enumerate() {
        let word = number * 13 % (LEN as usize / 8);
        // SAFETY: the object lies at a multiple of the alignment inside the mapping, which lives as long as the session;
        // whoever else looks at it does so by atomics.
        let word = unsafe { &*base.add(offset + word * 8).cast::<AtomicU64>() };
        word.fetch_xor(1 << (number % 64), Ordering::Relaxed);
    }
}

fn found(session: &Session, space: KeyspaceId, keys: &[ChunkKey]) -> usize {
    keys.iter()
        .filter(|key| {
            let lease = session.acquire(space, &[**key], &request(0)).unwrap();
            lease.prefix_count() == 1
        })
        .count()
}

fn failures(daemon: &Daemon) -> u64 {
    daemon.scrape().sample("hostkv_integrity_failures_total") as u64
}

#[test]
fn with_full_every_object_that_was_changed_after_its_commit_is_a_miss_at_once_and_then_gone() {
    // No scrubber: what is found is found by readers.
    let daemon = Daemon::start(&[
        "--l1-size-gb",
        "0.0625",
        "--integrity",
        "full",
        "--scrub-bytes-per-second",
        "0",
    ]);
    let session = daemon.session();
    let space = keyspace(&session);
    let changed = keys("changed", CHANGED);
    let whole = keys("whole", CHANGED);
    store(&session, space, &changed, LEN);
    store(&session, space, &whole, LEN);
    let places = offsets(&session, space, &changed);
    assert_eq!(found(&session, space, &changed), CHANGED);
    flip(&session, &places);
    let reader = daemon.reader();
    let reader_space = keyspace(&reader);
    assert_eq!(
        found(&reader, reader_space, &changed),
        0,
        "100 % are noticed"
    );
    assert_eq!(
        found(&reader, reader_space, &whole),
        CHANGED,
        "no false alarm"
    );
    // In one call the run ends before the first changed object, and with ACQUIRE_ALL only those are missing.
    let mixed = [whole[0], whole[1], changed[0], whole[2]];
    let lease = session.acquire(space, &mixed, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 2);
    assert_refused(lease.span(2), Status::NotFound);
    let all = session
        .acquire(space, &mixed, &request(ACQUIRE_ALL))
        .unwrap();
    assert_refused(all.span(2), Status::NotFound);
    assert_reads(&all, 3, &whole[2]);
    drop((lease, all));
    // The reports are taken up at a bounded rate, and each one that is true removes its object.
    wait_until("the daemon has removed some of them", || {
        failures(&daemon) >= 64
    });
    let before = failures(&daemon);
    assert!(before <= CHANGED as u64);
    assert_eq!(
        daemon
            .scrape()
            .sample("hostkv_integrity_reports_refuted_total"),
        0.0
    );
    let line = daemon.wait_for_line("is not what was committed and is removed");
    assert!(line.contains("5000 bytes"), "{line}");
    drop((session, reader));
    daemon.finish();
}

#[test]
fn the_scrubber_finds_a_thousand_of_a_thousand_changed_objects_and_no_other() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.0625"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let changed = keys("changed", CHANGED);
    let whole = keys("whole", CHANGED);
    store(&session, space, &changed, LEN);
    store(&session, space, &whole, LEN);
    let passes = || daemon.scrape().sample("hostkv_scrub_passes_total");
    // Two passes from now on: each object has its sum then.
    let start = passes();
    wait_until("every object has its sum", || passes() >= start + 2.0);
    assert_eq!(failures(&daemon), 0);
    let places = offsets(&session, space, &changed);
    flip(&session, &places);
    let start = passes();
    wait_until("a whole pass is over", || passes() >= start + 2.0);
    assert_eq!(failures(&daemon), CHANGED as u64);
    let mut present = vec![9; 500];
    for keys in changed.chunks(500) {
        session.lookup(space, keys, Some(&mut present)).unwrap();
        assert!(present.iter().all(|byte| *byte == 0));
    }
    for keys in whole.chunks(500) {
        let lease = session.acquire(space, keys, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), 500);
        (0..500).for_each(|index| assert_reads(&lease, index, &keys[index]));
    }
    assert!(daemon.scrape().sample("hostkv_scrubbed_bytes_total") >= 2000.0 * LEN as f64);
    drop(session);
    daemon.finish();
}

#[test]
fn a_commit_that_waits_for_its_sums_is_carried_out_when_its_writer_hangs_up() {
    const COUNT: usize = 64;
    const OBJECT: u32 = 64 << 10;
    let daemon = Daemon::start(&["--l1-size-gb", "0.0625", "--integrity", "full"]);
    let stored = keys("hung-up", COUNT);
    let mut writer = daemon.raw_client();
    let space = writer.keyspace();
    let reply = writer.ask(&RawClient::reserve(1, space, &stored, OBJECT));
    let (held, items) = RawClient::held(1, &reply);
    for (key, item) in stored.iter().zip(&items) {
        writer.fill(key, item, u64::from(OBJECT));
    }
    writer.send(&Request::Commit(held));
    writer.close_socket();
    let reader = daemon.reader();
    let space = keyspace(&reader);
    wait_until("all of the commit is readable", || {
        reader.lookup(space, &stored, None).unwrap() == COUNT
    });
    let lease = reader.acquire(space, &stored, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), COUNT);
    (0..COUNT).for_each(|index| assert_reads(&lease, index, &stored[index]));
    drop((lease, reader, writer));
    daemon.finish();
}

#[test]
fn clients_of_a_daemon_that_is_killed_while_commits_wait_are_told_so() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.25", "--integrity", "full"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let storing = std::thread::spawn(move || {
        let mut stored = 0;
        loop {
            let items = hostkv_tests::reserve_items(&keys(&format!("k{stored}"), 8), 1 << 20);
            let Ok(reservation) = session.reserve(space, &items, &request(0)) else {
                break;
            };
            match reservation.commit() {
                Ok(_) => stored += 1,
                Err(error) => {
                    assert_eq!(error.status, Status::Disconnected, "{error:?}");
                    break;
                }
            }
        }
        stored
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    daemon.kill();
    let stored = storing.join().unwrap();
    eprintln!("{stored} commits before the kill");
}

#[test]
fn sampled_without_a_budget_is_refused_with_the_remedy() {
    DaemonSpec::new(&["--scrub-bytes-per-second", "0"])
        .start_must_fail()
        .assert_says(
            2,
            &[
                "--integrity",
                "sampled",
                "--scrub-bytes-per-second",
                "off or full",
            ],
        );
}
