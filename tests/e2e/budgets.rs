//! What a call of the C interface may take, each with its figure here: allocations, page faults and system calls; and how
//! often a daemon wakes up for which there is nothing to do.
//!
//! Instructions are counted by `scripts/count-instructions.sh`, whose figures stand there.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hostkv_tests::{Daemon, Worker, keys, keyspace, skip, store};

/// Room for a few hundred stores of 32 x 128 KiB, which evict each other.
const POOL: [&str; 2] = ["--l1-size-gb", "0.125"];
/// Keys of a call, and allocations of a reserve, its spans and its commit.
const ALLOCATIONS_OF_A_STORE: [(usize, u64); 2] = [(1, 11), (32, 21)];
/// The same where each commit and the next reserve are one call.
const ALLOCATIONS_OF_A_PAIR: [(usize, u64); 2] = [(1, 11), (32, 21)];

/// Runs `hostkv-test-counted` under another program, or alone.
fn counted(daemon: &Daemon, wrapper: &[&str], what: &str, keys: usize, rounds: usize) -> Output {
    let program = Worker::program().with_file_name("hostkv-test-counted");
    let mut words: Vec<_> = wrapper.iter().map(std::ffi::OsString::from).collect();
    words.push(program.into());
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg(daemon.socket())
        .args([what, &keys.to_string(), &rounds.to_string()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} of {keys} keys: {errors}");
    output
}

/// Allocations and page faults of all rounds.
fn taken(daemon: &Daemon, what: &str, keys: usize, rounds: usize) -> (u64, u64) {
    let output = counted(daemon, &[], what, keys, rounds);
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["allocations", allocations, "faults", faults] = words[..] else {
        panic!("{text}");
    };
    (allocations.parse().unwrap(), faults.parse().unwrap())
}

#[test]
fn an_acquire_and_its_release_allocate_nothing() {
    let daemon = Daemon::start(&[]);
    for keys in [1, 32, 256, 1024] {
        let (allocations, _) = taken(&daemon, "reads", keys, 100);
        assert_eq!(
            allocations, 0,
            "acquire+release of {keys} keys, 100 times: {allocations} allocations, was 0"
        );
    }
    daemon.finish();
}

#[test]
fn a_store_allocates_as_often_as_is_known_and_faults_no_page_in() {
    const ROUNDS: u64 = 100;
    let daemon = Daemon::start(&POOL);
    let figures = [
        ("stores", ALLOCATIONS_OF_A_STORE),
        ("pairs", ALLOCATIONS_OF_A_PAIR),
    ];
    for (what, keys, known) in figures
        .into_iter()
        .flat_map(|(what, figures)| figures.map(|(keys, known)| (what, keys, known)))
    {
        let (allocations, faults) = taken(&daemon, what, keys, ROUNDS as usize);
        let now = allocations.div_ceil(ROUNDS);
        assert!(
            now <= known,
            "{what} of {keys} keys: {now} allocations each, was {known}; find what made it dearer, or write the \
             figure anew"
        );
        // What a store faults in it faults in every time; a page of the heap that the kernel took back comes in once.
        let faults = match faults {
            0 => 0,
            _ => taken(&daemon, what, keys, ROUNDS as usize).1,
        };
        assert_eq!(
            faults, 0,
            "{what} of {keys} keys, {ROUNDS} times in a populated session: {faults} page faults, was 0"
        );
    }
    daemon.finish();
}

/// Page faults of a process's first thread so far.
fn faults_of_the_loop(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
    // Behind the name in brackets: minflt is the eighth word, majflt the tenth (proc_pid_stat(5)).
    let words: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    words[7].parse::<u64>().unwrap() + words[9].parse::<u64>().unwrap()
}

#[test]
fn a_daemon_faults_no_page_in_while_its_cold_pool_is_filled() {
    const BATCHES: usize = 200;
    const KEYS: usize = 256;
    let daemon = Daemon::start(&["--l1-size-gb", "0.125", "--l1-align-bytes", "64"]);
    let session = daemon.session();
    let keyspace = keyspace(&session);
    // The first frames of these lengths make the buffers of the connection and the heap grow.
    store(&session, keyspace, &keys("warm", KEYS), 64);
    let before = faults_of_the_loop(daemon.pid());
    for batch in 0..BATCHES {
        store(
            &session,
            keyspace,
            &keys(&format!("cold-{batch}"), KEYS),
            64,
        );
    }
    let now = faults_of_the_loop(daemon.pid()) - before;
    assert_eq!(
        daemon.figures().object_count,
        (BATCHES as u64 + 1) * KEYS as u64
    );
    // What a store faults in every store faults in; a few pages of a heap that grows are in nobody's way.
    assert!(
        now < BATCHES as u64 / 20,
        "{BATCHES} first stores of {KEYS} objects: {now} page faults of the daemon's loop, was 0 to 3"
    );
    session.close().unwrap();
    daemon.finish();
}

/// The system calls between the markers of `what`, 32 keys in 20 rounds, the first part before the first of them; none where
/// nothing can be traced.
fn traced(daemon: &Daemon, what: &str) -> Option<Vec<Vec<String>>> {
    let can_trace = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can_trace {
        skip("the count of system calls of stores: strace is missing or may not trace");
        return None;
    }
    let trace = daemon.spec().folder().join(what);
    let trace = trace.to_str().unwrap();
    counted(daemon, &["strace", "-f", "-o", trace], what, 32, 20);
    let text = std::fs::read_to_string(trace).unwrap();
    // A line is `PID name(…`.
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    Some(names.fold(vec![Vec::new()], |mut parts, word| {
        match word.starts_with("write(-1,") {
            true => parts.push(Vec::new()),
            false => parts
                .last_mut()
                .unwrap()
                .push(word.split('(').next().unwrap().to_owned()),
        }
        parts
    }))
}

/// Panics unless these calls are one round trip.
fn assert_one_trip(what: &str, calls: &[String]) {
    let sends = calls.iter().filter(|call| call.starts_with("send")).count();
    let receives = calls.iter().filter(|call| call.starts_with("recv")).count();
    assert_eq!(
        (sends, receives),
        (1, 1),
        "{what} of 32 keys: {sends} sends and {receives} receives, was 1 and 1: {calls:?}"
    );
    // The third waits until the reply is there.
    assert!(
        calls.len() <= 3,
        "{what} of 32 keys: {} system calls, was 3: {calls:?}",
        calls.len()
    );
}

#[test]
fn a_reserve_and_a_commit_are_one_round_trip_each_and_the_copy_between_them_none() {
    let daemon = Daemon::start(&POOL);
    let Some(parts) = traced(&daemon, "stores") else {
        return;
    };
    // Before the first store, then four parts for each: reserve, copy, commit, and what lies between two stores.
    assert_eq!((parts.len() - 1) % 4, 0);
    let stores: Vec<_> = parts[1..].chunks_exact(4).collect();
    assert!(stores.len() > 20, "{}", stores.len());
    for store in stores {
        assert_one_trip("reserve", &store[0]);
        assert!(store[1].is_empty(), "copy of 32 objects: {:?}", store[1]);
        assert_one_trip("commit", &store[2]);
    }
    daemon.finish();
}

#[test]
fn a_writer_of_batch_after_batch_makes_one_round_trip_a_batch() {
    let daemon = Daemon::start(&POOL);
    let Some(parts) = traced(&daemon, "pairs") else {
        return;
    };
    // Three parts for each batch: copy, commit with the next reserve, and what lies between two batches.
    assert_eq!((parts.len() - 1) % 3, 0);
    let batches: Vec<_> = parts[1..].chunks_exact(3).collect();
    assert!(batches.len() > 40, "{}", batches.len());
    // In the first ones the allocator gets its memory; behind the last one the session ends.
    for batch in &batches[batches.len() - 20..batches.len() - 1] {
        assert!(batch[0].is_empty(), "copy of 32 objects: {:?}", batch[0]);
        assert_one_trip("commit and reserve", &batch[1]);
    }
    daemon.finish();
}

/// How often the threads of a process have slept and gone on.
fn wakeups(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn a_daemon_with_64_idle_sessions_wakes_for_its_ticks_only() {
    // Ten ticks, and what the second brings: the log writer's lines, a scan.
    const A_SECOND: f64 = 14.0;
    let daemon = Daemon::start(&[]);
    let sessions: Vec<_> = (0..64).map(|_| daemon.session()).collect();
    daemon.wait_for_sessions(64);
    std::thread::sleep(Duration::from_millis(1100));
    let (begin, before) = (Instant::now(), wakeups(daemon.pid()));
    std::thread::sleep(Duration::from_secs(3));
    let now = wakeups(daemon.pid()) - before;
    let a_second = now as f64 / begin.elapsed().as_secs_f64();
    assert!(
        a_second <= A_SECOND,
        "{a_second:.1} wakeups a second with 64 idle sessions, was 11, limit {A_SECOND}"
    );
    drop(sessions);
    daemon.finish();
}
