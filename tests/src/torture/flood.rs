//! F13 and F14: a flood of connections, and too few descriptors.
//!
//! ```text
//!   2 threads ── connect: leave at once | never say HELLO | say nonsense ──> daemon: caps, deadline of a second
//!   a limit of N descriptors ── sessions until one is refused ── one goes ──> the next one opens within a second
//! ```

use std::time::{Duration, Instant};

use hostkv::Status;
use hostkv::session::Session;

use super::{Fault, Run, Skipped, Stage, Timings};
use crate::{DaemonSpec, PATIENCE, Random, RawClient, Worker};

/// As many connections as there can be.
pub static OF_CONNECTIONS: Fault = Fault {
    id: "F13",
    name: "floods of 10,000 connections: half-open, gone at once, nonsense",
    required: "RSS + <= 16 MiB, no descriptor more at the end, sessions open and go on throughout",
    full_cycles: 100,
    weight: 2,
    run: of_connections,
};

/// As few descriptors as there can be.
pub static OF_DESCRIPTORS: Fault = Fault {
    id: "F14",
    name: "a daemon with RLIMIT_NOFILE 32 to 256 is asked for more sessions than it has descriptors for",
    required: "refusals with a sentence, others go on, a new session <= 1 s after one has gone",
    full_cycles: 400,
    weight: 2,
    run: of_descriptors,
};

/// Connections of a flood.
const CONNECTIONS: u64 = 10_000;

/// Connections that each thread keeps open.
const OPEN: usize = 64;

/// What the daemon's memory may grow by.
const GROWTH_BYTES: u64 = 16 << 20;

/// Resident bytes of a process.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the daemon lives and is a child of this process");
    // Shared pages are the pool's.
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .map_or(0, |kib: u64| kib * 1024)
}

fn of_connections(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let pid = stage.daemon.pid();
    let before = resident_bytes(pid);
    // A process of its own: a flood displaces the connections of its own process first.
    let mut newcomer = Worker::start(&stage.daemon);
    let mut most = before;
    let mut opens = Timings::default();
    let begin = Instant::now();
    while run.goes_on() {
        let seeds = [run.random.next_word(), run.random.next_word()];
        std::thread::scope(|scope| {
            let floods = seeds.map(|seed| {
                let socket = stage.daemon.socket();
                scope.spawn(move || flood(&socket, Random(seed)))
            });
            while !floods.iter().all(|flood| flood.is_finished()) {
                // A new client is let in beside the flood.
                let begin = Instant::now();
                newcomer.must("open");
                newcomer.must("close");
                opens.add(begin.elapsed());
                most = most.max(resident_bytes(pid));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        stage.wait_until_alone();
        run.count(1);
    }
    assert!(newcomer.end().success());
    let grown = most.saturating_sub(before);
    assert!(
        grown <= GROWTH_BYTES,
        "the daemon grew by {grown} bytes, of {before}"
    );
    run.note(format!(
        "{:.0} connects/s, RSS + {} KiB, a session beside it {}",
        (run.done() * CONNECTIONS) as f64 / begin.elapsed().as_secs_f64(),
        grown / 1024,
        opens.summary()
    ));
    stage.finish(run);
    Ok(())
}

/// Half of a flood.
fn flood(socket: &std::path::Path, mut random: Random) {
    let mut open = std::collections::VecDeque::new();
    for _ in 0..CONNECTIONS / 2 {
        // A full backlog refuses, which is what a flood meets.
        let Ok(client) = RawClient::connect(socket) else {
            continue;
        };
        match random.below(3) {
            0 => drop(client),
            1 => open.push_back(client),
            _ => {
                // The daemon may have displaced it already.
                let _ = client.send_bytes(&random.next_word().to_le_bytes());
                open.push_back(client);
            }
        }
        if open.len() > OPEN {
            open.pop_front();
        }
    }
}

fn of_descriptors(run: &mut Run) -> Result<(), Skipped> {
    let (mut refused_starts, mut opened) = (0, 0);
    let mut again = Timings::default();
    while run.goes_on() {
        let limit = 32 + run.random.below(225);
        let shell = format!("ulimit -n {limit} && exec \"$@\"");
        let spec =
            DaemonSpec::new(&["--l1-size-gb", "0.0078125"]).wrapped(&["sh", "-c", &shell, "sh"]);
        run.count(1);
        let mut daemon = match spec.start_or_refuse() {
            Ok(daemon) => daemon,
            Err(failed) => {
                failed.assert_says(1, &[]);
                refused_starts += 1;
                continue;
            }
        };
        let mut sessions = Vec::new();
        let refusal = loop {
            match Session::open(&daemon.config(0)) {
                Ok(session) => sessions.push(session),
                Err(error) => break error,
            }
            assert!(sessions.len() < 300, "the limit of {limit} is none");
        };
        let is_said =
            [Status::Quota, Status::Disconnected, Status::Timeout].contains(&refusal.status);
        assert!(is_said, "{limit}: {}", refusal.message);
        opened += sessions.len();
        for session in &sessions {
            session.ping().unwrap();
        }
        let Some(one) = sessions.pop() else {
            // There was never room for one: it has to say so, and to end cleanly.
            end(&mut daemon);
            continue;
        };
        one.close().unwrap();
        let begin = Instant::now();
        let next = loop {
            if let Ok(session) = Session::open(&daemon.config(0)) {
                break session;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{limit}: no session opens again"
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        again.add(begin.elapsed());
        next.ping().unwrap();
        drop(next);
        let half = sessions.len() / 2;
        sessions.truncate(half);
        // With descriptors free again nothing is left of it.
        assert_eq!(daemon.scrape().sample("hostkv_sessions") as usize, half);
        drop(sessions);
        end(&mut daemon);
    }
    let within = Duration::from_secs(1);
    if !run.is_short() {
        let worst = again.at(0.99);
        assert!(worst <= within, "a session opens again after {worst:?}");
    }
    run.note(format!(
        "{refused_starts} starts refused, {opened} sessions; open again {}",
        again.summary()
    ));
    Ok(())
}

/// SIGTERM; an audit may need a descriptor that is not there.
fn end(daemon: &mut crate::Daemon) {
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let status = daemon.wait();
    assert_eq!(status.code(), Some(0), "{status}\n{}", daemon.log_text());
}
