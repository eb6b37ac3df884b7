//! What becomes of a session that pins more than its quota.
//!
//! A correct library answers QUOTA by itself and never comes here. The daemon counts distinct entries over slot words that
//! were equal in two successive scans, because one scan is no snapshot: a session that never held more than one pin can be
//! seen with two. What a session then still holds beyond its quota is void, the newest pins first: a later scan no longer
//! honours them, so their entries may be evicted, and a check or release of their lease says EXPIRED. The loop disconnects
//! the session. An entry that another session pins too is kept for that one.

use super::ledger::SeenPin;
use super::{Nanos, SECOND, Store};
use hostkv_shm_protocol::id::{EntryNumber, SessionId};
use std::collections::HashMap;

impl Store {
    /// The sessions that were found above their pin quota since the last call; they are to be disconnected.
    pub fn take_offenders(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.offenders)
    }

    /// Recounts a session whose pins may be above the quota, and voids what is beyond. `fence` is the time of the scan
    /// that is over: a word first seen by it has been seen only once.
    pub(super) fn void_beyond_quota(&mut self, slot: usize, fence: Nanos) {
        let quota = self.pin_quota_bytes();
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        // The recount looks at all slots at once; the sum that leads here counts an entry once for each pin, so an honest
        // session with many pins on few entries may come often.
        if fence.saturating_sub(ledger.last_recount) < SECOND {
            return;
        }
        ledger.last_recount = fence;
        let mut oldest: HashMap<EntryNumber, Nanos> = HashMap::new();
        for pin in steady(&ledger.seen, fence) {
            if let Some(entry) = pin.word.entry() {
                let since = oldest.entry(entry).or_insert(pin.since);
                *since = pin.since.min(*since);
            }
        }
        let mut entries: Vec<(Nanos, EntryNumber)> = oldest
            .into_iter()
            .map(|(entry, since)| (since, entry))
            .collect();
        entries.sort_unstable();
        let mut held = 0;
        entries.retain(|(_, entry)| {
            held += self.extent_bytes(*entry);
            held > quota
        });
        if entries.is_empty() {
            return;
        }
        let beyond: HashMap<EntryNumber, Nanos> = entries
            .into_iter()
            .map(|(since, entry)| (entry, since))
            .collect();
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        let mut voided = 0;
        for (at, pin) in ledger.seen.iter().enumerate() {
            let is_beyond = pin.word.entry().is_some_and(|e| beyond.contains_key(&e));
            if is_beyond && ledger.void_pins.insert(at, pin.word) != Some(pin.word) {
                voided += 1;
            }
        }
        if voided == 0 {
            return;
        }
        self.stats.voided_pins += voided;
        self.offenders.push(ledger.id);
        log::warn!(
            "Session {} pins {held} bytes and its quota is {quota}: its library is defective or hostile; its {voided} newest \
             pins are void and it is disconnected.",
            ledger.id.0
        );
    }
}

/// The pins that a scan before this one has seen too.
fn steady(seen: &[SeenPin], fence: Nanos) -> impl Iterator<Item = &SeenPin> {
    seen.iter().filter(move |pin| pin.since < fence)
}
