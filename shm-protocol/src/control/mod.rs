//! The control segment: the index, written by the daemon alone, mapped read-only by every client.
//!
//! ```text
//! 0        4096                    4096 + buckets x 64
//! | header | buckets (64 B each)   | entries (64 B each) | sums (8 B an entry), unless integrity is off |
//! ```
//!
//! [`reader`] finds and verifies keys in it without a lock and without waiting; [`writer`] publishes and
//! unpublishes. [`header`] says what stands at its start, [`bucket`] and [`entry`] what the tables hold.
//! An entry's life, as its `seq` shows it:
//!
//! ```text
//!   0 fresh --publish--> 2 --unpublish--> 3 --publish--> 4 ...     even and >= 2: readable
//!                                          \--revoke--> 5 (odd: pins on it are void)
//! ```

pub mod bucket;
pub mod entry;
pub mod header;
pub mod reader;
pub mod writer;

use crate::view::{Lines, OutOfBounds, View, Words};
use thiserror::Error;

/// How large the tables are and where they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Entries, i.e. the most objects there can be.
    pub entry_count: u32,
    /// Buckets are two to this power.
    pub buckets_log2: u32,
    /// Whether there is a sum for each entry.
    pub has_sums: bool,
}

/// Buckets that one key may lie away from its home, home included.
pub const MAX_PROBE: u32 = 8;

impl Geometry {
    /// The geometry for `entry_count` entries: the next power of two of buckets from `entry_count / 3.5` on,
    /// so that a full index has 1.75 to 3.5 keys in a bucket of 7. Without sums.
    pub fn for_entries(entry_count: u32) -> Geometry {
        let least = (u64::from(entry_count) * 2).div_ceil(7).max(1);
        Geometry {
            entry_count,
            buckets_log2: least.next_power_of_two().trailing_zeros(),
            has_sums: false,
        }
    }

    /// The same tables, with or without sums.
    pub fn with_sums(self, has_sums: bool) -> Geometry {
        Geometry { has_sums, ..self }
    }

    /// Offset of the first bucket, in bytes.
    pub fn buckets_offset(&self) -> u64 {
        size_of::<header::ControlHeader>() as u64
    }

    /// Number of buckets.
    pub fn bucket_count(&self) -> u64 {
        1 << self.buckets_log2
    }

    /// Offset of the first entry, in bytes.
    pub fn entries_offset(&self) -> u64 {
        self.buckets_offset() + self.bucket_count() * size_of::<bucket::Bucket>() as u64
    }

    /// Offset of the sums, in bytes; `None` without sums.
    pub fn sums_offset(&self) -> Option<u64> {
        self.has_sums.then(|| self.entries_end())
    }

    /// Length of the segment, in bytes.
    pub fn segment_len(&self) -> u64 {
        let sums_bytes = match self.has_sums {
            true => (u64::from(self.entry_count) * 8).next_multiple_of(64),
            false => 0,
        };
        self.entries_end() + sums_bytes
    }

    fn entries_end(&self) -> u64 {
        self.entries_offset() + u64::from(self.entry_count) * size_of::<entry::Entry>() as u64
    }
}

/// Why a mapped segment is not a control segment that this build understands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// It is too short for what its header says.
    #[error("the control segment is too short: {0}")]
    TooShort(#[from] OutOfBounds),
    /// Its magic is another.
    #[error("the control segment starts with {found:#018x}, not with {expected:#018x}")]
    Magic {
        /// What stands there.
        found: u64,
        /// What should.
        expected: u64,
    },
    /// Its layouts are another build's.
    #[error("the control segment has layouts {found:#018x}; this build has {expected:#018x}")]
    AbiHash {
        /// What stands there.
        found: u64,
        /// What should.
        expected: u64,
    },
    /// A field has a value that can't be.
    #[error("the control segment's {field} is {value}, which is not allowed")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The two tables as checked runs of lines; shared by reader and writer.
#[derive(Clone, Copy)]
struct Tables {
    buckets: Lines,
    entries: Lines,
    sums: Option<Words>,
    bucket_mask: u64,
    entry_count: u32,
    max_probe: u32,
}

impl Tables {
    fn new(view: &View, geometry: Geometry, max_probe: u32) -> Result<Tables, OutOfBounds> {
        Ok(Tables {
            buckets: view.lines(geometry.buckets_offset(), geometry.bucket_count())?,
            entries: view.lines(geometry.entries_offset(), u64::from(geometry.entry_count))?,
            sums: match geometry.sums_offset() {
                Some(offset) => Some(view.words(offset, u64::from(geometry.entry_count))?),
                None => None,
            },
            bucket_mask: geometry.bucket_count() - 1,
            entry_count: geometry.entry_count,
            max_probe,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_index_has_two_to_four_keys_in_a_bucket() {
        for n in [1, 2, 7, 65_536, 1 << 20, 10_000_000, 16 << 20] {
            let g = Geometry::for_entries(n);
            let load = f64::from(n) / g.bucket_count() as f64;
            assert!(load <= 3.5, "{n}: {load}");
            assert!(n < 8 || load > 1.74, "{n}: {load}");
            assert_eq!(g.segment_len() % 64, 0);
            let with_sums = g.with_sums(true);
            assert_eq!(
                (g.sums_offset(), with_sums.sums_offset()),
                (None, Some(g.segment_len()))
            );
            assert_eq!(with_sums.segment_len() % 64, 0);
            assert!(with_sums.segment_len() - g.segment_len() >= u64::from(n) * 8);
        }
        assert_eq!(Geometry::for_entries(1 << 20).buckets_log2, 19);
    }
}
