//! Keys: the caller's form of one, and how token ids become keys.
//!
//! Pure functions for any thread. The chain is the one that LMCache uses, so that keys of both agree:
//!
//! ```text
//!   h(0)   = BLAKE3-256(12 zero bytes)
//!   h(i+1) = BLAKE3-256(h(i) || tokens of chunk i as big-endian u32)      whole chunks only; key i is h(i+1)
//! ```

use crate::error::{Error, Result};
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::key::{Key, MAX_CHUNK_HASH_BYTES};

/// Names one object within a keyspace; the twin of the C interface's `hostkv_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct ChunkKey {
    /// The chunk's hash; bytes behind `chunk_hash_len` are ignored.
    pub chunk_hash: [u8; MAX_CHUNK_HASH_BYTES],
    /// Length of the hash in bytes, 1 to 32.
    pub chunk_hash_len: u32,
    /// Rank of the worker whose part of the chunk this is.
    pub kv_rank: u32,
    /// Number of the object group.
    pub object_group_id: u32,
}

const _: () = assert!(size_of::<ChunkKey>() == 44 && align_of::<ChunkKey>() == 4);

impl ChunkKey {
    fn from_hash(hash: blake3::Hash) -> ChunkKey {
        ChunkKey {
            chunk_hash: *hash.as_bytes(),
            chunk_hash_len: MAX_CHUNK_HASH_BYTES as u32,
            ..ChunkKey::default()
        }
    }

    /// Whether the length of the hash is allowed.
    #[inline]
    pub(crate) fn has_valid_len(&self) -> bool {
        (1..=MAX_CHUNK_HASH_BYTES as u32).contains(&self.chunk_hash_len)
    }

    /// The key as the index has it; the length of its hash has been checked.
    #[inline]
    pub(crate) fn canonical(&self, keyspace: KeyspaceId) -> Key {
        Key::of_checked(
            &self.chunk_hash,
            self.chunk_hash_len,
            self.kv_rank,
            self.object_group_id,
            keyspace,
        )
    }

    /// The key as the index and the socket have it; `index` is its place in the call, for the message.
    #[inline]
    pub(crate) fn in_keyspace(&self, keyspace: KeyspaceId, index: usize) -> Result<Key> {
        Key::new(
            &self.chunk_hash,
            self.chunk_hash_len,
            self.kv_rank,
            self.object_group_id,
            keyspace,
        )
        .map_err(|error| Error::invalid(format!("key {index} has {error}")))
    }
}

/// A key from any bytes: 1 to 32 are taken as they are, longer ones become their BLAKE3-256. Rank and object
/// group become 0.
pub fn key_from_bytes(bytes: &[u8]) -> Result<ChunkKey> {
    if bytes.is_empty() {
        return Err(Error::invalid(
            "a key of 0 bytes; give at least 1 byte (more than 32 are hashed)",
        ));
    }
    if bytes.len() > MAX_CHUNK_HASH_BYTES {
        return Ok(ChunkKey::from_hash(blake3::hash(bytes)));
    }
    let mut key = ChunkKey {
        chunk_hash_len: bytes.len() as u32,
        ..ChunkKey::default()
    };
    key.chunk_hash[..bytes.len()].copy_from_slice(bytes);
    Ok(key)
}

/// The keys of a token sequence, at most `capacity`; a rest that fills no chunk has none. Rank and object group
/// are 0.
pub fn chunk_keys(tokens: &[u32], tokens_per_key: u32, capacity: usize) -> Result<Vec<ChunkKey>> {
    let count = chunk_count(tokens.len(), tokens_per_key, capacity)?;
    let mut keys = vec![ChunkKey::default(); count];
    chunk_keys_into(tokens, tokens_per_key, &mut keys)?;
    Ok(keys)
}

/// As [`chunk_keys`], into the caller's slice; gives the number of keys written.
pub fn chunk_keys_into(
    tokens: &[u32],
    tokens_per_key: u32,
    keys: &mut [ChunkKey],
) -> Result<usize> {
    let count = chunk_count(tokens.len(), tokens_per_key, keys.len())?;
    let mut previous = blake3::hash(&[0; 12]);
    let chunks = tokens.chunks_exact(tokens_per_key as usize);
    for (key, chunk) in keys.iter_mut().zip(chunks) {
        previous = next_hash(&previous, chunk);
        *key = ChunkKey::from_hash(previous);
    }
    Ok(count)
}

fn chunk_count(token_count: usize, tokens_per_key: u32, capacity: usize) -> Result<usize> {
    if tokens_per_key == 0 {
        return Err(Error::invalid(
            "tokens_per_key is 0; give the number of tokens that one key stands for, at least 1",
        ));
    }
    let count = token_count / tokens_per_key as usize;
    if count > capacity {
        return Err(Error::invalid(format!(
            "{token_count} tokens make {count} keys of {tokens_per_key} tokens, and there is room for \
             {capacity}; give room for all"
        )));
    }
    Ok(count)
}

/// One step of the chain. Tokens are converted piece by piece on the stack, so that no chunk size allocates.
fn next_hash(previous: &blake3::Hash, chunk: &[u32]) -> blake3::Hash {
    const PIECE_TOKENS: usize = 256;
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous.as_bytes());
    let mut bytes = [0; PIECE_TOKENS * 4];
    for piece in chunk.chunks(PIECE_TOKENS) {
        for (four, token) in bytes.chunks_exact_mut(4).zip(piece) {
            four.copy_from_slice(&token.to_be_bytes());
        }
        hasher.update(&bytes[..piece.len() * 4]);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::status::Status;

    /// The chain written as it is defined, over one buffer.
    fn by_definition(tokens: &[u32], tokens_per_key: usize) -> Vec<[u8; 32]> {
        let mut hashes = vec![*blake3::hash(&[0; 12]).as_bytes()];
        for chunk in tokens.chunks_exact(tokens_per_key) {
            let mut text = hashes[hashes.len() - 1].to_vec();
            text.extend(chunk.iter().flat_map(|token| token.to_be_bytes()));
            hashes.push(*blake3::hash(&text).as_bytes());
        }
        hashes.remove(0);
        hashes
    }

    #[test]
    fn keys_follow_the_chain_for_every_chunk_size_and_leave_the_rest_out() {
        let tokens: Vec<u32> = (0..1300_u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        for tokens_per_key in [1_u32, 7, 256, 257, 600, 1300, 1301] {
            let keys = chunk_keys(&tokens, tokens_per_key, 2000).unwrap();
            let hashes: Vec<[u8; 32]> = keys.iter().map(|key| key.chunk_hash).collect();
            assert_eq!(hashes, by_definition(&tokens, tokens_per_key as usize));
            assert!(keys.iter().all(
                |key| key.chunk_hash_len == 32 && (key.kv_rank, key.object_group_id) == (0, 0)
            ));
        }
    }

    #[test]
    fn the_first_keys_of_a_known_sequence_are_known() {
        let keys = chunk_keys(&[1, 2, 3, 4, 5, 6, 7, 8], 4, 2).unwrap();
        let hex = |key: &ChunkKey| -> String {
            key.chunk_hash.iter().map(|b| format!("{b:02x}")).collect()
        };
        assert_eq!(hex(&keys[0]), GOLDEN[0]);
        assert_eq!(hex(&keys[1]), GOLDEN[1]);
    }

    /// From a second implementation of BLAKE3, written from its specification.
    const GOLDEN: [&str; 2] = [
        "6309ed506b8721905753f5c73c070bb21c3aafbd9b474b1e231f41368b71123c",
        "98efc76eafb06cfe774c31ff151f300b61a614c27982a211bb8cdbd83a8c0e19",
    ];

    #[test]
    fn more_keys_than_room_and_chunks_of_nothing_are_refused_by_number() {
        let error = chunk_keys(&[0; 12], 4, 2).unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        assert!(error.message.contains("3 keys") && error.message.contains("room for 2"));
        assert_eq!(
            chunk_keys(&[0; 12], 0, 2).unwrap_err().status,
            Status::InvalidArgument
        );
        let mut room = [ChunkKey::default(); 5];
        assert_eq!(chunk_keys_into(&[0; 13], 4, &mut room), Ok(3));
        assert_eq!(room[3], ChunkKey::default());
    }

    #[test]
    fn short_bytes_are_the_key_and_long_ones_are_hashed() {
        let short = key_from_bytes(b"abc").unwrap();
        assert_eq!(
            (short.chunk_hash_len, &short.chunk_hash[..4]),
            (3, &b"abc\0"[..])
        );
        assert_eq!(key_from_bytes(&[7; 32]).unwrap().chunk_hash, [7; 32]);
        let long = key_from_bytes(&[7; 33]).unwrap();
        assert_eq!(long.chunk_hash, *blake3::hash(&[7; 33]).as_bytes());
        assert_eq!(long.chunk_hash_len, 32);
        assert!(key_from_bytes(b"").is_err());
    }
}
