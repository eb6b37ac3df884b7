//! The part of the sandbox that seccomp enforces: which system calls there are, and with which arguments.
//!
//! Called by [`Plan::enter`](super::Plan::enter) on the main thread; the filter holds for every thread of the process. What
//! is in no table fails with EPERM and is logged by the kernel. `clone3`, whose arguments a filter can't see, fails with
//! ENOSYS instead, upon which the C library starts its threads with `clone`, which may make threads and no processes.
//!
//! ```text
//!   ALWAYS ─────────────────┐
//!   METRICS        if on ───┼──> rules ──> filter: allow, else EPERM ──┐ the stricter
//!   EVENT_FILES    if on ───┤              filter: clone3 = ENOSYS ────┴ answer counts
//!   SERVICE_MANAGER if on ──┤
//!   TIERS          if on ───┘
//! ```
//!
//! Calls that take a path are landlock's to judge. Nothing in the tables starts a program, makes memory executable, looks
//! into another process, sends a signal to one, or, without tiers, makes a socket that leaves the host.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::{Feature, Lack};

/// What the arguments of a call have to be.
#[derive(Clone, Copy, Debug)]
enum Only {
    /// Anything.
    Any,
    /// Argument `0` is one of these, compared in 32 bits.
    OneOf(u8, &'static [u64]),
    /// Argument `0` has none of these bits.
    Without(u8, u64),
    /// Argument `0` has all of these bits.
    With(u8, u64),
    /// The first argument is this process, or 0.
    Own,
    /// Nothing is set: argument `2` is a null pointer and the first is 0, this process.
    Get,
}

type Table = &'static [(c_long, Only)];

const UNIX: Only = Only::OneOf(0, &[libc::AF_UNIX as u64]);
const NOT_EXECUTABLE: Only = Only::Without(2, libc::PROT_EXEC as u64);

/// The loop, sessions, segments, workers, threads, memory and the C library.
const ALWAYS: Table = &[
    // Descriptors.
    (libc::SYS_read, Only::Any),
    (libc::SYS_readv, Only::Any),
    (libc::SYS_write, Only::Any),
    (libc::SYS_writev, Only::Any),
    (libc::SYS_pread64, Only::Any),
    (libc::SYS_lseek, Only::Any),
    (libc::SYS_close, Only::Any),
    (libc::SYS_fstat, Only::Any),
    (libc::SYS_newfstatat, Only::Any),
    (libc::SYS_statx, Only::Any),
    (libc::SYS_fcntl, Only::Any),
    // Not blocking, close-on-exec, and whether it is a terminal.
    (
        libc::SYS_ioctl,
        Only::OneOf(1, &[libc::FIONBIO, libc::FIOCLEX, libc::TCGETS]),
    ),
    // Files: the configuration, /proc, and what is unlocked and removed at the end.
    (libc::SYS_openat, Only::Any),
    (libc::SYS_flock, Only::Any),
    (libc::SYS_getdents64, Only::Any),
    (libc::SYS_unlinkat, Only::Any),
    // Segments.
    (libc::SYS_memfd_create, Only::Any),
    (libc::SYS_ftruncate, Only::Any),
    (libc::SYS_fallocate, Only::Any),
    (libc::SYS_fchmod, Only::Any),
    // Memory.
    (libc::SYS_mmap, NOT_EXECUTABLE),
    (libc::SYS_mprotect, NOT_EXECUTABLE),
    (libc::SYS_munmap, Only::Any),
    (libc::SYS_mremap, Only::Any),
    (libc::SYS_madvise, Only::Any),
    (libc::SYS_brk, Only::Any),
    // Waiting.
    (libc::SYS_epoll_create1, Only::Any),
    (libc::SYS_epoll_ctl, Only::Any),
    (libc::SYS_epoll_pwait, Only::Any),
    (libc::SYS_epoll_pwait2, Only::Any),
    (libc::SYS_ppoll, Only::Any),
    (libc::SYS_eventfd2, Only::Any),
    (libc::SYS_timerfd_create, Only::Any),
    (libc::SYS_timerfd_settime, Only::Any),
    (libc::SYS_timerfd_gettime, Only::Any),
    (libc::SYS_signalfd4, Only::Any),
    (libc::SYS_restart_syscall, Only::Any),
    // Sockets that are there already.
    (libc::SYS_accept4, Only::Any),
    (libc::SYS_recvmsg, Only::Any),
    (libc::SYS_sendmsg, Only::Any),
    (libc::SYS_recvfrom, Only::Any),
    (libc::SYS_sendto, Only::Any),
    (libc::SYS_shutdown, Only::Any),
    (libc::SYS_getsockopt, Only::Any),
    (libc::SYS_setsockopt, Only::Any),
    (libc::SYS_getsockname, Only::Any),
    (libc::SYS_getpeername, Only::Any),
    // Who is asking, and when it dies.
    (libc::SYS_pidfd_open, Only::Any),
    // Threads.
    (libc::SYS_clone, Only::With(0, libc::CLONE_THREAD as u64)),
    // Refused by the other filter.
    (libc::SYS_clone3, Only::Any),
    (libc::SYS_futex, Only::Any),
    (libc::SYS_set_robust_list, Only::Any),
    (libc::SYS_rseq, Only::Any),
    (libc::SYS_sched_yield, Only::Any),
    (libc::SYS_sched_getaffinity, Only::Any),
    (
        libc::SYS_prctl,
        Only::OneOf(0, &[libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64]),
    ),
    (libc::SYS_exit, Only::Any),
    (libc::SYS_exit_group, Only::Any),
    // Signals: their handling, and those that the process sends itself to abort.
    (libc::SYS_rt_sigaction, Only::Any),
    (libc::SYS_rt_sigprocmask, Only::Any),
    (libc::SYS_rt_sigreturn, Only::Any),
    (libc::SYS_sigaltstack, Only::Any),
    (libc::SYS_tgkill, Only::Own),
    // Questions.
    (libc::SYS_getpid, Only::Any),
    (libc::SYS_gettid, Only::Any),
    (libc::SYS_getuid, Only::Any),
    (libc::SYS_geteuid, Only::Any),
    (libc::SYS_getgid, Only::Any),
    (libc::SYS_getegid, Only::Any),
    (libc::SYS_getrandom, Only::Any),
    (libc::SYS_prlimit64, Only::Get),
    (libc::SYS_uname, Only::Any),
    (libc::SYS_sysinfo, Only::Any),
    // Clocks, where the kernel's page of them does not do.
    (libc::SYS_clock_gettime, Only::Any),
    (libc::SYS_clock_getres, Only::Any),
    (libc::SYS_gettimeofday, Only::Any),
    (libc::SYS_nanosleep, Only::Any),
    (libc::SYS_clock_nanosleep, Only::Any),
];

/// Older calls that only x86-64 has, and that its C library still makes.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: Table = &[
    (libc::SYS_open, Only::Any),
    (libc::SYS_stat, Only::Any),
    (libc::SYS_lstat, Only::Any),
    (libc::SYS_unlink, Only::Any),
    (libc::SYS_poll, Only::Any),
    (libc::SYS_epoll_wait, Only::Any),
    (libc::SYS_time, Only::Any),
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: Table = &[];

/// The inner hop of the endpoint: made at the start, and anew when it breaks.
const METRICS: Table = &[
    (libc::SYS_socket, UNIX),
    (libc::SYS_bind, Only::Any),
    (libc::SYS_listen, Only::Any),
    (libc::SYS_connect, Only::Any),
];

/// Files that are renamed when they are full.
const EVENT_FILES: Table = &[
    (libc::SYS_renameat, Only::Any),
    (libc::SYS_renameat2, Only::Any),
];
#[cfg(target_arch = "x86_64")]
const EVENT_FILES_HERE: Table = &[(libc::SYS_rename, Only::Any)];
#[cfg(not(target_arch = "x86_64"))]
const EVENT_FILES_HERE: Table = &[];

/// A socket for each message.
const SERVICE_MANAGER: Table = &[(libc::SYS_socket, UNIX)];

/// Files of objects, and connections to stores with the look-up of their names. After the others: what it allows of a call
/// that they know too is more.
const TIERS: Table = &[
    (libc::SYS_pwrite64, Only::Any),
    (libc::SYS_preadv, Only::Any),
    (libc::SYS_pwritev, Only::Any),
    (libc::SYS_preadv2, Only::Any),
    (libc::SYS_pwritev2, Only::Any),
    (libc::SYS_fsync, Only::Any),
    (libc::SYS_fdatasync, Only::Any),
    (libc::SYS_sync_file_range, Only::Any),
    (libc::SYS_fadvise64, Only::Any),
    (libc::SYS_mkdirat, Only::Any),
    (libc::SYS_renameat, Only::Any),
    (libc::SYS_renameat2, Only::Any),
    (libc::SYS_readlinkat, Only::Any),
    (libc::SYS_faccessat, Only::Any),
    (libc::SYS_faccessat2, Only::Any),
    (libc::SYS_utimensat, Only::Any),
    (libc::SYS_statfs, Only::Any),
    (libc::SYS_fstatfs, Only::Any),
    (
        libc::SYS_socket,
        Only::OneOf(
            0,
            &[
                libc::AF_UNIX as u64,
                libc::AF_INET as u64,
                libc::AF_INET6 as u64,
                // The C library asks which addresses this host has.
                libc::AF_NETLINK as u64,
            ],
        ),
    ),
    (libc::SYS_socketpair, UNIX),
    (libc::SYS_bind, Only::Any),
    (libc::SYS_connect, Only::Any),
    (libc::SYS_sendmmsg, Only::Any),
    (libc::SYS_recvmmsg, Only::Any),
    // And how many bytes of an answer are there.
    (
        libc::SYS_ioctl,
        Only::OneOf(
            1,
            &[libc::FIONBIO, libc::FIOCLEX, libc::TCGETS, libc::FIONREAD],
        ),
    ),
];
#[cfg(target_arch = "x86_64")]
const TIERS_HERE: Table = &[
    (libc::SYS_mkdir, Only::Any),
    (libc::SYS_rmdir, Only::Any),
    (libc::SYS_rename, Only::Any),
    (libc::SYS_access, Only::Any),
    (libc::SYS_readlink, Only::Any),
];
#[cfg(not(target_arch = "x86_64"))]
const TIERS_HERE: Table = &[];

fn tables_of(feature: Feature) -> &'static [Table] {
    match feature {
        Feature::Metrics => &[METRICS],
        Feature::EventFiles => &[EVENT_FILES, EVENT_FILES_HERE],
        Feature::ServiceManager => &[SERVICE_MANAGER],
        Feature::Tiers => &[TIERS, TIERS_HERE],
    }
}

/// Restricts every thread of the process to what the features need.
pub fn restrict(features: &[Feature]) -> Result<(), Lack> {
    let fault = |error: BackendError| Lack::Refused(error.to_string());
    let no_clone3 = clone3_is_unknown().map_err(fault)?;
    let allowed = allow_list(features).map_err(fault)?;
    // Each thread that is there already gets it as well. A call that a filter refuses is logged only where nobody
    // makes it by habit.
    let all_threads = libc::SECCOMP_FILTER_FLAG_TSYNC;
    forbid_new_privileges()?;
    install(&no_clone3, all_threads)?;
    install(&allowed, all_threads | libc::SECCOMP_FILTER_FLAG_LOG)
}

fn allow_list(features: &[Feature]) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let always: &[Table] = &[ALWAYS, ALWAYS_HERE];
    let tables = always
        .iter()
        .chain(features.iter().flat_map(|feature| tables_of(*feature)));
    for (call, only) in tables.copied().flatten() {
        // No rule means any argument, so it must not be joined by one that asks for something.
        rules.insert(*call, only.rules()?);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        this_machine()?,
    )?
    .try_into()
}

fn clone3_is_unknown() -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        this_machine()?,
    )?
    .try_into()
}

fn this_machine() -> Result<TargetArch, BackendError> {
    TargetArch::try_from(std::env::consts::ARCH)
}

impl Only {
    fn rules(self) -> Result<Vec<SeccompRule>, BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        let equal = |index, value| SeccompCondition::new(index, Dword, SeccompCmpOp::Eq, value);
        let masked = |index, mask, value| {
            SeccompCondition::new(index, Qword, SeccompCmpOp::MaskedEq(mask), value)
        };
        let own = u64::from(std::process::id());
        let either: Vec<Vec<SeccompCondition>> = match self {
            Only::Any => return Ok(Vec::new()),
            Only::OneOf(index, values) => values
                .iter()
                .map(|value| Ok(vec![equal(index, *value)?]))
                .collect::<Result<_, BackendError>>()?,
            Only::Without(index, bits) => vec![vec![masked(index, bits, 0)?]],
            Only::With(index, bits) => vec![vec![masked(index, bits, bits)?]],
            Only::Own => vec![vec![equal(0, own)?]],
            Only::Get => {
                let nothing = SeccompCondition::new(2, Qword, SeccompCmpOp::Eq, 0)?;
                vec![vec![equal(0, 0)?, nothing]]
            }
        };
        either.into_iter().map(SeccompRule::new).collect()
    }
}

/// What both need of an unprivileged process: no program that it runs gets more rights than it has.
fn forbid_new_privileges() -> Result<(), Lack> {
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| Lack::Refused(format!("prctl(PR_SET_NO_NEW_PRIVS): {}", errno.desc())))
}

fn install(program: &[sock_filter], flags: libc::c_ulong) -> Result<(), Lack> {
    const _: () = assert!(size_of::<sock_filter>() == size_of::<libc::sock_filter>());
    let program = libc::sock_fprog {
        // A filter of more instructions than the kernel takes is refused by the crate.
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies the program, whose length is the slice's, and changes nothing of it. Both types of an
    // instruction are the kernel's own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        -1 => Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOSYS) => Lack::NotBuilt,
            error => Lack::Refused(format!("seccomp: {error}")),
        }),
        thread => Err(Lack::Refused(format!(
            "thread {thread} has a filter of its own"
        ))),
    }
}
