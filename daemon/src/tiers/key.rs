//! The names of objects in the tiers.
//!
//! A tier is shared by daemons on several hosts and read by whoever administers it, so a name is the same on every host and
//! tells nothing: neither the cache salt, which is a tenant's secret, nor the model. The loop makes a [`TierSpace`] once for
//! each keyspace and one [`TierKey`] of it for each object, which takes about as long as a miss of the cache.
//!
//! ```text
//!   model name, salt, layout fingerprint, tokens per key, format version ──BLAKE3, derive_key──> space, 32 bytes
//!   space + chunk hash, its length, rank, group ──BLAKE3, keyed──> key, 32 bytes, shown as 64 hex digits
//! ```
//!
//! What differs in any part, the layout and the format version included, has another name and is never found. Whoever knows
//! all else of a keyspace can try salts against a name, so a salt must be as hard to guess as a password.

use std::fmt::{self, Display, Formatter};

use hostkv_shm_protocol::key::Key;

/// Bytes of a name.
pub const TIER_KEY_BYTES: usize = 32;
/// Version of what is stored under a name; another one has other names.
pub const FORMAT_VERSION: u32 = 1;

/// What BLAKE3 asks for: a text that no other use has.
const CONTEXT: &str = "hostkv 2026 tiers: space of a keyspace";

/// The name of one object in the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TierKey([u8; TIER_KEY_BYTES]);

impl TierKey {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; TIER_KEY_BYTES]) -> TierKey {
        TierKey(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; TIER_KEY_BYTES] {
        &self.0
    }
}

/// 64 hex digits.
impl Display for TierKey {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// What the names of all objects of one keyspace have in common.
#[derive(Clone, Copy)]
pub struct TierSpace([u8; 32]);

impl TierSpace {
    /// That of a keyspace.
    pub fn new(
        model_name: &str,
        cache_salt: &str,
        layout_fingerprint: u64,
        tokens_per_key: u32,
    ) -> TierSpace {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&FORMAT_VERSION.to_le_bytes());
        hasher.update(&layout_fingerprint.to_le_bytes());
        hasher.update(&tokens_per_key.to_le_bytes());
        // Each text behind its length, so that no two pairs of texts are the same bytes.
        for text in [model_name, cache_salt] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        TierSpace(*hasher.finalize().as_bytes())
    }

    /// The name of the object with this key; the number of its keyspace, which is this daemon's own, does not count.
    pub fn key(&self, key: &Key) -> TierKey {
        let (chunk_hash, chunk_hash_len) = key.chunk_hash();
        let mut bytes = [0; 44];
        bytes[..32].copy_from_slice(&chunk_hash);
        bytes[32..36].copy_from_slice(&chunk_hash_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&key.kv_rank().to_le_bytes());
        bytes[40..].copy_from_slice(&key.object_group_id().to_le_bytes());
        TierKey(*blake3::keyed_hash(&self.0, &bytes).as_bytes())
    }
}

/// Without its bytes, by which a salt could be tried.
impl fmt::Debug for TierSpace {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("TierSpace(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::id::KeyspaceId;
    use std::collections::HashSet;

    fn key(hash: &[u8], rank: u32, group: u32, keyspace: u32) -> Key {
        let mut padded = [0; 32];
        padded[..hash.len()].copy_from_slice(hash);
        Key::new(
            &padded,
            hash.len() as u32,
            rank,
            group,
            KeyspaceId(keyspace),
        )
        .unwrap()
    }

    #[test]
    fn every_part_of_a_name_counts_and_the_number_of_the_keyspace_does_not() {
        let spaces = [
            TierSpace::new("m", "s", 1, 256),
            TierSpace::new("n", "s", 1, 256),
            TierSpace::new("m", "t", 1, 256),
            TierSpace::new("m", "s", 2, 256),
            TierSpace::new("m", "s", 1, 128),
            TierSpace::new("ms", "", 1, 256),
            TierSpace::new("", "ms", 1, 256),
        ];
        let keys = [
            key(b"abc", 0, 0, 1),
            key(b"abc\0", 0, 0, 1),
            key(b"abd", 0, 0, 1),
            key(b"abc", 1, 0, 1),
            key(b"abc", 0, 1, 1),
        ];
        let names: HashSet<TierKey> = spaces
            .iter()
            .flat_map(|space| keys.iter().map(|key| space.key(key)))
            .collect();
        assert_eq!(names.len(), spaces.len() * keys.len());
        assert_eq!(
            spaces[0].key(&key(b"abc", 0, 0, 1)),
            spaces[0].key(&key(b"abc", 0, 0, 7))
        );
    }

    /// Daemons of other builds and hosts share the tiers: what is stored there bears this name for ever.
    #[test]
    fn a_name_is_the_same_on_every_host_and_in_every_release() {
        let space = TierSpace::new("meta-llama/Llama-3.1-8B", "tenant-7", 0x1234, 256);
        assert_eq!(
            space.key(&key(&[0xab; 32], 3, 1, 9)).to_string(),
            "aa6511f38641ec798ea025d282bcc2c5bb32754e30fa687419a2fddad2e44d52"
        );
    }

    #[test]
    fn nothing_of_the_salt_is_shown() {
        let space = TierSpace::new("m", "tenant-7", 1, 256);
        assert_eq!(format!("{space:?}"), "TierSpace(..)");
    }
}
