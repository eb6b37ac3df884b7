//! The staging segment of one untrusted writer: which place in it belongs to which reserved entry.
//!
//! Each reserved entry of such a session has two extents of the same size: one in the payload, which the session can't
//! write, and one here, which it writes. The place is taken with the entry and given back when the entry is committed,
//! aborted, or gone. All of it is the daemon's private memory; the segment itself is only bytes.
//!
//! ```text
//!   reserve --> place taken --write--> COMMIT --> worker copies it into the payload --> place free, object readable
//!                       \--abort-----------------------------------------------------> place free
//! ```

use super::Store;
use super::allocator::Allocator;
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The places of one staging segment.
pub(super) struct Staging {
    /// The segment, for the copies.
    pub(super) file: Arc<OwnedFd>,
    places: Allocator,
    /// Numbers of the allocator that no entry has.
    spare: Vec<u32>,
    numbers: HashMap<EntryNumber, u32>,
}

impl Staging {
    fn new(file: OwnedFd, units: u32) -> Staging {
        Staging {
            file: Arc::new(file),
            places: Allocator::new(units, units),
            spare: (0..units).rev().collect(),
            numbers: HashMap::new(),
        }
    }

    /// A place of `units` for an entry; its offset in units, or none when no hole is large enough.
    pub(super) fn take(&mut self, entry: EntryNumber, units: u32) -> Option<u32> {
        let number = *self.spare.last()?;
        let offset = self.places.allocate(number, units)?;
        self.spare.pop();
        self.numbers.insert(entry, number);
        Some(offset)
    }

    /// Where an entry's place is, in units.
    pub(super) fn offset(&self, entry: EntryNumber) -> Option<u32> {
        let (offset, _) = self.places.extent(*self.numbers.get(&entry)?)?;
        Some(offset)
    }

    /// Takes an entry's place back, if it has one.
    pub(super) fn give_back(&mut self, entry: EntryNumber) {
        if let Some(number) = self.numbers.remove(&entry) {
            self.places.free(number);
            self.spare.push(number);
        }
    }

    /// How many units are taken, and for how many entries.
    pub(super) fn usage(&self) -> (u32, usize) {
        (self.places.used_units(), self.numbers.len())
    }

    /// What is wrong with the places, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        self.places.audit().err()
    }
}

impl Store {
    /// Gives a session the staging segment that it writes into instead of the payload.
    pub fn give_staging(&mut self, id: SessionId, file: OwnedFd, len_bytes: u64) {
        let units = u32::try_from(len_bytes / self.align()).unwrap_or(u32::MAX);
        if let Some((_, ledger)) = self.session_mut(id) {
            ledger.staging = Some(Staging::new(file, units));
        }
    }

    /// Whether a session writes into a staging segment.
    pub(super) fn has_staging(&self, slot: usize) -> bool {
        let ledger = self.sessions[slot].as_ref();
        ledger.is_some_and(|ledger| ledger.staging.is_some())
    }

    /// A place for an entry in its session's staging segment, 0 if that has none; none when it has no hole for it.
    pub(super) fn stage(&mut self, slot: usize, entry: EntryNumber, units: u32) -> Option<u32> {
        let ledger = self.sessions[slot].as_mut();
        match ledger.and_then(|ledger| ledger.staging.as_mut()) {
            None => Some(0),
            Some(staging) => staging.take(entry, units),
        }
    }

    /// Takes an entry's place in its session's staging segment back; nothing for all others.
    pub(super) fn unstage(&mut self, slot: usize, entry: EntryNumber) {
        let ledger = self.sessions[slot].as_mut();
        if let Some(staging) = ledger.and_then(|ledger| ledger.staging.as_mut()) {
            staging.give_back(entry);
        }
    }
}
