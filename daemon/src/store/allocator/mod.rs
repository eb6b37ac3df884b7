//! Which extents of the payload are taken, and by which entry.
//!
//! The store calls this for every key it reserves and every entry it gives up; everything runs on the daemon's loop
//! thread, and no call waits or fails other than by finding no hole. It is plain arithmetic on the daemon's private
//! heap: no byte of the payload is touched, and nothing of it lies in a segment.
//!
//! Offsets and sizes are counted in units of the daemon's alignment, so 32 bits reach 16 TiB at 4 KiB a unit.
//!
//! ```text
//! payload   | extent 7 | extent 2 |   hole   | extent 9 |      hole      |      by address: left and right
//!                                      |                        |
//!                           bin of its size            bin of its size         by size: bins and bitmaps
//! ```
//!
//! Extents and holes cover the payload without gap or overlap, and no two holes touch. Each is one node of 24 bytes
//! (`nodes.rs`). An extent's node has the number of the entry that holds it, so extents need no number of their own and
//! [`Allocator::free`] needs no search; holes have numbers above. All nodes are made at the start, and no call
//! allocates memory.
//!
//! * Allocate: find a hole by size (`bins.rs` says how good a fit), take its lower end, leave the rest as a shorter hole.
//! * Free: the extent becomes a hole and is joined at once with a hole on either side.
//!
//! Both are a fixed number of steps. [`Allocator::audit`] walks everything and is for the daemon's own check.

mod audit;
mod bins;
mod nodes;
#[cfg(test)]
mod tests;

use std::mem::size_of;

pub use audit::Audit;
use bins::Bins;
use nodes::Nodes;

/// Most entries an allocator can serve: their nodes and those of the holes have 32-bit numbers.
pub const MAX_ENTRY_COUNT: u32 = (1 << 31) - 1;

/// Extents of the payload by entry, and the holes between them.
pub struct Allocator {
    nodes: Nodes,
    bins: Bins,
    entry_count: u32,
    capacity_units: u32,
    free_units: u32,
    extent_count: u32,
    hole_count: u32,
    /// The node at offset 0; none only when the capacity is 0.
    lowest: Option<u32>,
    /// Hole numbers that were given back, as a list through `bin_next`.
    spare_hole: Option<u32>,
    /// The lowest hole number that was never in use; all above are unused too.
    fresh_hole: u32,
}

impl Allocator {
    /// An allocator of `capacity_units` that are all free, for entries 0 to `entry_count - 1`.
    ///
    /// Takes 24 bytes per entry, and as much of address space for holes, whose memory comes as their numbers come into use.
    ///
    /// # Panics
    ///
    /// When `entry_count` is above [`MAX_ENTRY_COUNT`].
    pub fn new(capacity_units: u32, entry_count: u32) -> Allocator {
        assert!(
            entry_count <= MAX_ENTRY_COUNT,
            "{entry_count} entries are more than the {MAX_ENTRY_COUNT} an allocator can serve"
        );
        let mut allocator = Allocator {
            nodes: Nodes::new(entry_count),
            bins: Bins::new(),
            entry_count,
            capacity_units,
            free_units: capacity_units,
            extent_count: 0,
            hole_count: 0,
            lowest: None,
            spare_hole: None,
            fresh_hole: entry_count,
        };
        if capacity_units > 0 {
            let hole = allocator.take_hole_number();
            allocator.place(hole, 0, capacity_units, None, None);
            allocator.bins.push(&mut allocator.nodes, hole);
        }
        allocator
    }

    /// Gives `entry` an extent of `units` and returns its offset in units, or `None` when no hole was found.
    ///
    /// A hole that is at least 1/32 longer than asked for is always found. Of holes that are closer than that, an
    /// exact fit included, the most recently made are found, also when they are the last; the rest may be missed.
    ///
    /// # Panics
    ///
    /// When `units` is 0, or `entry` is no entry of this allocator or holds an extent already.
    pub fn allocate(&mut self, entry: u32, units: u32) -> Option<u32> {
        assert!(units > 0, "entry {entry} asks for an extent of 0 units");
        assert!(
            entry < self.entry_count,
            "entry {entry} is not below the entry count {}",
            self.entry_count
        );
        assert!(
            self.nodes.units(entry) == 0,
            "entry {entry} asks for an extent while it holds one"
        );
        let hole = self.bins.find(&self.nodes, units)?;
        let offset = self.nodes.offset(hole);
        let left = self.nodes.left(hole);
        let right = self.nodes.right(hole);
        if self.bins.stays_first_shorter(&self.nodes, hole, units) {
            self.place(entry, offset, units, left, Some(hole));
            self.nodes.shrink_from_left(hole, units, entry);
            self.free_units -= units;
            self.extent_count += 1;
            return Some(offset);
        }
        self.bins.remove(&mut self.nodes, hole);
        if self.nodes.units(hole) == units {
            self.return_hole_number(hole);
            self.place(entry, offset, units, left, right);
        } else {
            self.place(entry, offset, units, left, Some(hole));
            self.nodes.shrink_from_left(hole, units, entry);
            self.bins.push(&mut self.nodes, hole);
        }
        self.free_units -= units;
        self.extent_count += 1;
        Some(offset)
    }

    /// Takes back the extent of `entry`.
    ///
    /// # Panics
    ///
    /// When `entry` is no entry of this allocator or holds no extent.
    pub fn free(&mut self, entry: u32) {
        let Some((mut offset, mut units)) = self.extent(entry) else {
            panic!("entry {entry} gives back an extent but holds none");
        };
        self.free_units += units;
        self.extent_count -= 1;
        let mut left = self.nodes.left(entry);
        let mut right = self.nodes.right(entry);
        self.nodes.clear(entry);
        if let Some(hole) = left
            && self.is_hole(hole)
            && right.is_none_or(|right| !self.is_hole(right))
            && self.bins.stays_first_longer(&self.nodes, hole, units)
        {
            self.nodes.grow_to_right(hole, units, right);
            if let Some(right) = right {
                self.nodes.set_left(right, Some(hole));
            }
            return;
        }
        let mut number = None;
        if let Some(hole) = left.filter(|&number| self.is_hole(number)) {
            self.bins.remove(&mut self.nodes, hole);
            offset = self.nodes.offset(hole);
            units += self.nodes.units(hole);
            left = self.nodes.left(hole);
            number = Some(hole);
        }
        if let Some(hole) = right.filter(|&number| self.is_hole(number)) {
            self.bins.remove(&mut self.nodes, hole);
            units += self.nodes.units(hole);
            right = self.nodes.right(hole);
            match number {
                None => number = Some(hole),
                Some(_) => self.return_hole_number(hole),
            }
        }
        let hole = number.unwrap_or_else(|| self.take_hole_number());
        self.place(hole, offset, units, left, right);
        self.bins.push(&mut self.nodes, hole);
    }

    /// Asks the CPU for the node of `entry`, which is to be looked at soon.
    #[inline]
    pub fn prefetch(&self, entry: u32) {
        self.nodes.prefetch(entry);
    }

    /// Asks the CPU for what [`Allocator::free`] of `entry` will look at beside its own node: those on both sides.
    #[inline]
    pub fn prefetch_sides(&self, entry: u32) {
        let sides = [self.nodes.left(entry), self.nodes.right(entry)];
        for node in sides.into_iter().flatten() {
            self.nodes.prefetch(node);
        }
    }

    /// Offset and size in units of the extent that `entry` holds; `None` when it holds none.
    pub fn extent(&self, entry: u32) -> Option<(u32, u32)> {
        if entry >= self.entry_count {
            return None;
        }
        match self.nodes.units(entry) {
            0 => None,
            units => Some((self.nodes.offset(entry), units)),
        }
    }

    /// The size of the payload.
    pub fn capacity_units(&self) -> u32 {
        self.capacity_units
    }

    /// The sum of all holes.
    pub fn free_units(&self) -> u32 {
        self.free_units
    }

    /// The sum of all extents.
    pub fn used_units(&self) -> u32 {
        self.capacity_units - self.free_units
    }

    /// The size of the largest hole, 0 when the payload is full.
    ///
    /// Exact unless more than 1024 holes lie within 1/32 of the largest; then it may fall short by less than 1/32,
    /// which keeps the call below 0.1 ms. [`Audit::largest_free_units`] is exact always.
    pub fn largest_free_units(&self) -> u32 {
        self.bins.largest_units(&self.nodes)
    }

    /// The memory that the allocator has reserved, all of it when it was made.
    pub fn memory_bytes(&self) -> u64 {
        self.nodes.memory_bytes() + size_of::<Allocator>() as u64
    }

    fn is_hole(&self, number: u32) -> bool {
        number >= self.entry_count
    }

    /// Writes a node and makes its neighbours point to it.
    fn place(
        &mut self,
        number: u32,
        offset: u32,
        units: u32,
        left: Option<u32>,
        right: Option<u32>,
    ) {
        self.nodes.set_span(number, offset, units, left, right);
        match left {
            Some(left) => self.nodes.set_right(left, Some(number)),
            None => self.lowest = Some(number),
        }
        if let Some(right) = right {
            self.nodes.set_left(right, Some(number));
        }
    }

    /// A number for a new hole. There is one: between `n` extents lie at most `n + 1` holes.
    fn take_hole_number(&mut self) -> u32 {
        self.hole_count += 1;
        match self.spare_hole {
            Some(number) => {
                self.spare_hole = self.nodes.bin_next(number);
                number
            }
            None => {
                self.fresh_hole += 1;
                self.fresh_hole - 1
            }
        }
    }

    /// Takes back the number of a hole that is no longer in any bin.
    fn return_hole_number(&mut self, number: u32) {
        self.hole_count -= 1;
        self.nodes.clear(number);
        self.nodes.set_bin_next(number, self.spare_hole);
        self.spare_hole = Some(number);
    }
}
