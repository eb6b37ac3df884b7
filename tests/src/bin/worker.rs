//! The worker process of the end-to-end tests: one order a line in, one answer a line out.
//!
//! It has one session of the library, or one client that speaks the protocol by hand, and at most one reservation and
//! one lease of each. It does nothing between two orders, so the test kills it exactly where it wants.
//!
//! ```text
//!   test ── "reserve a 3 4096" ──> worker ── "OK OK,OK,EXISTS" ──> test ── SIGKILL
//! ```
//!
//! An answer begins with OK, or with the status of the call and its sentence.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails by panicking, with the place and the error"
)]

use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use hostkv::lease::Lease;
use hostkv::prefetch::Prefetch;
use hostkv::reservation::Reservation;
use hostkv::session::{self, Request, Session, SessionConfig};
use hostkv::{ChunkKey, KeyspaceId, error::Error};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_shm_protocol::wire::hello::hello_flags;
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::{Held, Request as WireRequest};
use hostkv_tests::torture::hostile::rage;
use hostkv_tests::torture::verify::Writer;
use hostkv_tests::{
    Random, RawClient, attack, fill, is_filled, keys, keyspace_config, request, reserve_items,
};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    // Without a socket the library has to find one.
    let socket = arguments.next().map(PathBuf::from);
    let mut worker = Worker {
        socket,
        session: None,
        keyspace: KeyspaceId(0),
        reservation: None,
        reserved: Vec::new(),
        lease: None,
        leased: Vec::new(),
        prefetch: None,
        raw: None,
    };
    let mut out = std::io::stdout();
    for order in std::io::stdin().lock().lines() {
        let words: Vec<String> = order.unwrap().split(' ').map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match worker.obey(&words) {
            Ok(text) => format!("OK {text}"),
            Err(error) => format!("{} {}", error.status, error.message),
        };
        writeln!(out, "{}", answer.trim_end()).unwrap();
        out.flush().unwrap();
    }
}

/// The one client that speaks the protocol by hand.
struct Raw {
    client: RawClient,
    keyspace: KeyspaceId,
    last_op: u64,
    held: Option<Held>,
    granted: Vec<ReservedItem>,
}

struct Worker {
    socket: Option<PathBuf>,
    session: Option<Session>,
    keyspace: KeyspaceId,
    reservation: Option<Reservation>,
    reserved: Vec<ChunkKey>,
    lease: Option<Lease>,
    leased: Vec<ChunkKey>,
    prefetch: Option<Prefetch>,
    raw: Option<Raw>,
}

type Answer = Result<String, Error>;

impl Worker {
    fn obey(&mut self, words: &[&str]) -> Answer {
        match words {
            ["uid", uid] => become_user(uid.parse().unwrap(), &[]),
            ["member", uid, gid] => become_user(uid.parse().unwrap(), &[gid.parse().unwrap()]),
            ["open", wishes @ ..] => self.open(wishes),
            ["keyspace", model] => {
                let config = keyspace_config(model);
                self.keyspace = self.session().open_keyspace(&config)?;
                done()
            }
            ["reserve", family, count, len] => {
                self.reserve(family, number(count), number(len) as u64)
            }
            ["fill"] => self.fill(),
            ["commit"] => self
                .reservation
                .take()
                .unwrap()
                .commit()
                .map(|()| String::new()),
            ["commit-and-reserve", family, count, len] => {
                self.commit_and_reserve(family, number(count), number(len) as u64)
            }
            ["commit-and-acquire"] => {
                let lease = self.reservation.take().unwrap().commit_and_acquire()?;
                self.leased = std::mem::take(&mut self.reserved);
                self.lease = Some(lease);
                done()
            }
            ["abort"] => self
                .reservation
                .take()
                .unwrap()
                .abort()
                .map(|()| String::new()),
            ["lookup", family, count] => {
                let found =
                    self.session()
                        .lookup(self.keyspace, &keys(family, number(count)), None)?;
                Ok(found.to_string())
            }
            ["acquire", family, count] => {
                self.leased = keys(family, number(count));
                let lease =
                    self.session()
                        .acquire(self.keyspace, &self.leased, &Request::default())?;
                let found = lease.prefix_count();
                self.lease = Some(lease);
                Ok(found.to_string())
            }
            ["prefetch", family, count] => {
                let wanted = keys(family, number(count));
                let prefetch =
                    self.session()
                        .prefetch(self.keyspace, &wanted, &Request::default())?;
                self.prefetch = Some(prefetch);
                done()
            }
            ["prefetched"] => {
                let got = self.prefetch.as_ref().unwrap().wait(30_000)?;
                Ok(got.prefix_count.to_string())
            }
            ["end-prefetch"] => self.prefetch.take().unwrap().end().map(|()| String::new()),
            ["verify"] => self.verify(),
            ["check"] => self.lease.as_ref().unwrap().check().map(|()| String::new()),
            ["release"] => self.lease.take().unwrap().release().map(|()| String::new()),
            ["remove", family, count] => {
                self.session()
                    .remove(self.keyspace, &keys(family, number(count)), None)?;
                done()
            }
            ["clear", flags] => Ok(self.session().clear(number(flags) as u32)?.to_string()),
            ["flush"] => self.session().flush().map(|()| String::new()),
            ["audit"] => Ok(self.session().audit()?.verdict),
            ["figures"] => Ok(self.session().figures()?.object_count.to_string()),
            ["close"] => self.session.take().unwrap().close().map(|()| String::new()),
            ["life"] => self.life(),
            ["reads", rounds] => self.reads(number(rounds)),
            ["stores", before, rounds] => self.stores(number(before), number(rounds)),
            ["load-until-death", seed] => {
                // The answer comes first: there is no other.
                println!("OK");
                let mut random = Random(seed.parse().unwrap());
                loop {
                    load_round(self.session(), self.keyspace, &mut random)?;
                }
            }
            ["store-until-death", first_key, count, first_write, seed] => {
                // The answer comes first: there is no other.
                println!("OK");
                let count = number(count) as u32;
                let mut writer = Writer::new(
                    self.session(),
                    number(first_key) as u32,
                    count,
                    number(first_write) as u32,
                    seed.parse().unwrap(),
                );
                loop {
                    writer.round();
                }
            }
            ["load-with-threads", count, seed] => {
                println!("OK");
                let (session, space) = (self.session(), self.keyspace);
                let seed: u64 = seed.parse().unwrap();
                std::thread::scope(|scope| {
                    for number in 0..number(count) as u64 {
                        scope.spawn(move || {
                            let mut random = Random(seed ^ number);
                            loop {
                                load_round(session, space, &mut random).unwrap();
                            }
                        });
                    }
                });
                done()
            }
            ["rage", seed] => {
                println!("OK");
                let socket = self.socket.as_ref().expect("the socket is given");
                rage(socket, seed.parse().unwrap());
            }
            // SAFETY: this process has one thread.
            ["fork"] => Ok(self.end_of_child(unsafe { libc::fork() })),
            // Past every handler of the C library.
            // SAFETY: as above; a flag, no stack and no places, so the child goes on as after a fork.
            ["clone"] => Ok(self.end_of_child(unsafe {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t
            })),
            ["leave-child"] => Ok(leave_child().to_string()),
            ["exec"] => {
                // The answer comes first: what follows is read by another start of this program.
                println!("OK");
                exec()
            }
            ["fork-during-opens", count] => Ok(self.fork_during_opens(number(count))),
            ["maps"] => Ok(hostkv_maps()),
            ["descriptors"] => Ok(hostkv_descriptors()),
            ["attack", wishes @ ..] => Ok(self.attack(wishes)),
            ["raw", what @ ..] => self.raw(what),
            _ => panic!("there is no order {words:?}"),
        }
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("a session is open")
    }

    fn open(&mut self, wishes: &[&str]) -> Answer {
        let flags = match wishes {
            ["read-only", ..] => session::READ_ONLY,
            ["async", ..] => session::ASYNC_COMMIT,
            _ => 0,
        };
        let session = Session::open(&SessionConfig {
            flags,
            socket_path: self.socket.clone(),
            client_name: "worker".to_owned(),
            ..SessionConfig::default()
        })?;
        self.keyspace = session.open_keyspace(&keyspace_config("test-model"))?;
        self.session = Some(session);
        done()
    }

    fn reserve(&mut self, family: &str, count: usize, len_bytes: u64) -> Answer {
        self.reserved = keys(family, count);
        let items = reserve_items(&self.reserved, len_bytes);
        let reservation = self
            .session()
            .reserve(self.keyspace, &items, &Request::default())?;
        self.keep(reservation)
    }

    fn commit_and_reserve(&mut self, family: &str, count: usize, len_bytes: u64) -> Answer {
        self.reserved = keys(family, count);
        let items = reserve_items(&self.reserved, len_bytes);
        let reservation = self.reservation.take().unwrap();
        let next = reservation.commit_and_reserve(self.keyspace, &items, &Request::default())?;
        self.keep(next)
    }

    fn keep(&mut self, reservation: Reservation) -> Answer {
        let statuses: Vec<String> = hostkv_tests::statuses_of(&reservation)
            .iter()
            .map(|status| status.name().to_owned())
            .collect();
        self.reservation = Some(reservation);
        Ok(statuses.join(","))
    }

    fn fill(&mut self) -> Answer {
        let reservation = self.reservation.as_ref().unwrap();
        for (index, key) in self.reserved.iter().enumerate() {
            if let Ok(span) = reservation.span(index) {
                // SAFETY: a granted span is this process's alone until the commit.
                unsafe { fill(key, span.data, span.len_bytes) };
            }
        }
        done()
    }

    /// All that a client does, once; ends at the first call that fails.
    fn life(&mut self) -> Answer {
        let outcome = self.live();
        // What is left of a life that failed goes in this order.
        self.lease = None;
        self.reservation = None;
        self.session = None;
        outcome
    }

    fn live(&mut self) -> Answer {
        self.open(&[])?;
        self.reserve("life", 4, 8000)?;
        self.fill()?;
        self.reservation.take().unwrap().commit()?;
        self.leased = keys("life", 4);
        let wanted = Request::default();
        self.lease = Some(
            self.session()
                .acquire(self.keyspace, &self.leased, &wanted)?,
        );
        assert_eq!(self.verify()?, "4", "wrong bytes");
        self.lease.take().unwrap().release()?;
        self.session().remove(self.keyspace, &self.leased, None)?;
        self.session.take().unwrap().close()?;
        done()
    }

    /// How many spans of the lease have the bytes of their keys.
    fn verify(&self) -> Answer {
        let lease = self.lease.as_ref().unwrap();
        let mut right = 0;
        for (index, key) in self.leased.iter().enumerate() {
            if let Ok(span) = lease.span(index) {
                // SAFETY: the lease keeps the bytes, and committed bytes do not change.
                right += usize::from(unsafe { is_filled(key, span.data, span.len_bytes) });
            }
        }
        Ok(right.to_string())
    }

    /// The read path between two markers that a tracer sees; what it does is counted and proven.
    /// Reserves and commits one object after the other, unwritten; the last `rounds` of them between two markers.
    fn stores(&self, before: usize, rounds: usize) -> Answer {
        let session = self.session();
        for (round, key) in keys("stores", before + rounds).iter().enumerate() {
            if round == before {
                mark();
            }
            let items = reserve_items(std::slice::from_ref(key), 4096);
            let reservation = session.reserve(self.keyspace, &items, &Request::default())?;
            reservation.commit()?;
        }
        mark();
        session.flush()?;
        done()
    }

    fn reads(&self, rounds: usize) -> Answer {
        let session = self.session();
        let (present, missing) = (keys("trace", 16), keys("missing", 4));
        let mixed = [&present[..], &missing[..]].concat();
        let named = Request {
            request_id: Some("traced"),
            device: Some("cpu"),
            ..Request::default()
        };
        let (mut found, mut first_bytes) = (0_u64, 0_u64);
        // Once before the marker: the allocator gets its memory, the vDSO its pages.
        for round in 0..rounds + 64 {
            if round == 64 {
                mark();
                (found, first_bytes) = (0, 0);
            }
            found += session.lookup(self.keyspace, &mixed, None)? as u64;
            let lease = session.acquire(self.keyspace, &mixed, &named)?;
            for index in 0..lease.prefix_count() {
                let span = lease.span(index)?;
                // SAFETY: the lease keeps the bytes, and committed bytes do not change.
                first_bytes += u64::from(unsafe { span.data.read_volatile() });
            }
            lease.check()?;
            lease.release()?;
        }
        mark();
        Ok(format!("{found} {first_bytes}"))
    }

    /// In a child: tries every call and says by the exit code which one was not right. In the parent: that code.
    fn end_of_child(&mut self, child: libc::pid_t) -> String {
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            let code = self.behave_as_a_child();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(ended, child);
        match libc::WIFEXITED(status) {
            true => libc::WEXITSTATUS(status).to_string(),
            false => format!("signal {}", libc::WTERMSIG(status)),
        }
    }

    /// Forks again and again while another thread opens and closes sessions; gives how many children could access a
    /// segment, and how many sessions were opened meanwhile.
    fn fork_during_opens(&self, count: usize) -> String {
        let (socket, has_ended) = (self.socket.clone(), AtomicBool::new(false));
        let (mut accessible, mut opened) = (0, 0);
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let mut opened = 0;
                // Relaxed: only the end of a loop.
                while !has_ended.load(Ordering::Relaxed) {
                    let config = SessionConfig {
                        socket_path: socket.clone(),
                        ..SessionConfig::default()
                    };
                    Session::open(&config).unwrap().close().unwrap();
                    opened += 1;
                }
                opened
            });
            for _ in 0..count {
                // SAFETY: the child reads a file and ends; the allocator of the C library is whole in it.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let maps = hostkv_maps();
                    let mut shown = maps.split(';').filter(|line| !line.is_empty());
                    // A map caught before it was taken out of forks has no rights at all.
                    let code = i32::from(shown.any(|line| !line.contains(" ---s ")));
                    // SAFETY: ends the child without running anything of the parent's.
                    unsafe { libc::_exit(code) };
                }
                let mut status = 0;
                // SAFETY: `status` is a place for the result.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                accessible += i32::from(!libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0);
            }
            // Relaxed: as above.
            has_ended.store(true, Ordering::Relaxed);
            opened = opener.join().unwrap();
        });
        format!("{accessible} {opened}")
    }

    /// What an attack with all that HELLO gives to a session without trust can do and must not.
    fn attack(&self, wishes: &[&str]) -> String {
        // After a change of user, so that only the kernel's rules for the segments keep it from opening them anew.
        nix::sys::prctl::set_dumpable(true).unwrap();
        let mut client = RawClient::connect(self.socket.as_ref().unwrap()).unwrap();
        let flags = match wishes.contains(&"read-only") {
            true => hello_flags::READ_ONLY,
            false => 0,
        };
        client.open_with(flags).unwrap();
        attack::breaks(&client, false).join(",")
    }

    /// 0 when every call says FORKED and every end says OK; else the number of the first that does not.
    fn behave_as_a_child(&mut self) -> i32 {
        use hostkv::Status::Forked;
        let session = self.session.take().unwrap();
        let asked = keys("forked", 2);
        let items = reserve_items(&asked, 100);
        let plain = Request::default();
        let config = keyspace_config("test-model");
        let calls: [&dyn Fn() -> Option<Error>; 12] = [
            &|| session.lookup(self.keyspace, &asked, None).err(),
            &|| session.acquire(self.keyspace, &asked, &plain).err(),
            &|| session.reserve(self.keyspace, &items, &plain).err(),
            &|| session.remove(self.keyspace, &asked, None).err(),
            &|| session.clear(0).err(),
            &|| session.figures().err(),
            &|| session.info().err(),
            &|| session.ping().err(),
            &|| session.open_keyspace(&config).err(),
            &|| session.mapping(session::Mapping::Read).err(),
            &|| self.lease.as_ref().unwrap().span(0).err(),
            &|| self.reservation.as_ref().unwrap().span(0).err(),
        ];
        for (index, call) in calls.iter().enumerate() {
            if call().map(|error| error.status) != Some(Forked) {
                return index as i32 + 1;
            }
        }
        if self
            .lease
            .as_ref()
            .unwrap()
            .check()
            .err()
            .map(|error| error.status)
            != Some(Forked)
        {
            return 20;
        }
        if !hostkv_maps().is_empty() {
            return 21;
        }
        // These only end handles, and nothing of the parent's.
        let ends = [
            self.lease.take().unwrap().release().is_ok(),
            self.reservation.take().unwrap().abort().is_ok(),
            session.close().is_ok(),
        ];
        match ends {
            [true, true, true] => 0,
            _ => 22,
        }
    }

    fn raw(&mut self, what: &[&str]) -> Answer {
        if what == ["connect"] {
            self.raw = Some(Raw {
                client: RawClient::connect(self.socket.as_ref().unwrap()).unwrap(),
                keyspace: KeyspaceId(0),
                last_op: 0,
                held: None,
                granted: Vec::new(),
            });
            return done();
        }
        let raw = self.raw.as_mut().expect("a client is connected");
        match what {
            ["hello-unread"] => {
                let nonce = raw.client.challenge().unwrap();
                raw.client.send_hello(&RawClient::hello(nonce));
            }
            ["hello"] => {
                raw.client.open().unwrap();
                raw.keyspace = raw.client.keyspace();
            }
            ["reserve-unread", family, count, len] => {
                raw.last_op += 1;
                let asked = keys(family, number(count));
                let reserve =
                    RawClient::reserve(raw.last_op, raw.keyspace, &asked, number(len) as u32);
                raw.client.send(&reserve);
            }
            ["reserve", family, count, len] => {
                raw.last_op += 1;
                let asked = keys(family, number(count));
                let reserve =
                    RawClient::reserve(raw.last_op, raw.keyspace, &asked, number(len) as u32);
                let reply = raw.client.ask(&reserve);
                let (held, granted) = RawClient::held(raw.last_op, &reply);
                for (key, item) in asked.iter().zip(&granted) {
                    raw.client.fill(key, item, number(len) as u64);
                }
                raw.held = Some(held);
                raw.granted = granted;
            }
            ["commit-unread"] => {
                let held = raw.held.take().unwrap();
                raw.client.send(&WireRequest::Commit(held));
            }
            ["commit-and-reserve-unread", family, count, len] => {
                let held = raw.held.take().unwrap();
                raw.last_op += 1;
                let asked = keys(family, number(count));
                let reserve =
                    RawClient::reserve(raw.last_op, raw.keyspace, &asked, number(len) as u32);
                let WireRequest::Reserve(reserve) = reserve else {
                    panic!("{reserve:?} is no reserve");
                };
                raw.client.send(&WireRequest::CommitReserve(held, reserve));
            }
            ["commit-behind-unread-replies"] => {
                let held = raw.held.take().unwrap();
                raw.client.send(&WireRequest::Ping);
                raw.client.send(&WireRequest::Stats);
                raw.client.send(&WireRequest::Commit(held));
            }
            ["abort-unread"] => {
                let held = raw.held.take().unwrap();
                raw.client.send(&WireRequest::Abort(held));
            }
            ["scribble"] => {
                // The answer comes first: there is no other.
                println!("OK");
                raw.client.scribble(&raw.granted, 8000);
            }
            ["pin-every-entry"] => raw.client.pin_every_entry(),
            ["close-socket"] => raw.client.close_socket(),
            _ => panic!("there is no order raw {what:?}"),
        }
        done()
    }
}

/// Makes a child that does nothing, outlives this process and ends by itself in a minute.
fn leave_child() -> libc::pid_t {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: two calls that take no memory.
        unsafe {
            libc::alarm(60);
            libc::pause();
            libc::_exit(0)
        };
    }
    child
}

fn done() -> Answer {
    Ok(String::new())
}

fn number(word: &str) -> usize {
    word.parse().unwrap()
}

/// A system call that does nothing and that nothing else here makes.
fn mark() {
    // SAFETY: the descriptor is none, so the kernel reads nothing.
    unsafe { libc::write(-1, c"marker".as_ptr().cast(), 6) };
}

/// Becomes a user of the group of the same number, with these supplementary groups.
fn become_user(uid: u32, groups: &[u32]) -> Answer {
    // SAFETY: a pointer to as many numbers as it says, and numbers; this process has one thread.
    let outcome = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr())
            | libc::setresgid(uid, uid, uid)
            | libc::setresuid(uid, uid, uid)
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    // The kernel forgets it when the user changes.
    hostkv_tests::end_with_parent().unwrap();
    done()
}

/// Becomes another start of this program, which has the process id of this one and nothing of its session.
fn exec() -> ! {
    let error = std::process::Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .exec();
    panic!("exec fails: {error}");
}

/// Sockets and memfds that this process has open, `;` between them.
fn hostkv_descriptors() -> String {
    let shown: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| {
            link.contains("socket:") || link.contains("memfd:") || link.contains("pidfd")
        })
        .collect();
    shown.join(";")
}

/// Mapped files of hostkv in this process, `;` between them.
fn hostkv_maps() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shown: Vec<&str> = maps
        .lines()
        .filter(|line| line.contains("memfd:") || line.contains("/dev/shm/"))
        .collect();
    shown.join(";")
}

/// One random call, with whatever its outcome.
fn load_round(session: &Session, space: KeyspaceId, random: &mut Random) -> Result<(), Error> {
    let family = format!("load{}", random.below(8));
    let wanted = &keys(&family, 24)[..1 + random.below(24) as usize];
    match random.below(8) {
        0..4 => {
            let lease = session.acquire(space, wanted, &request(random.below(2) as u32))?;
            for (index, key) in wanted.iter().enumerate() {
                if let Ok(span) = lease.span(index) {
                    // SAFETY: the lease keeps the bytes, and committed bytes do not change.
                    let is_right = unsafe { is_filled(key, span.data, span.len_bytes.min(64)) };
                    assert!(is_right, "a reader sees bytes that nobody committed");
                }
            }
            lease.release()
        }
        4..7 => {
            let len_bytes = 1 + random.below(6000);
            let items = reserve_items(wanted, len_bytes);
            let reservation = session.reserve(space, &items, &Request::default())?;
            for (index, key) in wanted.iter().enumerate() {
                if let Ok(span) = reservation.span(index) {
                    // SAFETY: a granted span is this process's alone until the commit.
                    unsafe { fill(key, span.data, span.len_bytes.min(64)) };
                }
            }
            match random.below(4) {
                0 => reservation.abort(),
                1 => reservation.commit_and_acquire()?.release(),
                _ => reservation.commit(),
            }
        }
        _ => session.remove(space, wanted, None),
    }
}
