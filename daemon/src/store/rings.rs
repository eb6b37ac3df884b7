//! The commit rings as the daemon serves them: in every turn of the loop, before each request of their session, and once more
//! at the session's end.
//!
//! ```text
//!   record --copied out--> checked, linked, published --outcome--> the record --> tail
//!                                   \--integrity full--> Committing, summed by workers, then published
//!   FLUSH(position) --> waits until the tail is there and what was taken up by then is readable
//! ```
//!
//! A record is data of a client. A bad one has the outcome INVALID_ARGUMENT and hurts nobody.

use super::parked::{Outcome, Resumed, ResumedAnswer, Ticket};
use super::slice::Effort;
use super::{Nanos, Refusal, Store};
use crate::config::Integrity;
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use hostkv_shm_protocol::lease::commits::{Commits, TakenCommit};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::CommittedItem;

/// A FLUSH that is not answered yet.
#[derive(Debug)]
struct Flush {
    ticket: Ticket,
    session: SessionId,
    position: u64,
    /// Once the ring is drained so far: the newest commit that must be over.
    last_commit: Option<Ticket>,
}

/// Which sessions have rings, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Rings {
    slots: Vec<usize>,
    /// Which of them is served first in the next turn.
    next: usize,
    flushes: Vec<Flush>,
}

impl Rings {
    /// A session with a ring has been opened.
    pub(super) fn add(&mut self, slot: usize) {
        self.slots.push(slot);
    }

    /// The session in this slot has ended.
    pub(super) fn remove(&mut self, slot: usize) {
        self.slots.retain(|other| *other != slot);
    }

    /// Forgets the flushes of a session that will read no reply.
    pub(super) fn drop_flushes(&mut self, id: SessionId) {
        self.flushes.retain(|flush| flush.session != id);
    }
}

impl Store {
    /// Whether any session has a commit ring, so that the loop must say when it sleeps.
    pub fn has_rings(&self) -> bool {
        !self.rings.slots.is_empty()
    }

    /// Whether this session has one.
    pub fn has_ring(&self, id: SessionId) -> bool {
        let slot = self.session_slots.get(&id).copied();
        slot.is_some_and(|slot| self.ring(slot).is_some())
    }

    /// Whether a record waits in a ring.
    pub fn have_rings_work(&self) -> bool {
        self.rings.slots.iter().any(|slot| {
            self.sessions[*slot].as_ref().is_some_and(|ledger| {
                let commits = ledger.lease.commits.as_ref();
                commits.is_some_and(|commits| commits.is_whole(ledger.commit_tail))
            })
        })
    }

    /// Carries out what lies in the rings, at most a slice of work; the flushes that are over by it.
    pub fn drain_rings(&mut self, now: Nanos) -> Vec<Resumed> {
        let mut effort = Effort::new(self.config.slice_ns);
        let count = self.rings.slots.len();
        for _ in 0..count {
            if effort.is_spent() {
                break;
            }
            let at = self.rings.next % count;
            self.rings.next = at + 1;
            self.drain_ring(self.rings.slots[at], &mut effort, now);
        }
        self.count_request(&effort);
        self.end_flushes()
    }

    /// Carries out what a session has finished in its ring before its next request: a request never overtakes a commit.
    pub fn drain_ring_of(&mut self, id: SessionId, now: Nanos) {
        if let Some(slot) = self.session_slots.get(&id).copied()
            && self.ring(slot).is_some()
        {
            let mut effort = Effort::whole();
            self.drain_ring(slot, &mut effort, now);
            self.count_request(&effort);
        }
    }

    /// Waits until the ring of a session is drained up to a position and everything taken up by then is readable.
    pub fn flush(&mut self, id: SessionId, position: u64) -> Result<Outcome<()>, Refusal> {
        let slot = self.slot_of(id)?;
        // Without a ring every commit was answered when it was carried out.
        let (Some(commits), Some(ledger)) = (self.ring(slot), self.sessions[slot].as_ref()) else {
            return Ok(Outcome::Done(()));
        };
        let most = ledger.commit_tail.saturating_add(commits.capacity());
        if position > most {
            return Err(Refusal {
                status: Status::InvalidArgument,
                text: format!(
                    "a flush up to position {position} is asked, and the commit ring ends at {most}; \
                     report this defect of libhostkv"
                ),
            });
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.rings.flushes.push(Flush {
            ticket,
            session: id,
            position,
            last_commit: None,
        });
        let last = self.rings.flushes.len() - 1;
        if self.is_flushed(last) {
            self.rings.flushes.pop();
            return Ok(Outcome::Done(()));
        }
        Ok(Outcome::Parked(ticket))
    }

    fn end_flushes(&mut self) -> Vec<Resumed> {
        let mut done = Vec::new();
        let mut at = 0;
        while at < self.rings.flushes.len() {
            if self.is_flushed(at) {
                let flush = self.rings.flushes.remove(at);
                done.push(Resumed {
                    session: flush.session,
                    ticket: flush.ticket,
                    answer: ResumedAnswer::Flushed,
                });
            } else {
                at += 1;
            }
        }
        done
    }

    /// Whether a flush is over; once the ring is drained so far it waits for what was taken up by then, whoever's it is: the
    /// key may be in another session's commit.
    fn is_flushed(&mut self, at: usize) -> bool {
        let flush = &self.rings.flushes[at];
        let slot = self.session_slots.get(&flush.session).copied();
        let tail = slot
            .filter(|slot| self.ring(*slot).is_some())
            .and_then(|slot| self.sessions[slot].as_ref())
            .map_or(u64::MAX, |ledger| ledger.commit_tail);
        if tail < flush.position {
            return false;
        }
        let newest = Ticket(self.last_ticket);
        let bound = *self.rings.flushes[at].last_commit.get_or_insert(newest);
        self.commits
            .oldest()
            .is_none_or(|oldest| oldest.0 > bound.0)
    }

    /// The last look into a session's ring, before its account is taken: also behind records that were never finished.
    pub(super) fn drain_last_commits(&mut self, slot: usize, now: Nanos) {
        let Some(commits) = self.ring(slot) else {
            return;
        };
        let mut waiting = Vec::new();
        for _ in 0..commits.capacity() {
            self.take_commit(slot, &commits, &mut waiting, now);
            self.pass_commit(slot);
        }
        self.sum_from_ring(slot, waiting);
    }

    fn ring(&self, slot: usize) -> Option<Commits> {
        self.sessions[slot].as_ref()?.lease.commits
    }

    fn drain_ring(&mut self, slot: usize, effort: &mut Effort, now: Nanos) {
        let Some(commits) = self.ring(slot) else {
            return;
        };
        let mut waiting = Vec::new();
        let mut has_taken = false;
        // One ring full at most, or a session that commits without pause would never let the drain end.
        for _ in 0..commits.capacity() {
            if effort.is_spent() || !self.take_commit(slot, &commits, &mut waiting, now) {
                break;
            }
            effort.spend(Effort::GRANT + Effort::COMMIT);
            self.pass_commit(slot);
            has_taken = true;
        }
        if has_taken {
            if let Some(ledger) = self.sessions[slot].as_ref() {
                commits.release(ledger.commit_tail);
            }
            self.sum_from_ring(slot, waiting);
        }
    }

    /// Carries out the record at a session's position; false when none is finished there. What must be summed first goes into
    /// `waiting`.
    fn take_commit(
        &mut self,
        slot: usize,
        commits: &Commits,
        waiting: &mut Vec<EntryNumber>,
        now: Nanos,
    ) -> bool {
        let Some(position) = self.sessions[slot].as_ref().map(|l| l.commit_tail) else {
            return false;
        };
        let Some(taken) = commits.take(position) else {
            return false;
        };
        let TakenCommit {
            entry,
            len_bytes,
            key,
        } = &taken;
        let outcome = self.link_granted(slot, *entry, *len_bytes, key);
        if outcome == Status::Ok {
            if self.config.integrity == Integrity::Full {
                waiting.push(*entry);
            } else {
                self.publish_granted(slot, *entry, now);
            }
        }
        commits.answer(position, &taken, outcome);
        true
    }

    fn pass_commit(&mut self, slot: usize) {
        if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.commit_tail += 1;
        }
    }

    /// Has entries out of a ring summed, whose outcomes have been told.
    fn sum_from_ring(&mut self, slot: usize, waiting: Vec<EntryNumber>) {
        let told = CommittedItem {
            status: Status::Ok,
            generation: 0,
        };
        let answers = vec![told; waiting.len()];
        let items = waiting.into_iter().zip(0..).collect();
        // Nobody waits for the answers.
        let _ = self.sum_granted(slot, items, answers);
    }
}
