//! First sums, reports and the scrubber: what is found, what is left alone, and what it may cost.

use super::*;

fn watched(integrity: Integrity, scrub_bytes_per_second: u64) -> Pool {
    Pool::new(Options {
        units: 1024,
        entries: 1024,
        integrity,
        scrub_bytes_per_second,
        ..Options::default()
    })
}

/// Lets `ticks` times 100 ms pass and does every job; how many bytes the jobs were about.
fn pass_time(pool: &mut Pool, ticks: u32) -> u64 {
    let mut bytes = 0;
    for _ in 0..ticks {
        pool.now += SECOND / 10;
        pool.store.tick(pool.now);
        pool.settle();
        loop {
            let jobs = pool.store.take_jobs();
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                if let Task::Sum { extents } = &job.task {
                    bytes += extents.iter().map(|(_, len)| len).sum::<u64>();
                }
                assert_eq!(pool.do_job(&job), None);
            }
        }
        pool.settle();
    }
    bytes
}

fn store_many(pool: &mut Pool, client: Client, keyspace: KeyspaceId, count: u64) {
    for n in 0..count {
        assert_eq!(pool.store_one(client, key(keyspace, n), ALIGN), Status::Ok);
    }
}

fn change(pool: &mut Pool, key: &Key) -> Found {
    let found = pool.find(key).unwrap();
    let offset = u64::from(found.extent.offset_units) * u64::from(ALIGN);
    pool.changed.push(offset);
    found
}

fn report(client: Client, entry: EntryNumber, seq: u64) {
    let position = client.events.claim(0).unwrap();
    client.events.write_changed(position, entry, seq);
}

#[test]
fn one_look_for_objects_without_a_sum_passes_over_a_thousand_that_have_gone_at_most() {
    let mut pool = watched(Integrity::Sampled, 1 << 30);
    let client = pool.client();
    let ks = pool.keyspace(client);
    let keys: Vec<_> = (0..1000).map(|n| key(ks, n)).collect();
    for _ in 0..3 {
        store_many(&mut pool, client, ks, 1000);
        pool.store.remove(client.id, &keys, pool.now).unwrap();
        pool.settle();
    }
    store_many(&mut pool, client, ks, 1);
    assert_eq!(pool.store.fresh_count(), 3001);
    let mut looks = 0;
    while pool.store.fresh_count() > 0 {
        let waiting = pool.store.fresh_count();
        let jobs = pool.store.take_jobs();
        if jobs.is_empty() {
            pool.now += SECOND / 10;
            pool.store.tick(pool.now);
        }
        for job in jobs {
            assert_eq!(pool.do_job(&job), None);
        }
        let passed = waiting - pool.store.fresh_count();
        assert!(passed <= 1024, "{passed} of {waiting} were passed over");
        looks += 1;
        assert!(looks < 20, "it comes to nothing");
    }
    pass_time(&mut pool, 1);
    let found = pool.find(&keys[0]).unwrap();
    assert_eq!(pool.store.index.sum(found.entry), Some(sum(found.extent)));
}

#[test]
fn a_sampled_object_is_readable_at_once_and_gets_its_sum_later() {
    let mut pool = watched(Integrity::Sampled, 1 << 30);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 100);
    let found = pool.find(&key(keyspace, 3)).unwrap();
    assert_eq!(pool.reader.sum(found.entry), None);
    pass_time(&mut pool, 3);
    for n in 0..100 {
        let found = pool.find(&key(keyspace, n)).unwrap();
        assert_eq!(pool.reader.sum(found.entry), Some(sum(found.extent)));
    }
    assert_eq!(pool.store.stats().integrity_failures, 0);
}

#[test]
fn small_objects_get_their_sums_256_at_a_time() {
    let mut pool = watched(Integrity::Sampled, 1 << 30);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 1000);
    let mut counts = Vec::new();
    while pool.store.fresh_count() > 0 {
        pool.now += SECOND / 10;
        pool.store.tick(pool.now);
        for job in pool.store.take_jobs() {
            let Task::Sum { extents } = &job.task else {
                continue;
            };
            // Each job wakes a worker and the loop once.
            counts.push(extents.len());
            assert_eq!(pool.do_job(&job), None);
        }
        assert!(counts.len() < 100, "it comes to nothing");
    }
    // Those of the first tick were made before all were stored.
    assert_eq!(counts.iter().max(), Some(&256), "{counts:?}");
}

#[test]
fn the_scrubber_finds_every_change_in_one_pass_and_leaves_the_rest_alone() {
    let mut pool = watched(Integrity::Full, 1 << 30);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 400);
    pass_time(&mut pool, 20);
    assert!(pool.store.stats().scrub_passes >= 1);
    assert_eq!(pool.store.stats().integrity_failures, 0);
    (0..400).step_by(3).for_each(|n| {
        change(&mut pool, &key(keyspace, n));
    });
    let passes = pool.store.stats().scrub_passes;
    while pool.store.stats().scrub_passes < passes + 2 {
        pass_time(&mut pool, 1);
    }
    let stats = pool.store.stats();
    assert_eq!(
        (stats.integrity_failures, stats.integrity_failures_scrubbed),
        (134, 134)
    );
    for n in 0..400 {
        assert_eq!(pool.find(&key(keyspace, n)).is_some(), n % 3 != 0, "{n}");
    }
    assert_eq!(pool.audited().object_count, 266);
}

#[test]
fn what_is_read_in_the_background_stays_within_the_budget() {
    let rate = 40 * u64::from(ALIGN);
    let mut pool = watched(Integrity::Sampled, rate);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 400);
    let bytes = pass_time(&mut pool, 100);
    // Ten seconds, and one job that may overdraw.
    let most = 10 * rate + 256 * u64::from(ALIGN) + rate;
    assert!(bytes >= 8 * rate && bytes <= most, "{bytes} of {most}");
    let mut off = watched(Integrity::Full, 0);
    let client = off.client();
    let keyspace = off.keyspace(client);
    store_many(&mut off, client, keyspace, 10);
    assert_eq!(pass_time(&mut off, 50), 0, "the scrubber is off");
}

#[test]
fn a_true_report_removes_the_object_also_when_the_scrubber_is_off() {
    let mut pool = watched(Integrity::Full, 0);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 10);
    let found = change(&mut pool, &key(keyspace, 4));
    report(client, found.entry, found.seq);
    report(client, found.entry, found.seq);
    pass_time(&mut pool, 3);
    let stats = pool.store.stats();
    assert_eq!(
        (stats.integrity_failures, stats.integrity_failures_scrubbed),
        (1, 0)
    );
    assert!(pool.find(&key(keyspace, 4)).is_none());
    assert_eq!(pool.audited().object_count, 9);
}

#[test]
fn a_reader_that_reports_everything_removes_nothing_and_costs_a_bounded_share() {
    let rate = 40 * u64::from(ALIGN);
    let mut pool = watched(Integrity::Full, rate);
    let honest = pool.client();
    let keyspace = pool.keyspace(honest);
    store_many(&mut pool, honest, keyspace, 100);
    let liar = pool.client();
    let mut bytes = 0;
    for round in 0_u64..50 {
        for n in 0..1000 {
            let entry = EntryNumber(n);
            let seq = match n % 4 {
                3 => round.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                _ => pool.reader.seq(entry),
            };
            let Some(position) = liar.events.claim(0) else {
                break;
            };
            let entry = if n % 97 == 0 {
                EntryNumber(u32::MAX - n)
            } else {
                entry
            };
            liar.events.write_changed(position, entry, seq);
        }
        bytes += pass_time(&mut pool, 1);
    }
    let most = 5 * rate + rate + 256 * u64::from(ALIGN);
    assert!(bytes <= most, "{bytes} of {most}");
    let stats = pool.store.stats();
    assert_eq!(stats.integrity_failures, 0);
    assert!(stats.integrity_reports_refuted > 0);
    assert_eq!(pool.audited().object_count, 100);
}

#[test]
fn a_sum_counts_only_for_the_object_that_it_was_made_of() {
    let mut pool = watched(Integrity::Sampled, 1 << 30);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 1);
    let first = pool.find(&key(keyspace, 0)).unwrap();
    pool.now += SECOND;
    pool.store.tick(pool.now);
    let jobs = pool.store.take_jobs();
    assert_eq!(jobs.len(), 1);
    // While the worker reads, the object goes and its entry and extent are another's.
    pool.store
        .remove(client.id, &[key(keyspace, 0)], pool.now)
        .unwrap();
    pool.settle();
    assert_eq!(pool.store_one(client, key(keyspace, 9), 77), Status::Ok);
    let second = pool.find(&key(keyspace, 9)).unwrap();
    assert_eq!(second.entry, first.entry, "the premise");
    pool.do_job(&jobs[0]);
    assert_eq!(pool.reader.sum(second.entry), None);
    pass_time(&mut pool, 20);
    assert_eq!(pool.reader.sum(second.entry), Some(sum(second.extent)));
    assert_eq!(pool.store.stats().integrity_failures, 0);
}

#[test]
fn a_changed_object_that_is_pinned_stays_where_it_is_until_its_pin_has_gone() {
    let mut pool = watched(Integrity::Full, 1 << 30);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    store_many(&mut pool, client, keyspace, 2);
    let pinned = pool.pin(client, 0, &key(keyspace, 1)).unwrap();
    change(&mut pool, &key(keyspace, 1));
    pass_time(&mut pool, 25);
    assert!(pool.find(&key(keyspace, 1)).is_none());
    assert_eq!(pool.audited().zombie_count, 1);
    assert_eq!(pool.reader.sum(pinned.entry), Some(sum(pinned.extent)));
    client.pins.clear(0);
    pass_time(&mut pool, 25);
    assert_eq!(pool.audited().zombie_count, 0);
}
