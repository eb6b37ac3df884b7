//! Nothing is ever evicted: a full pool answers NO_SPACE.

use super::Policy;
use crate::store::entries::EntryTable;
use hostkv_shm_protocol::id::EntryNumber;

/// No order and no victims.
pub struct Noop;

impl Policy for Noop {
    fn insert(&mut self, _: &mut EntryTable, _: EntryNumber) {}

    fn touch(&mut self, _: &mut EntryTable, _: EntryNumber) {}

    fn remove(&mut self, _: &mut EntryTable, _: EntryNumber) {}

    fn victim(
        &mut self,
        _: &mut EntryTable,
        _: &dyn Fn(EntryNumber) -> bool,
        _: &mut u32,
    ) -> Option<EntryNumber> {
        None
    }
}
