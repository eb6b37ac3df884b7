//! One client of the endpoint, as the acceptor thread sees it. No call here waits.
//!
//! ```text
//!           whole head                 answer known               all written            end of stream,
//!   Head ───────────────► Waiting ───────────────────► Writing ───────────────► Draining ───► closed
//!     └── refused, or 5 s are over ───────────────────────┘                  5 s since the answer
//! ```
//!
//! Waiting, Writing and Draining together are the answer phase. Draining reads what the client sent
//! beyond its head and throws it away: closing a socket with unread bytes would make the kernel reset
//! the connection, and the client could lose an answer that is already on its way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::poll::PollFlags;

use super::Limits;
use super::head::{self, Head, Refusal, Request};

/// What Draining reads at most.
const MAX_DRAINED_BYTES: usize = 256 << 10;

/// One accepted connection.
pub(super) struct Connection {
    /// Never used twice.
    pub(super) id: u64,
    stream: TcpStream,
    state: State,
    /// When its phase, head or answer, began.
    phase_began: Instant,
    /// When its state ends whatever happens.
    deadline: Instant,
}

enum State {
    Head {
        bytes: Vec<u8>,
    },
    Waiting {
        is_head: bool,
    },
    Writing {
        answer: Vec<u8>,
        written_bytes: usize,
    },
    Draining {
        read_bytes: usize,
    },
}

/// What the acceptor has to do about a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it goes on at its next event.
    Stay,
    /// Give it a turn at the inner hop.
    Ask(Request),
    /// Drop it.
    Close,
}

impl Connection {
    pub(super) fn new(id: u64, stream: TcpStream, now: Instant, limits: &Limits) -> Self {
        Self {
            id,
            stream,
            state: State::Head { bytes: Vec::new() },
            phase_began: now,
            deadline: now + limits.head_within,
        }
    }

    pub(super) fn phase_began(&self) -> Instant {
        self.phase_began
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The events to wait for; the end of the connection is always reported.
    pub(super) fn events(&self) -> PollFlags {
        match self.state {
            State::Head { .. } | State::Draining { .. } => PollFlags::POLLIN,
            State::Waiting { .. } => PollFlags::empty(),
            State::Writing { .. } => PollFlags::POLLOUT,
        }
    }

    /// The socket has an event (or is new).
    pub(super) fn advance(&mut self, now: Instant, limits: &Limits) -> Step {
        self.try_advance(now, limits).unwrap_or(Step::Close)
    }

    /// Its deadline is over.
    pub(super) fn expire(&mut self, now: Instant, limits: &Limits) -> Step {
        match self.state {
            State::Head { .. } => self.refuse(Refusal::TOO_SLOW, now, limits),
            State::Waiting { .. } => self.refuse(Refusal::NO_TURN, now, limits),
            State::Writing { .. } | State::Draining { .. } => Step::Close,
        }
    }

    /// Answers with a sentence of our own.
    pub(super) fn refuse(&mut self, refusal: Refusal, now: Instant, limits: &Limits) -> Step {
        let is_head = matches!(self.state, State::Waiting { is_head: true });
        self.answer(refusal.answer(is_head), now, limits)
    }

    /// The answer is there: writes as much as goes at once.
    pub(super) fn answer(&mut self, answer: Vec<u8>, now: Instant, limits: &Limits) -> Step {
        if matches!(self.state, State::Head { .. }) {
            self.phase_began = now;
        }
        self.deadline = now + limits.write_within;
        self.state = State::Writing {
            answer,
            written_bytes: 0,
        };
        self.advance(now, limits)
    }

    fn try_advance(&mut self, now: Instant, limits: &Limits) -> io::Result<Step> {
        loop {
            let outcome = match &mut self.state {
                State::Head { bytes } => {
                    read_head(&mut self.stream, bytes, limits.head_bytes).map(Event::Head)
                }
                // Only the end of the connection is reported here: the client is gone.
                State::Waiting { .. } => return Ok(Step::Close),
                State::Writing {
                    answer,
                    written_bytes,
                } => self.stream.write(&answer[*written_bytes..]).map(|count| {
                    *written_bytes += count;
                    Event::Written {
                        is_all: *written_bytes == answer.len(),
                    }
                }),
                State::Draining { read_bytes } => {
                    self.stream.read(&mut [0; 16 << 10]).map(|count| {
                        *read_bytes += count;
                        Event::Drained {
                            is_over: count == 0 || *read_bytes > MAX_DRAINED_BYTES,
                        }
                    })
                }
            };
            match outcome {
                Ok(Event::Head(None)) => return Ok(Step::Close),
                Ok(Event::Head(Some(Head::Incomplete))) => {}
                Ok(Event::Head(Some(Head::Refused(refusal)))) => {
                    return Ok(self.refuse(refusal, now, limits));
                }
                Ok(Event::Head(Some(Head::Complete(request)))) => {
                    self.state = State::Waiting {
                        is_head: request.method == "HEAD",
                    };
                    self.phase_began = now;
                    self.deadline = now + limits.turn_within;
                    return Ok(Step::Ask(request));
                }
                Ok(Event::Written { is_all: true }) => {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.state = State::Draining { read_bytes: 0 };
                }
                Ok(Event::Written { is_all: false }) => {}
                Ok(Event::Drained { is_over: true }) => return Ok(Step::Close),
                // One piece a turn: a client that sends without end must not keep the thread.
                Ok(Event::Drained { is_over: false }) => return Ok(Step::Stay),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Stay),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

enum Event {
    /// `None`: the client closed before its head was whole.
    Head(Option<Head>),
    Written {
        is_all: bool,
    },
    Drained {
        is_over: bool,
    },
}

/// Reads one piece; never more than the limit in all, so it is over after some pieces.
fn read_head(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    limit_bytes: usize,
) -> io::Result<Option<Head>> {
    let mut piece = [0; 8 << 10];
    let room_bytes = piece.len().min(limit_bytes - bytes.len());
    let count = stream.read(&mut piece[..room_bytes])?;
    bytes.extend_from_slice(&piece[..count]);
    Ok((count > 0).then(|| head::parse(bytes, limit_bytes)))
}
