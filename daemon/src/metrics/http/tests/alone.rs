//! Promises about descriptors and threads of the whole process. Each test runs in a process of its
//! own: it starts this test program again for itself alone and looks at how that ended.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, getsockname,
    shutdown, socket,
};

use super::{
    Endpoint, Limits, Mood, Reply, Source, connect, exchange, fetch, prompt, read_reply, serve,
    serve_in,
};

/// Runs `body` in a process where nothing else runs.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os("HOSTKV_TEST_ALONE").is_some_and(|name| name == test) {
        body();
        return;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::{test}"), "--exact", "--nocapture"])
        .arg("--test-threads=1")
        .env("HOSTKV_TEST_ALONE", test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{test} failed in its process");
    assert!(said.contains("1 passed"), "{test} did not run");
}

/// Threads and descriptors of this process.
fn usage() -> (usize, usize) {
    let entries = |folder| std::fs::read_dir(folder).unwrap().count();
    // Each listing has a descriptor itself.
    (entries("/proc/self/task"), entries("/proc/self/fd") - 1)
}

/// The largest usage that a test saw, its own sockets left out.
struct Peak {
    rest: (usize, usize),
    peak: (usize, usize),
}

impl Peak {
    fn at_rest() -> Self {
        // The connection of the last scrape ends a moment after its client has closed.
        std::thread::sleep(Duration::from_millis(100));
        let rest = usage();
        Self { rest, peak: rest }
    }

    fn look(&mut self, own_descriptors: usize) {
        let (threads, descriptors) = usage();
        self.peak.0 = self.peak.0.max(threads);
        self.peak.1 = self.peak.1.max(descriptors - own_descriptors);
    }

    fn check(&self) {
        println!("at rest {:?}, at most {:?}", self.rest, self.peak);
        assert!(self.peak.0 <= self.rest.0 + 2, "threads");
        assert!(self.peak.1 <= self.rest.1 + 32, "descriptors");
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[test]
fn half_sent_requests_delay_no_scrape_and_take_no_threads() {
    alone(
        "half_sent_requests_delay_no_scrape_and_take_no_threads",
        || {
            let endpoint = prompt();
            assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
            let mut peak = Peak::at_rest();
            let mut held = Vec::new();
            let mut times = Vec::new();
            for _ in 0..200 {
                for _ in 0..2 {
                    let mut half = connect(endpoint.local_addr());
                    half.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
                    held.push(half);
                }
                let began = Instant::now();
                assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
                times.push(began.elapsed());
                peak.look(held.len());
            }
            let p99 = p99(times);
            println!("{} half-sent requests, scrape p99 {p99:?}", held.len());
            assert!(p99 <= Duration::from_secs(1), "{p99:?}");
            peak.check();
        },
    );
}

#[test]
fn a_flood_of_connections_stops_scrapes_only_while_they_send_their_head() {
    alone(
        "a_flood_of_connections_stops_scrapes_only_while_they_send_their_head",
        || {
            let endpoint = prompt();
            let address = endpoint.local_addr();
            let end = Instant::now() + Duration::from_secs(2);
            let flood = std::thread::spawn(move || {
                let mut count = 0;
                let mut held = std::collections::VecDeque::new();
                while Instant::now() < end {
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        // Displaced already, perhaps.
                        let _ = stream.write_all(b"GET /");
                        held.push_back(stream);
                        count += 1;
                    }
                    if held.len() > 100 {
                        held.pop_front();
                    }
                }
                count
            });
            let mut times = Vec::new();
            let mut displaced_count = 0;
            while Instant::now() < end {
                let mut stream = connect(endpoint.local_addr());
                // From here on: who finds the kernel's queue full connects again a second later.
                let began = Instant::now();
                let mut answer = Vec::new();
                // As long as its head is not there, a scrape can be displaced like anybody else; from then
                // on it is answered in full.
                let is_sent = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").is_ok();
                if is_sent && stream.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
                    let reply = Reply::parse(answer);
                    assert_eq!(reply.status, 200);
                    let length = reply.body.len().to_string();
                    assert_eq!(reply.header("Content-Length"), Some(&*length));
                    times.push(began.elapsed());
                } else {
                    displaced_count += 1;
                }
            }
            let (answered_count, p99) = (times.len(), p99(times));
            let flooded_count = flood.join().unwrap();
            println!(
                "{flooded_count} connections flooded; {answered_count} scrapes answered, p99 {p99:?}, \
             {displaced_count} displaced"
            );
            assert!(p99 <= Duration::from_secs(1), "{p99:?}");
            assert!(answered_count > displaced_count);
        },
    );
}

#[test]
fn readers_that_never_read_stop_no_scrape_and_are_let_go() {
    alone(
        "readers_that_never_read_stop_no_scrape_and_are_let_go",
        || {
            let limits = Limits {
                write_within: Duration::from_millis(700),
                ..Limits::default()
            };
            let endpoint = serve(&Source::new(&[Mood::Prompt]), limits);
            assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
            let mut peak = Peak::at_rest();
            let mut held = Vec::new();
            for _ in 0..40 {
                let mut stream = connect(endpoint.local_addr());
                stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
                held.push(stream);
                let began = Instant::now();
                assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
                assert!(began.elapsed() < Duration::from_secs(1));
                peak.look(held.len());
            }
            peak.check();
            std::thread::sleep(Duration::from_millis(1500));
            let (_, descriptors) = usage();
            assert!(descriptors - held.len() <= peak.rest.1);
        },
    );
}

fn set_descriptor_limit(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}

/// Opens files until no descriptor is left.
fn take_all_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn a_scrape_works_without_free_descriptors_and_the_rest_within_a_second_of_their_return() {
    alone(
        "a_scrape_works_without_free_descriptors_and_the_rest_within_a_second_of_their_return",
        || {
            set_descriptor_limit(128);
            let endpoint = prompt();
            assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
            for round in 0..3 {
                // Sockets made beforehand: they can connect later without a descriptor.
                let mut sockets: Vec<TcpStream> = (0..4)
                    .map(|_| {
                        socket(
                            AddressFamily::Inet,
                            SockType::Stream,
                            SockFlag::SOCK_CLOEXEC,
                            None,
                        )
                        .unwrap()
                        .into()
                    })
                    .collect();
                // Gives the endpoint the time to take its reserve back.
                std::thread::sleep(Duration::from_millis(100));
                let _ = connect(endpoint.local_addr());
                std::thread::sleep(Duration::from_millis(100));
                let taken = take_all_descriptors();
                assert!(taken.len() > 40);
                let connect_prepared = |stream: TcpStream| {
                    let address = SockaddrStorage::from(endpoint.local_addr());
                    nix::sys::socket::connect(stream.as_raw_fd(), &address).unwrap();
                    stream
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .unwrap();
                    stream
                };
                let mut first = connect_prepared(sockets.pop().unwrap());
                first.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
                let reply = read_reply(first);
                assert_eq!(reply.status, 200, "round {round}");
                assert!(reply.body.contains("\nprocess_open_fds "));

                // One takes the reserve and holds it; the others wait in the kernel.
                let others: Vec<TcpStream> = sockets
                    .into_iter()
                    .map(|stream| {
                        let mut stream = connect_prepared(stream);
                        stream.write_all(b"GET /healthz HTTP/1.1\r\nA: ").unwrap();
                        stream
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(300));
                let cpu_before = cpu_time();
                std::thread::sleep(Duration::from_millis(500));
                let cpu = cpu_time() - cpu_before;
                assert!(cpu < Duration::from_millis(100), "{cpu:?} spent waiting");
                drop(taken);
                let returned = Instant::now();
                for mut stream in others {
                    stream.write_all(b"b\r\n\r\n").unwrap();
                    assert_eq!(read_reply(stream).status, 200);
                }
                assert!(returned.elapsed() < Duration::from_secs(1));
                assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
            }
        },
    );
}

fn cpu_time() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    now.into()
}

#[test]
fn an_inner_hop_whose_sockets_all_fail_is_rebuilt() {
    alone("an_inner_hop_whose_sockets_all_fail_is_rebuilt", || {
        let endpoint = prompt();
        assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
        for round in 0..3 {
            assert!(
                shut_down_unix_sockets(),
                "round {round}: no inner socket found"
            );
            let broken = Instant::now();
            while fetch(&endpoint, "GET", "/metrics").status != 200 {
                assert!(broken.elapsed() < Duration::from_secs(3), "round {round}");
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("round {round}: served again after {:?}", broken.elapsed());
            std::thread::sleep(Duration::from_millis(1100));
        }
        // tiny_http's idle threads of the hops that failed take five seconds to end. Left then: main,
        // this one, acceptor, render, tiny_http's accept and, as it started, four or five that parse.
        let deadline = Instant::now() + Duration::from_secs(8);
        let (threads, _) = wait_for(deadline, |(threads, _)| threads <= 10);
        assert!(threads <= 10, "{threads} threads");
    });
}

/// Everything that a defect or an exhausted kernel can do to the inner hop, at once.
fn shut_down_unix_sockets() -> bool {
    let descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = false;
    for descriptor in descriptors {
        let address = getsockname::<SockaddrStorage>(descriptor);
        if address.is_ok_and(|address| address.family() == Some(AddressFamily::Unix)) {
            found |= shutdown(descriptor, Shutdown::Both).is_ok();
        }
    }
    found
}

fn wait_for(deadline: Instant, is_good: impl Fn((usize, usize)) -> bool) -> (usize, usize) {
    loop {
        let now = usage();
        if is_good(now) || Instant::now() >= deadline {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_stop_leaves_no_thread_no_descriptor_and_no_file_behind() {
    alone(
        "a_stop_leaves_no_thread_no_descriptor_and_no_file_behind",
        || {
            let folder = std::env::temp_dir().join(format!("hostkvd-test-{}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            let before = usage();
            let source = Source::new(&[Mood::Prompt]);
            let endpoint = serve_in(&folder, &source, Limits::default());
            drop(source);
            assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
            let left_behind = std::fs::read_dir(&folder).unwrap().count();
            std::fs::remove_dir(&folder).unwrap();
            assert_eq!(left_behind, 0, "the inner socket has a name");
            let serving = usage();
            println!("before {before:?}, serving {serving:?}");
            let began = Instant::now();
            endpoint.stop();
            assert!(began.elapsed() < Duration::from_secs(1));
            // The four idle threads of tiny_http end after five seconds.
            let after = wait_for(Instant::now() + Duration::from_secs(8), |now| now == before);
            assert_eq!(after, before);
        },
    );
}

#[test]
fn descriptors_that_the_endpoint_makes_are_closed_on_exec() {
    alone(
        "descriptors_that_the_endpoint_makes_are_closed_on_exec",
        || {
            let before: Vec<RawFd> = open_descriptors();
            let endpoint = prompt();
            assert_eq!(exchange(&endpoint, b"GET / HTTP/1.1\r\n\r\n").status, 200);
            let mut held = connect(endpoint.local_addr());
            held.write_all(b"G").unwrap();
            held.set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            assert!(held.read(&mut [0]).is_err());
            for descriptor in open_descriptors() {
                if before.contains(&descriptor) {
                    continue;
                }
                // SAFETY: nothing in this process closes descriptors while the endpoint is at rest.
                let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
                if let Ok(flags) = fcntl(descriptor, FcntlArg::F_GETFD) {
                    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "{descriptor:?}");
                }
            }
            drop::<Endpoint>(endpoint);
        },
    );
}

fn open_descriptors() -> Vec<RawFd> {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
