//! What prefetches keep from being evicted: entries, each with the number of prefetches that keep it.
//!
//! A hold is no pin: it gives nobody the right to read. An object that somebody removes goes at once, and its holds with
//! it; a new object in the same entry has none.

use super::super::Store;
use super::super::entries::EntryState;
use super::super::numbers::NumberMap;
use hostkv_shm_protocol::id::EntryNumber;
use std::collections::HashMap;

/// The entries.
#[derive(Debug, Default)]
pub(super) struct Holds {
    counts: NumberMap<EntryNumber, u32>,
}

impl Holds {
    /// One more prefetch keeps the entry.
    pub(super) fn add(&mut self, entry: EntryNumber) {
        *self.counts.entry(entry).or_default() += 1;
    }

    /// One prefetch less; true when it was the last.
    pub(super) fn release(&mut self, entry: EntryNumber) -> bool {
        let Some(count) = self.counts.get_mut(&entry) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&entry);
            return true;
        }
        false
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, entry: EntryNumber) {
        // Nearly always there is none, and a table hashes before it looks.
        if !self.counts.is_empty() {
            self.counts.remove(&entry);
        }
    }

    /// Whether somebody keeps the entry.
    pub(super) fn contains(&self, entry: EntryNumber) -> bool {
        self.counts.contains_key(&entry)
    }
}

impl Store {
    pub(super) fn audit_holds(
        &self,
        mut counted: HashMap<EntryNumber, u32>,
        faults: &mut Vec<String>,
    ) {
        for (entry, booked) in &self.l2.holds.counts {
            let count = counted.remove(entry).unwrap_or_default();
            if count != *booked || self.entries.state(*entry) != EntryState::Committed {
                faults.push(format!(
                    "entry {} is {:?}, kept by {count} prefetches, and {booked} are booked",
                    entry.0,
                    self.entries.state(*entry)
                ));
            }
        }
        for entry in counted.into_keys() {
            faults.push(format!("entry {} is kept and not booked", entry.0));
        }
    }
}
