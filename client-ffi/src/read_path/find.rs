//! Finding keys: three passes over each block of keys, so that the cache misses of its keys overlap.
//!
//! ```text
//!   all keys: hash, ask for the bucket --> all: look for the tag, ask for the entry --> all: compare the key, R1, R2
//! ```

use super::ReadPath;
use crate::chunk_keys::ChunkKey;
use hostkv_shm_protocol::control::reader::Found;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::KeyHash;

/// Keys whose cache misses overlap: more than a core has outstanding misses.
const BLOCK_KEYS: usize = 64;
/// The same for shorter calls, for which a large block would be emptied in vain.
const MEDIUM_BLOCK_KEYS: usize = 32;
/// The same for short calls.
const SMALL_BLOCK_KEYS: usize = 8;

/// What the passes know of one key. The key itself is made again for the last pass, which costs less than keeping it.
#[derive(Clone, Copy)]
struct Sought {
    hash: KeyHash,
    candidate: Option<EntryNumber>,
}

impl Sought {
    const NOTHING: Sought = Sought {
        hash: KeyHash { h0: 0, h1: 0 },
        candidate: None,
    };
}

impl ReadPath {
    /// Looks for keys; `visit` gets the outcomes in order and says whether to go on. The keys' lengths have been checked.
    #[inline]
    pub(super) fn find_each(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        mut visit: impl FnMut(Option<Found>) -> bool,
    ) {
        if let [key] = keys {
            // One key has nothing to overlap with.
            if let Some(key) = key.canonical(keyspace) {
                let hash = self.index.hash(&key);
                let candidate = self.index.locate(hash);
                visit(candidate.and_then(|candidate| self.index.verify(&key, hash, candidate)));
            }
        } else if keys.len() <= SMALL_BLOCK_KEYS {
            self.find_blocks::<SMALL_BLOCK_KEYS>(keyspace, keys, visit);
        } else if keys.len() <= MEDIUM_BLOCK_KEYS {
            self.find_blocks::<MEDIUM_BLOCK_KEYS>(keyspace, keys, visit);
        } else {
            self.find_blocks::<BLOCK_KEYS>(keyspace, keys, visit);
        }
    }

    #[inline]
    fn find_blocks<const BLOCK: usize>(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        mut visit: impl FnMut(Option<Found>) -> bool,
    ) {
        // A copy, which no store can change: what it says stays in registers.
        let index = self.index;
        let mut sought = [Sought::NOTHING; BLOCK];
        for block in keys.chunks(BLOCK) {
            let sought = &mut sought[..block.len()];
            for (key, sought) in block.iter().zip(&mut *sought) {
                let Some(key) = key.canonical(keyspace) else {
                    return;
                };
                sought.hash = index.hash(&key);
                index.prefetch(sought.hash);
            }
            for sought in &mut *sought {
                sought.candidate = index.locate(sought.hash);
            }
            for (key, sought) in block.iter().zip(&*sought) {
                let found = sought.candidate.and_then(|candidate| {
                    let key = key.canonical(keyspace)?;
                    index.verify(&key, sought.hash, candidate)
                });
                if !visit(found) {
                    return;
                }
            }
        }
    }
}
