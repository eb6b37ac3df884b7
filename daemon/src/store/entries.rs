//! What the daemon alone knows of each entry: its state, its owner, its place in the eviction order.
//!
//! Called by the store on the loop's thread. Private memory, 20 bytes and a bit an entry, allocated whole at start.
//!
//! ```text
//!                                  commit --> Committing
//!                                      |         | its sums are there
//!                    reserve           |         v     unpublish
//!        +--> Free ----------> Reserved -----> Committed -----------> Zombie
//!        |     ^  ^  abort,      |  |  time to live                         |  |
//!        |     |  +--- death ----+  +----> Quarantine                       |  | every pin is void
//!        |     +---- abort, death ------------+         no slot names it    |  v
//!        +------------------------------------------------------------------+ Revoked
//!        +--------------------------------- no slot names it ------------------+
//! ```
//!
//! Nothing but the end of its work takes an entry out of Committing: it has no owner who could. So it is with Loading, a
//! reservation of the daemon itself that a tier fills: Free --prefetch--> Loading --loaded--> Committed, or Free again when
//! no tier gave it.
//!
//! With `--zero-on-reuse` an extent that is given back is zeroed before anybody gets it: every arrow to Free, or from Zombie
//! to Revoked, goes by way of Dirty, where the entry keeps its number and its extent until a worker has done so.
//!
//! An extent that is granted ahead of need is Granted until its session names a key for it: Free --GRANT--> Granted --linked-->
//! Committing --> Committed, or Free again by RETURN or death.
//!
//! Committed entries are linked in the eviction order, free ones in the free list, granted ones in their session's list; all
//! use the same two links, because an entry is never in two of them.

use super::links::{EntryList, Link, Linked, NONE};
use super::resident::{prefetch, resident};
use hostkv_shm_protocol::id::EntryNumber;

/// Where an entry is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryState {
    /// In the free list.
    Free = 0,
    /// Holds an extent that its owner writes; linked in the index, not readable.
    Reserved = 1,
    /// Readable.
    Committed = 2,
    /// Unpublished and not in the index; its extent stays until a scan finds no pin on it.
    Zombie = 3,
    /// Its reservation expired; not in the index; its extent stays until the writer aborts or ends.
    Quarantine = 4,
    /// Its pins are void and its extent is gone; the number stays until no slot names it.
    Revoked = 5,
    /// Given back; not in the index; a worker zeroes its extent.
    Dirty = 6,
    /// Its COMMIT was taken up and waits for workers; linked in the index, not readable, owned by nobody.
    Committing = 7,
    /// Holds an extent that a tier fills; linked in the index, not readable, owned by nobody.
    Loading = 8,
    /// Holds an extent that its owner has ahead of need; has no key.
    Granted = 9,
}

const STATE_SHIFT: u32 = 28;
const OWNER_MASK: u32 = (1 << STATE_SHIFT) - 1;

/// Most sessions that an owner field can tell apart.
pub const MAX_OWNERS: u32 = OWNER_MASK;

#[derive(Clone, Copy)]
struct Aux {
    link: Link,
    /// State in the top 4 bits, owner (a session's slot) in the low 28.
    state_and_owner: u32,
    /// Second of CLOCK_MONOTONIC in which it was last committed.
    committed_s: u32,
    /// The entry that most likely leaves some places behind this one.
    follower: u32,
}

impl Linked for Aux {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// All entries' records, the free list, and the links of the eviction order.
pub struct EntryTable {
    aux: Vec<Aux>,
    free_head: u32,
    counts: [u32; 10],
    /// A bit for each entry: whether it is committed. Who looks for the next such entry passes 64 others at once.
    committed: Box<[u64]>,
}

impl EntryTable {
    /// `entry_count` free entries; the lowest numbers are taken first.
    pub fn new(entry_count: u32) -> EntryTable {
        let aux = (0..entry_count)
            .map(|i| Aux {
                link: Link {
                    prev: NONE,
                    next: if i + 1 < entry_count { i + 1 } else { NONE },
                },
                state_and_owner: OWNER_MASK,
                committed_s: 0,
                follower: NONE,
            })
            .collect();
        EntryTable {
            aux,
            free_head: if entry_count > 0 { 0 } else { NONE },
            counts: [entry_count, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            committed: resident(entry_count.div_ceil(64) as usize, 0),
        }
    }

    /// Number of entries.
    pub fn entry_count(&self) -> u32 {
        self.aux.len() as u32
    }

    /// Entries in a state.
    pub fn count(&self, state: EntryState) -> u32 {
        self.counts[state as usize]
    }

    /// Entries that are not free.
    pub fn used(&self) -> u32 {
        self.entry_count() - self.count(EntryState::Free)
    }

    /// Whether the number is one of this table's; what a client said must be asked.
    pub fn contains(&self, entry: EntryNumber) -> bool {
        entry.0 < self.entry_count()
    }

    /// State of an entry.
    pub fn state(&self, entry: EntryNumber) -> EntryState {
        match self.aux[entry.index()].state_and_owner >> STATE_SHIFT {
            0 => EntryState::Free,
            1 => EntryState::Reserved,
            2 => EntryState::Committed,
            3 => EntryState::Zombie,
            4 => EntryState::Quarantine,
            5 => EntryState::Revoked,
            6 => EntryState::Dirty,
            7 => EntryState::Committing,
            8 => EntryState::Loading,
            _ => EntryState::Granted,
        }
    }

    /// The session slot that owns a reserved, granted or quarantined entry.
    pub fn owner(&self, entry: EntryNumber) -> Option<u32> {
        let owner = self.aux[entry.index()].state_and_owner & OWNER_MASK;
        (owner != OWNER_MASK).then_some(owner)
    }

    /// Moves an entry to another state; Reserved, Granted and Quarantine have an owner, the others have none.
    pub fn set_state(&mut self, entry: EntryNumber, state: EntryState, owner: Option<u32>) {
        let old = self.state(entry);
        self.counts[old as usize] -= 1;
        self.counts[state as usize] += 1;
        if (old == EntryState::Committed) != (state == EntryState::Committed) {
            self.committed[entry.index() / 64] ^= 1 << (entry.0 % 64);
        }
        self.aux[entry.index()].state_and_owner =
            (state as u32) << STATE_SHIFT | owner.unwrap_or(OWNER_MASK) & OWNER_MASK;
    }

    /// The first committed entry from `first` on and below `end`.
    pub fn next_committed(&self, first: u32, end: u32) -> Option<EntryNumber> {
        let end = end.min(self.entry_count());
        let mut at = first;
        while at < end {
            let bits = self.committed[at as usize / 64] >> (at % 64);
            if bits != 0 {
                at += bits.trailing_zeros();
                return (at < end).then_some(EntryNumber(at));
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Moves a reserved entry to Committed, in this second of CLOCK_MONOTONIC.
    pub fn commit(&mut self, entry: EntryNumber, now_s: u64) {
        self.set_state(entry, EntryState::Committed, None);
        // 136 years after the host's start.
        self.aux[entry.index()].committed_s = u32::try_from(now_s).unwrap_or(u32::MAX);
    }

    /// The second of CLOCK_MONOTONIC in which an entry was last committed.
    pub fn committed_s(&self, entry: EntryNumber) -> u32 {
        self.aux[entry.index()].committed_s
    }

    /// Takes a free entry for `owner`, in state Reserved.
    pub fn take(&mut self, owner: u32) -> Option<EntryNumber> {
        if self.free_head == NONE {
            return None;
        }
        let entry = EntryNumber(self.free_head);
        self.free_head = self.aux[entry.index()].link.next;
        self.aux[entry.index()].link = Link::default();
        self.set_state(entry, EntryState::Reserved, Some(owner));
        Some(entry)
    }

    /// Gives an entry back to the free list.
    pub fn give_back(&mut self, entry: EntryNumber) {
        debug_assert_ne!(self.state(entry), EntryState::Free);
        self.set_state(entry, EntryState::Free, None);
        self.aux[entry.index()].link = Link {
            prev: NONE,
            next: self.free_head,
        };
        self.free_head = entry.0;
    }

    /// Puts an entry at the hot end of a list.
    pub fn push_front(&mut self, list: &mut EntryList, entry: EntryNumber) {
        list.push_front(&mut self.aux, entry);
    }

    /// Takes an entry out of the list that it is in.
    pub fn unlink(&mut self, list: &mut EntryList, entry: EntryNumber) {
        list.unlink(&mut self.aux, entry);
    }

    /// The entry that most likely leaves some places behind this one, as the eviction order noted it.
    pub fn follower(&self, entry: EntryNumber) -> Option<EntryNumber> {
        let follower = self.aux[entry.index()].follower;
        (follower != NONE).then_some(EntryNumber(follower))
    }

    /// Notes what [`EntryTable::follower`] gives.
    pub fn set_follower(&mut self, entry: EntryNumber, follower: EntryNumber) {
        self.aux[entry.index()].follower = follower.0;
    }

    /// Asks the CPU for the record of an entry that is to be looked at soon.
    #[inline]
    pub fn prefetch(&self, entry: EntryNumber) {
        prefetch(&self.aux, entry.index());
    }

    /// Bytes of private memory.
    pub fn memory_bytes(&self) -> u64 {
        (self.aux.capacity() * size_of::<Aux>() + self.committed.len() * size_of::<u64>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_lowest_first_and_come_back() {
        let mut table = EntryTable::new(3);
        let taken: Vec<_> = (0..3).map(|_| table.take(7).unwrap()).collect();
        assert_eq!(taken, [EntryNumber(0), EntryNumber(1), EntryNumber(2)]);
        assert_eq!(table.take(7), None);
        assert_eq!(table.owner(EntryNumber(1)), Some(7));
        table.give_back(EntryNumber(1));
        assert_eq!(table.owner(EntryNumber(1)), None);
        assert_eq!(table.used(), 2);
        assert_eq!(table.take(8), Some(EntryNumber(1)));
    }

    #[test]
    fn the_next_committed_entry_is_found_wherever_it_is() {
        let mut table = EntryTable::new(300);
        let all: Vec<_> = (0..300).map(|_| table.take(0).unwrap()).collect();
        assert_eq!(table.next_committed(0, 300), None);
        for number in [0, 63, 64, 200, 299] {
            table.commit(all[number], 7);
        }
        table.set_state(all[64], EntryState::Zombie, None);
        let mut found = Vec::new();
        let mut first = 0;
        while let Some(entry) = table.next_committed(first, 300) {
            found.push(entry.0);
            first = entry.0 + 1;
        }
        assert_eq!(found, [0, 63, 200, 299]);
        assert_eq!(table.next_committed(64, 200), None);
        assert_eq!(table.next_committed(64, 201), Some(all[200]));
        table.give_back(all[299]);
        assert_eq!(table.next_committed(201, 1000), None);
    }

    #[test]
    fn a_list_keeps_its_order_through_pushes_and_unlinks() {
        let mut table = EntryTable::new(4);
        let mut list = EntryList::default();
        let e: Vec<_> = (0..4).map(|_| table.take(0).unwrap()).collect();
        for entry in &e {
            table.push_front(&mut list, *entry);
        }
        table.unlink(&mut list, e[0]);
        table.unlink(&mut list, e[2]);
        assert_eq!((list.back(), list.count()), (Some(e[1]), 2));
        table.unlink(&mut list, e[1]);
        assert_eq!(list.back(), Some(e[3]));
        table.unlink(&mut list, e[3]);
        assert_eq!((list.back(), list.count()), (None, 0));
    }
}
