//! Whether this process is a forked child of the one that opened the session.
//!
//! Every call of the library looks here before it touches a mapping or the socket: a child has neither the
//! mappings nor a session of its own. Asking the kernel for the process id would be a system call each time,
//! and fork handlers miss raw clones, so the kernel itself keeps the answer: one private page that it zeroes
//! in a child (`MADV_WIPEONFORK`).
//!
//! ```text
//!   parent: [ 1 | ... ]  --fork-->  child: [ 0 | ... ]
//! ```
//!
//! A child made with `CLONE_VM` shares the page and is not noticed.

use crate::mapping::MappingError;
use hostkv_shm_protocol::sync::{AtomicU32, Ordering};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// The page that a fork wipes.
pub(crate) struct ForkMark {
    word: NonNull<AtomicU32>,
}

// SAFETY: the page is private to the process and holds one atomic; any thread may load it.
unsafe impl Send for ForkMark {}
// SAFETY: as above.
unsafe impl Sync for ForkMark {}

impl ForkMark {
    /// Marks this process as the one that may use the session.
    pub(crate) fn new() -> Result<ForkMark, MappingError> {
        let failed = |call| move |errno| MappingError::system("the fork mark", call, errno);
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing of ours.
        let page = unsafe {
            mmap_anonymous(
                None,
                PAGE_BYTES,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .map_err(failed("mmap"))?;
        let mark = ForkMark { word: page.cast() };
        // SAFETY: the page was mapped above and nobody else knows it.
        unsafe {
            madvise(page, PAGE_BYTES.get(), MmapAdvise::MADV_WIPEONFORK)
                .map_err(failed("madvise(MADV_WIPEONFORK)"))?;
            mprotect(
                page,
                PAGE_BYTES.get(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            )
            .map_err(failed("mprotect"))?;
        }
        // Relaxed: the mark travels to other threads with the session that owns it.
        mark.word().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped until drop, in a child too (it is wiped, not unmapped), and zero is a
        // valid value of the atomic.
        unsafe { self.word.as_ref() }
    }

    /// Whether this process is a child of the one that made the mark.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        // Relaxed: only the kernel changes the word, between two processes.
        self.word().load(Ordering::Relaxed) == 0
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: the page is ours, also in a child; nobody can load it any more. A failure leaves one page.
        let _ = unsafe { munmap(self.word.cast(), PAGE_BYTES.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_child_sees_that_it_is_one_and_the_parent_stays_what_it_was() {
        let mark = ForkMark::new().unwrap();
        assert!(!mark.is_child());
        // SAFETY: the child only loads a word and leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let code = i32::from(!mark.is_child());
                // SAFETY: ends the child at once, without running anything of the test harness.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
        assert!(!mark.is_child());
    }
}
