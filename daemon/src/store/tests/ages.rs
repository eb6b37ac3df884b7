//! Ages of objects, with time given by hand. The pools are small, so every object is in the sample.

use super::*;
use crate::histogram::Histogram;

/// Count and sum in seconds.
fn seen(histogram: &Histogram) -> (u64, f64) {
    (histogram.count(), histogram.sum() as f64 / SECOND as f64)
}

impl Pool {
    fn lifetimes(&self) -> (u64, f64) {
        seen(&self.store.ages().lifetime)
    }

    fn idles(&self) -> (u64, f64) {
        seen(&self.store.ages().idle_before_eviction)
    }

    fn gaps(&self) -> (u64, f64) {
        seen(&self.store.ages().reuse_gap)
    }

    /// Releases a read of the key, `seconds` later, and lets the daemon see it.
    fn read_after(&mut self, seconds: u64, client: Client, key: &Key) {
        self.now += seconds * SECOND;
        let entry = self.find(key).unwrap().entry;
        assert!(client.recency.touch(entry));
        self.store.tick(self.now);
        self.settle();
    }
}

#[test]
fn an_evicted_object_lived_from_its_commit_and_lay_idle_from_its_last_read() {
    let mut pool = Pool::new(Options {
        entries: 2,
        ..Options::default()
    });
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.read_after(3, client, &key(ks, 1));
    pool.read_after(4, client, &key(ks, 1));
    pool.now += SECOND;
    pool.store_one(client, key(ks, 2), ALIGN);
    assert_eq!(pool.lifetimes(), (0, 0.0));
    // The index has two entries: each new object takes the place of the one used longest ago.
    pool.now += 5 * SECOND;
    assert_eq!(pool.store_one(client, key(ks, 3), ALIGN), Status::Ok);
    assert!(pool.find(&key(ks, 1)).is_none());
    assert_eq!(pool.lifetimes(), (1, 13.0));
    assert_eq!(pool.idles(), (1, 6.0));
    assert_eq!(pool.gaps(), (1, 4.0));
    // Never read: idle since its commit.
    pool.now += 10 * SECOND;
    assert_eq!(pool.store_one(client, key(ks, 4), ALIGN), Status::Ok);
    assert!(pool.find(&key(ks, 2)).is_none());
    assert_eq!(pool.lifetimes(), (2, 13.0 + 15.0));
    assert_eq!(pool.idles(), (2, 6.0 + 15.0));
}

#[test]
fn removed_and_cleared_objects_have_a_lifetime_and_no_idle_time_before_eviction() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.store_one(client, key(ks, 2), ALIGN);
    pool.now += 7 * SECOND;
    let removed = [key(ks, 1), key(ks, 9)];
    pool.store.remove(client.id, &removed, pool.now).unwrap();
    assert_eq!(pool.lifetimes(), (1, 7.0));
    pool.now += SECOND;
    pool.store.clear(client.id, 0).unwrap();
    pool.settle();
    assert_eq!(pool.lifetimes(), (2, 15.0));
    // A new layout takes the keyspace over: its objects go too.
    pool.store_one(client, key(ks, 3), ALIGN);
    pool.now += 2 * SECOND;
    let other = pool.client();
    pool.store
        .close_session(client.id, SessionEnd::Bye, pool.now);
    pool.resolve(other, "model", 2).unwrap();
    pool.settle();
    assert_eq!(pool.lifetimes(), (3, 17.0));
    assert_eq!(pool.idles(), (0, 0.0));
}

#[test]
fn a_reuse_gap_lies_between_two_reads_of_the_same_object() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.store_one(client, key(ks, 2), ALIGN);
    pool.read_after(50, client, &key(ks, 1));
    pool.read_after(50, client, &key(ks, 2));
    assert_eq!(pool.gaps(), (0, 0.0), "a first read ends no gap");
    pool.read_after(2, client, &key(ks, 2));
    assert_eq!(pool.gaps(), (1, 2.0));
    pool.read_after(8, client, &key(ks, 1));
    assert_eq!(pool.gaps(), (2, 62.0));
    // The next object under the same key has its own history.
    pool.store
        .remove(client.id, &[key(ks, 1)], pool.now)
        .unwrap();
    pool.settle();
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.read_after(9, client, &key(ks, 1));
    assert_eq!(pool.gaps(), (2, 62.0));
}

#[test]
fn a_session_that_ends_leaves_its_last_reads() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.read_after(1, client, &key(ks, 1));
    pool.now += 6 * SECOND;
    let entry = pool.find(&key(ks, 1)).unwrap().entry;
    assert!(client.recency.touch(entry));
    pool.store
        .close_session(client.id, SessionEnd::Death, pool.now);
    assert_eq!(pool.gaps(), (1, 6.0));
}

#[test]
fn gauges_tell_reserved_quarantined_and_pinned_objects_apart() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let client = pool.client();
    let ks = pool.keyspace(client);
    pool.store_one(client, key(ks, 1), ALIGN);
    pool.reserve(client, &[(key(ks, 2), ALIGN), (key(ks, 3), ALIGN)]);
    pool.pin(client, 0, &key(ks, 1)).unwrap();
    pool.pin(client, 1, &key(ks, 1)).unwrap();
    let gauges = pool.store.gauges();
    assert_eq!(
        (gauges.reserved_objects, gauges.quarantined_objects),
        (2, 0)
    );
    pool.next_second();
    pool.next_second();
    let gauges = pool.store.gauges();
    assert_eq!(
        (gauges.reserved_objects, gauges.quarantined_objects),
        (0, 2)
    );
    assert_eq!(
        pool.store.stats().pinned_objects,
        1,
        "one object, pinned twice"
    );
    client.pins.clear(0);
    client.pins.clear(1);
    pool.store
        .close_session(client.id, SessionEnd::Bye, pool.now);
    pool.next_second();
    assert_eq!(pool.store.stats().pinned_objects, 0);
    assert_eq!(pool.store.gauges().quarantined_objects, 0);
}
