//! A small number for each thread, by which threads of a process keep out of each other's cache lines.
//!
//! What threads share on the read path lies in several lines (words of a bitmap, shelves of a pool), and each thread
//! begins at the one that its number chooses. It may go on to the others: the number is a preference and owns nothing.

use hostkv_shm_protocol::sync::{AtomicUsize, Ordering};
use std::cell::Cell;

const NONE: usize = usize::MAX;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(NONE) };
}

/// The calling thread's number: 0 for the first thread that asks, and so on.
#[inline]
pub(crate) fn lane() -> usize {
    LANE.with(|lane| match lane.get() {
        NONE => {
            let next = next();
            lane.set(next);
            next
        }
        number => number,
    })
}

#[cold]
fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: only a number. Below NONE, also after 2^63 threads.
    NEXT.fetch_add(1, Ordering::Relaxed) & (NONE >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_number_and_others_have_others() {
        let ours = lane();
        let theirs = std::thread::spawn(|| (lane(), lane())).join().unwrap();
        assert_eq!(theirs.0, theirs.1);
        assert_ne!(theirs.0, ours);
        assert_eq!(lane(), ours);
    }
}
