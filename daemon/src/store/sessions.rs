//! Sessions: their accounts, their keyspaces, their counters, and the end that pays everything back.

use super::ledger::{Growth, LeaseParts, Ledger};
use super::names::{Asker, Resolved};
use super::remove::Sweep;
use super::{Nanos, Refusal, Store};
use hostkv_shm_protocol::id::{KeyspaceId, SessionId};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::request::Resolve;
use std::collections::{HashSet, VecDeque};

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client said BYE: it holds nothing any more.
    Bye,
    /// Its process has ended.
    Death,
}

/// What one session holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionFigures {
    /// When it was opened.
    pub opened_at: Nanos,
    /// Whether it may write.
    pub can_write: bool,
    /// Pin slots that it has.
    pub pin_slot_count: u64,
    /// Pins that the last scan found.
    pub pin_count: u64,
    /// Their bytes, counted once for each pin.
    pub pinned_bytes: u64,
    /// Bytes of its reserved and quarantined extents.
    pub reserved_bytes: u64,
    /// Reservations that it has open.
    pub reservation_count: u64,
    /// Keyspaces that it has open.
    pub keyspace_count: u64,
    /// Its reads, as of the last fold.
    pub reads: Growth,
    /// Keys that it committed.
    pub write_keys: u64,
}

impl Store {
    /// What one session holds; call [`Store::fold`] first for today's counts.
    pub fn session_figures(&self, id: SessionId) -> Option<SessionFigures> {
        let slot = self.session_slots.get(&id)?;
        let ledger = self.sessions.get(*slot)?.as_ref()?;
        Some(SessionFigures {
            opened_at: ledger.opened_at,
            can_write: ledger.can_write,
            pin_slot_count: ledger.lease.pins.count() as u64,
            pin_count: ledger.pin_count,
            pinned_bytes: ledger.pinned_bytes,
            reserved_bytes: ledger.reserved_bytes,
            reservation_count: ledger.reservations.len() as u64,
            keyspace_count: ledger.keyspaces.len() as u64,
            reads: ledger.reads,
            write_keys: ledger.write_keys,
        })
    }

    /// The number of the session that is opened next.
    pub fn next_session_id(&mut self) -> SessionId {
        self.last_session += 1;
        SessionId(self.last_session)
    }

    /// Open sessions, orphaned ones included.
    pub fn session_count(&self) -> u32 {
        self.session_slots.len() as u32
    }

    /// Opens a session's account.
    pub fn open_session(
        &mut self,
        id: SessionId,
        lease: LeaseParts,
        can_write: bool,
        is_admin: bool,
        now: Nanos,
    ) {
        let has_ring = lease.commits.is_some();
        let ledger = Some(Ledger::new(id, lease, can_write, is_admin, now));
        let slot = match self.sessions.iter().position(Option::is_none) {
            Some(slot) => {
                self.sessions[slot] = ledger;
                slot
            }
            None => {
                self.sessions.push(ledger);
                self.sessions.len() - 1
            }
        };
        if has_ring {
            self.rings.add(slot);
        }
        self.renew_glance(slot);
        self.session_slots.insert(id, slot);
    }

    /// The session's socket is gone but its process lives: everything stays, charged, but its prefetches.
    pub fn orphan_session(&mut self, id: SessionId, now: Nanos) {
        self.drop_parked(id, now);
        // What was kept is for a read that was to come, and nothing that the process may be using.
        self.end_prefetches(id, now);
        if let Some((_, ledger)) = self.session_mut(id) {
            ledger.is_orphaned = true;
        }
    }

    /// Forgets the parked requests of a session that will read no reply.
    fn drop_parked(&mut self, id: SessionId, now: Nanos) {
        self.commits.drop_next(id);
        self.rings.drop_flushes(id);
        let (dropped, kept): (VecDeque<_>, _) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|progress| progress.session == id);
        self.parked = kept;
        for mut progress in dropped {
            self.note_granted(&mut progress, now);
        }
    }

    /// Ends every session, at the end of the daemon.
    pub fn close_all(&mut self, now: Nanos) {
        let ids: Vec<SessionId> = self.session_slots.keys().copied().collect();
        for id in ids {
            self.close_session(id, SessionEnd::Bye, now);
        }
    }

    /// Ends a session: what it reserved is freed, what it pinned is unpinned, its counters are folded.
    pub fn close_session(&mut self, id: SessionId, cause: SessionEnd, now: Nanos) {
        self.drop_parked(id, now);
        self.end_prefetches(id, now);
        let Some(slot) = self.session_slots.get(&id).copied() else {
            return;
        };
        self.fold_session(slot);
        self.drain_last_commits(slot, now);
        self.rings.remove(slot);
        self.drain_last_touches(slot, now);
        self.drain_last_events(slot);
        let grants = self.take_all_grants(slot, now);
        let Some(mut ledger) = self.sessions[slot].take() else {
            return;
        };
        self.renew_glance(slot);
        self.session_slots.remove(&id);
        self.note_session_end(&mut ledger, now);
        let held = ledger.reservations.values();
        let granted = grants.iter().map(|(_, held)| held);
        let held = held.chain(granted);
        let reserved: u64 = held.map(|held| held.entries.len() as u64).sum();
        // Its commits that wait for a worker go on without it, and their charge with them.
        let bytes = ledger.reserved_bytes - self.committing_bytes(id);
        self.end_reservations(id, ledger.reservations.drain().chain(grants), bytes, now);
        if cause == SessionEnd::Death {
            let pins = &ledger.lease.pins;
            let pinned = (0..pins.scan_len()).filter(|slot| pins.scan(*slot).entry().is_some());
            self.stats.reclaimed_pins += pinned.count() as u64;
            self.stats.reclaimed_reservations += reserved;
        }
        for keyspace in &ledger.keyspaces {
            self.names.close(*keyspace);
        }
        if !self.zombies.is_empty() {
            self.wants_scan = true;
        }
        self.pass_is_blocked = false;
        log::debug!(
            "Session {} closed its account at {now} ns: {reserved} reserved entries to be freed",
            id.0
        );
    }

    /// Opens a keyspace for a session.
    pub fn resolve(&mut self, id: SessionId, request: &Resolve) -> Result<Resolved, Refusal> {
        let slot = self.slot_of(id)?;
        if self.config.requires_salt && request.cache_salt.is_empty() {
            return Err(Refusal {
                status: Status::InvalidArgument,
                text: format!(
                    "keyspace {:?} has no cache salt, and hostkvd runs with --require-salt; give each tenant a salt of its own",
                    request.model_name
                ),
            });
        }
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return Err(no_session(id));
        };
        let asker = Asker {
            can_write: ledger.can_write,
            open_count: ledger.keyspaces.len() as u32,
        };
        let opened = self.names.open(
            request,
            self.config.chunk_size,
            self.config.max_keyspaces,
            asker,
            |keyspace| ledger.keyspaces.contains(&keyspace),
        )?;
        ledger.keyspaces.insert(opened.resolved.keyspace);
        if let Some(old) = opened.replaced {
            self.sweeps.push_back(Sweep::replaced(HashSet::from([old])));
        }
        Ok(opened.resolved)
    }

    /// Adds the growth of every session's counters to the totals.
    pub fn fold(&mut self) {
        for slot in 0..self.sessions.len() {
            self.fold_session(slot);
        }
    }

    pub(super) fn slot_of(&self, id: SessionId) -> Result<usize, Refusal> {
        self.session_slots
            .get(&id)
            .copied()
            .ok_or_else(|| no_session(id))
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<(usize, &mut Ledger)> {
        let slot = self.session_slots.get(&id).copied()?;
        self.sessions[slot].as_mut().map(|ledger| (slot, ledger))
    }

    pub(super) fn fold_session(&mut self, slot: usize) {
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        let growth = ledger.fold();
        let add = |total: &mut u64, more: u64| *total = total.saturating_add(more);
        add(&mut self.stats.read_requests, growth.read_requests);
        add(&mut self.stats.read_succeed_keys, growth.read_succeed_keys);
        add(&mut self.stats.read_failed_keys, growth.read_failed_keys);
        add(&mut self.stats.l1_read_keys, growth.l1_read_keys);
        add(&mut self.stats.write_requests, growth.write_requests);
        add(
            &mut self.stats.write_succeed_keys,
            growth.write_succeed_keys,
        );
        let existing = growth.write_existing_keys;
        add(&mut self.stats.write_failed_keys, existing);
        add(&mut self.stats.write_failures.exists, existing);
        self.fold_dropped_events(slot);
    }

    pub(super) fn check_keyspace(&self, slot: usize, keyspace: KeyspaceId) -> Result<(), Refusal> {
        let is_open = self.sessions[slot]
            .as_ref()
            .is_some_and(|ledger| ledger.keyspaces.contains(&keyspace));
        if is_open {
            return Ok(());
        }
        Err(Refusal {
            status: Status::InvalidArgument,
            text: format!(
                "keyspace {} is not one that this session opened; open it first",
                keyspace.0
            ),
        })
    }

    pub(super) fn check_writer(&self, slot: usize, what: &str) -> Result<(), Refusal> {
        match self.sessions[slot].as_ref() {
            Some(ledger) if ledger.can_write => Ok(()),
            _ => Err(Refusal {
                status: Status::ReadOnly,
                text: format!("a read-only session can't {what}; open one without READ_ONLY"),
            }),
        }
    }
}

fn no_session(id: SessionId) -> Refusal {
    Refusal {
        status: Status::Disconnected,
        text: format!("session {} has ended; open a new one", id.0),
    }
}
