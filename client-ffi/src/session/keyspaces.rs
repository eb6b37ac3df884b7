//! Which keyspace numbers this session has opened.
//!
//! Every call with a keyspace looks here first, the read path too, so the look takes no lock: an open-addressed
//! table of numbers to which numbers are only added. A number that is not in it is refused before it can reach
//! the index, so a stale one never hits another tenant's objects.

use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::sync::{AtomicU32, Ordering};

/// Most keyspaces of one session.
pub(crate) const MAX_KEYSPACES: usize = 16_384;
/// Places: twice as many, so that a search is short.
const PLACES: usize = 2 * MAX_KEYSPACES;
const PLACES_LOG2: u32 = PLACES.trailing_zeros();
const _: () = assert!(PLACES.is_power_of_two());

/// The table; 0 marks an empty place, because no keyspace has that number.
pub(crate) struct KeyspaceSet {
    places: Box<[AtomicU32]>,
}

impl KeyspaceSet {
    pub(crate) fn new() -> KeyspaceSet {
        KeyspaceSet {
            places: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Whether the session has opened this keyspace.
    #[inline]
    pub(crate) fn contains(&self, keyspace: KeyspaceId) -> bool {
        if keyspace.0 == 0 {
            return false;
        }
        for place in self.way(keyspace) {
            // Relaxed: the number is all there is, and whoever has it got it after it was added.
            match self.places[place].load(Ordering::Relaxed) {
                0 => return false,
                number if number == keyspace.0 => return true,
                _ => {}
            }
        }
        false
    }

    /// Adds a keyspace; false when the table is full, or for the number 0.
    pub(crate) fn insert(&self, keyspace: KeyspaceId) -> bool {
        if keyspace.0 == 0 {
            return false;
        }
        for place in self.way(keyspace) {
            // Relaxed: as in `contains`; the exchange only keeps two threads off one place.
            match self.places[place].compare_exchange(
                0,
                keyspace.0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(number) if number == keyspace.0 => return true,
                Err(_) => {}
            }
        }
        false
    }

    /// The places to look at, the home first. The multiplier is 2^32 divided by the golden ratio.
    fn way(&self, keyspace: KeyspaceId) -> impl Iterator<Item = usize> + use<> {
        let home = keyspace.0.wrapping_mul(0x9e37_79b9) >> (u32::BITS - PLACES_LOG2);
        (0..PLACES).map(move |step| (home as usize + step) % PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_known_once_it_was_opened_and_no_other_is() {
        let set = KeyspaceSet::new();
        for i in 1..=MAX_KEYSPACES as u32 {
            assert!(set.insert(KeyspaceId(i * 3)));
        }
        assert!(set.insert(KeyspaceId(3)), "again");
        for i in 1..=3 * MAX_KEYSPACES as u32 {
            assert_eq!(set.contains(KeyspaceId(i)), i % 3 == 0, "{i}");
        }
        assert!(!set.contains(KeyspaceId(0)) && !set.insert(KeyspaceId(0)));
    }
}
