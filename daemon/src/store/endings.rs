//! What ends by itself and may be much: the reservations of a session that has ended, and those that outlived the write
//! time to live.
//!
//! Both go reservation by reservation, the first slice at once and the rest in slices of the loop, so that no request waits
//! for all of it. Until its turn a reservation holds what it held: the bytes stay booked, and the keys reserved.
//!
//! ```text
//!   close_session --> Ending --first slice--> ... --slice--> extents free, END of the store event told
//!   tick ----------> first slice of the expired ... --slice--> keys free, bytes in quarantine
//! ```

use super::ledger::Reservation;
use super::slice::Effort;
use super::{Nanos, Store};
use hostkv_shm_protocol::id::{OpId, SessionId};

/// A session that has ended and whose reservations are not all given back.
pub(super) struct Ending {
    session: SessionId,
    reservations: Vec<(OpId, Reservation)>,
    /// What they still hold.
    bytes: u64,
}

impl Store {
    /// Gives back what an ended session had reserved, `bytes` of which are booked.
    pub(super) fn end_reservations(
        &mut self,
        session: SessionId,
        reservations: impl Iterator<Item = (OpId, Reservation)>,
        bytes: u64,
        now: Nanos,
    ) {
        // What a commit of it waits for must find the rest of its reservation with that commit.
        let (committing, others): (Vec<_>, Vec<_>) =
            reservations.partition(|(_, reservation)| reservation.committing > 0);
        let mut ending = Ending {
            session,
            reservations: others,
            bytes,
        };
        for (op_id, reservation) in committing {
            self.end_reservation(&mut ending, op_id, reservation, now);
        }
        self.endings.push_back(ending);
        let mut effort = Effort::new(self.config.slice_ns);
        self.advance_endings(&mut effort, now);
        self.count_request(&effort);
    }

    /// Goes on with the oldest ending, at most to the end of the slice.
    pub(super) fn advance_endings(&mut self, effort: &mut Effort, now: Nanos) {
        while !effort.is_spent() {
            let Some(mut ending) = self.endings.pop_front() else {
                return;
            };
            if let Some((op_id, reservation)) = ending.reservations.pop() {
                effort.spend(Effort::GIVE_BACK.saturating_mul(reservation.entries.len() as u32));
                self.end_reservation(&mut ending, op_id, reservation, now);
                self.pass_is_blocked = false;
            }
            if ending.reservations.is_empty() {
                debug_assert_eq!(ending.bytes, 0, "all that was booked is given back");
            } else {
                self.endings.push_front(ending);
            }
        }
    }

    fn end_reservation(
        &mut self,
        ending: &mut Ending,
        op_id: OpId,
        mut reservation: Reservation,
        now: Nanos,
    ) {
        for entry in std::mem::take(&mut reservation.entries) {
            let bytes = self.free_held(entry);
            self.reserved_bytes -= bytes;
            ending.bytes -= bytes;
        }
        self.put_reservation_back(ending.session, op_id, reservation, now);
    }

    /// Bytes that ended sessions still hold.
    pub(super) fn ending_bytes(&self) -> u64 {
        self.endings.iter().map(|ending| ending.bytes).sum()
    }

    /// Moves the entries of reservations that outlived the write time to live into quarantine, at most to the end of the
    /// slice: their keys are free then, their bytes stay charged until the writer aborts or ends. A commit that comes before
    /// a reservation's turn looks at its age itself.
    pub(super) fn expire_reservations(&mut self, effort: &mut Effort, now: Nanos) {
        self.wants_expiry = false;
        // Nothing is reserved, as in every quiet daemon.
        if self.config.write_ttl_ns.is_none() || self.reserved_bytes == 0 {
            return;
        }
        for slot in 0..self.sessions.len() {
            // Taken out only where there is something: an account is large.
            let ledger = self.sessions[slot].take_if(|ledger| !ledger.reservations.is_empty());
            let Some(mut ledger) = ledger else {
                continue;
            };
            for reservation in ledger.reservations.values_mut() {
                if reservation.is_expired || !self.is_too_old(reservation, now) {
                    continue;
                }
                if effort.is_spent() {
                    self.wants_expiry = true;
                    break;
                }
                effort.spend(Effort::GIVE_BACK.saturating_mul(reservation.entries.len() as u32));
                reservation.is_expired = true;
                self.quarantine(slot, &reservation.entries);
            }
            self.sessions[slot] = Some(ledger);
        }
    }
}
