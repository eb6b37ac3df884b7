//! An entry: the index's record of one key, one cache line.

crate::layout! {
    /// An entry. It is full; what concerns a whole keyspace is not repeated here.
    pub struct Entry [64] {
        /// Even and >= 2: readable; odd or 0: not. Only grows.
        0: seq: u64,
        /// [`crate::extent::Extent`], packed.
        8: extent: u64,
        /// [`crate::key::Key`].
        16: key: [u64; 6],
    }
}

/// Words of an entry.
pub const WORDS: usize = 8;
/// Word of the sequence number.
pub const SEQ: usize = 0;
/// Word of the extent.
pub const EXTENT: usize = 1;
/// First word of the key.
pub const KEY: usize = 2;
const _: () = assert!(WORDS * 8 == size_of::<Entry>() && WORDS == crate::view::Line::WORDS);

/// Whether an entry with this sequence number may be read.
#[inline]
pub fn is_readable(seq: u64) -> bool {
    seq & 1 == 0 && seq != 0
}

/// The sequence number that the next publish of an entry gives it.
#[inline]
pub fn next_published(seq: u64) -> u64 {
    (seq | 1) + 1
}
