//! A bucket: one cache line of the index.

crate::layout! {
    /// | word | content |
    /// |---|---|
    /// | 0 | bits 0..15: live keys whose home is this bucket or an earlier one and that lie beyond it; rest 0 |
    /// | 1..7 | 0 = empty, else a [`SlotWord`] |
    pub struct Bucket [64] {
        /// Keys that went past this bucket.
        0: overflow: u64,
        /// The keys that lie here.
        8: slots: [u64; 7],
    }
}

/// Words of a bucket.
pub const WORDS: usize = 8;
/// Word of the overflow count.
pub const OVERFLOW: usize = 0;
/// Keys that a bucket holds.
pub const SLOTS: usize = 7;
const _: () = assert!(
    WORDS == SLOTS + 1 && WORDS == crate::view::Line::WORDS && WORDS * 8 == size_of::<Bucket>()
);

/// A key of a bucket: 16 bits of its hash and its entry.
///
/// ```text
/// bit 63     48 47    32 31               0
///     tag16    | zero   | entry number + 1
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotWord(pub u64);

const TAG_SHIFT: u32 = 48;
const _: () = assert!(TAG_SHIFT + u16::BITS == u64::BITS);

impl SlotWord {
    /// The word of an entry whose hash has this tag.
    #[inline]
    pub fn new(tag: u16, entry: u32) -> SlotWord {
        SlotWord(u64::from(tag) << TAG_SHIFT | (u64::from(entry) + 1))
    }

    /// The tag of a hash's second half.
    #[inline]
    pub fn tag_of(h1: u64) -> u16 {
        (h1 >> TAG_SHIFT) as u16
    }

    /// Its tag; 0 when it is empty.
    #[inline]
    pub fn tag(self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    /// Its entry; `u32::MAX`, which is none, when it is empty.
    #[inline]
    pub fn entry(self) -> u32 {
        (self.0 as u32).wrapping_sub(1)
    }

    /// The entry if the word is not empty and bears this tag.
    #[inline]
    pub fn entry_with_tag(self, tag: u16) -> Option<u32> {
        // The tag first: most words bear another.
        (self.tag() == tag && self.0 != 0).then(|| self.entry())
    }
}
