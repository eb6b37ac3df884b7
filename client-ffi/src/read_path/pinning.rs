//! Pinning what was found, and unpinning it.
//!
//! ```text
//!   Found --slot, note--> Named --R3, all--> R4, once --R5: still there--> Pinned --R7--> slot free
//!     |                     |                             \\--gone--> slot free, NotFound
//!     \--no slot, gate----- \--beyond the quota--> Found again, which ends as Quota or NotFound
//! ```

use super::{Item, Pins, Place, ReadPath, Shortage};
use crate::pin_slots::Wanted;
use hostkv_shm_protocol::lease::pins::pin_fence;
use hostkv_shm_protocol::sync::Ordering;

impl ReadPath {
    /// Pins the found keys, of which there are `found_count` (R3 to R5); gives how many it pinned. A key that is gone by
    /// then was not found; without `is_all` it ends the run, and the pins behind it are cleared again.
    pub(super) fn pin_found(&self, found_count: usize, is_all: bool, pins: &mut Pins) -> usize {
        let named_count = self.name_found(found_count, pins);
        if pins.shortage.is_some() {
            end_run_at_shortage(&mut pins.items);
        }
        if named_count == 0 {
            return 0;
        }
        // R4: once for the batch.
        pin_fence();
        // A copy, as in `find_each`.
        let index = self.index;
        let mut pinned_count = named_count;
        let mut run_end = None;
        for (at, item) in pins.items.iter_mut().enumerate() {
            let Place::Named(slot) = item.place else {
                continue;
            };
            if index.is_current(&item.found) {
                item.place = Place::Pinned(slot);
            } else if is_all {
                *item = Item::NOT_FOUND;
                self.unpin([slot].into_iter());
                pinned_count -= 1;
            } else {
                run_end = Some(at);
                break;
            }
        }
        if let Some(end) = run_end {
            let behind = &mut pins.items[end..];
            pinned_count -= behind.iter().filter_map(Item::named).count();
            self.unpin(behind.iter().filter_map(Item::named));
            behind.fill(Item::NOT_FOUND);
            pins.shortage = None;
        }
        pinned_count
    }

    /// Takes slots for the found keys, as far as slots and quota allow, and names their entries there (up to and
    /// with R3); gives how many. Found keys that got none stay [`Place::Found`]; [`Pins::shortage`] then says why.
    pub(super) fn name_found(&self, found_count: usize, pins: &mut Pins) -> usize {
        if found_count == 0 {
            return 0;
        }
        // Relaxed: the gate asks for moderation and guards no data.
        if self.header.pin_gate().load(Ordering::Relaxed) != 0 {
            pins.shortage = Some(Shortage::Gate);
            return 0;
        }
        let unit = self.unit;
        let mut units = 0;
        let mut found = pins.items.iter_mut().filter(|i| i.place == Place::Found);
        let taken = self.pool.take(found_count, |slot, note| {
            if let Some(item) = found.next() {
                item.place = Place::Named(slot);
                let of_item = unit.count(item.found.extent);
                note.note(item.found.entry, of_item);
                units += u64::from(of_item);
            }
        });
        let mut named_count = taken.count;
        if named_count < found_count {
            pins.shortage = Some(Shortage::Slots);
        }
        if !self.pool.add(units) {
            named_count = self.refuse_beyond_quota(named_count, pins);
        }
        if named_count != 0 {
            self.slots.raise_high_water(taken.slots_end);
        }
        let slots = self.slots;
        for item in &pins.items {
            if let Place::Named(slot) = item.place {
                slots.publish(slot as usize, item.found.entry);
            }
        }
        named_count
    }

    /// Counts distinct entries, because the sum passes the quota, and takes the slots back from the named keys that the
    /// quota does not allow; gives how many stay named.
    #[cold]
    fn refuse_beyond_quota(&self, named_count: usize, pins: &mut Pins) -> usize {
        let Pins { items, quota, .. } = pins;
        quota.wanted.clear();
        let named = items.iter().filter_map(|item| Some((item.named()?, item)));
        quota
            .wanted
            .extend(named.map(|(slot, item)| self.wanted(slot, item)));
        let admitted = self.pool.count_distinct(quota);
        if admitted == named_count {
            return admitted;
        }
        pins.shortage = Some(Shortage::Bytes);
        let mut refused = quota.wanted[admitted..].iter().map(|want| want.slot);
        let mut forgotten = self.pool.forgotten();
        refused.clone().for_each(|slot| forgotten.add(slot));
        forgotten.finish();
        // Items and wanted pins are in the same order.
        let mut next = refused.next();
        for item in items.iter_mut() {
            if next.is_some() && item.named() == next {
                item.place = Place::Found;
                next = refused.next();
            }
        }
        admitted
    }

    /// Clears the pins at `lost`, whose entries were not committed after all; they stand as not found then.
    pub(crate) fn unpin_lost(&self, lost: impl Iterator<Item = usize>, pins: &mut Pins) {
        for at in lost {
            let item = &mut pins.items[at];
            let slot = item.pinned();
            *item = Item::NOT_FOUND;
            self.unpin(slot.into_iter());
        }
        pins.count();
    }

    /// Clears slots that this lease owns (R7) and gives them back.
    #[inline]
    pub(super) fn unpin(&self, slots: impl Iterator<Item = u32>) {
        let pin_slots = self.slots;
        let mut forgotten = self.pool.forgotten();
        for slot in slots {
            pin_slots.clear(slot as usize);
            forgotten.add(slot);
        }
        forgotten.finish();
    }

    #[inline]
    fn wanted(&self, slot: u32, item: &Item) -> Wanted {
        Wanted {
            slot,
            entry: item.found.entry,
            units: self.unit.count(item.found.extent),
        }
    }
}

/// The first found key without a pin says QUOTA, those behind it are not found.
#[cold]
fn end_run_at_shortage(items: &mut [Item]) {
    let mut unpinned = items.iter_mut().filter(|item| item.place == Place::Found);
    if let Some(first) = unpinned.next() {
        first.place = Place::Quota;
    }
    unpinned.for_each(|item| *item = Item::NOT_FOUND);
}
