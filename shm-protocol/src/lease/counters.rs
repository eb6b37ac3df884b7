//! Counters: what a session counts by itself, folded by the daemon.
//!
//! | word | counts |
//! |---|---|
//! | 0 | read requests |
//! | 1 | keys of those requests: found in the high half, failed in the low half, in one add per request |
//! | 2 | keys read, added before the slots of a lease are cleared |
//! | 3 | log lines of reads that were left out |
//! | 4 | recency hints that overflowed into the bitmap |
//! | 5 | reserves that were answered from granted extents |
//! | 6 | keys of those reserves, as in word 1: granted, and there already |
//!
//! The daemon keeps each word's value of its last fold and takes the 64-bit difference before it splits the
//! halves, so found + failed is right at every instant and after any kill. Only positive differences are
//! added: a client can't make a counter fall.

use super::header::LeaseHeader;
use crate::sync::{AtomicU64, Ordering};
use crate::view::{OutOfBounds, View, Words};
use core::mem::offset_of;

/// Words of counters in a lease segment.
pub const COUNTERS: usize = 16;

/// Names of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Read requests.
    ReadRequests = 0,
    /// Keys of read requests, found and failed in one word.
    ReadKeys = 1,
    /// Keys read: counted when the lease on them is released.
    L1ReadKeys = 2,
    /// Log lines of reads that were left out.
    LinesLeftOut = 3,
    /// Recency hints that overflowed.
    RecencyOverflows = 4,
    /// Reserves that were answered from granted extents.
    WriteRequests = 5,
    /// Keys of those reserves, granted and there already in one word.
    WriteKeys = 6,
}

/// The counters of one session, as either side sees them.
#[derive(Clone, Copy)]
pub struct Counters {
    words: Words,
}

impl Counters {
    /// The counters of a lease segment.
    pub fn new(view: View) -> Result<Counters, OutOfBounds> {
        Ok(Counters {
            words: view.words(offset_of!(LeaseHeader, counters) as u64, COUNTERS as u64)?,
        })
    }

    fn word(&self, counter: Counter) -> &AtomicU64 {
        self.words.at(counter as usize)
    }

    /// Client: adds to a counter.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        // Relaxed: a statistic; the fold at the end of a session is ordered by the process's death or BYE.
        self.word(counter).fetch_add(amount, Ordering::Relaxed);
    }

    /// Client: counts one read request that found `found` of `found + failed` keys.
    #[inline]
    pub fn add_read_request(&self, found: u32, failed: u32) {
        self.add(Counter::ReadRequests, 1);
        self.add(
            Counter::ReadKeys,
            u64::from(found) << 32 | u64::from(failed),
        );
    }

    /// Client: counts one reserve that was answered from granted extents: `granted` keys of `granted + existing`.
    #[inline]
    pub fn add_write_request(&self, granted: u32, existing: u32) {
        self.add(Counter::WriteRequests, 1);
        self.add(
            Counter::WriteKeys,
            u64::from(granted) << 32 | u64::from(existing),
        );
    }

    /// Daemon: the value now.
    pub fn load(&self, counter: Counter) -> u64 {
        self.word(counter).load(Ordering::Relaxed)
    }
}

/// Splits a difference of [`Counter::ReadKeys`] into found and failed keys, or one of [`Counter::WriteKeys`] into granted
/// and existing ones.
pub fn split_keys(difference: u64) -> (u64, u64) {
    (difference >> 32, difference & u64::from(u32::MAX))
}
