//! Owner of one shared mapping: where it begins, how long it is, and that it goes away.
//!
//! Made by the functions that create segments, on the start-up thread or (lease segments) on the loop thread;
//! dropped with its segment. It hands out a raw base pointer and never a reference, because other processes
//! write to the same bytes.
//!
//! ```text
//!   reserve, PROT_NONE        |<- head ->|<------ len, aligned ------>|<- tail ->|
//!   give head and tail back              |                            |
//!   the file over it, PROT_NONE          |############################|
//!   DONTFORK, DONTDUMP, then read-write  |############################|
//! ```
//!
//! The order of the last line matters: a fork before DONTFORK inherits pages that nobody may touch, a fork after
//! it inherits nothing, so no child ever keeps the segment reachable.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, munmap,
};

use super::error::SegmentError;
use crate::systemd;

/// The small page size: what a mapping is rounded up to.
pub(super) const PAGE_BYTES: usize = 4096;

/// What is locked in memory by one call.
const LOCK_PIECE_BYTES: usize = 1 << 30;
/// How long the service manager is asked to wait for one.
const LOCK_PIECE_WITHIN: Duration = Duration::from_secs(60);

/// A read-write mapping of a whole segment, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    /// Mapped length, whole pages.
    mapped_bytes: usize,
}

// SAFETY: a Mapping is an address range and the duty to unmap it, which any thread may do; who dereferences the
// pointer answers for how.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; shared use only reads the two fields.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len_bytes` of `fd` at an address that is a multiple of `align_bytes`, a power of two of at
    /// least a page. `segment` names the segment in errors.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        len_bytes: usize,
        align_bytes: usize,
        segment: &'static str,
    ) -> Result<Mapping, SegmentError> {
        let page_bytes = page_bytes();
        let align_bytes = align_bytes.max(page_bytes);
        let fail = |call: &'static str| {
            move |errno| SegmentError::Call {
                segment,
                call,
                errno,
            }
        };
        let bad_size = || SegmentError::BadSize {
            segment,
            size_bytes: len_bytes as u64,
            limit_bytes: (isize::MAX as usize - align_bytes) as u64,
        };
        let wanted = len_bytes
            .checked_next_multiple_of(page_bytes)
            .and_then(NonZeroUsize::new)
            .ok_or_else(bad_size)?;
        let reserved = wanted
            .checked_add(align_bytes - page_bytes)
            .ok_or_else(bad_size)?;

        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            mmap_anonymous(
                None,
                reserved,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }
        .map_err(fail("mmap"))?;
        let mut mapping = Mapping {
            base: start.cast(),
            mapped_bytes: reserved.get(),
        };

        let head = start.as_ptr().align_offset(align_bytes);
        mapping.trim(head, wanted.get()).map_err(fail("munmap"))?;
        let address = NonZeroUsize::new(mapping.base.as_ptr() as usize);

        // SAFETY: MAP_FIXED replaces exactly the reservation that `mapping` owns and that nothing points into yet.
        unsafe {
            mmap(
                address,
                wanted,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                fd,
                0,
            )
        }
        .map_err(fail("mmap"))?;
        for advice in [MmapAdvise::MADV_DONTFORK, MmapAdvise::MADV_DONTDUMP] {
            // SAFETY: the range is the mapping just made; neither advice changes its content.
            unsafe { madvise(mapping.start(), wanted.get(), advice) }.map_err(fail("madvise"))?;
        }
        // SAFETY: the range is the mapping just made; nobody holds a pointer into it yet.
        unsafe {
            mprotect(
                mapping.start(),
                wanted.get(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            )
        }
        .map_err(fail("mprotect"))?;
        Ok(mapping)
    }

    /// Where the segment begins. Valid for the segment's length while the mapping lives.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes are mapped: the segment's length in whole pages.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Gives advice about `len_bytes` from `offset_bytes` on. The advice must not discard content.
    pub(super) fn advise(
        &self,
        offset_bytes: usize,
        len_bytes: usize,
        advice: Advice,
    ) -> nix::Result<()> {
        let fits = offset_bytes
            .checked_add(len_bytes)
            .is_some_and(|end| end <= self.mapped_bytes);
        if !fits {
            return Err(Errno::EINVAL);
        }
        let address = self.base.as_ptr().wrapping_add(offset_bytes);
        // SAFETY: the range was checked to lie inside this mapping, and no advice of `Advice` changes a shared
        // mapping's content.
        let result = unsafe { libc::madvise(address.cast(), len_bytes, advice as libc::c_int) };
        Errno::result(result).map(drop)
    }

    /// Brings in every page of a range, zeroed. What would be a SIGBUS at a touch is an error here.
    pub(super) fn populate(
        &self,
        offset_bytes: usize,
        len_bytes: usize,
        segment: &'static str,
    ) -> Result<(), SegmentError> {
        loop {
            match self.advise(offset_bytes, len_bytes, Advice::PopulateWrite) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(errno @ (Errno::EFAULT | Errno::ENOMEM)) => {
                    return Err(SegmentError::NoSpace {
                        segment,
                        need_bytes: self.mapped_bytes as u64,
                        got_bytes: offset_bytes as u64,
                        errno,
                    });
                }
                Err(errno) => {
                    return Err(SegmentError::Call {
                        segment,
                        call: "madvise(MADV_POPULATE_WRITE)",
                        errno,
                    });
                }
            }
        }
    }

    /// Locks every page in memory, until the mapping ends. Pages that are not there yet are brought in.
    pub(super) fn lock(&self) -> nix::Result<()> {
        let mut done_bytes = 0;
        while done_bytes < self.mapped_bytes {
            let piece_bytes = LOCK_PIECE_BYTES.min(self.mapped_bytes - done_bytes);
            // Page-table entries of small pages take their time in a large pool.
            systemd::extend_timeout(LOCK_PIECE_WITHIN);
            // SAFETY: the piece lies inside the mapping.
            let piece = unsafe { self.start().byte_add(done_bytes) };
            // SAFETY: as above, and the lock changes no content.
            unsafe { mlock(piece, piece_bytes) }?;
            done_bytes += piece_bytes;
        }
        Ok(())
    }

    fn start(&self) -> NonNull<c_void> {
        self.base.cast()
    }

    /// Keeps `keep_bytes` after the first `head_bytes` and gives back what is around them.
    fn trim(&mut self, head_bytes: usize, keep_bytes: usize) -> nix::Result<()> {
        let tail_bytes = self.mapped_bytes - head_bytes - keep_bytes;
        if head_bytes > 0 {
            // SAFETY: the head is part of the reservation that self owns, and no pointer into it exists.
            unsafe { munmap(self.start(), head_bytes) }?;
            // SAFETY: head_bytes lies inside the reservation.
            self.base = unsafe { self.base.add(head_bytes) };
            self.mapped_bytes -= head_bytes;
        }
        if tail_bytes > 0 {
            // SAFETY: keep_bytes lies inside the reservation.
            let tail = unsafe { self.base.add(keep_bytes) };
            // SAFETY: the tail is part of the reservation that self owns, and no pointer into it exists.
            unsafe { munmap(tail.cast(), tail_bytes) }?;
            self.mapped_bytes = keep_bytes;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: self owns the range; who took `base` promised not to use it longer than the mapping lives.
        if let Err(errno) = unsafe { munmap(self.start(), self.mapped_bytes) } {
            log::error!("munmap of {} bytes failed: {errno}", self.mapped_bytes);
        }
    }
}

/// Advice that leaves the content of a shared mapping as it is.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(super) enum Advice {
    /// Make one 2 MiB page of the range.
    Collapse = libc::MADV_COLLAPSE,
    /// Bring every page in, zeroed, as if written; fails instead of raising SIGBUS.
    PopulateWrite = libc::MADV_POPULATE_WRITE,
    /// Forget this process's page-table entries; the segment keeps its pages.
    Unmap = libc::MADV_DONTNEED,
}

/// Page size of this machine (aarch64 kernels have up to 64 KiB).
pub(super) fn page_bytes() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(PAGE_BYTES)
}
