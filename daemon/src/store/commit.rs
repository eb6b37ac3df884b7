//! Commit and abort: the two ends of a reservation.

use super::entries::EntryState;
use super::ledger::Reservation;
use super::{Nanos, Refusal, SECOND, Store};
use hostkv_shm_protocol::control::entry::next_published;
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::CommittedItem;
use hostkv_shm_protocol::wire::request::{Held, HeldItem};

impl Store {
    /// Makes entries of a reservation readable, the last first, so that a later prefix reader finds a run and the
    /// tail of the request is colder than its head.
    ///
    /// When the reservation has outlived the write time to live, every item says EXPIRED, nothing is committed, and
    /// the extents of these items are given back: the writer has said that it writes them no more.
    pub fn commit(
        &mut self,
        id: SessionId,
        held: &Held,
        now: Nanos,
    ) -> Result<Vec<CommittedItem>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "commit")?;
        let Some(mut reservation) = self.take_reservation(slot, held) else {
            return Ok(vec![committed(Status::NotFound, 0); held.items.len()]);
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
            self.put_reservation_back(slot, held, reservation, now);
            return Ok(vec![committed(Status::Expired, 0); held.items.len()]);
        }
        let mut answers = vec![committed(Status::NotFound, 0); held.items.len()];
        let mut stored = 0;
        for (i, (item, answer)) in held.items.iter().zip(&mut answers).enumerate().rev() {
            if !self.is_reserved(slot, item) || !belongs(&reservation, i, item) {
                continue;
            }
            let bytes = self.extent_bytes(item.entry);
            let generation = self.index.publish(item.entry);
            self.entries.commit(item.entry, now / SECOND);
            let of = self.quota_keyspace(item.entry);
            self.policy.insert(&mut self.entries, item.entry, of);
            if let Some(key) = self.key_of(item.entry) {
                let hash = self.index.hash(&key);
                self.ages.committed(item.entry, hash, now);
            }
            self.pay_back(slot, bytes);
            stored += 1;
            *answer = committed(Status::Ok, generation);
        }
        self.stats.l1_write_keys += stored;
        if let Some((_, ledger)) = self.session_mut(id) {
            ledger.write_keys += stored;
        }
        reservation.stored += stored as u32;
        if stored > 0 {
            log::info!(
                "Stored {} tokens in {:.3} seconds",
                stored * u64::from(self.names.tokens_per_key(reservation.keyspace)),
                now.saturating_sub(reservation.reserved_at) as f64 / SECOND as f64
            );
        }
        self.put_reservation_back(slot, held, reservation, now);
        Ok(answers)
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
        self.put_reservation_back(slot, held, reservation, now);
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

    /// Keeps what of a reservation was neither committed nor given back.
    fn put_reservation_back(
        &mut self,
        slot: usize,
        held: &Held,
        mut reservation: Reservation,
        now: Nanos,
    ) {
        let entries = &self.entries;
        reservation.entries.retain(|entry| {
            matches!(
                entries.state(*entry),
                EntryState::Reserved | EntryState::Quarantine
            ) && entries.owner(*entry) == Some(slot as u32)
        });
        if reservation.entries.is_empty() {
            self.note_stored(&mut reservation, now);
        } else if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.reservations.insert(held.op_id, reservation);
        }
    }

    fn give_back_held(&mut self, slot: usize, entry: EntryNumber) {
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

fn committed(status: Status, generation: u64) -> CommittedItem {
    CommittedItem { status, generation }
}

/// Whether the entry is one of the reservation's; `position` is where it stands when all are named in order.
fn belongs(reservation: &Reservation, position: usize, item: &HeldItem) -> bool {
    reservation.entries.get(position) == Some(&item.entry)
        || reservation.entries.contains(&item.entry)
}
