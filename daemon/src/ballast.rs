//! Memory that is held back for the moment when the system gives none.
//!
//! Rust ends a process whose allocation fails, and nearly every piece of the data path may make a small one. So hostkvd's
//! allocator holds [`BALLAST_BYTES`] back and gives them up at the first refusal: the work that is going on is finished out
//! of them, and what would hold more memory for longer is refused until they can be had again.
//!
//! ```text
//!   alloc ── the system gives ─────────────> as ever
//!     └───── it refuses ── ballast away, alloc again ──> is_short: HELLO, RESOLVE and RESERVE are refused
//!   tick  ── is_short? ── take the ballast again ──────> as ever
//! ```
//!
//! Any thread may come to the allocator; the loop alone takes the ballast up again.

use std::alloc::{GlobalAlloc, Layout};

use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{AtomicBool, AtomicUsize, Ordering};

use crate::store::Refusal;

/// What is held back, in bytes: frames, replies and growing tables of many requests.
pub const BALLAST_BYTES: usize = 8 << 20;

const LAYOUT: Layout = match Layout::from_size_align(BALLAST_BYTES, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("the size is no overflow"),
};

/// Address of the ballast; 0 = it is not held.
static HELD: AtomicUsize = AtomicUsize::new(0);
static IS_SHORT: AtomicBool = AtomicBool::new(false);
/// Whether the log has heard of the shortage that is going on.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// An allocator that gives up the ballast before it refuses.
#[derive(Debug)]
pub struct Ballast<A>(pub A);

impl<A: GlobalAlloc> Ballast<A> {
    /// Gives the ballast back to the system; false when it was not held.
    fn give_up(&self) -> bool {
        // AcqRel: one thread gives it up, and what `take_up` did to it comes first.
        let held = HELD.swap(0, Ordering::AcqRel);
        if held == 0 {
            return false;
        }
        // Relaxed: a hint to the loop; nothing is read behind it.
        IS_SHORT.store(true, Ordering::Relaxed);
        // SAFETY: `take_up` had it from this allocator with this layout, and only the swap above gives it away.
        unsafe { self.0.dealloc(held as *mut u8, LAYOUT) };
        true
    }

    fn try_twice(&self, mut alloc: impl FnMut(&A) -> *mut u8) -> *mut u8 {
        let given = alloc(&self.0);
        if given.is_null() && self.give_up() {
            return alloc(&self.0);
        }
        given
    }
}

// SAFETY: every block comes from the inner allocator and goes back to it with the layout that it was asked with.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Ballast<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the inner allocator's.
        self.try_twice(|inner| unsafe { inner.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above. Not by `alloc`, which would write pages that the kernel gives as zeros.
        self.try_twice(|inner| unsafe { inner.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above; a refusal leaves the block as it was.
        self.try_twice(|inner| unsafe { inner.realloc(block, layout, new_size) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(block, layout) }
    }
}

/// Takes the ballast up, unless it is held; false when the system does not give it. It works in a program whose allocator
/// is a [`Ballast`], and is to be called by one thread.
pub fn take_up() -> bool {
    if HELD.load(Ordering::Relaxed) != 0 {
        return true;
    }
    // SAFETY: the layout is not empty.
    let taken = unsafe { std::alloc::alloc(LAYOUT) };
    if taken.is_null() {
        return false;
    }
    // Release: pairs with the swap of `give_up`.
    HELD.store(taken as usize, Ordering::Release);
    IS_SHORT.store(false, Ordering::Relaxed);
    true
}

/// Takes the ballast up again where it was given up, and says so once each way. The loop calls it ten times a second.
pub fn tick() {
    if !is_short() {
        return;
    }
    // Relaxed: the loop's own.
    let is_told = IS_TOLD.load(Ordering::Relaxed);
    if take_up() {
        IS_TOLD.store(false, Ordering::Relaxed);
        log::info!(
            "The system gives memory again: sessions, keyspaces and reservations are no longer refused."
        );
    } else if !is_told {
        IS_TOLD.store(true, Ordering::Relaxed);
        log::warn!(
            "The system gives no memory: sessions, keyspaces and reservations are refused until it does; give the host or \
             the limits of this process (RLIMIT_AS, MemoryMax=) more"
        );
    }
}

/// Whether the system has refused memory since the ballast was last taken up.
pub fn is_short() -> bool {
    IS_SHORT.load(Ordering::Relaxed)
}

/// Refuses what would hold more memory, while there is none.
pub fn refuse_more(what: &str) -> Result<(), Refusal> {
    if !is_short() {
        return Ok(());
    }
    Err(Refusal {
        status: Status::System,
        text: format!(
            "hostkvd can't {what}: the system gives it no memory; try again, and give the host or the limits of hostkvd's \
             process (RLIMIT_AS, MemoryMax=) more"
        ),
    })
}
