//! A prefetch of a pool without tiers: the prefix that L1 has is kept for the read that follows, and nothing else moves.

use hostkv::Status;
use hostkv::session::Request;
use hostkv_tests::{
    Daemon, Worker, assert_reads, keys, keyspace, outcome, overfill, request, store, wait_until,
};

use crate::assert_refused;

const OBJECT_BYTES: u64 = 256 << 10;

#[test]
fn what_a_prefetch_keeps_is_not_evicted_until_it_ends() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let id = keyspace(&session);
    let kept = keys("kept", 4);
    store(&session, id, &kept, OBJECT_BYTES);
    let prefetch = session.prefetch(id, &kept, &request(0)).unwrap();
    assert_eq!(prefetch.wait(30_000).unwrap(), outcome(4, 0, Status::Ok));
    overfill(&session, id, "other", OBJECT_BYTES);
    let lease = session.acquire(id, &kept, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), 4);
    (0..4).for_each(|index| assert_reads(&lease, index, &kept[index]));
    lease.release().unwrap();
    prefetch.end().unwrap();
    overfill(&session, id, "more", OBJECT_BYTES);
    assert_eq!(session.lookup(id, &kept, None).unwrap(), 0);
    let scrape = daemon.scrape();
    assert_eq!(scrape.counter("sm_read_requests_total"), 1);
    assert_eq!(scrape.sample("hostkv_l2_prefetches_total"), 1.0);
    assert_eq!(scrape.sample("hostkv_l2_kept_bytes"), 0.0);
    daemon.finish();
}

#[test]
fn a_prefetch_is_charged_to_the_pin_quota_and_a_33rd_is_refused() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let id = keyspace(&session);
    let many = keys("many", 100);
    store(&session, id, &many, OBJECT_BYTES);
    let prefetch = session.prefetch(id, &many, &request(0)).unwrap();
    let quota = session.info().unwrap().pin_quota_bytes / OBJECT_BYTES;
    assert_eq!(
        prefetch.wait(30_000).unwrap(),
        outcome(quota as u32, 0, Status::Quota)
    );
    let open: Vec<_> = (0..31)
        .map(|_| session.prefetch(id, &many[..1], &request(0)).unwrap())
        .collect();
    let refused = assert_refused(session.prefetch(id, &many[..1], &request(0)), Status::Quota);
    assert!(refused.contains("32"), "{refused}");
    // All other calls go on.
    session.ping().unwrap();
    drop(open);
    session.prefetch(id, &many[..1], &request(0)).unwrap();
    prefetch.end().unwrap();
    daemon.finish();
}

#[test]
fn a_worker_that_is_killed_keeps_nothing() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("kept", 8), OBJECT_BYTES);
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    worker.must("keyspace test-model");
    worker.must("prefetch kept 8");
    assert_eq!(worker.must("prefetched"), "8");
    assert!(daemon.scrape().sample("hostkv_l2_kept_bytes") > 0.0);
    worker.kill();
    wait_until("what the worker kept is let go", || {
        daemon.scrape().sample("hostkv_l2_kept_bytes") == 0.0
    });
    daemon.finish();
}

#[test]
fn a_prefetch_outlives_its_session_and_a_dead_daemon() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let id = keyspace(&session);
    let kept = keys("kept", 2);
    store(&session, id, &kept, OBJECT_BYTES);
    let named = Request {
        request_id: Some("request-1"),
        ..Request::default()
    };
    let first = session.prefetch(id, &kept, &named).unwrap();
    let second = session.prefetch(id, &kept, &named).unwrap();
    // Requests are answered in their order: by now both are.
    session.ping().unwrap();
    session.close().unwrap();
    assert_refused(session.prefetch(id, &kept, &named), Status::InvalidArgument);
    assert_eq!(first.wait(30_000).unwrap(), outcome(2, 0, Status::Ok));
    daemon.kill();
    // What it answered before its death counts, and is answered again.
    assert_eq!(second.wait(30_000).unwrap(), outcome(2, 0, Status::Ok));
    assert_eq!(first.wait(0).unwrap(), outcome(2, 0, Status::Ok));
    second.end().unwrap();
    first.end().unwrap();
}
