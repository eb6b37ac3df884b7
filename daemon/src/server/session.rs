//! One client, from its first frame to the end of all that it holds.
//!
//! The loop's thread calls a client when its socket or its pidfd has something to say. A client changes its own state
//! and the store's account of its session; what the loop has to do about it comes back as a [`Step`].
//!
//! ```text
//!               HELLO accepted               EOF, malformed frame, full output
//!   AwaitHello ----------------> Serving ---------------------------------------> Orphaned
//!       |                           |  BYE, or its process has ended                  |  its process has ended,
//!       | refused, late, gone       v                                                 v  or unmapped its lease
//!       +------------------------> Ended <--------------------------------------------+
//! ```
//!
//! An orphan is not served, and keeps its pins and reservations: its process may still use them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::header::{DOORBELL, FrameHeader, MessageType, flags};
use hostkv_shm_protocol::wire::hello::{Challenge, Hello, HelloPrefix, NONCE_BYTES};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::report::SessionState;
use hostkv_shm_protocol::wire::request::Request;
use hostkv_shm_protocol::wire::{MAX_FRAME_BYTES, MAX_OUTSTANDING, WireError};

use super::connection::{Connection, FrameBuffer, Packet, Received, SendError};
use super::liveness::{self, LeaseFile, Use};
use super::pace::Pace;
use super::peer::Peer;
use super::shared::Shared;
use super::{SECOND_NS, monotonic_ns};
use crate::metrics::TimedRequest;
use crate::request::hello;
use crate::request::{self, Answer, Applicant, Caller, LoopRequest};
use crate::store::{Nanos, Refusal, SessionEnd, Store, Ticket};

/// What a request is in the durations; BYE is not in them.
fn timed(request: &Request) -> Option<TimedRequest> {
    Some(match request {
        Request::Resolve(_) => TimedRequest::Resolve,
        Request::Reserve(_) => TimedRequest::Reserve,
        Request::Commit(_) => TimedRequest::Commit,
        Request::CommitReserve(..) => TimedRequest::CommitReserve,
        Request::Abort(_) => TimedRequest::Abort,
        Request::Remove(_) => TimedRequest::Remove,
        Request::Clear { .. } => TimedRequest::Clear,
        Request::Stats => TimedRequest::Stats,
        Request::Audit => TimedRequest::Audit,
        Request::Ping => TimedRequest::Ping,
        Request::List(_) => TimedRequest::List,
        Request::State { .. } => TimedRequest::State,
        Request::Reload => TimedRequest::Reload,
        Request::Prefetch(_) => TimedRequest::Prefetch,
        Request::PrefetchEnd { .. } => TimedRequest::PrefetchEnd,
        Request::Grant(_) => TimedRequest::Grant,
        Request::Return(_) => TimedRequest::Return,
        Request::CommitGranted(_) => TimedRequest::CommitGranted,
        Request::Flush { .. } => TimedRequest::Flush,
        Request::Bye => return None,
    })
}

/// What the loop has to know after a client was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing more to read now.
    Idle,
    /// A packet was handled; there may be another.
    Handled,
    /// HELLO was accepted.
    Opened,
    /// A request that only the loop can carry out; its reply goes to [`Client::answer`].
    Asks(LoopRequest, Asked),
    /// The socket is gone, the session is not.
    Orphaned,
    /// All is over.
    Ended,
}

/// An open session.
#[derive(Debug)]
struct Session {
    id: SessionId,
    name: String,
    library_version: String,
    lease: LeaseFile,
    /// Requests that go on in the store.
    parked: HashMap<Ticket, Asked>,
}

/// A request that is being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The number of its reply; none where no reply is wanted.
    reply_to: Option<u64>,
    /// What it is in the durations; BYE is not in them.
    timed: Option<TimedRequest>,
    /// When its frame was read.
    since: Nanos,
    /// At least the length of its reply, where that may be long.
    reply_bytes: usize,
}

#[derive(Debug)]
enum State {
    AwaitHello {
        connection: Connection,
        nonce: [u8; NONCE_BYTES],
    },
    Serving {
        connection: Connection,
        session: Session,
    },
    Orphaned {
        session: Session,
        look_count: u64,
        /// When its socket ended.
        since: Nanos,
    },
    Ended,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    number: u64,
    applicant: Applicant,
    pidfd: OwnedFd,
    must_attest: bool,
    state: State,
    /// The loop's note of how its packets come.
    pub(super) pace: Pace,
}

impl Client {
    /// A client that has connected; it is sent its challenge.
    pub fn new(
        number: u64,
        socket: OwnedFd,
        peer: Peer,
        applicant: Applicant,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Client, SendError> {
        let mut connection = Connection::new(socket);
        connection.send(Challenge { nonce }.encode().into())?;
        Ok(Client {
            number,
            applicant,
            pidfd: peer.pidfd,
            must_attest: peer.must_attest,
            state: State::AwaitHello { connection, nonce },
            pace: Pace::default(),
        })
    }

    /// Becomes readable when the client's process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its socket, while there is one.
    pub fn connection(&self) -> Option<&Connection> {
        match &self.state {
            State::AwaitHello { connection, .. } | State::Serving { connection, .. } => {
                Some(connection)
            }
            State::Orphaned { .. } | State::Ended => None,
        }
    }

    /// The process that connected.
    pub fn pid(&self) -> i32 {
        self.applicant.pid
    }

    /// What is known of its session, once there is one.
    pub fn state(&self, store: &Store, now: Nanos) -> Option<SessionState> {
        let (session, is_orphaned) = match &self.state {
            State::Serving { session, .. } => (session, false),
            State::Orphaned { session, .. } => (session, true),
            State::AwaitHello { .. } | State::Ended => return None,
        };
        let figures = store.session_figures(session.id)?;
        Some(SessionState {
            session_id: session.id.0,
            pid: self.applicant.pid,
            uid: self.applicant.uid,
            name: session.name.clone(),
            library_version: session.library_version.clone(),
            age_seconds: now.saturating_sub(figures.opened_at) / SECOND_NS,
            can_write: figures.can_write,
            is_admin: self.applicant.is_admin,
            is_orphaned,
            pin_slot_count: figures.pin_slot_count,
            pin_count: figures.pin_count,
            pinned_bytes: figures.pinned_bytes,
            reserved_bytes: figures.reserved_bytes,
            reservation_count: figures.reservation_count,
            keyspace_count: figures.keyspace_count,
            read_requests: figures.reads.read_requests,
            read_succeed_keys: figures.reads.read_succeed_keys,
            read_failed_keys: figures.reads.read_failed_keys,
            write_keys: figures.write_keys,
        })
    }

    /// Whether its process lives without a socket.
    pub fn is_orphaned(&self) -> bool {
        matches!(self.state, State::Orphaned { .. })
    }

    /// Whether another frame may be read: not while too many requests wait for the store or for the client to read, or while
    /// their replies leave no room for another. A client that reads its replies late is served late, and not cut off.
    pub fn may_read(&self) -> bool {
        match &self.state {
            State::AwaitHello { .. } => true,
            State::Serving {
                connection,
                session,
            } => {
                let parked_bytes: usize = session.parked.values().map(|a| a.reply_bytes).sum();
                session.parked.len() + connection.waiting_count() < MAX_OUTSTANDING
                    && connection.has_room_for(parked_bytes + MAX_FRAME_BYTES)
            }
            State::Orphaned { .. } | State::Ended => false,
        }
    }

    /// Whether its session has a commit ring.
    pub fn has_ring(&self, store: &Store) -> bool {
        matches!(&self.state, State::Serving { session, .. } if store.has_ring(session.id))
    }

    /// Reads and handles one packet.
    pub fn step(&mut self, shared: &mut Shared, now: Nanos) -> Step {
        match &self.state {
            State::AwaitHello { connection, nonce } => {
                let attested = self.must_attest.then_some(self.applicant.pid);
                match receive(connection, &mut shared.buffer, |frame, sender_pid| {
                    read_hello(frame, sender_pid, nonce, attested)
                }) {
                    Inbound::Decoded((request_id, wishes)) => {
                        let step = self.open(shared, request_id, wishes, now);
                        shared.observe(TimedRequest::Hello, now);
                        step
                    }
                    other => self.no_frame(shared, other),
                }
            }
            State::Serving { connection, .. } => {
                match receive(connection, &mut shared.buffer, |frame, _| {
                    read_request(frame)
                }) {
                    Inbound::Decoded(Some((header, request))) => {
                        self.request(shared, header, request, now)
                    }
                    // The loop is awake now, and that is all it is for.
                    Inbound::Decoded(None) => Step::Handled,
                    other => self.no_frame(shared, other),
                }
            }
            State::Orphaned { .. } => Step::Orphaned,
            State::Ended => Step::Ended,
        }
    }

    fn no_frame<T>(&mut self, shared: &mut Shared, inbound: Inbound<T>) -> Step {
        match inbound {
            Inbound::Decoded(_) => Step::Handled,
            Inbound::Nothing => Step::Idle,
            Inbound::Reset => Step::Handled,
            Inbound::Closed => self.lose(shared, None),
            Inbound::Failed(error) => self.lose(shared, Some(error.to_string())),
            Inbound::Bad {
                request_id,
                refusal,
                is_malformed,
            } => {
                shared.rejected_frames += u64::from(is_malformed);
                log::debug!("Client {}: {}", self.number, refusal.text);
                let text = refusal.text.clone();
                // The client may have gone already; it is disconnected either way.
                let _ = self.reply(request_id, &request::refused(refusal));
                self.lose(shared, Some(text))
            }
        }
    }

    /// Opens the session, or says why not.
    fn open(&mut self, shared: &mut Shared, request_id: u64, wishes: Hello, now: Nanos) -> Step {
        let opened = hello::open(
            &mut shared.store,
            &shared.facts,
            &shared.limits,
            &self.applicant,
            &wishes,
            now,
        );
        let opened = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                let inbound: Inbound<()> = Inbound::Bad {
                    request_id,
                    refusal,
                    is_malformed: false,
                };
                return self.no_frame(shared, inbound);
            }
        };
        let State::AwaitHello { mut connection, .. } =
            std::mem::replace(&mut self.state, State::Ended)
        else {
            return Step::Ended;
        };
        let id = opened.session;
        log::info!(
            "Session {} opened: uid {}, pid {}, name {:?}, libhostkv {:?}, {} pin slots, {}{}",
            id.0,
            self.applicant.uid,
            self.applicant.pid,
            wishes.client_name,
            wishes.client_version,
            opened.reply.pin_slot_count,
            match (&opened.staging, opened.can_write) {
                (Some(_), _) => "read-write through a staging segment",
                (None, true) => "read-write",
                (None, false) => "read-only",
            },
            opened.ring.describe(),
        );
        shared.clients.insert(id, self.number);
        let handout = &shared.handout;
        // A writer with a staging segment is not trusted with the payload.
        let payload = match &handout.payload_writable {
            Some(writable) if opened.can_write && opened.staging.is_none() => writable,
            _ => &handout.payload_read_only,
        };
        let staging = opened.staging.map(Rc::new);
        connection.allow_session_output();
        let sent = connection.send(Packet {
            bytes: opened.reply.encode(request_id),
            descriptors: [&handout.control, &Rc::new(opened.lease), payload]
                .into_iter()
                .chain(&staging)
                .chain([&handout.daemon])
                .map(Rc::clone)
                .collect(),
        });
        self.state = State::Serving {
            connection,
            session: Session {
                id,
                name: wishes.client_name,
                library_version: wishes.client_version,
                lease: LeaseFile::new(opened.own_lease),
                parked: HashMap::new(),
            },
        };
        match sent {
            Ok(()) => Step::Opened,
            Err(error) => self.unsendable(shared, error),
        }
    }

    /// Carries out one request.
    fn request(
        &mut self,
        shared: &mut Shared,
        header: FrameHeader,
        request: Request,
        now: Nanos,
    ) -> Step {
        let State::Serving { session, .. } = &mut self.state else {
            return Step::Idle;
        };
        let caller = Caller {
            session: session.id,
            applicant: self.applicant,
        };
        let asked = Asked {
            reply_to: (header.flags & flags::NO_REPLY == 0).then_some(header.request_id),
            timed: timed(&request),
            since: now,
            reply_bytes: request.reply_bytes(),
        };
        match request::execute(&mut shared.store, &caller, request, now) {
            Answer::Reply(reply) => self.answer(shared, asked, &reply),
            Answer::Parked(ticket) => {
                session.parked.insert(ticket, asked);
                Step::Handled
            }
            Answer::OfLoop(wanted) => Step::Asks(wanted, asked),
            Answer::Ended(reply) => {
                if let Some(request_id) = asked.reply_to {
                    // Who has said BYE need not wait for the answer.
                    let _ = self.reply(request_id, &reply);
                }
                self.end(shared, "said BYE")
            }
        }
    }

    /// A parked request of this client is done.
    pub fn resumed(&mut self, shared: &mut Shared, ticket: Ticket, reply: &Reply) -> Step {
        let State::Serving { session, .. } = &mut self.state else {
            return Step::Idle;
        };
        match session.parked.remove(&ticket) {
            Some(asked) => self.answer(shared, asked, reply),
            None => Step::Handled,
        }
    }

    /// Sends the reply to a request that has been carried out.
    pub fn answer(&mut self, shared: &mut Shared, asked: Asked, reply: &Reply) -> Step {
        let sent = asked
            .reply_to
            .map_or(Ok(()), |request_id| self.reply(request_id, reply));
        if let Some(request) = asked.timed {
            shared.observe(request, asked.since);
        }
        match sent {
            Ok(()) => Step::Handled,
            Err(error) => self.unsendable(shared, error),
        }
    }

    /// A reply could not be sent. Where the client has closed its socket, what it sent before still counts: its BYE
    /// may be among what has not been read yet.
    fn unsendable(&mut self, shared: &mut Shared, error: SendError) -> Step {
        match error {
            SendError::Socket(_) => self.hung_up(shared, monotonic_ns()),
            SendError::QueueFull { .. } => self.lose(shared, Some(error.to_string())),
        }
    }

    fn reply(&mut self, request_id: u64, reply: &Reply) -> Result<(), SendError> {
        match &mut self.state {
            State::AwaitHello { connection, .. } | State::Serving { connection, .. } => {
                connection.send(reply.encode(request_id).into())
            }
            State::Orphaned { .. } | State::Ended => Ok(()),
        }
    }

    /// The socket takes more output.
    pub fn writable(&mut self, shared: &mut Shared) -> Step {
        let flushed = match &mut self.state {
            State::AwaitHello { connection, .. } | State::Serving { connection, .. } => {
                connection.flush()
            }
            State::Orphaned { .. } | State::Ended => Ok(()),
        };
        match flushed {
            Ok(()) => Step::Handled,
            Err(error) => self.unsendable(shared, error),
        }
    }

    /// The client has closed its socket: what it sent before still counts as after a death.
    pub fn hung_up(&mut self, shared: &mut Shared, now: Nanos) -> Step {
        if self.drain(shared, now) {
            return self.end(shared, "said BYE");
        }
        self.lose(shared, None)
    }

    /// The client's process has ended.
    pub fn died(&mut self, shared: &mut Shared, now: Nanos) -> Step {
        if self.drain(shared, now) {
            return self.end(shared, "said BYE");
        }
        // While it is served no end of its socket was seen before that of its process.
        let orphaned_at = match &self.state {
            State::Serving { .. } => Some(now),
            State::Orphaned { since, .. } => Some(*since),
            State::AwaitHello { .. } | State::Ended => None,
        };
        if let Some(orphaned_at) = orphaned_at {
            let duration_ns = now.saturating_sub(orphaned_at);
            shared.owner_death.observe(duration_ns);
        }
        self.reclaim(shared, "its process has ended", now)
    }

    /// Now and then for an orphan: has its process given up the lease segment, as exec does?
    pub fn look_after_orphan(&mut self, shared: &mut Shared, now: Nanos) -> Step {
        let State::Orphaned {
            session,
            look_count,
            ..
        } = &mut self.state
        else {
            return Step::Idle;
        };
        let lease = session.lease.look(self.applicant.pid);
        let mut watched = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        // The pid of a process that has ended may be another's by now.
        if poll(&mut watched, PollTimeout::ZERO) != Ok(0) {
            return Step::Orphaned;
        }
        if lease == Use::GivenUp {
            return self.reclaim(shared, "its process has unmapped its lease segment", now);
        }
        *look_count += 1;
        // Not at the first look: a process that dies closes its socket a moment before its pidfd tells.
        if *look_count == 2 {
            log::warn!(
                "Session {} ({:?}, uid {}, pid {}) has no socket any more and its process lives: it is not served, and what \
                 it pinned and reserved stays until the process ends",
                session.id.0,
                session.name,
                self.applicant.uid,
                self.applicant.pid
            );
        }
        Step::Orphaned
    }

    /// Carries out what the socket still holds; true when the client said BYE, which ends the session.
    fn drain(&mut self, shared: &mut Shared, now: Nanos) -> bool {
        let State::Serving {
            connection,
            session,
        } = &self.state
        else {
            return false;
        };
        let caller = Caller {
            session: session.id,
            applicant: self.applicant,
        };
        let Shared { store, buffer, .. } = shared;
        let said_bye = liveness::final_drain(connection, buffer, |request| {
            request::execute(store, &caller, request, now);
        });
        if said_bye {
            request::execute(store, &caller, Request::Bye, now);
        }
        said_bye
    }

    /// The socket is of no use any more; `why` is the daemon's reason, none when the client closed it.
    pub fn lose(&mut self, shared: &mut Shared, why: Option<String>) -> Step {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Serving {
                connection,
                session,
            } => {
                connection.shut_down();
                let since = monotonic_ns();
                shared.store.orphan_session(session.id, since);
                if let Some(why) = why {
                    log::warn!(
                        "Session {} ({:?}, uid {}, pid {}) is disconnected: {why}",
                        session.id.0,
                        session.name,
                        self.applicant.uid,
                        self.applicant.pid
                    );
                }
                self.state = State::Orphaned {
                    session,
                    look_count: 0,
                    since,
                };
                Step::Orphaned
            }
            orphaned @ State::Orphaned { .. } => {
                self.state = orphaned;
                Step::Orphaned
            }
            State::AwaitHello { connection, .. } => {
                connection.shut_down();
                Step::Ended
            }
            State::Ended => Step::Ended,
        }
    }

    /// Ends the session and pays back what it held.
    fn reclaim(&mut self, shared: &mut Shared, why: &str, now: Nanos) -> Step {
        if let State::Serving { session, .. } | State::Orphaned { session, .. } = &self.state {
            shared
                .store
                .close_session(session.id, SessionEnd::Death, now);
        }
        self.end(shared, why)
    }

    /// Forgets the session, whose account is closed.
    fn end(&mut self, shared: &mut Shared, why: &str) -> Step {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Serving { session, .. } | State::Orphaned { session, .. } => {
                shared.clients.remove(&session.id);
                log::info!("Session {} closed: {why}", session.id.0);
            }
            State::AwaitHello { .. } | State::Ended => {}
        }
        Step::Ended
    }
}

/// What a receive meant.
enum Inbound<T> {
    Decoded(T),
    Nothing,
    Reset,
    Closed,
    Failed(std::io::Error),
    /// To be answered by an error and the end of the connection.
    Bad {
        request_id: u64,
        refusal: Refusal,
        is_malformed: bool,
    },
}

impl<T> Inbound<T> {
    fn malformed(request_id: u64, error: &WireError) -> Inbound<T> {
        Inbound::Bad {
            request_id,
            refusal: Refusal {
                status: Status::InvalidArgument,
                text: error.to_string(),
            },
            is_malformed: true,
        }
    }
}

fn receive<T>(
    connection: &Connection,
    buffer: &mut FrameBuffer,
    decode: impl FnOnce(&[u8], Option<i32>) -> Inbound<T>,
) -> Inbound<T> {
    match connection.receive(buffer) {
        Ok(Received::Frame { frame, sender_pid }) => decode(frame, sender_pid),
        Ok(Received::Empty) => Inbound::Nothing,
        Ok(Received::Reset) => Inbound::Reset,
        Ok(Received::Closed) => Inbound::Closed,
        Ok(Received::Refused(rule)) => Inbound::Bad {
            request_id: 0,
            refusal: Refusal {
                status: Status::InvalidArgument,
                text: rule.to_owned(),
            },
            is_malformed: true,
        },
        Err(error) => Inbound::Failed(error),
    }
}

/// Reads a session's request; none is the doorbell.
fn read_request(frame: &[u8]) -> Inbound<Option<(FrameHeader, Request)>> {
    if *frame == DOORBELL {
        return Inbound::Decoded(None);
    }
    let (header, body) = match FrameHeader::decode(frame) {
        Ok(decoded) => decoded,
        Err(error) => return Inbound::malformed(0, &error),
    };
    match Request::decode(&header, body) {
        Ok(request) => Inbound::Decoded(Some((header, request))),
        Err(error) => Inbound::malformed(header.request_id, &error),
    }
}

/// Reads the first frame, which must be a HELLO that echoes the nonce; with `attested` the kernel must name that pid as
/// its sender.
fn read_hello(
    frame: &[u8],
    sender_pid: Option<i32>,
    nonce: &[u8; NONCE_BYTES],
    attested: Option<i32>,
) -> Inbound<(u64, Hello)> {
    let (header, mut body) = match FrameHeader::decode(frame) {
        Ok(decoded) => decoded,
        Err(error) => return Inbound::malformed(0, &error),
    };
    let request_id = header.request_id;
    if header.message != MessageType::Hello || header.flags != 0 {
        return Inbound::Bad {
            request_id,
            refusal: Refusal {
                status: Status::InvalidArgument,
                text: format!(
                    "the first frame is {:?} with flags {:#x}; it must be Hello without flags",
                    header.message, header.flags
                ),
            },
            is_malformed: true,
        };
    }
    let refused = |refusal| Inbound::Bad {
        request_id,
        refusal,
        is_malformed: false,
    };
    let prefix = match HelloPrefix::decode(&mut body) {
        Ok(prefix) => prefix,
        Err(error) => return Inbound::malformed(request_id, &error),
    };
    if prefix.nonce != *nonce {
        return refused(Refusal {
            status: Status::Permission,
            text: "HELLO does not echo the nonce of this connection's challenge".to_owned(),
        });
    }
    if attested.is_some() && attested != sender_pid {
        return refused(Refusal {
            status: Status::Permission,
            text: format!(
                "HELLO was sent by pid {} and the socket was opened by pid {}; the process that opens a session must \
                 connect itself on a kernel before Linux 6.5",
                sender_pid.unwrap_or(0),
                attested.unwrap_or(0)
            ),
        });
    }
    if let Err(refusal) = hello::check_versions(&prefix) {
        return refused(refusal);
    }
    match Hello::decode_rest(prefix, body) {
        Ok(hello) => Inbound::Decoded((request_id, hello)),
        Err(error) => Inbound::malformed(request_id, &error),
    }
}

#[cfg(test)]
mod tests;
