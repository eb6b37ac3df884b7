//! Keys and the random numbers that choose them; the same in every run and every process.

use hostkv::ChunkKey;

/// Seed of everything random.
pub const SEED: u64 = 20_261_124;

/// Key number `n`: 32 bytes that look like a hash.
pub fn key(n: u64) -> ChunkKey {
    let mut chunk_hash = [0; 32];
    let mut state = n;
    for chunk in chunk_hash.chunks_exact_mut(8) {
        chunk.copy_from_slice(&mix(&mut state).to_le_bytes());
    }
    ChunkKey {
        chunk_hash,
        chunk_hash_len: 32,
        kv_rank: 0,
        object_group_id: 0,
    }
}

/// `count` numbers below `live`.
pub fn random_numbers(seed: u64, live: u64, count: usize) -> Vec<u64> {
    let mut state = seed;
    (0..count).map(|_| mix(&mut state) % live).collect()
}

/// `count` keys with numbers below `live`.
pub fn random_keys(seed: u64, live: u64, count: usize) -> Vec<ChunkKey> {
    random_numbers(seed, live, count)
        .into_iter()
        .map(key)
        .collect()
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Puts values in random order (Fisher and Yates).
pub fn shuffle<T>(values: &mut [T], seed: u64) {
    let mut state = seed;
    for at in (1..values.len()).rev() {
        values.swap(at, mix(&mut state) as usize % (at + 1));
    }
}
