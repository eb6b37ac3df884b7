//! Which sessions have left something in their rings, seen without a look at their accounts.
//!
//! Ten times a second each session is asked what it has read, and most have read nothing. An account and two rings are a dozen
//! cache lines of a session, and all of them misses when the daemon has slept; what says that there is nothing new is two lines
//! of its lease segment, compared with what stands here, session behind session.
//!
//! ```text
//!   client:  claims places (head) ---> writes the records              daemon:  head == tail of the last drain? quiet
//! ```
//!
//! A head is a word of the client, which may write anything: one that says too little keeps its own records from being
//! taken before its session ends, one that says too much has its rings looked at as if something were there.

use super::Store;
use super::ledger::Ledger;
use hostkv_shm_protocol::lease::counters::{Counter, Counters};
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::recency::Recency;

/// What is known of one session's rings.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    recency: Recency,
    events: Events,
    counters: Counters,
    /// Records taken from the recency ring.
    recency_tail: u64,
    /// Touches known to have gone into the overflow bitmap.
    overflows: u64,
    /// Whether the bitmap is still to be swept.
    is_sweeping: bool,
    /// Records taken from the event ring.
    events_tail: u64,
}

impl Glance {
    fn of(ledger: &Ledger) -> Glance {
        let lease = &ledger.lease;
        let mut glance = Glance {
            recency: lease.recency,
            events: lease.events,
            counters: lease.counters,
            recency_tail: 0,
            overflows: 0,
            is_sweeping: false,
            events_tail: 0,
        };
        glance.renew(ledger);
        glance
    }

    fn renew(&mut self, ledger: &Ledger) {
        (self.recency_tail, self.overflows, self.is_sweeping) = ledger.recency_taken();
        self.events_tail = ledger.events.tail();
    }

    fn has_touches(&self) -> bool {
        self.is_sweeping
            || self.recency.has_claims(self.recency_tail)
            || self.counters.load(Counter::RecencyOverflows) != self.overflows
    }

    fn has_events(&self) -> bool {
        self.events.has_claims(self.events_tail)
    }
}

impl Store {
    /// Whether the session in this slot may have touched anything since its last drain.
    pub(super) fn has_touches(&self, slot: usize) -> bool {
        let glance = self.glances.get(slot).and_then(Option::as_ref);
        glance.is_some_and(Glance::has_touches)
    }

    /// Whether the session in this slot may have an event in its ring.
    pub(super) fn has_events(&self, slot: usize) -> bool {
        let glance = self.glances.get(slot).and_then(Option::as_ref);
        glance.is_some_and(Glance::has_events)
    }

    /// Whether any session may.
    pub(super) fn any_has_events(&self) -> bool {
        self.glances.iter().flatten().any(Glance::has_events)
    }

    /// Takes over what was taken from the rings of the session in this slot, or that there is none any more.
    pub(super) fn renew_glance(&mut self, slot: usize) {
        if self.glances.len() <= slot {
            self.glances.resize(slot + 1, None);
        }
        match (&self.sessions[slot], &mut self.glances[slot]) {
            (Some(ledger), Some(glance)) => glance.renew(ledger),
            (ledger, glance) => *glance = ledger.as_ref().map(Glance::of),
        }
    }
}
