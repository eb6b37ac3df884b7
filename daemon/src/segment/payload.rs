//! The payload segment: the L1 buffer that holds the objects.
//!
//! `create_payload` is called once by the start-up, before the sockets open, and may take minutes. The loop thread
//! later only passes descriptors on; it never reads or writes payload bytes.
//!
//! ```text
//!   name (--shm-name): clear a stale one ─> will it fit? ─> create, size ─> own map at 2 MiB ─> seal ─> prefault
//! ```
//!
//! Seals come before the prefault, which can be long: from the first moment no process of the same user can resize
//! the payload by way of `/proc`. A named segment cannot be sealed at all, and the log says so.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;

use super::error::{SegmentError, human_bytes};
use super::holders::PAYLOAD_MEMFD_NAME;
use super::mapping::Mapping;
use super::memory::{Machine, ThisMachine, wait_until_fits};
use super::named::{self, NamedSegment};
use super::numa;
use super::prefault::{Outcome, Pages, prefault, thread_count};
use super::progress::ProgressSink;
use super::readings::Need;
use super::{HUGE_PAGE_BYTES, memfd};
use crate::config::Numa;

const SEGMENT: &str = "payload";

/// What `--hugepages` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// 2 MiB pages where the kernel has them, 4 KiB elsewhere.
    #[default]
    Auto,
    /// 4 KiB pages.
    Off,
    /// Only pages of the kernel's reserved pool.
    Hugetlb,
}

/// What the payload shall be.
#[derive(Debug, Clone, Copy)]
pub struct PayloadOptions<'a> {
    /// Rounded up to 2 MiB.
    pub size_bytes: u64,
    /// What else the daemon will allocate at start (the control segment); counts when asking whether all fits.
    pub extra_bytes: u64,
    /// Named POSIX segment instead of a sealed memfd.
    pub shm_name: Option<&'a str>,
    /// Kind of pages.
    pub huge_pages: HugePages,
    /// Nodes whose memory it takes; `None` = as the kernel chooses.
    pub numa: Option<Numa>,
    /// Whether every page gets its memory now.
    pub prefault: bool,
    /// Whether any client may map the payload writable; if not, it is sealed against it.
    pub writers_allowed: bool,
    /// How long to wait for memory that an earlier pool still holds.
    pub start_wait: Duration,
}

/// The payload segment, owned by the daemon. A named one loses its name on drop.
#[derive(Debug)]
pub struct Payload {
    mapping: Mapping,
    backing: Backing,
    len_bytes: u64,
    huge_page_bytes: u64,
    is_prefaulted: bool,
}

#[derive(Debug)]
enum Backing {
    Memfd(OwnedFd),
    Hugetlb(OwnedFd),
    Named(NamedSegment),
}

impl Backing {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Backing::Memfd(fd) | Backing::Hugetlb(fd) => fd.as_fd(),
            Backing::Named(segment) => segment.fd(),
        }
    }
}

impl Payload {
    /// A new descriptor that trusted writers get. It is no duplicate, because that would hold the lock of a named
    /// segment for as long as a client maps it, beyond the daemon's own end.
    pub fn writable_fd(&self) -> Result<OwnedFd, SegmentError> {
        memfd::writable_fd(self.backing.fd(), SEGMENT)
    }

    /// A new descriptor that can only be read and mapped read-only.
    pub fn read_only_fd(&self) -> Result<OwnedFd, SegmentError> {
        memfd::read_only_fd(self.backing.fd(), SEGMENT)
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Length of the payload: whole 2 MiB.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where the daemon's own mapping begins, a multiple of 2 MiB. Not for the loop thread.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// How many bytes lie on 2 MiB pages.
    pub fn huge_page_bytes(&self) -> u64 {
        self.huge_page_bytes
    }

    /// Whether the payload has a name in `/dev/shm`, and so no seals.
    pub fn is_named(&self) -> bool {
        matches!(self.backing, Backing::Named(_))
    }

    /// Backing and pages, for the start line: `memfd, 2 MiB pages`.
    pub fn kind(&self) -> String {
        let backing = match self.backing {
            Backing::Memfd(_) => "memfd",
            Backing::Hugetlb(_) => "hugetlb memfd",
            Backing::Named(_) => "named segment",
        };
        let pages = match self.huge_page_bytes {
            _ if !self.is_prefaulted => "sparse".to_string(),
            0 => "4 KiB pages".to_string(),
            huge if huge == self.len_bytes => "2 MiB pages".to_string(),
            huge => format!(
                "{} on 2 MiB pages, the rest on 4 KiB pages",
                human_bytes(huge)
            ),
        };
        format!("{backing}, {pages}")
    }
}

/// Creates the payload; returns when it is as the options say.
pub fn create_payload(
    options: &PayloadOptions<'_>,
    sink: &mut dyn ProgressSink,
) -> Result<Payload, SegmentError> {
    create_payload_on(&mut ThisMachine::new(options.shm_name), options, sink)
}

pub(super) fn create_payload_on(
    machine: &mut dyn Machine,
    options: &PayloadOptions<'_>,
    sink: &mut dyn ProgressSink,
) -> Result<Payload, SegmentError> {
    let len_bytes = rounded_size(options.size_bytes)?;
    if let Some(name) = options.shm_name {
        if options.huge_pages == HugePages::Hugetlb {
            return Err(SegmentError::HugetlbNamed {
                name: name.to_string(),
            });
        }
        // Before the question of space: a stale segment takes some as long as it has its name.
        named::clear_stale(name)?;
    }
    wait_until_fits(
        &need_of(options, len_bytes),
        options.start_wait,
        machine,
        sink,
    )?;

    let (mapping, backing) = create_backing(options, len_bytes)?;
    if matches!(backing, Backing::Named(_)) {
        log::warn!(
            "the payload has a name (--shm-name) and cannot be sealed: every process that may open it can truncate it and so end its users by SIGBUS; let only trusted users run as this uid"
        );
    } else {
        memfd::seal(backing.fd(), !options.writers_allowed, SEGMENT)?;
    }

    let node_count = match options.numa {
        Some(numa) => numa::place(&mapping, numa)?,
        None => 1,
    };
    let mut payload = Payload {
        mapping,
        backing,
        len_bytes,
        huge_page_bytes: 0,
        is_prefaulted: options.prefault,
    };
    if options.prefault {
        let pages = match options.huge_pages {
            HugePages::Auto => Pages::Collapse { node_count },
            HugePages::Off => Pages::Small,
            HugePages::Hugetlb => Pages::Hugetlb,
        };
        let mut look = || match pages {
            // Its pages are reserved by the map.
            Pages::Hugetlb => Ok(Vec::new()),
            Pages::Collapse { .. } | Pages::Small => machine.budgets(&Need {
                // Of nothing at all nothing is said.
                memory_bytes: options.extra_bytes.max(1),
                ..Need::default()
            }),
        };
        let outcome = prefault(
            payload.backing.fd(),
            &payload.mapping,
            pages,
            thread_count(),
            sink,
            &mut look,
        )?;
        warn_of_fallback(&outcome, len_bytes);
        payload.huge_page_bytes = outcome.huge_bytes;
    } else {
        log::warn!(
            "the payload stays sparse (--prefault no): when memory runs out its users die by SIGBUS; use this for tests only"
        );
    }
    Ok(payload)
}

fn create_backing(
    options: &PayloadOptions<'_>,
    len_bytes: u64,
) -> Result<(Mapping, Backing), SegmentError> {
    let bad_size = || SegmentError::BadSize {
        segment: SEGMENT,
        size_bytes: len_bytes,
        limit_bytes: i64::MAX as u64,
    };
    let len = usize::try_from(len_bytes).map_err(|_| bad_size())?;
    let backing = match (options.shm_name, options.huge_pages) {
        (Some(name), _) => Backing::Named(NamedSegment::create(name, len)?),
        (None, HugePages::Hugetlb) => {
            let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
            Backing::Hugetlb(memfd::create(PAYLOAD_MEMFD_NAME, SEGMENT, huge)?)
        }
        (None, _) => Backing::Memfd(memfd::create(
            PAYLOAD_MEMFD_NAME,
            SEGMENT,
            MFdFlags::empty(),
        )?),
    };
    if !matches!(backing, Backing::Named(_)) {
        memfd::set_len(backing.fd(), len_bytes, SEGMENT)?;
    }
    let mapping =
        Mapping::new(backing.fd(), len, HUGE_PAGE_BYTES as usize, SEGMENT).map_err(|error| {
            match error {
                // A hugetlb map reserves its pages, and another process may have taken them since the check.
                SegmentError::Call {
                    errno: errno @ Errno::ENOMEM,
                    ..
                } if matches!(backing, Backing::Hugetlb(_)) => SegmentError::NoHugePages {
                    need_count: len_bytes / HUGE_PAGE_BYTES,
                    errno,
                },
                other => other,
            }
        })?;
    Ok((mapping, backing))
}

/// What must be there before a page is taken. A sparse payload takes nothing yet, but hugetlb pages are reserved by
/// the map in any case.
fn need_of(options: &PayloadOptions<'_>, len_bytes: u64) -> Need {
    let is_hugetlb = options.huge_pages == HugePages::Hugetlb;
    let ordinary_bytes = if options.prefault && !is_hugetlb {
        len_bytes
    } else {
        0
    };
    Need {
        memory_bytes: ordinary_bytes.saturating_add(options.extra_bytes),
        huge_pool_bytes: if is_hugetlb { len_bytes } else { 0 },
        shm_bytes: if options.shm_name.is_some() {
            ordinary_bytes
        } else {
            0
        },
    }
}

fn rounded_size(size_bytes: u64) -> Result<u64, SegmentError> {
    const LIMIT_BYTES: u64 = (i64::MAX as u64) & !(HUGE_PAGE_BYTES - 1);
    size_bytes
        .checked_next_multiple_of(HUGE_PAGE_BYTES)
        .filter(|rounded| (1..=LIMIT_BYTES).contains(rounded))
        .ok_or(SegmentError::BadSize {
            segment: SEGMENT,
            size_bytes,
            limit_bytes: LIMIT_BYTES,
        })
}

fn warn_of_fallback(outcome: &Outcome, len_bytes: u64) {
    let Some(reason) = outcome.fallback_reason else {
        return;
    };
    log::warn!(
        "{} of {} of the payload are on 4 KiB pages, because the kernel refused 2 MiB pages there (first reason: {reason}); reads are slower; start on a machine with less fragmented memory, reserve pages and use --hugepages hugetlb, or say --hugepages off",
        human_bytes(outcome.fallback_bytes),
        human_bytes(len_bytes)
    );
}
