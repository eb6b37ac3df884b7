//! The loop: one thread that owns everything that changes while the daemon serves, and so needs no lock.
//!
//! `run` builds a [`Server`] and calls [`Server::run`] on the thread that [`alive`] has marked. Nothing here waits but
//! the one `epoll_wait`; a panic of this thread aborts the process.
//!
//! ```text
//!   epoll --> listener ----> accept, who is it? ----> Client (AwaitHello)      listener.rs, peer.rs
//!         --> socket ------> frames, at most 16 a turn --> request/ --> store  session.rs, connection.rs
//!         --> pidfd -------> last frames, then the session's account is closed liveness.rs
//!         --> timer -------> every 100 ms: store.tick, late HELLOs, what the service manager
//!                            is to hear (reports.rs); at most every second: orphans
//!         --> eventfd -----> a scrape wants a snapshot                         snapshots.rs
//!         --> eventfd -----> workers are done with payload bytes               ../workers/
//!         --> eventfd -----> tiers are done with objects                       ../tiers/
//!         --> signals -----> stop, reload                                      ../signal.rs
//!   then, while the store has work: one slice of it, the shorter the more the requests of this turn took, and the replies of
//!                                   those that it finished
//! ```
//!
//! In every turn it also looks into the commit rings of the sessions that have one. Before it sleeps it says so, and looks
//! again, because such a session rings the socket only for a sleeper ([`hostkv_shm_protocol::lease::commits::Doorbell`]). A
//! session whose socket is not read for now, because too many of its requests wait, can't wake the loop: while there is one
//! with a ring, the loop sleeps a millisecond at most.
//!
//! While the store has work the loop does not sleep, and no slice holds a request up for more than a millisecond.

pub mod alive;
mod connection;
mod listener;
mod liveness;
mod pace;
mod peer;
mod reports;
mod session;
mod shared;
mod snapshots;
mod socket_file;
mod state;

pub use peer::{AccessRules, Credentials, Peer, pidfd_open};
pub use session::{Client, Step};
pub use shared::{Handout, Shared};
pub use snapshots::{Asker, Questions, questions};
pub use socket_file::{LockedPlace, SocketPlace};
pub use state::StartFacts;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use hostkv_shm_protocol::control::header::{HeaderView, State};
use hostkv_shm_protocol::lease::commits::Doorbell;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::wire::reply::Reply;

use crate::ballast;
use crate::config::{self, Config, ConfigError};
use crate::random::random_bytes;
use crate::request::hello::PoolFacts;
use crate::request::{LoopRequest, refused, resumed};
use crate::signal::{Signals, Wish};
use crate::store::{Nanos, NumberMap, Refusal, Resumed, Store};
use crate::telemetry::Telemetry;
use crate::tiers::Tiers;
use crate::workers::Workers;
use crate::{logging, systemd};
use alive::AliveMark;
use connection::Connection;
use listener::{Accepted, HalfOpen, Listener};
use reports::Reports;

/// Between two ticks.
const TICK: Duration = Duration::from_millis(100);
const SECOND_NS: Nanos = 1_000_000_000;
/// Most connections accepted in one turn, so that a flood of them does not hold sessions up.
const ACCEPTS_PER_TURN: usize = 16;
/// Most packets of one client in one turn, so that one does not hold the others up; fewer when they are large.
const FRAMES_PER_TURN: usize = 16;
/// Most ends of jobs in one turn, and of objects in the tiers: about half of a slice of the store's work.
const JOB_ENDS_PER_TURN: usize = 256;
/// How long the tiers may take at the end for what is still to be stored.
const TIERS_WITHIN: Duration = Duration::from_millis(1500);
/// How long one look at orphans may take before the rest waits for another.
const ORPHAN_LOOK_NS: Nanos = 1_000_000;
/// How many times as long as a look took the next one is put off: looking takes a hundredth of the loop's time.
const ORPHAN_REST_FACTOR: Nanos = 100;
/// How long the processors may take for what is queued at the end.
const TELEMETRY_WITHIN: Duration = Duration::from_secs(2);
/// How long the loop sleeps at most while a session with a commit ring is not read, in milliseconds: the time within which a
/// commit through a ring is to be readable.
const UNHEARD_LOOK_MS: u8 = 1;
/// Events taken from the kernel at once.
const EVENTS_PER_TURN: usize = 128;

/// What a descriptor in epoll is. Clients have two tokens each, from twice their number on.
mod token {
    pub const LISTENER: u64 = 0;
    pub const SIGNALS: u64 = 1;
    pub const TICK: u64 = 2;
    pub const QUESTIONS: u64 = 3;
    pub const WORKERS: u64 = 4;
    pub const TIERS: u64 = 5;
    pub const FIRST_CLIENT: u64 = 2;

    pub fn socket(client: u64) -> u64 {
        client * 2
    }

    pub fn pidfd(client: u64) -> u64 {
        client * 2 + 1
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> Nanos {
    // The clock is always there; with a zero the worst would be an age that is off.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * SECOND_NS + time.tv_nsec() as u64
    })
}

/// What the start-up has made for the loop.
pub struct Parts {
    /// The configuration that holds.
    pub config: Config,
    /// The cache.
    pub store: Store,
    /// What sessions are told of the pool.
    pub facts: PoolFacts,
    /// What sessions get.
    pub handout: Handout,
    /// Who may open one.
    pub access: AccessRules,
    /// The mark of the calling thread.
    pub alive: AliveMark,
    /// The blocked signals.
    pub signals: Signals,
    /// Questions of the metrics endpoint, also if there is none.
    pub questions: Questions,
    /// The threads that touch payload bytes.
    pub workers: Workers,
    /// The tiers behind L1, if there are any.
    pub tiers: Option<Tiers>,
    /// The listening socket.
    pub socket: OwnedFd,
    /// Where events go; none while telemetry is off.
    pub telemetry: Option<Telemetry>,
    /// What operators are told of the start.
    pub start: StartFacts,
}

/// Whether anybody may still touch the payload after the loop's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadUse {
    /// Nobody.
    Over,
    /// A thread of a tier that hangs in the kernel.
    GoesOn,
}

/// The loop and all that it owns.
pub struct Server {
    epoll: Epoll,
    listener: Listener,
    signals: Signals,
    timer: TimerFd,
    questions: Questions,
    workers: Workers,
    config: Config,
    start: StartFacts,
    shared: Shared,
    clients: NumberMap<u64, (Client, EpollFlags)>,
    /// Those that have a commit ring and whose socket is not read now, so that the loop does not hear them ring.
    unheard: Vec<u64>,
    last_client: u64,
    half_open: HalfOpen,
    header: HeaderView,
    doorbell: Doorbell,
    alive: AliveMark,
    reports: Reports,
    next_fold: Nanos,
    next_orphan_look: Nanos,
    /// Clients that were orphans when this round began and have not had their turn.
    orphans: Vec<u64>,
    next_pause_warning: Nanos,
}

impl Server {
    /// A loop that is ready to run.
    pub fn new(parts: Parts) -> io::Result<Server> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        timer.set(
            Expiration::Interval(TimeSpec::from_duration(TICK)),
            TimerSetTimeFlags::empty(),
        )?;
        let listener = Listener::new(parts.socket);
        for (descriptor, token) in [
            (listener.as_fd(), token::LISTENER),
            (parts.signals.as_fd(), token::SIGNALS),
            (timer.as_fd(), token::TICK),
            (parts.questions.as_fd(), token::QUESTIONS),
            (parts.workers.as_fd(), token::WORKERS),
        ] {
            epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        if let Some(tiers) = &parts.tiers {
            epoll.add(
                tiers.as_fd(),
                EpollEvent::new(EpollFlags::EPOLLIN, token::TIERS),
            )?;
        }
        let now = monotonic_ns();
        Ok(Server {
            epoll,
            listener,
            signals: parts.signals,
            timer,
            questions: parts.questions,
            workers: parts.workers,
            header: parts.store.header(),
            doorbell: Doorbell::new(parts.store.header()),
            shared: Shared::new(
                parts.store,
                parts.facts,
                parts.config.limits.clone(),
                parts.access,
                parts.handout,
                parts.telemetry,
                parts.tiers,
            ),
            config: parts.config,
            start: parts.start,
            clients: NumberMap::default(),
            unheard: Vec::new(),
            last_client: token::FIRST_CLIENT,
            half_open: HalfOpen::default(),
            alive: parts.alive,
            reports: Reports::new(now),
            next_fold: now,
            next_orphan_look: now,
            orphans: Vec::new(),
            next_pause_warning: now,
        })
    }

    /// Serves until a signal says to stop, and ends what it owns.
    pub fn run(mut self) -> io::Result<PayloadUse> {
        self.shared.store.tick(monotonic_ns());
        // Release: a client that sees the state sees the header it describes.
        self.header
            .state()
            .store(State::Serving as u32, Ordering::Release);
        self.questions.set_serving(true);
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        let spin_ns = self.config.limits.spin.as_nanos() as Nanos;
        let mut spin_until = 0;
        loop {
            let is_busy =
                self.shared.store.has_work() || (spin_ns > 0 && monotonic_ns() < spin_until);
            let timeout = if is_busy || !self.may_sleep() {
                EpollTimeout::ZERO
            } else if self.unheard.is_empty() {
                EpollTimeout::NONE
            } else {
                EpollTimeout::from(UNHEARD_LOOK_MS)
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            self.shared.store.begin_turn();
            if self.shared.store.has_rings() {
                self.doorbell.get_up();
            }
            for event in &events[..count] {
                if let Some(signal) = self.handle(event.data(), event.events())? {
                    log::info!("Stopping on {signal}.");
                    return Ok(self.stop());
                }
            }
            let has_drained = self.shared.store.has_rings() && self.drain_rings();
            if self.shared.store.has_work() {
                self.work();
            }
            for job in self.shared.store.take_jobs() {
                self.workers.submit(job);
            }
            self.shared.hand_tier_work_over();
            self.shared.hand_events_over();
            // Of commits whose client had gone before they ended.
            self.shared.store.write_stored_lines();
            if (count > 0 || has_drained) && spin_ns > 0 {
                spin_until = monotonic_ns() + spin_ns;
            }
        }
    }

    /// Says that the loop is about to sleep; false when a commit ring has work after all.
    fn may_sleep(&self) -> bool {
        if !self.shared.store.has_rings() {
            return true;
        }
        self.doorbell.lie_down();
        !self.shared.store.have_rings_work()
    }

    /// Carries out what lies in the commit rings, and sends the replies that waited for it; whether there was anything.
    fn drain_rings(&mut self) -> bool {
        let has_work = self.shared.store.have_rings_work();
        for done in self.shared.store.drain_rings(monotonic_ns()) {
            self.resume(done);
        }
        has_work
    }

    /// Handles one event; gives the signal's name when it is time to stop.
    fn handle(&mut self, token: u64, flags: EpollFlags) -> io::Result<Option<&'static str>> {
        match token {
            token::LISTENER => self.accept()?,
            token::TICK => self.tick()?,
            token::QUESTIONS => self.answer_questions(),
            token::WORKERS => self.end_jobs(),
            token::TIERS => self.shared.end_tier_work(JOB_ENDS_PER_TURN),
            token::SIGNALS => {
                while let Some(wish) = self.signals.next() {
                    match wish {
                        Wish::Stop(signal) => return Ok(Some(signal)),
                        // The log has all that the answer says.
                        Wish::Reload => drop(self.reload()),
                    }
                }
            }
            _ if token.is_multiple_of(2) => self.serve(token / 2, flags)?,
            _ => {
                let client = token / 2;
                let step = self.call(client, |client, shared| client.died(shared, monotonic_ns()));
                self.settle(client, step)?;
            }
        }
        Ok(None)
    }

    /// Lets a client act, and then writes what the log is to say of it: a reply does not wait for its line.
    fn call(
        &mut self,
        client: u64,
        act: impl FnOnce(&mut Client, &mut Shared) -> Step,
    ) -> Option<Step> {
        let (client, _) = self.clients.get_mut(&client)?;
        let step = act(client, &mut self.shared);
        self.shared.store.write_stored_lines();
        Some(step)
    }

    /// A client's socket has something to say.
    fn serve(&mut self, client: u64, flags: EpollFlags) -> io::Result<()> {
        let mut step = None;
        if flags.contains(EpollFlags::EPOLLOUT) {
            step = self.call(client, |client, shared| client.writable(shared));
        }
        if matches!(step, Some(Step::Orphaned | Step::Ended)) {
            // What else was ready is over with it.
        } else if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            step = self.call(client, |client, shared| {
                client.hung_up(shared, monotonic_ns())
            });
        } else if flags.contains(EpollFlags::EPOLLIN) {
            let mut frames = 0;
            let since_ns = self.shared.store.requests_ns();
            while frames < FRAMES_PER_TURN && !self.shared.store.has_had_its_part(since_ns) {
                step = self.call(client, |client, shared| {
                    if client.may_read() {
                        client.step(shared, monotonic_ns())
                    } else {
                        Step::Idle
                    }
                });
                if let Some(Step::Asks(wanted, asked)) = step {
                    let reply = self.carry_out(wanted);
                    step = self.call(client, |client, shared| {
                        client.answer(shared, asked, &reply)
                    });
                }
                match step {
                    Some(Step::Opened) => self.half_open.remove(client),
                    Some(Step::Handled) => {}
                    _ => break,
                }
                frames += 1;
                let is_alone = self
                    .clients
                    .get_mut(&client)
                    .is_some_and(|(client, _)| client.pace.comes_alone(frames));
                if is_alone {
                    break;
                }
            }
        }
        self.settle(client, step)
    }

    /// Carries out a request that is about all sessions, or the configuration.
    fn carry_out(&mut self, wanted: LoopRequest) -> Reply {
        match wanted {
            LoopRequest::State { cursor } => {
                let clients = &self.clients;
                let client_of = |number| clients.get(&number).map(|(client, _)| client);
                let now = monotonic_ns();
                state::page(
                    &mut self.shared,
                    &self.config,
                    &self.start,
                    client_of,
                    cursor,
                    now,
                )
            }
            LoopRequest::Reload => self.reload().unwrap_or_else(|error| Reply::Error {
                status: Status::InvalidArgument,
                text: format!("nothing is changed, the configuration is refused: {error}"),
            }),
        }
    }

    /// Does what a client's last step asks of the loop.
    fn settle(&mut self, client: u64, step: Option<Step>) -> io::Result<()> {
        match step {
            None => {}
            // Carried out and answered by then; else its client has gone meanwhile.
            Some(Step::Asks(..)) => {}
            Some(Step::Idle | Step::Handled | Step::Opened) => self.watch_socket(client)?,
            // The socket is closed, which takes it out of epoll; the pidfd stays. A HELLO that was accepted and could
            // not be answered ends here too: its client must not be dropped for being late.
            Some(Step::Orphaned) => self.forget_socket(client),
            Some(Step::Ended) => {
                self.forget_socket(client);
                self.clients.remove(&client);
            }
        }
        Ok(())
    }

    /// A client has no socket any more.
    fn forget_socket(&mut self, client: u64) {
        self.half_open.remove(client);
        self.unheard.retain(|other| *other != client);
    }

    /// Tells epoll what the client's socket is waited for.
    fn watch_socket(&mut self, number: u64) -> io::Result<()> {
        let Some((client, watched)) = self.clients.get_mut(&number) else {
            return Ok(());
        };
        let Some(connection) = client.connection() else {
            return Ok(());
        };
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, client.may_read());
        wanted.set(EpollFlags::EPOLLOUT, connection.waiting_count() > 0);
        if wanted != *watched {
            let mut event = EpollEvent::new(wanted, token::socket(number));
            self.epoll.modify(connection, &mut event)?;
            *watched = wanted;
            self.unheard.retain(|other| *other != number);
            if !wanted.contains(EpollFlags::EPOLLIN) && client.has_ring(&self.shared.store) {
                self.unheard.push(number);
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let now = monotonic_ns();
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept(now) {
                Accepted::Nobody => break,
                Accepted::Socket(socket) => self.admit(socket, now),
                Accepted::Paused(error) => {
                    self.listen(false)?;
                    if now >= self.next_pause_warning {
                        self.next_pause_warning = now + 60 * SECOND_NS;
                        log::warn!(
                            "No connection can be accepted ({error}); sessions go on, and new ones wait until descriptors or \
                             memory are free again"
                        );
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn listen(&self, is_wanted: bool) -> io::Result<()> {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, is_wanted);
        let mut event = EpollEvent::new(wanted, token::LISTENER);
        Ok(self.epoll.modify(&self.listener, &mut event)?)
    }

    /// Takes a connection in, or tells it why not.
    fn admit(&mut self, socket: OwnedFd, now: Nanos) {
        let admitted = listener::check_descriptor(socket.as_raw_fd())
            .and_then(|()| peer::identify(&socket))
            .and_then(|peer| Ok((self.shared.access.admit(&peer.credentials)?, peer)))
            .and_then(|admitted| match random_bytes() {
                Ok(nonce) => Ok((admitted, nonce)),
                Err(error) => Err(Refusal {
                    status: Status::System,
                    text: format!("the kernel gives no random bytes: {error}"),
                }),
            });
        let ((applicant, peer), nonce) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                log::debug!("A connection is refused: {}", refusal.text);
                // Nobody may be there to hear it.
                let _ = Connection::new(socket).send(refused(refusal).encode(0).into());
                return;
            }
        };
        self.last_client += 1;
        let number = self.last_client;
        let Ok(client) = Client::new(number, socket, peer, applicant, nonce) else {
            return;
        };
        if let Err(errno) = self.watch(number, &client) {
            log::warn!(
                "A connection is dropped, epoll takes no more: {}",
                errno.desc()
            );
            return;
        }
        let pid = client.pid();
        self.clients.insert(number, (client, EpollFlags::EPOLLIN));
        if let Some(displaced) = self.half_open.add(number, pid, now) {
            self.clients.remove(&displaced);
        }
    }

    fn watch(&self, number: u64, client: &Client) -> nix::Result<()> {
        let add = |descriptor, token| {
            self.epoll
                .add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, token))
        };
        add(client.pidfd(), token::pidfd(number))?;
        match client.connection() {
            Some(connection) => add(connection.as_fd(), token::socket(number)),
            None => Ok(()),
        }
    }

    fn tick(&mut self) -> io::Result<()> {
        // Only how often it expired would be read.
        let _ = self.timer.wait();
        let now = monotonic_ns();
        self.shared.store.tick(now);
        ballast::tick();
        self.reports.tick(now, || self.shared.store.gauges());
        if self.listener.resumes(now) {
            self.listen(true)?;
        }
        while let Some(late) = self.half_open.pop_late(now) {
            self.clients.remove(&late);
        }
        if now >= self.next_orphan_look {
            self.look_after_orphans(now)?;
        }
        if let Some(metrics) = &self.config.metrics
            && now >= self.next_fold
        {
            self.next_fold = now + metrics.log_interval.as_nanos() as Nanos;
            self.shared.store.fold();
        }
        Ok(())
    }

    /// Looks at one orphan after the other, and goes on in a later turn when that takes long.
    fn look_after_orphans(&mut self, now: Nanos) -> io::Result<()> {
        if self.orphans.is_empty() {
            self.orphans = self
                .clients
                .iter()
                .filter(|(_, (client, _))| client.is_orphaned())
                .map(|(number, _)| *number)
                .collect();
        }
        let started = monotonic_ns();
        let mut spent = 0;
        while spent < ORPHAN_LOOK_NS
            && let Some(number) = self.orphans.pop()
        {
            let step = self.call(number, |client, shared| {
                client.look_after_orphan(shared, now)
            });
            self.settle(number, step)?;
            spent = monotonic_ns() - started;
        }
        let pause = if self.orphans.is_empty() {
            SECOND_NS
        } else {
            0
        };
        self.next_orphan_look = now + pause.max(spent * ORPHAN_REST_FACTOR);
        Ok(())
    }

    fn answer_questions(&mut self) {
        let shared = &mut self.shared;
        self.questions.answer(|| snapshots::snapshot(shared));
    }

    /// Brings the store what the workers have done, and the replies of requests that waited for it.
    fn end_jobs(&mut self) {
        for end in self.workers.ends(JOB_ENDS_PER_TURN) {
            if let Some(done) = self.shared.store.job_ended(end, monotonic_ns()) {
                self.resume(done);
            }
        }
    }

    /// The reply of a parked request that is done.
    fn resume(&mut self, done: Resumed) {
        let Some(number) = self.shared.clients.get(&done.session).copied() else {
            return;
        };
        let ticket = done.ticket;
        let reply = resumed(done);
        let step = self.call(number, |client, shared| {
            client.resumed(shared, ticket, &reply)
        });
        if let Err(error) = self.settle(number, step) {
            log::error!("Client {number} can't be watched: {error}");
        }
    }

    /// One slice of the store's work, and the replies of what it finished.
    fn work(&mut self) {
        for done in self.shared.store.slice(monotonic_ns()) {
            self.resume(done);
        }
        for session in self.shared.store.take_offenders() {
            let Some(number) = self.shared.clients.get(&session).copied() else {
                continue;
            };
            let why = "it pins more than its quota".to_owned();
            let step = self.call(number, |client, shared| client.lose(shared, Some(why)));
            if let Err(error) = self.settle(number, step) {
                log::error!("Client {number} can't be watched: {error}");
            }
        }
    }

    /// Reads the configuration again; what changed holds for sessions opened from now on. The log and the reply say what
    /// changed and what could not.
    fn reload(&mut self) -> Result<Reply, ConfigError> {
        systemd::reloading();
        let reply = self.apply_configuration();
        systemd::ready();
        reply
    }

    fn apply_configuration(&mut self) -> Result<Reply, ConfigError> {
        let loaded = config::reload(&self.config);
        let (new, changed, kept) = loaded.inspect_err(|error| {
            log::error!("Reload: nothing is changed, the configuration is refused: {error}");
        })?;
        logging::set_level(new.log_level.as_deref());
        self.shared.access.replace(&new.access);
        self.shared.limits = new.limits.clone();
        self.shared.store.set_limits(
            new.eviction.trigger_watermark,
            new.eviction.ratio,
            new.limits.max_reserved_ratio,
            new.limits.max_keyspaces,
        );
        self.config = new;
        for line in &changed {
            log::info!("Reload: {line}");
        }
        for line in &kept {
            log::warn!("Reload: {line}");
        }
        log::info!("Reload: done.");
        Ok(state::reloaded(changed, kept))
    }

    /// Ends what the loop owns, in the order in which clients may notice.
    fn stop(mut self) -> PayloadUse {
        systemd::stopping();
        self.questions.set_serving(false);
        // Relaxed: the stores below carry the order.
        self.header
            .state()
            .store(State::Draining as u32, Ordering::Relaxed);
        self.shared.store.fold();
        // Release: pairs with the loads of clients that read the state after they saw the word below.
        self.header
            .state()
            .store(State::Closed as u32, Ordering::Release);
        self.alive.clear();
        for (client, _) in self.clients.values() {
            if let Some(connection) = client.connection() {
                connection.shut_down();
            }
        }
        let told = self.shared.store.session_count();
        self.shared.store.close_all(monotonic_ns());
        self.shared.store.write_stored_lines();
        self.shared.hand_events_over();
        if let Some(telemetry) = &mut self.shared.telemetry {
            telemetry.shutdown(TELEMETRY_WITHIN);
        }
        log::info!("{} sessions are told, the counters are folded.", told);
        self.shared.store.store_the_rest();
        self.shared.hand_tier_work_over();
        let tiers = self.shared.tiers.take();
        match tiers.is_none_or(|tiers| tiers.shutdown(TIERS_WITHIN)) {
            true => PayloadUse::Over,
            false => PayloadUse::GoesOn,
        }
    }
}

#[cfg(test)]
mod tests;
