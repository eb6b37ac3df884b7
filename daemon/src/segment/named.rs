//! The payload under a name in `/dev/shm`, for `--shm-name`.
//!
//! Made by `payload` with the `shared_memory` crate, on the start-up thread. The crate creates and unlinks; it hands
//! out no descriptor, so the segment is reopened by its name for everything else (allocation, own mapping, passing
//! it to clients).
//!
//! A live owner holds `flock(LOCK_EX)` on the segment itself. The kernel drops that lock with the last descriptor,
//! SIGKILL included, so the lock tells a live segment from a stale one:
//!
//! ```text
//!   name absent ──────────────────────────────> create, reopen, lock
//!   name there, lock refused ─────────────────> NameTaken
//!   name there, lock taken, not our file ─────> NameForeign
//!   name there, lock taken, our file ─────────> stale: unlink while locked, then create
//! ```
//!
//! Between create and lock another starter can take the fresh segment for a stale one. Therefore the owner compares
//! the inode of the crate's mapping with that of its locked descriptor, and leaves the name alone when they differ.

use std::fs::{self, File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::geteuid;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::error::SegmentError;
use super::memfd::restrict_mode;

/// Where named segments live.
pub const SHM_FOLDER: &str = "/dev/shm";

const SEGMENT: &str = "payload";
/// A file name has at most 255 bytes.
const MAX_NAME_BYTES: usize = 254;

/// The file of the segment `name`, given with or without a leading slash.
pub(super) fn segment_path(name: &str) -> PathBuf {
    PathBuf::from(SHM_FOLDER).join(name.trim_start_matches('/'))
}

/// A named segment that this process owns: created, locked, unlinked on drop.
pub(super) struct NamedSegment {
    // Dropped first: the name goes while the lock is still held, so nobody can mistake it for a stale one.
    _owner: Shmem,
    /// Locked until it is closed.
    file: File,
}

// SAFETY: the crate's handle is not Send only for its pointer, which is never dereferenced here; unmapping,
// unlinking and closing may be done by any thread.
unsafe impl Send for NamedSegment {}
// SAFETY: through a shared reference only the descriptor is reached.
unsafe impl Sync for NamedSegment {}

impl NamedSegment {
    /// Creates the segment, sparse. The name must be free: see [`clear_stale`].
    pub(super) fn create(name: &str, len_bytes: usize) -> Result<NamedSegment, SegmentError> {
        check_name(name)?;
        let path = segment_path(name);
        let mut owner = match ShmemConf::new().os_id(name).size(len_bytes).create() {
            Ok(owner) => owner,
            Err(ShmemError::MappingIdExists) => return Err(SegmentError::NameTaken { path }),
            Err(error) => {
                return Err(SegmentError::NameNotCreated {
                    path,
                    reason: reason_of(error),
                });
            }
        };
        match adopt(name, &owner) {
            Ok(file) => Ok(NamedSegment {
                _owner: owner,
                file,
            }),
            Err(error) => {
                // The name may meanwhile be another daemon's; only a name that is known to be ours is unlinked.
                if matches!(error, SegmentError::NameTaken { .. }) {
                    owner.set_owner(false);
                }
                Err(error)
            }
        }
    }

    /// The segment's descriptor, read-write.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl std::fmt::Debug for NamedSegment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NamedSegment")
            .field("fd", &self.fd())
            .finish_non_exhaustive()
    }
}

/// Makes sure that `name` is free, unlinking a stale segment of this user that no live daemon holds.
pub(super) fn clear_stale(name: &str) -> Result<(), SegmentError> {
    check_name(name)?;
    let path = segment_path(name);
    loop {
        let file = match shm_open(name, OFlag::O_RDWR, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EACCES) => {
                let (uid, mode) = owner_of(&path);
                return Err(SegmentError::NameForeign {
                    path,
                    uid,
                    mode,
                    own_uid: geteuid().as_raw(),
                });
            }
            Err(errno) => return Err(call("shm_open", errno)),
        };
        let Some(file) = try_lock(file)? else {
            return Err(SegmentError::NameTaken { path });
        };
        let stat = fstat(&file).map_err(|errno| call("fstat", errno))?;
        // Without a link, who held the lock before has unlinked it: the name is free or somebody else's by now.
        if stat.st_nlink == 0 {
            continue;
        }
        let own_uid = geteuid().as_raw();
        let own_mode = SFlag::S_IFREG.bits() | 0o600;
        if stat.st_uid != own_uid || stat.st_mode != own_mode {
            return Err(SegmentError::NameForeign {
                path,
                uid: stat.st_uid,
                mode: stat.st_mode,
                own_uid,
            });
        }
        shm_unlink(name).map_err(|errno| call("shm_unlink", errno))?;
        log::warn!(
            "removed the stale shared-memory segment {}: no running daemon holds it",
            path.display()
        );
        return Ok(());
    }
}

/// Reopens what the crate has created, locks it, and makes sure that both are the same file.
fn adopt(name: &str, owner: &Shmem) -> Result<File, SegmentError> {
    // The crate's map cannot be made PROT_NONE first; no other thread exists at start that could fork meanwhile.
    for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
        // SAFETY: the range is the crate's live mapping; neither advice changes its content.
        let result = unsafe { libc::madvise(owner.as_ptr().cast(), owner.len(), advice) };
        Errno::result(result).map_err(|errno| call("madvise", errno))?;
    }
    let taken = || SegmentError::NameTaken {
        path: segment_path(name),
    };
    let file = match shm_open(name, OFlag::O_RDWR, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Err(taken()),
        Err(errno) => return Err(call("shm_open", errno)),
    };
    let file = try_lock(file)?.ok_or_else(taken)?;
    let stat = fstat(&file).map_err(|errno| call("fstat", errno))?;
    if stat.st_nlink == 0 || mapped_inode(owner.as_ptr() as usize)? != Some(stat.st_ino) {
        return Err(taken());
    }
    restrict_mode(file.as_fd(), SEGMENT)?;
    Ok(file)
}

/// The file with its lock, which ends when it is closed; nothing is to be unlocked, and nothing can fail then.
fn try_lock(file: OwnedFd) -> Result<Option<File>, SegmentError> {
    let file = File::from(file);
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(call(
            "flock",
            Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        )),
    }
}

/// The inode of the file that this process maps at `address`.
fn mapped_inode(address: usize) -> Result<Option<u64>, SegmentError> {
    const MAPS: &str = "/proc/self/maps";
    let maps = fs::read_to_string(MAPS).map_err(|error| SegmentError::KernelFile {
        path: PathBuf::from(MAPS),
        reason: error.to_string(),
    })?;
    Ok(maps.lines().find_map(|line| {
        // start-end perms offset device inode path
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        if !range.contains(&address) {
            return None;
        }
        fields.nth(3)?.parse().ok()
    }))
}

fn check_name(name: &str) -> Result<(), SegmentError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let is_good = (1..=MAX_NAME_BYTES).contains(&bare.len())
        && !bare.contains(['/', '\0'])
        && bare != "."
        && bare != "..";
    if is_good {
        Ok(())
    } else {
        Err(SegmentError::BadName {
            name: name.to_string(),
        })
    }
}

fn owner_of(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path)
        .map(|data| (data.uid(), data.mode()))
        .unwrap_or((u32::MAX, 0))
}

/// The crate reports bare error numbers; people want their names.
fn reason_of(error: ShmemError) -> String {
    match error {
        ShmemError::MapCreateFailed(number) | ShmemError::UnknownOsError(number) => {
            Errno::from_raw(i32::try_from(number).unwrap_or(0)).to_string()
        }
        other => other.to_string(),
    }
}

fn call(call: &'static str, errno: Errno) -> SegmentError {
    SegmentError::Call {
        segment: SEGMENT,
        call,
        errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starter_that_lost_its_fresh_name_to_another_leaves_the_others_segment_alone() {
        let name = format!("hostkv-test-race-{}", std::process::id());
        let mut owner = ShmemConf::new().os_id(&name).size(4096).create().unwrap();
        // The other one takes the fresh, not yet locked segment for a stale one.
        clear_stale(&name).unwrap();
        assert!(
            matches!(adopt(&name, &owner), Err(SegmentError::NameTaken { .. })),
            "the name is gone"
        );
        let other = NamedSegment::create(&name, 8192).unwrap();
        assert!(
            matches!(adopt(&name, &owner), Err(SegmentError::NameTaken { .. })),
            "the other has the lock"
        );
        let unlocked = ShmemConf::new()
            .os_id(format!("{name}-b"))
            .size(4096)
            .create()
            .unwrap();
        assert!(
            matches!(
                adopt(&format!("{name}-b"), &owner),
                Err(SegmentError::NameTaken { .. })
            ),
            "other inode"
        );
        owner.set_owner(false);
        drop((owner, unlocked));
        assert!(segment_path(&name).exists());
        drop(other);
        assert!(!segment_path(&name).exists());
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        let long = "x".repeat(255);
        for name in ["", "/", ".", "..", "/..", "a/b", "//a", "a/", "a\0b", &long] {
            assert!(
                matches!(clear_stale(name), Err(SegmentError::BadName { .. })),
                "{name:?}"
            );
            assert!(
                matches!(
                    NamedSegment::create(name, 4096),
                    Err(SegmentError::BadName { .. })
                ),
                "{name:?}"
            );
        }
        for name in ["a", "/a", ".a", &long[1..]] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
