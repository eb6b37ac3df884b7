//! The holes of the payload sorted by size into bins, with two levels of bitmaps that find a bin in a few instructions.
//!
//! Private to the allocator, on the daemon's loop thread. Each power of two is cut into 32 bins of equal width; sizes
//! below 64 units have a bin each. Bins are numbered without gaps in order of size:
//!
//! ```text
//! bin      0 .. 31   32 .. 63      64 .. 95         96 .. 127  ...  864 .. 895
//! holds    0 .. 31   32 .. 63      64,65 .. 126,127  128 .. 255      2^31 .. 2^32 - 1 units
//! width    1         1             2                4               2^26
//!
//! first    bit f: some bin of f * 32 .. f * 32 + 31 holds a hole
//! second   [f] bit s: bin f * 32 + s holds a hole
//! heads    [bin]: the hole that came last into this bin; the others follow by bin_next
//! ```

use super::nodes::{Nodes, pack_link, unpack_link};

const SUB_BITS: u32 = 5;
const SUB_COUNT: u32 = 1 << SUB_BITS;
/// One level for the sizes below 32, then one for each power of two up to 2^31.
const FIRST_COUNT: u32 = 1 + 32 - SUB_BITS;
/// How many bins there are.
pub(super) const BIN_COUNT: u32 = FIRST_COUNT * SUB_COUNT;

const _: () = assert!(
    FIRST_COUNT < u32::BITS,
    "the first bitmap is one u32 with a bit to spare"
);
const _: () = assert!(SUB_COUNT == u32::BITS, "a second bitmap is exactly one u32");
const _: () = assert!(bin_of(u32::MAX) == BIN_COUNT - 1);

/// How many holes of the bin that `units` itself falls into [`Bins::find`] looks at. Only some of them are long enough,
/// so the search must end somewhere; the one that was made last is looked at first.
pub(super) const FIND_SCAN_COUNT: u32 = 32;

/// How many holes of the highest bin [`Bins::largest_units`] looks at: below 0.1 ms even when each is a cache miss.
pub(super) const LARGEST_SCAN_COUNT: u32 = 1024;

/// The bin that holds holes of this many units.
pub(super) const fn bin_of(units: u32) -> u32 {
    if units < SUB_COUNT {
        return units;
    }
    let shift = units.ilog2() - SUB_BITS;
    // The leading one of `units >> shift` stands for SUB_COUNT, which is what makes bins of different powers contiguous.
    (shift << SUB_BITS) + (units >> shift)
}

/// The smallest size in a bin.
pub(super) const fn smallest_in(bin: u32) -> u32 {
    if bin < SUB_COUNT {
        return bin;
    }
    let shift = (bin >> SUB_BITS) - 1;
    (SUB_COUNT + (bin & (SUB_COUNT - 1))) << shift
}

/// The largest size in a bin.
pub(super) const fn largest_in(bin: u32) -> u32 {
    if bin + 1 < BIN_COUNT {
        smallest_in(bin + 1) - 1
    } else {
        u32::MAX
    }
}

/// The first bin all of whose holes hold `units`; [`BIN_COUNT`] when there is none.
pub(super) const fn bin_that_fits(units: u32) -> u32 {
    let bin = bin_of(units);
    if smallest_in(bin) == units {
        bin
    } else {
        bin + 1
    }
}

/// Lists of holes by size. The links of the lists are in the nodes.
pub(super) struct Bins {
    first: u32,
    second: [u32; FIRST_COUNT as usize],
    heads: [u32; BIN_COUNT as usize],
}

impl Bins {
    /// All bins empty.
    pub(super) fn new() -> Bins {
        Bins {
            first: 0,
            second: [0; FIRST_COUNT as usize],
            heads: [0; BIN_COUNT as usize],
        }
    }

    /// Puts a hole at the head of its bin.
    pub(super) fn push(&mut self, nodes: &mut Nodes, hole: u32) {
        let bin = bin_of(nodes.units(hole));
        let next = self.head(bin);
        nodes.set_bin_prev(hole, None);
        nodes.set_bin_next(hole, next);
        if let Some(next) = next {
            nodes.set_bin_prev(next, Some(hole));
        }
        self.set_head(bin, Some(hole));
    }

    /// Takes a hole out of its bin. Its `units` are still those it was pushed with.
    pub(super) fn remove(&mut self, nodes: &mut Nodes, hole: u32) {
        let prev = nodes.bin_prev(hole);
        let next = nodes.bin_next(hole);
        if let Some(next) = next {
            nodes.set_bin_prev(next, prev);
        }
        match prev {
            Some(prev) => nodes.set_bin_next(prev, next),
            None => self.set_head(bin_of(nodes.units(hole)), next),
        }
    }

    /// Whether a hole that becomes shorter by `units` stays where it is: taken out and pushed again it would be the first of
    /// the same bin, and it is.
    pub(super) fn stays_first_shorter(&self, nodes: &Nodes, hole: u32, units: u32) -> bool {
        let old = nodes.units(hole);
        old > units && self.stays_first(hole, old, old - units)
    }

    /// The same of a hole that becomes longer.
    pub(super) fn stays_first_longer(&self, nodes: &Nodes, hole: u32, units: u32) -> bool {
        let old = nodes.units(hole);
        self.stays_first(hole, old, old + units)
    }

    fn stays_first(&self, hole: u32, old: u32, new: u32) -> bool {
        let bin = bin_of(old);
        bin_of(new) == bin && self.head(bin) == Some(hole)
    }

    /// A hole of at least `units`.
    ///
    /// Two steps, each of bounded length:
    ///
    /// 1. The bin that `units` itself falls into, when some of its holes are too short: the first
    ///    [`FIND_SCAN_COUNT`] of its list are looked at one by one. This finds the exact fit, also when it is the last
    ///    hole of all. It comes first because it spares the longer holes: with sizes spread evenly from 16 KiB to
    ///    16 MiB in a payload that is kept 98 % full, 45 % of all evictions are for want of a hole, and 60 % when this
    ///    step comes second.
    /// 2. The lowest bin that holds a hole and whose holes are all long enough: its head is taken unseen.
    ///
    /// So the answer is `None` only when no hole of at least [`bin_that_fits`] is there (at most 1/32 above `units`)
    /// and no fitting hole is among the first [`FIND_SCAN_COUNT`] of the bin of `units`.
    pub(super) fn find(&self, nodes: &Nodes, units: u32) -> Option<u32> {
        let fits = bin_that_fits(units);
        let own = bin_of(units);
        if own != fits {
            let found = self
                .holes(nodes, own)
                .take(FIND_SCAN_COUNT as usize)
                .find(|&hole| nodes.units(hole) >= units);
            if found.is_some() {
                return found;
            }
        }
        self.head(self.first_in_use_from(fits)?)
    }

    /// The size of the largest hole, 0 without holes. Exact while the highest bin in use holds no more than
    /// [`LARGEST_SCAN_COUNT`] holes; else the largest of the first so many, which falls short by less than 1/32.
    pub(super) fn largest_units(&self, nodes: &Nodes) -> u32 {
        let Some(bin) = self.last_in_use() else {
            return 0;
        };
        let limit = largest_in(bin);
        let mut largest = 0;
        for hole in self.holes(nodes, bin).take(LARGEST_SCAN_COUNT as usize) {
            largest = largest.max(nodes.units(hole));
            if largest == limit {
                break;
            }
        }
        largest
    }

    /// The holes of a bin, the one that came last first.
    fn holes<'a>(&self, nodes: &'a Nodes, bin: u32) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::successors(self.head(bin), |&hole| nodes.bin_next(hole))
    }

    /// The hole that came last into a bin.
    pub(super) fn head(&self, bin: u32) -> Option<u32> {
        unpack_link(self.heads[bin as usize])
    }

    /// Whether the bitmaps say that a bin holds a hole: by the first, by the second.
    pub(super) fn bits(&self, bin: u32) -> (bool, bool) {
        let first = bin >> SUB_BITS;
        let second = self.second[first as usize];
        (
            self.first >> first & 1 == 1,
            second >> (bin & (SUB_COUNT - 1)) & 1 == 1,
        )
    }

    /// Whether a bin of the same first level holds a hole, by the second bitmap.
    pub(super) fn level_in_use(&self, bin: u32) -> bool {
        self.second[(bin >> SUB_BITS) as usize] != 0
    }

    fn set_head(&mut self, bin: u32, head: Option<u32>) {
        let first = bin >> SUB_BITS;
        let bit = 1 << (bin & (SUB_COUNT - 1));
        self.heads[bin as usize] = pack_link(head);
        let second = &mut self.second[first as usize];
        if head.is_some() {
            *second |= bit;
        } else {
            *second &= !bit;
        }
        if *second != 0 {
            self.first |= 1 << first;
        } else {
            self.first &= !(1 << first);
        }
    }

    fn first_in_use_from(&self, bin: u32) -> Option<u32> {
        if bin >= BIN_COUNT {
            return None;
        }
        let first = bin >> SUB_BITS;
        let here = self.second[first as usize] & (u32::MAX << (bin & (SUB_COUNT - 1)));
        if here != 0 {
            return Some((first << SUB_BITS) + here.trailing_zeros());
        }
        let above = self.first & (u32::MAX << (first + 1));
        if above == 0 {
            return None;
        }
        let first = above.trailing_zeros();
        Some((first << SUB_BITS) + self.second[first as usize].trailing_zeros())
    }

    fn last_in_use(&self) -> Option<u32> {
        let first = self.first.checked_ilog2()?;
        Some((first << SUB_BITS) + self.second[first as usize].ilog2())
    }
}

#[cfg(test)]
impl Bins {
    /// The first bitmap, for tests that plant damage.
    pub(super) fn first_mut(&mut self) -> &mut u32 {
        &mut self.first
    }

    /// The head of a bin as it is stored, for tests that plant damage.
    pub(super) fn head_mut(&mut self, bin: u32) -> &mut u32 {
        &mut self.heads[bin as usize]
    }
}
