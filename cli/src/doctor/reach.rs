//! The daemon as a client meets it: socket, rights, versions, other instances, clock.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hostkv::admin::{DaemonState, usual_socket};
use hostkv::session::{READ_ONLY, Session, SessionInfo};
use hostkv::{Error, Status};
use hostkv_shm_protocol::version::PACKAGE_VERSION;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket as new_socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};

use super::settings::Source;
use super::{Finding, Scene};
use crate::args::Common;
use crate::connect;

/// A clock that is off by more than this is another clock.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;
/// How long another daemon may take to show that it lives.
const OTHER_TIMEOUT_MS: u32 = 1000;

/// What stands where the daemon's socket should be.
pub enum Daemon {
    /// There is none in any of the usual places; what the library says.
    Nowhere(Error),
    /// It serves this user.
    Serves {
        /// Its socket.
        path: PathBuf,
        /// Kept open, so that its process stays the one that was asked.
        session: Box<Session>,
        /// What it granted.
        info: Box<SessionInfo>,
        /// What it tells admins; the error says why not.
        state: Result<Box<DaemonState>, Error>,
        /// Its process, as the kernel names it.
        pid: i32,
        /// Our own clock when it told its own.
        asked_ns: u64,
    },
    /// It can't be used.
    Fails {
        /// Its socket.
        path: PathBuf,
        /// What happens at a plain connect; none when that succeeds.
        errno: Option<Errno>,
        /// What the library says.
        error: Error,
    },
}

impl Daemon {
    /// Its socket, or where it should be.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Daemon::Nowhere(_) => None,
            Daemon::Serves { path, .. } | Daemon::Fails { path, .. } => Some(path),
        }
    }

    /// What it tells admins.
    pub fn state(&self) -> Option<&DaemonState> {
        match self {
            Daemon::Serves { state, .. } => state.as_ref().ok().map(|state| &**state),
            Daemon::Nowhere(_) | Daemon::Fails { .. } => None,
        }
    }

    /// Its process, while it serves.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Daemon::Serves { pid, .. } => Some(*pid),
            Daemon::Nowhere(_) | Daemon::Fails { .. } => None,
        }
    }

    /// Whether somebody answers at the socket, be it with a refusal.
    pub fn is_up(&self) -> bool {
        match self {
            Daemon::Nowhere(_) => false,
            Daemon::Serves { .. } => true,
            Daemon::Fails { errno, .. } => matches!(errno, None | Some(Errno::EACCES)),
        }
    }
}

/// Looks for the daemon as any client does.
pub fn look(common: &Common) -> Daemon {
    let path = match common.socket.clone().map_or_else(usual_socket, Ok) {
        Ok(path) => path,
        Err(error) => return Daemon::Nowhere(error),
    };
    let opened = connect::open_at(Some(&path), "doctor", READ_ONLY, common.timeout_ms)
        .and_then(|session| Ok((session.info()?, session)));
    match opened {
        Ok((info, session)) => {
            let asked_ns = monotonic_ns();
            let state = session.state().map(|(daemon, _)| Box::new(daemon));
            let told_pid = state.as_ref().map(|state| state.pid as i32).ok();
            let pid = peer_pid(&path).or(told_pid).unwrap_or(0);
            Daemon::Serves {
                path,
                session: Box::new(session),
                info: Box::new(info),
                state,
                pid,
                asked_ns,
            }
        }
        Err(error) => Daemon::Fails {
            errno: plain_connect(&path).err(),
            path,
            error,
        },
    }
}

fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

fn plain_connect(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = new_socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// The process that listens, where the socket is its own and not its service manager's.
fn peer_pid(path: &Path) -> Option<i32> {
    let socket = plain_connect(path).ok()?;
    let pid = getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid();
    (pid > 1).then_some(pid)
}

/// Whether a daemon is there.
pub fn socket(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "socket";
    match &scene.daemon {
        Daemon::Nowhere(error) => Finding::problem(
            CHECK,
            format!(
                "the daemon is down, or not where clients look: {}",
                error.message
            ),
            "start hostkvd (systemctl start hostkvd), or name its socket in HOSTKV_SOCKET or --socket",
        ),
        Daemon::Serves { path, .. } => {
            Finding::ok(CHECK, format!("a daemon serves at {}", path.display()))
        }
        Daemon::Fails { path, errno, error } => {
            let path = path.display();
            match errno {
                Some(Errno::ENOENT | Errno::ENOTDIR) => Finding::problem(
                    CHECK,
                    format!("the daemon is down: there is no socket {path}"),
                    "start hostkvd (systemctl start hostkvd) with this --socket, or name the right one in HOSTKV_SOCKET \
                     or --socket",
                ),
                Some(Errno::ECONNREFUSED) => Finding::problem(
                    CHECK,
                    format!(
                        "the socket {path} is stale: it is there and nobody listens, as after a daemon that was killed"
                    ),
                    "start hostkvd, which replaces a stale socket, and look into its log for why it ended",
                ),
                Some(Errno::EPROTOTYPE) => Finding::problem(
                    CHECK,
                    format!("{path} is the socket of another program"),
                    "name hostkvd's socket in HOSTKV_SOCKET or --socket",
                ),
                Some(Errno::EACCES | Errno::EPERM) => Finding::ok(
                    CHECK,
                    format!(
                        "there is a socket {path} (whether anybody listens can't be seen without rights)"
                    ),
                ),
                _ if matches!(error.status, Status::Permission | Status::VersionMismatch) => {
                    Finding::ok(CHECK, format!("a daemon answers at {path}"))
                }
                _ if error.status == Status::Quota => Finding::problem(
                    CHECK,
                    error.message.clone(),
                    "close sessions that are not needed, or raise --max-sessions",
                ),
                Some(Errno::EAGAIN) => Finding::problem(
                    CHECK,
                    format!("the daemon at {path} accepts no connection: its queue is full"),
                    "see its log and whether its process is stopped or out of descriptors",
                ),
                _ => Finding::problem(
                    CHECK,
                    format!("the daemon at {path} does not serve: {}", error.message),
                    "see its log and whether its process is stopped; restart it if it does not answer",
                ),
            }
        }
    }
}

/// Whether this user, and those that the configuration names, get in.
pub fn rights(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "rights";
    let uid = nix::unistd::geteuid().as_raw();
    match &scene.daemon {
        Daemon::Nowhere(_) => Finding::not_checked(CHECK, "there is no socket"),
        Daemon::Fails {
            path,
            errno: Some(Errno::EACCES | Errno::EPERM),
            ..
        } => Finding::problem(
            CHECK,
            format!(
                "uid {uid} may not open the socket {}: {}",
                path.display(),
                modes(path)
            ),
            format!(
                "start hostkvd with --socket-group of a group that uid {uid} is in, or with --socket-mode 666 and \
                 --allow-uid {uid}; every folder above the socket must let it through"
            ),
        ),
        Daemon::Fails { error, .. } if error.status == Status::Permission => Finding::problem(
            CHECK,
            format!("the daemon refuses uid {uid}: {}", error.message),
            format!(
                "run this as a user whom the daemon knows, or add --allow-uid {uid} (or --allow-gid of its group) and \
                 reload it with SIGHUP"
            ),
        ),
        Daemon::Fails { .. } => Finding::not_checked(CHECK, "no daemon answers"),
        Daemon::Serves { path, state, .. } => match state {
            Ok(state) => configured_rights(scene, path, state, uid),
            Err(error) if error.status == Status::Permission => Finding::ok(
                CHECK,
                format!(
                    "uid {uid} may open sessions, and is no admin ({})",
                    error.message
                ),
            ),
            Err(error) => Finding::not_checked(CHECK, error.message.clone()),
        },
    }
}

/// Another user must both reach the file and be allowed.
fn configured_rights(scene: &Scene<'_>, path: &Path, state: &DaemonState, uid: u32) -> Finding {
    const CHECK: &str = "rights";
    let settings = &scene.settings;
    let allowed: Vec<u32> = [
        settings.numbers("allow_uid"),
        settings.numbers("read_only_uid"),
    ]
    .concat();
    let others: Vec<u32> = allowed
        .into_iter()
        .filter(|other| *other != state.uid && *other != 0)
        .collect();
    let lets_others = std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o002 != 0);
    if let Some(other) = others.first()
        && !lets_others
        && settings.text("socket_group").is_none()
    {
        return Finding::problem(
            CHECK,
            format!(
                "uid {other} is allowed to connect, and the socket does not let it: {}",
                modes(path)
            ),
            "add --socket-group or --socket-mode 666 to hostkvd and restart it",
        );
    }
    Finding::ok(
        CHECK,
        format!(
            "uid {uid} may open sessions and is an admin; {}",
            modes(path)
        ),
    )
}

fn modes(path: &Path) -> String {
    let of = |path: &Path| match std::fs::metadata(path) {
        Ok(found) => format!(
            "{} has mode {:04o}, uid {}, gid {}",
            path.display(),
            found.mode() & 0o7777,
            found.uid(),
            found.gid()
        ),
        Err(error) => format!("{}: {error}", path.display()),
    };
    match path.parent() {
        Some(folder) => format!("{}, its folder {}", of(path), of(folder)),
        None => of(path),
    }
}

/// Whether the tool, the daemon and the program on disk are of one release.
pub fn versions(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "versions";
    let on_disk = scene.program.as_ref().ok();
    if let Daemon::Fails { error, .. } = &scene.daemon
        && error.status == Status::VersionMismatch
    {
        return Finding::problem(
            CHECK,
            format!(
                "the daemon refuses this version ({PACKAGE_VERSION}): {}",
                error.message
            ),
            "install hostkvd, libhostkv and hostkv of one release, then restart the daemon and what links the library",
        );
    }
    let running = match &scene.daemon {
        Daemon::Serves { info, .. } => Some(info.server_version.as_str()),
        Daemon::Nowhere(_) | Daemon::Fails { .. } => None,
    };
    if let Some(running) = running
        && running != PACKAGE_VERSION
    {
        return Finding::problem(
            CHECK,
            format!("the running daemon is {running} and this tool {PACKAGE_VERSION}"),
            "install both from one release and restart the daemon",
        );
    }
    if let Some(program) = on_disk
        && program.version != running.unwrap_or(PACKAGE_VERSION)
    {
        let path = program.path.display();
        let version = &program.version;
        return Finding::problem(
            CHECK,
            match running {
                Some(running) => format!("{path} is {version} and the running daemon {running}"),
                None => format!("{path} is {version} and this tool {PACKAGE_VERSION}"),
            },
            "install hostkvd, libhostkv and hostkv of one release, then restart the daemon and what links the library",
        );
    }
    let other = match (running, on_disk) {
        (Some(_), Some(_)) => "the daemon that runs and the one on disk are",
        (Some(_), None) => "the daemon that runs is",
        (None, Some(_)) => "the daemon on disk is",
        (None, None) => {
            return Finding::not_checked(CHECK, "no daemon answers and there is no hostkvd to ask");
        }
    };
    Finding::ok(
        CHECK,
        format!("this tool and library are {PACKAGE_VERSION}, {other} too"),
    )
}

/// Whether clients that look in other places find other daemons.
pub fn other_instances(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "other instances";
    let Some(used) = scene.daemon.path() else {
        return Finding::not_checked(CHECK, "no daemon was found in any place where clients look");
    };
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let usual: Vec<PathBuf> = set("HOSTKV_SOCKET")
        .map(PathBuf::from)
        .into_iter()
        .chain(set("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("hostkv/hostkv.sock")))
        .chain([PathBuf::from("/run/hostkv/hostkv.sock")])
        .collect();
    let same = |path: &Path| path.canonicalize().ok() == used.canonicalize().ok();
    let living: Vec<String> = usual
        .iter()
        .filter(|path| path.exists() && !same(path) && answers(path))
        .map(|path| path.display().to_string())
        .collect();
    if !living.is_empty() {
        let living = living.join(" and ");
        let used = used.display();
        if scene.common.socket.is_some() {
            return Finding::ok(
                CHECK,
                format!("another daemon serves at {living}; --socket has chosen the one at {used}"),
            );
        }
        return Finding::problem(
            CHECK,
            format!(
                "this user's clients use {used}, and another daemon with a pool of its own serves at {living}: clients \
                 with another environment use that one and find nothing of these"
            ),
            "stop one of the two, or set HOSTKV_SOCKET (or socket_path) for every client",
        );
    }
    if let Some(state) = scene.daemon.state()
        && let Some(holder) = lock_holder(used)
        && holder != state.pid
    {
        return Finding::problem(
            CHECK,
            format!(
                "the daemon that answers is pid {}, and the lock file beside its socket names pid {holder}",
                state.pid
            ),
            format!(
                "two daemons have used {} at a time, perhaps because its lock file was removed: stop both, start one",
                used.display()
            ),
        );
    }
    Finding::ok(CHECK, "no other daemon serves where clients look")
}

fn answers(path: &Path) -> bool {
    match connect::open_at(Some(path), "doctor", READ_ONLY, OTHER_TIMEOUT_MS) {
        Ok(_) => true,
        Err(error) => !matches!(error.status, Status::Disconnected | Status::InvalidArgument),
    }
}

fn lock_holder(socket: &Path) -> Option<u32> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether both sides have the same clock.
pub fn clock(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "clock";
    let (
        Some(state),
        Daemon::Serves {
            asked_ns, session, ..
        },
    ) = (scene.daemon.state(), &scene.daemon)
    else {
        let why = match scene.settings.source {
            Source::Daemon => "the daemon does not tell its clock",
            _ => "only a daemon that serves an admin tells its clock",
        };
        return Finding::not_checked(CHECK, why);
    };
    // The session is what keeps the daemon the one that was asked.
    debug_assert!(session.daemon_fd() >= 0);
    let offset_ns = asked_ns.abs_diff(state.monotonic_ns);
    if offset_ns > CLOCK_TOLERANCE_NS {
        return Finding::problem(
            CHECK,
            format!(
                "the daemon's monotonic clock is off by {:.1} s from the one here, so that one of them is in a time \
                 namespace",
                offset_ns as f64 / 1e9
            ),
            "run the daemon and its clients in one time namespace; otherwise ages in log lines and events are wrong",
        );
    }
    Finding::ok(
        CHECK,
        format!(
            "the daemon's is the same as here, within {:.1} ms",
            offset_ns as f64 / 1e6
        ),
    )
}
