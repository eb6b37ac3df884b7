//! The socket to the daemon: requests out, replies back, with a deadline for every call.
//!
//! Any thread may call. Requests are numbered; replies come in any order and are matched by number. One thread
//! at a time receives and hands the others theirs:
//!
//! ```text
//!   call --slot free?--> send --> waiting --own reply--> done
//!                                 |  nobody receives: this thread does, for all
//!                                 |  somebody receives: sleep until woken
//!                                 +--deadline--> late: the slot stays until the reply comes
//!   begin --as call--> waiting --wait_for--> done, or not yet: the slot stays, and may be waited for again
//!                          \---forget-----> late
//!   begin_ahead, if the socket takes it --> ahead --wait_for--> as above
//! ```
//!
//! A reply that comes late is dropped, but what a late RESERVE, COMMIT_RESERVE or GRANT has granted belongs to nobody, so it
//! is given back at once. 64 requests may be without their reply, and one more that is ahead of need and keeps no other waiting;
//! when all 64 are late the session is given up. A reply that has arrived and is not fetched counts no more: a thread that sends
//! many requests before it waits for the first keeps nobody out.
//!
//! **The lock** guards who waits for what. Nothing is waited for and nothing but a non-blocking send is done
//! while it is held. Every call of the session that uses the socket takes it; the read path never does.

pub(crate) mod hello;

use crate::mapping::Descriptor;
use hostkv_shm_protocol::id::OpId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{Ordering, fence};
use hostkv_shm_protocol::wire::header::{DOORBELL, FrameHeader};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request};
use hostkv_shm_protocol::wire::{MAX_FRAME_BYTES, MAX_OUTSTANDING};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why the daemon could not be asked, or did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// Nobody listens.
    #[error(
        "no daemon at the socket {path}: {text}; start hostkvd, or name its socket in socket_path or HOSTKV_SOCKET"
    )]
    NoDaemon {
        /// Where it was looked for.
        path: String,
        /// Why that was in vain.
        text: String,
    },
    /// The file system does not let this user reach the socket.
    #[error("user {uid} may not open the socket {}: {text}; start hostkvd with --socket-group or --socket-mode, and --allow-uid {uid}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The effective user id.
        uid: u32,
        /// The errno's text.
        text: String,
    },
    /// A socket's path has a limit.
    #[error("the socket path \"{}\" has {} bytes; allowed are 1 to 107; choose another one", path.display(), path.as_os_str().len())]
    PathLength {
        /// The path.
        path: PathBuf,
    },
    /// The session is over.
    #[error("the daemon of this session is gone ({reason}); open a new session")]
    Ended {
        /// What was seen, or what the daemon said.
        reason: String,
    },
    /// A frame makes no sense.
    #[error(
        "the daemon sent what this library does not understand ({0}); install the library and the daemon of one release"
    )]
    Protocol(String),
    /// Every place for a reply is taken by one that is late.
    #[error(
        "{MAX_OUTSTANDING} replies of the daemon are late, which is the limit; open a new session when it answers again"
    )]
    TooManyLate,
    /// The deadline passed.
    #[error(
        "the daemon did not answer within {timeout_ms} ms; raise timeout_ms or look at the daemon's log"
    )]
    Timeout {
        /// The call's limit in milliseconds.
        timeout_ms: u32,
        /// Whether the request had been sent, so that the daemon may still carry it out.
        was_sent: bool,
    },
    /// The daemon refused the request.
    #[error("{text}")]
    Refused {
        /// Its status.
        status: Status,
        /// Its sentence.
        text: String,
    },
    /// A system call failed.
    #[error(
        "{call} failed on the daemon's socket: {text}; check the limits of this process (ulimit -n)"
    )]
    System {
        /// The system call.
        call: &'static str,
        /// The errno's text.
        text: String,
    },
}

impl ConnectionError {
    fn system(call: &'static str, errno: Errno) -> ConnectionError {
        ConnectionError::System {
            call,
            text: errno.desc().to_owned(),
        }
    }

    fn ended(reason: &str) -> ConnectionError {
        ConnectionError::Ended {
            reason: reason.to_owned(),
        }
    }

    /// Whether the daemon has not got the request and will not: what it was to give back is still held.
    pub(crate) fn was_never_sent(&self) -> bool {
        matches!(
            self,
            ConnectionError::Timeout {
                was_sent: false,
                ..
            } | ConnectionError::System { .. }
        )
    }

    /// Whether the daemon has looked at the request and refused it as a whole.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, ConnectionError::Refused { .. })
    }

    /// Whether no call of the session can succeed any more.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            ConnectionError::Ended { .. }
                | ConnectionError::Protocol(_)
                | ConnectionError::TooManyLate
        )
    }
}

/// The end of a call's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    timeout_ms: u32,
}

impl Deadline {
    /// `timeout_ms` from now.
    pub(crate) fn after_ms(timeout_ms: u32) -> Deadline {
        Deadline {
            at: Instant::now() + Duration::from_millis(u64::from(timeout_ms)),
            timeout_ms,
        }
    }

    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    fn timeout(&self, was_sent: bool) -> ConnectionError {
        ConnectionError::Timeout {
            timeout_ms: self.timeout_ms,
            was_sent,
        }
    }
}

/// Waits until the socket is ready for `events` or has ended; false when the deadline passed.
fn wait_ready(
    socket: RawFd,
    events: PollFlags,
    deadline: &Deadline,
) -> Result<bool, ConnectionError> {
    loop {
        // Rounded up: a rest of a millisecond must not become a busy loop.
        let left_ms = deadline.left().as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left_ms.min(60_000) as i32)
            .unwrap_or(PollTimeout::from(1000_u16));
        // SAFETY: the session keeps the descriptor open while a call is under way.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        match poll(&mut [PollFd::new(socket, events)], timeout) {
            Ok(0) if deadline.left().is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(ConnectionError::system("poll", errno)),
        }
    }
}

/// A request that has been sent, or is about to be.
struct Outstanding {
    request_id: u64,
    slot: Slot,
}

enum Slot {
    /// A thread waits for the reply.
    Waiting,
    /// As `Waiting`, beside the 64.
    Ahead,
    /// The reply is here; the thread has not fetched it yet.
    Arrived(Reply),
    /// Nobody waits any more. The grants of a RESERVE are to be aborted when they come, those of a GRANT returned.
    Late(Option<OpId>),
}

struct State {
    next_request_id: u64,
    outstanding: Vec<Outstanding>,
    /// Receive buffer; the receiving thread has it, and nobody else receives meanwhile.
    buffer: Option<Box<[u8]>>,
    /// Threads that sleep on the condition variable.
    sleepers: usize,
    /// Why the connection is over.
    end: Option<ConnectionError>,
    /// What the daemon said without being asked; explains the end that follows.
    last_words: Option<String>,
    /// What is to be given back and was not sent yet: aborts of grants without an owner, ends of prefetches.
    owed: Vec<Request>,
}

impl State {
    /// Those of the 64 whose reply has not come.
    fn unanswered(&self) -> impl Iterator<Item = &Outstanding> {
        self.outstanding
            .iter()
            .filter(|o| !matches!(o.slot, Slot::Arrived(_) | Slot::Ahead))
    }

    fn position(&self, request_id: u64) -> Option<usize> {
        self.outstanding
            .iter()
            .position(|o| o.request_id == request_id)
    }
}

/// The socket of one session after HELLO.
pub(crate) struct Connection {
    socket: Descriptor,
    state: Mutex<State>,
    progress: Condvar,
}

impl Connection {
    pub(crate) fn new(socket: Descriptor) -> Connection {
        Connection {
            socket,
            state: Mutex::new(State {
                next_request_id: 2,
                outstanding: Vec::with_capacity(MAX_OUTSTANDING),
                // One byte more than a frame, so that a longer packet does not look like a frame.
                buffer: Some(vec![0; MAX_FRAME_BYTES + 1].into_boxed_slice()),
                sleepers: 0,
                end: None,
                last_words: None,
                owed: Vec::new(),
            }),
            progress: Condvar::new(),
        }
    }

    /// Sends a request and waits for its reply until the deadline. A refusal by the daemon is an error.
    pub(crate) fn call(
        &self,
        request: &Request,
        deadline: Deadline,
    ) -> Result<Reply, ConnectionError> {
        let request_id = self.begin(request, deadline)?;
        let late = match request {
            Request::Reserve(reserve) | Request::CommitReserve(_, reserve) => Some(reserve.op_id),
            _ => None,
        };
        let mut state = self.lock();
        let answer;
        (state, answer) = self.await_reply(state, request_id, &deadline);
        match answer? {
            Some(reply) => Ok(reply),
            None => {
                Self::give_up(&mut state, request_id, late);
                Err(deadline.timeout(true))
            }
        }
    }

    /// Sends a request, for whose reply [`Connection::wait_for`] waits; gives its number.
    pub(crate) fn begin(
        &self,
        request: &Request,
        deadline: Deadline,
    ) -> Result<u64, ConnectionError> {
        let request_id = self.enter(deadline)?;
        let frame = request.encode(request_id, true);
        match self.send(&frame, &deadline) {
            Ok(()) => Ok(request_id),
            Err(error) => Err(self.leave_unsent(request_id, error)),
        }
    }

    /// Sends a request beside the 64, if the socket takes it now; gives its number. Never waits, and what keeps it from being sent
    /// is met by the next call.
    pub(crate) fn begin_ahead(&self, request: &Request) -> Option<u64> {
        let mut state = self.lock();
        if state.end.is_some() {
            return None;
        }
        let request_id = state.next_request_id;
        state.next_request_id += 1;
        if !matches!(self.try_send(&request.encode(request_id, true)), Ok(true)) {
            return None;
        }
        state.outstanding.push(Outstanding {
            request_id,
            slot: Slot::Ahead,
        });
        Some(request_id)
    }

    /// Waits for the reply to a request that was begun; none when the deadline passed, and then it may be waited for
    /// again. A reply is given once.
    pub(crate) fn wait_for(
        &self,
        request_id: u64,
        deadline: Deadline,
    ) -> Result<Option<Reply>, ConnectionError> {
        self.await_reply(self.lock(), request_id, &deadline).1
    }

    /// Nobody will wait for the reply to this request any more.
    pub(crate) fn forget(&self, request_id: u64) {
        let mut state = self.lock();
        Self::give_up(&mut state, request_id, None);
        self.wake(&state);
    }

    /// Nobody will wait for the reply to this reserve any more; what it grants is given back when it comes.
    pub(crate) fn forget_reserve(&self, request_id: u64, op_id: OpId) {
        let mut state = self.lock();
        let arrived = |o: &Outstanding| matches!(o.slot, Slot::Arrived(_));
        match state.position(request_id) {
            Some(position) if arrived(&state.outstanding[position]) => {
                if let Slot::Arrived(reply) = state.outstanding.swap_remove(position).slot {
                    self.give_grants_back(&mut state, op_id, reply);
                }
            }
            _ => Self::give_up(&mut state, request_id, Some(op_id)),
        }
        self.wake(&state);
    }

    /// Lets a request's place go with its reply, now or when that comes.
    fn give_up(state: &mut State, request_id: u64, late: Option<OpId>) {
        let Some(position) = state.position(request_id) else {
            return;
        };
        match state.outstanding[position].slot {
            Slot::Waiting | Slot::Ahead => state.outstanding[position].slot = Slot::Late(late),
            Slot::Arrived(_) => drop(state.outstanding.swap_remove(position)),
            Slot::Late(_) => {}
        }
    }

    /// Waits for a reply and takes it; none when the deadline passed.
    fn await_reply<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        request_id: u64,
        deadline: &Deadline,
    ) -> (
        MutexGuard<'a, State>,
        Result<Option<Reply>, ConnectionError>,
    ) {
        let mut is_over = false;
        loop {
            let Some(position) = state.position(request_id) else {
                let text = format!("request {request_id} was answered twice");
                return (state, Err(ConnectionError::Protocol(text)));
            };
            if matches!(state.outstanding[position].slot, Slot::Arrived(_)) {
                let outstanding = state.outstanding.swap_remove(position);
                self.wake(&state);
                let answer = match outstanding.slot {
                    Slot::Arrived(Reply::Error { status, text }) => {
                        Err(ConnectionError::Refused { status, text })
                    }
                    Slot::Arrived(reply) => Ok(Some(reply)),
                    Slot::Waiting | Slot::Ahead | Slot::Late(_) => Ok(None),
                };
                return (state, answer);
            }
            if let Some(end) = state.end.clone() {
                state.outstanding.swap_remove(position);
                return (state, Err(end));
            }
            if is_over {
                return (state, Ok(None));
            }
            (state, is_over) = self.make_progress(state, deadline);
        }
    }

    /// Takes a place among the outstanding requests, after what is overdue has been dealt with.
    fn enter(&self, deadline: Deadline) -> Result<u64, ConnectionError> {
        let mut state = self.lock();
        if state
            .outstanding
            .iter()
            .any(|o| matches!(o.slot, Slot::Late(_)))
        {
            self.receive_what_is_there(&mut state);
        }
        self.flush_owed(&mut state);
        loop {
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            if state.unanswered().count() < MAX_OUTSTANDING {
                break;
            }
            let is_over;
            (state, is_over) = self.make_progress(state, &deadline);
            if is_over && state.unanswered().count() >= MAX_OUTSTANDING {
                let are_all_late = state.unanswered().all(|o| matches!(o.slot, Slot::Late(_)));
                if are_all_late {
                    self.end(&mut state, ConnectionError::TooManyLate);
                    return Err(ConnectionError::TooManyLate);
                }
                return Err(deadline.timeout(false));
            }
        }
        let request_id = state.next_request_id;
        state.next_request_id += 1;
        state.outstanding.push(Outstanding {
            request_id,
            slot: Slot::Waiting,
        });
        Ok(request_id)
    }

    /// Takes the place of a request back that could not be sent.
    fn leave_unsent(&self, request_id: u64, error: ConnectionError) -> ConnectionError {
        let mut state = self.lock();
        state.outstanding.retain(|o| o.request_id != request_id);
        self.wake(&state);
        if error.is_final() {
            // What the daemon said before it went explains more than a broken pipe.
            self.receive_what_is_there(&mut state);
        }
        state.end.clone().unwrap_or(error)
    }

    /// Gives something back without waiting for an answer: now, or with the next call when the socket is full.
    pub(crate) fn give_back_later(&self, request: Request) {
        let mut state = self.lock();
        state.owed.push(request);
        self.flush_owed(&mut state);
    }

    /// Ends the session in the daemon and waits for its answer.
    pub(crate) fn say_bye(&self, deadline: Deadline) -> Result<(), ConnectionError> {
        self.call(&Request::Bye, deadline).map(drop)
    }

    /// Ends the session in a daemon that is not expected to answer.
    pub(crate) fn say_bye_unanswered(&self) {
        let mut state = self.lock();
        let frame = Request::Bye.encode(state.next_request_id, false);
        state.next_request_id += 1;
        // A failure means that there is nobody to tell, or no room: then the end of the process says it.
        let _ = self.try_send(&frame);
    }

    /// Wakes the daemon's loop. A socket without room wakes it as well.
    pub(crate) fn ring(&self) -> Result<(), ConnectionError> {
        self.try_send(&DOORBELL).map(drop)
    }

    /// Whether the daemon's end of the socket is closed; one system call, no waiting.
    pub(crate) fn is_hung_up(&self) -> bool {
        // SAFETY: the session keeps the descriptor open while a call is under way.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket.raw()) };
        let mut fds = [PollFd::new(socket, PollFlags::empty())];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => fds[0]
                .revents()
                .is_some_and(|e| e.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)),
            Err(_) => false,
        }
    }

    /// Closes the socket: at the end of the session, or of a forked child's copy of it.
    pub(crate) fn close(&self) {
        self.socket.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves the state whole: each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, state: &State) {
        if state.sleepers > 0 {
            self.progress.notify_all();
        }
    }

    fn end(&self, state: &mut State, error: ConnectionError) {
        let error = match (error, state.last_words.take()) {
            (ConnectionError::Ended { .. }, Some(reason)) => ConnectionError::Ended { reason },
            (error, _) => error,
        };
        state.end.get_or_insert(error);
        self.wake(state);
    }

    /// Receives one packet for whomever it is, or sleeps while another thread does; true when the deadline
    /// has passed and nothing came.
    fn make_progress<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: &Deadline,
    ) -> (MutexGuard<'a, State>, bool) {
        let Some(mut buffer) = state.buffer.take() else {
            let left = deadline.left();
            if left.is_zero() {
                return (state, true);
            }
            state.sleepers += 1;
            let (mut state, _) = self
                .progress
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state.sleepers -= 1;
            return (state, deadline.left().is_zero());
        };
        drop(state);
        let received = match wait_ready(self.socket.raw(), PollFlags::POLLIN, deadline) {
            Ok(true) => self.receive(&mut buffer),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        let is_over = matches!(received, Ok(None)) && deadline.left().is_zero();
        self.take_in(&mut state, &buffer, received);
        state.buffer = Some(buffer);
        self.wake(&state);
        (state, is_over)
    }

    /// Receives all packets that are there, without waiting; nothing when another thread receives.
    fn receive_what_is_there(&self, state: &mut State) {
        let Some(mut buffer) = state.buffer.take() else {
            return;
        };
        while state.end.is_none() {
            let received = self.receive(&mut buffer);
            if matches!(received, Ok(None)) {
                break;
            }
            self.take_in(state, &buffer, received);
        }
        state.buffer = Some(buffer);
        self.wake(state);
    }

    /// Receives one packet if there is one.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, ConnectionError> {
        let mut is_reset = false;
        loop {
            match recv(self.socket.raw(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(ConnectionError::ended("it closed the socket")),
                Ok(len) => {
                    // Acquire: what the daemon did before it sent comes before what we do with it.
                    fence(Ordering::Acquire);
                    return Ok(Some(len));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                // A daemon that dies with our requests unread resets the socket once, before its queued replies.
                Err(Errno::ECONNRESET) if !is_reset => is_reset = true,
                Err(Errno::ECONNRESET) => {
                    return Err(ConnectionError::ended("it died with requests unread"));
                }
                Err(errno) => return Err(ConnectionError::system("recv", errno)),
            }
        }
    }

    /// Hands a received packet to its owner.
    fn take_in(
        &self,
        state: &mut State,
        buffer: &[u8],
        received: Result<Option<usize>, ConnectionError>,
    ) {
        let len = match received {
            Ok(Some(len)) => len,
            Ok(None) => return,
            // Replies may be lost with it, so no call can go on, not only the one that received.
            Err(ConnectionError::System { call, text }) => {
                return self.end(
                    state,
                    ConnectionError::ended(&format!("{call} failed: {text}")),
                );
            }
            Err(error) => return self.end(state, error),
        };
        let decoded = FrameHeader::decode(&buffer[..len])
            .and_then(|(header, cursor)| Ok((header.request_id, Reply::decode(&header, cursor)?)));
        let (request_id, reply) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return self.end(state, ConnectionError::Protocol(error.to_string())),
        };
        let Some(position) = state.position(request_id) else {
            if let Reply::Error { text, .. } = reply {
                state.last_words = Some(text);
                return;
            }
            let text = format!("a reply to request {request_id}, which is not outstanding");
            return self.end(state, ConnectionError::Protocol(text));
        };
        match state.outstanding[position].slot {
            Slot::Waiting | Slot::Ahead => {
                state.outstanding[position].slot = Slot::Arrived(reply);
            }
            Slot::Arrived(_) => {
                let text = format!("two replies to request {request_id}");
                self.end(state, ConnectionError::Protocol(text));
            }
            Slot::Late(op_id) => {
                state.outstanding.swap_remove(position);
                if let Reply::Granted(extents) = &reply {
                    let items: Vec<HeldItem> = extents
                        .iter()
                        .map(|extent| HeldItem {
                            entry: extent.entry,
                            generation: extent.generation,
                        })
                        .collect();
                    if !items.is_empty() {
                        state.owed.push(Request::Return(items));
                        self.flush_owed(state);
                    }
                }
                if let Some(op_id) = op_id {
                    self.give_grants_back(state, op_id, reply);
                }
            }
        }
    }

    /// Aborts what the reply to a reserve grants that nobody waits for.
    fn give_grants_back(&self, state: &mut State, op_id: OpId, reply: Reply) {
        let (Reply::Reserved(items) | Reply::CommitReserved(_, items)) = reply else {
            return;
        };
        let items: Vec<HeldItem> = items
            .iter()
            .filter(|item| item.status == Status::Ok)
            .map(|item| HeldItem {
                entry: item.entry,
                generation: item.generation,
            })
            .collect();
        if !items.is_empty() {
            state.owed.push(Request::Abort(Held { op_id, items }));
            self.flush_owed(state);
        }
    }

    /// Sends what is to be given back, as far as the socket takes it.
    fn flush_owed(&self, state: &mut State) {
        while state.end.is_none()
            && let Some(request) = state.owed.pop()
        {
            let frame = request.encode(state.next_request_id, false);
            state.next_request_id += 1;
            if !matches!(self.try_send(&frame), Ok(true)) {
                state.owed.push(request);
                return;
            }
        }
    }

    /// Sends a frame, waiting for room until the deadline. Replies are taken in meanwhile: a daemon whose replies are not read
    /// reads no requests.
    fn send(&self, frame: &[u8], deadline: &Deadline) -> Result<(), ConnectionError> {
        loop {
            if self.try_send(frame)? {
                return Ok(());
            }
            let either = PollFlags::POLLOUT | PollFlags::POLLIN;
            if !wait_ready(self.socket.raw(), either, deadline)? {
                return Err(deadline.timeout(false));
            }
            self.receive_what_is_there(&mut self.lock());
        }
    }

    /// Sends a frame if there is room for it now.
    fn try_send(&self, frame: &[u8]) -> Result<bool, ConnectionError> {
        // Release: what this process did before, payload writes and cleared pins, comes before the daemon's
        // acting on the frame.
        fence(Ordering::Release);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match send(self.socket.raw(), frame, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                    return Err(ConnectionError::ended("it closed the socket"));
                }
                Err(errno) => return Err(ConnectionError::system("send", errno)),
            }
        }
    }
}

#[cfg(test)]
#[path = "connection/tests.rs"]
mod tests;
