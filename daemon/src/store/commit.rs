//! Commit and abort: the two ends of a reservation.

use super::commits::{Item, WaitingCommit};
use super::entries::EntryState;
use super::ledger::Reservation;
use super::parked::{Outcome, Resumed, ResumedAnswer, Ticket};
use super::slice::Effort;
use super::{Nanos, Refusal, SECOND, Store};
use crate::config::Integrity;
use hostkv_shm_protocol::control::entry::next_published;
use hostkv_shm_protocol::id::{EntryNumber, OpId, SessionId};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sum::Sum;
use hostkv_shm_protocol::wire::reply::CommittedItem;
use hostkv_shm_protocol::wire::request::{Held, HeldItem};
use nix::errno::Errno;
use std::fmt;

impl Store {
    /// Makes entries of a reservation readable, the last first, so that a later prefix reader finds a run and the
    /// tail of the request is colder than its head. Parked when their bytes must be copied or summed first.
    ///
    /// When the reservation has outlived the write time to live, every item says EXPIRED, nothing is committed, and
    /// the extents of these items are given back: the writer has said that it writes them no more.
    pub fn commit(
        &mut self,
        id: SessionId,
        held: &Held,
        now: Nanos,
    ) -> Result<Outcome<Vec<CommittedItem>>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "commit")?;
        self.count_request_of(held.items.len(), Effort::COMMIT);
        let mut answers = vec![committed(Status::NotFound, 0); held.items.len()];
        let Some(mut reservation) = self.take_reservation(slot, held) else {
            return Ok(Outcome::Done(answers));
        };
        if !reservation.is_expired && self.is_too_old(&reservation, now) {
            reservation.is_expired = true;
            self.quarantine(slot, &reservation.entries);
        }
        if reservation.is_expired {
            for (i, item) in held.items.iter().enumerate() {
                if self.is_held(slot, &reservation, i, item) {
                    self.give_back_held(slot, item.entry);
                }
            }
            self.put_reservation_back(id, held.op_id, reservation, now);
            answers.fill(committed(Status::Expired, 0));
            return Ok(Outcome::Done(answers));
        }
        let mut items = Vec::with_capacity(held.items.len());
        let mut bytes = 0;
        for (at, item) in held.items.iter().enumerate().rev() {
            if !belongs(&reservation, at, item) {
                continue;
            }
            if self.is_owned(slot, item, EntryState::Quarantine) {
                // Another commit of the key came first, and this one has nothing to add.
                self.give_back_held(slot, item.entry);
                answers[at] = committed(Status::Exists, 0);
            } else if self.is_reserved(slot, item) {
                let entry = item.entry;
                self.entries.set_state(entry, EntryState::Committing, None);
                bytes += self.extent_bytes(entry);
                items.push(Item {
                    entry,
                    at,
                    sum: None,
                    has_failed: false,
                });
            }
        }
        if items.is_empty() {
            self.put_reservation_back(id, held.op_id, reservation, now);
            return Ok(Outcome::Done(answers));
        }
        reservation.committing += items.len() as u32;
        let mut commit = WaitingCommit {
            ticket: Ticket::NONE,
            session: id,
            op_id: Some(held.op_id),
            answers,
            undone: items.len(),
            items,
            bytes,
            left_behind: None,
            next: None,
        };
        let is_summed_first = self.config.integrity == Integrity::Full;
        if !is_summed_first && !self.has_staging(slot) {
            let of = Some((held.op_id, reservation));
            return Ok(Outcome::Done(self.finish_commit(commit, of, now)));
        }
        self.put_reservation_back(id, held.op_id, reservation, now);
        self.last_ticket += 1;
        commit.ticket = Ticket(self.last_ticket);
        let ticket = commit.ticket;
        if !self.copy_staged(slot, &commit) {
            self.sum_items(&commit);
        }
        self.commits.add(commit);
        Ok(Outcome::Parked(ticket))
    }

    /// Takes the sums of some items of a waiting commit; its answer, when they were the last and somebody waits for it.
    pub(super) fn commit_summed(
        &mut self,
        ticket: Ticket,
        first: usize,
        sums: &[Sum],
        now: Nanos,
    ) -> Option<Resumed> {
        let commit = self.commits.get_mut(ticket)?;
        for (item, sum) in commit.items[first..].iter_mut().zip(sums) {
            item.sum = Some(*sum);
        }
        commit.undone -= sums.len();
        self.finish_if_done(ticket, now)
    }

    /// The copy of one item of a waiting commit is over, with its sum where it has one, or has failed; the commit's answer,
    /// when it was the last and somebody waits for it.
    pub(super) fn commit_copied(
        &mut self,
        ticket: Ticket,
        item: usize,
        copied: Result<Option<Sum>, Errno>,
        now: Nanos,
    ) -> Option<Resumed> {
        let commit = self.commits.get_mut(ticket)?;
        commit.items[item].has_failed = copied.is_err();
        commit.items[item].sum = copied.ok().flatten();
        commit.undone -= 1;
        self.finish_if_done(ticket, now)
    }

    /// Finishes a commit that no worker has any more.
    fn finish_if_done(&mut self, ticket: Ticket, now: Nanos) -> Option<Resumed> {
        if self.commits.get_mut(ticket)?.undone > 0 {
            return None;
        }
        let mut commit = self.commits.take(ticket)?;
        let session = commit.session;
        let next = commit.next.take();
        let is_granted = commit.op_id.is_none();
        let of = self.take_committing(&mut commit);
        self.count_request_of(commit.items.len(), Effort::COMMIT);
        let answers = self.finish_commit(commit, of, now);
        if !self.session_slots.contains_key(&session) {
            return None;
        }
        match next {
            Some(reserve) => self.resume_pair(session, ticket, answers, reserve, now),
            None => Some(Resumed {
                session,
                ticket,
                answer: match is_granted {
                    true => ResumedAnswer::GrantedCommitted(answers),
                    false => ResumedAnswer::Committed(answers),
                },
            }),
        }
    }

    /// Publishes what a commit names and takes it off its session's account, if that still lives, and out of the reservation
    /// that it is of, if it is of one.
    fn finish_commit(
        &mut self,
        commit: WaitingCommit,
        of: Option<(OpId, Reservation)>,
        now: Nanos,
    ) -> Vec<CommittedItem> {
        let mut answers = commit.answers;
        let mut stored: u32 = 0;
        for item in &commit.items {
            if item.has_failed {
                self.free_uncopied(item.entry);
                answers[item.at] = committed(Status::System, 0);
                continue;
            }
            let generation = self.publish_object(item.entry, item.sum, now);
            self.store_behind(item.entry, generation);
            answers[item.at] = committed(Status::Ok, generation);
            stored += 1;
        }
        self.reserved_bytes -= commit.bytes;
        let count = commit.items.len() as u32;
        if let Some((slot, ledger)) = self.session_mut(commit.session) {
            ledger.reserved_bytes -= commit.bytes;
            ledger.write_keys += u64::from(stored);
            if self.has_staging(slot) {
                for item in &commit.items {
                    self.unstage(slot, item.entry);
                }
            }
        }
        self.stats.l1_write_keys += u64::from(stored);
        if let Some((op_id, mut reservation)) = of {
            reservation.stored += stored;
            reservation.committing -= count;
            if stored > 0 {
                let tokens_per_key = self.names.tokens_per_key(reservation.keyspace);
                self.stored_lines.push(StoredLine {
                    tokens: u64::from(stored) * u64::from(tokens_per_key),
                    took: now.saturating_sub(reservation.reserved_at),
                });
            }
            self.put_reservation_back(commit.session, op_id, reservation, now);
        }
        answers
    }

    /// Writes the log lines of the stores that have ended since the last call. A line takes a third of the instructions of a
    /// store of one key: the loop calls this when the reply is on its way.
    pub fn write_stored_lines(&mut self) {
        for line in self.stored_lines.drain(..) {
            log::info!(
                "Stored {} tokens in {} seconds",
                line.tokens,
                Seconds(line.took)
            );
        }
    }

    /// Makes an entry's bytes readable; its sequence number.
    pub(super) fn publish_object(
        &mut self,
        entry: EntryNumber,
        sum: Option<Sum>,
        now: Nanos,
    ) -> u64 {
        self.index.set_sum(entry, sum);
        let generation = self.index.publish(entry);
        if sum.is_none() {
            self.guard_fresh(entry, generation);
        }
        self.entries.commit(entry, now / SECOND);
        let of = self.quota_keyspace(entry);
        self.policy.insert(&mut self.entries, entry, of);
        if let Some(key) = self.key_of(entry) {
            let hash = self.index.hash(&key);
            self.ages.committed(entry, hash, now);
        }
        generation
    }

    /// The reservation that a commit is of: its session has it, or it was left behind with the newest commit of it.
    fn take_committing(&mut self, commit: &mut WaitingCommit) -> Option<(OpId, Reservation)> {
        let op_id = commit.op_id?;
        if let Some(reservation) = commit.left_behind.take() {
            return Some((op_id, reservation));
        }
        let reservation = match self.session_mut(commit.session) {
            Some((_, ledger)) => ledger.reservations.remove(&op_id),
            None => self
                .commits
                .last_of(commit.session, op_id)?
                .left_behind
                .take(),
        };
        Some((op_id, reservation?))
    }

    /// Gives entries of a reservation back.
    pub fn abort(
        &mut self,
        id: SessionId,
        held: &Held,
        now: Nanos,
    ) -> Result<Vec<Status>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "abort")?;
        self.count_request_of(held.items.len(), Effort::GIVE_BACK);
        let Some(reservation) = self.take_reservation(slot, held) else {
            return Ok(vec![Status::NotFound; held.items.len()]);
        };
        let mut answers = Vec::with_capacity(held.items.len());
        for (i, item) in held.items.iter().enumerate() {
            answers.push(if self.is_held(slot, &reservation, i, item) {
                self.give_back_held(slot, item.entry);
                Status::Ok
            } else {
                Status::NotFound
            });
        }
        self.put_reservation_back(id, held.op_id, reservation, now);
        Ok(answers)
    }

    /// Whether this session holds the entry reserved under this generation.
    fn is_reserved(&self, slot: usize, item: &HeldItem) -> bool {
        self.is_owned(slot, item, EntryState::Reserved)
            && next_published(self.index.seq(item.entry)) == item.generation
    }

    /// Whether this session holds the entry, expired or not, and may give it back.
    fn is_held(&self, slot: usize, reservation: &Reservation, i: usize, item: &HeldItem) -> bool {
        belongs(reservation, i, item)
            && (self.is_reserved(slot, item) || self.is_owned(slot, item, EntryState::Quarantine))
    }

    fn is_owned(&self, slot: usize, item: &HeldItem, state: EntryState) -> bool {
        self.entries.contains(item.entry)
            && self.entries.state(item.entry) == state
            && self.entries.owner(item.entry) == Some(slot as u32)
    }

    fn take_reservation(&mut self, slot: usize, held: &Held) -> Option<Reservation> {
        self.sessions[slot]
            .as_mut()?
            .reservations
            .remove(&held.op_id)
    }

    /// Keeps what of a reservation was neither committed nor given back. Of a session that has ended only commits are
    /// left, and the newest of them keeps it.
    pub(super) fn put_reservation_back(
        &mut self,
        id: SessionId,
        op_id: OpId,
        mut reservation: Reservation,
        now: Nanos,
    ) {
        let entries = &self.entries;
        let slot = self.session_slots.get(&id).copied();
        reservation.entries.retain(|entry| {
            matches!(
                entries.state(*entry),
                EntryState::Reserved | EntryState::Quarantine
            ) && entries.owner(*entry) == slot.map(|slot| slot as u32)
        });
        if reservation.entries.is_empty() && reservation.committing == 0 {
            self.note_stored(&mut reservation, now);
        } else if let Some((_, ledger)) = self.session_mut(id) {
            ledger.reservations.insert(op_id, reservation);
        } else if let Some(commit) = self.commits.last_of(id, op_id) {
            commit.left_behind = Some(reservation);
        }
    }

    /// Gives an entry back whose bytes could not be copied, or loaded.
    pub(super) fn free_uncopied(&mut self, entry: EntryNumber) {
        if let Some(key) = self.key_of(entry) {
            self.index.unlink(entry, self.index.hash(&key));
        }
        self.index.revoke(entry);
        self.free_entry(entry);
    }

    fn give_back_held(&mut self, slot: usize, entry: EntryNumber) {
        self.unstage(slot, entry);
        let bytes = self.free_held(entry);
        self.pay_back(slot, bytes);
    }

    fn pay_back(&mut self, slot: usize, bytes: u64) {
        self.reserved_bytes -= bytes;
        if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.reserved_bytes -= bytes;
        }
    }
}

/// What the log is to say of a store.
#[derive(Debug)]
pub(super) struct StoredLine {
    tokens: u64,
    /// From reserve to commit.
    took: Nanos,
}

/// Nanoseconds as seconds with three decimals. One such line comes with each store, and a float would be a third of its cost.
struct Seconds(Nanos);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = (self.0 + SECOND / 2000) / (SECOND / 1000);
        write!(f, "{}.{:03}", ms / 1000, ms % 1000)
    }
}

fn committed(status: Status, generation: u64) -> CommittedItem {
    CommittedItem { status, generation }
}

/// Whether the entry is one of the reservation's; `position` is where it stands when all are named in order.
fn belongs(reservation: &Reservation, position: usize, item: &HeldItem) -> bool {
    reservation.entries.get(position) == Some(&item.entry)
        || reservation.entries.contains(&item.entry)
}
