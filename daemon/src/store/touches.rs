//! Touches: what the sessions' recency rings and overflow bitmaps say was read, handed to the eviction policy.
//!
//! Drained at each tick and before victims are picked, session after session, in steps that the effort counts.

use super::entries::EntryState;
use super::ledger::DrainStep;
use super::slice::Effort;
use super::{Nanos, Store};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::lease::RECENCY_RECORDS;

/// Recency records taken from one session at a time.
const RECENCY_BATCH: usize = 1024;

/// Where the round of drains stands.
#[derive(Debug, Default)]
pub(super) struct RecencyRound {
    /// Session slot whose turn it is.
    slot: usize,
    /// Records taken from its ring.
    taken: u32,
    /// Whether its turn has begun: only then may a sweep of its bitmap begin.
    has_begun: bool,
}

impl Store {
    /// One step of one session: a piece of its bitmap, or at most `most` records of its ring.
    pub(super) fn drain_recency_of(
        &mut self,
        slot: usize,
        most: usize,
        may_sweep: bool,
        now: Nanos,
    ) -> Option<DrainStep> {
        let ledger = self.sessions.get_mut(slot)?.as_mut()?;
        let (entries, policy, ages) = (&mut self.entries, &mut self.policy, &mut self.ages);
        let (index, has_quota) = (&self.index, self.config.keyspace_quota.is_some());
        let keyspace_of = |entry| Key::from_words(index.key_words(entry)).map(|key| key.keyspace());
        let step = ledger.drain_recency(most, may_sweep, |entry| {
            // The client may write anything: a touch of what is not there is nothing.
            if entries.contains(entry) && entries.state(entry) == EntryState::Committed {
                let of = has_quota.then(|| keyspace_of(entry).ok()).flatten();
                policy.touch(entries, entry, of);
                ages.touched(entry, now);
            }
        });
        self.stats.recency_overflows = self.stats.recency_overflows.saturating_add(step.overflowed);
        self.renew_glance(slot);
        Some(step)
    }

    /// Goes on with the round, as far as the effort goes; true when every session had its turn.
    pub(super) fn drain_recency(&mut self, now: Nanos, effort: &mut Effort) -> bool {
        // The check comes after a step, so that every call makes some headway.
        while self.recency.slot < self.sessions.len() {
            let slot = self.recency.slot;
            effort.spend(Effort::SLOT);
            if !self.recency.has_begun && !self.has_touches(slot) {
                self.recency.slot += 1;
                if effort.is_spent() {
                    break;
                }
                continue;
            }
            let may_sweep = !self.recency.has_begun;
            let step = self.drain_recency_of(slot, RECENCY_BATCH, may_sweep, now);
            self.recency.has_begun = true;
            // One sweep and one ring full at most, or a session that reads without pause would never let the round end.
            let is_over = step.is_none_or(|step| {
                effort.spend(step.swept_words * Effort::ENTRY + step.touched * Effort::TOUCH);
                if step.swept_words > 0 {
                    return false;
                }
                self.recency.taken += step.touched;
                (step.touched as usize) < RECENCY_BATCH || self.recency.taken >= RECENCY_RECORDS
            });
            if is_over {
                self.recency = RecencyRound {
                    slot: self.recency.slot + 1,
                    ..RecencyRound::default()
                };
            }
            if effort.is_spent() {
                break;
            }
        }
        let is_done = self.recency.slot >= self.sessions.len();
        if is_done {
            self.recency = RecencyRound::default();
        }
        is_done
    }

    /// The last look at what a session touched, one slice's worth; what is lost leaves its objects a little colder.
    pub(super) fn drain_last_touches(&mut self, slot: usize, now: Nanos) {
        let mut effort = Effort::new(self.config.slice_ns);
        let mut may_sweep = true;
        while let Some(step) = self.drain_recency_of(slot, RECENCY_BATCH, may_sweep, now) {
            may_sweep = false;
            effort.spend(step.swept_words * Effort::ENTRY + step.touched * Effort::TOUCH);
            if effort.is_spent() || (step.swept_words == 0 && step.touched == 0) {
                break;
            }
        }
    }
}
