//! Telemetry: START and END of lookup, store and retrieve, in the literal forms, in whole pairs, whatever dies or is full.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hostkv::session::{Request, Session, SessionConfig};
use hostkv_tests::{
    Daemon, DaemonSpec, Random, Worker, keys, keyspace, request, reserve_items, seed, store,
    wait_until,
};
use nix::sys::signal::Signal;

/// An event as a line of the `jsonl` processor, taken apart; all but the number of its time is literal.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    event_type: String,
    session_id: String,
    timestamp_s: f64,
    metadata: String,
}

impl Event {
    fn parse(line: &str) -> Event {
        let parts = || {
            let rest = line.strip_prefix("{\"name\":\"")?;
            let (name, rest) = rest.split_once("\",\"event_type\":\"")?;
            let (event_type, rest) = rest.split_once("\",\"session_id\":\"")?;
            let (session_id, rest) = rest.split_once("\",\"timestamp\":")?;
            let (timestamp, rest) = rest.split_once(",\"metadata\":")?;
            Some(Event {
                name: name.to_owned(),
                event_type: event_type.to_owned(),
                session_id: session_id.to_owned(),
                timestamp_s: timestamp.parse().ok()?,
                metadata: rest.strip_suffix('}')?.to_owned(),
            })
        };
        parts().unwrap_or_else(|| panic!("no event in the documented form: {line:?}"))
    }

    /// All but the time.
    fn shown(&self) -> [&str; 4] {
        [
            &self.name,
            &self.event_type,
            &self.session_id,
            &self.metadata,
        ]
    }
}

/// A daemon with telemetry that goes to a file of its own.
struct Observed {
    daemon: Daemon,
    file: PathBuf,
}

impl Observed {
    fn start(more: &[&str], level: &str) -> Observed {
        let place = DaemonSpec::default();
        let file = place.folder().join("events.jsonl");
        let jsonl = jsonl(&file);
        let mut flags = vec!["--enable-telemetry", "--telemetry-processor", &jsonl];
        flags.extend(more);
        let spec = DaemonSpec::new(&flags).beside(&place);
        let daemon = spec.variable("LMCACHE_LOG_LEVEL", level).start();
        Observed { daemon, file }
    }

    fn events(&self) -> Vec<Event> {
        events_of(&self.file)
    }

    /// Waits until the file has this many events and gives those from number `from` on.
    fn wait(&self, from: usize, count: usize) -> Vec<Event> {
        wait_until(&format!("{count} events"), || self.events().len() >= count);
        let events = self.events();
        assert_eq!(events.len(), count, "{events:?}");
        events[from..].to_vec()
    }
}

fn jsonl(path: &Path) -> String {
    format!(r#"{{"type": "jsonl", "path": "{}"}}"#, path.display())
}

/// The events of a file, but for a last line that is still being written.
fn events_of(file: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(file).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(Event::parse).collect()
}

/// Panics unless each START of a name and session is followed by its END before the next; gives the pairs' number.
fn assert_paired<'a>(events: impl IntoIterator<Item = &'a Event>) -> usize {
    let mut open: std::collections::HashMap<(&str, &str), &Event> = Default::default();
    let mut pairs = 0;
    for event in events {
        let key = (event.name.as_str(), event.session_id.as_str());
        match event.event_type.as_str() {
            "START" => {
                let before = open.insert(key, event);
                assert_eq!(before, None, "two STARTs without an END: {event:?}");
            }
            "END" => {
                let start = open.remove(&key);
                let start = start.unwrap_or_else(|| panic!("an END without a START: {event:?}"));
                assert!(
                    start.timestamp_s <= event.timestamp_s,
                    "{start:?} {event:?}"
                );
                pairs += 1;
            }
            other => panic!("{other:?} is no type of an event"),
        }
    }
    assert!(open.is_empty(), "STARTs without an END: {open:?}");
    pairs
}

fn named<'a>(request_id: &'a str, device: &'a str) -> Request<'a> {
    Request {
        request_id: Some(request_id),
        device: Some(device),
        ..Request::default()
    }
}

/// A session and the number that its opening line gives it.
fn numbered(daemon: &Daemon, name: &str) -> (Session, String) {
    let session = Session::open(&SessionConfig {
        client_name: name.to_owned(),
        ..daemon.config(0)
    })
    .unwrap();
    let number = number_of(daemon, &format!("name \"{name}\""));
    (session, number)
}

/// `session-<n>` of the session whose opening line has this part.
fn number_of(daemon: &Daemon, part: &str) -> String {
    let line = daemon.wait_for_line(part);
    let (_, rest) = line.split_once("Session ").unwrap();
    format!("session-{}", rest.split(' ').next().unwrap())
}

fn monotonic_s() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_secs_f64()
}

/// What is expected of one event: name, type, session id, metadata as JSON, metadata as Python prints it.
type Expected<'a> = [&'a str; 5];

#[test]
fn each_operation_is_a_pair_in_the_literal_form_of_both_processors() {
    let more = ["--telemetry-processor", r#"{"type": "logging"}"#];
    let observed = Observed::start(&more, "DEBUG");
    let daemon = &observed.daemon;
    let (session, number) = numbered(daemon, "alpha");
    let space = keyspace(&session);
    let asked = keys("k", 5);
    let begin = monotonic_s();

    let reserve = |count: usize, request: &Request<'_>| {
        let items = reserve_items(&asked[..count], 100);
        session.reserve(space, &items, request).unwrap()
    };
    let mut at = 0;
    let mut expect = |expected: &[Expected<'_>]| {
        let events = observed.wait(at, at + expected.len());
        for (event, wanted) in events.iter().zip(expected) {
            assert_eq!(event.shown(), wanted[..4], "{events:?}");
            let (ts, end) = (event.timestamp_s, monotonic_s());
            assert!(begin <= ts && ts <= end, "{ts} is not in {begin}..{end}");
            let [name, event_type, session_id, _, python] = wanted;
            let message = format!(
                "LMCache DEBUG: Telemetry: {name} {event_type} session={session_id} ts={ts:.6} metadata={python}"
            );
            let line = daemon.wait_for_line(&message);
            assert!(line.ends_with(&message), "{line:?} is not {message:?}");
        }
        at += expected.len();
    };

    reserve(3, &named("req-001", "gpu0")).commit().unwrap();
    let (json, python) = (r#"{"device":"gpu0"}"#, "{'device': 'gpu0'}");
    let stored = |count: usize| {
        [
            format!(r#"{{"stored_count":{count},"device":"gpu0"}}"#),
            format!("{{'stored_count': {count}, 'device': 'gpu0'}}"),
        ]
    };
    let [three, three_py] = stored(3);
    expect(&[
        ["store", "START", "req-001", json, python],
        ["store", "END", "req-001", &three, &three_py],
    ]);
    // One key is there already: it is granted to nobody and stored by nobody.
    reserve(4, &named("req-002", "gpu0")).commit().unwrap();
    let [one, one_py] = stored(1);
    expect(&[
        ["store", "START", "req-002", json, python],
        ["store", "END", "req-002", &one, &one_py],
    ]);

    let lease = session
        .acquire(space, &asked, &named("req-003", "gpu0"))
        .unwrap();
    expect(&[
        ["lookup", "START", "req-003", "{}", "{}"],
        [
            "lookup",
            "END",
            "req-003",
            r#"{"found_count":4}"#,
            "{'found_count': 4}",
        ],
    ]);
    lease.span(1).unwrap();
    lease.span(0).unwrap();
    expect(&[["retrieve", "START", "req-003", json, python]]);
    lease.release().unwrap();
    expect(&[[
        "retrieve",
        "END",
        "req-003",
        r#"{"retrieved_count":4,"device":"gpu0"}"#,
        "{'retrieved_count': 4, 'device': 'gpu0'}",
    ]]);

    // Without names: the session's number and the empty device. An abort stores nothing, a miss finds nothing.
    let nothing = (r#"{"device":""}"#, "{'device': ''}");
    let items = reserve_items(&asked[4..], 100);
    session
        .reserve(space, &items, &request(0))
        .unwrap()
        .abort()
        .unwrap();
    expect(&[
        ["store", "START", &number, nothing.0, nothing.1],
        [
            "store",
            "END",
            &number,
            r#"{"stored_count":0,"device":""}"#,
            "{'stored_count': 0, 'device': ''}",
        ],
    ]);
    session
        .acquire(space, &asked[4..], &request(0))
        .unwrap()
        .release()
        .unwrap();
    expect(&[
        ["lookup", "START", &number, "{}", "{}"],
        [
            "lookup",
            "END",
            &number,
            r#"{"found_count":0}"#,
            "{'found_count': 0}",
        ],
    ]);
    // A reserve that is granted nothing is over at once.
    let refused = session
        .reserve(space, &reserve_items(&asked[..1], 100), &request(0))
        .unwrap();
    expect(&[
        ["store", "START", &number, nothing.0, nothing.1],
        [
            "store",
            "END",
            &number,
            r#"{"stored_count":0,"device":""}"#,
            "{'stored_count': 0, 'device': ''}",
        ],
    ]);
    drop(refused);

    // What is no read request and no store has no events.
    session.lookup(space, &asked, None).unwrap();
    session.remove(space, &asked[..1], None).unwrap();
    session.acquire(space, &[], &request(0)).err().unwrap();
    session.close().unwrap();
    daemon.wait_for_sessions(0);
    assert_eq!(observed.events().len(), at);
    observed.daemon.finish();
}

#[test]
fn commit_and_acquire_is_no_lookup_and_a_retrieve_once_a_span_is_taken() {
    let observed = Observed::start(&[], "INFO");
    let session = observed.daemon.session();
    let space = keyspace(&session);
    for (name, takes_span) in [("unread", false), ("read", true)] {
        let items = reserve_items(&keys(name, 2), 100);
        let reservation = session
            .reserve(space, &items, &named(name, "gpu0"))
            .unwrap();
        let lease = reservation.commit_and_acquire().unwrap();
        if takes_span {
            lease.span(0).unwrap();
        }
        lease.release().unwrap();
    }
    drop(session);
    observed.daemon.wait_for_sessions(0);
    let events = observed.wait(0, 6);
    assert_paired(&events);
    let count = |name: &str, id: &str| {
        let is_it = |event: &&Event| event.name == name && event.session_id == id;
        events.iter().filter(is_it).count()
    };
    assert_eq!(
        [
            count("store", "unread"),
            count("retrieve", "unread"),
            count("lookup", "unread")
        ],
        [2, 0, 0]
    );
    assert_eq!(
        [
            count("store", "read"),
            count("retrieve", "read"),
            count("lookup", "read")
        ],
        [2, 2, 0]
    );
    observed.daemon.finish();
}

#[test]
fn a_worker_killed_between_start_and_end_leaves_exactly_one_end_with_the_count_0() {
    let observed = Observed::start(&[], "INFO");
    let daemon = &observed.daemon;
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("clock", 2), 100);
    let mut at = observed.wait(0, 2).len();
    let lookup = |found: &str| {
        vec![
            ["lookup", "START", "dying", "{}"].map(str::to_owned),
            [
                "lookup",
                "END",
                "dying",
                &format!("{{\"found_count\":{found}}}"),
            ]
            .map(str::to_owned),
        ]
    };
    let retrieve = vec![
        ["retrieve", "START", "dying", r#"{"device":"gpu0"}"#].map(str::to_owned),
        [
            "retrieve",
            "END",
            "dying",
            r#"{"retrieved_count":0,"device":"gpu0"}"#,
        ]
        .map(str::to_owned),
    ];
    // Inside the library: between the START of a lookup and its END; before it; and in the middle of the END of a retrieve.
    for (place, expected) in [
        ("lookup", lookup("0")),
        ("nothing", Vec::new()),
        ("retrieve", [lookup("2"), retrieve].concat()),
    ] {
        let status = clock_program(daemon, place).status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{place}: {status}");
        daemon.wait_for_sessions(1);
        let events = observed.wait(at, at + expected.len());
        assert_paired(&events);
        let shown: Vec<_> = events
            .iter()
            .map(|event| event.shown().map(str::to_owned))
            .collect();
        assert_eq!(shown, expected, "{place}");
        at += expected.len();
    }
    // From outside: a span is taken and the lease held; and a reserve that is answered.
    let mut worker = Worker::start(daemon);
    worker.must("open");
    let number = number_of(daemon, &format!("pid {},", worker.pid()));
    worker.must("acquire clock 2");
    assert_eq!(worker.must("verify"), "2");
    worker.must("reserve new 3 100");
    // The daemon has seen the START by now, or finds it in the ring of the dead.
    worker.kill();
    daemon.wait_for_sessions(1);
    let events = observed.wait(at, at + 6);
    assert_paired(&events);
    for (name, metadata) in [
        ("lookup", r#"{"found_count":2}"#),
        ("retrieve", r#"{"retrieved_count":0,"device":""}"#),
        ("store", r#"{"stored_count":0,"device":""}"#),
    ] {
        let ends = |event: &&Event| event.name == name && event.event_type == "END";
        let ends: Vec<&Event> = events.iter().filter(ends).collect();
        assert_eq!(ends.len(), 1, "{events:?}");
        assert_eq!(ends[0].shown(), [name, "END", &number, metadata]);
    }
    drop(session);
    observed.daemon.finish();
}

fn clock_program(daemon: &Daemon, what: &str) -> Command {
    let mut command = Command::new(Worker::program().with_file_name("hostkv-test-clock"));
    command.arg(daemon.socket()).arg(what);
    command
}

#[test]
fn an_acquire_looks_at_the_clock_twice_with_telemetry_and_never_without_and_hidden_lines() {
    for (telemetry, expected) in [(true, "2 1 0 1"), (false, "0 0 0 0")] {
        let observed = Observed::start(&[], "WARNING");
        let off = DaemonSpec::default()
            .variable("LMCACHE_LOG_LEVEL", "WARNING")
            .start();
        let daemon = if telemetry { &observed.daemon } else { &off };
        let session = daemon.session();
        store(&session, keyspace(&session), &keys("clock", 2), 100);
        let output = clock_program(daemon, "count").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // Of an acquire, its first span, another, and the release.
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
    }
}

#[test]
fn no_pair_is_broken_by_workers_killed_at_random_moments() {
    let observed = Observed::start(&["--telemetry-max-queue-size", "100000"], "INFO");
    let mut random = Random(seed("no_pair_is_broken"));
    for _ in 0..15 {
        let mut workers = [(); 2].map(|()| Worker::start(&observed.daemon));
        for worker in &mut workers {
            worker.must("open");
            worker.must(&format!("load-until-death {}", random.below(1 << 40)));
        }
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        workers.iter_mut().for_each(Worker::kill);
    }
    observed.daemon.wait_for_sessions(0);
    let Observed { mut daemon, file } = observed;
    daemon.audit();
    daemon.stop();
    let events = events_of(&file);
    let pairs = assert_paired(&events);
    for name in ["lookup", "store", "retrieve"] {
        assert!(events.iter().any(|event| event.name == name), "{name}");
    }
    eprintln!("no_pair_is_broken: {pairs} pairs");
}

/// Acquire, a span, release: four events.
fn read_rounds(session: &Session, space: hostkv::KeyspaceId, rounds: usize) {
    let wanted = keys("k", 1);
    for _ in 0..rounds {
        let lease = session
            .acquire(space, &wanted, &named("reads", "gpu0"))
            .unwrap();
        lease.span(0).unwrap();
        lease.release().unwrap();
    }
}

fn dropped(daemon: &Daemon) -> usize {
    daemon
        .scrape()
        .sample("hostkv_telemetry_events_dropped_total") as usize
}

#[test]
fn a_full_ring_of_a_worker_drops_whole_pairs_and_counts_every_event() {
    let observed = Observed::start(&[], "INFO");
    let session = observed.daemon.session();
    let space = keyspace(&session);
    store(&session, space, &keys("k", 1), 100);
    observed.wait(0, 2);
    // Nobody empties the ring of 1024 places meanwhile.
    observed.daemon.signal(Signal::SIGSTOP);
    // Three places, and one that is kept for an END that is owed: the ring is never full of whole rounds.
    let wanted = keys("k", 1);
    let held = session
        .acquire(space, &wanted, &named("held", "gpu0"))
        .unwrap();
    held.span(0).unwrap();
    read_rounds(&session, space, 2000);
    held.release().unwrap();
    observed.daemon.signal(Signal::SIGCONT);
    wait_until("all events are written or counted", || {
        observed.events().len() + dropped(&observed.daemon) == 2 + 4 + 4 * 2000
    });
    let events = observed.events();
    assert!((600..=1026).contains(&events.len()), "{}", events.len());
    assert_paired(&events);
    // The ring is as good as new.
    read_rounds(&session, space, 10);
    observed.wait(0, events.len() + 40);
    drop(session);
    observed.daemon.finish();
}

/// A pipe that is written to and not read.
fn stuck_pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a text that ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    path
}

fn stuck(queue_size: &str) -> (Daemon, PathBuf) {
    let place = DaemonSpec::default();
    let pipe = stuck_pipe(place.folder());
    let jsonl = jsonl(&pipe);
    let flags = [
        "--enable-telemetry",
        "--telemetry-max-queue-size",
        queue_size,
        "--telemetry-processor",
        &jsonl,
    ];
    (DaemonSpec::new(&flags).beside(&place).start(), pipe)
}

/// Seconds of the day that begin a log line.
fn second_of_day(line: &str) -> f64 {
    let time = &line["[2026-11-24 ".len()..][..12];
    let parts: Vec<f64> = time
        .split([':', ','])
        .map(|part| part.parse().unwrap())
        .collect();
    parts[0] * 3600.0 + parts[1] * 60.0 + parts[2] + parts[3] / 1e3
}

#[test]
fn a_stuck_processor_fills_the_queue_and_slows_no_request_and_no_pair_is_broken() {
    let (mut daemon, pipe) = stuck("10");
    let session = daemon.session();
    let space = keyspace(&session);
    let long_id = "x".repeat(128);
    let items = reserve_items(&keys("k", 1), 100);
    let mut stores = 0;
    let mut round = || {
        stores += 1;
        let begin = Instant::now();
        session
            .reserve(space, &items, &named(&long_id, "gpu0"))
            .unwrap()
            .abort()
            .unwrap();
        begin.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let before = median((0..100).map(|_| round()).collect());
    while dropped(&daemon) == 0 {
        for _ in 0..20 {
            round();
        }
    }
    // Two more seconds of it, for the warnings.
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_millis(2200) {
        times.push(round());
        std::thread::sleep(Duration::from_micros(500));
    }
    let worst = times.iter().max().copied().unwrap();
    let full = median(times);
    eprintln!(
        "reserve + abort: {before:?} before, {full:?} with a stuck processor, {worst:?} at worst"
    );
    assert!(
        full < 4 * before + Duration::from_millis(1),
        "{before:?} {full:?}"
    );
    let warnings: Vec<String> = daemon
        .log_lines()
        .into_iter()
        .filter(|line| line.contains("Telemetry queue full"))
        .collect();
    assert!((2..=4).contains(&warnings.len()), "{warnings:?}");
    let mut last = (0.0, 0);
    for line in &warnings {
        let begin = "LMCache WARNING: Telemetry queue full (max_queue_size=10), ";
        let (_, rest) = line.split_once(begin).unwrap_or_else(|| panic!("{line}"));
        let total = rest
            .strip_suffix(" event(s) discarded so far")
            .unwrap_or_else(|| panic!("{line}"));
        let total: usize = total.parse().unwrap();
        let at = second_of_day(line);
        assert!(total > last.1, "{warnings:?}");
        // The line's time is cut to milliseconds, and midnight may pass.
        assert!(at - last.0 >= 0.998 || at < last.0, "{warnings:?}");
        last = (at, total);
    }
    drop(session);
    let dropped = dropped(&daemon);
    // Somebody reads at last; the end of the daemon is the end of the pipe.
    let reader = std::fs::File::open(&pipe).unwrap();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines
            .map(|line| Event::parse(&line.unwrap()))
            .collect::<Vec<_>>()
    });
    daemon.audit();
    daemon.stop();
    let events = reader.join().unwrap();
    assert_eq!(
        events.len() + dropped,
        2 * stores,
        "{dropped} are counted as dropped"
    );
    assert_eq!(assert_paired(&events) * 2, events.len());
}

#[test]
fn a_stuck_processor_does_not_hold_up_the_end_and_what_is_lost_is_said() {
    let (mut daemon, _pipe) = stuck("10000");
    let session = daemon.session();
    let space = keyspace(&session);
    let items = reserve_items(&keys("k", 1), 100);
    let long_id = "x".repeat(128);
    for _ in 0..400 {
        session
            .reserve(space, &items, &named(&long_id, "gpu0"))
            .unwrap()
            .abort()
            .unwrap();
    }
    drop(session);
    let begin = Instant::now();
    daemon.stop();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    let line = daemon.wait_for_line("Telemetry did not end within");
    assert!(
        line.contains("processor #1 does not return; ") && line.contains("event(s) are lost"),
        "{line}"
    );
}

#[test]
fn at_sigterm_the_queue_is_drained_and_open_pairs_are_ended() {
    let Observed { mut daemon, file } = Observed::start(&[], "INFO");
    let session = daemon.session();
    let space = keyspace(&session);
    store(&session, space, &keys("k", 1), 100);
    let items = reserve_items(&keys("new", 1), 100);
    for _ in 0..300 {
        session
            .reserve(space, &items, &named("stores", "gpu0"))
            .unwrap()
            .abort()
            .unwrap();
    }
    read_rounds(&session, space, 100);
    let _reservation = session
        .reserve(space, &items, &named("held", "gpu0"))
        .unwrap();
    let lease = session
        .acquire(space, &keys("k", 1), &named("held", "gpu0"))
        .unwrap();
    lease.span(0).unwrap();
    daemon.stop();
    let events = events_of(&file);
    assert_paired(&events);
    let ends = |name: &str| {
        let is_end = |event: &&Event| event.name == name && event.event_type == "END";
        events.iter().filter(is_end).count()
    };
    assert_eq!(
        [ends("store"), ends("lookup"), ends("retrieve")],
        [302, 101, 101]
    );
}

#[test]
fn a_bad_processor_ends_the_start_with_code_2_and_one_line_also_without_telemetry() {
    let good = r#"{"type": "logging"}"#;
    for (specs, said) in [
        (&["{"][..], "Invalid JSON for --telemetry-processor #1: "),
        (
            &[good, "logging"],
            "Invalid JSON for --telemetry-processor #2: ",
        ),
        (
            &["[1]"],
            "--telemetry-processor #1: expected a JSON object, got ",
        ),
        (
            &[good, good, "5"],
            "--telemetry-processor #3: expected a JSON object, got ",
        ),
        (&["{}"], "--telemetry-processor #1: missing 'type' field"),
        (
            &[good, r#"{"type": "otlp"}"#],
            "--telemetry-processor #2: unknown processor type 'otlp'. Known: jsonl, logging",
        ),
    ] {
        for on in [&[][..], &["--enable-telemetry"]] {
            let mut flags = on.to_vec();
            for spec in specs {
                flags.extend(["--telemetry-processor", spec]);
            }
            let failed = DaemonSpec::new(&flags).start_must_fail();
            assert_eq!(failed.status.code(), Some(2), "{}", failed.stderr);
            let lines: Vec<&str> = failed.stderr.lines().collect();
            assert_eq!(lines.len(), 1, "{}", failed.stderr);
            let message = lines[0].strip_prefix("hostkvd: ").unwrap_or(lines[0]);
            assert!(message.starts_with(said), "{message:?} is not {said:?}");
            // What ends with a figure of the operator's, or a list, has nothing behind it.
            if !said.ends_with(' ') {
                assert_eq!(message, said);
            }
        }
    }
}

#[test]
fn one_line_at_the_start_says_that_events_at_debug_are_hidden() {
    let observed = Observed::start(&["--telemetry-processor", r#"{"type": "logging"}"#], "INFO");
    let session = observed.daemon.session();
    store(&session, keyspace(&session), &keys("k", 1), 100);
    observed.wait(0, 2);
    drop(session);
    let hints = |part: &str| {
        let lines = observed.daemon.log_lines();
        lines.iter().filter(|line| line.contains(part)).count()
    };
    assert_eq!(
        hints("LMCache INFO: Telemetry events are logged at DEBUG"),
        1
    );
    assert_eq!(hints("Telemetry: store"), 0);
    observed.daemon.finish();
}
