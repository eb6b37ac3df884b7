//! Who is asking: the process and the user at the other end of a socket, and what they may do.
//!
//! The loop's thread asks once for each accepted socket. What counts is what the kernel says of the socket, never what
//! a message says: SO_PEERCRED, SO_PEERGROUPS, and a pidfd, by which the daemon learns of the process's end.
//!
//! ```text
//!   SO_PEERPIDFD (Linux 6.5) ------------------------------------------> pidfd of the process that connected
//!   without it: pidfd_open(pid of SO_PEERCRED), and HELLO must echo the
//!   challenge in a packet whose SCM_CREDENTIALS name the same pid -----> pidfd of the process that holds the socket
//!   neither: refused
//! ```

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use hostkv_shm_protocol::status::Status;

use crate::config::AccessConfig;
use crate::request::Applicant;
use crate::store::Refusal;

/// Supplementary groups of one process at most (NGROUPS_MAX of Linux).
const GROUPS_AT_MOST: usize = 65_536;

/// The user behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Process id in the daemon's pid namespace; 0 = it has none there.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Primary group, then the supplementary ones.
    pub gids: Vec<u32>,
}

/// A client as the kernel knows it.
#[derive(Debug)]
pub struct Peer {
    /// Its user.
    pub credentials: Credentials,
    /// Becomes readable when its process has ended.
    pub pidfd: OwnedFd,
    /// Whether HELLO must come with credentials that name the same process.
    pub must_attest: bool,
}

/// Asks the kernel who is at the other end.
pub fn identify(socket: impl AsFd) -> Result<Peer, Refusal> {
    let credentials = credentials(&socket)?;
    match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(Peer {
            credentials,
            pidfd,
            must_attest: false,
        }),
        Err(Errno::ENOPROTOOPT) => attested_peer(socket, credentials),
        Err(errno) => Err(no_pidfd(credentials.pid, errno)),
    }
}

/// The way of kernels before SO_PEERPIDFD.
fn attested_peer(socket: impl AsFd, credentials: Credentials) -> Result<Peer, Refusal> {
    if credentials.pid <= 0 {
        return Err(no_pidfd(credentials.pid, Errno::ESRCH));
    }
    let pidfd = pidfd_open(credentials.pid).map_err(|errno| no_pidfd(credentials.pid, errno))?;
    setsockopt(&socket, sockopt::PassCred, &true)
        .map_err(|errno| no_pidfd(credentials.pid, errno))?;
    Ok(Peer {
        credentials,
        pidfd,
        must_attest: true,
    })
}

/// A descriptor that becomes readable when the process has ended.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two numbers; the descriptor that it gives is nobody else's, and close-on-exec.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = Errno::result(got)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn no_pidfd(pid: i32, errno: Errno) -> Refusal {
    Refusal {
        status: Status::Permission,
        text: format!(
            "the daemon can't watch the client's process (pid {pid} in its namespace): {}; a client in another pid \
             namespace needs Linux 6.5 or newer",
            errno.desc()
        ),
    }
}

fn credentials(socket: impl AsFd) -> Result<Credentials, Refusal> {
    let unknown = |errno: Errno| Refusal {
        status: Status::Permission,
        text: format!(
            "the kernel does not say who the client is: {}",
            errno.desc()
        ),
    };
    let peer = getsockopt(&socket, sockopt::PeerCredentials).map_err(unknown)?;
    let mut gids = vec![peer.gid()];
    gids.extend(peer_groups(&socket).map_err(unknown)?);
    Ok(Credentials {
        pid: peer.pid(),
        uid: peer.uid(),
        gids,
    })
}

fn peer_groups(socket: impl AsFd) -> nix::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: `groups` has `len` bytes, and the kernel writes no more.
        let got = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        match Errno::result(got) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has written how long the list is.
            Err(Errno::ERANGE) if count > groups.len() && count <= GROUPS_AT_MOST => {
                groups.resize(count, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Who may do what, of the configuration that holds now.
#[derive(Debug, Clone)]
pub struct AccessRules {
    own_uid: u32,
    config: AccessConfig,
}

impl AccessRules {
    /// The rules of a daemon that runs as `own_uid`.
    pub fn new(own_uid: u32, config: &AccessConfig) -> AccessRules {
        AccessRules {
            own_uid,
            config: config.clone(),
        }
    }

    /// Other lists hold from now on.
    pub fn replace(&mut self, config: &AccessConfig) {
        self.config = config.clone();
    }

    /// What this user may do; PERMISSION when it may not even open a session.
    pub fn admit(&self, who: &Credentials) -> Result<Applicant, Refusal> {
        let uid = who.uid;
        let rules = &self.config;
        let is_admin = uid == self.own_uid || uid == 0 || rules.admin_uids.contains(&uid);
        let is_read_only = rules.read_only_uids.contains(&uid);
        let is_untrusted = rules.untrusted_uids.contains(&uid);
        let may_open = is_admin
            || is_read_only
            || is_untrusted
            || rules.allow_uids.contains(&uid)
            || who.gids.iter().any(|gid| rules.allow_gids.contains(gid));
        if !may_open {
            return Err(Refusal {
                status: Status::Permission,
                text: format!(
                    "uid {uid} may not open a session; the daemon runs as uid {} and admits others by --allow-uid {uid}, \
                     --allow-gid or --socket-group",
                    self.own_uid
                ),
            });
        }
        Ok(Applicant {
            pid: who.pid,
            uid,
            may_write: !is_read_only,
            is_trusted: !is_untrusted,
            is_admin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connection::tests::pair;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn rules() -> AccessRules {
        AccessRules::new(
            500,
            &AccessConfig {
                allow_uids: vec![1000],
                allow_gids: vec![70],
                read_only_uids: vec![1001, 1000 + 5],
                untrusted_uids: vec![1001, 3000],
                admin_uids: vec![1002, 1000 + 5],
            },
        )
    }

    fn user(uid: u32, gids: &[u32]) -> Credentials {
        Credentials {
            pid: 1,
            uid,
            gids: gids.to_vec(),
        }
    }

    #[test]
    fn every_row_of_the_access_table_admits_whom_it_says() {
        for (uid, gids, may_write, is_admin) in [
            (500, &[5][..], true, true),
            (0, &[0], true, true),
            (1000, &[5], true, false),
            (2000, &[5, 6, 70], true, false),
            (2000, &[70], true, false),
            (1001, &[70], false, false),
            (1002, &[5], true, true),
            (1005, &[70], false, true),
        ] {
            let applicant = rules().admit(&user(uid, gids)).unwrap();
            assert_eq!(
                (applicant.may_write, applicant.is_admin),
                (may_write, is_admin),
                "uid {uid}"
            );
        }
    }

    #[test]
    fn an_untrusted_user_writes_and_is_not_trusted_with_the_payload() {
        let applicant = rules().admit(&user(3000, &[5])).unwrap();
        assert!(applicant.may_write && !applicant.is_trusted && !applicant.is_admin);
        assert!(rules().admit(&user(1000, &[5])).unwrap().is_trusted);
        // Who may only read may not write, whatever else names it.
        assert!(!rules().admit(&user(1001, &[5])).unwrap().may_write);
    }

    #[test]
    fn a_stranger_is_refused_by_uid_and_hears_which_flag_would_help() {
        let refusal = rules().admit(&user(2000, &[5, 6])).unwrap_err();
        assert_eq!(refusal.status, Status::Permission);
        assert!(refusal.text.contains("uid 2000"), "{}", refusal.text);
        assert!(
            refusal.text.contains("--allow-uid 2000"),
            "{}",
            refusal.text
        );
    }

    #[test]
    fn the_kernel_names_this_process_and_its_groups() {
        let (ours, _theirs) = pair();
        let peer = identify(&ours).unwrap();
        assert_eq!(peer.credentials.pid, std::process::id() as i32);
        assert_eq!(peer.credentials.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.credentials.gids[0], nix::unistd::getegid().as_raw());
        let own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|gid| gid.as_raw())
            .collect();
        assert_eq!(peer.credentials.gids[1..], own);
    }

    #[test]
    fn without_the_newer_socket_option_the_process_is_watched_and_must_attest() {
        let (ours, _theirs) = pair();
        let mut who = user(0, &[]);
        who.pid = std::process::id() as i32;
        let peer = attested_peer(&ours, who).unwrap();
        assert!(peer.must_attest);
        let mut watched = [PollFd::new(peer.pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut watched, PollTimeout::ZERO).unwrap(), 0);

        let mut foreign = user(0, &[]);
        foreign.pid = 0;
        let refusal = attested_peer(&ours, foreign).unwrap_err();
        assert_eq!(refusal.status, Status::Permission);
        assert!(refusal.text.contains("Linux 6.5"), "{}", refusal.text);
    }

    #[test]
    fn a_pidfd_becomes_readable_at_the_end_of_its_process() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        child.kill().unwrap();
        let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut watched, PollTimeout::from(5000_u16)).unwrap(), 1);
        child.wait().unwrap();
    }
}
