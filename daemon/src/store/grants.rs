//! Grants: extents that a session holds ahead of need, each with an entry of its own and no key yet.
//!
//! ```text
//!   GRANT --> Granted, charged as reserved --record of the commit ring, COMMIT_GRANTED--> linked and published
//!                |                                         \--the key is there already--> stays Granted
//!                \--RETURN, the session's end--> free
//! ```
//!
//! A grant takes what is free and never evicts. What all grants may hold is a small share of the pool and of the index, and
//! while a reserve waits for room nothing is granted and sessions are asked for what they do not use (`grant_recall`). The
//! write time to live does not touch grants: they keep no key from anybody.

use super::commits::{Item, WaitingCommit};
use super::entries::EntryState;
use super::ledger::Reservation;
use super::parked::{Outcome, Ticket};
use super::slice::Effort;
use super::{Nanos, Refusal, SECOND, Store};
use crate::config::Integrity;
use hostkv_shm_protocol::control::entry::next_published;
use hostkv_shm_protocol::extent::{Extent, units_for};
use hostkv_shm_protocol::id::{EntryNumber, OpId, SessionId};
use hostkv_shm_protocol::key::{KEY_WORDS, Key};
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;
use hostkv_shm_protocol::wire::reply::{CommittedItem, GrantedExtent};
use hostkv_shm_protocol::wire::request::{Grant, GrantedItem, HeldItem};

/// What grants may hold, as one part in so many of the payload, and of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantShares {
    /// Those of one session.
    pub session: u64,
    /// Those of all sessions together.
    pub pool: u64,
}

/// Most grants of one session, so that its end gives them all back in one turn of the loop.
const GRANTS_AT_MOST: u64 = 16_384;

/// The shares but in tests; a library knows that of one session.
pub const GRANT_SHARES: GrantShares = GrantShares {
    session: hostkv_shm_protocol::lease::commits::GRANT_SHARE,
    pool: 20,
};

impl Store {
    /// Grants as many extents as are asked, or as quota, index and free space allow.
    pub fn grant_extents(
        &mut self,
        id: SessionId,
        request: &Grant,
        now: Nanos,
    ) -> Result<Vec<GrantedExtent>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "be granted extents")?;
        self.check_ring(slot)?;
        let most = self.max_object_bytes();
        let len_bytes = u64::from(request.len_bytes);
        let units = units_for(len_bytes, self.align()).filter(|_| (1..=most).contains(&len_bytes));
        let Some(units) = units else {
            return Err(Refusal {
                status: Status::InvalidArgument,
                text: format!(
                    "a grant of extents of {len_bytes} bytes is asked; allowed are 1 to {most} (max_object_bytes)"
                ),
            });
        };
        let bytes = self.units_to_bytes(units);
        self.count_request_of(request.count as usize, Effort::GRANT);
        let mut granted = Vec::new();
        // What is free is first for the reserve that waits for it.
        while self.parked.is_empty()
            && granted.len() < request.count as usize
            && self.may_grant(slot, bytes, now)
        {
            let Some(entry) = self.entries.take(slot as u32) else {
                break;
            };
            let Some(offset_units) = self.allocator.allocate(entry.0, units) else {
                self.entries.give_back(entry);
                break;
            };
            self.entries
                .set_state(entry, EntryState::Granted, Some(slot as u32));
            self.index.clear_key(entry);
            self.reserved_bytes += bytes;
            self.granted_bytes += bytes;
            if let Some(ledger) = self.sessions[slot].as_mut() {
                ledger.reserved_bytes += bytes;
                ledger.granted_bytes += bytes;
                self.entries.push_front(&mut ledger.grants, entry);
            }
            granted.push(GrantedExtent {
                entry,
                offset_units,
                generation: next_published(self.index.seq(entry)),
            });
        }
        Ok(granted)
    }

    /// Whether a session may be granted one more extent of so many bytes.
    fn may_grant(&mut self, slot: usize, bytes: u64, now: Nanos) -> bool {
        let Some(ledger) = self.sessions[slot].as_ref() else {
            return false;
        };
        let shares = self.config.grant_shares;
        let (payload, entries) = (
            self.config.payload_len,
            u64::from(self.entries.entry_count()),
        );
        let is_in_session_share = ledger.granted_bytes + bytes <= payload / shares.session
            && u64::from(ledger.grants.count()) < (entries / shares.session).min(GRANTS_AT_MOST);
        let is_in_pool_share = self.granted_bytes + bytes <= payload / shares.pool
            && u64::from(self.entries.count(EntryState::Granted)) < entries / shares.pool;
        if is_in_session_share && !is_in_pool_share {
            self.recall_grants(now);
        }
        is_in_session_share && is_in_pool_share && self.may_reserve(slot, bytes)
    }

    /// Asks every session for the grants that it does not use, at most once a second.
    pub(super) fn recall_grants(&mut self, now: Nanos) {
        if self.granted_bytes == 0
            || self
                .last_recall
                .is_some_and(|last| now.saturating_sub(last) < SECOND)
        {
            return;
        }
        self.last_recall = Some(now);
        self.header
            .grant_recall()
            // Relaxed: a wish; nothing stands behind it.
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Takes granted extents back; what is not granted to the session under its generation is passed over.
    pub fn return_grants(&mut self, id: SessionId, items: &[HeldItem]) -> Result<(), Refusal> {
        let slot = self.slot_of(id)?;
        self.count_request_of(items.len(), Effort::GIVE_BACK);
        for item in items {
            if self.is_granted(slot, item.entry)
                && next_published(self.index.seq(item.entry)) == item.generation
            {
                let bytes = self.take_grant(slot, item.entry);
                self.reserved_bytes -= bytes;
                if let Some(ledger) = self.sessions[slot].as_mut() {
                    ledger.reserved_bytes -= bytes;
                }
                self.free_held(item.entry);
                self.pass_is_blocked = false;
            }
        }
        Ok(())
    }

    /// Makes granted entries readable, the last first. Parked when their bytes must be summed first.
    pub fn commit_granted(
        &mut self,
        id: SessionId,
        items: &[GrantedItem],
        now: Nanos,
    ) -> Result<Outcome<Vec<CommittedItem>>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "commit")?;
        self.count_request_of(items.len(), Effort::GRANT + Effort::COMMIT);
        let mut answers = vec![
            CommittedItem {
                status: Status::Ok,
                generation: 0,
            };
            items.len()
        ];
        let mut waiting = Vec::new();
        for (at, item) in items.iter().enumerate().rev() {
            let answer = &mut answers[at];
            answer.status = self.link_granted(slot, item.entry, item.len_bytes, item.key.words());
            if answer.status != Status::Ok {
                continue;
            }
            if self.config.integrity == Integrity::Full {
                waiting.push((item.entry, at));
            } else {
                answer.generation = self.publish_granted(slot, item.entry, now);
            }
        }
        match self.sum_granted(slot, waiting, answers) {
            Ok(ticket) => Ok(Outcome::Parked(ticket)),
            Err(answers) => Ok(Outcome::Done(answers)),
        }
    }

    /// Gives a granted entry its key: from then on it belongs to its commit. All of it is checked, because a client may say
    /// anything.
    ///
    /// OK; EXISTS or NO_SPACE, and the extent stays granted; INVALID_ARGUMENT. A reservation that holds the key has been
    /// overtaken: the first commit wins, and that of the reservation will say EXISTS.
    pub(super) fn link_granted(
        &mut self,
        slot: usize,
        entry: EntryNumber,
        len_bytes: u32,
        key_words: &[u64; KEY_WORDS],
    ) -> Status {
        let key = match Key::from_words(*key_words) {
            Ok(key) if self.check_keyspace(slot, key.keyspace()).is_ok() => key,
            _ => return self.refuse_granted(slot, "its key is none of this session"),
        };
        if !self.is_granted(slot, entry) {
            return self.refuse_granted(slot, "its entry is not granted to this session");
        }
        let Some((offset_units, units)) = self.allocator.extent(entry.0) else {
            return self.refuse_granted(slot, "its entry has no extent");
        };
        let bytes = self.units_to_bytes(units);
        if len_bytes == 0 || u64::from(len_bytes) > bytes {
            return self.refuse_granted(slot, "its length is not within the granted extent");
        }
        let hash = self.index.hash(&key);
        if let Some(other) = self.index.find(&key, hash) {
            let owner = self.entries.owner(other);
            match (self.entries.state(other), owner) {
                (EntryState::Reserved, Some(owner)) => self.quarantine(owner as usize, &[other]),
                (EntryState::Loading, _) => self.overtake_load(other),
                _ => return Status::Exists,
            }
        }
        let extent = Extent {
            offset_units,
            len_bytes,
        };
        self.index.write_fields(entry, &key, extent);
        if self.index.link(entry, hash).is_err() {
            self.index.clear_key(entry);
            self.stats
                .write_failures
                .count(Status::NoSpace, Reason::BucketFull);
            return Status::NoSpace;
        }
        self.names.entry_added(key.keyspace(), bytes);
        self.take_grant(slot, entry);
        self.entries.set_state(entry, EntryState::Committing, None);
        Status::Ok
    }

    /// Makes an entry readable that has its key.
    pub(super) fn publish_granted(&mut self, slot: usize, entry: EntryNumber, now: Nanos) -> u64 {
        let bytes = self.extent_bytes(entry);
        let generation = self.publish_object(entry, None, now);
        self.store_behind(entry, generation);
        self.reserved_bytes -= bytes;
        if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.reserved_bytes -= bytes;
            ledger.write_keys += 1;
        }
        self.stats.l1_write_keys += 1;
        generation
    }

    /// Has entries that have their keys summed before they are published; each comes with the place of its answer. The
    /// answers come back when there are none.
    pub(super) fn sum_granted(
        &mut self,
        slot: usize,
        waiting: Vec<(EntryNumber, usize)>,
        answers: Vec<CommittedItem>,
    ) -> Result<Ticket, Vec<CommittedItem>> {
        let session = self.sessions[slot].as_ref().map(|ledger| ledger.id);
        let Some(session) = session.filter(|_| !waiting.is_empty()) else {
            return Err(answers);
        };
        self.last_ticket += 1;
        let items: Vec<Item> = waiting
            .into_iter()
            .map(|(entry, at)| Item {
                entry,
                at,
                sum: None,
                has_failed: false,
            })
            .collect();
        let commit = WaitingCommit {
            ticket: Ticket(self.last_ticket),
            session,
            op_id: None,
            answers,
            undone: items.len(),
            bytes: items.iter().map(|item| self.extent_bytes(item.entry)).sum(),
            items,
            left_behind: None,
            next: None,
        };
        self.sum_items(&commit);
        let ticket = commit.ticket;
        self.commits.add(commit);
        Ok(ticket)
    }

    /// Takes what an ended session had been granted, as reservations that nobody holds any more.
    pub(super) fn take_all_grants(&mut self, slot: usize, now: Nanos) -> Vec<(OpId, Reservation)> {
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while let Some(entry) = ledger.grants.back() {
            self.entries.unlink(&mut ledger.grants, entry);
            // Of nobody: the next session may get this slot before the extent is free.
            self.entries.set_state(entry, EntryState::Granted, None);
            taken.push(entry);
        }
        self.granted_bytes -= std::mem::take(&mut ledger.granted_bytes);
        let reservation = |entries: &[EntryNumber]| Reservation::of_grants(entries.to_vec(), now);
        taken
            .chunks(MAX_BATCH_KEYS)
            .map(|entries| (OpId(0), reservation(entries)))
            .collect()
    }

    /// Whether the entry, which a client has named, is granted to this session.
    fn is_granted(&self, slot: usize, entry: EntryNumber) -> bool {
        self.entries.contains(entry)
            && self.entries.state(entry) == EntryState::Granted
            && self.entries.owner(entry) == Some(slot as u32)
    }

    /// Takes an entry out of its session's grants; it stays charged as reserved. Its bytes.
    fn take_grant(&mut self, slot: usize, entry: EntryNumber) -> u64 {
        let bytes = self.extent_bytes(entry);
        self.granted_bytes -= bytes;
        if let Some(ledger) = self.sessions[slot].as_mut() {
            self.entries.unlink(&mut ledger.grants, entry);
            ledger.granted_bytes -= bytes;
        }
        bytes
    }

    fn refuse_granted(&mut self, slot: usize, why: &str) -> Status {
        self.stats.write_failures.invalid += 1;
        if let Some(ledger) = self.sessions[slot].as_mut()
            && !std::mem::replace(&mut ledger.has_bad_commits, true)
        {
            log::warn!(
                "Session {} commits what it may not, and is told so from now on without a line: {why}.",
                ledger.id.0
            );
        }
        Status::InvalidArgument
    }

    fn check_ring(&self, slot: usize) -> Result<(), Refusal> {
        let ledger = self.sessions[slot].as_ref();
        if ledger.is_some_and(|ledger| ledger.lease.commits.is_some()) {
            return Ok(());
        }
        Err(Refusal {
            status: Status::InvalidArgument,
            text: "this session has no commit ring, so it is granted nothing; open one with ASYNC_COMMIT"
                .to_owned(),
        })
    }
}
