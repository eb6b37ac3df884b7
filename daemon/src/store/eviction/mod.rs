//! Which objects go first: the policy trait, and one file per policy.
//!
//! The store calls a policy on the loop's thread. A policy only orders committed entries; the store decides
//! when to evict and how much, unpublishes, scans, and frees.

mod lru;
mod noop;

use super::entries::EntryTable;
use crate::config::EvictionPolicy;
use hostkv_shm_protocol::id::EntryNumber;

/// An order of eviction over the committed entries.
pub trait Policy {
    /// An entry was committed.
    fn insert(&mut self, table: &mut EntryTable, entry: EntryNumber);

    /// A committed entry was read.
    fn touch(&mut self, table: &mut EntryTable, entry: EntryNumber);

    /// A committed entry is about to leave, for whatever reason.
    fn remove(&mut self, table: &mut EntryTable, entry: EntryNumber);

    /// The entry that should go next, which the caller then removes. `is_pinned` tells what the last scan saw;
    /// pinned entries are passed over. `steps` bounds the entries looked at and is counted down.
    fn victim(
        &mut self,
        table: &mut EntryTable,
        is_pinned: &dyn Fn(EntryNumber) -> bool,
        steps: &mut u32,
    ) -> Option<EntryNumber>;
}

/// The policy of the configuration.
pub fn policy(kind: EvictionPolicy) -> Box<dyn Policy> {
    match kind {
        EvictionPolicy::Lru => Box::new(lru::Lru::default()),
        EvictionPolicy::Noop => Box::new(noop::Noop),
    }
}
