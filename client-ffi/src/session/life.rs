//! How long a session's mappings and socket are needed: one word that every call counts itself into.
//!
//! ```text
//! bit 63      62    61                                            0
//!   closed  | dead | handle (1) + calls under way + leases + reservations
//!
//!   open --close--> closed: new calls are refused       count 0: unmap, BYE, close the socket
//!   open --daemon gone--> dead: new calls are refused   count 1: unmap the payload of the dead pool
//! ```
//!
//! Both marks stay for ever, and a call that finds one has touched nothing, so the thread that sees the count
//! reach the number above may unmap: nobody can come any more.

use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;
const DEAD: u64 = 1 << 62;
const COUNT: u64 = DEAD - 1;

/// Why a call may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The handle was closed.
    Closed,
    /// The daemon is gone.
    Dead,
}

/// What is to be done after a holder has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing.
    None,
    /// Only the handle is left and the daemon is gone.
    UnmapPayload,
    /// Nobody is left.
    TearDown,
}

/// The word; on a line of its own, because every call of every thread changes it.
#[repr(align(64))]
pub(crate) struct Life {
    word: AtomicU64,
}

impl Life {
    /// The life of a session with an open handle.
    pub(crate) fn new() -> Life {
        Life {
            word: AtomicU64::new(1),
        }
    }

    /// Counts a call in. Whatever it says, [`Life::leave`] must follow.
    #[inline]
    pub(crate) fn enter(&self) -> Result<(), Refusal> {
        // Relaxed: the count alone decides, and changes of one word have one order; what the call reads was
        // there before the session was handed to this thread.
        let before = self.word.fetch_add(1, Ordering::Relaxed);
        refusal(before).map_or(Ok(()), Err)
    }

    /// Counts a call, a lease or a reservation out.
    #[inline]
    pub(crate) fn leave(&self) -> Duty {
        // Release: all that the holder did comes before the unmapping. Acquire: the last one sees all of it.
        let after = self.word.fetch_sub(1, Ordering::AcqRel) - 1;
        match (after & COUNT, after & DEAD != 0, after & CLOSED != 0) {
            (0, _, _) => Duty::TearDown,
            (1, true, false) => Duty::UnmapPayload,
            _ => Duty::None,
        }
    }

    /// Marks the session closed; false when it was already.
    pub(crate) fn close(&self) -> bool {
        // Relaxed: as in `enter`.
        self.word.fetch_or(CLOSED, Ordering::Relaxed) & CLOSED == 0
    }

    /// Marks the daemon gone.
    pub(crate) fn mark_dead(&self) {
        // Relaxed: as in `enter`.
        self.word.fetch_or(DEAD, Ordering::Relaxed);
    }

    /// What a call would be told now.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        refusal(self.word.load(Ordering::Relaxed))
    }

    /// Whether the daemon is known to be gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.word.load(Ordering::Relaxed) & DEAD != 0
    }
}

fn refusal(word: u64) -> Option<Refusal> {
    if word & CLOSED != 0 {
        Some(Refusal::Closed)
    } else if word & DEAD != 0 {
        Some(Refusal::Dead)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_leave_a_closed_session_tears_it_down() {
        let life = Life::new();
        assert_eq!(life.enter(), Ok(()));
        assert!(life.close());
        assert!(!life.close());
        assert_eq!(life.leave(), Duty::None, "the handle's own count");
        assert_eq!(life.enter(), Err(Refusal::Closed));
        assert_eq!(life.leave(), Duty::None);
        assert_eq!(life.leave(), Duty::TearDown, "the lease");
    }

    #[test]
    fn a_dead_pool_is_unmapped_when_only_the_handle_is_left() {
        let life = Life::new();
        assert_eq!((life.enter(), life.enter()), (Ok(()), Ok(())));
        life.mark_dead();
        assert_eq!(life.enter(), Err(Refusal::Dead));
        assert_eq!(life.leave(), Duty::None);
        assert_eq!(life.leave(), Duty::None, "a lease is left");
        assert_eq!(life.leave(), Duty::UnmapPayload);
        life.close();
        assert_eq!(life.leave(), Duty::TearDown);
    }
}
