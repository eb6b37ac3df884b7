//! `--mlock`: pages that are never swapped out.
//!
//! Called once by the start-up, when payload and control segment are made. The lock is on the daemon's own mappings and
//! ends with them; a page that one process locks stays in memory for all. Lease and staging segments hold no object for
//! longer than a commit takes, and are not locked.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Payload, Segment, SegmentError};

/// Locks payload and control segment in memory, so that they are never swapped out; what a user's processes may lock
/// is raised as far as that is this process's to do.
pub fn lock_in_memory(payload: &Payload, control: &Segment) -> Result<(), SegmentError> {
    let mappings = [payload.mapping(), &control.mapping];
    let need_bytes = mappings
        .iter()
        .map(|mapping| mapping.mapped_bytes() as u64)
        .sum();
    if let Ok((soft_bytes, hard_bytes)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft_bytes < need_bytes
    {
        // A refusal shows in what follows, with the limit.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard_bytes, hard_bytes);
    }
    for mapping in mappings {
        mapping.lock().map_err(|errno| SegmentError::NotLocked {
            need_bytes,
            limit_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
            errno,
        })?;
    }
    Ok(())
}
