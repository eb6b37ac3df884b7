//! Mapped segments: the owner of a base pointer, and of a descriptor that may be closed early.
//!
//! The session maps each segment once when it opens and gives each back by drop. No fork may keep a mapping,
//! so it is made in steps that leave no gap:
//!
//! ```text
//!   mmap PROT_NONE --> MADV_DONTFORK --> MADV_DONTDUMP (payload, lease) --> mprotect --> MADV_POPULATE_*
//! ```
//!
//! A payload or control mapping starts at a multiple of 2 MiB, so that huge pages of the segment are mapped huge: a larger
//! range is reserved first and its ends are given back. The length of a segment is taken from the kernel, never
//! from a message, so that no load can pass the end of its file.

use crate::fork::ForkMark;
use hostkv_shm_protocol::sync::{AtomicI32, Ordering};
use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use thiserror::Error;

/// Size of a huge page: the alignment of payload mappings in bytes.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why a segment could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MappingError {
    /// The kernel refused.
    #[error(
        "{call} failed for {segment}: {text}; check memory limits (ulimit -v, the cgroup) and vm.max_map_count"
    )]
    System {
        /// What was to be mapped.
        segment: &'static str,
        /// The system call.
        call: &'static str,
        /// The errno's text.
        text: String,
    },
    /// The file is shorter than the daemon said.
    #[error("{segment} has {found_bytes} bytes; the daemon said {expected_bytes}")]
    TooShort {
        /// What was to be mapped.
        segment: &'static str,
        /// Length of the file in bytes.
        found_bytes: u64,
        /// Length that is needed in bytes.
        expected_bytes: u64,
    },
}

impl MappingError {
    pub(crate) fn system(segment: &'static str, call: &'static str, errno: Errno) -> MappingError {
        MappingError::System {
            segment,
            call,
            text: errno.desc().to_owned(),
        }
    }
}

/// What a segment is mapped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Loads only: a store through the mapping faults.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// How a segment is to be mapped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Name for messages.
    pub(crate) segment: &'static str,
    /// Loads, or stores too.
    pub(crate) access: Access,
    /// Least length in bytes.
    pub(crate) least_bytes: u64,
    /// Whether the start is a multiple of [`HUGE_PAGE_BYTES`].
    pub(crate) is_huge_aligned: bool,
    /// Whether core dumps leave it out.
    pub(crate) is_left_out_of_dumps: bool,
    /// Whether every page is mapped at once.
    pub(crate) is_populated: bool,
}

/// One mapped segment, unmapped by drop; in a forked child, which does not have it, drop does nothing.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    fork: Arc<ForkMark>,
}

// SAFETY: a mapping is an address range that belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; it gives out only its address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole file of `fd`.
    pub(crate) fn new(
        fd: impl AsFd,
        plan: Plan,
        fork: &Arc<ForkMark>,
    ) -> Result<Mapping, MappingError> {
        let segment = plan.segment;
        let failed = |call| move |errno| MappingError::system(segment, call, errno);
        let found = nix::sys::stat::fstat(fd.as_fd()).map_err(failed("fstat"))?;
        let found_bytes = u64::try_from(found.st_size).unwrap_or(0);
        let len = usize::try_from(found_bytes)
            .ok()
            .and_then(NonZeroUsize::new)
            .filter(|_| found_bytes >= plan.least_bytes)
            .ok_or(MappingError::TooShort {
                segment,
                found_bytes,
                expected_bytes: plan.least_bytes.max(1),
            })?;
        let base = if plan.is_huge_aligned {
            map_aligned(&fd, len, segment)?
        } else {
            // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
            unsafe {
                mmap(
                    None,
                    len,
                    ProtFlags::PROT_NONE,
                    MapFlags::MAP_SHARED,
                    &fd,
                    0,
                )
            }
            .map_err(failed("mmap"))?
        };
        let mapping = Mapping {
            base: base.cast(),
            len: len.get(),
            fork: Arc::clone(fork),
        };
        mapping.advise(MmapAdvise::MADV_DONTFORK, "madvise(MADV_DONTFORK)", segment)?;
        if plan.is_left_out_of_dumps {
            mapping.advise(MmapAdvise::MADV_DONTDUMP, "madvise(MADV_DONTDUMP)", segment)?;
        }
        let (protection, populate, populate_call) = match plan.access {
            Access::Read => (
                ProtFlags::PROT_READ,
                MmapAdvise::MADV_POPULATE_READ,
                "madvise(MADV_POPULATE_READ)",
            ),
            Access::ReadWrite => (
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MmapAdvise::MADV_POPULATE_WRITE,
                "madvise(MADV_POPULATE_WRITE)",
            ),
        };
        // SAFETY: the range is the mapping made above, which nobody else knows yet.
        unsafe { mprotect(base, len.get(), protection) }.map_err(failed("mprotect"))?;
        if plan.is_populated {
            mapping.advise(populate, populate_call, segment)?;
        }
        Ok(mapping)
    }

    fn advise(
        &self,
        advice: MmapAdvise,
        call: &'static str,
        segment: &'static str,
    ) -> Result<(), MappingError> {
        // SAFETY: the range is this mapping; none of the advices used here changes its bytes.
        unsafe { madvise(self.base.cast(), self.len, advice) }
            .map_err(|errno| MappingError::system(segment, call, errno))
    }

    /// Brings in the pages of a part of a mapping for writes; a lack of memory is an error.
    pub(crate) fn populate(&self, offset: u64, len_bytes: u64) -> Result<(), MappingError> {
        let page = 4096;
        let from = offset / page * page;
        let end = (offset + len_bytes).next_multiple_of(page).min(self.len());
        if from >= end {
            return Ok(());
        }
        loop {
            // SAFETY: the range lies inside this mapping, and the advice changes no byte that was there before.
            let outcome = unsafe {
                madvise(
                    self.base.byte_add(from as usize).cast(),
                    (end - from) as usize,
                    MmapAdvise::MADV_POPULATE_WRITE,
                )
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => {
                    return Err(MappingError::system(
                        "the staging segment",
                        "madvise(MADV_POPULATE_WRITE)",
                        errno,
                    ));
                }
            }
        }
    }

    /// Address of the first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.fork.is_child() {
            // The range was never inherited; something of the child's own may lie there by now.
            return;
        }
        // SAFETY: the owner of the mapping gave out no pointer that outlives it (the session keeps it until
        // its last lease and reservation have ended). A failure leaves the range mapped.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Maps `len` bytes without any access at a multiple of [`HUGE_PAGE_BYTES`].
fn map_aligned(
    fd: impl AsFd,
    len: NonZeroUsize,
    segment: &'static str,
) -> Result<NonNull<libc::c_void>, MappingError> {
    let failed = |call| move |errno| MappingError::system(segment, call, errno);
    let reserved_len = len
        .checked_add(HUGE_PAGE_BYTES)
        .ok_or_else(|| MappingError::system(segment, "mmap", Errno::ENOMEM))?;
    // SAFETY: a fresh range at an address of the kernel's choice touches nothing of ours.
    let reserved = unsafe {
        mmap_anonymous(
            None,
            reserved_len,
            ProtFlags::PROT_NONE,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        )
    }
    .map_err(failed("mmap"))?;
    let start = reserved.as_ptr() as usize;
    let aligned = start.next_multiple_of(HUGE_PAGE_BYTES);
    // SAFETY: `aligned..aligned + len` lies inside the range reserved above, so MAP_FIXED replaces only that.
    let mapped = unsafe {
        mmap(
            NonZeroUsize::new(aligned),
            len,
            ProtFlags::PROT_NONE,
            MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
            &fd,
            0,
        )
    };
    let unmap = |from: usize, to: usize| {
        if let (Some(from_at), true) = (NonNull::new(from as *mut libc::c_void), to > from) {
            // SAFETY: the range is a part of what was reserved above and is not used.
            let _ = unsafe { munmap(from_at, to - from) };
        }
    };
    let reserved_end = start + reserved_len.get();
    match mapped {
        Ok(base) => {
            unmap(start, aligned);
            // A file that does not end at a page still occupies its last page whole.
            unmap((aligned + len.get()).next_multiple_of(4096), reserved_end);
            Ok(base)
        }
        Err(errno) => {
            unmap(start, reserved_end);
            Err(MappingError::system(segment, "mmap", errno))
        }
    }
}

/// A descriptor that can be closed before its owner goes, once, by any thread.
pub(crate) struct Descriptor {
    fd: AtomicI32,
}

impl Descriptor {
    /// Takes the descriptor over.
    pub(crate) fn new(fd: OwnedFd) -> Descriptor {
        Descriptor {
            fd: AtomicI32::new(fd.into_raw_fd()),
        }
    }

    /// Its number; -1 when it is closed. The caller keeps the owner from closing it meanwhile.
    pub(crate) fn raw(&self) -> RawFd {
        // Relaxed: a number without anything behind it.
        self.fd.load(Ordering::Relaxed)
    }

    /// Closes it if it is open.
    pub(crate) fn close(&self) {
        // Relaxed: the swap lets one caller have the number; closing needs nothing else.
        let fd = self.fd.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: the number came from an `OwnedFd`, and the swap gave it to this call alone.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn file(len: i64) -> OwnedFd {
        let fd = memfd_create("hostkv-test", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, len).unwrap();
        fd
    }

    fn plan(access: Access, least_bytes: u64) -> Plan {
        Plan {
            segment: "the test segment",
            access,
            least_bytes,
            is_huge_aligned: true,
            is_left_out_of_dumps: true,
            is_populated: true,
        }
    }

    #[test]
    fn two_mappings_of_one_file_are_aligned_and_show_the_same_bytes() {
        let fork = Arc::new(ForkMark::new().unwrap());
        for len in [4096_i64, 12_345, 3 << 20] {
            let fd = file(len);
            let write = Mapping::new(&fd, plan(Access::ReadWrite, 1), &fork).unwrap();
            let read = Mapping::new(&fd, plan(Access::Read, len as u64), &fork).unwrap();
            drop(fd);
            assert_eq!(write.base() as usize % HUGE_PAGE_BYTES, 0);
            assert_eq!(read.base() as usize % HUGE_PAGE_BYTES, 0);
            assert_eq!(read.len(), len as u64);
            let last = len as usize - 1;
            // SAFETY: both mappings are `len` bytes long and nobody else knows them.
            unsafe {
                write.base().add(last).write(0x5a);
                assert_eq!(read.base().add(last).read_volatile(), 0x5a);
            }
        }
    }

    #[test]
    fn a_file_shorter_than_promised_is_refused_before_it_is_mapped() {
        let fork = Arc::new(ForkMark::new().unwrap());
        let error = Mapping::new(file(4096), plan(Access::Read, 8192), &fork)
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "the test segment has 4096 bytes; the daemon said 8192"
        );
        assert!(Mapping::new(file(0), plan(Access::Read, 0), &fork).is_err());
    }

    #[test]
    fn a_descriptor_closes_once() {
        let descriptor = Descriptor::new(file(1));
        assert!(descriptor.raw() >= 0);
        descriptor.close();
        assert_eq!(descriptor.raw(), -1);
        descriptor.close();
    }
}
