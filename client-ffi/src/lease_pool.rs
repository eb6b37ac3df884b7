//! Handles of ended leases, kept with their memory for the next ones, so that acquire and release do not allocate.
//!
//! Any thread takes and puts, and none waits. A handle is kept in a place, which is one pointer that is NULL or owns a
//! handle; whoever swaps the pointer out owns it then. Places stand on shelves, and a thread begins at the shelf that
//! its [`lane`] chooses, so that threads seldom touch one cache line.

use crate::events::Trace;
use crate::lane::lane;
use crate::read_path::Pins;
use hostkv_shm_protocol::sync::{AtomicPtr, Ordering};
use std::ptr::null_mut;

/// Handles that a shelf keeps: one cache line of pointers.
const PLACES: usize = 8;
/// Shelves, so that threads seldom meet.
const SHELVES: usize = 8;

/// What one lease is: the session it belongs to, its keys and what is told of it. Its address is the handle of the C
/// interface.
pub(crate) struct LeaseMemory<S> {
    /// None while it is kept here.
    pub(crate) session: Option<S>,
    /// The keys.
    pub(crate) pins: Pins,
    /// What is told of it.
    pub(crate) trace: Trace,
}

impl<S> LeaseMemory<S> {
    fn new() -> LeaseMemory<S> {
        LeaseMemory {
            session: None,
            pins: Pins::default(),
            trace: Trace::off(),
        }
    }
}

#[repr(align(64))]
struct Shelf<S>([AtomicPtr<LeaseMemory<S>>; PLACES]);

/// The kept handles of one session.
pub(crate) struct LeasePool<S> {
    shelves: [Shelf<S>; SHELVES],
}

impl<S> LeasePool<S> {
    pub(crate) fn new() -> LeasePool<S> {
        LeasePool {
            shelves: [const { Shelf([const { AtomicPtr::new(null_mut()) }; PLACES]) }; SHELVES],
        }
    }

    /// All places, those of this thread's shelf first.
    #[inline]
    fn places(&self) -> impl Iterator<Item = &AtomicPtr<LeaseMemory<S>>> {
        let (before, from_own) = self.shelves.split_at(lane() % SHELVES);
        from_own.iter().chain(before).flat_map(|shelf| &shelf.0)
    }

    /// A handle without a session.
    #[inline]
    pub(crate) fn take(&self) -> Box<LeaseMemory<S>> {
        self.places()
            .find_map(Self::take_from)
            .unwrap_or_else(|| Box::new(LeaseMemory::new()))
    }

    #[inline]
    fn take_from(place: &AtomicPtr<LeaseMemory<S>>) -> Option<Box<LeaseMemory<S>>> {
        // Relaxed: an empty place is passed by without an exchange.
        if place.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // Acquire: pairs with `put`; what its last user did to the handle comes first.
        let held = place.swap(null_mut(), Ordering::Acquire);
        // SAFETY: a pointer in a place came from `Box::into_raw` in `put`, and the swap gave it to this call alone.
        (!held.is_null()).then(|| unsafe { Box::from_raw(held) })
    }

    /// Keeps an ended handle, if there is room.
    #[inline]
    pub(crate) fn put(&self, mut held: Box<LeaseMemory<S>>) {
        held.session = None;
        let held = Box::into_raw(held);
        for place in self.places() {
            if place.load(Ordering::Relaxed).is_null()
                // Release: pairs with `take_from`. Relaxed on failure: the next place is tried.
                && place
                    .compare_exchange(null_mut(), held, Ordering::Release, Ordering::Relaxed)
                    .is_ok()
            {
                return;
            }
        }
        // SAFETY: it came from the Box above, and no place took it.
        drop(unsafe { Box::from_raw(held) });
    }
}

impl<S> Drop for LeasePool<S> {
    fn drop(&mut self) {
        for place in self.shelves.iter().flat_map(|shelf| &shelf.0) {
            drop(Self::take_from(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_comes_back_with_its_memory_and_without_its_session() {
        let pool = LeasePool::new();
        let mut held = pool.take();
        held.session = Some(7_u32);
        held.pins.reset(1000);
        let kept_at = (&raw const *held, held.pins.items.as_ptr());
        pool.put(held);
        // Another thread begins at another shelf and finds it all the same.
        let held = std::thread::scope(|scope| scope.spawn(|| pool.take()).join().unwrap());
        assert_eq!((&raw const *held, held.pins.items.as_ptr()), kept_at);
        assert_eq!(held.session, None);
    }

    #[test]
    fn no_more_handles_are_kept_than_there_are_places() {
        let pool = LeasePool::<u32>::new();
        for _ in 0..3 * PLACES * SHELVES {
            pool.put(Box::new(LeaseMemory::new()));
        }
        let is_kept =
            |place: &&AtomicPtr<LeaseMemory<u32>>| !place.load(Ordering::Relaxed).is_null();
        assert_eq!(pool.places().filter(is_kept).count(), PLACES * SHELVES);
    }

    #[test]
    fn threads_that_reach_for_one_place_never_get_the_same_handle() {
        let pool = LeasePool::<u32>::new();
        // Each thread has a shelf of its own, so they would seldom meet without this.
        let place = &pool.shelves[0].0[0];
        place.store(
            Box::into_raw(Box::new(LeaseMemory::new())),
            Ordering::Release,
        );
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for _ in 0..300_000 {
                        let Some(mut held) = LeasePool::take_from(place) else {
                            continue;
                        };
                        assert_eq!(held.session, None);
                        held.session = Some(thread);
                        std::hint::black_box(&mut held);
                        assert_eq!(held.session, Some(thread));
                        held.session = None;
                        place.store(Box::into_raw(held), Ordering::Release);
                    }
                });
            }
        });
    }
}
