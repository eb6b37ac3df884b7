//! A bounds-checked window on mapped bytes.
//!
//! Both sides look at a segment through a [`View`]: it hands out atomics, never references to plain bytes,
//! because another process may write there at any time. Offsets that come out of shared memory are data: they
//! go through [`View::words`] and [`Words::get`], which check them.
//!
//! Under `--cfg loom` a view stands on `loom_words::LoomWords` instead of mapped bytes, so that the models
//! run the protocol's own code.

use crate::sync::{AtomicU32, AtomicU64, Ordering, prefetch};
use core::marker::PhantomData;
use thiserror::Error;

/// An access that would leave the segment, or is not aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{len} bytes at offset {offset} do not fit, aligned to {align}, in a segment of {segment_len} bytes"
)]
pub struct OutOfBounds {
    /// Offset asked for, in bytes.
    pub offset: u64,
    /// Length asked for, in bytes.
    pub len: u64,
    /// Alignment of the word asked for, in bytes.
    pub align: u64,
    /// Length of the segment, in bytes.
    pub segment_len: u64,
}

fn check(offset: u64, count: u64, word_bytes: u64, segment_len: u64) -> Result<usize, OutOfBounds> {
    let len = count.saturating_mul(word_bytes);
    let end = offset.checked_add(len);
    if !offset.is_multiple_of(word_bytes) || end.is_none_or(|end| end > segment_len) {
        return Err(OutOfBounds {
            offset,
            len,
            align: word_bytes,
            segment_len,
        });
    }
    Ok(offset as usize)
}

/// A window on the bytes of one segment.
#[derive(Clone, Copy)]
pub struct View {
    base: *const u8,
    len: u64,
}

// SAFETY: a view is an address; all it gives out are atomics, which any thread may use.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A view of `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// `base` is aligned to 8 bytes, and the `len` bytes stay mapped for as long as this view, its copies and
    /// everything they gave out are used. No process side makes a Rust reference to those bytes. They may
    /// be mapped read-only if the caller only loads, relaxed.
    ///
    /// Under loom, `base` points to a `LoomWords` that lives as long.
    pub unsafe fn new(base: *const u8, len: u64) -> View {
        View { base, len }
    }

    /// Length of the segment in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the segment has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The 64-bit word at `offset` bytes.
    #[inline]
    pub fn u64(&self, offset: u64) -> Result<&AtomicU64, OutOfBounds> {
        let at = check(offset, 1, 8, self.len)?;
        // SAFETY: `check` keeps the word inside the segment and aligned; `new`'s caller keeps it mapped.
        Ok(unsafe { word64(self.base, at) })
    }

    /// The 32-bit word at `offset` bytes.
    #[inline]
    pub fn u32(&self, offset: u64) -> Result<&AtomicU32, OutOfBounds> {
        let at = check(offset, 1, 4, self.len)?;
        // SAFETY: as for `u64`.
        Ok(unsafe { word32(self.base, at) })
    }

    /// `count` 64-bit words from `offset` bytes on.
    pub fn words(&self, offset: u64, count: u64) -> Result<Words, OutOfBounds> {
        let start = check(offset, count, 8, self.len)?;
        Ok(Words {
            base: self.base,
            start,
            count: count as usize,
        })
    }

    /// `count` lines from `offset` bytes on.
    pub fn lines(&self, offset: u64, count: u64) -> Result<Lines, OutOfBounds> {
        let words = self.words(offset, count.saturating_mul(Line::WORDS as u64))?;
        Ok(Lines {
            first: At {
                base: words.base,
                #[cfg(loom)]
                offset: 0,
            }
            .plus(words.start),
            count: count as usize,
        })
    }
}

/// A run of 64-bit words inside a segment, already checked against its length.
#[derive(Clone, Copy)]
pub struct Words {
    base: *const u8,
    start: usize,
    count: usize,
}

// SAFETY: as for `View`.
unsafe impl Send for Words {}
// SAFETY: as for `View`.
unsafe impl Sync for Words {}

impl Words {
    /// Word number `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: `View::words` checked the whole run, and `index` is inside it.
        Some(unsafe { word64(self.base, self.start + index * 8) })
    }

    /// Word number `index`.
    ///
    /// # Panics
    ///
    /// When there is none; callers pass an index that they have masked or checked.
    #[inline]
    pub fn at(&self, index: usize) -> &AtomicU64 {
        // Without the numbers in the message, for which they would be kept in memory.
        assert!(index < self.count, "a word behind the end of its run");
        // SAFETY: as for `get`.
        unsafe { word64(self.base, self.start + index * 8) }
    }

    /// Copies words from number `first` on into `target`, each by one relaxed load; gives how many there were for it.
    pub fn copy_out(&self, first: usize, target: &mut [u64]) -> usize {
        let count = self.count.saturating_sub(first).min(target.len());
        for (i, word) in target[..count].iter_mut().enumerate() {
            // SAFETY: as for `get`; `first + i` is below `first + count`, which is inside the run.
            // Relaxed: the words are data, whoever needs an order with them has made it before.
            *word =
                unsafe { word64(self.base, self.start + (first + i) * 8) }.load(Ordering::Relaxed);
        }
        count
    }

    /// Number of words.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// A place in a segment: an address, under loom an offset.
#[derive(Clone, Copy)]
struct At {
    base: *const u8,
    #[cfg(loom)]
    offset: usize,
}

impl At {
    #[inline]
    fn plus(self, bytes: usize) -> At {
        At {
            #[cfg(not(loom))]
            base: self.base.wrapping_add(bytes),
            #[cfg(loom)]
            offset: self.offset + bytes,
            #[cfg(loom)]
            base: self.base,
        }
    }

    /// The word at this place.
    ///
    /// # Safety
    ///
    /// The place is inside the mapped bytes and aligned.
    #[inline]
    unsafe fn word64<'a>(self) -> &'a AtomicU64 {
        #[cfg(not(loom))]
        let offset = 0;
        #[cfg(loom)]
        let offset = self.offset;
        // SAFETY: the caller's promise.
        unsafe { word64(self.base, offset) }
    }
}

/// A run of records of one cache line each inside a segment, already checked against its length.
#[derive(Clone, Copy)]
pub struct Lines {
    first: At,
    count: usize,
}

// SAFETY: as for `View`.
unsafe impl Send for Lines {}
// SAFETY: as for `View`.
unsafe impl Sync for Lines {}

impl Lines {
    /// Line number `index`, checked once for all of its words.
    ///
    /// # Panics
    ///
    /// When there is none; callers pass an index that they have masked or checked.
    #[inline]
    pub fn at(&self, index: usize) -> Line<'_> {
        // Without numbers, as for a word.
        assert!(index < self.count, "a line behind the end of its run");
        Line {
            first: self.first.plus(index * Line::BYTES),
            run: PhantomData,
        }
    }

    /// Line number `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Line<'_>> {
        (index < self.count).then(|| self.at(index))
    }

    /// Asks the CPU to fetch line number `index`, which may be any; a hint without effect on meaning.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.first.plus(index.wrapping_mul(Line::BYTES)).base);
    }
}

/// Eight words of a segment, as long as a cache line, already checked against its length.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    first: At,
    run: PhantomData<&'a Lines>,
}

impl<'a> Line<'a> {
    /// Words of a line.
    pub const WORDS: usize = 8;
    /// Bytes of a line.
    pub const BYTES: usize = Line::WORDS * 8;

    /// Word number `index`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`Line::WORDS`]; callers pass constants, for which the check goes away.
    #[inline]
    pub fn word(self, index: usize) -> &'a AtomicU64 {
        assert!(index < Line::WORDS, "word {index} of a line");
        // SAFETY: `Lines::at` checked the whole line, and `index` is inside it.
        unsafe { self.first.plus(index * 8).word64() }
    }
}

#[cfg(not(loom))]
#[inline]
unsafe fn word64<'a>(base: *const u8, at: usize) -> &'a AtomicU64 {
    // SAFETY: the caller keeps `at` inside the mapped bytes and aligned; an atomic may be shared.
    unsafe { &*base.add(at).cast::<AtomicU64>() }
}

#[cfg(not(loom))]
#[inline]
unsafe fn word32<'a>(base: *const u8, at: usize) -> &'a AtomicU32 {
    // SAFETY: as for `word64`.
    unsafe { &*base.add(at).cast::<AtomicU32>() }
}

#[cfg(loom)]
unsafe fn word64<'a>(base: *const u8, at: usize) -> &'a AtomicU64 {
    // SAFETY: under loom `base` is a `LoomWords` (contract of `View::new`).
    unsafe { (*base.cast::<loom_words::LoomWords>()).word64(at) }
}

#[cfg(loom)]
unsafe fn word32<'a>(base: *const u8, at: usize) -> &'a AtomicU32 {
    // SAFETY: under loom `base` is a `LoomWords` (contract of `View::new`).
    unsafe { (*base.cast::<loom_words::LoomWords>()).word32(at) }
}

/// What a view stands on under loom.
#[cfg(loom)]
pub mod loom_words {
    use crate::sync::{AtomicU32, AtomicU64};
    use std::collections::BTreeMap;

    /// The words of a pretended segment; only those that a model registers exist.
    #[derive(Default)]
    pub struct LoomWords {
        words64: BTreeMap<usize, AtomicU64>,
        words32: BTreeMap<usize, AtomicU32>,
    }

    impl LoomWords {
        /// No words.
        pub fn new() -> LoomWords {
            LoomWords::default()
        }

        /// Adds a 64-bit word at `offset`.
        pub fn add64(&mut self, offset: u64, value: u64) {
            self.words64.insert(offset as usize, AtomicU64::new(value));
        }

        /// Adds a 32-bit word at `offset`.
        pub fn add32(&mut self, offset: u64, value: u32) {
            self.words32.insert(offset as usize, AtomicU32::new(value));
        }

        /// Adds a 64-bit word at `offset` that every step writes with the same value.
        pub fn fix64(&mut self, offset: u64, value: u64) {
            self.words64
                .insert(offset as usize, AtomicU64::fixed(value));
        }

        /// Adds a 32-bit word at `offset` that every step writes with the same value.
        pub fn fix32(&mut self, offset: u64, value: u32) {
            self.words32
                .insert(offset as usize, AtomicU32::fixed(value));
        }

        pub(super) fn word64(&self, offset: usize) -> &AtomicU64 {
            self.words64
                .get(&offset)
                .unwrap_or_else(|| panic!("the model registered no 64-bit word at {offset}"))
        }

        pub(super) fn word32(&self, offset: usize) -> &AtomicU32 {
            self.words32
                .get(&offset)
                .unwrap_or_else(|| panic!("the model registered no 32-bit word at {offset}"))
        }
    }
}
