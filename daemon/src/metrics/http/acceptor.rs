//! The acceptor thread: one poll loop over the listener, the clients, the inner hop and the stop event.
//!
//! It owns all of them; nothing is shared but the stop event and the pages, which it only passes on to
//! a new render thread. No call in the loop waits for anybody but `poll`.
//!
//! Who is served when there are too many: a new connection displaces the one that has been longest in
//! its phase (head or answer), except the one whose answer is being made at this moment. So a scrape
//! that is complete when it is accepted cannot be displaced by a flood between its turn and its answer.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::Limits;
use super::connection::{Connection, Step};
use super::head::{Refusal, Request};
use super::inner::Inner;
use super::pages::Pages;

/// Connections accepted before the others get their turn.
const ACCEPT_BATCH: usize = 16;
/// Between two warnings about the same trouble.
const WARN_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Acceptor {
    listener: TcpListener,
    stop: Arc<EventFd>,
    pages: Arc<Pages>,
    /// Where the inner hop is bound.
    folder: Arc<File>,
    limits: Limits,
    connections: Vec<Connection>,
    next_id: u64,
    /// Checked requests in the order of their arrival; a client that left is skipped.
    queue: VecDeque<(u64, Request)>,
    /// `None` between a failure and the next build.
    inner: Option<Inner>,
    /// Whose answer the inner hop makes now, and until when.
    exchange: Option<(Asker, Instant)>,
    next_build_at: Instant,
    next_watch_at: Instant,
    /// Render threads of hops that were given up and that have not ended yet.
    retired: Vec<JoinHandle<()>>,
    /// Given up when descriptors run out, so that scrapes go on, one at a time.
    reserve: Option<OwnedFd>,
    accept_again_at: Option<Instant>,
    warned_at: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Client(u64),
    Watchdog,
}

/// What poll reported.
struct Ready {
    is_stop: bool,
    is_listener: bool,
    is_inner: bool,
    clients: Vec<u64>,
}

impl Acceptor {
    pub(super) fn new(
        listener: TcpListener,
        stop: Arc<EventFd>,
        pages: Arc<Pages>,
        folder: Arc<File>,
        inner: Inner,
        limits: Limits,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let reserve = Some(stop.as_fd().try_clone_to_owned()?);
        Ok(Self {
            listener,
            stop,
            pages,
            folder,
            limits,
            connections: Vec::with_capacity(limits.connection_count),
            next_id: 0,
            queue: VecDeque::new(),
            inner: Some(inner),
            exchange: None,
            next_build_at: now,
            next_watch_at: now + limits.watch_every,
            retired: Vec::new(),
            reserve,
            accept_again_at: None,
            warned_at: None,
        })
    }

    /// Runs until the stop event; gives the render threads that have not ended yet.
    pub(super) fn run(mut self) -> Vec<JoinHandle<()>> {
        loop {
            let now = Instant::now();
            self.tend_inner(now);
            self.expire(now);
            let ready = match self.wait(now) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    // Out of kernel memory; poll has no other failure here. Not to be spun on.
                    self.warn(now, &format!("The metrics endpoint cannot poll ({errno})."));
                    std::thread::sleep(self.limits.accept_pause);
                    continue;
                }
            };
            if ready.is_stop {
                break;
            }
            let now = Instant::now();
            if ready.is_inner {
                self.advance_inner(now);
            }
            for id in ready.clients {
                let limits = self.limits;
                self.step(id, now, |connection| connection.advance(now, &limits));
            }
            if ready.is_listener {
                self.accept(now);
            }
        }
        self.retire_inner();
        self.retired
    }

    fn wait(&self, now: Instant) -> nix::Result<Ready> {
        let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        let is_paused = self.accept_again_at.is_some();
        fds.push(PollFd::new(
            self.listener.as_fd(),
            if is_paused {
                PollFlags::empty()
            } else {
                PollFlags::POLLIN
            },
        ));
        for connection in &self.connections {
            fds.push(PollFd::new(connection.as_fd(), connection.events()));
        }
        if let Some(inner) = &self.inner {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, inner.wants_to_send());
            fds.push(PollFd::new(inner.as_fd(), events));
        }
        poll(&mut fds, self.timeout(now))?;
        let is_ready = |fd: &PollFd| fd.any().unwrap_or(true);
        Ok(Ready {
            is_stop: is_ready(&fds[0]),
            is_listener: is_ready(&fds[1]) && !is_paused,
            is_inner: fds.get(2 + self.connections.len()).is_some_and(is_ready),
            clients: self
                .connections
                .iter()
                .zip(&fds[2..])
                .filter(|(_, fd)| is_ready(fd))
                .map(|(connection, _)| connection.id)
                .collect(),
        })
    }

    /// Until the first thing that is due by the clock.
    fn timeout(&self, now: Instant) -> PollTimeout {
        let inner_due = match (&self.inner, &self.exchange) {
            (None, _) => self.next_build_at,
            (Some(_), Some((_, deadline))) => *deadline,
            (Some(_), None) => self.next_watch_at,
        };
        let due = self
            .connections
            .iter()
            .map(Connection::deadline)
            .chain(self.accept_again_at)
            .fold(inner_due, Instant::min);
        // Rounded up, or the loop would turn idly in the last millisecond.
        let wait_ms = due.saturating_duration_since(now).as_millis() + 1;
        PollTimeout::try_from(wait_ms).unwrap_or(PollTimeout::MAX)
    }

    /// Everything that is due for the clients and the listener.
    fn expire(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .connections
            .iter()
            .filter(|connection| connection.deadline() <= now && !self.is_asking(connection.id))
            .map(|connection| connection.id)
            .collect();
        for id in due {
            let limits = self.limits;
            self.step(id, now, |connection| connection.expire(now, &limits));
        }
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
        }
        if self.reserve.is_none() {
            self.reserve = self.stop.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Lets one connection do something and does what follows from it.
    fn step(&mut self, id: u64, now: Instant, action: impl FnOnce(&mut Connection) -> Step) {
        let Some(at) = self.connections.iter().position(|other| other.id == id) else {
            return;
        };
        match action(&mut self.connections[at]) {
            Step::Stay => {}
            Step::Close => {
                self.connections.remove(at);
            }
            Step::Ask(request) => {
                self.queue.push_back((id, request));
                self.begin_exchange(now);
            }
        }
    }

    // --- accepting ---

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) if is_exhaustion(&error) => {
                    if self.reserve.take().is_some() {
                        continue;
                    }
                    self.accept_again_at = Some(now + self.limits.accept_pause);
                    self.warn(
                        now,
                        &format!(
                            "The metrics endpoint cannot accept ({error}); it goes on when \
                             descriptors are free again."
                        ),
                    );
                    return;
                }
                // Nobody waits any more, or the one who did has left.
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, now: Instant) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connections.len() >= self.limits.connection_count {
            self.displace();
        }
        let id = self.next_id;
        self.next_id += 1;
        let limits = self.limits;
        self.connections
            .push(Connection::new(id, stream, now, &limits));
        // The head is often there already: it gets its turn before the next one may displace it.
        self.step(id, now, |connection| connection.advance(now, &limits));
    }

    fn displace(&mut self) {
        let oldest = self
            .connections
            .iter()
            .enumerate()
            .filter(|(_, connection)| !self.is_asking(connection.id))
            .min_by_key(|(_, connection)| connection.phase_began())
            .map(|(at, _)| at);
        if let Some(at) = oldest {
            self.connections.remove(at);
        }
    }

    // --- the inner hop ---

    fn is_asking(&self, id: u64) -> bool {
        matches!(self.exchange, Some((Asker::Client(asking), _)) if asking == id)
    }

    /// Gives up an exchange that is late, builds a missing hop, watches an idle one.
    fn tend_inner(&mut self, now: Instant) {
        if self.exchange.is_some_and(|(_, deadline)| deadline <= now) {
            self.fail_inner(now, &io::ErrorKind::TimedOut.into());
        }
        if self.inner.is_none() && self.next_build_at <= now {
            self.build_inner(now);
        }
        self.begin_exchange(now);
        if self.next_watch_at <= now && self.exchange.is_none() {
            self.next_watch_at = now + self.limits.watch_every;
            let scrape = Request {
                method: "GET".to_owned(),
                target: "/metrics".to_owned(),
            };
            self.begin(Asker::Watchdog, &scrape, now);
        }
    }

    fn build_inner(&mut self, now: Instant) {
        self.next_build_at = now + self.limits.rebuild_pause;
        match Inner::build(&self.pages, &self.folder) {
            Ok(inner) => {
                self.inner = Some(inner);
                self.next_watch_at = now + self.limits.watch_every;
            }
            Err(error) => {
                self.warn(
                    now,
                    &format!("The metrics page cannot be restarted yet ({error})."),
                );
            }
        }
    }

    /// The next client's turn, if the hop is free. Without a hop nobody is kept waiting for one.
    fn begin_exchange(&mut self, now: Instant) {
        while self.exchange.is_none() {
            let Some((id, request)) = self.queue.pop_front() else {
                return;
            };
            if !self.connections.iter().any(|other| other.id == id) {
                continue;
            }
            if self.inner.is_some() {
                self.begin(Asker::Client(id), &request, now);
            } else {
                let limits = self.limits;
                self.step(id, now, |connection| {
                    connection.refuse(Refusal::INNER, now, &limits)
                });
            }
        }
    }

    fn begin(&mut self, asker: Asker, request: &Request, now: Instant) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        inner.begin(request);
        self.exchange = Some((asker, now + self.limits.inner_within));
        self.advance_inner(now);
    }

    fn advance_inner(&mut self, now: Instant) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        match inner.advance() {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let asker = self.exchange.take().map(|(asker, _)| asker);
                if let Some(Asker::Client(id)) = asker {
                    let limits = self.limits;
                    self.step(id, now, |connection| {
                        connection.answer(answer, now, &limits)
                    });
                }
                self.begin_exchange(now);
            }
            Err(error) => self.fail_inner(now, &error),
        }
    }

    fn fail_inner(&mut self, now: Instant, error: &io::Error) {
        log::warn!("The metrics page failed ({error}) and is restarted.");
        self.retire_inner();
        if let Some((Asker::Client(id), _)) = self.exchange.take() {
            let limits = self.limits;
            self.step(id, now, |connection| {
                connection.refuse(Refusal::INNER, now, &limits)
            });
        }
    }

    fn retire_inner(&mut self) {
        self.retired.retain(|thread| !thread.is_finished());
        if let Some(inner) = self.inner.take() {
            self.retired.extend(inner.end());
        }
    }

    fn warn(&mut self, now: Instant, sentence: &str) {
        if self.warned_at.is_none_or(|at| now - at >= WARN_EVERY) {
            self.warned_at = Some(now);
            log::warn!("{sentence}");
        }
    }
}

/// Whether the kernel has nothing left to make a connection of.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
