//! Nothing is ever evicted: a full pool answers NO_SPACE.

use super::Policy;
use crate::store::entries::EntryTable;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};

/// No order and no victims.
pub struct Noop;

impl Policy for Noop {
    fn insert(&mut self, _: &mut EntryTable, _: EntryNumber, _: Option<KeyspaceId>) {}

    fn touch(&mut self, _: &mut EntryTable, _: EntryNumber, _: Option<KeyspaceId>) {}

    fn remove(&mut self, _: &mut EntryTable, _: EntryNumber, _: Option<KeyspaceId>) {}

    fn victim(
        &mut self,
        _: &mut EntryTable,
        _: Option<KeyspaceId>,
        _: &dyn Fn(EntryNumber) -> bool,
        _: &mut u32,
    ) -> Option<EntryNumber> {
        None
    }

    fn follower(&self, _: &EntryTable, _: EntryNumber) -> Option<EntryNumber> {
        None
    }

    fn listed(&self, _: KeyspaceId) -> Option<u32> {
        None
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}
