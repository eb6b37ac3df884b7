//! The canonical key: 48 bytes that name one object, and their keyed hash.
//!
//! A key is compared whole, word by word, so a collision of hashes costs a miss and never a wrong object. The
//! hash only chooses the bucket; its secret is random for each instance, so that chunk hashes chosen by end
//! users cannot be aimed at one bucket.

use crate::id::KeyspaceId;
use thiserror::Error;

/// Longest chunk hash, in bytes.
pub const MAX_CHUNK_HASH_BYTES: usize = 32;
/// Words of a key.
pub const KEY_WORDS: usize = 6;
/// Bytes of a key on the wire and in an entry.
pub const KEY_BYTES: usize = KEY_WORDS * 8;

/// A key as it stands in words 2 to 7 of an entry, and on the wire.
///
/// | word | content |
/// |---|---|
/// | 0..3 | chunk hash, padded with zeros to 32 bytes |
/// | 4 | kv_rank (low 32) \| object_group_id (high 32) |
/// | 5 | keyspace (low 32) \| length of the chunk hash (8) \| 0 (24) |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u64; KEY_WORDS]);

/// Why bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The chunk hash is empty or too long.
    #[error("a chunk hash of {0} bytes; allowed are 1 to 32")]
    ChunkHashLength(u32),
    /// Bits that must be zero are not.
    #[error("a key has set bits in its padding")]
    Padding,
}

impl Key {
    /// A key from its parts; bytes of `chunk_hash` behind `chunk_hash_len` are ignored.
    #[inline]
    pub fn new(
        chunk_hash: &[u8; MAX_CHUNK_HASH_BYTES],
        chunk_hash_len: u32,
        kv_rank: u32,
        object_group_id: u32,
        keyspace: KeyspaceId,
    ) -> Result<Key, KeyError> {
        if !(1..=MAX_CHUNK_HASH_BYTES as u32).contains(&chunk_hash_len) {
            return Err(KeyError::ChunkHashLength(chunk_hash_len));
        }
        let (rank, group) = (kv_rank, object_group_id);
        Ok(Key::of_checked(
            chunk_hash,
            chunk_hash_len,
            rank,
            group,
            keyspace,
        ))
    }

    /// As [`Key::new`] with a length that has been checked. With one that is not allowed it is a key that is in no index.
    #[inline]
    pub fn of_checked(
        chunk_hash: &[u8; MAX_CHUNK_HASH_BYTES],
        chunk_hash_len: u32,
        kv_rank: u32,
        object_group_id: u32,
        keyspace: KeyspaceId,
    ) -> Key {
        let mut words = [0; KEY_WORDS];
        let (chunks, _) = chunk_hash.as_chunks::<8>();
        for (word, bytes) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*bytes);
        }
        if chunk_hash_len as usize != MAX_CHUNK_HASH_BYTES {
            words = padded(words, chunk_hash_len);
        }
        words[4] = u64::from(object_group_id) << 32 | u64::from(kv_rank);
        words[5] = u64::from(chunk_hash_len) << 32 | u64::from(keyspace.0);
        Key(words)
    }

    /// The words of the key.
    #[inline]
    pub const fn words(&self) -> &[u64; KEY_WORDS] {
        &self.0
    }

    /// From its words, checked.
    #[inline]
    pub fn from_words(words: [u64; KEY_WORDS]) -> Result<Key, KeyError> {
        let len = (words[5] >> 32) as u32;
        if len >> 8 != 0 {
            return Err(KeyError::Padding);
        }
        if len == MAX_CHUNK_HASH_BYTES as u32 {
            // It has no padding, as is usual.
            return Ok(Key(words));
        }
        if !(1..=MAX_CHUNK_HASH_BYTES as u32).contains(&len) {
            return Err(KeyError::ChunkHashLength(len));
        }
        for (i, word) in words.iter().take(4).enumerate() {
            let kept = (len as usize).saturating_sub(i * 8).min(8);
            if kept < 8 && word >> (kept * 8) != 0 {
                return Err(KeyError::Padding);
            }
        }
        Ok(Key(words))
    }

    /// From its 48 bytes, checked.
    #[inline]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Key, KeyError> {
        let mut words = [0; KEY_WORDS];
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        Key::from_words(words)
    }

    /// Its 48 bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (chunk, word) in chunks.iter_mut().zip(self.0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// The chunk hash, padded with zeros, and its length in bytes.
    pub fn chunk_hash(&self) -> ([u8; MAX_CHUNK_HASH_BYTES], u32) {
        let mut bytes = [0; MAX_CHUNK_HASH_BYTES];
        bytes.copy_from_slice(&self.to_bytes()[..MAX_CHUNK_HASH_BYTES]);
        (bytes, (self.0[5] >> 32) as u32)
    }

    /// Rank of the worker whose part of the chunk this is.
    pub fn kv_rank(&self) -> u32 {
        self.0[4] as u32
    }

    /// Number of the object group.
    pub fn object_group_id(&self) -> u32 {
        (self.0[4] >> 32) as u32
    }

    /// The keyspace.
    #[inline]
    pub fn keyspace(&self) -> KeyspaceId {
        KeyspaceId(self.0[5] as u32)
    }
}

/// Clears what lies behind a chunk hash that is shorter than its words. Apart, because most hashes fill them.
#[inline(never)]
fn padded(mut words: [u64; KEY_WORDS], chunk_hash_len: u32) -> [u64; KEY_WORDS] {
    for (i, word) in words.iter_mut().take(MAX_CHUNK_HASH_BYTES / 8).enumerate() {
        let kept = (chunk_hash_len as usize).saturating_sub(i * 8).min(8);
        if kept < 8 {
            *word &= (1 << (kept * 8)) - 1;
        }
    }
    words
}

/// The two halves of a key's hash: `h0` chooses the bucket, the top 16 bits of `h1` are the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash {
    /// Chooses the home bucket.
    pub h0: u64,
    /// Gives the tag.
    pub h1: u64,
}

impl KeyHash {
    /// The bits that the index looks at, in one word: the top 16 of `h1` over the low 48 of `h0`.
    #[inline]
    pub fn packed(self) -> u64 {
        self.h1 & !HOME_BITS | self.h0 & HOME_BITS
    }

    /// A hash that the index takes for the one that was packed.
    #[inline]
    pub fn from_packed(packed: u64) -> KeyHash {
        KeyHash {
            h0: packed,
            h1: packed,
        }
    }
}

/// Far more bits than an index has buckets.
const HOME_BITS: u64 = (1 << 48) - 1;

/// The secret of an instance's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashSecret {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

/// Both halves of a 64 x 64 bit product, folded.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl HashSecret {
    /// The keyed hash of a key: folded multiplication, the idea of wyhash (Wang Yi) and foldhash (Orson
    /// Peters), over six words with two outputs. The constants are the first digits of pi's fraction.
    #[inline]
    pub const fn hash(&self, key: &Key) -> KeyHash {
        const C: [u64; 5] = [
            0x243f_6a88_85a3_08d3,
            0x1319_8a2e_0370_7344,
            0xa409_3822_299f_31d0,
            0x082e_fa98_ec4e_6c89,
            0x4528_21e6_38d0_1377,
        ];
        let w = key.words();
        // Both factors of each product bear the secret: a factor that somebody could choose to be zero would take the
        // other one out of the hash.
        let (k0, k1) = (self.k0, self.k1);
        // What is the same for all keys of a batch is in brackets.
        let a = fold(w[0] ^ k0, w[1] ^ (k1 ^ C[0]));
        let b = fold(w[2] ^ k1, w[3] ^ (k0 ^ C[1]));
        let c = fold(
            w[4] ^ k0.rotate_left(32),
            w[5] ^ (k1.rotate_left(32) ^ C[2]),
        );
        KeyHash {
            h0: fold(a ^ b.rotate_left(23) ^ k1, c ^ (k0 ^ C[3])),
            h1: fold(b ^ c.rotate_left(29) ^ k0, a ^ (k1 ^ C[4])),
        }
    }
}

/// What the hash makes of one fixed key under one fixed secret. It stands in the fingerprint of the layouts: two builds
/// whose hashes differ would look for the same key in different buckets.
pub const KNOWN_HASH: KeyHash = HashSecret {
    k0: 0x0123_4567_89ab_cdef,
    k1: 0xfedc_ba98_7654_3210,
}
.hash(&Key([1, 2, 3, 4, 5, 6]));

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hash: &[u8], rank: u32) -> Key {
        let mut padded = [0xee; 32];
        padded[..hash.len()].copy_from_slice(hash);
        Key::new(&padded, hash.len() as u32, rank, 9, KeyspaceId(5)).unwrap()
    }

    #[test]
    fn bytes_behind_the_hash_length_do_not_count() {
        let a = key(b"abc", 1);
        assert_eq!(a.chunk_hash().1, 3);
        assert_eq!(&a.chunk_hash().0[..4], b"abc\0");
        assert_eq!(Key::from_bytes(&a.to_bytes()), Ok(a));
        assert_eq!(
            (a.kv_rank(), a.object_group_id(), a.keyspace()),
            (1, 9, KeyspaceId(5))
        );
        let full = key(&[7; 32], 1);
        assert_eq!(Key::from_words(*full.words()), Ok(full));
    }

    #[test]
    fn a_key_with_a_wrong_length_or_padding_is_refused() {
        assert_eq!(
            Key::new(&[0; 32], 0, 0, 0, KeyspaceId(1)),
            Err(KeyError::ChunkHashLength(0))
        );
        assert_eq!(
            Key::new(&[0; 32], 33, 0, 0, KeyspaceId(1)),
            Err(KeyError::ChunkHashLength(33))
        );
        let mut words = *key(b"abc", 1).words();
        words[0] |= 1 << 24;
        assert_eq!(Key::from_words(words), Err(KeyError::Padding));
        words = *key(b"abc", 1).words();
        words[5] |= 1 << 40;
        assert_eq!(Key::from_words(words), Err(KeyError::Padding));
    }

    #[test]
    fn every_bit_of_a_key_moves_about_half_of_both_outputs() {
        let secret = HashSecret {
            k0: 0x1234_5678_9abc_def1,
            k1: 0xfedc_ba98_7654_3217,
        };
        let base = key(&[0x5a; 32], 3);
        let h = secret.hash(&base);
        for word in 0..5 {
            for bit in 0..64 {
                let mut words = *base.words();
                words[word] ^= 1 << bit;
                let other = secret.hash(&Key::from_words(words).unwrap());
                for (x, y) in [(h.h0, other.h0), (h.h1, other.h1)] {
                    let flipped = (x ^ y).count_ones();
                    assert!(
                        (10..=54).contains(&flipped),
                        "word {word} bit {bit}: {flipped}"
                    );
                }
            }
        }
    }

    #[test]
    fn small_chunk_hashes_spread_over_buckets_and_tags() {
        let secret = HashSecret { k0: 11, k1: 13 };
        let mut per_bucket = vec![0_u32; 1024];
        let mut tags = std::collections::BTreeSet::new();
        for i in 0..8192_u64 {
            let h = secret.hash(&key(&i.to_le_bytes(), 0));
            per_bucket[h.h0 as usize & 1023] += 1;
            tags.insert(h.h1 >> 48);
        }
        assert!(per_bucket.iter().all(|n| (0..=30).contains(n)));
        assert!(tags.len() > 7000, "{}", tags.len());
    }

    #[test]
    fn no_chosen_word_takes_the_rest_of_a_key_out_of_the_hash() {
        let secret = HashSecret {
            k0: 0x0123_4567_89ab_cdef,
            k1: 0xfedc_ba98_7654_3210,
        };
        // The constants are public, so a caller can make any one word of a chunk hash equal to any of them.
        for constant in [
            0x243f_6a88_85a3_08d3_u64,
            0x1319_8a2e_0370_7344,
            0xa409_3822_299f_31d0,
            0x082e_fa98_ec4e_6c89,
            0x4528_21e6_38d0_1377,
            0,
        ] {
            for fixed in 0..4 {
                for varied in (0..4).filter(|word| *word != fixed) {
                    let hashes: std::collections::HashSet<(u64, u64)> = (1..100_u64)
                        .map(|n| {
                            let mut bytes = [7; 32];
                            bytes[fixed * 8..][..8].copy_from_slice(&constant.to_le_bytes());
                            bytes[varied * 8..][..8].copy_from_slice(&n.to_le_bytes());
                            let hash = secret.hash(&key(&bytes, 0));
                            (hash.h0, hash.h1)
                        })
                        .collect();
                    assert_eq!(hashes.len(), 99, "{constant:#x} {fixed} {varied}");
                }
            }
        }
    }
}
