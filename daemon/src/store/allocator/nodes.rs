//! The node table: one 24-byte record for every extent and every hole of the payload.
//!
//! Private to the allocator, which alone reads and writes it, on the daemon's loop thread. The table lies in the
//! daemon's own heap, never in a segment: no client can reach the allocator's state.
//!
//! ```text
//! number   0 ............ entry_count - 1 | entry_count ............ 2 * entry_count
//! stands   the extent of the entry that   | a hole (at most one between and beside
//! for      has this number                |  entry_count extents, so entry_count + 1)
//!
//! word     0        1       2      3       4          5
//!          offset   units   left   right   bin_prev   bin_next
//!                           \_ address _/  \_ same bin, holes only _/
//! ```
//!
//! A node whose `units` is 0 stands for nothing. A link holds the number of a node plus one, 0 means none. So the
//! all-zero table is the empty table. The extents' half is written at the start. The holes' half comes as zeroed pages: numbers
//! that were given back are used again before fresh ones, so no more of it is ever touched than there were holes at one time,
//! which is far fewer than entries.

use crate::store::resident::{make_resident, prefetch};
use std::mem::size_of;

/// The words of one node; the module's story names them.
///
/// A bare array and not a struct, because `vec!` asks the system for zeroed pages only for element types that it knows
/// to be zero, and it knows arrays of integers.
pub(super) type NodeWords = [u32; 6];

const _: () = assert!(size_of::<NodeWords>() == 24);

const OFFSET: usize = 0;
const UNITS: usize = 1;
const LEFT: usize = 2;
const RIGHT: usize = 3;
const BIN_PREV: usize = 4;
const BIN_NEXT: usize = 5;

/// A link as it is stored: 0 for none, else the node's number plus one.
pub(super) const fn pack_link(link: Option<u32>) -> u32 {
    match link {
        Some(number) => number + 1,
        None => 0,
    }
}

/// The inverse of [`pack_link`].
pub(super) const fn unpack_link(word: u32) -> Option<u32> {
    word.checked_sub(1)
}

/// All nodes, made whole and never resized.
pub(super) struct Nodes {
    words: Box<[NodeWords]>,
}

impl Nodes {
    /// A table of nodes that stand for nothing, for so many entries and the holes between their extents.
    pub(super) fn new(entry_count: u32) -> Nodes {
        let mut words: Box<[NodeWords]> =
            vec![[0; 6]; 2 * entry_count as usize + 1].into_boxed_slice();
        make_resident(&mut words[..entry_count as usize], [0; 6]);
        Nodes { words }
    }

    /// Asks the CPU for a node that is to be looked at soon.
    #[inline]
    pub(super) fn prefetch(&self, number: u32) {
        prefetch(&self.words, number as usize);
    }

    /// How many nodes the table has.
    pub(super) fn count(&self) -> u32 {
        self.words.len() as u32
    }

    /// The size of the table.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.words.len() as u64 * size_of::<NodeWords>() as u64
    }

    /// Where the extent or hole begins.
    pub(super) fn offset(&self, number: u32) -> u32 {
        self.words[number as usize][OFFSET]
    }

    /// How long the extent or hole is; 0 for a node that stands for nothing.
    pub(super) fn units(&self, number: u32) -> u32 {
        self.words[number as usize][UNITS]
    }

    /// The neighbour at the next lower address.
    pub(super) fn left(&self, number: u32) -> Option<u32> {
        unpack_link(self.words[number as usize][LEFT])
    }

    /// The neighbour at the next higher address.
    pub(super) fn right(&self, number: u32) -> Option<u32> {
        unpack_link(self.words[number as usize][RIGHT])
    }

    /// The hole before this one in the list of its bin.
    pub(super) fn bin_prev(&self, number: u32) -> Option<u32> {
        unpack_link(self.words[number as usize][BIN_PREV])
    }

    /// The hole after this one in the list of its bin; of a hole number not in use, the next such number.
    pub(super) fn bin_next(&self, number: u32) -> Option<u32> {
        unpack_link(self.words[number as usize][BIN_NEXT])
    }

    /// Writes a node's place in the payload; its bin links become none.
    pub(super) fn set_span(
        &mut self,
        number: u32,
        offset: u32,
        units: u32,
        left: Option<u32>,
        right: Option<u32>,
    ) {
        self.words[number as usize] = [offset, units, pack_link(left), pack_link(right), 0, 0];
    }

    /// Moves the beginning of a node up by `units`, past a new left neighbour.
    pub(super) fn shrink_from_left(&mut self, number: u32, units: u32, left: u32) {
        let words = &mut self.words[number as usize];
        words[OFFSET] += units;
        words[UNITS] -= units;
        words[LEFT] = pack_link(Some(left));
    }

    /// Moves the end of a node up by `units`, to its new right neighbour.
    pub(super) fn grow_to_right(&mut self, number: u32, units: u32, right: Option<u32>) {
        let words = &mut self.words[number as usize];
        words[UNITS] += units;
        words[RIGHT] = pack_link(right);
    }

    pub(super) fn set_left(&mut self, number: u32, left: Option<u32>) {
        self.words[number as usize][LEFT] = pack_link(left);
    }

    pub(super) fn set_right(&mut self, number: u32, right: Option<u32>) {
        self.words[number as usize][RIGHT] = pack_link(right);
    }

    pub(super) fn set_bin_prev(&mut self, number: u32, prev: Option<u32>) {
        self.words[number as usize][BIN_PREV] = pack_link(prev);
    }

    pub(super) fn set_bin_next(&mut self, number: u32, next: Option<u32>) {
        self.words[number as usize][BIN_NEXT] = pack_link(next);
    }

    /// Makes a node stand for nothing.
    pub(super) fn clear(&mut self, number: u32) {
        self.words[number as usize] = [0; 6];
    }

    /// Whether every word of a node is zero.
    pub(super) fn is_clear(&self, number: u32) -> bool {
        self.words[number as usize] == [0; 6]
    }
}

#[cfg(test)]
impl Nodes {
    /// One word of one node, for tests that plant damage.
    pub(super) fn word_mut(&mut self, number: u32, word: usize) -> &mut u32 {
        &mut self.words[number as usize][word]
    }
}
