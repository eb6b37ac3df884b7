//! The promises of the endpoint to its scrapers: pages, refusals, and what a failing daemon shows.
//!
//! What needs a process of its own (limits of descriptors, counts of threads) is in `tests/alone.rs`.

mod alone;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::{BindError, Endpoint, Limits};
use crate::metrics::tests::Random;
use crate::metrics::{Snapshot, SnapshotSource};

/// How the source answers its next questions; the last one stays.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Prompt,
    /// Waits for its deadline and has nothing then.
    Busy,
    /// Does not come back for so long, whatever the deadline.
    Stuck(Duration),
    Panics,
}

/// A loop thread that does as it is told, and remembers who asked.
#[derive(Clone)]
struct Source(Arc<Mutex<SourceState>>);

struct SourceState {
    moods: Vec<Mood>,
    is_serving: bool,
    askers: Vec<ThreadId>,
}

impl Source {
    fn new(moods: &[Mood]) -> Self {
        Self(Arc::new(Mutex::new(SourceState {
            moods: moods.to_vec(),
            is_serving: true,
            askers: Vec::new(),
        })))
    }

    fn set_serving(&self, is_serving: bool) {
        self.0.lock().unwrap().is_serving = is_serving;
    }

    fn askers(&self) -> Vec<ThreadId> {
        self.0.lock().unwrap().askers.clone()
    }
}

impl SnapshotSource for Source {
    fn snapshot(&self, deadline: Instant) -> Option<Snapshot> {
        let mood = {
            let mut state = self.0.lock().unwrap();
            state.askers.push(std::thread::current().id());
            if state.moods.len() > 1 {
                state.moods.remove(0)
            } else {
                state.moods[0]
            }
        };
        match mood {
            Mood::Prompt => {}
            Mood::Busy => {
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                return None;
            }
            Mood::Stuck(time) => std::thread::sleep(time),
            Mood::Panics => panic!("a planned panic"),
        }
        Some(Snapshot {
            l1_capacity_bytes: 4096,
            ..Snapshot::default()
        })
    }

    fn is_serving(&self) -> bool {
        self.0.lock().unwrap().is_serving
    }
}

fn serve(source: &Source, limits: Limits) -> Endpoint {
    serve_in(&std::env::temp_dir(), source, limits)
}

fn serve_in(folder: &Path, source: &Source, limits: Limits) -> Endpoint {
    let bound = Endpoint::bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
    assert_ne!(bound.local_addr().port(), 0);
    bound
        .serve_within(Box::new(source.clone()), folder, limits)
        .unwrap()
}

fn prompt() -> Endpoint {
    serve(&Source::new(&[Mood::Prompt]), Limits::default())
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn parse(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no whole head: {text:?}"));
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

fn read_reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    Reply::parse(bytes)
}

fn exchange(endpoint: &Endpoint, request: &[u8]) -> Reply {
    let mut stream = connect(endpoint.local_addr());
    stream.write_all(request).unwrap();
    read_reply(stream)
}

fn fetch(endpoint: &Endpoint, method: &str, path: &str) -> Reply {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n\r\n");
    exchange(endpoint, request.as_bytes())
}

#[test]
fn a_scrape_is_text_0_0_4_whatever_accept_says() {
    let endpoint = prompt();
    for accept in [
        "*/*",
        "application/openmetrics-text; version=1.0.0",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily",
    ] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let reply = exchange(&endpoint, request.as_bytes());
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("Content-Type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        assert_eq!(reply.header("Connection"), Some("close"));
        let length = reply.body.len().to_string();
        assert_eq!(reply.header("Content-Length"), Some(&*length));
        assert!(reply.body.contains("\nhostkv_l1_capacity_bytes 4096\n"));
        assert!(!reply.body.contains("# EOF"));
    }
    let query = fetch(&endpoint, "GET", "/metrics?name[]=a");
    assert_eq!(query.status, 200);
}

#[test]
fn head_is_get_without_its_body() {
    let endpoint = prompt();
    for path in ["/", "/healthz", "/nothing"] {
        let get = fetch(&endpoint, "GET", path);
        let head = fetch(&endpoint, "HEAD", path);
        let without_date = |reply: &Reply| {
            let lines = reply.head.split("\r\n");
            let kept: Vec<_> = lines.filter(|line| !line.starts_with("Date")).collect();
            kept.join("\n")
        };
        assert_eq!(without_date(&head), without_date(&get));
        assert_eq!(head.body, "");
        assert_ne!(get.body, "");
    }
    let metrics = fetch(&endpoint, "HEAD", "/metrics");
    assert_eq!((metrics.status, &*metrics.body), (200, ""));
    let length: usize = metrics.header("Content-Length").unwrap().parse().unwrap();
    assert!(length > 5000, "{length}");
}

#[test]
fn other_paths_are_404_and_other_methods_405() {
    let endpoint = prompt();
    for path in ["/nothing", "/metrics/", "/Metrics", "//", "/healthz/x"] {
        assert_eq!(fetch(&endpoint, "GET", path).status, 404, "{path}");
    }
    assert_eq!(fetch(&endpoint, "POST", "/nothing").status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        for path in ["/", "/metrics", "/healthz"] {
            let reply = fetch(&endpoint, method, path);
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("Allow"), Some("GET, HEAD"));
        }
    }
}

#[test]
fn a_request_body_is_never_read_and_takes_no_answer_away() {
    let endpoint = prompt();
    let body = "x".repeat(100_000);
    for (method, status) in [("POST", 405), ("GET", 200)] {
        let head = format!("{method} /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
        let reply = exchange(&endpoint, format!("{head}{body}").as_bytes());
        assert_eq!(reply.status, status);
    }
    let smuggled = "GET /nothing HTTP/1.1\r\n\r\n".repeat(3);
    let first = format!("GET /healthz HTTP/1.1\r\n\r\n{smuggled}");
    let reply = exchange(&endpoint, first.as_bytes());
    assert_eq!((reply.status, &*reply.body), (200, "ok\n"));
}

#[test]
fn healthz_is_200_ok_exactly_while_serving() {
    let source = Source::new(&[Mood::Panics]);
    let endpoint = serve(&source, Limits::default());
    let reply = fetch(&endpoint, "GET", "/healthz");
    assert_eq!((reply.status, &*reply.body), (200, "ok\n"));
    source.set_serving(false);
    assert_eq!(fetch(&endpoint, "GET", "/healthz").status, 503);
    source.set_serving(true);
    assert_eq!(fetch(&endpoint, "GET", "/healthz").status, 200);
}

#[test]
fn the_front_page_tells_version_and_usage_and_leads_to_the_metrics() {
    let reply = fetch(&prompt(), "GET", "/");
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains(env!("CARGO_PKG_VERSION")));
    assert!(reply.body.contains("0 B of 4 KiB"), "{}", reply.body);
    assert!(reply.body.contains("href=\"/metrics\""));
    let policy = reply.header("Content-Security-Policy");
    assert!(policy.is_some_and(|policy| policy.starts_with("default-src 'none'")));
}

#[test]
fn a_head_of_64_kib_is_refused() {
    let endpoint = prompt();
    let long = "a".repeat(64 << 10);
    for request in [
        format!("GET /metrics HTTP/1.1\r\nA: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(11 << 10)),
    ] {
        assert_eq!(exchange(&endpoint, request.as_bytes()).status, 431);
    }
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let mut random = Random::from_environment();
    let endpoint = prompt();
    for _ in 0..300 {
        let length = random.below(3000);
        let mut garbage: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        if random.below(2) == 0 {
            garbage.splice(0..0, *b"GET /metrics HTTP/1.1\r\n");
        }
        let mut stream = connect(endpoint.local_addr());
        // The endpoint may close before all is written.
        if stream.write_all(&garbage).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            let mut answer = Vec::new();
            if stream.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
                let status = Reply::parse(answer).status;
                assert!([200, 400, 431, 505].contains(&status), "{status}");
            }
        }
    }
    let tls = exchange(&endpoint, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_eq!(tls.status, 400);
    assert_eq!(exchange(&endpoint, b"PRI * HTTP/2.0\r\n\r\n").status, 505);
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

#[test]
fn a_request_in_pieces_of_one_byte_is_answered() {
    let endpoint = prompt();
    let mut stream = connect(endpoint.local_addr());
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /metrics HTTP/1.0\r\nHost: a\r\nAccept: */*\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(read_reply(stream).status, 200);
}

#[test]
fn a_client_that_closed_its_sending_side_is_answered() {
    let endpoint = prompt();
    let mut stream = connect(endpoint.local_addr());
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_reply(stream).status, 200);
}

#[test]
fn half_a_head_is_told_off_at_its_deadline_however_steadily_it_dribbles() {
    let limits = Limits {
        head_within: Duration::from_millis(300),
        ..Limits::default()
    };
    let endpoint = serve(&Source::new(&[Mood::Prompt]), limits);
    let began = Instant::now();
    let mut stream = connect(endpoint.local_addr());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nA: ").unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        stream.write_all(b"a").unwrap();
    }
    assert_eq!(read_reply(stream).status, 408);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(290), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_loop_that_does_not_answer_gives_503_and_a_sentence() {
    let limits = Limits {
        snapshot_within: Duration::from_millis(200),
        ..Limits::default()
    };
    let endpoint = serve(
        &Source::new(&[Mood::Busy, Mood::Busy, Mood::Prompt]),
        limits,
    );
    let began = Instant::now();
    let reply = fetch(&endpoint, "GET", "/metrics");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("busy"), "{}", reply.body);
    assert_eq!(fetch(&endpoint, "GET", "/").status, 200);
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

#[test]
fn a_panic_of_the_source_costs_one_answer() {
    let endpoint = serve(
        &Source::new(&[Mood::Panics, Mood::Prompt]),
        Limits::default(),
    );
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 500);
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

/// Limits under which a stuck source makes the hop fail within the test.
fn impatient() -> Limits {
    Limits {
        snapshot_within: Duration::from_millis(100),
        inner_within: Duration::from_millis(300),
        rebuild_pause: Duration::from_millis(100),
        ..Limits::default()
    }
}

#[test]
fn a_source_that_never_comes_back_costs_its_scrapes_and_not_the_health_page_for_ever() {
    let stuck = Mood::Stuck(Duration::from_millis(1500));
    let endpoint = serve(&Source::new(&[stuck, Mood::Prompt]), impatient());
    let began = Instant::now();
    let first = fetch(&endpoint, "GET", "/metrics");
    assert_eq!(first.status, 503);
    assert!(first.body.contains("restarted"), "{}", first.body);
    // The hop is new, the source is still with the render thread that was given up.
    let second = fetch(&endpoint, "GET", "/metrics");
    assert_eq!(second.status, 503);
    assert!(second.body.contains("busy"), "{}", second.body);
    assert!(began.elapsed() < Duration::from_millis(1200));
    std::thread::sleep(Duration::from_millis(1700));
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

#[test]
fn the_watchdog_finds_a_stuck_hop_before_any_scraper_does() {
    let source = Source::new(&[Mood::Stuck(Duration::from_millis(600)), Mood::Prompt]);
    let limits = Limits {
        watch_every: Duration::from_millis(200),
        ..impatient()
    };
    let endpoint = serve(&source, limits);
    std::thread::sleep(Duration::from_millis(1500));
    let askers = source.askers();
    assert!(askers.len() >= 3, "{askers:?}");
    assert_ne!(askers[0], *askers.last().unwrap(), "no new render thread");
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
}

#[test]
fn many_scrapes_at_once_are_all_answered() {
    let endpoint = prompt();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
                }
            });
        }
    });
}

#[test]
fn a_taken_port_is_a_sentence_with_the_remedy() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let Err(error) = Endpoint::bind(address.ip(), address.port()) else {
        panic!("two listeners on {address}");
    };
    assert!(matches!(error, BindError::PortTaken(_)));
    let sentence = error.to_string();
    for part in [
        &*address.to_string(),
        "Prometheus",
        "9090",
        "--prometheus-port",
    ] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(!sentence.contains("  "), "{sentence}");
}

#[test]
fn an_address_of_another_host_is_a_sentence_with_the_remedy() {
    // 192.0.2.0/24 is set aside for documentation.
    let Err(error) = Endpoint::bind(Ipv4Addr::new(192, 0, 2, 1).into(), 0) else {
        panic!("bound to another host's address");
    };
    assert!(matches!(error, BindError::NotOurs(_)), "{error}");
    assert!(error.to_string().contains("--prometheus-host"));
}

#[test]
fn a_stopped_endpoint_gives_its_port_back_at_once() {
    let endpoint = prompt();
    let address = endpoint.local_addr();
    assert_eq!(fetch(&endpoint, "GET", "/metrics").status, 200);
    let began = Instant::now();
    endpoint.stop();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(TcpStream::connect(address).is_err());
    let again = Endpoint::bind(address.ip(), address.port()).unwrap();
    assert_eq!(again.local_addr(), address);
}

#[test]
fn a_stop_waits_no_longer_than_its_bound_for_a_stuck_source() {
    let stuck = Mood::Stuck(Duration::from_secs(3));
    let endpoint = serve(&Source::new(&[stuck]), Limits::default());
    let mut stream = connect(endpoint.local_addr());
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    drop(endpoint);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1200), "{took:?}");
}
