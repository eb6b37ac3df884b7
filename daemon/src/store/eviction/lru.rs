//! Least recently used first, by last release or commit.

use super::Policy;
use crate::store::entries::EntryTable;
use crate::store::links::EntryList;
use hostkv_shm_protocol::id::EntryNumber;

/// Exact LRU: a list from the hottest to the coldest entry.
#[derive(Default)]
pub struct Lru {
    list: EntryList,
}

impl Policy for Lru {
    fn insert(&mut self, table: &mut EntryTable, entry: EntryNumber) {
        table.push_front(&mut self.list, entry);
    }

    fn touch(&mut self, table: &mut EntryTable, entry: EntryNumber) {
        table.unlink(&mut self.list, entry);
        table.push_front(&mut self.list, entry);
    }

    fn remove(&mut self, table: &mut EntryTable, entry: EntryNumber) {
        table.unlink(&mut self.list, entry);
    }

    fn victim(
        &mut self,
        table: &mut EntryTable,
        is_pinned: &dyn Fn(EntryNumber) -> bool,
        steps: &mut u32,
    ) -> Option<EntryNumber> {
        // One round at most: what was passed over goes to the hot end, because a pinned object is in use now,
        // and so is not met again by the next call.
        for _ in 0..self.list.count() {
            *steps = steps.checked_sub(1)?;
            let entry = self.list.back()?;
            if !is_pinned(entry) {
                return Some(entry);
            }
            self.touch(table, entry);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (EntryTable, Lru, Vec<EntryNumber>) {
        let mut table = EntryTable::new(3);
        let mut lru = Lru::default();
        let entries: Vec<_> = (0..3).map(|_| table.take(0).unwrap()).collect();
        for entry in &entries {
            lru.insert(&mut table, *entry);
        }
        (table, lru, entries)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut table, mut lru, e) = three();
        lru.touch(&mut table, e[0]);
        assert_eq!(lru.victim(&mut table, &|_| false, &mut 100), Some(e[1]));
        lru.remove(&mut table, e[1]);
        assert_eq!(lru.victim(&mut table, &|_| false, &mut 100), Some(e[2]));
    }

    #[test]
    fn pinned_entries_are_passed_over_and_a_full_round_ends() {
        let (mut table, mut lru, e) = three();
        assert_eq!(lru.victim(&mut table, &|x| x != e[2], &mut 100), Some(e[2]));
        assert_eq!(lru.victim(&mut table, &|_| true, &mut 100), None);
        let mut steps = 1;
        assert_eq!(lru.victim(&mut table, &|x| x != e[1], &mut steps), None);
        assert_eq!(steps, 0);
    }
}
