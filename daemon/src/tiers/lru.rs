//! What a tier holds and in which order it was used: plain data, under the lock of its tier.
//!
//! ```text
//!   slots: key -> bytes, stamp        order: stamp -> key, the coldest first
//! ```
//!
//! A stamp is a time in nanoseconds, moved on by one where another object has it.

use std::collections::{BTreeMap, HashMap};

use super::key::TierKey;

/// One object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Length of the object.
    pub(super) len_bytes: u64,
    /// What it takes in the tier.
    pub(super) used_bytes: u64,
    stamp: u64,
}

/// All objects of a tier.
#[derive(Debug, Default)]
pub(super) struct Lru {
    slots: HashMap<TierKey, Slot>,
    order: BTreeMap<u64, TierKey>,
    used_bytes: u64,
}

impl Lru {
    /// Adds an object, or replaces it, last used at `at_ns`.
    pub(super) fn insert(&mut self, key: TierKey, len_bytes: u64, used_bytes: u64, at_ns: u64) {
        self.remove(&key);
        let stamp = self.free_stamp(at_ns);
        self.order.insert(stamp, key);
        self.used_bytes += used_bytes;
        let slot = Slot {
            len_bytes,
            used_bytes,
            stamp,
        };
        self.slots.insert(key, slot);
    }

    /// The object, if it is there.
    pub(super) fn get(&self, key: &TierKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    /// The object was used at `at_ns`.
    pub(super) fn touch(&mut self, key: &TierKey, at_ns: u64) {
        if let Some(slot) = self.get(key) {
            self.insert(*key, slot.len_bytes, slot.used_bytes, at_ns);
        }
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, key: &TierKey) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.order.remove(&slot.stamp);
        self.used_bytes -= slot.used_bytes;
        Some(slot)
    }

    /// Forgets the object that was not used for longest.
    pub(super) fn take_coldest(&mut self) -> Option<(TierKey, Slot)> {
        let (_, key) = self.order.first_key_value()?;
        let key = *key;
        self.remove(&key).map(|slot| (key, slot))
    }

    /// Bytes of all.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    fn free_stamp(&self, at_ns: u64) -> u64 {
        let mut stamp = at_ns;
        while self.order.contains_key(&stamp) {
            stamp += 1;
        }
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coldest_goes_first_whatever_came_in_which_order() {
        let mut lru = Lru::default();
        let key = |n: u8| TierKey::from_bytes([n; 32]);
        for (n, at_ns) in [(1, 30), (2, 10), (3, 10), (4, 20)] {
            lru.insert(key(n), 5, 10, at_ns);
        }
        lru.touch(&key(2), 40);
        lru.insert(key(4), 6, 20, 20);
        assert_eq!((lru.count(), lru.used_bytes()), (4, 50));
        let mut order = Vec::new();
        while let Some((key, _)) = lru.take_coldest() {
            order.push(key.as_bytes()[0]);
        }
        assert_eq!(order, [3, 4, 1, 2]);
        assert_eq!((lru.count(), lru.used_bytes(), lru.order.len()), (0, 0, 0));
    }
}
