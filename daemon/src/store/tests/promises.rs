//! One test for each promise of the store.

use super::*;
use Status::{Exists, Expired, NoSpace, NotFound, Ok as Done, Quota, Reserved};

#[test]
fn uncommitted_bytes_are_never_readable_and_committed_ones_at_once() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    let (op, answers) = pool.reserve(writer, &[(key(ks, 1), 100), (key(ks, 2), 5000)]);
    assert_eq!(statuses(&answers), [Done, Done]);
    assert_eq!(pool.find(&key(ks, 1)), None);
    assert_eq!(pool.commit(writer, op, &answers), [Done, Done]);
    let found = pool.find(&key(ks, 2)).unwrap();
    assert_eq!(found.extent.len_bytes, 5000);
    assert_eq!(found.seq, answers[1].generation);
    let audit = pool.audited();
    assert_eq!((audit.object_bytes, audit.reserved_bytes), (3 * 4096, 0));
}

#[test]
fn each_key_of_a_reserve_gets_its_own_status_and_the_run_ends_at_the_first_that_does_not_fit() {
    let mut pool = Pool::new(Options {
        policy: EvictionPolicy::Noop,
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    assert_eq!(pool.store_one(writer, key(ks, 1), 8 * 4096), Done);
    let (_, held_by_other) = pool.reserve(writer, &[(key(ks, 2), 4096)]);
    assert_eq!(held_by_other[0].status, Done);
    for n in 100..106 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
    }
    // 64 units: 8 + 1 + 48 are used, 7 are free.
    let wanted = [
        (key(ks, 1), 4096),
        (key(ks, 2), 4096),
        (key(ks, 3), 4096),
        (key(ks, 3), 4096),
        (key(ks, 4), 8 * 4096),
        (key(ks, 5), 4096),
        (key(ks, 1), 4096),
    ];
    let (op, answers) = pool.reserve(writer, &wanted);
    assert_eq!(
        statuses(&answers),
        [Exists, Reserved, Done, Reserved, NoSpace, NoSpace, Exists]
    );
    assert_eq!(answers[4].reason, Reason::NoSpace);
    assert_eq!(pool.commit(writer, op, &answers), [Done]);
    assert_eq!(pool.store.stats().write_failures.no_space, 2);
    pool.audited();
}

#[test]
fn a_reserve_evicts_only_what_it_needs_coldest_first() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
    }
    // The oldest is read, so the second oldest is the coldest now.
    assert!(writer.recency.touch(pool.find(&key(ks, 0)).unwrap().entry));
    assert_eq!(pool.store_one(writer, key(ks, 100), 8 * 4096), Done);
    let present: Vec<u64> = (0..8)
        .filter(|n| pool.find(&key(ks, *n)).is_some())
        .collect();
    assert_eq!(present, [0, 2, 3, 4, 5, 6, 7]);
    assert_eq!(pool.store.stats().l1_evicted_keys, 1);
    pool.audited();
}

#[test]
fn the_tail_of_a_request_is_evicted_before_its_head() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for half in [[1, 2, 3, 4], [5, 6, 7, 8]] {
        let wanted: Vec<_> = half.iter().map(|n| (key(ks, *n), 8 * 4096)).collect();
        let (op, answers) = pool.reserve(writer, &wanted);
        assert_eq!(pool.commit(writer, op, &answers), [Done; 4]);
    }
    assert_eq!(pool.store_one(writer, key(ks, 9), 8 * 4096), Done);
    assert_eq!(pool.find(&key(ks, 4)), None);
    assert!((1..=3).all(|n| pool.find(&key(ks, n)).is_some()));
}

#[test]
fn a_pinned_object_is_passed_over_and_its_bytes_are_never_handed_out() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
    }
    let pinned = pool.pin(reader, 0, &key(ks, 0)).unwrap();
    for n in 8..40 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done, "{n}");
        assert!(
            pool.reader.is_current(&pinned) || {
                // Evicted in the gap before a scan saw the pin: then its extent stays a zombie's.
                pool.store.entries.state(pinned.entry) == EntryState::Zombie
            }
        );
    }
    pool.audited();
}

#[test]
fn when_everything_is_pinned_a_reserve_says_no_space_and_pins_stay_good() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    let mut pins = Vec::new();
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
        pins.push(pool.pin(reader, n as usize, &key(ks, n)).unwrap());
    }
    pool.next_second();
    assert_eq!(pool.store_one(writer, key(ks, 50), 4096), NoSpace);
    assert!(pins.iter().all(|pin| pool.reader.is_current(pin)));
    assert_eq!(pool.store.stats().pinned_bytes, 64 * 4096);
    assert!(pool.store.stats().pin_gate_shut);
    (0..8).for_each(|slot| reader.pins.clear(slot));
    assert_eq!(pool.store_one(writer, key(ks, 50), 4096), Done);
    pool.next_second();
    assert!(!pool.store.stats().pin_gate_shut);
    pool.audited();
}

#[test]
fn a_removed_key_stays_readable_for_those_who_hold_it_and_can_be_stored_again() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    assert_eq!(pool.store_one(writer, key(ks, 1), 4096), Done);
    let pin = pool.pin(reader, 3, &key(ks, 1)).unwrap();
    let removed = pool
        .store
        .remove(writer.id, &[key(ks, 1), key(ks, 1), key(ks, 2)], pool.now);
    assert_eq!(removed.unwrap(), [true, false, false]);
    pool.settle();
    assert_eq!(pool.find(&key(ks, 1)), None);
    assert_eq!(pool.audited().zombie_bytes, 4096);
    assert_eq!(pool.store_one(writer, key(ks, 1), 4096), Done);
    let again = pool.find(&key(ks, 1)).unwrap();
    assert_ne!(again.extent.offset_units, pin.extent.offset_units);
    reader.pins.clear(3);
    pool.next_second();
    assert_eq!(pool.audited().zombie_count, 0);
}

#[test]
fn eviction_above_the_watermark_frees_its_share_of_the_used_bytes() {
    let mut pool = Pool::new(Options {
        units: 1000,
        entries: 2000,
        watermark: 0.8,
        ratio: 0.25,
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..801 {
        assert_eq!(pool.store_one(writer, key(ks, n), 4096), Done);
    }
    pool.settle();
    let left = pool.audited().object_count;
    assert_eq!(left, 801 - 201);
    assert_eq!(pool.store.stats().eviction_passes, 1);
    assert!(pool.find(&key(ks, 200)).is_none() && pool.find(&key(ks, 201)).is_some());
}

#[test]
fn eviction_also_starts_when_the_index_is_nearly_full() {
    let mut pool = Pool::new(Options {
        units: 10_000,
        entries: 100,
        watermark: 0.8,
        ratio: 0.5,
        ..Options::default()
    });
    let writer = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..81 {
        assert_eq!(pool.store_one(writer, key(ks, n), 4096), Done);
    }
    pool.settle();
    assert_eq!(pool.audited().object_count, 40);
}

#[test]
fn a_reserve_that_lacks_an_entry_evicts_entries_and_noop_says_no_entry() {
    for (policy, expected) in [(EvictionPolicy::Lru, Done), (EvictionPolicy::Noop, NoSpace)] {
        let mut pool = Pool::new(Options {
            units: 1000,
            entries: 7,
            policy,
            ..Options::default()
        });
        let writer = pool.client();
        let ks = pool.keyspace(writer);
        let mut n = 0;
        while pool.store.entries.count(EntryState::Free) > 0 {
            pool.store_one(writer, key(ks, n), 4096);
            n += 1;
        }
        let (_, answers) = pool.reserve(writer, &[(key(ks, 1000), 4096)]);
        assert_eq!(answers[0].status, expected);
        if expected == NoSpace {
            assert_eq!(answers[0].reason, Reason::NoEntry);
        }
        pool.audited();
    }
}

#[test]
fn reserved_bytes_are_limited_for_one_session_and_for_all() {
    let mut pool = Pool::new(Options {
        units: 80,
        max_reserved_ratio: 0.25,
        ..Options::default()
    });
    let clients: Vec<_> = (0..3).map(|_| pool.client()).collect();
    let ks = pool.keyspace(clients[0]);
    for client in &clients[1..] {
        pool.keyspace(*client);
    }
    let wanted: Vec<_> = (0..3).map(|n| (key(ks, n), 10 * 4096)).collect();
    let (op, answers) = pool.reserve(clients[0], &wanted);
    assert_eq!(statuses(&answers), [Done, Done, Quota]);
    assert_eq!(answers[2].reason, Reason::SessionReserved);
    let wanted: Vec<_> = (10..12).map(|n| (key(ks, n), 10 * 4096)).collect();
    let (_, answers) = pool.reserve(clients[1], &wanted);
    assert_eq!(statuses(&answers), [Done, Done]);
    let (_, answers) = pool.reserve(clients[2], &[(key(ks, 20), 4096)]);
    assert_eq!(
        (answers[0].status, answers[0].reason),
        (Quota, Reason::PoolReserved)
    );
    let held = Held {
        op_id: op,
        items: Vec::new(),
    };
    assert!(
        pool.store
            .abort(clients[0].id, &held, pool.now)
            .unwrap()
            .is_empty()
    );
    pool.store
        .close_session(clients[0].id, SessionEnd::Death, pool.now);
    assert_eq!(pool.store.stats().reclaimed_reservations, 2);
    let (_, answers) = pool.reserve(clients[2], &[(key(ks, 20), 4096)]);
    assert_eq!(answers[0].status, Done);
    pool.audited();
}

#[test]
fn the_end_of_a_session_gives_everything_back() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let victim = pool.client();
    let ks = pool.keyspace(writer);
    pool.keyspace(victim);
    assert_eq!(pool.store_one(writer, key(ks, 1), 4096), Done);
    pool.pin(victim, 0, &key(ks, 1)).unwrap();
    pool.pin(victim, 9, &key(ks, 1)).unwrap();
    pool.reserve(victim, &[(key(ks, 2), 4096), (key(ks, 3), 4096)]);
    victim.counters.add_read_request(2, 1);
    assert!(
        pool.store
            .remove(writer.id, &[key(ks, 1)], pool.now)
            .unwrap()[0]
    );
    pool.settle();
    assert_eq!(pool.audited().zombie_count, 1);
    pool.store.orphan_session(victim.id, pool.now);
    pool.next_second();
    assert_eq!(pool.store.gauges().orphaned_bytes, 3 * 4096);
    pool.store
        .close_session(victim.id, SessionEnd::Death, pool.now);
    pool.settle();
    let audit = pool.audited();
    assert_eq!(
        (audit.zombie_count, audit.reserved_count, audit.pin_count),
        (0, 0, 0)
    );
    let stats = pool.store.stats();
    assert_eq!((stats.reclaimed_pins, stats.reclaimed_reservations), (2, 2));
    assert_eq!((stats.read_succeed_keys, stats.read_failed_keys), (2, 1));
    assert_eq!(pool.store_one(writer, key(ks, 2), 4096), Done);
}

#[test]
fn an_expired_reservation_frees_its_key_at_once_and_its_bytes_at_the_abort() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let slow = pool.client();
    let other = pool.client();
    let ks = pool.keyspace(slow);
    pool.keyspace(other);
    let (op, answers) = pool.reserve(slow, &[(key(ks, 1), 4096)]);
    pool.next_second();
    assert_eq!(pool.store_one(other, key(ks, 1), 4096), Done);
    let audit = pool.audited();
    assert_eq!((audit.quarantined_bytes, audit.object_bytes), (4096, 4096));
    assert_eq!(pool.commit(slow, op, &answers), [Expired]);
    assert_eq!(pool.audited().quarantined_bytes, 0);
    assert!(pool.find(&key(ks, 1)).is_some());
    let (op, answers) = pool.reserve(slow, &[(key(ks, 2), 4096)]);
    pool.next_second();
    let aborted = pool
        .store
        .abort(slow.id, &held(op, &answers), pool.now)
        .unwrap();
    assert_eq!(aborted, [Done]);
    assert_eq!(pool.audited().quarantined_bytes, 0);
}

#[test]
fn with_a_read_time_to_live_an_old_pin_is_voided_before_its_bytes_are_handed_out() {
    let mut pool = Pool::new(Options {
        units: 16,
        read_ttl_ns: Some(2 * SECOND),
        ..Options::default()
    });
    let writer = pool.client();
    let reader = pool.client();
    let ks = pool.keyspace(writer);
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 2 * 4096), Done);
    }
    let pin = pool.pin(reader, 0, &key(ks, 0)).unwrap();
    assert!(
        pool.store
            .remove(writer.id, &[key(ks, 0)], pool.now)
            .unwrap()[0]
    );
    pool.next_second();
    assert_eq!(pool.reader.seq(pin.entry), pin.seq + 1);
    pool.next_second();
    pool.next_second();
    assert_eq!(pool.reader.seq(pin.entry), pin.seq + 3);
    let audit = pool.audited();
    assert_eq!((audit.revoked_count, audit.zombie_count), (1, 0));
    reader.pins.clear(0);
    pool.next_second();
    assert_eq!(pool.audited().revoked_count, 0);
}

#[test]
fn a_commit_under_a_wrong_owner_operation_or_generation_changes_nothing() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let thief = pool.client();
    let ks = pool.keyspace(writer);
    pool.keyspace(thief);
    let (op, answers) = pool.reserve(writer, &[(key(ks, 1), 4096)]);
    let (op2, answers2) = pool.reserve(writer, &[(key(ks, 2), 4096)]);
    let (thief_op, _) = pool.reserve(thief, &[(key(ks, 3), 4096)]);
    assert_eq!(pool.commit(thief, op, &answers), [NotFound]);
    assert_eq!(pool.commit(thief, thief_op, &answers), [NotFound]);
    assert_eq!(pool.commit(writer, op2, &answers), [NotFound]);
    let mut late = answers.clone();
    late[0].generation += 2;
    assert_eq!(pool.commit(writer, op, &late), [NotFound]);
    late[0].entry = EntryNumber(u32::MAX);
    assert_eq!(pool.commit(writer, op, &late), [NotFound]);
    assert_eq!(pool.find(&key(ks, 1)), None);
    assert_eq!(pool.commit(writer, op, &answers), [Done]);
    assert_eq!(
        pool.store
            .abort(writer.id, &held(op2, &answers2), pool.now)
            .unwrap(),
        [Done]
    );
    assert_eq!(pool.commit(writer, op2, &answers2), [NotFound]);
    pool.audited();
}

#[test]
fn requests_that_are_not_allowed_are_refused_whole() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let reader = pool.client_with(false, false);
    let ks = pool.keyspace(writer);
    pool.keyspace(reader);
    let refused = |outcome: Result<Outcome<Vec<ReservedItem>>, Refusal>| outcome.unwrap_err();
    let (_, outcome) = pool.try_reserve(writer, &[(key(ks, 1), 100), (key(ks, 2), 0)]);
    assert_eq!(refused(outcome).status, Status::InvalidArgument);
    let (_, outcome) = pool.try_reserve(writer, &[(key(ks, 1), 8 * 4096 + 1)]);
    let refusal = refused(outcome);
    assert!(refusal.text.contains("32768"), "{}", refusal.text);
    let (_, outcome) = pool.try_reserve(writer, &[(key(KeyspaceId(9), 1), 1)]);
    assert_eq!(refused(outcome).status, Status::InvalidArgument);
    let (_, outcome) = pool.try_reserve(reader, &[(key(ks, 1), 1)]);
    assert_eq!(refused(outcome).status, Status::ReadOnly);
    assert_eq!(
        pool.store
            .remove(reader.id, &[key(ks, 1)], pool.now)
            .unwrap_err()
            .status,
        Status::ReadOnly
    );
    assert_eq!(
        pool.store.clear(reader.id, 0).unwrap_err().status,
        Status::ReadOnly
    );
    assert_eq!(
        pool.store.clear(writer.id, 1).unwrap_err().status,
        Status::Permission
    );
    assert_eq!(pool.audited().reserved_count, 0);
    assert_eq!(pool.store.stats().write_requests, 0);
}

#[test]
fn a_clear_removes_the_sessions_keyspaces_and_an_admins_all() {
    let mut pool = Pool::new(Options::default());
    let a = pool.client();
    let b = pool.client_with(true, true);
    let ks_a = pool.resolve(a, "a", 1).unwrap().keyspace;
    let ks_b = pool.resolve(b, "b", 1).unwrap().keyspace;
    for n in 0..3 {
        assert_eq!(pool.store_one(a, key(ks_a, n), 4096), Done);
        assert_eq!(pool.store_one(b, key(ks_b, n), 4096), Done);
    }
    let (_, unfinished) = pool.reserve(a, &[(key(ks_a, 9), 4096)]);
    assert_eq!(unfinished[0].status, Done);
    pool.store.clear(a.id, 0).unwrap();
    pool.settle();
    assert_eq!(pool.audited().object_count, 3);
    pool.store.clear(b.id, 1).unwrap();
    pool.settle();
    let audit = pool.audited();
    assert_eq!((audit.object_count, audit.reserved_count), (0, 1));
    assert_eq!(pool.store.stats().cleared_keys, 6);
}

#[test]
fn another_layout_can_never_read_the_old_layouts_bytes() {
    let mut pool = Pool::new(Options::default());
    let old = pool.client();
    let ks = pool.resolve(old, "m", 1).unwrap().keyspace;
    assert_eq!(pool.store_one(old, key(ks, 1), 4096), Done);
    pool.store.close_session(old.id, SessionEnd::Bye, pool.now);
    let new = pool.client();
    let ks2 = pool.resolve(new, "m", 2).unwrap().keyspace;
    assert_eq!(pool.find(&key(ks2, 1)), None);
    assert_eq!(pool.store_one(new, key(ks2, 1), 4096), Done);
    pool.settle();
    assert_eq!(pool.store.stats().layout_replaced_keys, 1);
    assert_eq!(pool.audited().object_count, 1);
}

#[test]
fn a_parked_reserve_does_not_hold_up_others_and_ends_with_its_session() {
    let mut pool = Pool::new(Options {
        units: 4096,
        entries: 8192,
        ..Options::default()
    });
    let big = pool.client();
    let small = pool.client();
    let ks = pool.keyspace(big);
    pool.keyspace(small);
    for n in 0..4096 {
        assert_eq!(pool.store_one(small, key(ks, n), 4096), Done);
    }
    let wanted: Vec<_> = (0..3).map(|n| (key(ks, 10_000 + n), 500 * 4096)).collect();
    let (_, outcome) = pool.try_reserve(big, &wanted);
    let Outcome::Parked(ticket) = outcome.unwrap() else {
        panic!("nothing was free");
    };
    pool.store.slice(pool.now);
    assert_eq!(pool.store_one(small, key(ks, 4095), 4096), Exists);
    let answers = pool.wait_for(ticket);
    assert_eq!(statuses(&answers), [Done, Done, Done]);
    let (_, outcome) = pool.try_reserve(big, &[(key(ks, 20_000), 500 * 4096)]);
    assert!(matches!(outcome, Ok(Outcome::Parked(_))));
    pool.store
        .close_session(big.id, SessionEnd::Death, pool.now);
    pool.settle();
    assert_eq!(pool.audited().reserved_count, 0);
}

#[test]
fn pins_beyond_the_quota_are_void_newest_first_and_those_within_it_are_honoured() {
    let mut pool = Pool::new(Options::default());
    let writer = pool.client();
    let greedy = pool.client();
    let other = pool.client();
    let ks = pool.keyspace(writer);
    let mut pins = Vec::new();
    for n in 0..8 {
        assert_eq!(pool.store_one(writer, key(ks, n), 8 * 4096), Done);
    }
    // The quota is half of the pool: four of these.
    for n in 0..4 {
        pins.push(pool.pin(greedy, n as usize, &key(ks, n)).unwrap());
        assert!(pool.pin(greedy, 100 + n as usize, &key(ks, n)).is_some());
    }
    pool.next_second();
    pool.next_second();
    assert_eq!(pool.store.take_offenders(), []);
    for n in 4..6 {
        pins.push(pool.pin(greedy, n as usize, &key(ks, n)).unwrap());
    }
    let shared = pool.pin(other, 0, &key(ks, 5)).unwrap();
    pool.next_second();
    assert_eq!(pool.store.take_offenders(), [], "one scan is no snapshot");
    pool.next_second();
    assert_eq!(pool.store.take_offenders(), [greedy.id]);
    assert_eq!(pool.store.stats().voided_pins, 2);
    pool.next_second();
    let wanted: Vec<_> = (50..53).map(|n| (key(ks, n), 8 * 4096)).collect();
    let (op, answers) = pool.reserve(writer, &wanted);
    assert_eq!(statuses(&answers), [Done; 3]);
    assert_eq!(pool.commit(writer, op, &answers), [Done; 3]);
    assert!(pins[..4].iter().all(|pin| pool.reader.is_current(pin)));
    assert_eq!(pool.reader.seq(pins[4].entry) - pins[4].seq, 3);
    assert!(pool.reader.is_current(&shared));
    assert_eq!(pool.audited().revoked_count, 1);
    pool.store
        .close_session(greedy.id, SessionEnd::Death, pool.now);
    pool.next_second();
    assert_eq!(pool.audited().revoked_count, 0);
}
