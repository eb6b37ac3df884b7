//! The listening socket that the service manager made (socket activation).
//!
//! A `.socket` unit listens before the daemon runs, so that workers may start first, and hands the descriptor over with
//! three variables. The configuration asks where that socket is ([`passed_path`]), and the start-up takes it
//! ([`take`]), both on the main thread. What was handed over and is no such socket ends the start: a daemon that
//! listened elsewhere instead would never be found.
//!
//! ```text
//!   LISTEN_PID = own pid     LISTEN_FDS = 1     descriptor 3: AF_UNIX, SOCK_SEQPACKET, listening, with a path
//!   another pid, or none of the three: nothing was handed over
//! ```

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};

/// What the service manager handed over is not what the daemon can serve on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The variables do not say which descriptors there are, or name some that are not open.
    #[error(
        "the service manager's LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES do not fit the descriptors of this process \
         ({0}); start hostkvd from its socket unit, or without these variables"
    )]
    Variables(io::Error),
    /// More than one descriptor.
    #[error(
        "the service manager passes {count} sockets ({names}); allowed is one, so leave one Listen line in the socket unit"
    )]
    Several {
        /// How many.
        count: usize,
        /// Their names.
        names: String,
    },
    /// Something else than a listening SOCK_SEQPACKET socket with a path.
    #[error(
        "what the service manager passes as {name:?} {is}; allowed is one ListenSequentialPacket= line with a path, and \
         Accept=no"
    )]
    Unfit {
        /// Its name.
        name: String,
        /// What it is, as a verb and the rest.
        is: String,
    },
}

/// Where the socket is that was handed over; `None` when none was.
pub fn passed_path() -> Result<Option<PathBuf>, ListenError> {
    Ok(passed()?.map(|(_, path)| path))
}

/// The socket that was handed over, not blocking any more; `None` when none was. To be called once.
pub fn take() -> Result<Option<OwnedFd>, ListenError> {
    let Some((descriptor, _)) = passed()? else {
        return Ok(None);
    };
    // SAFETY: the service manager opened the descriptor for this process and nothing else here owns it: the only
    // caller is the start-up, once.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket
        .set_nonblocking(true)
        .map_err(ListenError::Variables)?;
    Ok(Some(socket.into()))
}

fn passed() -> Result<Option<(RawFd, PathBuf)>, ListenError> {
    let passed: Vec<(RawFd, String)> = sd_notify::listen_fds_with_names()
        .map_err(ListenError::Variables)?
        .collect();
    match passed.as_slice() {
        [] => Ok(None),
        [(descriptor, name)] => Ok(Some((*descriptor, check(*descriptor, name)?))),
        several => Err(ListenError::Several {
            count: several.len(),
            names: several
                .iter()
                .map(|(_, name)| name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The path of a socket that the daemon can serve on.
fn check(descriptor: RawFd, name: &str) -> Result<PathBuf, ListenError> {
    let unfit = |is: String| ListenError::Unfit {
        name: name.to_owned(),
        is,
    };
    // SAFETY: it was seen to be open when it was made close-on-exec, and nothing closes it meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::SeqPacket) => {}
        Ok(other) => return Err(unfit(format!("is a socket of type {other:?}"))),
        Err(Errno::ENOTSOCK) => return Err(unfit("is no socket".to_owned())),
        Err(errno) => return Err(unfit(format!("tells no type: {}", errno.desc()))),
    }
    let address: UnixAddr =
        getsockname(descriptor).map_err(|_| unfit("is no Unix socket".to_owned()))?;
    let Some(path) = address.path().filter(|path| path.is_absolute()) else {
        return Err(unfit(
            "has no path by which clients could find it".to_owned(),
        ));
    };
    match getsockopt(&socket, sockopt::AcceptConn) {
        Ok(true) => Ok(path.to_owned()),
        _ => Err(unfit("does not listen".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, bind, listen, socket, socketpair};
    use std::os::fd::AsRawFd as _;

    fn new_socket(kind: SockType) -> OwnedFd {
        socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
    }

    #[test]
    fn only_a_listening_packet_socket_with_a_path_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let refused = |descriptor: &OwnedFd| {
            check(descriptor.as_raw_fd(), "hostkvd.socket")
                .unwrap_err()
                .to_string()
        };

        let good = new_socket(SockType::SeqPacket);
        bind(good.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert!(
            refused(&good).contains("does not listen"),
            "{}",
            refused(&good)
        );
        listen(&good, Backlog::new(1).unwrap()).unwrap();
        assert_eq!(check(good.as_raw_fd(), "x").unwrap(), path);

        let stream = new_socket(SockType::Stream);
        assert!(refused(&stream).contains("type Stream"));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(refused(&file).contains("is no socket"));
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        );
        let (connected, _other) = pair.unwrap();
        let sentence = refused(&connected);
        assert!(sentence.contains("has no path"), "{sentence}");
        assert!(sentence.contains("\"hostkvd.socket\"") && sentence.contains("Accept=no"));
    }

    #[test]
    fn without_the_variables_nothing_was_handed_over() {
        if std::env::var_os("LISTEN_PID").is_some() {
            eprintln!("SKIPPED: this test itself was started by socket activation");
            return;
        }
        assert!(matches!(passed_path(), Ok(None)));
        assert!(matches!(take(), Ok(None)));
    }
}
