//! The audit: a recount of everything, entry by entry and unit by unit.
//!
//! It walks all tables at once and so holds the loop up for as long as they are large; it is for tests, for admins and
//! for doubts, not for monitoring.

use super::Store;
use super::entries::EntryState;
use super::scan::ScanStage;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::KeyHash;
use hostkv_shm_protocol::wire::reply::Audit;
use std::collections::HashMap;

impl Store {
    /// Counts bytes and entries by state and compares them with what the store believes.
    pub fn audit(&mut self) -> Audit {
        let mut audit = Audit {
            capacity_bytes: self.config.payload_len,
            free_bytes: self.units_to_bytes(self.allocator.free_units()),
            entry_count: u64::from(self.entries.entry_count()),
            ..Audit::default()
        };
        let mut faults = Vec::new();
        let mut linked = 0;
        let mut granted: HashMap<u32, u64> = HashMap::new();
        let (mut dirty_count, mut dirty_bytes) = (0, 0);
        for number in 0..self.entries.entry_count() {
            let entry = EntryNumber(number);
            let bytes = self.extent_bytes(entry);
            let state = self.entries.state(entry);
            let (count, sum) = match state {
                EntryState::Free => (&mut audit.free_count, None),
                EntryState::Reserved
                | EntryState::Committing
                | EntryState::Loading
                | EntryState::Granted => {
                    (&mut audit.reserved_count, Some(&mut audit.reserved_bytes))
                }
                EntryState::Committed => (&mut audit.object_count, Some(&mut audit.object_bytes)),
                EntryState::Zombie => (&mut audit.zombie_count, Some(&mut audit.zombie_bytes)),
                EntryState::Quarantine => (
                    &mut audit.quarantined_count,
                    Some(&mut audit.quarantined_bytes),
                ),
                EntryState::Revoked => (&mut audit.revoked_count, None),
                EntryState::Dirty => (&mut dirty_count, Some(&mut dirty_bytes)),
            };
            *count += 1;
            match sum {
                Some(sum) if bytes > 0 => *sum += bytes,
                None if bytes == 0 => {}
                _ => faults.push(format!("entry {number} is {state:?} and has {bytes} bytes")),
            }
            if state == EntryState::Granted
                && let Some(owner) = self.entries.owner(entry)
            {
                *granted.entry(owner).or_default() += bytes;
            }
            if matches!(
                state,
                EntryState::Reserved
                    | EntryState::Committing
                    | EntryState::Loading
                    | EntryState::Committed
            ) && !self.is_overtaken(entry)
            {
                linked += 1;
                let found = self
                    .key_of(entry)
                    .and_then(|key| self.index.find(&key, self.index.hash(&key)));
                if found != Some(entry) {
                    faults.push(format!("entry {number} is {state:?} and not linked"));
                }
            }
        }
        // While zombies are being freed, the list has places of those that are free already.
        let listed = self.zombies.len() as u64;
        if !matches!(self.scan, Some(ScanStage::Freeing { .. }))
            && listed != audit.zombie_count + audit.revoked_count
        {
            faults.push(format!(
                "{listed} entries are listed as unpublished; {} are zombies and {} revoked",
                audit.zombie_count, audit.revoked_count
            ));
        }
        if dirty_bytes != self.jobs.zeroing_bytes {
            faults.push(format!(
                "{dirty_bytes} bytes are dirty and {} are being zeroed",
                self.jobs.zeroing_bytes
            ));
        }
        // In the sums they are what zombies are: unpublished, and not free yet.
        audit.zombie_count += dirty_count;
        audit.zombie_bytes += dirty_bytes;
        self.audit_sums(&audit, linked, &mut faults);
        self.audit_keyspaces(&mut faults);
        for (slot, ledger) in self.sessions.iter().enumerate() {
            let Some(ledger) = ledger else {
                continue;
            };
            let pins = &ledger.lease.pins;
            audit.pin_count += (0..pins.scan_len())
                .filter(|slot| pins.scan(*slot).entry().is_some())
                .count() as u64;
            let held: u64 = ledger
                .reservations
                .values()
                .flat_map(|r| &r.entries)
                .map(|entry| self.extent_bytes(*entry))
                .sum::<u64>()
                + self.committing_bytes(ledger.id);
            let granted = granted.remove(&(slot as u32)).unwrap_or_default();
            if granted != ledger.granted_bytes {
                faults.push(format!(
                    "session {} is charged {} granted bytes and holds {granted}",
                    ledger.id.0, ledger.granted_bytes
                ));
            }
            let held = held + granted;
            if let Some(staging) = &ledger.staging {
                let (units, count) = staging.usage();
                let committing: usize = self
                    .commits
                    .of_session(ledger.id)
                    .map(|commit| commit.items.len())
                    .sum();
                let entries: usize = ledger.reservations.values().map(|r| r.entries.len()).sum();
                if self.units_to_bytes(units) != held || count != entries + committing {
                    faults.push(format!(
                        "session {} has {count} places of {units} units staged for {} entries of {held} bytes",
                        ledger.id.0,
                        entries + committing
                    ));
                }
                faults.extend(staging.fault());
            }
            if held != ledger.reserved_bytes {
                faults.push(format!(
                    "session {} is charged {} reserved bytes and holds {held}",
                    ledger.id.0, ledger.reserved_bytes
                ));
            }
        }
        let charged: u64 = self
            .sessions
            .iter()
            .flatten()
            .map(|l| l.granted_bytes)
            .sum();
        if charged != self.granted_bytes || !granted.is_empty() {
            faults.push(format!(
                "{} granted bytes are booked, {charged} charged, and sessions that have ended own {granted:?}",
                self.granted_bytes
            ));
        }
        faults.extend(self.audit_l2());
        audit.verdict = faults.join("; ");
        audit
    }

    /// What each keyspace uses, against its account, its quota and the order within it.
    fn audit_keyspaces(&self, faults: &mut Vec<String>) {
        let mut counted: HashMap<KeyspaceId, (u64, u32)> = HashMap::new();
        for number in 0..self.entries.entry_count() {
            let entry = EntryNumber(number);
            let state = self.entries.state(entry);
            if state == EntryState::Free {
                continue;
            }
            if let Some(key) = self.key_of(entry) {
                let (bytes, objects) = counted.entry(key.keyspace()).or_default();
                *bytes += self.extent_bytes(entry);
                *objects += u32::from(state == EntryState::Committed);
            }
        }
        for (keyspace, booked) in self.names.usage() {
            let (used, objects) = counted.remove(&keyspace).unwrap_or_default();
            if used != booked {
                faults.push(format!(
                    "keyspace {} uses {used} bytes and {booked} are booked",
                    keyspace.0
                ));
            }
            if used > self.keyspace_quota_bytes() {
                faults.push(format!(
                    "keyspace {} uses {used} bytes and its quota is {}",
                    keyspace.0,
                    self.keyspace_quota_bytes()
                ));
            }
            if let Some(listed) = self.policy.listed(keyspace)
                && listed != objects
            {
                faults.push(format!(
                    "keyspace {} has {objects} objects and {listed} in its order of eviction",
                    keyspace.0
                ));
            }
        }
        for (keyspace, (used, _)) in counted {
            faults.push(format!(
                "{used} bytes are of keyspace {}, which has no record",
                keyspace.0
            ));
        }
    }

    fn audit_sums(&self, audit: &Audit, linked: u64, faults: &mut Vec<String>) {
        let bytes = audit.object_bytes
            + audit.reserved_bytes
            + audit.zombie_bytes
            + audit.quarantined_bytes
            + audit.free_bytes;
        if bytes != self.units_to_bytes(self.allocator.capacity_units()) {
            faults.push(format!(
                "objects, reservations, zombies, quarantine and free bytes are {bytes}, the payload {}",
                audit.capacity_bytes
            ));
        }
        let charged: u64 = self
            .sessions
            .iter()
            .flatten()
            .map(|l| l.reserved_bytes)
            .sum::<u64>()
            + self
                .commits
                .iter()
                .filter(|commit| !self.session_slots.contains_key(&commit.session))
                .map(|commit| commit.bytes)
                .sum::<u64>()
            + self.ending_bytes();
        let loading = self.l2.loading_bytes();
        if audit.reserved_bytes + audit.quarantined_bytes != self.reserved_bytes + loading
            || charged != self.reserved_bytes
            || audit.quarantined_bytes != self.quarantined_bytes
        {
            faults.push(format!(
                "reserved bytes are {} and quarantined {}, booked {} and {}, charged {charged}, and {loading} are being loaded",
                audit.reserved_bytes,
                audit.quarantined_bytes,
                self.reserved_bytes,
                self.quarantined_bytes
            ));
        }
        if let Err(fault) = self.allocator.audit() {
            faults.push(fault);
        }
        let hash_of = |entry: EntryNumber| match self.key_of(entry) {
            Some(key) => self.index.hash(&key),
            None => KeyHash { h0: 0, h1: 0 },
        };
        match self.index.audit(hash_of) {
            Ok(count) if count == linked => {}
            Ok(count) => faults.push(format!(
                "the index links {count} entries; {linked} are reserved or committed"
            )),
            Err(fault) => faults.push(fault),
        }
    }
}
