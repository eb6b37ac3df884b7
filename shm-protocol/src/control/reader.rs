//! Finding and verifying keys without a lock: the reader's half of the index.
//!
//! Called by the client on any thread. A batch goes in three passes so that the cache misses of its keys
//! overlap: [`IndexReader::prefetch`] for all, [`IndexReader::locate`] for all, [`IndexReader::verify`] for
//! all. A reader never waits: an entry that changes under it is a miss.
//!
//! Shared words are loaded relaxed and followed by an acquire fence, because only relaxed loads are
//! guaranteed on memory that is mapped read-only.

use super::header::HeaderView;
use super::{ControlError, Tables, bucket, entry};
use crate::extent::Extent;
use crate::id::EntryNumber;
use crate::key::{HashSecret, Key, KeyHash};
use crate::sum::Sum;
use crate::sync::{Ordering, fence};
use crate::view::{Line, View};

/// A key that was readable when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its entry.
    pub entry: EntryNumber,
    /// The entry's sequence number then (step R1).
    pub seq: u64,
    /// Where its object stands.
    pub extent: Extent,
}

/// The index as a client sees it.
#[derive(Clone, Copy)]
pub struct IndexReader {
    tables: Tables,
    secret: HashSecret,
}

impl IndexReader {
    /// A reader of a mapped control segment, after checking its header.
    pub fn new(view: View) -> Result<IndexReader, ControlError> {
        let header = HeaderView::new(view)?;
        let geometry = header.verify()?;
        Ok(IndexReader {
            tables: Tables::new(&view, geometry, header.max_probe())?,
            secret: header.hash_secret(),
        })
    }

    /// A reader of tables whose header is not there, for models.
    #[cfg(loom)]
    pub fn for_model(
        view: View,
        geometry: super::Geometry,
        max_probe: u32,
        secret: HashSecret,
    ) -> IndexReader {
        IndexReader {
            tables: Tables::new(&view, geometry, max_probe).expect("the model's geometry fits"),
            secret,
        }
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &Key) -> KeyHash {
        self.secret.hash(key)
    }

    /// First pass: asks for the home bucket's cache line.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.tables.buckets.prefetch(self.home(hash));
    }

    /// Second pass: the first entry in probe order whose tag is this hash's, with its line asked for.
    ///
    /// It is a candidate only; [`IndexReader::verify`] decides.
    #[inline(always)]
    pub fn locate(&self, hash: KeyHash) -> Option<EntryNumber> {
        let tag = bucket::SlotWord::tag_of(hash.h1);
        let bucket = self.tables.buckets.at(self.home(hash));
        // Relaxed: as in `in_slot`.
        let load = |slot: usize| bucket::SlotWord(bucket.word(slot).load(Ordering::Relaxed));
        let with_tag = |slot| Some(load(slot)).filter(|word| word.tag() == tag);
        // Slot by slot and not in a loop: most keys lie in the first ones.
        let word = with_tag(1)
            .or_else(|| with_tag(2))
            .or_else(|| with_tag(3))
            .or_else(|| with_tag(4))
            .or_else(|| with_tag(5))
            .or_else(|| with_tag(6))
            .or_else(|| with_tag(7));
        let entry = match word {
            // An empty slot, whose tag is 0, names an entry that there is not.
            Some(word) if word.entry() < self.tables.entry_count => EntryNumber(word.entry()),
            Some(_) => self.walk(hash, Some)?,
            // Relaxed: as in `walk`.
            None if load(bucket::OVERFLOW).0 == 0 => return None,
            None => self.walk(hash, Some)?,
        };
        self.tables.entries.prefetch(entry.index());
        Some(entry)
    }

    /// The entry of a slot that bears the tag.
    #[inline]
    fn in_slot(&self, bucket: Line<'_>, slot: usize, tag: u16) -> Option<EntryNumber> {
        // Relaxed: a stale word leads to an entry whose seq or key does not match.
        let word = bucket.word(slot).load(Ordering::Relaxed);
        bucket::SlotWord(word)
            .entry_with_tag(tag)
            .filter(|entry| *entry < self.tables.entry_count)
            .map(EntryNumber)
    }

    /// Third pass: whether `candidate` holds `key` and is readable now (steps R1 and R2). When it holds
    /// another key of the same tag, the rest of the chain is looked through.
    #[inline]
    pub fn verify(&self, key: &Key, hash: KeyHash, candidate: EntryNumber) -> Option<Found> {
        self.look(key, candidate).or_else(|| self.find(key, hash))
    }

    /// The whole search for one key.
    #[inline]
    pub fn find(&self, key: &Key, hash: KeyHash) -> Option<Found> {
        self.walk(hash, |entry| self.look(key, entry))
    }

    /// Whether the entry still has the sequence number that [`Found`] reported (step R5, and R6's fence).
    ///
    /// After a pin and the batch's SeqCst fence, true means that the pin holds. Without a pin it means that
    /// the key was there.
    #[inline]
    pub fn is_current(&self, found: &Found) -> bool {
        // Acquire: without a pin no other fence keeps the loads of the fields (R2) before this load of the
        // sequence number; pairs with the release fence D5. After R4 it adds nothing.
        fence(Ordering::Acquire);
        let is_current = self.seq(found.entry) == found.seq;
        // Acquire: the payload reads that follow come after the load; pairs with the release fence D5.
        fence(Ordering::Acquire);
        is_current
    }

    /// The entry's sequence number now (relaxed).
    #[inline]
    pub fn seq(&self, entry: EntryNumber) -> u64 {
        self.tables
            .entries
            .get(entry.index())
            .map_or(0, |line| line.word(entry::SEQ).load(Ordering::Relaxed))
    }

    /// The sum of a pinned entry's object, if there is one yet. Only under a pin that holds (after R5).
    #[inline]
    pub fn sum(&self, entry: EntryNumber) -> Option<Sum> {
        let sums = self.tables.sums.as_ref()?;
        // Relaxed: the pin keeps the word from being cleared, and what it held for an earlier generation was cleared
        // before the publication that R1 saw.
        Sum::from_word(sums.get(entry.index())?.load(Ordering::Relaxed))
    }

    /// Number of entries.
    pub fn entry_count(&self) -> u32 {
        self.tables.entry_count
    }

    #[inline]
    fn home(&self, hash: KeyHash) -> usize {
        (hash.h0 & self.tables.bucket_mask) as usize
    }

    /// Calls `visit` for each entry of the chain that bears the hash's tag until it gives something.
    #[cold]
    #[inline(never)]
    fn walk<T>(&self, hash: KeyHash, mut visit: impl FnMut(EntryNumber) -> Option<T>) -> Option<T> {
        let tag = bucket::SlotWord::tag_of(hash.h1);
        let mut home = self.home(hash);
        for _ in 0..self.tables.max_probe {
            let bucket = self.tables.buckets.at(home);
            for slot in 1..bucket::WORDS {
                let found = self.in_slot(bucket, slot, tag).and_then(&mut visit);
                if found.is_some() {
                    return found;
                }
            }
            // Relaxed: the count is raised before a key behind it is linked and moves by one at a time, so a
            // key that was there all along is never hidden.
            if bucket.word(bucket::OVERFLOW).load(Ordering::Relaxed) == 0 {
                return None;
            }
            home = (home + 1) & self.tables.bucket_mask as usize;
        }
        None
    }

    /// Whether this entry holds `key` and is readable now (steps R1 and R2), without a look at the rest of the chain.
    #[inline]
    pub fn look(&self, key: &Key, entry: EntryNumber) -> Option<Found> {
        let line = self.tables.entries.at(entry.index());
        let load = |word: usize| line.word(word).load(Ordering::Relaxed);
        let seq = load(entry::SEQ);
        // Acquire: pairs with the release store D6, so that the fields are at least that generation's.
        fence(Ordering::Acquire);
        if !entry::is_readable(seq) {
            return None;
        }
        // Word by word, so that few of them are held at a time.
        for (i, word) in key.words().iter().enumerate() {
            if load(entry::KEY + i) != *word {
                return None;
            }
        }
        Some(Found {
            entry,
            seq,
            extent: Extent::unpack(load(entry::EXTENT)),
        })
    }
}
