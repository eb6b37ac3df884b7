//! What bounds the store's work: nothing that a client does makes one slice long, starves the rest, or takes more than
//! it needs.

use super::super::slice::Effort;
use super::*;
use Status::{Exists, NoSpace, Ok as Done, Quota};
use hostkv_shm_protocol::lease::RECENCY_RECORDS;
use hostkv_shm_protocol::lease::counters::Counter;
use hostkv_shm_protocol::lease::events::{Event, EventOp, EventPhase};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use std::sync::Arc;

/// A pool of `units` that is full of objects of one unit, numbered from 0.
fn full_of_small_ones(options: Options) -> (Pool, Client, KeyspaceId) {
    let units = options.units;
    let mut pool = Pool::new(options);
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..u64::from(units) {
        assert_eq!(pool.store_one(writer, key(ks, n), 4096), Done);
    }
    (pool, writer, ks)
}

#[test]
fn a_reserve_evicts_nothing_for_keys_that_are_there_already() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
    }
    let wanted: Vec<_> = [100, 1, 2, 3, 4, 5, 6, 7]
        .iter()
        .map(|n| (key(ks, *n), 8 * 4096))
        .collect();
    let (_, answers) = pool.reserve(writer, &wanted);
    assert_eq!(answers[0].status, Done);
    assert_eq!(statuses(&answers[1..]), [Exists; 7]);
    assert_eq!(pool.store.stats().l1_evicted_keys, 1);
}

#[test]
fn a_reserve_evicts_no_entries_for_keys_that_are_there_already() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 200,
        entries: 200,
        ..Options::default()
    });
    let wanted: Vec<_> = std::iter::once(1000)
        .chain(100..150)
        .map(|n| (key(ks, n), 4096))
        .collect();
    let (_, answers) = pool.reserve(writer, &wanted);
    assert_eq!(answers[0].status, Done);
    assert_eq!(pool.store.stats().l1_evicted_keys, 1);
}

#[test]
fn a_reserve_evicts_nothing_for_keys_that_its_quota_will_refuse() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 200,
        max_reserved_ratio: 0.05,
        ..Options::default()
    });
    let wanted: Vec<_> = (1000..1100).map(|n| (key(ks, n), 4096)).collect();
    let (_, answers) = pool.reserve(writer, &wanted);
    assert_eq!(statuses(&answers[..10]), [Done; 10]);
    assert_eq!(statuses(&answers[10..]), [Quota; 90]);
    assert_eq!(pool.store.stats().l1_evicted_keys, 10);
}

/// A session with 8 reservations of 1000 entries each, some slices of work.
fn many_reservations(write_ttl_ns: Option<u64>) -> (Pool, Client, KeyspaceId) {
    let mut pool = Pool::new(Options {
        units: 20_000,
        entries: 20_000,
        write_ttl_ns,
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        let wanted: Vec<_> = (n * 1000..n * 1000 + 1000)
            .map(|n| (key(ks, n), 4096))
            .collect();
        let (_, answers) = pool.reserve(writer, &wanted);
        assert_eq!(statuses(&answers), [Done; 1000]);
    }
    (pool, writer, ks)
}

/// Runs slices until there is nothing to do; in each, `count` may fall or rise by little. Gives their number.
fn slices_until_idle(pool: &mut Pool, count: impl Fn(&Pool) -> u64) -> u32 {
    let mut slices = 0;
    while pool.store.has_work() {
        let before = count(pool);
        pool.store.slice(pool.now);
        let moved = before.abs_diff(count(pool));
        assert!(moved <= 2000, "{moved} entries in one slice");
        pool.audited();
        slices += 1;
    }
    slices
}

#[test]
fn a_session_that_ends_with_many_reservations_gives_them_back_in_slices() {
    let (mut pool, writer, ks) = many_reservations(None);
    let reserved = |pool: &Pool| pool.store.gauges().reserved_objects;
    pool.store
        .close_session(writer.id, SessionEnd::Death, pool.now);
    assert!(reserved(&pool) >= 6000, "{}", reserved(&pool));
    pool.audited();
    // Another session may come meanwhile, into the place of the one that has ended.
    let other = pool.client();
    let other_ks = pool.keyspace(other);
    assert_eq!(other_ks, ks);
    assert!(slices_until_idle(&mut pool, reserved) >= 3);
    assert_eq!(reserved(&pool), 0);
    assert_eq!(pool.audited().reserved_bytes, 0);
    assert_eq!(pool.store.stats().reclaimed_reservations, 8000);
    assert_eq!(pool.store_one(other, key(ks, 7), 4096), Done);
}

#[test]
fn many_reservations_that_expire_at_once_do_so_in_slices() {
    let (mut pool, _, ks) = many_reservations(Some(1_000_000));
    let quarantined = |pool: &Pool| pool.store.gauges().quarantined_objects;
    pool.now += 2_000_000;
    pool.store.tick(pool.now);
    assert!(quarantined(&pool) <= 2000, "{}", quarantined(&pool));
    assert!(slices_until_idle(&mut pool, quarantined) >= 3);
    assert_eq!(quarantined(&pool), 8000);
    // Their keys are free.
    let other = pool.client();
    pool.keyspace(other);
    assert_eq!(pool.store_one(other, key(ks, 7999), 4096), Done);
}

#[test]
fn victims_are_taken_in_batches_however_little_of_a_slice_is_left() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 512,
        entries: 1024,
        slice_ns: 1,
        ..Options::default()
    });
    let (_, outcome) = pool.try_reserve(writer, &[(key(ks, 1000), 64 * 4096)]);
    let Ok(Outcome::Parked(ticket)) = outcome else {
        panic!("nothing was free");
    };
    // A scan for each victim would be three steps a victim.
    let mut slices = 0;
    while !pool
        .store
        .slice(pool.now)
        .iter()
        .any(|resumed| resumed.ticket == ticket)
    {
        slices += 1;
        assert!(slices < 100, "one scan frees a batch");
    }
}

#[test]
fn a_clear_is_answered_and_a_pass_goes_on_while_reserves_keep_being_parked() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 64,
        slice_ns: 1,
        ..Options::default()
    });
    let Ok(Outcome::Parked(clear)) = pool.store.clear(writer.id, 0) else {
        panic!("a clear is always parked");
    };
    let mut waiting = std::collections::BTreeMap::new();
    let mut next = 1000;
    for _ in 0..3000 {
        while waiting.len() < 3 {
            let (op, outcome) = pool.try_reserve(writer, &[(key(ks, next), 4096)]);
            next += 1;
            match outcome.unwrap() {
                Outcome::Parked(ticket) => drop(waiting.insert(ticket.0, op)),
                Outcome::Done(answers) => drop(pool.commit(writer, op, &answers)),
            }
        }
        for resumed in pool.store.slice(pool.now) {
            if resumed.ticket == clear {
                return;
            }
            let op = waiting.remove(&resumed.ticket.0).unwrap();
            if let ResumedAnswer::Reserved(answers) = resumed.answer {
                pool.commit(writer, op, &answers);
            }
        }
    }
    panic!("the clear is never answered");
}

#[test]
fn a_turn_with_a_frame_of_1024_keys_a_scan_and_a_parked_reserve_takes_two_slices_at_most() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 32_768,
        entries: 40_000,
        ..Options::default()
    });
    let parked: Vec<Ticket> = (0..4)
        .map(|n| {
            let first = 100_000 + n * 1000;
            let wanted: Vec<_> = (first..first + 1000)
                .map(|n| (key(ks, n), 2 * 4096))
                .collect();
            match pool.try_reserve(writer, &wanted).1.unwrap() {
                Outcome::Parked(ticket) => ticket,
                Outcome::Done(_) => panic!("nothing was free"),
            }
        })
        .collect();
    let counts = |pool: &Pool| {
        let entries = &pool.store.entries;
        let zombies = u64::from(entries.count(EntryState::Zombie));
        let evicted = pool.store.stats().l1_evicted_keys;
        (
            evicted,
            zombies,
            u64::from(entries.count(EntryState::Reserved)),
        )
    };
    let mut answered = Vec::new();
    let mut longest_ns = 0;
    // Another client's frame in every turn: what is the warmest goes.
    for turn in 0..20 {
        pool.store.begin_turn();
        let end = u64::from(pool.entry_count) - turn * 1024 - 8000;
        let keys: Vec<_> = (end - 1024..end).map(|n| key(ks, n)).collect();
        let removed = pool.store.remove(writer.id, &keys, pool.now).unwrap();
        assert_eq!(removed, [true; 1024]);
        let (evicted, zombies, granted) = counts(&pool);
        answered.extend(pool.store.slice(pool.now).into_iter().map(|r| r.ticket));
        let after = counts(&pool);
        let evicted = after.0 - evicted;
        let freed = zombies + evicted - after.1;
        let done = [
            (1024, Effort::REMOVE),
            (evicted, Effort::VICTIM),
            (freed, Effort::FREE),
            (after.2 - granted, Effort::GRANT),
        ];
        let ns: u64 = done.iter().map(|(n, each)| n * u64::from(*each)).sum();
        longest_ns = longest_ns.max(ns);
    }
    assert!(
        longest_ns <= 2 * u64::from(SLICE_NS),
        "a turn takes {longest_ns} ns"
    );
    assert!(
        !answered.is_empty(),
        "for all that they get what they wait for"
    );
    while pool.store.has_work() {
        answered.extend(pool.store.slice(pool.now).into_iter().map(|r| r.ticket));
    }
    assert_eq!(answered, parked);
    pool.audited();
}

#[test]
fn one_client_has_a_slice_of_a_turn_for_its_requests() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    pool.store.begin_turn();
    let keys: Vec<_> = (0..1024).map(|n| key(ks, n)).collect();
    let mut frames = 0;
    while !pool.store.has_had_its_part(0) {
        pool.store.remove(writer.id, &keys, pool.now).unwrap();
        frames += 1;
    }
    assert!((1..4).contains(&frames), "{frames} frames of 1024 keys");
    let since_ns = pool.store.requests_ns();
    assert!(
        !pool.store.has_had_its_part(since_ns),
        "the next one's are its own"
    );
    pool.store.begin_turn();
    assert!(!pool.store.has_had_its_part(0));
}

#[test]
fn a_reserve_of_a_full_pool_that_never_evicts_is_answered_at_once() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        policy: EvictionPolicy::Noop,
        slice_ns: 1,
        ..Options::default()
    });
    pool.settle();
    let (_, outcome) = pool.try_reserve(writer, &[(key(ks, 1000), 4096)]);
    let answers = match outcome.unwrap() {
        Outcome::Done(answers) => answers,
        Outcome::Parked(_) => {
            let mut resumed = Vec::new();
            for _ in 0..3 {
                resumed.extend(pool.store.slice(pool.now));
                assert!(pool.store.scan.is_none(), "a scan can't help");
            }
            let ResumedAnswer::Reserved(answers) = resumed.remove(0).answer else {
                panic!("it was a reserve");
            };
            answers
        }
    };
    assert_eq!(statuses(&answers), [NoSpace]);
    assert_eq!(pool.store.stats().eviction_passes, 0);
}

#[test]
fn a_reserve_that_meets_only_pinned_objects_is_one_pass_that_freed_nothing() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
        pool.pin(reader, n as usize, &key(ks, n)).unwrap();
    }
    pool.next_second();
    assert_eq!(pool.store_one(writer, key(ks, 50), 4096), NoSpace);
    let stats = pool.store.stats();
    assert_eq!(
        (stats.eviction_passes, stats.eviction_passes_all_pinned),
        (1, 1)
    );
}

#[test]
fn one_slice_frees_zombies_looks_at_pins_and_follows_touches_only_as_far_as_its_effort_goes() {
    let (mut pool, writer, ks) = full_of_small_ones(Options {
        units: 256,
        slice_ns: 1,
        ..Options::default()
    });
    for n in 0..256 {
        let found = pool.find(&key(ks, n)).unwrap();
        pool.pin(writer, n as usize, &key(ks, n)).unwrap();
        assert!(n > 0 || found.seq == 2);
    }
    let keys: Vec<_> = (0..256).map(|n| key(ks, n)).collect();
    pool.store.remove(writer.id, &keys, pool.now).unwrap();
    // Two scans: the first finds everything pinned, and neither looks at more than a few things a slice.
    for _ in 0..2 {
        pool.store.wants_scan = true;
        let mut slices = 0;
        while pool.store.has_work() {
            pool.store.slice(pool.now);
            slices += 1;
        }
        assert!(slices >= 512, "{slices} slices for 256 pinned zombies");
    }
    assert_eq!(pool.audited().zombie_count, 256);
}

#[test]
fn the_overflow_bitmap_is_swept_in_pieces_and_whole() {
    const OBJECTS: u64 = 4000;
    let mut pool = Pool::new(Options {
        units: 8192,
        entries: 8192,
        ..Options::default()
    });
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..OBJECTS {
        assert_eq!(pool.store_one(writer, key(ks, n), 4096), Done);
    }
    let entry = |pool: &Pool, n| pool.find(&key(ks, n)).unwrap().entry;
    for _ in 0..RECENCY_RECORDS {
        assert!(reader.recency.touch(EntryNumber(u32::MAX)));
    }
    for n in 0..OBJECTS - 1 {
        assert!(!reader.recency.touch(entry(&pool, n)));
        reader.counters.add(Counter::RecencyOverflows, 1);
    }
    let slot = pool.store.session_slots[&reader.id];
    let mut most = 0;
    let mut swept = 0;
    while swept < pool.entry_count / 64 {
        let step = pool
            .store
            .drain_recency_of(slot, 100, swept == 0, pool.now)
            .unwrap();
        most = most.max(step.touched);
        swept += step.swept_words;
    }
    assert!(most <= 2048, "{most} touches followed in one go");
    assert_eq!(pool.store.stats().recency_overflows, OBJECTS - 1);
    let coldest = pool
        .store
        .policy
        .victim(&mut pool.store.entries, None, &|_| false, &mut 1);
    assert_eq!(coldest, Some(entry(&pool, OBJECTS - 1)));
}

#[test]
fn a_session_that_reads_without_pause_does_not_keep_the_loop_from_the_rest() {
    let mut pool = Pool::new(Options {
        slice_ns: 1,
        ..Options::default()
    });
    pool.store.collect_events();
    let busy = pool.client();
    let quiet = pool.client();
    let push = |client: Client, op_id: u64, phase: EventPhase| {
        if let Some(position) = client.events.claim(0) {
            client.events.write(
                position,
                &Event {
                    op: EventOp::Lookup,
                    phase,
                    mono_ns: op_id,
                    start_ns: 0,
                    op_id: OpId(op_id),
                    keyspace: KeyspaceId(1),
                    value0: 1,
                    value1: 1,
                    request_id: "",
                    device: "",
                },
            );
        }
    };
    push(quiet, 1_000_000, EventPhase::Start);
    push(busy, 1, EventPhase::Start);
    pool.now += SECOND / 10;
    pool.store.tick(pool.now);
    for n in 2..5000 {
        push(busy, n, EventPhase::Start);
        pool.store.slice(pool.now);
        if !pool.store.has_work() {
            let notes = pool.store.take_events();
            assert!(notes.iter().any(|note| note.session_id == "session-2"));
            return;
        }
    }
    panic!("the round never ends");
}

#[test]
fn what_a_hostile_client_counts_neither_overflows_nor_falls() {
    let mut pool = Pool::new(Options::default());
    let hostile = pool.client();
    let mut last = (0, 0, 0, 0);
    for n in 0_u64..12 {
        for counter in [
            Counter::ReadRequests,
            Counter::ReadKeys,
            Counter::L1ReadKeys,
            Counter::LinesLeftOut,
            Counter::RecencyOverflows,
        ] {
            hostile.counters.add(counter, i64::MAX as u64 - n % 2);
        }
        hostile.events.add_dropped(i64::MAX as u64);
        pool.next_second();
        let stats = pool.store.stats();
        let now = (
            stats.read_requests,
            stats.l1_read_keys,
            stats.recency_overflows,
            stats.events_dropped,
        );
        assert!(
            now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2 && now.3 >= last.3,
            "{last:?} before {now:?}"
        );
        last = now;
        pool.store.figures();
    }
    // An honest count is still counted afterwards.
    hostile.counters.add(Counter::L1ReadKeys, 7);
    pool.store.fold();
    assert_eq!(pool.store.stats().l1_read_keys, last.1 + 7);
}

#[test]
fn keys_are_counted_right_however_seldom_somebody_asks() {
    let mut pool = Pool::new(Options::default());
    let reader = pool.client();
    for _ in 0..4 {
        reader.counters.add_read_request(1 << 30, 1 << 31);
        pool.next_second();
    }
    let figures = pool.store.figures();
    assert_eq!(
        (figures.sm_read_succeed_keys, figures.sm_read_failed_keys),
        (4 << 30, 4 << 31)
    );
}

#[test]
fn a_slot_that_names_no_entry_is_no_pin() {
    let mut pool = Pool::new(Options::default());
    let hostile = pool.client();
    hostile.pins.raise_high_water(u32::MAX);
    hostile.pins.publish(0, EntryNumber(u32::MAX - 1));
    hostile.pins.publish(1, EntryNumber(pool.entry_count));
    pool.next_second();
    pool.next_second();
    pool.next_second();
    let stats = pool.store.stats();
    assert_eq!((stats.pinned_bytes, stats.oldest_pin_ns), (0, 0));
    pool.store
        .close_session(hostile.id, SessionEnd::Death, pool.now);
    pool.audited();
}

#[test]
fn a_slot_that_changes_while_it_is_scanned_is_looked_at_once() {
    let mut pool = Pool::new(Options::default());
    let hostile = pool.client();
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    assert_eq!(pool.store_one(writer, key(ks, 1), 4096), Done);
    hostile.pins.raise_high_water(u32::MAX);
    let is_over = Arc::new(AtomicBool::new(false));
    let has_ended = Arc::clone(&is_over);
    let flipper = std::thread::spawn(move || {
        // Relaxed: only the end of a loop.
        while !has_ended.load(Ordering::Relaxed) {
            for slot in 0..hostile.pins.count() {
                hostile.pins.publish(slot, EntryNumber(0));
                hostile.pins.publish(slot, EntryNumber(u32::MAX - 1));
            }
        }
    });
    for _ in 0..20_000 {
        pool.next_second();
    }
    is_over.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    pool.store
        .close_session(hostile.id, SessionEnd::Death, pool.now);
    pool.audited();
}

#[test]
fn what_an_orphan_holds_is_counted_once_and_at_the_scan() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let orphans = [pool.client(), pool.client()];
    let ks = pool.keyspace(writer);
    for n in 0..3 {
        assert_eq!(pool.store_one(writer, key(ks, n), 4096), Done);
    }
    for orphan in orphans {
        pool.pin(orphan, 0, &key(ks, 0)).unwrap();
        pool.pin(orphan, 1, &key(ks, 0)).unwrap();
    }
    pool.pin(writer, 0, &key(ks, 0)).unwrap();
    pool.pin(writer, 1, &key(ks, 1)).unwrap();
    for orphan in orphans {
        pool.store.orphan_session(orphan.id, pool.now);
    }
    pool.next_second();
    let gauges = pool.store.gauges();
    assert_eq!((gauges.orphaned_bytes, gauges.orphaned_objects), (4096, 1));
    assert_eq!(pool.store.stats().pinned_bytes, 2 * 4096);
    for orphan in orphans {
        pool.store
            .close_session(orphan.id, SessionEnd::Death, pool.now);
    }
    pool.next_second();
    assert_eq!(pool.store.gauges().orphaned_bytes, 0);
}

#[test]
fn an_expired_commit_gives_back_only_what_it_names() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    let (op, answers) = pool.reserve(writer, &[(key(ks, 1), 4096), (key(ks, 2), 4096)]);
    // The commit may come before the tick that would have seen the age.
    pool.now += SECOND;
    assert_eq!(
        pool.commit(writer, op, &answers[..1]),
        [Status::Expired],
        "the writer still writes the other"
    );
    assert_eq!(pool.audited().quarantined_bytes, 4096);
    assert_eq!(pool.commit(writer, op, &answers[1..]), [Status::Expired]);
    assert_eq!(pool.commit(writer, op, &answers), [Status::NotFound; 2]);
    let audit = pool.audited();
    assert_eq!((audit.quarantined_count, audit.reserved_count), (0, 0));
}

#[test]
fn a_commit_that_comes_after_the_abort_of_an_expired_reservation_is_refused() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    let (op, late) = pool.reserve(writer, &[(key(ks, 1), 4096)]);
    pool.next_second();
    let aborted = pool
        .store
        .abort(writer.id, &held(op, &late), pool.now)
        .unwrap();
    assert_eq!(aborted, [Done]);
    // The next reservation has the same entry, and must not be taken for the first.
    let (next_op, next) = pool.reserve(writer, &[(key(ks, 2), 4096)]);
    assert_eq!(next[0].entry, late[0].entry);
    assert_eq!(pool.commit(writer, next_op, &late), [Status::NotFound]);
    assert_eq!(pool.commit(writer, next_op, &next), [Done]);
}
