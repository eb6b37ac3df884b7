//! The guard of what is committed: sums that are still to be made, objects that a reader says have changed, the scrubber.
//!
//! All three read payload bytes in the background, by one job at a time and within one budget of bytes a second
//! (`--scrub-bytes-per-second`), and take turns, so that none of them starves the others: whoever reports what is not so
//! costs the honest nothing but a share of that budget.
//!
//! ```text
//!   commit, --integrity sampled --> fresh ----+
//!   a session's event ring -------> reports --+--turns, budget--> one job --> sums --+--> none yet: stored
//!   all entries, round and round -> cursor ---+                                      +--> the same: well
//!                                                                                    +--> another: the object is removed
//! ```
//!
//! Such a job keeps nothing from being evicted: it only reads, and a sum counts only if its object is still the one that
//! it was made of, by its sequence number. A word of a reader alone removes nothing.
//!
//! Called on the loop's thread: by [`Store::tick`], by the drain of the event rings and at the end of each job.

use super::ages::Leaving;
use super::entries::EntryState;
use super::resident::resident;
use super::{Nanos, SECOND, Store};
use crate::config::Integrity;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sum::Sum;
use std::collections::{HashSet, VecDeque};

/// What reports may cost when the scrubber is off, in bytes a second.
const REPORTS_BYTES_PER_SECOND: u64 = 64 << 20;
/// Most objects that wait for their first sum; the scrubber comes to the others.
const FRESH_AT_MOST: usize = 65_536;
/// Most reports that wait.
const REPORTS_AT_MOST: usize = 256;
/// Entries that one look for what the scrubber reads passes over, 64 at once: about a tenth of a millisecond.
const STEPS_AT_MOST: u32 = 32_768;
/// Objects without a sum that one look passes over because they have gone: as long, each is a cache miss.
const FRESH_STEPS_AT_MOST: u32 = 1024;
/// Two passes of the scrubber begin at least so far apart, however little there is to read.
const PASS_APART: Nanos = SECOND;
/// Between two warnings.
const WARNING_APART: Nanos = 10 * SECOND;

/// Who wanted an object read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It had no sum yet.
    Fresh,
    /// A reader said that it has changed.
    Report,
    /// The scrubber came by.
    Scrub,
}

/// An object at a moment: an entry and its sequence number.
pub(super) type Watched = (EntryNumber, u64);

/// What the guard knows.
#[derive(Debug, Default)]
pub(super) struct Guard {
    fresh: VecDeque<Watched>,
    reports: VecDeque<Watched>,
    reported: HashSet<EntryNumber>,
    /// The entry at which the scrubber goes on.
    cursor: u32,
    pass_started: Nanos,
    has_scrubbed: bool,
    /// Bytes that may be read now; below 0 after a large object.
    budget: i64,
    refilled_at: Nanos,
    is_busy: bool,
    turn: u8,
    last_warning: Option<Nanos>,
}

impl Guard {
    /// Nothing to do yet, over an index of `entry_count` entries.
    pub(super) fn new(integrity: Integrity, entry_count: u32) -> Guard {
        let room = match integrity {
            Integrity::Sampled => FRESH_AT_MOST.min(entry_count as usize),
            Integrity::Off | Integrity::Full => 0,
        };
        let mut fresh = VecDeque::from(resident(room, (EntryNumber(0), 0)).into_vec());
        fresh.clear();
        Guard {
            fresh,
            ..Guard::default()
        }
    }

    /// Bytes of private memory that do not depend on what waits.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.fresh.capacity() * size_of::<Watched>()) as u64
    }
}

impl Store {
    /// Notes an object that was committed without a sum.
    pub(super) fn guard_fresh(&mut self, entry: EntryNumber, seq: u64) {
        if self.config.integrity == Integrity::Sampled && self.guard.fresh.len() < FRESH_AT_MOST {
            self.guard.fresh.push_back((entry, seq));
        }
    }

    /// A session's reader says that an object is not what its sum says. It may say anything.
    pub(super) fn guard_report(&mut self, entry: EntryNumber, seq: u64) {
        if self.guard.reports.len() < REPORTS_AT_MOST
            && self.entries.contains(entry)
            && self.is_object((entry, seq))
            && self.index.sum(entry).is_some()
            && self.guard.reported.insert(entry)
        {
            self.guard.reports.push_back((entry, seq));
        }
    }

    /// Makes the next background job, if one is due.
    pub(super) fn guard_next(&mut self, now: Nanos) {
        if self.config.integrity == Integrity::Off || self.guard.is_busy {
            return;
        }
        self.refill_budget(now);
        if self.guard.budget <= 0 {
            return;
        }
        for _ in 0..3 {
            self.guard.turn = (self.guard.turn + 1) % 3;
            let (origin, objects) = match self.guard.turn {
                0 => (Origin::Report, self.take_reports()),
                1 => (Origin::Fresh, self.take_fresh()),
                _ => (Origin::Scrub, self.take_scrubbed(now)),
            };
            if objects.is_empty() {
                continue;
            }
            self.guard.is_busy = true;
            let bytes = self.watch_objects(origin, objects);
            self.guard.budget -= bytes as i64;
            if origin != Origin::Report {
                self.stats.scrubbed_bytes += bytes;
            }
            return;
        }
    }

    /// Objects that wait for their first sum, those included that have gone meanwhile and were not passed over yet.
    #[cfg(test)]
    pub(super) fn fresh_count(&self) -> usize {
        self.guard.fresh.len()
    }

    fn refill_budget(&mut self, now: Nanos) {
        let rate = match self.config.scrub_bytes_per_second {
            0 => REPORTS_BYTES_PER_SECOND,
            rate => rate,
        };
        let elapsed = now.saturating_sub(self.guard.refilled_at).min(SECOND);
        let gained = u128::from(rate) * u128::from(elapsed) / u128::from(SECOND);
        // A fifth of a second's worth: two ticks.
        let most = (rate / 5).max(1) as i64;
        self.guard.budget = (self.guard.budget + gained as i64).min(most);
        self.guard.refilled_at = now;
    }

    /// Whether this is still the object that it was.
    pub(super) fn is_object(&self, (entry, seq): Watched) -> bool {
        self.entries.state(entry) == EntryState::Committed && self.index.seq(entry) == seq
    }

    fn take_reports(&mut self) -> Vec<Watched> {
        // One at a time: each is a question of its own.
        let report = self.guard.reports.pop_front();
        if let Some((entry, _)) = report {
            self.guard.reported.remove(&entry);
        }
        report
            .into_iter()
            .filter(|object| self.is_object(*object))
            .collect()
    }

    fn take_fresh(&mut self) -> Vec<Watched> {
        let (mut objects, mut bytes) = (Vec::new(), 0);
        if self.config.scrub_bytes_per_second == 0 {
            return objects;
        }
        for _ in 0..FRESH_STEPS_AT_MOST {
            let Some(object) = self.guard.fresh.pop_front() else {
                break;
            };
            if self.is_object(object)
                && self.index.sum(object.0).is_none()
                && self.fills_job(&mut objects, &mut bytes, object)
            {
                break;
            }
        }
        objects
    }

    fn take_scrubbed(&mut self, now: Nanos) -> Vec<Watched> {
        let (mut objects, mut bytes) = (Vec::new(), 0);
        if self.config.scrub_bytes_per_second == 0 {
            return objects;
        }
        let entry_count = self.entries.entry_count();
        if self.guard.cursor >= entry_count {
            // No job is under way: the last of the pass is over.
            if self.guard.has_scrubbed {
                self.guard.has_scrubbed = false;
                self.stats.scrub_passes += 1;
                self.stats.last_scrub_pass_ns = now.saturating_sub(self.guard.pass_started);
            }
            if now.saturating_sub(self.guard.pass_started) < PASS_APART {
                return objects;
            }
            self.guard.cursor = 0;
        }
        if self.guard.cursor == 0 {
            self.guard.pass_started = now;
        }
        let end = entry_count.min(self.guard.cursor.saturating_add(STEPS_AT_MOST));
        while let Some(entry) = self.entries.next_committed(self.guard.cursor, end) {
            self.guard.cursor = entry.0 + 1;
            let object = (entry, self.index.seq(entry));
            if self.fills_job(&mut objects, &mut bytes, object) {
                self.guard.has_scrubbed = true;
                return objects;
            }
        }
        self.guard.cursor = end;
        self.guard.has_scrubbed |= !objects.is_empty();
        objects
    }

    /// The sums of a background job: stored, compared, or of objects that are gone.
    pub(super) fn guard_summed(
        &mut self,
        origin: Origin,
        objects: &[Watched],
        sums: &[Sum],
        now: Nanos,
    ) {
        self.guard.is_busy = false;
        for (object, sum) in objects.iter().zip(sums) {
            if !self.is_object(*object) {
                continue;
            }
            match self.index.sum(object.0) {
                None => self.index.set_sum(object.0, Some(*sum)),
                Some(expected) if expected == *sum => {
                    self.stats.integrity_reports_refuted += u64::from(origin == Origin::Report);
                }
                Some(_) => self.remove_changed(object.0, origin, now),
            }
        }
        self.guard_next(now);
    }

    /// A background job was not carried out.
    pub(super) fn guard_failed(&mut self) {
        self.guard.is_busy = false;
    }

    fn remove_changed(&mut self, entry: EntryNumber, origin: Origin, now: Nanos) {
        self.stats.integrity_failures += 1;
        self.stats.integrity_failures_scrubbed += u64::from(origin != Origin::Report);
        let warned = &mut self.guard.last_warning;
        if warned.is_none_or(|last| now.saturating_sub(last) >= WARNING_APART) {
            *warned = Some(now);
            log::warn!(
                "An object of {} bytes is not what was committed and is removed ({} so far): a process that may write \
                 breaks its contract, or memory is failing; see hostkv_integrity_failures_total",
                self.index.extent(entry).len_bytes,
                self.stats.integrity_failures
            );
        }
        self.unpublish(entry, Leaving::Removed, now);
    }
}
