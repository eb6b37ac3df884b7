//! Finding keys: three passes over each block of keys, so that the cache misses of its keys overlap.
//!
//! ```text
//!   all keys: hash, ask for the bucket --> all: look for the tag, ask for the entry --> all: compare the key, R1, R2
//! ```

use super::ReadPath;
use crate::chunk_keys::ChunkKey;
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::KeyHash;

/// Keys whose cache misses overlap: more than a core has outstanding misses.
const BLOCK_KEYS: usize = 64;
/// What stands for a key without a candidate; no index has an entry of this number.
const NO_CANDIDATE: u64 = u64::MAX;

/// The search for a call's only key, begun ahead of the rest of the call, so that the cache misses of its bucket and of
/// its entry pass while the call does what else it has to.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    candidate: Option<EntryNumber>,
}

impl ReadPath {
    /// Asks for the bucket of a call's only key. Touches no mapping, so it may come before anything has been checked.
    #[inline]
    pub(crate) fn ask_ahead(&self, keyspace: KeyspaceId, keys: &[ChunkKey]) -> Option<KeyHash> {
        let [key] = keys else {
            return None;
        };
        let hash = self.index.hash(&key.canonical(keyspace));
        self.index.prefetch(hash);
        Some(hash)
    }

    /// Looks into the bucket that was asked for, and asks for the entry.
    #[inline]
    pub(crate) fn locate_ahead(&self, hash: Option<KeyHash>) -> Option<Ahead> {
        let candidate = self.index.locate(hash?);
        Some(Ahead { candidate })
    }

    /// Looks for keys; `visit` gets the outcomes in order and says whether to go on. The keys' lengths have been checked.
    #[inline]
    pub(super) fn find_each(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        ahead: Option<Ahead>,
        mut visit: impl FnMut(Option<Found>) -> bool,
    ) {
        // A copy, which no store can change: what it says stays in registers.
        let index = self.index;
        if let [key] = keys {
            // One key has nothing to overlap with.
            let candidate = match ahead {
                Some(ahead) => ahead.candidate,
                None => index.locate(index.hash(&key.canonical(keyspace))),
            };
            visit_one(&index, keyspace, key, candidate, &mut visit);
            return;
        }
        // One word a key, so that little has to be emptied: its packed hash after the first pass, its candidate after the
        // second. The key itself is made again for the last pass, which costs less than keeping it.
        let mut sought = [0_u64; BLOCK_KEYS];
        for block in keys.chunks(BLOCK_KEYS) {
            let sought = &mut sought[..block.len()];
            hash_all(&index, keyspace, block, sought);
            locate_all(&index, sought);
            for (key, sought) in block.iter().zip(&*sought) {
                let candidate = match *sought {
                    NO_CANDIDATE => None,
                    number => Some(EntryNumber(number as u32)),
                };
                if !visit_one(&index, keyspace, key, candidate, &mut visit) {
                    return;
                }
            }
        }
    }
}

// The first two passes are functions of their own, so that each has all registers for its loop.

/// First pass: the packed hashes of all keys, and their buckets asked for.
#[inline(never)]
fn hash_all(index: &IndexReader, keyspace: KeyspaceId, keys: &[ChunkKey], sought: &mut [u64]) {
    for (key, sought) in keys.iter().zip(sought) {
        let hash = index.hash(&key.canonical(keyspace));
        index.prefetch(hash);
        *sought = hash.packed();
    }
}

/// Second pass: the candidates of all packed hashes, and their entries asked for.
#[inline(never)]
fn locate_all(index: &IndexReader, sought: &mut [u64]) {
    for sought in sought {
        let candidate = index.locate(KeyHash::from_packed(*sought));
        *sought = candidate.map_or(NO_CANDIDATE, |candidate| u64::from(candidate.0));
    }
}

/// Visits the outcome of one key: its candidate, or if that does not hold it, what the whole search finds.
///
/// Two calls of `visit`, so that what is found in the usual way goes there in registers.
#[inline(always)]
fn visit_one(
    index: &IndexReader,
    keyspace: KeyspaceId,
    key: &ChunkKey,
    candidate: Option<EntryNumber>,
    visit: &mut impl FnMut(Option<Found>) -> bool,
) -> bool {
    let Some(candidate) = candidate else {
        return visit(None);
    };
    match index.look(&key.canonical(keyspace), candidate) {
        Some(found) => visit(Some(found)),
        None => visit(find_whole(index, keyspace, key)),
    }
}

/// The whole search, for a key whose candidate holds another one of the same tag or is changing.
#[cold]
#[inline(never)]
fn find_whole(index: &IndexReader, keyspace: KeyspaceId, key: &ChunkKey) -> Option<Found> {
    let key = key.canonical(keyspace);
    index.find(&key, index.hash(&key))
}
