//! Remove and clear: objects that go because somebody asked.
//!
//! Both unpublish at once what they meet; pinned bytes stay until the last lease on them ends. A clear, and the
//! removal of a keyspace whose name another layout took, look at every entry and so run as a [`Sweep`] in slices.

use super::ages::Leaving;
use super::entries::EntryState;
use super::parked::{Outcome, Resumed, ResumedAnswer, Ticket};
use super::reserve::HASHED_AT_ONCE;
use super::slice::Effort;
use super::{Nanos, Refusal, Store};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, SessionId};
use hostkv_shm_protocol::key::{Key, KeyHash};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::request::clear_flags;
use std::collections::HashSet;

/// A walk over all entries that removes those of some keyspaces.
#[derive(Debug)]
pub(super) struct Sweep {
    /// `None` = every keyspace.
    keyspaces: Option<HashSet<KeyspaceId>>,
    /// Who waits for the count; nobody when a layout was replaced.
    asked_by: Option<(SessionId, Ticket)>,
    next: u32,
    removed: u64,
}

impl Sweep {
    /// Removes what is left of replaced keyspaces.
    pub(super) fn replaced(keyspaces: HashSet<KeyspaceId>) -> Sweep {
        Sweep {
            keyspaces: Some(keyspaces),
            asked_by: None,
            next: 0,
            removed: 0,
        }
    }
}

impl Store {
    /// Removes keys, from the tiers too; true for each that was there in L1.
    pub fn remove(
        &mut self,
        id: SessionId,
        keys: &[Key],
        now: Nanos,
    ) -> Result<Vec<bool>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "remove")?;
        for key in keys {
            self.check_keyspace(slot, key.keyspace())?;
        }
        self.count_request_of(keys.len(), Effort::REMOVE);
        let mut answers = Vec::with_capacity(keys.len());
        for keys in keys.chunks(HASHED_AT_ONCE) {
            self.remove_some(keys, now, &mut answers);
        }
        self.remove_from_tiers(keys);
        Ok(answers)
    }

    /// Removes so few keys that all they touch can be fetched ahead.
    fn remove_some(&mut self, keys: &[Key], now: Nanos, answers: &mut Vec<bool>) {
        let mut hashes = [KeyHash { h0: 0, h1: 0 }; HASHED_AT_ONCE];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.index.hash(key);
            self.index.prefetch_bucket(*hash);
        }
        for hash in &hashes[..keys.len()] {
            if let Some(entry) = self.index.prefetch_found(*hash) {
                self.entries.prefetch(entry);
            }
        }
        for (key, hash) in keys.iter().zip(hashes) {
            let found = self
                .index
                .find(key, hash)
                .filter(|entry| self.entries.state(*entry) == EntryState::Committed);
            if let Some(entry) = found {
                self.note_removed(entry);
                let of = self.quota_keyspace(entry);
                self.policy.remove(&mut self.entries, entry, of);
                self.withdraw(entry, Some(hash), Leaving::Removed, now);
                self.stats.removed_keys += 1;
            }
            answers.push(found.is_some());
        }
    }

    /// Removes every key of every keyspace that the session opened, or every key there is (admin users only).
    pub fn clear(&mut self, id: SessionId, flags: u32) -> Result<Outcome<u64>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_writer(slot, "clear")?;
        let all = flags & clear_flags::ALL_KEYSPACES != 0;
        let Some(ledger) = self.sessions[slot].as_ref() else {
            return Ok(Outcome::Done(0));
        };
        if all && !ledger.is_admin {
            return Err(Refusal {
                status: Status::Permission,
                text: "only an admin user may clear all keyspaces; clear those of this session, or add the \
                       user's uid with --admin-uid"
                    .to_owned(),
            });
        }
        let keyspaces = (!all).then(|| ledger.keyspaces.clone());
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.sweeps.push_back(Sweep {
            keyspaces,
            asked_by: Some((id, ticket)),
            next: 0,
            removed: 0,
        });
        Ok(Outcome::Parked(ticket))
    }

    /// Goes on with the oldest sweep; gives its answer when it is done and somebody waits for it.
    pub(super) fn advance_sweep(&mut self, now: Nanos, effort: &mut Effort) -> Option<Resumed> {
        let mut sweep = self.sweeps.pop_front()?;
        while sweep.next < self.entries.entry_count() {
            if effort.is_spent() {
                self.sweeps.push_front(sweep);
                return None;
            }
            effort.spend(Effort::ENTRY);
            let entry = EntryNumber(sweep.next);
            sweep.next += 1;
            if self.entries.state(entry) != EntryState::Committed {
                continue;
            }
            let is_meant = match &sweep.keyspaces {
                None => true,
                Some(keyspaces) => {
                    effort.spend(Effort::KEY);
                    self.key_of(entry)
                        .is_some_and(|key| keyspaces.contains(&key.keyspace()))
                }
            };
            if is_meant {
                effort.spend(Effort::REMOVE);
                self.unpublish(entry, Leaving::Removed, now);
                sweep.removed += 1;
            }
        }
        match sweep.asked_by {
            Some((session, ticket)) => {
                self.stats.cleared_keys += sweep.removed;
                self.session_slots
                    .contains_key(&session)
                    .then_some(Resumed {
                        session,
                        ticket,
                        answer: ResumedAnswer::Cleared(sweep.removed),
                    })
            }
            None => {
                self.stats.layout_replaced_keys += sweep.removed;
                None
            }
        }
    }

    /// Makes a committed entry a zombie: unreadable, unfindable, freed by the next scan that finds no pin on it.
    pub(super) fn unpublish(&mut self, entry: EntryNumber, why: Leaving, now: Nanos) {
        let of = self.quota_keyspace(entry);
        self.policy.remove(&mut self.entries, entry, of);
        let hash = self.key_of(entry).map(|key| self.index.hash(&key));
        self.withdraw(entry, hash, why, now);
    }

    /// The same with an entry that the policy has given up already, and the hash of its key.
    pub(super) fn withdraw(
        &mut self,
        entry: EntryNumber,
        hash: Option<KeyHash>,
        why: Leaving,
        now: Nanos,
    ) {
        self.note_leaving(entry);
        self.index.unpublish(entry);
        if let Some(hash) = hash {
            self.ages.left(entry, hash, why, now);
            self.index.unlink(entry, hash);
        }
        self.entries.set_state(entry, EntryState::Zombie, None);
        self.zombies.push(entry);
        self.wants_scan = true;
    }
}
