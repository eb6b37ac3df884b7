//! The eviction controller, and everything else that runs in slices.
//!
//! ```text
//!   slice:  scan going on? --> go on, then free what no pin names
//!           reserve parked? -> advance it; make room: scan, or pick victims and scan
//!           unpublished?   --> scan
//!           events due?    --> drain the sessions' event rings
//!           sweep?         --> go on
//!           above the watermark? --> pick victims until the pass has its goal
//! ```
//!
//! Victims are picked in batches, unpublished, and freed by one scan for the whole batch.

use super::entries::EntryState;
use super::parked::{Lack, Progress, Resumed, ResumedAnswer};
use super::pins::Scan;
use super::reserve::Advance;
use super::slice::Effort;
use super::watermark::Goal;
use super::{Nanos, SECOND, Store};
use crate::config::EvictionPolicy;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::RECENCY_RECORDS;
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::sync::Ordering;

/// Most victims of one batch.
const BATCH_ENTRIES: u32 = 256;
/// Entries that the search for victims may pass over in one slice.
const SEARCH_STEPS: u32 = 2048;
/// Recency records taken from one session at a time.
const RECENCY_BATCH: usize = 2048;
/// A reserve may evict this many times the bytes, or the entries, that it asks for.
const EVICT_FACTOR: u64 = 2;
/// Pinned share of the payload above which new pins are refused.
const GATE_RATIO: f64 = 0.8;

/// A scan, and what follows it.
pub(super) enum ScanStage {
    /// Looking at pin slots.
    Scanning(Scan),
    /// Freeing the zombies that it covers; `next` is looked at next, `kept` are to stay.
    Freeing {
        scan: Scan,
        next: usize,
        kept: usize,
    },
}

/// A pass of the controller above the watermark.
#[derive(Debug)]
pub(super) struct Pass {
    goal: Goal,
    has_freed: bool,
    has_drained: bool,
    looked_at: u32,
}

/// What a batch is for.
#[derive(Debug, Clone, Copy)]
struct Want {
    bytes: u64,
    entries: u32,
}

/// Result of picking victims.
#[derive(Debug, Clone, Copy, Default)]
struct Picked {
    bytes: u64,
    entries: u32,
    looked_at: u32,
}

impl Store {
    /// Whether a slice would do something now.
    pub fn has_work(&self) -> bool {
        self.scan.is_some()
            || self.wants_scan
            || !self.parked.is_empty()
            || !self.sweeps.is_empty()
            || self.events.is_due()
            || self.pass.is_some()
            || self.wants_pass().is_some()
    }

    /// One bounded piece of work; the parked requests that it finished.
    pub fn slice(&mut self, now: Nanos) -> Vec<Resumed> {
        let mut effort = Effort::new(self.config.slice_ns);
        let mut done = Vec::new();
        while !effort.is_spent() {
            if self.scan.is_some() {
                if !self.advance_scan(&mut effort) {
                    break;
                }
                // Even when the slice is over: what was freed goes to the oldest parked request.
                self.advance_parked(now, &mut done, None);
            } else if !self.parked.is_empty() {
                self.serve_parked(now, &mut effort, &mut done);
            } else if self.wants_scan {
                self.start_scan(now);
            } else if self.events.is_due() {
                self.drain_events_slice(&mut effort);
            } else if !self.sweeps.is_empty() {
                done.extend(self.advance_sweep(&mut effort));
            } else if self.pass.is_some() {
                self.advance_pass(now, &mut effort);
            } else if let Some(goal) = self.wants_pass() {
                self.start_pass(goal, now);
            } else {
                break;
            }
        }
        done
    }

    fn wants_pass(&self) -> Option<Goal> {
        if self.pass_is_blocked || self.config.policy == EvictionPolicy::Noop {
            return None;
        }
        self.watermark.goal(&self.usage())
    }

    /// Advances parked reserves, the oldest first, until one lacks something; the lack of that one.
    fn advance_parked(
        &mut self,
        now: Nanos,
        done: &mut Vec<Resumed>,
        mut effort: Option<&mut Effort>,
    ) -> Option<Lack> {
        while let Some(mut progress) = self.parked.pop_front() {
            match self.advance(&mut progress, effort.as_deref_mut()) {
                Advance::Done => {
                    let session = progress.session;
                    let (ticket, answers) = self.finish_reserve(progress, now);
                    done.push(Resumed {
                        session,
                        ticket,
                        answer: ResumedAnswer::Reserved(answers),
                    });
                }
                Advance::Spent => {
                    self.parked.push_front(progress);
                    return None;
                }
                Advance::Lacks(lack) => {
                    self.parked.push_front(progress);
                    return Some(lack);
                }
            }
        }
        None
    }

    fn serve_parked(&mut self, now: Nanos, effort: &mut Effort, done: &mut Vec<Resumed>) {
        let Some(lack) = self.advance_parked(now, done, Some(effort)) else {
            return;
        };
        let Some(mut progress) = self.parked.pop_front() else {
            return;
        };
        if !self.make_room(&mut progress, lack, now, effort) {
            let reason = match lack {
                Lack::Bytes(_) => Reason::NoSpace,
                Lack::Entry => Reason::NoEntry,
            };
            progress.ended = Some((Status::NoSpace, reason));
        }
        self.parked.push_front(progress);
    }

    /// Brings a parked reserve nearer to what it lacks; false when nothing more can be done for it.
    fn make_room(
        &mut self,
        progress: &mut Progress,
        lack: Lack,
        now: Nanos,
        effort: &mut Effort,
    ) -> bool {
        if self.wants_scan {
            self.start_scan(now);
            return true;
        }
        if !self.zombies.is_empty() && self.rescan_for(progress, now) {
            return true;
        }
        if !progress.has_drained {
            progress.has_drained = self.drain_recency(effort);
            return true;
        }
        let want = match lack {
            Lack::Entry => Want {
                bytes: 0,
                entries: (progress.request.items.len() - progress.answers.len()) as u32,
            },
            Lack::Bytes(next_item) => {
                // What the rest lacks beyond what is free; when enough is free but in pieces, one item's worth.
                let rest: u64 = progress.request.items[progress.answers.len()..]
                    .iter()
                    .map(|item| u64::from(item.len_bytes).next_multiple_of(self.align()))
                    .sum();
                let free = self.units_to_bytes(self.allocator.free_units());
                Want {
                    bytes: rest.saturating_sub(free).max(next_item),
                    entries: 0,
                }
            }
        };
        let is_exhausted = match lack {
            Lack::Bytes(_) => progress.evicted_bytes >= EVICT_FACTOR * progress.requested_bytes,
            Lack::Entry => {
                u64::from(progress.evicted_entries)
                    >= EVICT_FACTOR * progress.request.items.len() as u64
            }
        };
        if is_exhausted {
            return false;
        }
        let committed = self.entries.count(EntryState::Committed);
        if committed == 0 {
            return false;
        }
        if progress.looked_at > committed.saturating_mul(2) {
            return self.rescan_for(progress, now);
        }
        if progress.evicted_entries == 0 && progress.looked_at == 0 {
            self.stats.eviction_passes += 1;
        }
        let picked = self.pick_victims(want, now, effort);
        progress.evicted_bytes += picked.bytes;
        progress.evicted_entries += picked.entries;
        progress.looked_at += picked.looked_at;
        if picked.entries > 0 {
            self.start_scan(now);
            return true;
        }
        if picked.looked_at >= SEARCH_STEPS {
            return true;
        }
        // All of it was pinned at the last scan, or may not be evicted; what was pinned then may be free now.
        self.rescan_for(progress, now)
    }

    /// One scan for this reserve alone; false when it has had it.
    fn rescan_for(&mut self, progress: &mut Progress, now: Nanos) -> bool {
        if progress.has_rescanned {
            return false;
        }
        progress.has_rescanned = true;
        progress.looked_at = 0;
        self.start_scan(now);
        true
    }

    fn start_pass(&mut self, goal: Goal, now: Nanos) {
        self.stats.eviction_passes += 1;
        self.pass = Some(Pass {
            goal,
            has_freed: false,
            has_drained: false,
            looked_at: 0,
        });
        if self
            .last_usage_line
            .is_none_or(|last| now.saturating_sub(last) >= SECOND)
        {
            self.last_usage_line = Some(now);
            log::info!(
                "Memory usage {:.2} above watermark {:.2}; triggering eviction.",
                self.usage().ratio(),
                self.watermark.trigger
            );
        }
    }

    fn advance_pass(&mut self, now: Nanos, effort: &mut Effort) {
        let Some(mut pass) = self.pass.take() else {
            return;
        };
        if !pass.has_drained {
            pass.has_drained = self.drain_recency(effort);
            self.pass = Some(pass);
            return;
        }
        if pass.goal.is_met() {
            return;
        }
        let want = Want {
            bytes: pass.goal.bytes,
            entries: pass.goal.entries,
        };
        let picked = self.pick_victims(want, now, effort);
        pass.looked_at += picked.looked_at;
        if picked.entries > 0 {
            self.start_scan(now);
            self.pass = Some(pass);
        } else if picked.looked_at >= SEARCH_STEPS
            && pass.looked_at <= self.entries.count(EntryState::Committed).saturating_mul(2)
        {
            self.pass = Some(pass);
        } else {
            self.end_blocked_pass(&pass, now);
        }
    }

    /// The pass found no more victims: what is left is pinned, or there is nothing.
    fn end_blocked_pass(&mut self, pass: &Pass, now: Nanos) {
        self.pass_is_blocked = true;
        if pass.has_freed {
            return;
        }
        self.stats.eviction_passes_all_pinned += 1;
        if self
            .last_pinned_warning
            .is_none_or(|last| now.saturating_sub(last) >= 60 * SECOND)
        {
            self.last_pinned_warning = Some(now);
            let usage = self.usage();
            log::warn!(
                "Eviction freed nothing: all that could go is pinned or reserved ({} of {} bytes in use, {} pinned, \
                 {} reserved); release leases or raise --l1-size-gb.",
                usage.used_bytes,
                usage.capacity_bytes,
                self.stats.pinned_bytes,
                self.reserved_bytes
            );
        }
    }

    /// Unpublishes the coldest unpinned entries until the want is met, a batch is full, or the effort is spent.
    fn pick_victims(&mut self, want: Want, now: Nanos, effort: &mut Effort) -> Picked {
        let mut picked = Picked::default();
        let mut steps = SEARCH_STEPS;
        while picked.entries < BATCH_ENTRIES
            && (picked.bytes < want.bytes || picked.entries < want.entries)
            // At least one, so that every call makes some headway.
            && (picked.entries == 0 || !effort.is_spent())
        {
            let (marks, youngest, ttl) = (&self.marks, &self.youngest_pin, self.config.read_ttl_ns);
            let is_pinned = |entry: EntryNumber| {
                marks.contains(entry)
                    && ttl.is_none_or(|ttl| {
                        youngest
                            .get(&entry)
                            .is_none_or(|since| now.saturating_sub(*since) < ttl)
                    })
            };
            let victim = self
                .policy
                .victim(&mut self.entries, &is_pinned, &mut steps);
            let Some(entry) = victim else {
                break;
            };
            effort.spend(Effort::VICTIM);
            let bytes = self.extent_bytes(entry);
            self.unpublish(entry);
            self.stats.l1_evicted_keys += 1;
            self.stats.evicted_bytes += bytes;
            picked.bytes += bytes;
            picked.entries += 1;
        }
        picked.looked_at = SEARCH_STEPS - steps;
        effort.spend(picked.looked_at * Effort::TOUCH);
        picked
    }

    fn start_scan(&mut self, now: Nanos) {
        if self.scan.is_some() {
            return;
        }
        self.wants_scan = false;
        self.youngest_pin.clear();
        self.scan = Some(ScanStage::Scanning(Scan::start(
            &self.sessions,
            self.zombies.len(),
            &mut self.marks,
            now,
        )));
    }

    /// Goes on with the scan and what follows it; true when both are over.
    fn advance_scan(&mut self, effort: &mut Effort) -> bool {
        match self.scan.take() {
            None => true,
            Some(ScanStage::Scanning(mut scan)) => {
                let youngest = self
                    .config
                    .read_ttl_ns
                    .is_some()
                    .then_some(&mut self.youngest_pin);
                if !scan.advance(&mut self.sessions, &mut self.marks, youngest, effort) {
                    self.scan = Some(ScanStage::Scanning(scan));
                    return false;
                }
                self.take_gauges(&scan);
                self.scan = Some(ScanStage::Freeing {
                    scan,
                    next: 0,
                    kept: 0,
                });
                self.advance_scan(effort)
            }
            Some(ScanStage::Freeing {
                scan,
                mut next,
                mut kept,
            }) => {
                while next < scan.zombie_count {
                    if effort.is_spent() {
                        self.scan = Some(ScanStage::Freeing { scan, next, kept });
                        return false;
                    }
                    let entry = self.zombies[next];
                    next += 1;
                    if !self.settle_zombie(entry, &scan, effort) {
                        self.zombies[kept] = entry;
                        kept += 1;
                    }
                }
                self.zombies.drain(kept..scan.zombie_count);
                true
            }
        }
    }

    /// Frees a zombie that no pin names (step D4), or voids its pins when all are too old; false when it stays.
    fn settle_zombie(&mut self, entry: EntryNumber, scan: &Scan, effort: &mut Effort) -> bool {
        let bytes = self.extent_bytes(entry);
        if !self.marks.contains(entry) {
            effort.spend(Effort::FREE);
            self.free_entry(entry);
            self.credit(bytes);
            return true;
        }
        let is_expired = self.config.read_ttl_ns.is_some_and(|ttl| {
            self.youngest_pin
                .get(&entry)
                .is_some_and(|since| scan.started.saturating_sub(*since) >= ttl)
        });
        if is_expired && self.entries.state(entry) == EntryState::Zombie {
            // First the sequence number moves, then the extent goes: a reader's check sees it.
            self.index.revoke(entry);
            self.allocator.free(entry.0);
            self.entries.set_state(entry, EntryState::Revoked, None);
            self.stats.expired_pins += 1;
            self.credit(bytes);
        }
        false
    }

    fn credit(&mut self, bytes: u64) {
        if let Some(pass) = self.pass.as_mut() {
            pass.goal.freed(bytes, 1);
            pass.has_freed = true;
        }
    }

    /// What a finished scan tells about pins, and the gate.
    fn take_gauges(&mut self, scan: &Scan) {
        let pinned: u64 = self
            .marks
            .entries()
            .iter()
            .map(|entry| self.extent_bytes(*entry))
            .sum();
        self.stats.pinned_bytes = pinned;
        self.stats.oldest_pin_ns = scan.oldest_pin_ns();
        let shut = pinned as f64 > self.config.payload_len as f64 * GATE_RATIO;
        if shut != self.stats.pin_gate_shut {
            self.stats.pin_gate_shut = shut;
            self.header
                .pin_gate()
                // Relaxed: libraries may see it late; pins taken before are honoured.
                .store(u32::from(shut), Ordering::Relaxed);
            if shut {
                log::warn!(
                    "New pins are refused: {pinned} of {} bytes are pinned, more than {GATE_RATIO} of the payload; \
                     release leases or raise --l1-size-gb.",
                    self.config.payload_len
                );
            } else {
                log::info!("New pins are accepted again: {pinned} bytes are pinned.");
            }
        }
    }

    /// Follows touches of one session, at most `most` records of its ring.
    pub(super) fn drain_recency_of(&mut self, slot: usize, most: usize) -> u32 {
        let Some(ledger) = self.sessions.get_mut(slot).and_then(Option::as_mut) else {
            return 0;
        };
        let (entries, policy) = (&mut self.entries, &mut self.policy);
        let mut touched = 0;
        let overflowed = ledger.drain_recency(most, |entry| {
            touched += 1;
            // The client may write anything: a touch of what is not there is nothing.
            if entries.contains(entry) && entries.state(entry) == EntryState::Committed {
                policy.touch(entries, entry);
            }
        });
        self.stats.recency_overflows += overflowed;
        touched
    }

    /// Drains each session's ring, as far as the effort goes; true when every session had its turn.
    fn drain_recency(&mut self, effort: &mut Effort) -> bool {
        // The check comes after a step, so that every call makes some headway.
        while self.recency_cursor < self.sessions.len() {
            let touched = self.drain_recency_of(self.recency_cursor, RECENCY_BATCH);
            effort.spend(Effort::SLOT + touched * Effort::TOUCH);
            self.recency_taken += touched;
            // One ring full at most, or a session that reads without pause would never let the round end.
            if (touched as usize) < RECENCY_BATCH || self.recency_taken >= RECENCY_RECORDS {
                self.recency_cursor += 1;
                self.recency_taken = 0;
            }
            if effort.is_spent() {
                break;
            }
        }
        let is_done = self.recency_cursor >= self.sessions.len();
        if is_done {
            self.recency_cursor = 0;
        }
        is_done
    }

    /// The drain of a tick: one slice's worth.
    pub(super) fn drain_recency_slice(&mut self) {
        let mut effort = Effort::new(self.config.slice_ns);
        self.drain_recency(&mut effort);
    }
}
