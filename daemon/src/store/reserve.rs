//! Reserve: extents for new keys, each its own, the longest leading run that fits.
//!
//! ```text
//!   reserve --> advance --all answered--> Done
//!                  | lacks bytes or an entry
//!                  v
//!               parked --> (slice) make room --> advance ... --> Resumed
//! ```

use super::entries::{EntryState, MAX_OWNERS};
use super::ledger::Reservation;
use super::parked::{Lack, Outcome, Progress, Ticket, refused};
use super::slice::Effort;
use super::{Nanos, Refusal, Store};
use hostkv_shm_protocol::extent::{Extent, units_for};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, SessionId};
use hostkv_shm_protocol::key::KeyHash;
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::{Reserve, ReserveItem};
use std::collections::hash_map::Entry;

/// Keys whose buckets are fetched ahead together.
pub(super) const HASHED_AT_ONCE: usize = 32;

impl Store {
    /// Reserves extents; parked when that needs eviction.
    pub fn reserve(
        &mut self,
        id: SessionId,
        request: Reserve,
        now: Nanos,
    ) -> Result<Outcome<Vec<ReservedItem>>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_reserve(slot, &request)?;
        let progress = self.arrived(id, request, now);
        Ok(match self.start_reserve(progress, now) {
            Outcome::Done(progress) => Outcome::Done(progress.answers),
            Outcome::Parked(ticket) => Outcome::Parked(ticket),
        })
    }

    /// A reserve that has been checked, before its first step.
    pub(super) fn arrived(&self, id: SessionId, request: Reserve, now: Nanos) -> Progress {
        let requested_bytes = request
            .items
            .iter()
            .map(|item| u64::from(item.len_bytes).next_multiple_of(self.align()))
            .sum();
        Progress::new(id, request, requested_bytes, now)
    }

    /// The first steps of a reserve; parked, under its ticket or a new one, when it needs eviction.
    pub(super) fn start_reserve(
        &mut self,
        mut progress: Progress,
        now: Nanos,
    ) -> Outcome<Progress> {
        self.note_reserve(&mut progress);
        // A request never waits in line for nothing: what fits is granted, also past parked ones.
        let mut effort = Effort::whole();
        effort.spend(Effort::REQUEST);
        let advance = self.advance(&mut progress, &mut effort);
        self.count_request(&effort);
        match advance {
            Advance::Done => {
                self.finish_reserve(&mut progress, now);
                Outcome::Done(progress)
            }
            Advance::Spent | Advance::Lacks(_) => {
                if progress.ticket == Ticket::NONE {
                    self.last_ticket += 1;
                    progress.ticket = Ticket(self.last_ticket);
                }
                let ticket = progress.ticket;
                // Before what the daemon itself wants room for.
                let loads = self.parked.iter().position(|p| p.load.is_some());
                let at = loads.unwrap_or(self.parked.len());
                self.parked.insert(at, progress);
                Outcome::Parked(ticket)
            }
        }
    }

    /// Answers items until all are, one lacks something, or the effort is spent.
    pub(super) fn advance(&mut self, progress: &mut Progress, effort: &mut Effort) -> Advance {
        let slot = self.session_slots.get(&progress.session).copied();
        let payer = match (&progress.load, slot) {
            (Some(_), _) => Payer::Daemon,
            (None, Some(slot)) => Payer::Session(slot),
            (None, None) => return Advance::Done,
        };
        let mut granted = Granted {
            most: progress.request.items.len() - progress.answers.len(),
            ..Granted::default()
        };
        let advance = self.answer_items(payer, progress, &mut granted, effort);
        self.book_keyspace(&mut granted);
        if let Payer::Session(slot) = payer {
            self.book(slot, progress, granted);
        }
        advance
    }

    fn answer_items(
        &mut self,
        payer: Payer,
        progress: &mut Progress,
        granted: &mut Granted,
        effort: &mut Effort,
    ) -> Advance {
        let mut hashes = [KeyHash { h0: 0, h1: 0 }; HASHED_AT_ONCE];
        loop {
            let first = progress.answers.len();
            let items = progress.request.items[first..].iter();
            let count = items.len().min(HASHED_AT_ONCE);
            if count == 0 {
                return Advance::Done;
            }
            for (hash, item) in hashes.iter_mut().zip(items) {
                *hash = self.index.hash(&item.key);
                self.index.prefetch_bucket(*hash);
            }
            for (at, hash) in hashes[..count].iter().enumerate() {
                if effort.is_spent() {
                    return Advance::Spent;
                }
                effort.spend(Effort::GRANT);
                let item = progress.request.items[first + at];
                match self.reserve_item(payer, progress, &item, *hash, granted) {
                    Ok(answer) => progress.answers.push(answer),
                    Err(lack) => return Advance::Lacks(lack),
                }
            }
        }
    }

    /// Counts a finished reserve.
    pub(super) fn finish_reserve(&mut self, progress: &mut Progress, now: Nanos) {
        self.note_granted(progress, now);
        self.stats.write_requests += 1;
        for answer in &progress.answers {
            if answer.status == Status::Ok {
                self.stats.write_succeed_keys += 1;
            } else {
                self.stats.write_failed_keys += 1;
                self.stats
                    .write_failures
                    .count(answer.status, answer.reason);
            }
        }
    }

    /// Refuses a reserve whose form can't be carried out.
    pub(super) fn check_reserve(&self, slot: usize, request: &Reserve) -> Result<(), Refusal> {
        self.check_writer(slot, "reserve")?;
        let refuse = |text: String| {
            Err(Refusal {
                status: Status::InvalidArgument,
                text,
            })
        };
        if let Some(ledger) = self.sessions[slot].as_ref()
            && (ledger.reservations.contains_key(&request.op_id)
                || self
                    .parked
                    .iter()
                    .any(|p| p.session == ledger.id && p.request.op_id == request.op_id)
                || self.commits.has_next(ledger.id, request.op_id))
        {
            return refuse(format!(
                "operation {} of this session is not over; use another number",
                request.op_id.0
            ));
        }
        let most = self.max_object_bytes();
        let mut checked = None;
        for (i, item) in request.items.iter().enumerate() {
            // Nearly always they are all of one.
            let keyspace = item.key.keyspace();
            if checked != Some(keyspace) {
                self.check_keyspace(slot, keyspace)?;
                checked = Some(keyspace);
            }
            if item.len_bytes == 0 || u64::from(item.len_bytes) > most {
                return refuse(format!(
                    "item {i} asks for {} bytes; allowed are 1 to {most} (max_object_bytes)",
                    item.len_bytes
                ));
            }
        }
        Ok(())
    }

    fn reserve_item(
        &mut self,
        payer: Payer,
        progress: &mut Progress,
        item: &ReserveItem,
        hash: KeyHash,
        granted: &mut Granted,
    ) -> Result<ReservedItem, Lack> {
        if let Some(entry) = self.index.find(&item.key, hash) {
            let status = match self.entries.state(entry) {
                EntryState::Committed => Status::Exists,
                _ => Status::Reserved,
            };
            return Ok(refused(status, Reason::None));
        }
        if let Some((status, reason)) = progress.ended {
            return Ok(refused(status, reason));
        }
        match self.grant(payer, item, hash, granted) {
            Ok(answer) => Ok(answer),
            Err(Denied::Lacks(lack)) => Err(lack),
            Err(Denied::Ends(status, reason)) => {
                progress.ended = Some((status, reason));
                Ok(refused(status, reason))
            }
        }
    }

    fn grant(
        &mut self,
        payer: Payer,
        item: &ReserveItem,
        hash: KeyHash,
        granted: &mut Granted,
    ) -> Result<ReservedItem, Denied> {
        let bytes = u64::from(item.len_bytes).next_multiple_of(self.align());
        let units = units_for(u64::from(item.len_bytes), self.align())
            .ok_or(Denied::Ends(Status::NoSpace, Reason::NoSpace))?;
        if let Payer::Session(slot) = payer {
            self.check_reserve_quotas(slot, bytes)?;
        }
        self.check_keyspace_quota(item.key.keyspace(), bytes)?;
        let entry = self
            .entries
            .take(payer.owner())
            .ok_or(Denied::Lacks(Lack::Entry))?;
        let Some(offset_units) = self.allocator.allocate(entry.0, units) else {
            self.entries.give_back(entry);
            return Err(Denied::Lacks(Lack::Bytes(bytes)));
        };
        let extent = Extent {
            offset_units,
            len_bytes: item.len_bytes,
        };
        self.index.write_fields(entry, &item.key, extent);
        if self.index.link(entry, hash).is_err() {
            self.allocator.free(entry.0);
            self.entries.give_back(entry);
            return Err(Denied::Ends(Status::NoSpace, Reason::BucketFull));
        }
        let staging_units = match payer {
            Payer::Session(slot) => self.stage(slot, entry, units),
            Payer::Daemon => Some(0),
        };
        let Some(staging_units) = staging_units else {
            self.index.unlink(entry, hash);
            self.allocator.free(entry.0);
            self.entries.give_back(entry);
            return Err(Denied::Ends(Status::Quota, Reason::Staging));
        };
        self.count_in_keyspace(granted, item.key.keyspace(), bytes);
        match payer {
            Payer::Session(slot) => {
                self.charge(slot, bytes);
                if granted.entries.is_empty() {
                    granted.entries.reserve_exact(granted.most);
                }
                granted.entries.push(entry);
            }
            Payer::Daemon => self.charge_load(entry, bytes),
        }
        Ok(ReservedItem {
            status: Status::Ok,
            reason: Reason::None,
            entry,
            offset_units,
            staging_units,
            generation: hostkv_shm_protocol::control::entry::next_published(self.index.seq(entry)),
        })
    }

    /// Whether a session, and all of them, may have so many bytes more reserved.
    fn check_reserve_quotas(&self, slot: usize, bytes: u64) -> Result<(), Denied> {
        let held = self.sessions[slot].as_ref().map_or(0, |l| l.reserved_bytes);
        if held + bytes > self.reserve_quota_bytes() {
            return Err(Denied::Ends(Status::Quota, Reason::SessionReserved));
        }
        if self.reserved_bytes + bytes > self.pool_reserve_quota_bytes() {
            return Err(Denied::Ends(Status::Quota, Reason::PoolReserved));
        }
        Ok(())
    }

    /// Whether the quotas on reserved bytes allow a session so many more.
    pub(super) fn may_reserve(&self, slot: usize, bytes: u64) -> bool {
        self.check_reserve_quotas(slot, bytes).is_ok()
    }

    /// Whether so many bytes more fit into the keyspace's quota, or would when objects of its own make room.
    fn check_keyspace_quota(&self, keyspace: KeyspaceId, bytes: u64) -> Result<(), Denied> {
        if self.config.keyspace_quota.is_none() {
            return Ok(());
        }
        let quota = self.keyspace_quota_bytes();
        if bytes > quota {
            return Err(Denied::Ends(Status::Quota, Reason::KeyspaceQuota));
        }
        let beyond = (self.names.used_bytes(keyspace) + bytes).saturating_sub(quota);
        match beyond {
            0 => Ok(()),
            _ => Err(Denied::Lacks(Lack::Quota(keyspace, beyond))),
        }
    }

    fn charge(&mut self, slot: usize, bytes: u64) {
        self.reserved_bytes += bytes;
        if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.reserved_bytes += bytes;
        }
    }

    /// Counts a granted entry for its keyspace: with the others of the same one, where nothing asks before the step is over.
    fn count_in_keyspace(&mut self, granted: &mut Granted, keyspace: KeyspaceId, bytes: u64) {
        if granted.keyspace != keyspace || self.config.keyspace_quota.is_some() {
            self.book_keyspace(granted);
            granted.keyspace = keyspace;
        }
        granted.first_keyspace.get_or_insert(keyspace);
        granted.entry_count += 1;
        granted.bytes += bytes;
        if self.config.keyspace_quota.is_some() {
            self.book_keyspace(granted);
        }
    }

    fn book_keyspace(&mut self, granted: &mut Granted) {
        let entry_count = std::mem::take(&mut granted.entry_count);
        let bytes = std::mem::take(&mut granted.bytes);
        if entry_count > 0 {
            self.names
                .entries_added(granted.keyspace, entry_count, bytes);
        }
    }

    /// Notes what one step of a reserve granted in its session's reservation.
    fn book(&mut self, slot: usize, progress: &Progress, granted: Granted) {
        let (Some(keyspace), Some(ledger)) = (granted.first_keyspace, self.sessions[slot].as_mut())
        else {
            return;
        };
        match ledger.reservations.entry(progress.request.op_id) {
            Entry::Occupied(mut reservation) => {
                reservation.get_mut().entries.extend(granted.entries);
            }
            Entry::Vacant(place) => {
                place.insert(Reservation {
                    reserved_at: progress.started,
                    entries: granted.entries,
                    keyspace,
                    is_expired: false,
                    committing: 0,
                    stored: 0,
                    event: None,
                });
            }
        }
    }

    /// Whether a reservation has outlived the write time to live.
    pub(super) fn is_too_old(&self, reservation: &Reservation, now: Nanos) -> bool {
        self.config
            .write_ttl_ns
            .is_some_and(|ttl| now.saturating_sub(reservation.reserved_at) >= ttl)
    }

    /// Takes entries of an expired reservation, or of one that was overtaken, out of the index; their bytes stay charged.
    pub(super) fn quarantine(&mut self, slot: usize, entries: &[EntryNumber]) {
        for entry in entries.iter().copied() {
            if self.entries.state(entry) == EntryState::Quarantine {
                continue;
            }
            if let Some(key) = self.key_of(entry) {
                self.index.unlink(entry, self.index.hash(&key));
            }
            self.quarantined_bytes += self.extent_bytes(entry);
            self.entries
                .set_state(entry, EntryState::Quarantine, Some(slot as u32));
        }
    }

    pub(super) fn align(&self) -> u64 {
        u64::from(self.config.align_bytes)
    }
}

/// How far a reserve got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advance {
    /// Every item has its answer.
    Done,
    /// The slice is over.
    Spent,
    /// The next item lacks something that eviction may bring.
    Lacks(Lack),
}

/// What one step of a reserve granted and has not booked yet: a batch is looked up in the tables once, not each of its keys.
#[derive(Debug)]
struct Granted {
    /// How many it can be.
    most: usize,
    entries: Vec<EntryNumber>,
    /// Of the first of them.
    first_keyspace: Option<KeyspaceId>,
    /// Of the last of them, and how many in a row are of it and not booked.
    keyspace: KeyspaceId,
    entry_count: u64,
    /// Bytes of those, rounded up to the alignment.
    bytes: u64,
}

impl Default for Granted {
    fn default() -> Granted {
        Granted {
            most: 0,
            entries: Vec::new(),
            first_keyspace: None,
            keyspace: KeyspaceId(0),
            entry_count: 0,
            bytes: 0,
        }
    }
}

/// On whose account an extent goes.
#[derive(Debug, Clone, Copy)]
enum Payer {
    /// That of the session in this slot.
    Session(usize),
    /// The daemon's own, for a load.
    Daemon,
}

impl Payer {
    fn owner(self) -> u32 {
        match self {
            Payer::Session(slot) => slot as u32,
            Payer::Daemon => MAX_OWNERS,
        }
    }
}

enum Denied {
    Lacks(Lack),
    Ends(Status, Reason),
}
