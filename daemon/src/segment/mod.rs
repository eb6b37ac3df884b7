//! Shared memory of the daemon: what it creates, how it is protected, and that it is really there.
//!
//! The start-up makes the payload and the control segment; the loop thread makes one lease segment per session. All
//! that clients get is a descriptor, and this folder answers for what a hostile one can do with it.
//!
//! ```text
//!             backing                   seals                            daemon     descriptor of a client
//!   control   memfd hostkv-control      shrink grow future_write seal    rw         O_RDONLY
//!   lease     memfd hostkv-lease        shrink grow seal                 rw         rw, its own only, opened anew
//!   staging   memfd hostkv-staging      shrink grow seal                 not mapped rw, its own only
//!   payload   memfd hostkv-payload,     shrink grow seal, and            rw, not    rw for trusted writers,
//!             or hugetlb memfd          future_write without writers     by loop    else O_RDONLY
//!             or name in /dev/shm       none possible
//! ```
//!
//! The size is fixed and every page is allocated before a descriptor leaves the daemon. A lack of memory is then an
//! error of a call here, and never a SIGBUS of whoever touches a page first.
//!
//! The staging segment of an untrusted writer is the exception: it stays sparse, because only its own session maps it. The
//! library brings pages in when they are granted, so that they are charged to the client's control group and not to the
//! daemon's, and a lack of memory is an error of that call. The daemon reads by pread, to which a hole is zeros.
//!
//! Inside: `mapping` owns an address range, `memfd` creates and seals, `payload` with `named`, `numa`, `prefault`, `memory`,
//! `readings`, `holders` and `progress` makes the large one, `kernel` refuses old kernels, `error` has the sentences.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::sys::memfd::MFdFlags;

mod error;
mod holders;
mod kernel;
mod lock;
mod mapping;
mod memfd;
mod memory;
mod named;
mod numa;
mod payload;
mod prefault;
mod progress;
mod readings;

#[cfg(test)]
mod tests;

pub use error::{Budget, Resource, SegmentError};
pub use holders::{Holder, holders_of_old_pool};
pub use kernel::{OLDEST_KERNEL, min_kernel_check};
pub use lock::lock_in_memory;
pub use mapping::Mapping;
pub use named::SHM_FOLDER;
pub use payload::{HugePages, Payload, PayloadOptions, create_payload};
pub use progress::{ProgressSink, StartProgress};

/// Size of a huge page; the payload is a multiple of it.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// A control or lease segment: its descriptor and the daemon's own read-write mapping.
#[derive(Debug)]
pub struct Segment {
    mapping: Mapping,
    fd: OwnedFd,
    len_bytes: u64,
    segment: &'static str,
}

impl Segment {
    /// The read-write descriptor, which stays in the daemon.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A new descriptor that can only be read and mapped read-only.
    pub fn read_only_fd(&self) -> Result<OwnedFd, SegmentError> {
        memfd::read_only_fd(self.fd(), self.segment)
    }

    /// A new descriptor for writing, that of a lease segment for its session. It is no duplicate: by an open file of
    /// its own the kernel can tell whether the session still has it.
    pub fn writable_fd(&self) -> Result<OwnedFd, SegmentError> {
        memfd::writable_fd(self.fd(), self.segment)
    }

    /// The mapping, which is to live as long as its bytes are used, and the descriptor.
    pub fn into_parts(self) -> (Mapping, OwnedFd) {
        (self.mapping, self.fd)
    }

    /// Where the daemon's mapping begins; valid for [`Segment::len_bytes`] while the segment lives. Other processes
    /// write to a lease segment at any time, so no reference may be made of it.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// Length of the segment.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// Creates the control segment, all zero: only the daemon can ever write it. With [`HugePages::Auto`] its whole 2 MiB
/// blocks are on 2 MiB pages where the kernel has them, because a look at the index is two cache misses, and on small pages
/// each of them a miss of the address translation too.
pub fn create_control(len_bytes: u64, huge_pages: HugePages) -> Result<Segment, SegmentError> {
    let segment = Kind {
        segment: "control",
        name: "hostkv-control",
        is_read_only: true,
        is_huge: huge_pages == HugePages::Auto,
    };
    create_segment(segment, len_bytes)
}

/// Creates a lease segment, all zero: the daemon and one session write it.
pub fn create_lease(len_bytes: u64) -> Result<Segment, SegmentError> {
    let segment = Kind {
        segment: "lease",
        name: "hostkv-lease",
        is_read_only: false,
        is_huge: false,
    };
    create_segment(segment, len_bytes)
}

/// Creates a staging segment, sparse and not mapped here: one untrusted session writes it, the daemon reads it.
pub fn create_staging(len_bytes: u64) -> Result<Staging, SegmentError> {
    const SEGMENT: &str = "staging";
    let fd = memfd::create("hostkv-staging", SEGMENT, MFdFlags::empty())?;
    memfd::set_len(fd.as_fd(), len_bytes, SEGMENT)?;
    memfd::seal(fd.as_fd(), false, SEGMENT)?;
    Ok(Staging {
        // Descriptors of their own: the client's flags and offsets are not the daemon's.
        client_fd: memfd::writable_fd(fd.as_fd(), SEGMENT)?,
        daemon_fd: memfd::read_only_fd(fd.as_fd(), SEGMENT)?,
    })
}

/// The two descriptors of a staging segment.
#[derive(Debug)]
pub struct Staging {
    /// Read-write, for its session.
    pub client_fd: OwnedFd,
    /// Read-only, for the copies.
    pub daemon_fd: OwnedFd,
}

/// What tells a control from a lease segment.
struct Kind {
    segment: &'static str,
    name: &'static str,
    is_read_only: bool,
    is_huge: bool,
}

fn create_segment(kind: Kind, len_bytes: u64) -> Result<Segment, SegmentError> {
    let segment = kind.segment;
    let len = usize::try_from(len_bytes).map_err(|_| SegmentError::BadSize {
        segment,
        size_bytes: len_bytes,
        limit_bytes: isize::MAX as u64,
    })?;
    let fd = memfd::create(kind.name, segment, MFdFlags::empty())?;
    memfd::set_len(fd.as_fd(), len_bytes, segment)?;
    // The map comes before the seal, which lets writable maps live on but allows no new ones.
    let align_bytes = match kind.is_huge {
        true => HUGE_PAGE_BYTES as usize,
        false => mapping::page_bytes(),
    };
    let mapping = Mapping::new(fd.as_fd(), len, align_bytes, segment)?;
    if kind.is_huge {
        prefault::collapse_blocks(fd.as_fd(), &mapping, len_bytes, segment)?;
    }
    memfd::allocate(fd.as_fd(), 0, len_bytes, len_bytes, segment)?;
    // fallocate leaves the zeroing to the first touch, which would be the loop thread's, in the middle of a request.
    mapping.populate(0, mapping.mapped_bytes(), segment)?;
    memfd::seal(fd.as_fd(), kind.is_read_only, segment)?;
    Ok(Segment {
        mapping,
        fd,
        len_bytes,
        segment,
    })
}
