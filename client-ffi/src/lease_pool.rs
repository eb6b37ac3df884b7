//! Memory of ended leases, kept for the next ones, so that acquire and release do not allocate.
//!
//! Any thread takes and puts, and none waits: when another thread is at it, a lease gets fresh memory or its
//! memory is freed. **The lock** guards the list alone, is held for one push or pop, and is only ever tried, so
//! that a fork in between cannot hang the child either.

use crate::read_path::Pins;
use std::sync::Mutex;

/// Most leases whose memory is kept.
const KEPT: usize = 32;
/// Lists, so that threads seldom meet.
const SHARDS: usize = 4;

#[repr(align(64))]
#[allow(
    clippy::vec_box,
    reason = "a lease moves its pins about as one pointer, not as hundreds of bytes"
)]
struct Shard(Mutex<Vec<Box<Pins>>>);

/// The kept memory of one session.
pub(crate) struct PinsPool {
    shards: [Shard; SHARDS],
}

impl PinsPool {
    pub(crate) fn new() -> PinsPool {
        PinsPool {
            shards: core::array::from_fn(|_| Shard(Mutex::new(Vec::with_capacity(KEPT / SHARDS)))),
        }
    }

    /// Memory for a lease.
    #[inline]
    pub(crate) fn take(&self) -> Box<Pins> {
        self.shards
            .iter()
            .find_map(|shard| shard.0.try_lock().ok()?.pop())
            .unwrap_or_default()
    }

    /// Keeps the memory of an ended lease, if there is room.
    #[inline]
    pub(crate) fn put(&self, pins: Box<Pins>) {
        for shard in &self.shards {
            if let Ok(mut list) = shard.0.try_lock()
                && list.len() < KEPT / SHARDS
            {
                list.push(pins);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_no_more_is_kept_than_said() {
        let pool = PinsPool::new();
        let mut pins = pool.take();
        pins.reset(1000);
        let kept_at = pins.items.as_ptr();
        pool.put(pins);
        assert_eq!(pool.take().items.as_ptr(), kept_at);
        for _ in 0..3 * KEPT {
            pool.put(Box::default());
        }
        let kept: usize = pool.shards.iter().map(|s| s.0.lock().unwrap().len()).sum();
        assert_eq!(kept, KEPT);
    }
}
