//! Tables that are in memory before the first request needs them.
//!
//! The system gives zeroed memory as pages that are not there yet, and whoever writes one first pays for it: on the loop's
//! thread that is a request. The store's tables by entry number are therefore written at the start. Called by the store's
//! parts when they are made. Most places are still out of the caches when their turn comes; whoever has a batch of entries asks
//! for all of them first, so that the misses overlap.

use std::hint::black_box;

use hostkv_shm_protocol::sync;

/// `count` times `value`, every page of it written.
pub(super) fn resident<T: Copy>(count: usize, value: T) -> Box<[T]> {
    // The compiler must not know that the value is zero: it would ask for zeroed memory instead of writing any.
    (0..count).map(|_| black_box(value)).collect()
}

/// The same of a table that is there: every page of it written.
pub(super) fn make_resident<T: Copy>(table: &mut [T], value: T) {
    for place in table {
        *place = black_box(value);
    }
}

/// Asks the CPU for a place of a table that is to be looked at soon, if there is one.
#[inline]
pub(super) fn prefetch<T>(table: &[T], index: usize) {
    if let Some(place) = table.get(index) {
        sync::prefetch(place);
    }
}
