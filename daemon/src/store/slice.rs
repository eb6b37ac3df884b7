//! How much the store may do in one turn of the loop.
//!
//! Eviction, scans and sweeps run in slices so that no other request waits longer than a slice. A slice is measured
//! in estimated nanoseconds, not by a clock: the same calls always do the same work.

/// One slice: about half of the millisecond that another request may be held up.
pub const SLICE_NS: u32 = 400_000;

/// What is left of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    left: i64,
}

impl Effort {
    /// Looking at one pin slot.
    pub const SLOT: u32 = 1;
    /// Marking one pin and looking its extent up.
    pub const PIN: u32 = 50;
    /// Unpublishing one victim: a cache miss on its entry, its bucket, its links.
    pub const VICTIM: u32 = 600;
    /// Freeing one extent and its entry.
    pub const FREE: u32 = 400;
    /// Following one recency record.
    pub const TOUCH: u32 = 60;
    /// Taking one event out of a ring, noting it and writing its line.
    pub const EVENT: u32 = 1500;
    /// Looking at one entry's state in a sweep, or at one zombie after a scan.
    pub const ENTRY: u32 = 2;
    /// Reading one entry's key in a sweep.
    pub const KEY: u32 = 40;
    /// Looking one key up.
    pub const FIND: u32 = 80;
    /// Describing one object for an operator, and writing it as JSON.
    pub const LISTED: u32 = 1500;
    /// Granting one item of a parked reserve.
    pub const GRANT: u32 = 600;

    /// A slice of about this many nanoseconds.
    pub fn new(slice_ns: u32) -> Effort {
        Effort {
            left: i64::from(slice_ns),
        }
    }

    /// Takes from the slice; may overdraw it once.
    pub fn spend(&mut self, estimated_ns: u32) {
        self.left -= i64::from(estimated_ns);
    }

    /// Whether the turn is over.
    pub fn is_spent(&self) -> bool {
        self.left <= 0
    }
}
