//! Publishing and unpublishing: the daemon's half of the index.
//!
//! One thread, the daemon's loop, calls this. Linking and readability are two things: a key is *linked* from
//! its reservation on, so that a second writer finds it, and *readable* from its publication on.
//!
//! ```text
//!   link (seq odd or 0) --publish--> readable --unpublish--> pins are scanned --unlinked--> entry is free
//! ```

use super::header::HeaderView;
use super::{ControlError, Tables, bucket, entry};
use crate::extent::Extent;
use crate::id::EntryNumber;
use crate::key::{HashSecret, KEY_WORDS, Key, KeyHash};
use crate::sum::Sum;
use crate::sync::{Ordering, fence};
use crate::view::{Line, View};
use thiserror::Error;

/// Every bucket within the probe limit is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("every bucket within the probe limit is full")]
pub struct BucketFull;

/// The index as the daemon writes it. Not `Clone`: there is one writer.
pub struct IndexWriter {
    tables: Tables,
    secret: HashSecret,
}

impl IndexWriter {
    /// The writer of a control segment whose header has been initialised.
    pub fn new(view: View) -> Result<IndexWriter, ControlError> {
        let header = HeaderView::new(view)?;
        let geometry = header.verify()?;
        Ok(IndexWriter {
            tables: Tables::new(&view, geometry, header.max_probe())?,
            secret: header.hash_secret(),
        })
    }

    /// A writer of tables whose header is not there, for models.
    #[cfg(loom)]
    pub fn for_model(
        view: View,
        geometry: super::Geometry,
        max_probe: u32,
        secret: HashSecret,
    ) -> IndexWriter {
        IndexWriter {
            tables: Tables::new(&view, geometry, max_probe).expect("the model's geometry fits"),
            secret,
        }
    }

    /// The hash of a key.
    pub fn hash(&self, key: &Key) -> KeyHash {
        self.secret.hash(key)
    }

    /// The entry that is linked under `key`, readable or not.
    pub fn find(&self, key: &Key, hash: KeyHash) -> Option<EntryNumber> {
        let tag = bucket::SlotWord::tag_of(hash.h1);
        let mut at = self.home(hash);
        for _ in 0..self.tables.max_probe {
            let line = self.bucket(at);
            for slot in 1..bucket::WORDS {
                // Relaxed, here and below: this thread is the only writer.
                let word = line.word(slot).load(Ordering::Relaxed);
                if let Some(number) = bucket::SlotWord(word).entry_with_tag(tag) {
                    let entry = EntryNumber(number);
                    if self.key_words(entry) == *key.words() {
                        return Some(entry);
                    }
                }
            }
            if line.word(bucket::OVERFLOW).load(Ordering::Relaxed) == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Asks the CPU for the first bucket that a search under this hash looks at: whoever has a batch of keys asks for all of
    /// them first, so that the misses overlap.
    #[inline]
    pub fn prefetch_bucket(&self, hash: KeyHash) {
        self.tables.buckets.prefetch(self.home(hash));
    }

    /// Asks the CPU for an entry that is to be looked at soon.
    #[inline]
    pub fn prefetch_entry(&self, entry: EntryNumber) {
        self.tables.entries.prefetch(entry.index());
    }

    /// Asks the CPU for the entry that a search under this hash will most likely look at, and gives its number.
    #[inline]
    pub fn prefetch_found(&self, hash: KeyHash) -> Option<EntryNumber> {
        let tag = bucket::SlotWord::tag_of(hash.h1);
        let line = self.bucket(self.home(hash));
        let found = (1..bucket::WORDS).find_map(|slot| {
            // Relaxed: this thread is the only writer.
            bucket::SlotWord(line.word(slot).load(Ordering::Relaxed)).entry_with_tag(tag)
        })?;
        self.prefetch_entry(EntryNumber(found));
        Some(EntryNumber(found))
    }

    /// Links an entry under a hash. A failed call has touched nothing.
    pub fn link(&mut self, entry: EntryNumber, hash: KeyHash) -> Result<(), BucketFull> {
        let home = self.home(hash);
        let mut at = home;
        let mut place = None;
        for probe in 0..self.tables.max_probe {
            let line = self.bucket(at);
            let is_empty = |slot: &usize| line.word(*slot).load(Ordering::Relaxed) == 0;
            if let Some(slot) = (1..bucket::WORDS).find(is_empty) {
                place = Some((probe, at, slot));
                break;
            }
            at = self.next(at);
        }
        let (probes, target, slot) = place.ok_or(BucketFull)?;
        let mut at = home;
        for _ in 0..probes {
            self.move_overflow(at, 1);
            at = self.next(at);
        }
        let word = bucket::SlotWord::new(bucket::SlotWord::tag_of(hash.h1), entry.0);
        self.tables
            .buckets
            .at(target)
            .word(slot)
            // Release: who finds the key behind a bucket also finds that bucket's overflow count raised.
            .store(word.0, Ordering::Release);
        Ok(())
    }

    /// Takes an entry out of its chain; does nothing when it is not linked under this hash.
    pub fn unlink(&mut self, entry: EntryNumber, hash: KeyHash) {
        let word = bucket::SlotWord::new(bucket::SlotWord::tag_of(hash.h1), entry.0);
        let home = self.home(hash);
        let mut at = home;
        for probe in 0..self.tables.max_probe {
            let line = self.bucket(at);
            for slot in 1..bucket::WORDS {
                if line.word(slot).load(Ordering::Relaxed) == word.0 {
                    // Release: cleared before the counts of the buckets before it are lowered.
                    line.word(slot).store(0, Ordering::Release);
                    let mut passed = home;
                    for _ in 0..probe {
                        self.move_overflow(passed, -1);
                        passed = self.next(passed);
                    }
                    return;
                }
            }
            at = self.next(at);
        }
    }

    /// Writes key and extent of an entry that is not readable, and takes its old sum away (step D5).
    pub fn write_fields(&mut self, entry: EntryNumber, key: &Key, extent: Extent) {
        // Release: a reader that sees one of these fields also sees the unpublish before it. The SeqCst fence
        // of the scan implies it; it stands here as documentation.
        fence(Ordering::Release);
        let line = self.entry_line(entry);
        line.word(entry::EXTENT)
            .store(extent.pack(), Ordering::Relaxed);
        for (i, word) in key.words().iter().enumerate() {
            line.word(entry::KEY + i).store(*word, Ordering::Relaxed);
        }
        self.set_sum(entry, None);
    }

    /// Takes key and sum away from an entry that is not readable and has no key yet: its extent is granted to a session,
    /// which names the key when it commits.
    pub fn clear_key(&mut self, entry: EntryNumber) {
        // Release: as in `write_fields`.
        fence(Ordering::Release);
        for word in 0..KEY_WORDS {
            self.entry_word(entry, entry::KEY + word)
                .store(0, Ordering::Relaxed);
        }
        self.set_sum(entry, None);
    }

    /// Stores the sum of an entry's object, before its publication or while it is readable; nothing without sums.
    ///
    /// Relaxed: a reader loads it under a pin that holds. D5 cleared it before the publication that the reader saw
    /// (D6, R1), and clears it again only after a scan that saw the pin gone (R7, D3), so the reader sees 0 or the sum of
    /// exactly this generation; the word orders nothing else.
    pub fn set_sum(&mut self, entry: EntryNumber, sum: Option<Sum>) {
        if let Some(sums) = &self.tables.sums {
            sums.at(entry.index())
                .store(Sum::to_word(sum), Ordering::Relaxed);
        }
    }

    /// The sum of an entry's object, if it has one.
    pub fn sum(&self, entry: EntryNumber) -> Option<Sum> {
        let sums = self.tables.sums.as_ref()?;
        // Relaxed: this thread is the only writer.
        Sum::from_word(sums.at(entry.index()).load(Ordering::Relaxed))
    }

    /// Whether entries have sums.
    pub fn has_sums(&self) -> bool {
        self.tables.sums.is_some()
    }

    /// Makes an entry readable (step D6) and gives its new sequence number.
    pub fn publish(&mut self, entry: EntryNumber) -> u64 {
        let seq = entry::next_published(self.seq(entry));
        self.entry_word(entry, entry::SEQ)
            // Release: pairs with the reader's acquire fence in R1; key, extent and payload come with it.
            .store(seq, Ordering::Release);
        seq
    }

    /// Makes a readable entry unreadable (step D1). Its extent may be reused only after [`scan_fence`] and a
    /// scan that finds no pin on it.
    pub fn unpublish(&mut self, entry: EntryNumber) {
        let seq = self.seq(entry);
        debug_assert!(
            entry::is_readable(seq),
            "unpublish of {entry:?} with seq {seq}"
        );
        self.entry_word(entry, entry::SEQ)
            // Release: pairs with a reader's load in R5, which then refuses the pin.
            .store(seq + 1, Ordering::Release);
    }

    /// Moves the sequence number of an unreadable entry on by two, so that what refers to the old one is
    /// refused: pins (then their extent may be reused although a slot names it) or a late commit.
    pub fn revoke(&mut self, entry: EntryNumber) {
        let seq = self.seq(entry) | 1;
        self.entry_word(entry, entry::SEQ)
            // Release, then a release fence: a reader that sees a byte of the extent's next writer also sees
            // this store, through the fence, in its check.
            .store(seq + 2, Ordering::Release);
        fence(Ordering::Release);
    }

    /// The sequence number of an entry.
    pub fn seq(&self, entry: EntryNumber) -> u64 {
        self.entry_word(entry, entry::SEQ).load(Ordering::Relaxed)
    }

    /// The extent of an entry.
    pub fn extent(&self, entry: EntryNumber) -> Extent {
        Extent::unpack(
            self.entry_word(entry, entry::EXTENT)
                .load(Ordering::Relaxed),
        )
    }

    /// The words of an entry's key; all zero before its first use.
    pub fn key_words(&self, entry: EntryNumber) -> [u64; KEY_WORDS] {
        let line = self.entry_line(entry);
        core::array::from_fn(|i| line.word(entry::KEY + i).load(Ordering::Relaxed))
    }

    /// Number of entries.
    pub fn entry_count(&self) -> u32 {
        self.tables.entry_count
    }

    /// Counts the linked entries and checks every overflow count; for the audit.
    ///
    /// `hash_of` gives the hash of a linked entry.
    pub fn audit(&self, mut hash_of: impl FnMut(EntryNumber) -> KeyHash) -> Result<u64, String> {
        let bucket_count = self.tables.bucket_mask as usize + 1;
        let mut expected = vec![0_u64; bucket_count];
        let mut linked = 0;
        for at in 0..bucket_count {
            for slot in 1..bucket::WORDS {
                let word = self.bucket_word(at, slot);
                if word == 0 {
                    continue;
                }
                linked += 1;
                let number = (word as u32).wrapping_sub(1);
                if number >= self.tables.entry_count {
                    return Err(format!("bucket {at} slot {slot} names entry {number}"));
                }
                let hash = hash_of(EntryNumber(number));
                let mut home = self.home(hash);
                let mut distance = 0;
                while home != at {
                    expected[home] += 1;
                    home = self.next(home);
                    distance += 1;
                    if distance >= self.tables.max_probe {
                        return Err(format!("entry {number} lies beyond the probe limit"));
                    }
                }
            }
        }
        for (at, expected) in expected.iter().enumerate() {
            let count = self.bucket_word(at, 0);
            if count != *expected {
                return Err(format!(
                    "bucket {at} counts {count} keys beyond it; there are {expected}"
                ));
            }
        }
        Ok(linked)
    }

    fn home(&self, hash: KeyHash) -> usize {
        (hash.h0 & self.tables.bucket_mask) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & self.tables.bucket_mask as usize
    }

    fn bucket(&self, at: usize) -> Line<'_> {
        self.tables.buckets.at(at)
    }

    fn entry_line(&self, entry: EntryNumber) -> Line<'_> {
        self.tables.entries.at(entry.index())
    }

    fn bucket_word(&self, at: usize, word: usize) -> u64 {
        // Relaxed: this thread is the only writer.
        self.tables
            .buckets
            .at(at)
            .word(word)
            .load(Ordering::Relaxed)
    }

    fn move_overflow(&mut self, at: usize, by: i64) {
        let word = self.tables.buckets.at(at).word(bucket::OVERFLOW);
        let count = word.load(Ordering::Relaxed).wrapping_add_signed(by);
        // Release: keeps the order of count and slot word that `link` and `unlink` rely on.
        word.store(count, Ordering::Release);
    }

    fn entry_word(&self, entry: EntryNumber, word: usize) -> &crate::sync::AtomicU64 {
        self.tables.entries.at(entry.index()).word(word)
    }
}

/// Step D2: the fence between unpublishing a batch and scanning the pins.
///
/// SeqCst: it and a reader's fence R4 have one order. Either the scan sees the pin, or the reader sees that
/// the entry is no longer readable.
#[inline]
pub fn scan_fence() {
    fence(Ordering::SeqCst);
}
