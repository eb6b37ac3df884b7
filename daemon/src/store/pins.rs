//! The scan: which entries any session's slots name.
//!
//! One scan does step D3 for every unpublished entry at once, and on the way counts what is pinned, how old the
//! oldest pin is, and remembers each slot's word for the next scan. It runs on the loop's thread in pieces: after
//! the fence nothing can pin an unpublished entry, so new pins elsewhere do not matter. Sessions that open after
//! the fence need not be scanned.
//!
//! ```text
//! start: fence D2 --> advance: clear the old marks, then slots of session after session --> result
//! ```

use super::Nanos;
use super::allocator::Allocator;
use super::ledger::{Ledger, SeenPin};
use super::resident::resident;
use super::slice::Effort;
use hostkv_shm_protocol::control::writer::scan_fence;
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use std::collections::HashSet;
use std::ops::Range;

/// Marks of the entries that the last scan, or the one that is going on, saw pinned.
pub struct PinMarks {
    entry_count: u32,
    bits: Box<[u64]>,
    marked: Vec<EntryNumber>,
    /// With a read time to live: when the youngest pin on each marked entry was first seen; else empty.
    youngest: Box<[Nanos]>,
}

/// What a mark was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The first of its entry in this scan.
    First,
    /// Another one.
    Again,
    /// There is no such entry.
    Nonsense,
}

impl PinMarks {
    /// No marks over `entry_count` entries.
    pub fn new(entry_count: u32, keeps_ages: bool) -> PinMarks {
        PinMarks {
            entry_count,
            bits: resident(entry_count.div_ceil(64) as usize, 0),
            marked: Vec::new(),
            youngest: resident(if keeps_ages { entry_count as usize } else { 0 }, 0),
        }
    }

    /// Whether the entry is marked.
    #[inline]
    pub fn contains(&self, entry: EntryNumber) -> bool {
        self.bits
            .get(entry.index() / 64)
            .is_some_and(|word| word >> (entry.0 % 64) & 1 == 1)
    }

    /// Whether every pin on a marked entry has been seen for as long as the read time to live, if there is one.
    pub fn is_expired(&self, entry: EntryNumber, ttl_ns: Option<u64>, now: Nanos) -> bool {
        ttl_ns
            .zip(self.youngest.get(entry.index()))
            .is_some_and(|(ttl, since)| now.saturating_sub(*since) >= ttl)
    }

    /// Marks an entry whose pin was first seen at `since`.
    fn mark(&mut self, entry: EntryNumber, since: Nanos) -> Mark {
        if entry.0 >= self.entry_count {
            return Mark::Nonsense;
        }
        let word = &mut self.bits[entry.index() / 64];
        let bit = 1 << (entry.0 % 64);
        let is_first = *word & bit == 0;
        *word |= bit;
        if let Some(youngest) = self.youngest.get_mut(entry.index()) {
            *youngest = if is_first {
                since
            } else {
                since.max(*youngest)
            };
        }
        if is_first {
            self.marked.push(entry);
            Mark::First
        } else {
            Mark::Again
        }
    }

    /// Takes marks away until none is left or the effort is spent; true when none is left.
    fn clear(&mut self, effort: &mut Effort) -> bool {
        while let Some(entry) = self.marked.pop() {
            self.bits[entry.index() / 64] = 0;
            effort.spend(Effort::ENTRY);
            if effort.is_spent() {
                break;
            }
        }
        self.marked.is_empty()
    }

    /// Bytes of private memory.
    pub fn memory_bytes(&self) -> u64 {
        (self.bits.len() * 8 + self.marked.capacity() * 4 + self.youngest.len() * 8) as u64
    }
}

/// What a scan counts on its way.
#[derive(Debug, Clone, Copy, Default)]
pub struct PinFigures {
    /// Bytes of distinct pinned objects.
    pub pinned_bytes: u64,
    /// Those objects.
    pub pinned_objects: u64,
    /// Bytes of those that an orphan pins.
    pub orphaned_bytes: u64,
    /// Objects that an orphan pins.
    pub orphaned_objects: u64,
    /// When the oldest pin was first seen.
    pub oldest: Option<Nanos>,
}

/// A session as it was at the fence.
struct Scanned {
    slot: usize,
    id: SessionId,
    is_orphaned: bool,
}

/// A scan that is going on.
pub struct Scan {
    /// Sessions that were open at the fence, orphans first, so that an orphan's objects are marked as such.
    sessions: Vec<Scanned>,
    at: usize,
    slot: usize,
    has_cleared: bool,
    /// Entries of the zombie list that were unpublished before the fence.
    pub zombie_count: usize,
    /// Time of the fence.
    pub started: Nanos,
    /// What it has counted so far.
    pub figures: PinFigures,
    /// Entries that void pins name.
    void_named: HashSet<EntryNumber>,
    /// Bytes of the current session's pins that the scan before saw too, counted once for each pin.
    steady_bytes: u64,
    /// The current session's pins.
    pin_count: u64,
    /// Their bytes, counted once for each pin.
    pinned_bytes: u64,
    /// Sessions whose steady bytes are above the quota.
    suspects: Vec<usize>,
}

/// How many leading ones of these slots name nothing and are as the scan before saw them: nearly all, and there is nothing to
/// do about them. A slot that is not so is looked at anew, and what it says then holds.
fn quiet_slots(session: &Ledger, slots: Range<usize>) -> usize {
    let pins = &session.lease.pins;
    session.seen[slots.clone()]
        .iter()
        .zip(slots)
        .take_while(|(seen, slot)| {
            let word = pins.scan(*slot);
            word == seen.word && word.entry().is_none()
        })
        .count()
}

impl Scan {
    /// Starts a scan: step D2. Everything unpublished so far is decided by it.
    pub fn start(sessions: &[Option<Ledger>], zombie_count: usize, now: Nanos) -> Scan {
        scan_fence();
        let mut sessions: Vec<Scanned> = sessions
            .iter()
            .enumerate()
            .filter_map(|(slot, ledger)| {
                ledger.as_ref().map(|ledger| Scanned {
                    slot,
                    id: ledger.id,
                    is_orphaned: ledger.is_orphaned,
                })
            })
            .collect();
        sessions.sort_by_key(|session| !session.is_orphaned);
        Scan {
            sessions,
            at: 0,
            slot: 0,
            has_cleared: false,
            zombie_count,
            started: now,
            figures: PinFigures::default(),
            void_named: HashSet::new(),
            steady_bytes: 0,
            pin_count: 0,
            pinned_bytes: 0,
            suspects: Vec::new(),
        }
    }

    /// Goes on until the effort is spent or every slot has been looked at (step D3); true when done.
    pub fn advance(
        &mut self,
        sessions: &mut [Option<Ledger>],
        marks: &mut PinMarks,
        allocator: &Allocator,
        align_bytes: u64,
        pin_quota_bytes: u64,
        effort: &mut Effort,
    ) -> bool {
        if !self.has_cleared {
            self.has_cleared = marks.clear(effort);
            if !self.has_cleared {
                return false;
            }
        }
        while let Some(scanned) = self.sessions.get(self.at) {
            let session = sessions
                .get_mut(scanned.slot)
                .and_then(Option::as_mut)
                // A session that has ended holds no pin any more.
                .filter(|session| session.id == scanned.id);
            if let Some(session) = session {
                let len = session.lease.pins.scan_len();
                if session.seen.len() < len {
                    effort.spend((len - session.seen.len()) as u32 * Effort::ENTRY);
                    session.seen.resize(len, SeenPin::default());
                }
                while self.slot < len {
                    if effort.is_spent() {
                        return false;
                    }
                    let most = len.min(self.slot.saturating_add(effort.steps_left(Effort::SLOT)));
                    let quiet = quiet_slots(session, self.slot..most);
                    if quiet > 0 {
                        effort.spend_each(quiet, Effort::SLOT);
                        self.slot += quiet;
                        continue;
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
                    let since = seen.since;
                    self.slot += 1;
                    let Some(entry) = word.entry() else {
                        continue;
                    };
                    effort.spend(Effort::PIN);
                    if session.void_pins.get(&(self.slot - 1)) == Some(&word) {
                        self.void_named.insert(entry);
                        continue;
                    }
                    let units = allocator.extent(entry.0).map_or(0, |(_, units)| units);
                    let bytes = u64::from(units) * align_bytes;
                    if since < self.started {
                        self.steady_bytes += bytes;
                    }
                    let mark = marks.mark(entry, since);
                    if mark == Mark::Nonsense {
                        continue;
                    }
                    self.pin_count += 1;
                    self.pinned_bytes += bytes;
                    let figures = &mut self.figures;
                    figures.oldest = Some(figures.oldest.map_or(since, |oldest| oldest.min(since)));
                    if mark == Mark::First {
                        figures.pinned_bytes += bytes;
                        figures.pinned_objects += 1;
                        if scanned.is_orphaned {
                            figures.orphaned_bytes += bytes;
                            figures.orphaned_objects += 1;
                        }
                    }
                }
                session.pin_count = self.pin_count;
                session.pinned_bytes = self.pinned_bytes;
            }
            if self.steady_bytes > pin_quota_bytes {
                self.suspects.push(scanned.slot);
            }
            self.steady_bytes = 0;
            self.pin_count = 0;
            self.pinned_bytes = 0;
            self.at += 1;
            self.slot = 0;
        }
        true
    }

    /// Sessions that may pin more than their quota.
    pub fn suspects(&self) -> &[usize] {
        &self.suspects
    }

    /// Whether a void pin names the entry.
    pub fn is_void_named(&self, entry: EntryNumber) -> bool {
        self.void_named.contains(&entry)
    }

    /// Age of the oldest pin met, in nanoseconds.
    pub fn oldest_pin_ns(&self) -> u64 {
        self.figures
            .oldest
            .map_or(0, |oldest| self.started.saturating_sub(oldest))
    }
}
