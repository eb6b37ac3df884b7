//! The scan: which entries any session's slots name.
//!
//! One scan does step D3 for every unpublished entry at once, and on the way counts what is pinned, how old the
//! oldest pin is, and remembers each slot's word for the next scan. It runs on the loop's thread in pieces: after
//! the fence nothing can pin an unpublished entry, so new pins elsewhere do not matter. Sessions that open after
//! the fence need not be scanned.
//!
//! ```text
//! start: fence D2, clear the marks --> advance: slots of session after session --> result
//! ```

use super::Nanos;
use super::ledger::{Ledger, SeenPin};
use super::slice::Effort;
use hostkv_shm_protocol::control::writer::scan_fence;
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use std::collections::HashMap;

/// Marks of the entries that the last scan, or the one that is going on, saw pinned.
#[derive(Default)]
pub struct PinMarks {
    bits: Vec<u64>,
    marked: Vec<EntryNumber>,
}

impl PinMarks {
    /// No marks over `entry_count` entries.
    pub fn new(entry_count: u32) -> PinMarks {
        PinMarks {
            bits: vec![0; entry_count.div_ceil(64) as usize],
            marked: Vec::new(),
        }
    }

    /// Whether the entry is marked.
    #[inline]
    pub fn contains(&self, entry: EntryNumber) -> bool {
        self.bits
            .get(entry.index() / 64)
            .is_some_and(|word| word >> (entry.0 % 64) & 1 == 1)
    }

    /// Marks an entry; false when it is marked already or there is no such entry.
    fn mark(&mut self, entry: EntryNumber) -> bool {
        let Some(word) = self.bits.get_mut(entry.index() / 64) else {
            return false;
        };
        let bit = 1 << (entry.0 % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.marked.push(entry);
        true
    }

    fn clear(&mut self) {
        for entry in self.marked.drain(..) {
            self.bits[entry.index() / 64] = 0;
        }
    }

    /// The marked entries, in the order in which they were seen.
    pub fn entries(&self) -> &[EntryNumber] {
        &self.marked
    }

    /// Bytes of private memory.
    pub fn memory_bytes(&self) -> u64 {
        (self.bits.capacity() * 8 + self.marked.capacity() * 4) as u64
    }
}

/// A scan that is going on.
pub struct Scan {
    /// Slots of the sessions table that were in use at the fence.
    sessions: Vec<(usize, SessionId)>,
    at: usize,
    slot: usize,
    /// Entries of the zombie list that were unpublished before the fence.
    pub zombie_count: usize,
    /// Time of the fence.
    pub started: Nanos,
    oldest: Option<Nanos>,
}

impl Scan {
    /// Starts a scan: step D2. Everything unpublished so far is decided by it.
    pub fn start(
        sessions: &[Option<Ledger>],
        zombie_count: usize,
        marks: &mut PinMarks,
        now: Nanos,
    ) -> Scan {
        marks.clear();
        scan_fence();
        Scan {
            sessions: sessions
                .iter()
                .enumerate()
                .filter_map(|(i, s)| s.as_ref().map(|s| (i, s.id)))
                .collect(),
            at: 0,
            slot: 0,
            zombie_count,
            started: now,
            oldest: None,
        }
    }

    /// With a read time to live, `youngest` collects when the youngest pin on each entry was first seen.
    ///
    /// Goes on until the effort is spent or every slot has been looked at (step D3); true when done.
    pub fn advance(
        &mut self,
        sessions: &mut [Option<Ledger>],
        marks: &mut PinMarks,
        mut youngest: Option<&mut HashMap<EntryNumber, Nanos>>,
        effort: &mut Effort,
    ) -> bool {
        while let Some((index, id)) = self.sessions.get(self.at) {
            let session = sessions
                .get_mut(*index)
                .and_then(Option::as_mut)
                // A session that has ended holds no pin any more.
                .filter(|session| session.id == *id);
            if let Some(session) = session {
                let len = session.lease.pins.scan_len();
                if session.seen.len() < len {
                    session.seen.resize(len, SeenPin::default());
                }
                while self.slot < len {
                    if effort.is_spent() {
                        return false;
                    }
                    effort.spend(Effort::SLOT);
                    let word = session.lease.pins.scan(self.slot);
                    let seen = &mut session.seen[self.slot];
                    if seen.word != word {
                        *seen = SeenPin {
                            word,
                            since: self.started,
                        };
                    }
                    if let Some(entry) = word.entry() {
                        effort.spend(Effort::PIN);
                        self.oldest = Some(self.oldest.map_or(seen.since, |o| o.min(seen.since)));
                        marks.mark(entry);
                        if let Some(youngest) = youngest.as_deref_mut() {
                            let since = seen.since;
                            youngest
                                .entry(entry)
                                .and_modify(|y| *y = since.max(*y))
                                .or_insert(since);
                        }
                    }
                    self.slot += 1;
                }
            }
            self.at += 1;
            self.slot = 0;
        }
        true
    }

    /// Age of the oldest pin met, in nanoseconds.
    pub fn oldest_pin_ns(&self) -> u64 {
        self.oldest.map_or(0, |o| self.started.saturating_sub(o))
    }
}
