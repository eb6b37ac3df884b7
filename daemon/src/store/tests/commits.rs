//! Commits that wait for a worker, and what may happen to them meanwhile.

use super::*;

fn full(units: u32) -> Pool {
    Pool::new(Options {
        units,
        integrity: Integrity::Full,
        ..Options::default()
    })
}

/// A commit of `keys` that waits, its operation, and the answers of its reserve.
fn waiting(
    pool: &mut Pool,
    client: Client,
    keys: &[(Key, u32)],
) -> (Ticket, OpId, Vec<ReservedItem>) {
    let (op_id, answers) = pool.reserve(client, keys);
    assert!(answers.iter().all(|answer| answer.status == Status::Ok));
    let outcome = pool
        .store
        .commit(client.id, &held(op_id, &answers), pool.now);
    let Ok(Outcome::Parked(ticket)) = outcome else {
        panic!("the commit does not wait: {outcome:?}");
    };
    (ticket, op_id, answers)
}

fn keys(keyspace: KeyspaceId, count: u64, len_bytes: u32) -> Vec<(Key, u32)> {
    (0..count).map(|n| (key(keyspace, n), len_bytes)).collect()
}

fn jobs(pool: &mut Pool) -> Vec<Job> {
    pool.store.take_jobs()
}

#[test]
fn an_object_is_readable_only_when_its_sum_is_there() {
    let mut pool = full(64);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let (ticket, ..) = waiting(&mut pool, client, &keys(keyspace, 3, 5000));
    assert!(pool.find(&key(keyspace, 0)).is_none());
    assert_eq!(pool.wait_for_commit(ticket), [Status::Ok; 3]);
    for n in 0..3 {
        let found = pool.pin(client, n, &key(keyspace, n as u64)).unwrap();
        assert_eq!(pool.reader.sum(found.entry), Some(sum(found.extent)));
    }
    assert_eq!(pool.audited().object_count, 3);
    assert_eq!(pool.store.stats().l1_write_keys, 3);
}

#[test]
fn a_commit_is_cut_into_jobs_and_answered_once_whatever_their_order() {
    let mut pool = Pool::new(Options {
        units: 4096,
        entries: 512,
        integrity: Integrity::Full,
        ..Options::default()
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let mut wanted = keys(keyspace, 200, 4096);
    wanted[0].1 = 2 << 20;
    wanted[1].1 = 2 << 20;
    let (ticket, ..) = waiting(&mut pool, client, &wanted);
    let mut jobs = jobs(&mut pool);
    assert!(jobs.len() >= 4, "{} jobs for 200 keys", jobs.len());
    jobs.reverse();
    let last = jobs.pop().unwrap();
    for job in &jobs {
        assert_eq!(pool.do_job(job), None);
    }
    assert!(pool.find(&key(keyspace, 7)).is_none());
    let resumed = pool.do_job(&last).unwrap();
    assert_eq!(resumed.ticket, ticket);
    assert_eq!(
        pool.do_job(&last),
        None,
        "a job that comes back twice counts once"
    );
    for n in 0..200 {
        let found = pool.find(&key(keyspace, n)).unwrap();
        assert_eq!(pool.reader.sum(found.entry), Some(sum(found.extent)));
    }
    pool.audited();
}

#[test]
fn a_writer_that_dies_with_its_commit_taken_up_has_stored() {
    for end in [SessionEnd::Death, SessionEnd::Bye] {
        let mut pool = full(64);
        let reader = pool.client();
        let keyspace = pool.keyspace(reader);
        let writer = pool.client();
        pool.keyspace(writer);
        // Two commits of one reservation, and an item that is never committed.
        let (op_id, answers) = pool.reserve(writer, &keys(keyspace, 3, 4096));
        for part in [&answers[..1], &answers[1..2]] {
            let outcome = pool.store.commit(writer.id, &held(op_id, part), pool.now);
            assert!(matches!(outcome, Ok(Outcome::Parked(_))), "{outcome:?}");
        }
        pool.audited();
        let jobs = jobs(&mut pool);
        pool.store.close_session(writer.id, end, pool.now);
        let audit = pool.audited();
        assert_eq!((audit.reserved_count, audit.object_count), (2, 0));
        for job in jobs.iter().rev() {
            assert_eq!(pool.do_job(job), None, "nobody is there to hear of it");
        }
        let audit = pool.audited();
        assert_eq!((audit.reserved_count, audit.object_count), (0, 2));
        assert!(pool.find(&key(keyspace, 0)).is_some());
        assert!(pool.find(&key(keyspace, 2)).is_none());
        assert_eq!(pool.store.gauges().reserved_bytes, 0);
    }
}

#[test]
fn neither_abort_nor_a_second_commit_nor_time_reaches_a_commit_that_was_taken_up() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        integrity: Integrity::Full,
        ..Options::default()
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let (ticket, op_id, answers) = waiting(&mut pool, client, &keys(keyspace, 2, 4096));
    let again = held(op_id, &answers);
    let aborted = pool.store.abort(client.id, &again, pool.now).unwrap();
    assert_eq!(aborted, [Status::NotFound; 2]);
    let committed = pool.store.commit(client.id, &again, pool.now).unwrap();
    let Outcome::Done(items) = committed else {
        panic!("a second commit waits");
    };
    assert_eq!(outcomes(&items), [Status::NotFound; 2]);
    pool.now += 5 * SECOND;
    pool.store.tick(pool.now);
    pool.settle();
    assert_eq!(pool.audited().reserved_count, 2);
    let removed = pool
        .store
        .remove(client.id, &[key(keyspace, 0)], pool.now)
        .unwrap();
    assert_eq!(
        removed,
        [false],
        "what is not readable is not there to remove"
    );
    assert_eq!(pool.wait_for_commit(ticket), [Status::Ok; 2]);
    assert_eq!(pool.audited().object_count, 2);
}

#[test]
fn the_bytes_of_a_waiting_commit_stay_on_its_sessions_account() {
    let mut pool = Pool::new(Options {
        units: 64,
        max_reserved_ratio: 0.25,
        integrity: Integrity::Full,
        ..Options::default()
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let (ticket, ..) = waiting(&mut pool, client, &keys(keyspace, 16, 4096));
    let (_, refused) = pool.reserve(client, &[(key(keyspace, 99), 1)]);
    assert_eq!(refused[0].status, Status::Quota);
    pool.wait_for_commit(ticket);
    let (_, granted) = pool.reserve(client, &[(key(keyspace, 99), 1)]);
    assert_eq!(granted[0].status, Status::Ok);
}

#[test]
fn an_entry_that_is_used_again_has_lost_its_sum() {
    let mut pool = full(32);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let (ticket, ..) = waiting(&mut pool, client, &keys(keyspace, 1, 4096));
    pool.wait_for_commit(ticket);
    let first = pool.find(&key(keyspace, 0)).unwrap();
    pool.store
        .remove(client.id, &[key(keyspace, 0)], pool.now)
        .unwrap();
    pool.settle();
    let (_, answers) = pool.reserve(client, &[(key(keyspace, 1), 9000)]);
    assert_eq!(answers[0].entry, first.entry);
    assert_eq!(pool.reader.sum(first.entry), None);
}
