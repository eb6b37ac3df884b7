//! A stand-in for the service manager: it hears what a daemon notifies, and hands a listening socket over.
//!
//! It speaks the two real protocols, datagrams to `NOTIFY_SOCKET` with the sender's credentials, and descriptor 3 with
//! `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`. The test's thread reads; nothing runs by itself.
//!
//! ```text
//!   Manager ── NOTIFY_SOCKET ──> hostkvd ── "READY=1\n" ... ──> hear / wait_for
//!   DaemonSpec::passed(socket) ── descriptor 3, LISTEN_... ──> hostkvd
//! ```

use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt};
use tempfile::TempDir;

use crate::PATIENCE;

/// One datagram of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its text, a line for each state.
    pub text: String,
    /// The process that sent it, as the kernel says.
    pub pid: i32,
}

impl Notice {
    /// What follows `key=` in one of its lines.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

/// The socket that daemons notify.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}

impl Manager {
    /// Listens in a folder of its own.
    pub fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        Manager { socket, folder }
    }

    /// The value of `NOTIFY_SOCKET`.
    pub fn notify_socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The next notice, if it comes in time.
    pub fn hear(&self, within: Duration) -> Option<Notice> {
        self.socket
            .set_read_timeout(Some(within.max(Duration::from_millis(1))))
            .unwrap();
        let mut text = [0_u8; 4096];
        let mut slices = [IoSliceMut::new(&mut text)];
        let mut space = nix::cmsg_space!(libc::ucred);
        let message = recvmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .ok()?;
        let sender = message.cmsgs().unwrap().find_map(|part| match part {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
            _ => None,
        });
        let length = message.bytes;
        Some(Notice {
            text: String::from_utf8(text[..length].to_vec()).unwrap(),
            pid: sender.expect("the kernel names the sender"),
        })
    }

    /// The next notice that has a line `key=…`; those before it are passed to `also`.
    pub fn wait_for(&self, key: &str, mut also: impl FnMut(Notice)) -> Notice {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let notice = self.hear(left);
            let Some(notice) = notice else {
                panic!("the service manager does not hear {key}=");
            };
            if notice.value(key).is_some() {
                return notice;
            }
            also(notice);
        }
    }

    /// Reads what has been said so far; gives how many of those notices have a line `key=…`.
    pub fn count_so_far(&self, key: &str) -> usize {
        std::iter::from_fn(|| self.hear(Duration::ZERO))
            .filter(|notice| notice.value(key).is_some())
            .count()
    }
}
