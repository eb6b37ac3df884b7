//! The only file that names the atomics.
//!
//! Everything that two threads or two processes do to the same word goes through these names, so that a
//! build with `--cfg loom` runs the very code under the model checker, and one with `--cfg shuttle` under a
//! scheduler that chance drives.

#[cfg(not(any(loom, shuttle)))]
mod imp {
    pub use std::sync::atomic::{
        AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

#[cfg(loom)]
pub mod model;

#[cfg(loom)]
mod imp {
    pub use super::model::{AtomicU32, AtomicU64, fence};
    pub use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};
}

#[cfg(shuttle)]
pub mod schedule;

#[cfg(shuttle)]
mod imp {
    pub use super::schedule::{
        AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

pub use imp::*;

/// Orders every earlier store to the payload, streaming ones included, before the next store or send that
/// makes it visible.
///
/// On x86-64 a release fence is no instruction and does not order non-temporal stores, so this is `sfence`;
/// elsewhere a release fence is enough. A writer calls it before a commit.
#[inline]
pub fn payload_store_fence() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: `sfence` is part of SSE, which every x86-64 CPU has; it touches no memory.
    unsafe {
        core::arch::x86_64::_mm_sfence();
    }
    fence(Ordering::Release);
}

/// Asks the CPU for a place in memory that is to be looked at soon: a hint without effect on meaning, wherever it points.
#[inline]
pub fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: a prefetch never faults and reads nothing.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = place;
}
