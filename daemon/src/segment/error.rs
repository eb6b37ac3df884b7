//! Why a segment could not be made: one sentence each, with the value, the limit and the remedy.
//!
//! All of these end the start, except those of a lease segment, which refuse one session. The caller prints the
//! sentence as it is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::holders::Holder;
use crate::config::Numa;

/// A fault while a segment was made.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The running kernel lacks what the segments need.
    #[error(
        "kernel {release} is too old: hostkvd needs Linux {}.{} or newer; update the kernel",
        super::kernel::OLDEST_KERNEL.0,
        super::kernel::OLDEST_KERNEL.1
    )]
    KernelTooOld {
        /// As the kernel names itself.
        release: String,
    },
    /// The kernel names itself in an unknown way.
    #[error(
        "kernel release {release:?} does not begin with a version such as 6.1; hostkvd runs on Linux only"
    )]
    KernelReleaseUnknown {
        /// As read.
        release: String,
    },
    /// No segment can have that size.
    #[error(
        "a {segment} segment of {size_bytes} bytes is not possible: allowed is 1 byte to {limit_bytes} bytes"
    )]
    BadSize {
        /// Which segment.
        segment: &'static str,
        /// Asked for.
        size_bytes: u64,
        /// The largest possible.
        limit_bytes: u64,
    },
    /// A system call failed for a reason that has no variant of its own.
    #[error("{call} for the {segment} segment failed: {errno}; {}", remedy_of(*errno))]
    Call {
        /// Which segment.
        segment: &'static str,
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// The kernel had no room for the pages of a segment.
    #[error(
        "no memory for the {segment} segment: {} of {} could be allocated ({errno}); free memory, raise the limit of the memory cgroup or of the file system, or lower --l1-size-gb",
        human_bytes(*got_bytes),
        human_bytes(*need_bytes)
    )]
    NoSpace {
        /// Which segment.
        segment: &'static str,
        /// The size of the segment.
        need_bytes: u64,
        /// How far the allocation came, at least.
        got_bytes: u64,
        /// ENOSPC or ENOMEM.
        errno: Errno,
    },
    /// `--mlock` is more than the process may lock.
    #[error(
        "locking {} of payload and index in memory failed ({errno}), this process may lock {}; raise RLIMIT_MEMLOCK (LimitMEMLOCK= of its unit, ulimit -l) or leave --mlock away",
        human_bytes(*need_bytes),
        human_bytes(*limit_bytes)
    )]
    NotLocked {
        /// Both segments.
        need_bytes: u64,
        /// The limit of the process.
        limit_bytes: u64,
        /// What the kernel says.
        errno: Errno,
    },
    /// The kernel's pool of 2 MiB pages ran out between the check and the map.
    #[error(
        "the payload needs {need_count} pages of 2 MiB, which the kernel's pool does not have ({errno}); sysctl vm.nr_hugepages={need_count} or more, or --hugepages auto"
    )]
    NoHugePages {
        /// How many the payload takes.
        need_count: u64,
        /// The error of mmap.
        errno: Errno,
    },
    /// `--numa` names a node that is not there.
    #[error(
        "--numa bind:{node}: this machine has no NUMA node {node} with memory; allowed is one of {nodes}"
    )]
    NoSuchNode {
        /// The node asked for.
        node: u32,
        /// Those there are, as the kernel lists them.
        nodes: String,
    },
    /// The kernel would not take the policy.
    #[error(
        "--numa {numa}: the kernel refused mbind ({errno}); in a container allow it (CAP_SYS_NICE, or a seccomp profile with mbind), or leave --numa out"
    )]
    NumaRefused {
        /// The policy asked for.
        numa: Numa,
        /// The error of mbind.
        errno: Errno,
    },
    /// The need is larger than a limit that no wait can change.
    #[error("the pool needs {} but {} is {} in all; {}", human_bytes(.0.need_bytes), .0.resource, human_bytes(.0.total_bytes), .0.remedy())]
    LargerThanLimit(Budget),
    /// The need is larger than what is free, and no old pool explains it.
    #[error(
        "the pool needs {} but of {} only {} of {} is available, and no process that this user can inspect maps an old pool; {}",
        human_bytes(.0.need_bytes), .0.resource, human_bytes(.0.available_bytes), human_bytes(.0.total_bytes), .0.remedy()
    )]
    DoesNotFit(Budget),
    /// It did fit, but others took memory while the pool was filled.
    #[error(
        "the pool still needs {} but of {} only {} of {} is left: others took memory while the pool was filled; {}",
        human_bytes(.0.need_bytes), .0.resource, human_bytes(.0.available_bytes), human_bytes(.0.total_bytes), .0.remedy()
    )]
    MemoryTaken(Budget),
    /// Processes kept an old pool mapped for the whole `--start-wait`.
    #[error(
        "the pool needs {} but of {} only {} of {} is available after {} s: {} still map a pool; end them or raise --start-wait, or {}",
        human_bytes(budget.need_bytes), budget.resource, human_bytes(budget.available_bytes), human_bytes(budget.total_bytes),
        waited.as_secs(), list_of(holders), budget.remedy()
    )]
    HeldByOldPool {
        /// What is short.
        budget: Budget,
        /// Who maps an old pool.
        holders: Vec<Holder>,
        /// How long the start waited.
        waited: Duration,
    },
    /// The name cannot be a POSIX shared-memory name.
    #[error(
        "shared-memory name {name:?} is not possible: allowed is 1 to 254 bytes without '/' after the first; change --shm-name"
    )]
    BadName {
        /// As given.
        name: String,
    },
    /// A live daemon owns the name.
    #[error("shared-memory segment {} is held by another running daemon; stop it or choose another --shm-name", path.display())]
    NameTaken {
        /// The segment's file.
        path: PathBuf,
    },
    /// The name belongs to something that no hostkvd of this user has made.
    #[error(
        "shared-memory segment {} is not hostkvd's own (owner uid {uid}, mode {mode:o}; a stale one would have uid {own_uid}, mode 100600); remove it or choose another --shm-name",
        path.display()
    )]
    NameForeign {
        /// The segment's file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its type and mode.
        mode: u32,
        /// The daemon's effective uid.
        own_uid: u32,
    },
    /// The crate that makes named segments failed.
    #[error("shared-memory segment {} could not be created: {reason}; check that /dev/shm is mounted and writable", path.display())]
    NameNotCreated {
        /// The segment's file.
        path: PathBuf,
        /// As the crate says it.
        reason: String,
    },
    /// Named segments are never backed by hugetlb pages.
    #[error("--hugepages hugetlb and --shm-name {name:?} exclude each other; drop one of them")]
    HugetlbNamed {
        /// As given.
        name: String,
    },
    /// A kernel file could not be read or understood.
    #[error("{} could not be used: {reason}; is /proc mounted?", path.display())]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A prefault thread could not be started.
    #[error(
        "a prefault thread could not be started: {reason}; raise the limit of tasks (TasksMax=, ulimit -u)"
    )]
    Thread {
        /// As the system says it.
        reason: String,
    },
}

/// Something that limits how much memory the pool can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The machine: MemTotal and MemAvailable.
    Machine,
    /// A memory cgroup that the daemon is in, or an ancestor of it.
    Cgroup {
        /// The folder with its files.
        path: PathBuf,
    },
    /// The kernel's pool of 2 MiB pages, for `--hugepages hugetlb`.
    HugePages,
    /// The file system of named segments, for `--shm-name`.
    ShmFileSystem,
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Machine => formatter.write_str("the machine's memory"),
            Resource::Cgroup { path } => {
                write!(formatter, "the limit of memory cgroup {}", path.display())
            }
            Resource::HugePages => {
                formatter.write_str("the kernel's pool of 2 MiB pages (vm.nr_hugepages)")
            }
            Resource::ShmFileSystem => formatter.write_str("the file system /dev/shm"),
        }
    }
}

/// A need beside one resource that must bear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What limits.
    pub resource: Resource,
    /// How much of it the daemon needs now.
    pub need_bytes: u64,
    /// How much there is in all.
    pub total_bytes: u64,
    /// How much of that can be had now.
    pub available_bytes: u64,
}

impl Budget {
    fn remedy(&self) -> String {
        match self.resource {
            Resource::Machine => "lower --l1-size-gb or free memory".to_string(),
            Resource::Cgroup { .. } => {
                "lower --l1-size-gb or raise the limit (MemoryMax=, MemoryHigh=, the container's memory)".to_string()
            }
            Resource::HugePages => format!(
                "sysctl vm.nr_hugepages={} or more, or --hugepages auto",
                (self.total_bytes - self.available_bytes.min(self.total_bytes) + self.need_bytes)
                    .div_ceil(super::HUGE_PAGE_BYTES)
            ),
            Resource::ShmFileSystem => format!(
                "mount -o remount,size={}m /dev/shm, or drop --shm-name (a pool without a name is not bound by /dev/shm), or lower --l1-size-gb",
                (self.total_bytes - self.available_bytes.min(self.total_bytes) + self.need_bytes).div_ceil(1 << 20)
            ),
        }
    }
}

/// The processes as `python (pid 7), vllm (pid 9)`.
pub(super) fn list_of(holders: &[Holder]) -> String {
    let names: Vec<String> = holders
        .iter()
        .map(|holder| format!("{} (pid {})", holder.comm, holder.pid))
        .collect();
    names.join(", ")
}

/// A size for people: GiB from 1 GiB on, MiB from 1 MiB on, else bytes.
pub(super) fn human_bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        GIB.. => format!("{:.2} GiB", bytes as f64 / GIB as f64),
        MIB.. => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        _ => format!("{bytes} bytes"),
    }
}

fn remedy_of(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE | Errno::ENFILE => "raise the limit of open files (LimitNOFILE=, ulimit -n)",
        Errno::ENOMEM => {
            "free memory, or raise the limit of address space (ulimit -v) or of maps (vm.max_map_count)"
        }
        Errno::ENOSYS | Errno::EINVAL => {
            "check that the kernel is Linux 6.1 or newer and has memfd and shmem"
        }
        Errno::EPERM | Errno::EACCES => {
            "check what a security policy (seccomp, SELinux, AppArmor) forbids the daemon"
        }
        _ => "look the error up in the call's manual page",
    }
}
