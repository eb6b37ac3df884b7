//! What a hostile holder of a segment's descriptor can try: every way of the kernel to change bytes or size.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use memmap2::MmapOptions;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::ftruncate;

use crate::RawClient;

/// What a session can do with the descriptors that it was given and must not: change the size of anything, or bytes
/// other than those of its own segments and, for a trusted writer, the payload's.
pub fn breaks(client: &RawClient, may_write_payload: bool) -> Vec<String> {
    let is_resize = |what: &String| what.starts_with("shrink") || what.starts_with("grow");
    let mut payload = succeed(client.payload_fd());
    if may_write_payload {
        payload.retain(is_resize);
    }
    let mut own = succeed(client.lease_fd());
    if let Some((staging, _)) = client.staging() {
        own.extend(succeed(staging));
    }
    own.retain(is_resize);
    let control = succeed(client.control_fd());
    let daemon = succeed(client.daemon_fd());
    let parts = [
        ("payload", payload),
        ("own segment", own),
        ("control", control),
        ("pidfd", daemon),
    ];
    let named = |(part, done): (&str, Vec<String>)| -> Vec<String> {
        done.iter().map(|what| format!("{part}: {what}")).collect()
    };
    parts.into_iter().flat_map(named).collect()
}

/// The attempts to write, or to change the size, that succeeded, among them those of a descriptor opened anew through
/// `/proc`. Bytes are overwritten by what they are.
pub fn succeed(segment: impl AsFd) -> Vec<String> {
    let mut done = attempts(segment.as_fd(), "");
    let number = segment.as_fd().as_raw_fd();
    for path in [
        format!("/proc/self/fd/{number}"),
        format!("/proc/thread-self/fd/{number}"),
    ] {
        let _ = fchmod(segment.as_fd(), Mode::from_bits_truncate(0o777));
        if let Ok(anew) = open(
            path.as_str(),
            OFlag::O_RDWR | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            done.extend(attempts(anew, " through /proc"));
        }
    }
    done
}

fn attempts(segment: impl AsFd, how: &str) -> Vec<String> {
    let fd = segment.as_fd();
    let len = nix::sys::stat::fstat(fd).unwrap().st_size;
    let mut done = Vec::new();
    let mut note = |what: &str, has_succeeded: bool| {
        if has_succeeded {
            done.push(format!("{what}{how}"));
        }
    };
    let duplicate: OwnedFd = fd.try_clone_to_owned().unwrap();
    note(
        "map writable",
        MmapOptions::new().len(4096).map_raw(&duplicate).is_ok(),
    );
    if let Ok(map) = MmapOptions::new().len(4096).map_raw_read_only(&duplicate) {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is the map, which nobody uses; only its rights may change.
        let made = unsafe { libc::mprotect(map.as_mut_ptr().cast(), 4096, rights) };
        note("make a map writable", made == 0);
    }
    let mut first = [0];
    let _ = nix::sys::uio::pread(fd, &mut first, 0);
    note("write", nix::sys::uio::pwrite(fd, &first, 0).is_ok());
    note("shrink", ftruncate(fd, len - 4096).is_ok());
    note("grow", ftruncate(fd, len + 4096).is_ok());
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    note(
        "punch a hole",
        fallocate(fd, hole, len - 4096, 4096).is_ok(),
    );
    done
}
