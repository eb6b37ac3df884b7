//! The metrics endpoint under abuse: other scrapes are answered, little is used, and all is well soon after.
//!
//! Each test prints a row: how long scrapes took beside the abuse, and what the daemon had open at most.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::EndOnDrop;
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_tests::{Daemon, Scrape, keys, keyspace, store};

/// Connections that an abuser keeps open.
const CONNECTIONS: usize = 1000;
/// Scrapes beside an abuse.
const SCRAPES: usize = 200;
/// What other scrapes may take at most, on the slowest machine.
const SCRAPE_WITHIN: Duration = Duration::from_secs(1);
/// How soon all has to be well, on the slowest machine.
const RECOVERED_WITHIN: Duration = Duration::from_secs(3);
/// What an abuse may take more than at rest.
const MORE: Usage = Usage {
    descriptors: 32,
    threads: 2,
};

/// What a daemon has of its system.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    descriptors: usize,
    threads: usize,
}

impl Usage {
    fn of(daemon: &Daemon) -> Usage {
        let count = |what: &str| {
            let folder = format!("/proc/{}/{what}", daemon.pid());
            std::fs::read_dir(folder).unwrap().count()
        };
        Usage {
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    fn most(self, other: Usage) -> Usage {
        Usage {
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }

    fn is_within(self, rest: Usage, more: Usage) -> bool {
        self.descriptors <= rest.descriptors + more.descriptors
            && self.threads <= rest.threads + more.threads
    }
}

/// One connection of an abuser, at the point from which it does nothing more.
type Abuse = fn(SocketAddr) -> std::io::Result<TcpStream>;

fn half_sent(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a")?;
    Ok(stream)
}

fn never_reading(address: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{setsockopt, sockopt};
    let mut stream = TcpStream::connect(address)?;
    setsockopt(&stream, sockopt::RcvBuf, &1)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
    Ok(stream)
}

fn head_of_64_kib(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!("GET /metrics HTTP/1.1\r\nX: {}", "a".repeat(64 << 10));
    // It is cut off long before the end of it.
    let _refused = stream.write_all(head.as_bytes());
    Ok(stream)
}

/// Keeps [`CONNECTIONS`] connections open and makes new ones in place of the oldest, until told to end; gives how many it made.
fn abuse(address: SocketAddr, how: Abuse, is_full: &AtomicBool, has_ended: &AtomicBool) -> usize {
    let mut open = VecDeque::new();
    let mut made = 0;
    // Relaxed, all: only marks of progress.
    while !has_ended.load(Ordering::Relaxed) {
        // What the endpoint has displaced meanwhile may fail at any step.
        open.extend(how(address));
        made += 1;
        if made >= CONNECTIONS {
            is_full.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
        if open.len() > CONNECTIONS {
            open.pop_front();
        }
    }
    made
}

/// Scrapes and looks at the daemon; panics when one is not answered in time.
fn scrape_beside(daemon: &Daemon, what: &str, rest: Usage) {
    let mut most = rest;
    let mut times: Vec<Duration> = (0..SCRAPES)
        .map(|_| {
            let begin = Instant::now();
            let scrape = daemon.scrape();
            let took = begin.elapsed();
            assert!(scrape.find("hostkv_sessions").is_some());
            most = most.most(Usage::of(daemon));
            std::thread::sleep(Duration::from_millis(2));
            took
        })
        .collect();
    times.sort();
    let [median, p99] = [SCRAPES / 2, SCRAPES * 99 / 100].map(|at| times[at]);
    eprintln!(
        "| {what} | scrapes: median {median:.1?}, p99 {p99:.1?}, worst {:.1?} | descriptors {} at rest, {} at most | \
         threads {} at rest, {} at most |",
        times[SCRAPES - 1],
        rest.descriptors,
        most.descriptors,
        rest.threads,
        most.threads
    );
    assert!(p99 <= SCRAPE_WITHIN, "{what}: {p99:?}");
    assert!(most.is_within(rest, MORE), "{what}: {rest:?} {most:?}");
}

/// Panics unless the daemon is soon as it was at rest, and answers.
fn assert_recovers(daemon: &Daemon, what: &str, rest: Usage) {
    let begin = Instant::now();
    let nothing = Usage {
        descriptors: 0,
        threads: 0,
    };
    loop {
        daemon.scrape();
        let now = Usage::of(daemon);
        if now.is_within(rest, nothing) {
            break;
        }
        assert!(
            begin.elapsed() < RECOVERED_WITHIN,
            "{what}: {rest:?} {now:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!(
        "| {what} | recovered {:.1?} after its end |",
        begin.elapsed()
    );
    let health = Scrape::get(daemon.metrics_address(), "/healthz").unwrap();
    assert!(health.head.starts_with("HTTP/1.1 200"), "{}", health.head);
}

/// A daemon that has answered, and what it has open then.
fn at_rest() -> (Daemon, Usage) {
    let daemon = Daemon::start(&[]);
    daemon.scrape();
    let mut rest = Usage::of(&daemon);
    // The connection of the scrape goes a moment after its answer.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        let now = Usage::of(&daemon);
        rest.descriptors = rest.descriptors.min(now.descriptors);
        rest.threads = rest.threads.min(now.threads);
    }
    (daemon, rest)
}

fn endures(what: &str, how: Abuse) {
    let (daemon, rest) = at_rest();
    let (is_full, has_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let address = daemon.metrics_address();
    let made = std::thread::scope(|scope| {
        // Also when a check here fails, or the scope would wait for ever.
        let end = EndOnDrop(&has_ended);
        let abuser = scope.spawn(|| abuse(address, how, &is_full, &has_ended));
        // Relaxed: as above.
        while !is_full.load(Ordering::Relaxed) && !abuser.is_finished() {
            assert!(Usage::of(&daemon).is_within(rest, MORE));
            std::thread::sleep(Duration::from_millis(1));
        }
        scrape_beside(&daemon, what, rest);
        drop(end);
        abuser.join().unwrap()
    });
    assert!(made >= CONNECTIONS, "{made}");
    assert_recovers(&daemon, what, rest);
    daemon.finish();
}

#[test]
fn a_thousand_half_sent_requests_delay_no_other_scrape() {
    raise_own_limit();
    endures("1000 half-sent requests", half_sent);
}

#[test]
fn a_thousand_readers_that_never_read_delay_no_other_scrape() {
    raise_own_limit();
    endures("1000 readers that never read", never_reading);
}

#[test]
fn a_thousand_heads_of_64_kib_delay_no_other_scrape() {
    raise_own_limit();
    endures("1000 heads of 64 KiB", head_of_64_kib);
}

/// Lets this process have the sockets of an abuser.
fn raise_own_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // All tests of this program share it.
    let wanted = hard.min(8192);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

/// The daemon's descriptors, in order.
fn open_numbers(daemon: &Daemon) -> Vec<u64> {
    let folder = format!("/proc/{}/fd", daemon.pid());
    let number = |file: std::io::Result<std::fs::DirEntry>| {
        file.unwrap().file_name().to_str().unwrap().parse().unwrap()
    };
    let mut numbers: Vec<u64> = std::fs::read_dir(folder).unwrap().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Sets how many descriptors the daemon may have; gives how many it might have before.
fn limit_descriptors(daemon: &Daemon, count: u64) -> u64 {
    let pid = daemon.pid() as i32;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: no limit to read and a place for the present one; the daemon is this process's child.
    let outcome = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut limit) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    let before = std::mem::replace(&mut limit.rlim_cur, count);
    // SAFETY: a limit to read and no place for the one before.
    let outcome = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    before
}

#[test]
fn without_a_free_descriptor_scrapes_and_sessions_go_on_and_new_ones_come_after_it() {
    let (daemon, _) = at_rest();
    let session = daemon.session();
    let space = keyspace(&session);
    store(&session, space, &keys("k", 3), 100);
    // A few sessions fill the gaps that the start has left; then a limit at the first free number behind the last one's
    // leaves none free. Before it may be a number that no list shows: the kernel gives one to a thread that waits in
    // accept, and a limit there would put descriptors of the endpoint itself out of use.
    let sessions = [(); 8].map(|()| daemon.session());
    let taken = open_numbers(&daemon);
    let last = daemon.session();
    daemon.scrape();
    let mut of_last = open_numbers(&daemon);
    of_last.retain(|number| !taken.contains(number));
    let free = (of_last[0]..)
        .find(|number| !open_numbers(&daemon).contains(number))
        .unwrap();
    let rest = Usage::of(&daemon);
    let before = limit_descriptors(&daemon, free);
    scrape_beside(&daemon, "EMFILE", rest);
    // Those who are there write and read on.
    store(&session, space, &keys("beside", 3), 100);
    assert_eq!(session.lookup(space, &keys("beside", 3), None).unwrap(), 3);
    // A new one is not served now, and its wait costs the others nothing.
    let mut config = daemon.config(0);
    config.timeout_ms = 300;
    let refused = hostkv::session::Session::open(&config).err();
    assert!(
        refused.is_some(),
        "a session was opened without a descriptor"
    );
    limit_descriptors(&daemon, before);
    let begin = Instant::now();
    while hostkv::session::Session::open(&config).is_err() {
        assert!(
            begin.elapsed() < RECOVERED_WITHIN,
            "no session can be opened again"
        );
    }
    eprintln!(
        "| EMFILE | a session is opened {:.1?} after its end |",
        begin.elapsed()
    );
    assert_recovers(&daemon, "EMFILE", rest);
    drop((session, sessions, last));
    daemon.finish();
}

#[test]
fn head_is_get_without_a_body_and_other_methods_and_paths_are_told_so() {
    let (daemon, _) = at_rest();
    let ask = |line: &str| {
        let mut stream = TcpStream::connect(daemon.metrics_address()).unwrap();
        stream
            .write_all(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/metrics", "/healthz", "/"] {
        let answer = ask(&format!("HEAD {path}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            body.is_empty() && head.contains("Content-Length: "),
            "{path}: {answer}"
        );
    }
    assert!(ask("POST /metrics").starts_with("HTTP/1.1 405 "));
    assert!(ask("DELETE /").starts_with("HTTP/1.1 405 "));
    assert!(ask("GET /metrics/x").starts_with("HTTP/1.1 404 "));
    daemon.finish();
}
