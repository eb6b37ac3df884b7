//! Opening a connection: finding the socket, connecting, HELLO and the descriptors that come back.
//!
//! Called once for each session by the thread that opens it.
//!
//! ```text
//!   connect --> CHALLENGE(nonce) --> HELLO(nonce, versions, wishes) --> reply + 4 or 5 descriptors
//!                    \--> ERROR(status, sentence)   \--> ERROR(status, sentence)
//! ```

use super::{Connection, ConnectionError, Deadline, wait_ready};
use crate::mapping::Descriptor;
use hostkv_shm_protocol::sync::{Ordering, fence};
use hostkv_shm_protocol::version::{ABI_HASH, PACKAGE_VERSION, PROTOCOL_VERSION};
use hostkv_shm_protocol::wire::MAX_FRAME_BYTES;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::hello::{
    Challenge, HELLO_DESCRIPTORS, Hello, HelloPrefix, HelloReply, STAGED_HELLO_DESCRIPTORS,
    hello_flags,
};
use hostkv_shm_protocol::wire::reply::Reply;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Number of the HELLO request; the session's requests follow.
const HELLO_REQUEST_ID: u64 = 1;
/// Most descriptors that the kernel passes in one message.
const MOST_DESCRIPTORS: usize = 253;

/// What a session wants of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    /// It will not write.
    pub(crate) is_read_only: bool,
    /// It wants a commit ring.
    pub(crate) wants_ring: bool,
    /// Pin slots; 0 = the default.
    pub(crate) pin_slot_count: u32,
    /// Name for the daemon's log.
    pub(crate) client_name: String,
}

/// An open connection and what came with the HELLO reply.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) reply: HelloReply,
    pub(crate) control: OwnedFd,
    pub(crate) lease: OwnedFd,
    pub(crate) payload: OwnedFd,
    /// Where an untrusted writer writes.
    pub(crate) staging: Option<OwnedFd>,
    pub(crate) daemon_pidfd: OwnedFd,
}

/// The socket that a session uses: the configured one, `HOSTKV_SOCKET`, the user's runtime directory, `/run`;
/// the first that is set, or exists, or else the first in a folder that this user may not look into: connecting to it
/// then says that rights are missing, and not that nobody serves.
pub(crate) fn socket_path(configured: Option<&Path>) -> Result<PathBuf, ConnectionError> {
    choose_socket(configured, |name| std::env::var_os(name), Path::try_exists)
}

fn choose_socket(
    configured: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> io::Result<bool>,
) -> Result<PathBuf, ConnectionError> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    if let Some(path) = set("HOSTKV_SOCKET") {
        return Ok(path.into());
    }
    let usual: Vec<PathBuf> = set("XDG_RUNTIME_DIR")
        .map(|folder| Path::new(&folder).join("hostkv/hostkv.sock"))
        .into_iter()
        .chain([PathBuf::from("/run/hostkv/hostkv.sock")])
        .collect();
    let is_there = |path: &&PathBuf| matches!(exists(path), Ok(true));
    let is_hidden = |path: &&PathBuf| matches!(exists(path), Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
    usual
        .iter()
        .find(is_there)
        .or_else(|| usual.iter().find(is_hidden))
        .cloned()
        .ok_or_else(|| ConnectionError::NoDaemon {
            path: usual
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" or "),
            text: "no such file".to_owned(),
        })
}

/// Connects and says HELLO.
pub(crate) fn open(
    path: &Path,
    wishes: &Wishes,
    deadline: Deadline,
) -> Result<Opened, ConnectionError> {
    let socket = connect_to(path, &deadline)?;
    let mut buffer = vec![0; MAX_FRAME_BYTES + 1];
    let challenge = receive(&socket, &mut buffer, &deadline)?;
    let nonce = match challenge.header.message {
        MessageType::Challenge => {
            let (_, cursor) = decode(&buffer[..challenge.len])?;
            Challenge::decode(cursor).map_err(protocol)?.nonce
        }
        _ => return Err(refusal(&buffer[..challenge.len])),
    };
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|errno| ConnectionError::system("clock_gettime", errno))?;
    let hello = Hello {
        prefix: HelloPrefix {
            nonce,
            protocol_version: PROTOCOL_VERSION,
            abi_hash: ABI_HASH,
        },
        flags: wish(wishes.is_read_only, hello_flags::READ_ONLY)
            | wish(wishes.wants_ring, hello_flags::ASYNC_COMMIT),
        pin_slot_count: wishes.pin_slot_count,
        mono_ns: now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64,
        client_version: PACKAGE_VERSION.to_owned(),
        client_name: wishes.client_name.clone(),
    };
    let connection = Connection::new(Descriptor::new(socket));
    match connection.send(&hello.encode(HELLO_REQUEST_ID), &deadline) {
        // A daemon that has gone may have said why before.
        Ok(()) | Err(ConnectionError::Ended { .. }) => {}
        Err(error) => return Err(error),
    }
    match welcome(connection.socket.raw(), &mut buffer, &deadline) {
        Ok((reply, descriptors)) => {
            let Descriptors {
                control,
                lease,
                payload,
                staging,
                daemon_pidfd,
            } = descriptors;
            Ok(Opened {
                connection,
                reply,
                control,
                lease,
                payload,
                staging,
                daemon_pidfd,
            })
        }
        Err(error) => {
            // The daemon has, or may still open, a session that it would keep for as long as this process lives.
            connection.say_bye_unanswered();
            Err(error)
        }
    }
}

fn wish(is_there: bool, flag: u32) -> u32 {
    if is_there { flag } else { 0 }
}

/// What comes with the HELLO reply, in its order.
struct Descriptors {
    control: OwnedFd,
    lease: OwnedFd,
    payload: OwnedFd,
    staging: Option<OwnedFd>,
    daemon_pidfd: OwnedFd,
}

impl Descriptors {
    /// Sorts them by what the reply says; none when there are too few or too many.
    fn of(received: Vec<OwnedFd>, reply: &HelloReply) -> Option<Descriptors> {
        let is_staged = reply.staging_bytes > 0;
        let mut received = received.into_iter();
        let descriptors = Descriptors {
            control: received.next()?,
            lease: received.next()?,
            payload: received.next()?,
            staging: if is_staged {
                Some(received.next()?)
            } else {
                None
            },
            daemon_pidfd: received.next()?,
        };
        received.next().is_none().then_some(descriptors)
    }
}

/// Receives the answer to HELLO.
fn welcome(
    socket: RawFd,
    buffer: &mut [u8],
    deadline: &Deadline,
) -> Result<(HelloReply, Descriptors), ConnectionError> {
    let answer = receive_raw(socket, buffer, deadline)?;
    if answer.header.message != MessageType::Hello {
        return Err(refusal(&buffer[..answer.len]));
    }
    let (_, cursor) = decode(&buffer[..answer.len])?;
    let reply = HelloReply::decode(cursor).map_err(protocol)?;
    let count = answer.descriptors.len();
    let descriptors = Descriptors::of(answer.descriptors, &reply).ok_or_else(|| {
        let expected = match reply.staging_bytes {
            0 => HELLO_DESCRIPTORS,
            _ => STAGED_HELLO_DESCRIPTORS,
        };
        ConnectionError::Protocol(format!(
            "HELLO came with {count} descriptors instead of {expected}"
        ))
    })?;
    Ok((reply, descriptors))
}

fn connect_to(path: &Path, deadline: &Deadline) -> Result<OwnedFd, ConnectionError> {
    // An empty address would mean no socket at all to the kernel.
    let address = UnixAddr::new(path)
        .ok()
        .filter(|_| !path.as_os_str().is_empty())
        .ok_or_else(|| ConnectionError::PathLength {
            path: path.to_owned(),
        })?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| ConnectionError::system("socket", errno))?;
    loop {
        // A full queue of the listener makes connect wait; this limits it. Zero would be no limit.
        let left_us = i64::try_from(deadline.left().as_micros()).unwrap_or(i64::MAX);
        setsockopt(
            &socket,
            sockopt::SendTimeout,
            &TimeVal::microseconds(left_us.max(1)),
        )
        .map_err(|errno| ConnectionError::system("setsockopt(SO_SNDTIMEO)", errno))?;
        let no_daemon = |text: &str| ConnectionError::NoDaemon {
            path: path.display().to_string(),
            text: text.to_owned(),
        };
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::EINTR) if !deadline.left().is_zero() => {}
            Err(Errno::EINTR | Errno::EAGAIN) => return Err(deadline.timeout(false)),
            Err(Errno::EPROTOTYPE) => {
                return Err(no_daemon("another program's socket is there"));
            }
            Err(errno @ (Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR)) => {
                return Err(no_daemon(errno.desc()));
            }
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
                return Err(ConnectionError::Denied {
                    path: path.to_owned(),
                    uid: nix::unistd::geteuid().as_raw(),
                    text: errno.desc().to_owned(),
                });
            }
            Err(errno) => return Err(ConnectionError::system("connect", errno)),
        }
    }
}

/// A frame's header, its length in the buffer, and the descriptors that came with it.
struct Received {
    header: FrameHeader,
    len: usize,
    descriptors: Vec<OwnedFd>,
}

fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    deadline: &Deadline,
) -> Result<Received, ConnectionError> {
    receive_raw(socket.as_raw_fd(), buffer, deadline)
}

fn receive_raw(
    socket: RawFd,
    buffer: &mut [u8],
    deadline: &Deadline,
) -> Result<Received, ConnectionError> {
    let mut is_reset = false;
    loop {
        if !wait_ready(socket, PollFlags::POLLIN, deadline)? {
            return Err(deadline.timeout(true));
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        // Room for all that the kernel can pass, so that none is installed and then not told of.
        let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(socket, &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Err(Errno::ECONNRESET) if !is_reset => {
                is_reset = true;
                continue;
            }
            Err(Errno::ECONNRESET) => {
                return Err(ConnectionError::ended("it died before it answered HELLO"));
            }
            Err(errno) => return Err(ConnectionError::system("recvmsg", errno)),
        };
        // Acquire: the segments were filled before they were sent.
        fence(Ordering::Acquire);
        let len = message.bytes;
        let cut = message.flags;
        let mut descriptors = Vec::new();
        if let Ok(parts) = message.cmsgs() {
            for part in parts {
                if let ControlMessageOwned::ScmRights(numbers) = part {
                    // SAFETY: the kernel installed these descriptors for this message; nobody else knows them.
                    descriptors.extend(
                        numbers
                            .into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
            }
        }
        if cut.contains(MsgFlags::MSG_CTRUNC) {
            return Err(ConnectionError::System {
                call: "recvmsg",
                text: "not all descriptors could be taken".to_owned(),
            });
        }
        if cut.contains(MsgFlags::MSG_TRUNC) {
            return Err(ConnectionError::Protocol(format!(
                "a frame is longer than the {MAX_FRAME_BYTES} bytes that are allowed"
            )));
        }
        if len == 0 {
            return Err(ConnectionError::ended(
                "it closed the socket before it answered HELLO",
            ));
        }
        let (header, _) = decode(&buffer[..len])?;
        return Ok(Received {
            header,
            len,
            descriptors,
        });
    }
}

fn decode(
    frame: &[u8],
) -> Result<(FrameHeader, hostkv_shm_protocol::wire::codec::Cursor<'_>), ConnectionError> {
    FrameHeader::decode(frame).map_err(protocol)
}

fn protocol(error: hostkv_shm_protocol::wire::WireError) -> ConnectionError {
    ConnectionError::Protocol(error.to_string())
}

/// The daemon's own sentence, when a frame that was not expected has one.
fn refusal(frame: &[u8]) -> ConnectionError {
    let decoded = FrameHeader::decode(frame)
        .and_then(|(header, cursor)| Ok((header, Reply::decode(&header, cursor)?)));
    match decoded {
        Ok((_, Reply::Error { status, text })) => ConnectionError::Refused { status, text },
        Ok((header, _)) => {
            ConnectionError::Protocol(format!("{:?} instead of HELLO", header.message))
        }
        Err(error) => protocol(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::id::{InstanceId, SessionId};
    use hostkv_shm_protocol::wire::request::Request;
    use nix::sys::socket::{Backlog, accept4, bind, listen, recv, send};

    /// The messages that a daemon gets which sends its challenge, and then only what `answer` makes of the HELLO.
    fn messages_of_an_open(
        answer: impl Fn(u64) -> Option<Vec<u8>>,
    ) -> (Result<(), ConnectionError>, Vec<MessageType>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let flags = SockFlag::SOCK_CLOEXEC;
        let server = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(server.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&server, Backlog::new(1).unwrap()).unwrap();
        let wishes = Wishes {
            is_read_only: false,
            wants_ring: false,
            pin_slot_count: 0,
            client_name: String::new(),
        };
        let client =
            std::thread::spawn(move || open(&path, &wishes, Deadline::after_ms(300)).map(drop));
        let connection = accept4(&server, flags).unwrap();
        let say = |frame: &[u8]| {
            send(connection.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL).unwrap();
        };
        say(&Challenge { nonce: [7; 16] }.encode());
        let mut heard = Vec::new();
        let mut buffer = vec![0; MAX_FRAME_BYTES];
        loop {
            let len = recv(connection.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap_or(0);
            if len == 0 {
                return (client.join().unwrap(), heard);
            }
            let (header, body) = FrameHeader::decode(&buffer[..len]).unwrap();
            heard.push(header.message);
            if header.message == MessageType::Bye {
                Request::decode(&header, body).unwrap();
            } else if let Some(frame) = answer(header.request_id) {
                say(&frame);
            }
        }
    }

    #[test]
    fn an_open_that_fails_after_its_hello_takes_the_session_back() {
        let both = vec![MessageType::Hello, MessageType::Bye];
        let (late, heard) = messages_of_an_open(|_| None);
        assert!(matches!(late, Err(ConnectionError::Timeout { .. })));
        assert_eq!(heard, both);
        let reply = HelloReply {
            instance_id: InstanceId([1; 16]),
            daemon_thread_id: 1,
            session_id: SessionId(1),
            capacity_bytes: 1 << 21,
            align_bytes: 4096,
            huge_page_bytes: 0,
            pin_quota_bytes: 0,
            reserve_quota_bytes: 0,
            keyspace_quota_bytes: 0,
            staging_bytes: 0,
            max_object_bytes: 4096,
            pin_slot_count: 256,
            max_batch_keys: 1024,
            chunk_size: 256,
            server_version: String::new(),
        };
        let (bare, heard) = messages_of_an_open(|id| Some(reply.encode(id)));
        let error = bare.unwrap_err();
        assert!(error.to_string().contains("0 descriptors"), "{error}");
        assert_eq!(heard, both);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_its_length() {
        for path in ["", &format!("/{}", "s".repeat(107))] {
            let error = connect_to(Path::new(path), &Deadline::after_ms(1000)).unwrap_err();
            assert!(
                matches!(error, ConnectionError::PathLength { .. }),
                "{error}"
            );
            let length = format!("has {} bytes; allowed are 1 to 107", path.len());
            assert!(error.to_string().contains(&length), "{error}");
        }
    }

    #[test]
    fn the_socket_is_the_first_that_is_set_or_exists() {
        let variables = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            }
        };
        let all = &[("HOSTKV_SOCKET", "/e.sock"), ("XDG_RUNTIME_DIR", "/u")];
        let nothing = |_: &Path| Ok(false);
        let everything = |_: &Path| Ok(true);
        let path = |text: &str| Ok(PathBuf::from(text));
        assert_eq!(
            choose_socket(Some(Path::new("/c")), variables(all), everything),
            path("/c")
        );
        assert_eq!(
            choose_socket(None, variables(all), nothing),
            path("/e.sock")
        );
        let user = &[("XDG_RUNTIME_DIR", "/u"), ("HOSTKV_SOCKET", "")];
        assert_eq!(
            choose_socket(None, variables(user), everything),
            path("/u/hostkv/hostkv.sock")
        );
        assert_eq!(
            choose_socket(None, variables(user), |p| Ok(p.starts_with("/run"))),
            path("/run/hostkv/hostkv.sock")
        );
        // What can't be looked at is taken only when nothing is there.
        let hidden = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(
            choose_socket(None, variables(user), |p| match p.starts_with("/run") {
                true => Ok(true),
                false => hidden(),
            }),
            path("/run/hostkv/hostkv.sock")
        );
        assert_eq!(
            choose_socket(None, variables(user), |p| match p.starts_with("/run") {
                true => hidden(),
                false => Ok(false),
            }),
            path("/run/hostkv/hostkv.sock")
        );
        let error = choose_socket(None, variables(user), nothing).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/u/hostkv/hostkv.sock or /run/hostkv"),
            "{error}"
        );
    }
}
