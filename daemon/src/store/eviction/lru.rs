//! Least recently used first, by last release or commit.
//!
//! ```text
//!   all:            7 - 2 - 9 - 4 - 1        links of the entry table
//!   keyspace 1:     7 ----- 9 ------ 1       links of its own, 8 bytes an entry, only where a keyspace has a quota
//!   keyspace 2:         2 ----- 4
//! ```
//!
//! Where lists are long, each next victim is a cache miss that only the last victim leads to. So each entry notes which one
//! came to the hot end [`FOLLOWS`] places after it: that one goes as many places after it, unless one of the two is used before.

use super::Policy;
use crate::store::entries::EntryTable;
use crate::store::links::{EntryList, Link};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use std::collections::HashMap;

/// Places between an entry and its follower: by the time that as many victims are taken, a miss is over.
const FOLLOWS: usize = 16;

/// Exact LRU: a list from the hottest to the coldest entry, of all and of each keyspace.
pub struct Lru {
    all: EntryList,
    /// Lists that are not empty.
    by_keyspace: HashMap<KeyspaceId, EntryList>,
    links: Vec<Link>,
    /// What came to the hot end last, in turns; the oldest of them is at `newest_at`.
    newest: [Option<EntryNumber>; FOLLOWS],
    newest_at: usize,
}

impl Lru {
    /// An order of nothing yet, with room for the order of so many entries within their keyspaces.
    pub fn new(ordered_entries: u32) -> Lru {
        Lru {
            all: EntryList::default(),
            by_keyspace: HashMap::new(),
            links: vec![Link::default(); ordered_entries as usize],
            newest: [None; FOLLOWS],
            newest_at: 0,
        }
    }

    fn push(&mut self, table: &mut EntryTable, entry: EntryNumber) {
        table.push_front(&mut self.all, entry);
        if let Some(leader) = self.newest[self.newest_at].replace(entry) {
            table.set_follower(leader, entry);
        }
        self.newest_at = (self.newest_at + 1) % FOLLOWS;
    }

    fn leave(&mut self, entry: EntryNumber, keyspace: KeyspaceId) {
        if let Some(list) = self.by_keyspace.get_mut(&keyspace) {
            list.unlink(&mut self.links, entry);
            if list.count() == 0 {
                self.by_keyspace.remove(&keyspace);
            }
        }
    }
}

impl Policy for Lru {
    fn insert(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>) {
        self.push(table, entry);
        if let Some(keyspace) = of {
            let list = self.by_keyspace.entry(keyspace).or_default();
            list.push_front(&mut self.links, entry);
        }
    }

    fn touch(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>) {
        table.unlink(&mut self.all, entry);
        self.push(table, entry);
        if let Some(list) = of.and_then(|keyspace| self.by_keyspace.get_mut(&keyspace)) {
            list.unlink(&mut self.links, entry);
            list.push_front(&mut self.links, entry);
        }
    }

    fn remove(&mut self, table: &mut EntryTable, entry: EntryNumber, of: Option<KeyspaceId>) {
        table.unlink(&mut self.all, entry);
        if let Some(keyspace) = of {
            self.leave(entry, keyspace);
        }
    }

    fn victim(
        &mut self,
        table: &mut EntryTable,
        of: Option<KeyspaceId>,
        is_pinned: &dyn Fn(EntryNumber) -> bool,
        steps: &mut u32,
    ) -> Option<EntryNumber> {
        let count = match of {
            None => self.all.count(),
            Some(keyspace) => self.by_keyspace.get(&keyspace)?.count(),
        };
        // One round at most: what was passed over goes to the hot end, because a pinned object is in use now,
        // and so is not met again by the next call.
        for _ in 0..count {
            *steps = steps.checked_sub(1)?;
            match of {
                None => {
                    let entry = self.all.back()?;
                    if !is_pinned(entry) {
                        return Some(entry);
                    }
                    table.unlink(&mut self.all, entry);
                    self.push(table, entry);
                }
                Some(keyspace) => {
                    let list = self.by_keyspace.get_mut(&keyspace)?;
                    let entry = list.back()?;
                    if !is_pinned(entry) {
                        return Some(entry);
                    }
                    list.unlink(&mut self.links, entry);
                    list.push_front(&mut self.links, entry);
                }
            }
        }
        None
    }

    fn follower(&self, table: &EntryTable, entry: EntryNumber) -> Option<EntryNumber> {
        table.follower(entry)
    }

    fn listed(&self, of: KeyspaceId) -> Option<u32> {
        (!self.links.is_empty()).then(|| self.by_keyspace.get(&of).map_or(0, EntryList::count))
    }

    fn memory_bytes(&self) -> u64 {
        (self.links.capacity() * size_of::<Link>()
            + self.by_keyspace.capacity() * size_of::<(KeyspaceId, EntryList)>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<KeyspaceId> = Some(KeyspaceId(1));
    const B: Option<KeyspaceId> = Some(KeyspaceId(2));

    /// Entries 0 to 5, by turns of keyspace A and B.
    fn six() -> (EntryTable, Lru, Vec<EntryNumber>) {
        let mut table = EntryTable::new(6);
        let mut lru = Lru::new(6);
        let entries: Vec<_> = (0..6).map(|_| table.take(0).unwrap()).collect();
        for (entry, of) in entries.iter().zip([A, B].into_iter().cycle()) {
            lru.insert(&mut table, *entry, of);
        }
        (table, lru, entries)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut table, mut lru, e) = six();
        lru.touch(&mut table, e[0], A);
        assert_eq!(
            lru.victim(&mut table, None, &|_| false, &mut 100),
            Some(e[1])
        );
        lru.remove(&mut table, e[1], B);
        assert_eq!(
            lru.victim(&mut table, None, &|_| false, &mut 100),
            Some(e[2])
        );
    }

    #[test]
    fn a_keyspace_has_an_order_of_its_own() {
        let (mut table, mut lru, e) = six();
        let victim =
            |lru: &mut Lru, table: &mut EntryTable, of| lru.victim(table, of, &|_| false, &mut 100);
        assert_eq!(victim(&mut lru, &mut table, B), Some(e[1]));
        lru.touch(&mut table, e[1], B);
        assert_eq!(victim(&mut lru, &mut table, B), Some(e[3]));
        for entry in [e[1], e[3], e[5]] {
            lru.remove(&mut table, entry, B);
        }
        assert_eq!(victim(&mut lru, &mut table, B), None);
        assert_eq!(victim(&mut lru, &mut table, A), Some(e[0]));
        assert_eq!(lru.listed(KeyspaceId(1)), Some(3));
        assert_eq!(lru.listed(KeyspaceId(2)), Some(0));
    }

    #[test]
    fn an_entry_leads_to_the_one_that_goes_some_places_after_it() {
        let mut table = EntryTable::new(100);
        let mut lru = Lru::new(0);
        let entries: Vec<_> = (0..100).map(|_| table.take(0).unwrap()).collect();
        for entry in &entries {
            lru.insert(&mut table, *entry, None);
        }
        for (entry, follower) in entries.iter().zip(&entries[FOLLOWS..]) {
            assert_eq!(lru.follower(&table, *entry), Some(*follower));
        }
        assert_eq!(lru.follower(&table, entries[100 - FOLLOWS]), None);
        // What is used goes after what was the last, and others follow it.
        lru.touch(&mut table, entries[0], None);
        assert_eq!(
            lru.follower(&table, entries[100 - FOLLOWS]),
            Some(entries[0])
        );
        // So does what is passed over, because it is pinned.
        let victim = lru.victim(&mut table, None, &|entry| entry == entries[1], &mut 100);
        assert_eq!(victim, Some(entries[2]));
        let leader = entries[100 - FOLLOWS + 1];
        assert_eq!(lru.follower(&table, leader), Some(entries[1]));
    }

    #[test]
    fn pinned_entries_are_passed_over_and_a_full_round_ends() {
        for of in [None, A] {
            let (mut table, mut lru, e) = six();
            assert_eq!(
                lru.victim(&mut table, of, &|x| x != e[2], &mut 100),
                Some(e[2])
            );
            assert_eq!(lru.victim(&mut table, of, &|_| true, &mut 100), None);
            let mut steps = 1;
            assert_eq!(lru.victim(&mut table, of, &|x| x == e[2], &mut steps), None);
            assert_eq!(steps, 0);
        }
    }
}
