//! What one tenant may do to another: nothing beyond its quota.

use super::*;

const UNIT: u32 = ALIGN;

/// A pool of 64 units in which each keyspace may use 16, with a client and two tenants' keyspaces.
fn two_tenants(options: Options) -> (Pool, Client, KeyspaceId, KeyspaceId) {
    let mut pool = Pool::new(Options {
        keyspace_quota: Some(0.25),
        ..options
    });
    let client = pool.client();
    let [a, b] = ["a", "b"].map(|salt| {
        let resolved = pool.resolve_salted(client, "model", salt, 1);
        resolved.unwrap().keyspace
    });
    (pool, client, a, b)
}

fn present(pool: &Pool, keyspace: KeyspaceId, numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers
        .filter(|n| pool.find(&key(keyspace, *n)).is_some())
        .collect()
}

#[test]
fn an_empty_salt_is_refused_where_salts_are_required() {
    let mut pool = Pool::new(Options {
        requires_salt: true,
        ..Options::default()
    });
    let client = pool.client();
    let refusal = pool.resolve(client, "model", 1).unwrap_err();
    assert_eq!(refusal.status, Status::InvalidArgument);
    assert!(refusal.text.contains("--require-salt"), "{}", refusal.text);
    assert!(pool.resolve_salted(client, "model", "s", 1).is_ok());
    assert_eq!(pool.store.gauges().keyspaces, 1);
}

#[test]
fn a_flood_of_one_tenant_evicts_its_own_objects_the_coldest_first_and_no_others() {
    let (mut pool, client, a, b) = two_tenants(Options::default());
    // The other tenant's objects are the coldest of all.
    for n in 0..8 {
        assert_eq!(pool.store_one(client, key(b, n), 2 * UNIT), Status::Ok);
    }
    for n in 0..100 {
        assert_eq!(pool.store_one(client, key(a, n), UNIT), Status::Ok);
        pool.audited();
    }
    assert_eq!(present(&pool, b, 0..8), (0..8).collect::<Vec<_>>());
    assert_eq!(present(&pool, a, 0..100), (84..100).collect::<Vec<_>>());
    assert_eq!(pool.store.stats().quota_evicted_keys, 84);
    assert_eq!(pool.store.stats().l1_evicted_keys, 84);
}

#[test]
fn what_a_tenant_read_last_is_the_last_of_it_to_go() {
    let (mut pool, client, a, _) = two_tenants(Options::default());
    for n in 0..16 {
        pool.store_one(client, key(a, n), UNIT);
    }
    let found = pool.find(&key(a, 0)).unwrap();
    client.recency.touch(found.entry);
    assert_eq!(pool.store_one(client, key(a, 16), 2 * UNIT), Status::Ok);
    assert_eq!(present(&pool, a, 0..4), [0, 3]);
    pool.audited();
}

#[test]
fn a_tenant_whose_objects_are_pinned_gets_quota_and_the_pool_has_room_for_others() {
    let (mut pool, client, a, b) = two_tenants(Options::default());
    for n in 0..16 {
        pool.store_one(client, key(a, n), UNIT);
        pool.pin(client, n as usize, &key(a, n)).unwrap();
    }
    let (_, answers) = pool.reserve(client, &[(key(a, 99), UNIT)]);
    assert_eq!(
        (answers[0].status, answers[0].reason),
        (Status::Quota, Reason::KeyspaceQuota)
    );
    assert_eq!(pool.store.stats().write_failures.keyspace_quota, 1);
    assert_eq!(pool.store_one(client, key(b, 0), UNIT), Status::Ok);
    client.pins.clear(3);
    assert_eq!(pool.store_one(client, key(a, 99), UNIT), Status::Ok);
    assert_eq!(pool.find(&key(a, 3)), None);
    pool.audited();
}

#[test]
fn a_batch_is_granted_up_to_the_quota_and_one_object_beyond_it_evicts_nothing() {
    let (mut pool, client, a, _) = two_tenants(Options::default());
    pool.store_one(client, key(a, 100), UNIT);
    // An object may have an eighth of the pool, half of the quota.
    let wanted: Vec<_> = (0..4).map(|n| (key(a, n), 6 * UNIT)).collect();
    let (op_id, answers) = pool.reserve(client, &wanted);
    assert_eq!(
        statuses(&answers),
        [Status::Ok, Status::Ok, Status::Quota, Status::Quota]
    );
    pool.audited();
    pool.commit(client, op_id, &answers);

    let mut small = Pool::new(Options {
        keyspace_quota: Some(1.0 / 64.0),
        ..Options::default()
    });
    let client = small.client();
    let keyspace = small.keyspace(client);
    small.store_one(client, key(keyspace, 0), UNIT);
    let (_, answers) = small.reserve(client, &[(key(keyspace, 1), 2 * UNIT)]);
    assert_eq!(answers[0].reason, Reason::KeyspaceQuota);
    assert!(small.find(&key(keyspace, 0)).is_some());
}

#[test]
fn what_only_zombies_hold_still_counts_until_their_last_pin_has_gone() {
    let (mut pool, client, a, _) = two_tenants(Options::default());
    for n in 0..16 {
        pool.store_one(client, key(a, n), UNIT);
    }
    pool.pin(client, 0, &key(a, 0)).unwrap();
    pool.store
        .remove(client.id, &[key(a, 0)], pool.now)
        .unwrap();
    pool.settle();
    assert_eq!(pool.store.names.used_bytes(a), 16 * u64::from(UNIT));
    assert_eq!(pool.audited().zombie_count, 1);
    client.pins.clear(0);
    pool.next_second();
    assert_eq!(pool.store.names.used_bytes(a), 15 * u64::from(UNIT));
    pool.audited();
}

#[test]
fn without_eviction_a_full_keyspace_is_told_at_once() {
    let (mut pool, client, a, b) = two_tenants(Options {
        policy: EvictionPolicy::Noop,
        ..Options::default()
    });
    for n in 0..16 {
        assert_eq!(pool.store_one(client, key(a, n), UNIT), Status::Ok);
    }
    assert_eq!(pool.store_one(client, key(a, 16), UNIT), Status::Quota);
    assert_eq!(pool.store_one(client, key(b, 0), UNIT), Status::Ok);
    pool.audited();
}

#[test]
fn an_order_within_each_keyspace_costs_8_bytes_an_entry_and_only_with_a_quota() {
    let memory = |keyspace_quota| {
        let pool = Pool::new(Options {
            entries: 4096,
            keyspace_quota,
            ..Options::default()
        });
        pool.store.memory_bytes()
    };
    assert_eq!(memory(Some(0.5)) - memory(None), 4096 * 8);
}
