//! A memfd that no one can resize, execute or reopen by its mode: creation, seals, read-only copies.
//!
//! Used by the three makers of segments. The order is theirs: create, size, fallocate, map, seal. A memfd is born
//! with mode 0777, so a holder of a read-only copy could reopen it writable through `/proc`; mode 0600 stops other
//! uids and the seals stop everyone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::ftruncate;

use super::error::SegmentError;

/// What one fallocate asks at most: a signal undoes a whole call, so calls are kept short and repeated.
const FALLOCATE_STEP_BYTES: u64 = 16 << 20;

/// Creates an empty memfd called `name`, close-on-exec, mode 0600, not executable where the kernel can say so.
pub(super) fn create(
    name: &str,
    segment: &'static str,
    extra: MFdFlags,
) -> Result<OwnedFd, SegmentError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | extra;
    // Hosts with vm.memfd_noexec=2 refuse memfds without this flag; kernels before 6.3 do not know it.
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = match memfd_create(name, flags | no_exec) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        other => other,
    }
    .map_err(|errno| SegmentError::Call {
        segment,
        call: "memfd_create",
        errno,
    })?;
    restrict_mode(fd.as_fd(), segment)?;
    Ok(fd)
}

/// Mode 0600, whatever the file was born with.
pub(super) fn restrict_mode(fd: BorrowedFd<'_>, segment: &'static str) -> Result<(), SegmentError> {
    fchmod(fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| SegmentError::Call {
        segment,
        call: "fchmod",
        errno,
    })
}

/// Gives the file its final size, still sparse.
pub(super) fn set_len(
    fd: BorrowedFd<'_>,
    len_bytes: u64,
    segment: &'static str,
) -> Result<(), SegmentError> {
    let bad_size = || SegmentError::BadSize {
        segment,
        size_bytes: len_bytes,
        limit_bytes: i64::MAX as u64,
    };
    if len_bytes == 0 {
        return Err(bad_size());
    }
    let len = i64::try_from(len_bytes).map_err(|_| bad_size())?;
    ftruncate(fd, len).map_err(|errno| match errno {
        Errno::EFBIG | Errno::EINVAL => bad_size(),
        errno => SegmentError::Call {
            segment,
            call: "ftruncate",
            errno,
        },
    })
}

/// Forbids every change of size and every further seal; with `is_read_only` also new writable maps and writes.
/// Maps that exist stay writable.
pub(super) fn seal(
    fd: BorrowedFd<'_>,
    is_read_only: bool,
    segment: &'static str,
) -> Result<(), SegmentError> {
    let mut seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    if is_read_only {
        seals |= SealFlag::F_SEAL_FUTURE_WRITE;
    }
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))
        .map(drop)
        .map_err(|errno| SegmentError::Call {
            segment,
            call: "fcntl(F_ADD_SEALS)",
            errno,
        })
}

/// A second descriptor of the same segment that can only be read and mapped read-only.
pub(super) fn read_only_fd(
    fd: BorrowedFd<'_>,
    segment: &'static str,
) -> Result<OwnedFd, SegmentError> {
    open_anew(fd, OFlag::O_RDONLY, segment, "open(O_RDONLY)")
}

/// A second descriptor of the same segment that can be read and written.
pub(super) fn writable_fd(
    fd: BorrowedFd<'_>,
    segment: &'static str,
) -> Result<OwnedFd, SegmentError> {
    open_anew(fd, OFlag::O_RDWR, segment, "open(O_RDWR)")
}

/// A duplicate would share the open file description, with its rights and its lock; this one has its own.
fn open_anew(
    fd: BorrowedFd<'_>,
    access: OFlag,
    segment: &'static str,
    call: &'static str,
) -> Result<OwnedFd, SegmentError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path.as_str(), access | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| {
        SegmentError::Call {
            segment,
            call,
            errno,
        }
    })
}

/// Gives pages to `len_bytes` of the file from `offset_bytes` on. What was there stays. Where the segment, of
/// `segment_bytes` in all, has no room, that is an error here and never a SIGBUS later.
pub(super) fn allocate(
    fd: BorrowedFd<'_>,
    offset_bytes: u64,
    len_bytes: u64,
    segment_bytes: u64,
    segment: &'static str,
) -> Result<(), SegmentError> {
    let end = offset_bytes.saturating_add(len_bytes);
    let mut at = offset_bytes;
    while at < end {
        let step = (end - at).min(FALLOCATE_STEP_BYTES);
        let bad_size = |_| SegmentError::BadSize {
            segment,
            size_bytes: end,
            limit_bytes: i64::MAX as u64,
        };
        let from = i64::try_from(at).map_err(bad_size)?;
        let length = i64::try_from(step).map_err(bad_size)?;
        match fallocate(fd, FallocateFlags::empty(), from, length) {
            Ok(()) => at += step,
            Err(Errno::EINTR) => continue,
            Err(errno @ (Errno::ENOSPC | Errno::ENOMEM | Errno::EDQUOT)) => {
                return Err(SegmentError::NoSpace {
                    segment,
                    need_bytes: segment_bytes,
                    got_bytes: at,
                    errno,
                });
            }
            Err(errno) => {
                return Err(SegmentError::Call {
                    segment,
                    call: "fallocate",
                    errno,
                });
            }
        }
    }
    Ok(())
}
