//! Tables whose keys are numbers that this daemon gave out itself.
//!
//! Keyspaces, sessions and clients are looked up for every request, keyspaces and entries for every key of one. Their numbers
//! come from counters and lists of the daemon, so nobody outside can choose them to collide, and one multiplication spreads
//! them. What a client chooses, the number of an operation say, stays in a table with a secret hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by such numbers.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Multiplies, and folds the upper half into the lower: a table looks at bits of both.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = (self.0 ^ number).wrapping_mul(GOLDEN);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    #[test]
    fn numbers_of_a_counter_fall_into_places_of_their_own() {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        // A table of 1024 places looks at ten bits below and seven above.
        let places: HashSet<(u64, u64)> = (1..=512_u32)
            .map(|number| hasher.hash_one(number))
            .map(|hash| (hash & 1023, hash >> 57))
            .collect();
        assert!(places.len() >= 510, "{} places", places.len());
    }
}
