//! One client's socket: whole frames in, whole frames out, descriptors only outwards.
//!
//! The loop's thread alone uses it, and no call here waits. A packet that breaks a rule of the socket (too long, or
//! with a descriptor in it) never becomes a frame; descriptors that came with it are closed at once.
//!
//! ```text
//!   recvmsg --> Frame | Empty | Closed | Reset | Refused
//!   send    --> sendmsg, and what the kernel does not take waits in the queue until EPOLLOUT
//! ```
//!
//! The queue is bounded: a client that does not read its replies is disconnected, nobody waits for it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};

use hostkv_shm_protocol::sync::{Ordering, fence};
use hostkv_shm_protocol::wire::MAX_FRAME_BYTES;

/// Most bytes that may wait for a client before its HELLO.
pub const OUTPUT_BYTES_BEFORE_HELLO: usize = 64 << 10;
/// Most bytes that may wait for a session.
pub const OUTPUT_BYTES: usize = 1 << 20;

/// Room for control messages in 8-byte words: credentials, and more descriptors than Linux sends at once (253), so
/// that none is installed without being seen here.
const CONTROL_WORDS: usize = 160;

/// Where packets are received; one for the whole loop.
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    control: Box<[u64; CONTROL_WORDS]>,
}

impl FrameBuffer {
    /// A buffer for the longest frame.
    pub fn new() -> FrameBuffer {
        FrameBuffer {
            bytes: vec![0; MAX_FRAME_BYTES].into_boxed_slice(),
            control: Box::new([0; CONTROL_WORDS]),
        }
    }
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// What one receive gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// One packet, not decoded yet.
    Frame {
        /// Its bytes.
        frame: &'a [u8],
        /// The sender's process as the kernel attests it, where that was asked for.
        sender_pid: Option<i32>,
    },
    /// Nothing is there now.
    Empty,
    /// Nothing will come any more.
    Closed,
    /// The client closed with replies unread. What it sent before may still follow.
    Reset,
    /// The packet breaks a rule of the socket.
    Refused(&'static str),
}

/// A frame on its way to a client.
#[derive(Debug)]
pub struct Packet {
    /// The encoded frame.
    pub bytes: Vec<u8>,
    /// Descriptors that go with it.
    pub descriptors: Vec<Rc<OwnedFd>>,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Packet {
        Packet {
            bytes,
            descriptors: Vec::new(),
        }
    }
}

/// Why a frame can't reach its client.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Too much waits already.
    #[error(
        "{waiting_bytes} bytes of replies wait for it and {limit_bytes} are allowed; it does not read its replies"
    )]
    QueueFull {
        /// Bytes that would wait.
        waiting_bytes: usize,
        /// Most bytes that may.
        limit_bytes: usize,
    },
    /// The socket is of no use any more.
    #[error("its socket failed: {0}")]
    Socket(#[from] io::Error),
}

/// A client's socket and what waits for it.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    queue: VecDeque<Packet>,
    queued_bytes: usize,
    limit_bytes: usize,
}

impl Connection {
    /// A connection on an accepted, non-blocking socket.
    pub fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            queue: VecDeque::new(),
            queued_bytes: 0,
            limit_bytes: OUTPUT_BYTES_BEFORE_HELLO,
        }
    }

    /// Allows a session's output.
    pub fn allow_session_output(&mut self) {
        self.limit_bytes = OUTPUT_BYTES;
    }

    /// Takes the next packet.
    pub fn receive<'a>(&self, buffer: &'a mut FrameBuffer) -> io::Result<Received<'a>> {
        let mut iov = libc::iovec {
            iov_base: buffer.bytes.as_mut_ptr().cast(),
            iov_len: buffer.bytes.len(),
        };
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = buffer.control.as_mut_ptr().cast();
        message.msg_controllen = (CONTROL_WORDS * 8) as _;
        let len = loop {
            // SAFETY: `message` points to buffers that live beyond the call, with their true lengths.
            let got = unsafe {
                libc::recvmsg(
                    self.socket.as_raw_fd(),
                    &raw mut message,
                    libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
                )
            };
            match Errno::result(got) {
                Ok(len) => break len as usize,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Empty),
                Err(Errno::ECONNRESET) => return Ok(Received::Reset),
                Err(errno) => return Err(errno.into()),
            }
        };
        // Pairs with the client's fence before its send: what it did before the frame happens before what follows here.
        fence(Ordering::Acquire);
        let (descriptors, sender_pid) = control_messages(&message);
        let has_descriptors = !descriptors.is_empty();
        drop(descriptors);
        if has_descriptors || message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Ok(Received::Refused(
                "a frame came with descriptors; the daemon takes none",
            ));
        }
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Ok(Received::Refused(
                "a frame is longer than the 131072 bytes that are allowed",
            ));
        }
        if len == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Frame {
            frame: &buffer.bytes[..len],
            sender_pid,
        })
    }

    /// Sends a frame, or queues it behind those that wait.
    pub fn send(&mut self, packet: Packet) -> Result<(), SendError> {
        if self.queue.is_empty() && self.try_send(&packet)? {
            return Ok(());
        }
        let waiting_bytes = self.queued_bytes + packet.bytes.len();
        if waiting_bytes > self.limit_bytes {
            return Err(SendError::QueueFull {
                waiting_bytes,
                limit_bytes: self.limit_bytes,
            });
        }
        self.queued_bytes = waiting_bytes;
        self.queue.push_back(packet);
        Ok(())
    }

    /// Sends what waits, as far as the kernel takes it.
    pub fn flush(&mut self) -> Result<(), SendError> {
        while let Some(packet) = self.queue.front() {
            if !self.try_send(packet)? {
                return Ok(());
            }
            self.queued_bytes -= packet.bytes.len();
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Whether so many bytes more may wait.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.queued_bytes + bytes <= self.limit_bytes
    }

    /// Frames that wait to be sent.
    pub fn waiting_count(&self) -> usize {
        self.queue.len()
    }

    /// Ends the connection for both sides at once, whoever else holds a copy of the socket.
    pub fn shut_down(&self) {
        // Fails only when the client was faster, which is the same result.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// True when the kernel took the packet, false when it has no room now.
    fn try_send(&self, packet: &Packet) -> io::Result<bool> {
        let descriptors: Vec<RawFd> = packet.descriptors.iter().map(|d| d.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control = if descriptors.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        // Pairs with the client's fence after its receive: a reader that was seen to have unpinned an extent has done its
        // reads before the reply that grants the extent again.
        fence(Ordering::Release);
        loop {
            let iov = [IoSlice::new(&packet.bytes)];
            match sendmsg::<()>(self.socket.as_raw_fd(), &iov, control, flags, None) {
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes the descriptors and the sender's pid out of a received message.
fn control_messages(message: &libc::msghdr) -> (Vec<OwnedFd>, Option<i32>) {
    let mut descriptors = Vec::new();
    let mut sender_pid = None;
    // SAFETY: the kernel filled `message`, whose control buffer is aligned to 8 and still there.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header inside the control buffer.
        let (level, kind, len) = unsafe {
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                (*header).cmsg_len,
            )
        };
        // SAFETY: as above; the data follows the header.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: CMSG_LEN only computes.
        let data_bytes = len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for i in 0..data_bytes / size_of::<RawFd>() {
                    // SAFETY: the kernel wrote that many descriptors, and gave them to this process just now.
                    descriptors.push(unsafe {
                        OwnedFd::from_raw_fd(data.cast::<RawFd>().add(i).read_unaligned())
                    });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data_bytes >= size_of::<libc::ucred>() => {
                // SAFETY: the kernel wrote one ucred.
                sender_pid = Some(unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid);
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    (descriptors, sender_pid)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nix::sys::socket::{
        AddressFamily, RecvMsg, SockFlag, SockType, recv, recvmsg, send, setsockopt, socketpair,
        sockopt,
    };

    /// A connection and its client's end.
    pub(in crate::server) fn pair() -> (Connection, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Connection::new(ours), theirs)
    }

    fn say(socket: &OwnedFd, bytes: &[u8]) {
        send(socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn packets_stay_apart_and_the_end_is_told_from_silence() {
        let (ours, theirs) = pair();
        let mut buffer = FrameBuffer::new();
        assert_eq!(ours.receive(&mut buffer).unwrap(), Received::Empty);
        say(&theirs, b"one");
        say(&theirs, b"two");
        for expected in [b"one", b"two"] {
            let Received::Frame { frame, sender_pid } = ours.receive(&mut buffer).unwrap() else {
                panic!("no frame");
            };
            assert_eq!((frame, sender_pid), (&expected[..], None));
        }
        drop(theirs);
        assert_eq!(ours.receive(&mut buffer).unwrap(), Received::Closed);
    }

    #[test]
    fn the_longest_frame_passes_and_one_byte_more_is_refused() {
        let (ours, theirs) = pair();
        setsockopt(&theirs, sockopt::SndBuf, &(2 * MAX_FRAME_BYTES)).unwrap();
        let mut buffer = FrameBuffer::new();
        say(&theirs, &vec![7; MAX_FRAME_BYTES]);
        assert!(matches!(
            ours.receive(&mut buffer).unwrap(),
            Received::Frame { frame, .. } if frame.len() == MAX_FRAME_BYTES
        ));
        say(&theirs, &vec![7; MAX_FRAME_BYTES + 1]);
        let refused = ours.receive(&mut buffer).unwrap();
        assert!(matches!(refused, Received::Refused(_)), "{refused:?}");
    }

    #[test]
    fn descriptors_from_a_client_are_closed_and_their_frame_is_refused() {
        let (ours, theirs) = pair();
        let mut buffer = FrameBuffer::new();
        let gift = [theirs.as_raw_fd(); 200];
        let before = open_descriptors();
        for count in [1, 200] {
            sendmsg::<()>(
                theirs.as_raw_fd(),
                &[IoSlice::new(b"x")],
                &[ControlMessage::ScmRights(&gift[..count])],
                MsgFlags::empty(),
                None,
            )
            .unwrap();
            let refused = ours.receive(&mut buffer).unwrap();
            assert!(matches!(refused, Received::Refused(_)), "{refused:?}");
        }
        // Other tests of this process open a few at the same time, never hundreds.
        assert!(open_descriptors() < before + 100);
    }

    #[test]
    fn the_kernel_attests_the_sender_where_it_was_asked_to() {
        let (ours, theirs) = pair();
        setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        say(&theirs, b"x");
        let mut buffer = FrameBuffer::new();
        let Received::Frame { sender_pid, .. } = ours.receive(&mut buffer).unwrap() else {
            panic!("no frame");
        };
        assert_eq!(sender_pid, Some(std::process::id() as i32));
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_off_at_the_cap_and_order_is_kept_below_it() {
        let (mut ours, theirs) = pair();
        let packet = |i: u32| {
            let mut bytes = vec![0; 16 << 10];
            bytes[..4].copy_from_slice(&i.to_le_bytes());
            Packet::from(bytes)
        };
        let mut sent = 0;
        let refused = loop {
            match ours.send(packet(sent)) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
            assert!(sent < 1000, "nothing bounds the queue");
        };
        assert!(
            matches!(refused, SendError::QueueFull { limit_bytes, .. } if limit_bytes == OUTPUT_BYTES_BEFORE_HELLO),
            "{refused}"
        );
        assert_eq!(ours.waiting_count(), 4);
        ours.allow_session_output();
        ours.send(packet(sent)).unwrap();
        let mut buffer = vec![0; 16 << 10];
        for i in 0..=sent {
            ours.flush().unwrap();
            recv(theirs.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            assert_eq!(buffer[..4], i.to_le_bytes());
        }
        assert_eq!(ours.waiting_count(), 0);
    }

    #[test]
    fn descriptors_go_out_with_their_frame_even_from_the_queue() {
        let (mut ours, theirs) = pair();
        while ours.waiting_count() == 0 {
            ours.send(vec![0; 16 << 10].into()).unwrap();
        }
        let gift = Rc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        ours.send(Packet {
            bytes: b"with".to_vec(),
            descriptors: vec![Rc::clone(&gift), gift],
        })
        .unwrap();
        let mut bytes = vec![0; 16 << 10];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        loop {
            ours.flush().unwrap();
            let mut iov = [io::IoSliceMut::new(&mut bytes)];
            let got: RecvMsg<'_, '_, ()> = recvmsg(
                theirs.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .unwrap();
            if got.bytes == 4 {
                let count = got
                    .cmsgs()
                    .unwrap()
                    .map(|message| match message {
                        nix::sys::socket::ControlMessageOwned::ScmRights(fds) => fds.len(),
                        other => panic!("{other:?}"),
                    })
                    .sum::<usize>();
                assert_eq!(count, 2);
                return;
            }
        }
    }

    #[test]
    fn sending_to_a_closed_client_is_an_error_and_no_signal() {
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert!(matches!(
            ours.send(vec![1].into()),
            Err(SendError::Socket(_))
        ));
    }
}
