//! How much the store may do in one turn of the loop.
//!
//! Eviction, scans and sweeps run in slices so that no other request waits for long. A slice is measured in estimated
//! nanoseconds, not by a clock: the same calls always do the same work. The estimates are what the work takes when it meets
//! cold caches.
//!
//! ```text
//!   turn:  requests, each whole | the rest of one slice, at least a third of it | a third for whom a scan has freed
//!          \-- one client's: until they have taken a slice --/
//! ```
//!
//! So a turn with one busy client is over within two slices, whatever comes together in it.

/// One slice: less than half of the millisecond that another request may be held up.
pub const SLICE_NS: u32 = 400_000;
/// The part of a slice that is left to it however much the requests of the turn took, and of another for who waits for what a
/// scan has freed.
const LEAST_DIVISOR: u32 = 3;

/// How much has been spent of what may be.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    limit: u64,
    spent: u64,
}

impl Effort {
    /// Looking at one pin slot.
    pub const SLOT: u32 = 1;
    /// Marking one pin and looking its extent up.
    pub const PIN: u32 = 50;
    /// Receiving one request and sending its reply.
    pub const REQUEST: u32 = 20_000;
    /// Unpublishing one victim: a cache miss on its entry, its bucket, its links.
    pub const VICTIM: u32 = 300;
    /// Freeing one extent and its entry.
    pub const FREE: u32 = 300;
    /// Taking one entry back that was reserved or granted.
    pub const GIVE_BACK: u32 = 350;
    /// Making one reserved entry readable.
    pub const COMMIT: u32 = 200;
    /// Removing one key.
    pub const REMOVE: u32 = 350;
    /// Following one recency record.
    pub const TOUCH: u32 = 120;
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
    pub const GRANT: u32 = 350;

    /// A slice of about this many nanoseconds.
    pub fn new(slice_ns: u32) -> Effort {
        Effort {
            limit: u64::from(slice_ns),
            spent: 0,
        }
    }

    /// What is carried out whole, and only counted.
    pub fn whole() -> Effort {
        Effort {
            limit: u64::MAX,
            spent: 0,
        }
    }

    /// A slice in a turn whose requests have taken so much.
    pub fn behind(slice_ns: u32, requests_ns: u64) -> Effort {
        let left = u64::from(slice_ns).saturating_sub(requests_ns);
        Effort {
            limit: left.max(Effort::least(slice_ns).limit),
            spent: 0,
        }
    }

    /// The least part of a slice.
    pub fn least(slice_ns: u32) -> Effort {
        Effort::new((slice_ns / LEAST_DIVISOR).max(1))
    }

    /// Counts what was done; the last step of a slice may go beyond it.
    pub fn spend(&mut self, estimated_ns: u32) {
        self.spent += u64::from(estimated_ns);
    }

    /// Counts so many of the same.
    pub fn spend_each(&mut self, count: usize, estimated_ns: u32) {
        self.spent += count as u64 * u64::from(estimated_ns);
    }

    /// How many steps of this estimate are left, at least one.
    pub fn steps_left(&self, estimated_ns: u32) -> usize {
        let left = self.limit.saturating_sub(self.spent) / u64::from(estimated_ns.max(1));
        usize::try_from(left).unwrap_or(usize::MAX).max(1)
    }

    /// Estimated nanoseconds so far.
    pub fn spent_ns(&self) -> u64 {
        self.spent
    }

    /// Counts what was spent beside it.
    pub fn add(&mut self, other: &Effort) {
        self.spent += other.spent;
    }

    /// Whether the turn is over.
    pub fn is_spent(&self) -> bool {
        self.spent >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_behind_requests_is_the_rest_of_it_and_never_less_than_a_third() {
        for (requests_ns, left) in [(0, 300), (100, 200), (200, 100), (250, 100), (9000, 100)] {
            let mut effort = Effort::behind(300, requests_ns);
            effort.spend(left - 1);
            assert!(!effort.is_spent(), "behind {requests_ns}");
            effort.spend(1);
            assert!(effort.is_spent(), "behind {requests_ns}");
        }
        assert!(!Effort::behind(1, 9000).is_spent());
    }
}
