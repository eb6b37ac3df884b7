//! A commit and the reserve behind it as one request: the commit first, and no half of it in silence.

use super::*;

const UNIT: u32 = ALIGN;

fn wanted(keyspace: KeyspaceId, from: u64, count: u64) -> Vec<(Key, u32)> {
    (from..from + count)
        .map(|n| (key(keyspace, n), UNIT))
        .collect()
}

/// The request that commits `held` and reserves `wanted` under the number `next`.
fn try_pair(
    pool: &mut Pool,
    client: Client,
    held: &Held,
    next: u64,
    wanted: &[(Key, u32)],
) -> Result<Outcome<Pair>, Refusal> {
    let reserve = reserve_of(OpId(next), wanted);
    pool.store
        .commit_reserve(client.id, held, reserve, pool.now)
}

fn done(outcome: Result<Outcome<Pair>, Refusal>) -> (Vec<Status>, Vec<Status>) {
    let Ok(Outcome::Done(pair)) = outcome else {
        panic!("not answered at once: {outcome:?}");
    };
    (outcomes(&pair.committed), statuses(&pair.reserved))
}

fn parked(outcome: Result<Outcome<Pair>, Refusal>) -> Ticket {
    let Ok(Outcome::Parked(ticket)) = outcome else {
        panic!("not parked: {outcome:?}");
    };
    ticket
}

fn pair_of(resumed: Resumed) -> (Ticket, Vec<Status>, Vec<Status>) {
    let ResumedAnswer::CommitReserved(pair) = resumed.answer else {
        panic!("{:?} is no answer to a pair", resumed.answer);
    };
    (
        resumed.ticket,
        outcomes(&pair.committed),
        statuses(&pair.reserved),
    )
}

/// Runs slices until something is answered.
fn resumed(pool: &mut Pool) -> Resumed {
    (0..10_000)
        .find_map(|_| pool.store.slice(pool.now).pop())
        .expect("it is answered in the end")
}

#[test]
fn what_the_commit_gives_back_of_the_quota_serves_the_reserve() {
    // Half of 64 units may be reserved, and this takes all of that.
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    let (op, answers) = pool.reserve(client, &wanted(ks, 0, 32));
    let outcome = try_pair(
        &mut pool,
        client,
        &held(op, &answers),
        100,
        &wanted(ks, 32, 32),
    );
    assert_eq!(done(outcome), (vec![Status::Ok; 32], vec![Status::Ok; 32]));
    let audit = pool.audited();
    assert_eq!((audit.object_count, audit.reserved_count), (32, 32));
    assert_eq!(pool.store.stats().write_requests, 2);
}

#[test]
fn a_reserve_without_form_is_refused_before_anything_is_committed() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    let (op, answers) = pool.reserve(client, &wanted(ks, 0, 2));
    let held = held(op, &answers);
    let foreign = KeyspaceId(99);
    for (next, bad) in [
        (100, vec![(key(ks, 5), UNIT), (key(ks, 6), 0)]),
        (100, vec![(key(ks, 5), 9 * UNIT)]),
        (100, vec![(key(foreign, 5), UNIT)]),
        // The number of the reservation that it commits: it is not over when the refusal is decided.
        (op.0, wanted(ks, 5, 1)),
    ] {
        let refusal = try_pair(&mut pool, client, &held, next, &bad).unwrap_err();
        assert_eq!(refusal.status, Status::InvalidArgument, "{}", refusal.text);
        assert_eq!(pool.find(&key(ks, 0)), None);
        let audit = pool.audited();
        assert_eq!((audit.object_count, audit.reserved_count), (0, 2));
    }
    // Nothing was taken from it.
    let outcome = try_pair(&mut pool, client, &held, 100, &wanted(ks, 2, 1));
    assert_eq!(done(outcome), (vec![Status::Ok; 2], vec![Status::Ok]));
    pool.audited();
}

#[test]
fn a_commit_that_does_not_do_everything_leaves_the_reserve_undone() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let client = pool.client();
    let ks = pool.keyspace(client);
    let (op, answers) = pool.reserve(client, &wanted(ks, 0, 2));
    let late = held(op, &answers);
    pool.now += 2 * SECOND;
    let outcome = try_pair(&mut pool, client, &late, 100, &wanted(ks, 5, 3));
    assert_eq!(done(outcome), (vec![Status::Expired; 2], Vec::new()));
    // A stranger to the daemon beside one that is held: the one is committed, and the reserve is undone all the same.
    let (op, answers) = pool.reserve(client, &wanted(ks, 7, 1));
    let mut mixed = held(op, &answers);
    mixed.items.push(HeldItem {
        entry: EntryNumber(200),
        generation: 2,
    });
    let outcome = try_pair(&mut pool, client, &mixed, 101, &wanted(ks, 5, 3));
    assert_eq!(
        done(outcome),
        (vec![Status::Ok, Status::NotFound], Vec::new())
    );
    let audit = pool.audited();
    assert_eq!((audit.object_count, audit.reserved_count), (1, 0));
    assert_eq!(
        pool.store.stats().write_requests,
        2,
        "what is left undone is no write request"
    );
}

#[test]
fn what_is_committed_is_readable_while_the_reserve_waits_for_room() {
    let mut pool = Pool::new(Options {
        slice_ns: 1,
        ..Options::default()
    });
    let client = pool.client();
    let ks = pool.keyspace(client);
    for n in 0..7 {
        assert_eq!(pool.store_one(client, key(ks, n), 8 * UNIT), Status::Ok);
    }
    let (op, answers) = pool.reserve(client, &wanted(ks, 20, 8));
    let outcome = try_pair(
        &mut pool,
        client,
        &held(op, &answers),
        100,
        &wanted(ks, 30, 10),
    );
    let ticket = parked(outcome);
    for n in 20..28 {
        assert!(pool.find(&key(ks, n)).is_some(), "key {n} waits");
    }
    let answer = pair_of(resumed(&mut pool));
    assert_eq!(answer, (ticket, vec![Status::Ok; 8], vec![Status::Ok; 10]));
    assert_eq!(pool.audited().reserved_count, 10);
}

#[test]
fn a_commit_that_waits_for_a_worker_is_followed_by_its_reserve_and_answered_once() {
    let mut pool = Pool::new(Options {
        integrity: Integrity::Full,
        ..Options::default()
    });
    let client = pool.client();
    let ks = pool.keyspace(client);
    // The quota is taken, so that the reserve would be refused if it did not wait for the commit.
    let (op, answers) = pool.reserve(client, &wanted(ks, 0, 32));
    let outcome = try_pair(
        &mut pool,
        client,
        &held(op, &answers),
        100,
        &wanted(ks, 40, 4),
    );
    let ticket = parked(outcome);
    // Its number is taken from now on.
    let twice = Reserve {
        op_id: OpId(100),
        request_id: String::new(),
        device: String::new(),
        items: vec![ReserveItem {
            key: key(ks, 60),
            len_bytes: UNIT,
        }],
    };
    let refusal = pool.store.reserve(client.id, twice, pool.now).unwrap_err();
    assert_eq!(refusal.status, Status::InvalidArgument);
    assert_eq!(pool.audited().object_count, 0);
    let jobs = pool.store.take_jobs();
    let mut answers: Vec<_> = jobs.iter().filter_map(|job| pool.do_job(job)).collect();
    let answer = pair_of(answers.pop().expect("it is answered with the last job"));
    assert_eq!(answer, (ticket, vec![Status::Ok; 32], vec![Status::Ok; 4]));
    assert!(answers.is_empty());
    // The next one waits twice: for its commit, then for room.
    let (op, answers) = pool.reserve(client, &wanted(ks, 70, 24));
    let outcome = try_pair(
        &mut pool,
        client,
        &held(op, &answers),
        101,
        &wanted(ks, 100, 20),
    );
    let ticket = parked(outcome);
    let jobs = pool.store.take_jobs();
    assert!(jobs.iter().all(|job| pool.do_job(job).is_none()));
    assert!(pool.find(&key(ks, 70)).is_some());
    let answer = pair_of(resumed(&mut pool));
    assert_eq!(answer, (ticket, vec![Status::Ok; 24], vec![Status::Ok; 20]));
    pool.audited();
}

#[test]
fn a_session_that_goes_meanwhile_has_committed_and_reserves_nothing() {
    for is_dead in [false, true] {
        let mut pool = Pool::new(Options {
            integrity: Integrity::Full,
            ..Options::default()
        });
        let reader = pool.client();
        let ks = pool.keyspace(reader);
        let writer = pool.client();
        pool.keyspace(writer);
        let (op, answers) = pool.reserve(writer, &wanted(ks, 0, 2));
        let outcome = try_pair(
            &mut pool,
            writer,
            &held(op, &answers),
            100,
            &wanted(ks, 5, 3),
        );
        parked(outcome);
        match is_dead {
            true => pool
                .store
                .close_session(writer.id, SessionEnd::Death, pool.now),
            false => pool.store.orphan_session(writer.id, pool.now),
        }
        for job in pool.store.take_jobs() {
            pool.do_job(&job);
        }
        let audit = pool.audited();
        assert_eq!((audit.object_count, audit.reserved_count), (2, 0));
        pool.settle();
        assert_eq!(pool.store.gauges().reserved_bytes, 0);
    }
}
