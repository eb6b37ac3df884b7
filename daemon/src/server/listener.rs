//! The listening socket: who comes in, how many at a time, and what happens when descriptors run out.
//!
//! The loop's thread accepts without waiting, a few at a time. Two bounds keep a flood of connections from costing
//! anything: connections that have not said HELLO are few and short-lived, and the last descriptors are kept for the
//! sessions that exist.
//!
//! ```text
//!   listening --EMFILE, ENFILE, ENOBUFS, ENOMEM--> paused --200 ms--> listening
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{SockFlag, accept4};

use hostkv_shm_protocol::status::Status;

use crate::store::{Nanos, Refusal};

/// How long the listener pauses when the system has no descriptor or memory for a connection.
const PAUSE_NS: Nanos = 200_000_000;
/// Descriptors that are kept for what runs already.
const DESCRIPTORS_IN_RESERVE: u64 = 16;
/// How long a connection may take to say HELLO.
const HELLO_WITHIN_NS: Nanos = 1_000_000_000;
/// Most connections that have not said HELLO; one more displaces the oldest of the process that has most of them.
const HALF_OPEN_AT_MOST: usize = 64;

/// What one accept gave.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Socket(OwnedFd),
    /// Nobody waits.
    Nobody,
    /// The system can't give one now; the listener has paused itself.
    Paused(io::Error),
}

/// The listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    paused_until: Option<Nanos>,
}

impl Listener {
    /// Accepts from a non-blocking, listening socket.
    pub fn new(socket: OwnedFd) -> Listener {
        Listener {
            socket,
            paused_until: None,
        }
    }

    /// Takes the next connection.
    pub fn accept(&mut self, now: Nanos) -> Accepted {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        loop {
            match accept4(&self.socket, flags) {
                Ok(socket) => return Accepted::Socket(socket),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Accepted::Nobody,
                Err(errno) => {
                    self.paused_until = Some(now + PAUSE_NS);
                    return Accepted::Paused(errno.into());
                }
            }
        }
    }

    /// Whether a pause has just ended, so that the loop listens again.
    pub fn resumes(&mut self, now: Nanos) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Refuses a connection that would take one of the descriptors kept in reserve. The kernel gives the lowest free
/// number, so the number says how many are in use.
pub fn check_descriptor(descriptor: RawFd) -> Result<(), Refusal> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    check_against(descriptor, limit)
}

fn check_against(descriptor: RawFd, limit: u64) -> Result<(), Refusal> {
    if (descriptor as u64) < limit.saturating_sub(DESCRIPTORS_IN_RESERVE) {
        return Ok(());
    }
    Err(Refusal {
        status: Status::Quota,
        text: format!(
            "the daemon has {descriptor} descriptors open of the {limit} that its limit allows (RLIMIT_NOFILE) and keeps \
             {DESCRIPTORS_IN_RESERVE} in reserve; raise the limit, e.g. LimitNOFILE= of its unit, or close sessions"
        ),
    })
}

/// Connections that have not said HELLO, oldest first.
#[derive(Debug, Default)]
pub struct HalfOpen {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    client: u64,
    pid: i32,
    deadline: Nanos,
}

impl HalfOpen {
    /// Adds a connection of a process; gives the one that it displaces. A process that floods displaces its own, so that
    /// another one's HELLO, which may be on its way, is still heard.
    pub fn add(&mut self, client: u64, pid: i32, now: Nanos) -> Option<u64> {
        self.waiting.push_back(Waiting {
            client,
            pid,
            deadline: now + HELLO_WITHIN_NS,
        });
        if self.waiting.len() <= HALF_OPEN_AT_MOST {
            return None;
        }
        let mut counts: HashMap<i32, usize> = HashMap::new();
        for waiting in &self.waiting {
            *counts.entry(waiting.pid).or_default() += 1;
        }
        let most = counts.values().max().copied()?;
        let displaced = self.waiting.iter().position(|w| counts[&w.pid] == most)?;
        self.waiting.remove(displaced).map(|w| w.client)
    }

    /// Forgets a connection: it has said HELLO, or is gone.
    pub fn remove(&mut self, client: u64) {
        self.waiting.retain(|waiting| waiting.client != client);
    }

    /// Takes out a connection whose time is over.
    pub fn pop_late(&mut self, now: Nanos) -> Option<u64> {
        if self.waiting.front()?.deadline > now {
            return None;
        }
        self.waiting.pop_front().map(|late| late.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockType, UnixAddr, bind, connect, listen, socket,
    };
    use std::os::fd::AsRawFd;

    #[test]
    fn a_listener_accepts_who_waits_and_then_says_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let address = UnixAddr::new(&folder.path().join("s")).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let new = || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let server = new();
        bind(server.as_raw_fd(), &address).unwrap();
        listen(&server, Backlog::new(8).unwrap()).unwrap();
        let mut listener = Listener::new(server);
        let client = new();
        connect(client.as_raw_fd(), &address).unwrap();
        assert!(matches!(listener.accept(5), Accepted::Socket(_)));
        assert!(matches!(listener.accept(5), Accepted::Nobody));
        assert!(!listener.resumes(u64::MAX));
    }

    #[test]
    fn a_failing_accept_pauses_the_listener_once_and_for_200_ms() {
        // A socket that does not listen: the kernel answers EINVAL.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let mut listener =
            Listener::new(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap());
        assert!(matches!(listener.accept(1000), Accepted::Paused(_)));
        assert!(!listener.resumes(1000 + PAUSE_NS - 1));
        assert!(listener.resumes(1000 + PAUSE_NS));
        assert!(!listener.resumes(1000 + PAUSE_NS), "a pause ends once");
    }

    #[test]
    fn sixteen_descriptors_stay_in_reserve() {
        assert!(check_against(1007, 1024).is_ok());
        let refusal = check_against(1008, 1024).unwrap_err();
        assert_eq!(refusal.status, Status::Quota);
        assert!(refusal.text.contains("1024"), "{}", refusal.text);
        assert!(check_against(3, 8).is_err());
    }

    #[test]
    fn half_open_connections_are_few_and_short_lived() {
        let mut half_open = HalfOpen::default();
        for client in 0..HALF_OPEN_AT_MOST as u64 {
            assert_eq!(half_open.add(client, 7, client), None);
        }
        assert_eq!(half_open.add(64, 7, 64), Some(0));
        half_open.remove(1);
        assert_eq!(half_open.pop_late(HELLO_WITHIN_NS + 1), None);
        assert_eq!(half_open.pop_late(HELLO_WITHIN_NS + 2), Some(2));
        assert_eq!(half_open.pop_late(HELLO_WITHIN_NS + 2), None);
    }

    #[test]
    fn a_flood_displaces_its_own_connections_and_nobody_elses() {
        let mut half_open = HalfOpen::default();
        assert_eq!(half_open.add(0, 7, 0), None);
        let displaced: Vec<u64> = (1..=1000)
            .filter_map(|client| half_open.add(client, 8 + client as i32 % 4, client))
            .collect();
        assert_eq!(displaced.len(), 1001 - HALF_OPEN_AT_MOST);
        assert!(!displaced.contains(&0), "the one of the quiet process");
        assert_eq!(half_open.pop_late(HELLO_WITHIN_NS), Some(0));
    }
}
