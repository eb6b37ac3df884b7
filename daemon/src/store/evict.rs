//! The eviction controller above the watermark, and the order of everything that runs in slices.
//!
//! ```text
//!   slice:  scan going on? --> go on, then free what no pin names, then serve the oldest parked reserve (scan.rs)
//!           reserve parked? -> advance it; make room: scan, or pick victims and scan (room.rs)
//!           unpublished?   --> scan
//!           events due?    --> drain the sessions' event rings
//!           sweep?         --> go on
//!           above the watermark? --> pick victims until the pass has its goal
//! ```
//!
//! Parked reserves and what stands below them take turns, so that neither waits for the other for ever. Victims are
//! picked in batches, unpublished, and freed by one scan for the whole batch.

use super::ages::Leaving;
use super::entries::EntryState;
use super::reserve::HASHED_AT_ONCE;
use super::slice::Effort;
use super::watermark::Goal;
use super::{Nanos, Resumed, SECOND, Store};
use crate::config::EvictionPolicy;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};

/// Most victims of one batch.
pub(super) const BATCH_ENTRIES: u32 = 256;
/// Victims that a batch has, if there are so many, however little of the slice is left: each batch costs a scan.
const LEAST_BATCH_ENTRIES: u32 = 64;
/// Entries that the search for victims may pass over in one slice.
pub(super) const SEARCH_STEPS: u32 = 1024;

/// A pass of the controller above the watermark.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) goal: Goal,
    pub(super) has_freed: bool,
    has_drained: bool,
    looked_at: u32,
}

/// What a batch is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) bytes: u64,
    pub(super) entries: u32,
    /// Whose objects may go; everybody's if none is named.
    pub(super) of: Option<KeyspaceId>,
    /// Whether nobody waits for the space, so that what no tier holds yet may be stored first.
    pub(super) has_time: bool,
}

/// Result of picking victims.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Picked {
    pub(super) bytes: u64,
    pub(super) entries: u32,
    pub(super) looked_at: u32,
    /// Of those, the ones that stay until a tier has read them: as good as freed.
    leaving_bytes: u64,
    leaving_entries: u32,
}

impl Store {
    /// Whether a slice would do something now.
    pub fn has_work(&self) -> bool {
        self.scan.is_some()
            || self.wants_scan
            || self.l2.has_answers()
            || self.may_serve_parked()
            || self.has_background_work()
    }

    /// Whether ended sessions or expired reservations hold what they are to give back.
    fn has_endings(&self) -> bool {
        !self.endings.is_empty() || self.wants_expiry
    }

    /// Whether something is to be done for which no reserve waits.
    fn has_background_work(&self) -> bool {
        self.has_endings()
            || self.events.is_due()
            || !self.sweeps.is_empty()
            || self.pass.is_some()
            || self.wants_pass().is_some()
    }

    /// Whether something can be done for a parked reserve now.
    fn may_serve_parked(&self) -> bool {
        !self.parked.is_empty() && !self.is_waiting_for_zeros && !self.is_waiting_for_stores()
    }

    /// Whether it is a parked reserve's turn.
    fn takes_parked(&mut self) -> bool {
        if !self.may_serve_parked() || !self.has_background_work() {
            return self.may_serve_parked();
        }
        self.is_parked_turn = !self.is_parked_turn;
        self.is_parked_turn
    }

    /// A turn of the loop begins, and no request has taken anything of it yet.
    pub fn begin_turn(&mut self) {
        self.requests_ns = 0;
    }

    /// Estimated nanoseconds that requests have taken of this turn so far.
    pub fn requests_ns(&self) -> u64 {
        self.requests_ns
    }

    /// Whether one client's requests have taken their part of a turn, `since_ns` at their beginning.
    pub fn has_had_its_part(&self, since_ns: u64) -> bool {
        self.requests_ns.saturating_sub(since_ns) >= u64::from(self.config.slice_ns)
    }

    /// Counts what a request has done, which is carried out whole.
    pub(super) fn count_request(&mut self, effort: &Effort) {
        self.requests_ns += effort.spent_ns();
    }

    /// The same of a request that does one thing for each of its keys.
    pub(super) fn count_request_of(&mut self, keys: usize, estimated_ns: u32) {
        let mut effort = Effort::whole();
        effort.spend(Effort::REQUEST);
        effort.spend_each(keys, estimated_ns);
        self.count_request(&effort);
    }

    /// One bounded piece of work, the turn's last; the parked requests that it finished.
    pub fn slice(&mut self, now: Nanos) -> Vec<Resumed> {
        let requests_ns = std::mem::take(&mut self.requests_ns);
        let mut effort = Effort::behind(self.config.slice_ns, requests_ns);
        let mut done = self.l2.take_answers();
        while !effort.is_spent() {
            if self.scan.is_some() {
                if !self.advance_scan(&mut effort) {
                    break;
                }
                // Even when the slice is over: what was freed goes to the oldest parked request, as much of a batch as that
                // takes, and not to one that comes in the next turn.
                let mut extra = Effort::least(self.config.slice_ns);
                self.advance_parked(now, &mut done, &mut extra);
                effort.add(&extra);
            } else if self.takes_parked() {
                self.serve_parked(now, &mut effort, &mut done);
            } else if self.wants_scan {
                self.start_scan(now);
            } else if !self.endings.is_empty() {
                self.advance_endings(&mut effort, now);
            } else if self.wants_expiry {
                self.expire_reservations(&mut effort, now);
            } else if self.events.is_due() {
                self.drain_events_slice(&mut effort);
            } else if !self.sweeps.is_empty() {
                done.extend(self.advance_sweep(now, &mut effort));
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
        // What is being zeroed is as good as free.
        let mut usage = self.usage();
        usage.used_bytes -= self.jobs.zeroing_bytes;
        usage.used_entries -= self.entries.count(EntryState::Dirty);
        // So is what tiers read last.
        usage.used_bytes -= self.l2.leaving_bytes();
        usage.used_entries -= self.l2.leaving_count();
        self.watermark.goal(&usage)
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
            pass.has_drained = self.drain_recency(now, effort);
            self.pass = Some(pass);
            return;
        }
        if pass.goal.is_met() {
            return;
        }
        let want = Want {
            bytes: pass.goal.bytes,
            entries: pass.goal.entries,
            of: None,
            has_time: true,
        };
        let picked = self.pick_victims(want, now, effort);
        pass.looked_at += picked.looked_at;
        pass.goal
            .freed(picked.leaving_bytes, picked.leaving_entries);
        pass.has_freed |= picked.leaving_entries > 0;
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
        if !pass.has_freed {
            self.count_pass_without_victims(now);
        }
    }

    /// Counts a pass that found nothing to free, and says so once a minute.
    pub(super) fn count_pass_without_victims(&mut self, now: Nanos) {
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

    /// Unpublishes the coldest unpinned entries until the want is met, a batch is full, or it has its least size and the effort is spent.
    pub(super) fn pick_victims(&mut self, want: Want, now: Nanos, effort: &mut Effort) -> Picked {
        let mut picked = Picked::default();
        let mut steps = SEARCH_STEPS;
        loop {
            let victims = self.choose_victims(&want, now, &mut picked, &mut steps, effort);
            self.evict(&victims, &want, now, &mut picked);
            if victims.len() < HASHED_AT_ONCE {
                break;
            }
        }
        picked.looked_at = SEARCH_STEPS - steps;
        effort.spend(picked.looked_at * Effort::TOUCH);
        picked
    }

    /// The next victims of a batch, which the policy has given up; fewer than are hashed at once when it is done.
    fn choose_victims(
        &mut self,
        want: &Want,
        now: Nanos,
        picked: &mut Picked,
        steps: &mut u32,
        effort: &mut Effort,
    ) -> Vec<EntryNumber> {
        let mut victims = Vec::with_capacity(HASHED_AT_ONCE);
        while victims.len() < HASHED_AT_ONCE
            && picked.entries < BATCH_ENTRIES
            && (picked.bytes < want.bytes || picked.entries < want.entries)
            && (picked.entries < LEAST_BATCH_ENTRIES || !effort.is_spent())
        {
            let (marks, ttl) = (&self.marks, self.config.read_ttl_ns);
            let l2 = &self.l2;
            let is_pinned = |entry: EntryNumber| {
                marks.contains(entry) && !marks.is_expired(entry, ttl, now)
                    || l2.is_kept(entry)
                    || !want.has_time && l2.is_read(entry)
            };
            let victim = self
                .policy
                .victim(&mut self.entries, want.of, &is_pinned, steps);
            let Some(entry) = victim else {
                break;
            };
            effort.spend(Effort::VICTIM);
            if let Some(follower) = self.policy.follower(&self.entries, entry) {
                self.entries.prefetch(follower);
                self.index.prefetch_entry(follower);
                self.allocator.prefetch(follower.0);
            }
            let of = self.quota_keyspace(entry);
            self.policy.remove(&mut self.entries, entry, of);
            picked.bytes += self.extent_bytes(entry);
            picked.entries += 1;
            victims.push(entry);
        }
        victims
    }

    /// Unpublishes entries that the policy has given up.
    fn evict(&mut self, victims: &[EntryNumber], want: &Want, now: Nanos, picked: &mut Picked) {
        let mut hashes = [None; HASHED_AT_ONCE];
        for (hash, entry) in hashes.iter_mut().zip(victims) {
            *hash = self.key_of(*entry).map(|key| self.index.hash(&key));
            if let Some(hash) = *hash {
                self.index.prefetch_bucket(hash);
            }
        }
        for (entry, hash) in victims.iter().copied().zip(hashes) {
            let bytes = self.extent_bytes(entry);
            self.store_evicted(entry, want.has_time);
            self.withdraw(entry, hash, Leaving::Evicted, now);
            if self.credit_leaving(entry) {
                picked.leaving_bytes += bytes;
                picked.leaving_entries += 1;
            }
            self.stats.l1_evicted_keys += 1;
            self.stats.quota_evicted_keys += u64::from(want.of.is_some());
            self.stats.evicted_bytes += bytes;
        }
    }
}
