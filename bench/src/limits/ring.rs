//! One hand-over through a ring in shared memory while both ends are awake.

use crate::limits::trip::processors;
use crate::machine;
use crate::measure::median_of;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use std::time::Instant;

/// A word on a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU64);

const END: u64 = u64::MAX;

/// Nanoseconds from the append of a record to the sight of its outcome, the other end spinning on another processor; none
/// on a machine with one processor, where nobody can spin.
pub fn hand_over_ns(count: usize) -> Option<f64> {
    let (_, second) = processors()?;
    let (head, outcome) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = machine::bind(0, Some(second));
            let mut next = 1;
            loop {
                // Acquire: pairs with the append's Release.
                match head.0.load(Ordering::Acquire) {
                    END => break,
                    seen if seen == next => {
                        // Release: pairs with the look at the outcome.
                        outcome.0.store(next, Ordering::Release);
                        next += 1;
                    }
                    _ => std::hint::spin_loop(),
                }
            }
        });
        let figures = (1..=count as u64)
            .map(|record| {
                let begin = Instant::now();
                // Release and Acquire: as above.
                head.0.store(record, Ordering::Release);
                while outcome.0.load(Ordering::Acquire) != record {
                    std::hint::spin_loop();
                }
                begin.elapsed().as_nanos() as f64
            })
            .collect();
        head.0.store(END, Ordering::Release);
        Some(median_of(figures))
    })
}
