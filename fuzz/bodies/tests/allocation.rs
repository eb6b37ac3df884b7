//! Every allocation of the daemon's code fails once, the N-th of a run, N = 1 until a run has no N-th.
//!
//! The allocator is hostkvd's own over one that refuses when it is told to. A run is a hostile client's life with the
//! store: each time it must come to its end as if nothing had been, with its audits.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hostkv_daemon::ballast::{self, Ballast};
use hostkv_fuzz_bodies::lease;

/// Refuses the allocation at which a thread's count comes to 1.
struct Failing;

thread_local! {
    /// Allocations until the refusal; 0 = none is refused.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

fn is_refused() -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    left == 1
}

// SAFETY: what is not refused is the system's.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused() {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if is_refused() {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Ballast<Failing> = Ballast(Failing);

#[test]
fn any_one_allocation_may_fail_and_the_next_one_is_given() {
    // A few turns of the daemon over pieces of every part of the segment.
    let data: Vec<u8> = (0..12_u8)
        .flat_map(|turn| {
            [
                turn,
                turn.wrapping_mul(31),
                0,
                8,
                1,
                0,
                turn,
                255,
                7,
                0,
                255,
                255,
            ]
        })
        .collect();
    // Once before: what is made once for the thread is there.
    lease::run(&data);
    let mut number = 0;
    loop {
        number += 1;
        assert!(ballast::take_up(), "the ballast cannot be had");
        LEFT.set(number);
        lease::run(&data);
        let is_over = LEFT.replace(0) > 0;
        assert_eq!(
            ballast::is_short(),
            !is_over,
            "allocation {number}: the refusal was not noticed"
        );
        if is_over {
            break;
        }
    }
    println!("each of {} allocations has failed once", number - 1);
    assert!(number > 100, "a run makes only {number} allocations");
}
