//! Which objects go first: the policy trait, and one file per policy.
//!
//! The store calls a policy on the loop's thread. A policy only orders committed entries; the store decides
//! when to evict and how much, unpublishes, scans, and frees.
//!
//! With a quota for each keyspace the store also asks for the victim *of one keyspace*, so a policy then keeps a second
//! order, that within each keyspace. It is told to by giving it the keyspace of each entry; without a quota that is none.

mod lru;
mod noop;

use super::entries::EntryTable;
use crate::config::EvictionPolicy;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};

/// An order of eviction over the committed entries.
pub trait Policy {
    /// An entry was committed.
    fn insert(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>);

    /// A committed entry was read.
    fn touch(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>);

    /// A committed entry is about to leave, for whatever reason.
    fn remove(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>);

    /// The entry that should go next, of all or of one keyspace, which the caller then removes. `is_pinned` tells what
    /// the last scan saw; pinned entries are passed over. `steps` bounds the entries looked at and is counted down.
    fn victim(
        &mut self,
        table: &mut EntryTable,
        of: Option<KeyspaceId>,
        is_pinned: &dyn Fn(EntryNumber) -> bool,
        steps: &mut u32,
    ) -> Option<EntryNumber>;

    /// An entry that most likely goes a little after this one, to be fetched ahead. It may have been used or have left since.
    fn follower(&self, table: &EntryTable, entry: EntryNumber) -> Option<EntryNumber>;

    /// How many entries of a keyspace are in the order within it; none where no such order is kept. For the audit.
    fn listed(&self, of: KeyspaceId) -> Option<u32>;

    /// Bytes of private memory.
    fn memory_bytes(&self) -> u64;
}

/// The policy of the configuration; `ordered_entries` entries are also ordered within their keyspace, 0 without a quota.
pub fn policy(kind: EvictionPolicy, ordered_entries: u32) -> Box<dyn Policy> {
    match kind {
        EvictionPolicy::Lru => Box::new(lru::Lru::new(ordered_entries)),
        EvictionPolicy::Noop => Box::new(noop::Noop),
    }
}
