//! Gives every page of the payload its memory, before the daemon says that it is ready.
//!
//! Called once by `create_payload`; works on a few threads of its own, each on one stripe of 2 MiB blocks, and ends
//! before it returns. What it settles at start cannot go wrong later: no SIGBUS in a client, no fault storm at
//! registration, and 2 MiB pages while memory is still whole.
//!
//! ```text
//!   block, Collapse   fallocate one page ──> MADV_COLLAPSE ──> done, 2 MiB page
//!                                                 │ refused (no huge page left, or none in this kernel)
//!   block, Small      fallocate the block ──> populate (zeroes) ──> drop own page-table entries ──> done, 4 KiB pages
//!   block, Hugetlb    fallocate the block ──> done, 2 MiB page
//!   stripe            fallocate over all of it: says for certain that nothing was left out
//! ```
//!
//! One page before the collapse and not all: a block with all its small pages is copied, one with a single page is
//! only zeroed, ten times faster. Threads report through a channel; when the caller stops listening they stop.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::HUGE_PAGE_BYTES;
use super::error::{Budget, SegmentError, human_bytes};
use super::mapping::{Advice, Mapping, page_bytes};
use super::memfd::allocate;
use super::memory::check_remaining;
use super::numa;
use super::progress::{ProgressSink, Throttle};

const SEGMENT: &str = "payload";
/// The allocator of the kernel scales to about this many threads.
const MAX_THREADS: usize = 8;
/// How often the sink hears from a start that makes no progress, and how often memory is looked at again.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A collapse can be refused for a moment, when the block's page is just being looked at by others.
const COLLAPSE_TRIES: u32 = 3;

/// Which pages the blocks shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// 2 MiB where possible, else 4 KiB; on so many nodes in turn.
    Collapse {
        /// 1 where the kernel chooses, or one node was named.
        node_count: u64,
    },
    /// 4 KiB.
    Small,
    /// The file is made of 2 MiB pages.
    Hugetlb,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// Bytes on 2 MiB pages.
    pub(super) huge_bytes: u64,
    /// Bytes that should have been, but are on 4 KiB pages.
    pub(super) fallback_bytes: u64,
    /// Why the first of these are.
    pub(super) fallback_reason: Option<Errno>,
}

/// One finished block, or the error that ended a thread.
type Report = Result<Block, SegmentError>;

enum Block {
    Huge,
    Small,
    FellBack(Errno),
}

/// One for each core, up to eight: nobody is served yet.
pub(super) fn thread_count() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.clamp(1, MAX_THREADS)
}

/// Puts the whole 2 MiB blocks of a segment that is not the payload on 2 MiB pages, as far as the kernel has them. What is
/// left, and the rest behind the last block, gets its pages from the caller.
pub(super) fn collapse_blocks(
    fd: BorrowedFd<'_>,
    mapping: &Mapping,
    len_bytes: u64,
    segment: &'static str,
) -> Result<(), SegmentError> {
    let block_count = len_bytes / HUGE_PAGE_BYTES;
    for block in 0..block_count {
        let offset_bytes = block * HUGE_PAGE_BYTES;
        allocate(fd, offset_bytes, 1, len_bytes, segment)?;
        if let Err(errno) = collapse(mapping, offset_bytes as usize) {
            log::warn!(
                "{} of {} of the {segment} segment are on 4 KiB pages, because the kernel refused 2 MiB pages there ({errno}); lookups in a large index are slower; start on a machine with less fragmented memory, or say --hugepages off",
                human_bytes(len_bytes - offset_bytes),
                human_bytes(len_bytes)
            );
            break;
        }
    }
    Ok(())
}

/// What the threads have reported.
#[derive(Debug, Default)]
struct Filled {
    outcome: Outcome,
    bytes: u64,
}

impl Filled {
    fn add(&mut self, report: Report) -> Result<(), SegmentError> {
        match report? {
            Block::Huge => self.outcome.huge_bytes += HUGE_PAGE_BYTES,
            Block::Small => {}
            Block::FellBack(errno) => {
                self.outcome.fallback_bytes += HUGE_PAGE_BYTES;
                self.outcome.fallback_reason.get_or_insert(errno);
            }
        }
        self.bytes += HUGE_PAGE_BYTES;
        Ok(())
    }
}

/// Prefaults the whole of `mapping`, a mapping of `fd` at a 2 MiB boundary whose length is whole blocks. Every now
/// and then `look` says how much memory there is beside what is needed on top of it, and too little ends it.
pub(super) fn prefault(
    fd: BorrowedFd<'_>,
    mapping: &Mapping,
    pages: Pages,
    thread_count: usize,
    sink: &mut dyn ProgressSink,
    look: &mut dyn FnMut() -> Result<Vec<Budget>, SegmentError>,
) -> Result<Outcome, SegmentError> {
    let total_bytes = mapping.mapped_bytes() as u64;
    let stripes = stripes(total_bytes / HUGE_PAGE_BYTES, thread_count);
    // Each thread has the memory of a block before it reports it.
    let at_work_bytes = stripes.len() as u64 * HUGE_PAGE_BYTES;
    let result = std::thread::scope(|scope| {
        let (sender, reports) = channel::<Report>();
        for stripe in stripes {
            let sender = sender.clone();
            std::thread::Builder::new()
                .name("hostkv-prefault".to_string())
                .spawn_scoped(scope, move || work(fd, mapping, pages, stripe, &sender))
                .map_err(|error| SegmentError::Thread {
                    reason: error.to_string(),
                })?;
        }
        drop(sender);

        let mut filled = Filled::default();
        let mut looks = Throttle::every(HEARTBEAT);
        sink.update(0, total_bytes);
        loop {
            if looks.is_due(Instant::now()) {
                let looked = look()?;
                // After the look, so that what it found taken is either reported by now or at work.
                for report in reports.try_iter() {
                    filled.add(report)?;
                }
                let missing_bytes = total_bytes - filled.bytes;
                check_remaining(looked, missing_bytes.saturating_sub(at_work_bytes))?;
            }
            match reports.recv_timeout(HEARTBEAT) {
                Ok(report) => filled.add(report)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(filled.outcome),
            }
            sink.update(filled.bytes, total_bytes);
        }
    });
    sink.finish();
    result
}

/// Cuts the blocks into one run per thread, none empty.
fn stripes(block_count: u64, thread_count: usize) -> Vec<Range<u64>> {
    let count = (thread_count as u64).clamp(1, block_count.max(1));
    (0..count)
        .map(|n| block_count * n / count..block_count * (n + 1) / count)
        .collect()
}

/// The life of one thread.
fn work(
    fd: BorrowedFd<'_>,
    mapping: &Mapping,
    pages: Pages,
    stripe: Range<u64>,
    reports: &Sender<Report>,
) {
    let total_bytes = mapping.mapped_bytes() as u64;
    for block in stripe.clone() {
        let report = prefault_block(fd, mapping, pages, block * HUGE_PAGE_BYTES);
        let is_over = report.is_err();
        // Nobody listens any more: another thread has failed.
        if reports.send(report).is_err() || is_over {
            return;
        }
    }
    let stripe_bytes = (stripe.end - stripe.start) * HUGE_PAGE_BYTES;
    if let Err(error) = allocate(
        fd,
        stripe.start * HUGE_PAGE_BYTES,
        stripe_bytes,
        total_bytes,
        SEGMENT,
    ) {
        // With nobody listening the start has failed already, for another reason.
        let _ = reports.send(Err(error));
    }
}

fn prefault_block(
    fd: BorrowedFd<'_>,
    mapping: &Mapping,
    pages: Pages,
    offset_bytes: u64,
) -> Report {
    let total_bytes = mapping.mapped_bytes() as u64;
    let offset = offset_bytes as usize;
    let block_bytes = HUGE_PAGE_BYTES as usize;
    let refused = match pages {
        Pages::Hugetlb => {
            allocate(fd, offset_bytes, HUGE_PAGE_BYTES, total_bytes, SEGMENT)?;
            return Ok(Block::Huge);
        }
        Pages::Collapse { node_count } => {
            let first = numa::first_page_of(
                offset_bytes / HUGE_PAGE_BYTES,
                page_bytes() as u64,
                node_count,
            );
            allocate(fd, first, 1, total_bytes, SEGMENT)?;
            match collapse(mapping, offset) {
                Ok(()) => return Ok(Block::Huge),
                Err(errno) => Some(errno),
            }
        }
        Pages::Small => None,
    };
    allocate(fd, offset_bytes, HUGE_PAGE_BYTES, total_bytes, SEGMENT)?;
    // fallocate leaves the zeroing to the first touch, which would be a client's.
    mapping.populate(offset, block_bytes, SEGMENT)?;
    // The daemon does not read the payload; without its page-table entries it ends a quarter of a second per GiB
    // sooner.
    mapping
        .advise(offset, block_bytes, Advice::Unmap)
        .map_err(|errno| SegmentError::Call {
            segment: SEGMENT,
            call: "madvise(MADV_DONTNEED)",
            errno,
        })?;
    Ok(refused.map_or(Block::Small, Block::FellBack))
}

fn collapse(mapping: &Mapping, offset: usize) -> Result<(), Errno> {
    let mut tries = 1;
    loop {
        match mapping.advise(offset, HUGE_PAGE_BYTES as usize, Advice::Collapse) {
            Err(Errno::EAGAIN | Errno::EBUSY) if tries < COLLAPSE_TRIES => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_cover_every_block_once_and_none_is_empty() {
        for block_count in [1, 2, 3, 7, 8, 9, 1000, 524_288] {
            for thread_count in [1, 2, 3, 8] {
                let stripes = stripes(block_count, thread_count);
                assert!(stripes.len() <= thread_count);
                let mut next = 0;
                for stripe in stripes {
                    assert_eq!(stripe.start, next);
                    assert!(stripe.end > stripe.start);
                    next = stripe.end;
                }
                assert_eq!(next, block_count);
            }
        }
    }

    #[test]
    fn between_one_and_eight_threads_work() {
        assert!((1..=8).contains(&thread_count()));
    }
}
