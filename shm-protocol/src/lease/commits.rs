//! The commit ring: objects that a session has written into extents granted to it, made readable without a call.
//!
//! ```text
//! client: claim places (CAS on the head) --> write the record --> seq = position + 1 (Release) --> Doorbell::is_wanted
//! daemon: seq == position + 1 (Acquire)? --> copy, check, publish --> outcome into the record --> tail = position + 1 (Release)
//! client: position below the tail (Acquire) --> outcome; the place may be claimed again
//! ```
//!
//! Several threads push. A place is claimed only after its last outcome was read, which the client knows from the tail.
//! The daemon goes by the sequence words at a position of its own; head and tail are words of the client's memory and tell it
//! nothing. A record that is claimed and not finished holds up those behind it; after the end of the process, when nobody can
//! finish it any more, those behind it count all the same.
//!
//! **The doorbell.** While the daemon's loop runs it looks into every ring in every turn. Before it sleeps it says so in
//! [`Doorbell::lie_down`] and looks again; a client that has finished a record rings when the daemon has said so:
//!
//! ```text
//! daemon: sleeping = 1; fence(SeqCst); look into all rings again; work? sleeping = 0, go on; else wait, sleeping = 0
//! client: seq (Release); fence(SeqCst); sleeping == 1? one byte on the socket
//! ```
//!
//! One of the two fences comes first: either the daemon's second look finds the record, or the client finds the word set.
//! The client only loads the word, so no client that dies between a swap and its send can take the bell from the others.

use super::{LeaseGeometry, header::LeaseHeader};
use crate::control::header::HeaderView;
use crate::id::EntryNumber;
use crate::key::{KEY_WORDS, Key};
use crate::status::Status;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::view::{Line, Lines, OutOfBounds, View};
use core::mem::offset_of;

/// Records of the commit ring of a session that has one.
pub const COMMIT_RECORDS: u32 = 1024;
/// Unused grants of one session hold at most one part in this many of the payload, and of the index.
pub const GRANT_SHARE: u64 = 64;

crate::layout! {
    /// One record of the commit ring.
    pub struct CommitRecord [64] {
        /// Position + 1 when the record is whole.
        0: seq: u64,
        /// The granted entry.
        8: entry: u32,
        /// Length of the object in bytes; the daemon writes the outcome, a [`Status`], over it.
        12: len_bytes: u32,
        /// The key.
        16: key: [u64; 6],
    }
}

const _: () = assert!(KEY_WORDS == 6 && size_of::<CommitRecord>() == Line::WORDS * 8);

const ENTRY_WORD: usize = offset_of!(CommitRecord, entry) / 8;
const KEY_WORD: usize = offset_of!(CommitRecord, key) / 8;
const HIGH_HALF: u32 = 32;

/// What a record says, copied out; nothing of it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenCommit {
    /// The entry.
    pub entry: EntryNumber,
    /// Length of the object in bytes.
    pub len_bytes: u32,
    /// The words of its key.
    pub key: [u64; KEY_WORDS],
}

/// The commit ring of one session, as either side sees it.
#[derive(Clone, Copy)]
pub struct Commits {
    view: View,
    records: Lines,
    /// The ring has two to this power of places.
    capacity_log2: u32,
}

impl Commits {
    /// The ring of a lease segment; none when it has none.
    pub fn new(view: View, geometry: &LeaseGeometry) -> Result<Option<Commits>, OutOfBounds> {
        if geometry.commit_capacity == 0 {
            return Ok(None);
        }
        view.u64(offset_of!(LeaseHeader, commit_head) as u64)?;
        view.u64(offset_of!(LeaseHeader, commit_tail) as u64)?;
        debug_assert!(geometry.commit_capacity.is_power_of_two());
        Ok(Some(Commits {
            view,
            capacity_log2: geometry.commit_capacity.trailing_zeros(),
            records: view.lines(
                geometry.commits_offset(),
                u64::from(geometry.commit_capacity),
            )?,
        }))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.view
            .u64(offset as u64)
            .expect("Commits::new checked that the word is mapped")
    }

    /// Places of the ring.
    pub fn capacity(&self) -> u64 {
        1 << self.capacity_log2
    }

    #[inline]
    fn record(&self, position: u64) -> Line<'_> {
        let place = (position & (self.capacity() - 1)) as usize;
        self.records.at(place)
    }

    /// Client: claims `count` places that follow each other, if so many are free; gives the first position. `done` is the
    /// position up to which outcomes have been read, at most [`Commits::tail`].
    #[inline]
    pub fn claim(&self, count: u64, done: u64) -> Option<u64> {
        let head_word = self.word(offset_of!(LeaseHeader, commit_head));
        let mut head = head_word.load(Ordering::Relaxed);
        loop {
            let free = self.capacity().saturating_sub(head.wrapping_sub(done));
            if free < count {
                return None;
            }
            // Relaxed: the claim only keeps two threads off one place; that the places are free came with `done`.
            match head_word.compare_exchange_weak(
                head,
                head + count,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(head),
                Err(current) => head = current,
            }
        }
    }

    /// Client: fills a claimed place and hands it over. The payload has been made visible before
    /// ([`crate::sync::payload_store_fence`]).
    #[inline]
    pub fn write(&self, position: u64, entry: EntryNumber, len_bytes: u32, key: &Key) {
        let record = self.record(position);
        // Relaxed: the record is handed over by the store of its sequence word.
        record.word(ENTRY_WORD).store(
            u64::from(entry.0) | u64::from(len_bytes) << HIGH_HALF,
            Ordering::Relaxed,
        );
        for (i, word) in key.words().iter().enumerate() {
            record.word(KEY_WORD + i).store(*word, Ordering::Relaxed);
        }
        record
            .word(0)
            // Release: pairs with `take`'s Acquire; the fields and the payload come with it.
            .store(position + 1, Ordering::Release);
    }

    /// Client: the position up to which the daemon has taken records and written their outcomes.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.word(offset_of!(LeaseHeader, commit_tail))
            // Acquire: pairs with `release`; the outcomes before it have been written, the records copied out.
            .load(Ordering::Acquire)
    }

    /// Client: what became of the record at a position below [`Commits::tail`].
    pub fn outcome(&self, position: u64) -> Status {
        // Relaxed: the tail brought it.
        let word = self
            .record(position)
            .word(ENTRY_WORD)
            .load(Ordering::Relaxed);
        Status::from_number((word >> HIGH_HALF) as u32 as i32).unwrap_or(Status::Internal)
    }

    /// Daemon: whether the record at its private `position` is whole.
    #[inline]
    pub fn is_whole(&self, position: u64) -> bool {
        // Acquire: pairs with `write`'s Release.
        self.record(position).word(0).load(Ordering::Acquire) == position + 1
    }

    /// Daemon: copies the record at its private `position` out, if it is whole.
    #[inline]
    pub fn take(&self, position: u64) -> Option<TakenCommit> {
        if !self.is_whole(position) {
            return None;
        }
        let record = self.record(position);
        // One relaxed load of each word into a local; only the local is looked at.
        let word = record.word(ENTRY_WORD).load(Ordering::Relaxed);
        Some(TakenCommit {
            entry: EntryNumber(word as u32),
            len_bytes: (word >> HIGH_HALF) as u32,
            key: core::array::from_fn(|i| record.word(KEY_WORD + i).load(Ordering::Relaxed)),
        })
    }

    /// Daemon: writes the outcome of a record that it has taken.
    #[inline]
    pub fn answer(&self, position: u64, taken: &TakenCommit, outcome: Status) {
        let word = u64::from(taken.entry.0) | u64::from(outcome.number() as u32) << HIGH_HALF;
        self.record(position)
            .word(ENTRY_WORD)
            // Relaxed: `release` hands it over.
            .store(word, Ordering::Relaxed);
    }

    /// Daemon: gives the places before `position` back with their outcomes.
    #[inline]
    pub fn release(&self, position: u64) {
        self.word(offset_of!(LeaseHeader, commit_tail))
            // Release: pairs with `tail`'s Acquire; the records before it have been copied out and answered.
            .store(position, Ordering::Release);
    }
}

/// The word that says whether the daemon sleeps.
#[derive(Clone, Copy)]
pub struct Doorbell {
    header: HeaderView,
}

impl Doorbell {
    /// The word of a control segment.
    pub fn new(header: HeaderView) -> Doorbell {
        Doorbell { header }
    }

    /// Client: whether the daemon sleeps and must be rung for what this thread has just finished.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        // SeqCst: this fence and the one of `lie_down` have one order.
        fence(Ordering::SeqCst);
        self.header.daemon_sleeping().load(Ordering::Relaxed) == 1
    }

    /// Daemon: says that it is about to sleep. It then looks into all rings again, and sleeps only if nothing is there.
    #[inline]
    pub fn lie_down(&self) {
        self.header.daemon_sleeping().store(1, Ordering::Relaxed);
        // SeqCst: as in `is_wanted`.
        fence(Ordering::SeqCst);
    }

    /// Daemon: says that it runs again.
    #[inline]
    pub fn get_up(&self) {
        // Relaxed: a client that still sees the old value rings once too often.
        self.header.daemon_sleeping().store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::{InstanceId, KeyspaceId, SessionId};

    fn ring(capacity: u32) -> (Vec<u64>, Commits) {
        let geometry = LeaseGeometry::new(256, 1000).with_commits(capacity);
        let mut words = vec![0_u64; geometry.segment_len() as usize / 8];
        // SAFETY: the vector is returned beside the ring and outlives it in every test; nobody else uses it.
        let view = unsafe { View::new(words.as_mut_ptr().cast(), geometry.segment_len()) };
        geometry
            .initialise(&view, InstanceId([1; 16]), SessionId(1))
            .unwrap();
        assert_eq!(LeaseGeometry::read(&view), Ok(geometry));
        let commits = Commits::new(view, &geometry).unwrap().unwrap();
        (words, commits)
    }

    fn key(n: u64) -> Key {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        Key::new(&hash, 8, 3, 4, KeyspaceId(5)).unwrap()
    }

    #[test]
    fn a_record_comes_out_as_it_went_in_and_its_outcome_comes_back_lap_after_lap() {
        let (_words, commits) = ring(4);
        for n in 0..20_u64 {
            assert_eq!(commits.claim(1, commits.tail()), Some(n));
            assert_eq!(commits.take(n), None, "claimed and not written");
            commits.write(n, EntryNumber(n as u32 + 7), u32::MAX, &key(n));
            let taken = commits.take(n).unwrap();
            assert_eq!(
                (taken.entry, taken.len_bytes, taken.key),
                (EntryNumber(n as u32 + 7), u32::MAX, *key(n).words())
            );
            assert!(!commits.is_whole(n + 1));
            let outcome = [Status::Ok, Status::Exists, Status::NoSpace][n as usize % 3];
            commits.answer(n, &taken, outcome);
            commits.release(n + 1);
            assert_eq!((commits.tail(), commits.outcome(n)), (n + 1, outcome));
        }
    }

    #[test]
    fn a_batch_gets_all_its_places_or_none() {
        let (_words, commits) = ring(4);
        assert_eq!(commits.claim(3, 0), Some(0));
        assert_eq!(commits.claim(2, 0), None);
        assert_eq!(commits.claim(1, 0), Some(3));
        assert_eq!(commits.claim(1, 0), None);
        assert_eq!(commits.claim(5, 4), None, "more than there ever are");
        assert_eq!(commits.claim(2, 2), Some(4));
    }

    #[test]
    fn an_outcome_that_is_no_status_is_internal() {
        let (mut words, commits) = ring(2);
        let at = LeaseGeometry::new(256, 1000).commits_offset() as usize / 8;
        words[at + 1] = 5 << 32;
        assert_eq!(commits.outcome(0), Status::Internal);
    }

    #[test]
    fn a_session_without_a_ring_has_none() {
        let geometry = LeaseGeometry::new(256, 1000);
        let words = vec![0_u64; geometry.segment_len() as usize / 8];
        // SAFETY: as in `ring`.
        let view = unsafe { View::new(words.as_ptr().cast(), geometry.segment_len()) };
        assert!(Commits::new(view, &geometry).unwrap().is_none());
    }
}
