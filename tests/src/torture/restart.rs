//! F9: the daemon is SIGKILLed under load, and the next one starts.
//!
//! ```text
//!   loaded workers ── reads, writes, removes ──┐             DISCONNECTED at the next call
//!   holder ── a lease ─────────────────────────┤ SIGKILL ──> its bytes stay, also beside the next daemon
//!   daemon ────────────────────────────────────┘ ──> next daemon: serves at once, or waits and names the holder
//! ```

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Fault, Run, Skipped, Timings};
use crate::cgroup::Cgroup;
use crate::{DaemonSpec, PATIENCE, RawClient, Worker, end_with_parent};

/// Killed while everybody calls it.
pub static UNDER_LOAD: Fault = Fault {
    id: "F9",
    name: "the daemon is SIGKILLed under load",
    required: "DISCONNECTED within 300 ms, no client hurt, leases whole; next serves <= 100 ms + fallocate",
    full_cycles: 1000,
    weight: 8,
    run: under_load,
};

/// Killed where memory does not allow two pools.
pub static IN_LITTLE_MEMORY: Fault = Fault {
    id: "F9",
    name: "the daemon is SIGKILLed in a memory cgroup of 1.5 pools",
    required: "the next daemon waits, names who maps the old pool, and serves when that ends",
    full_cycles: 100,
    weight: 3,
    run: in_little_memory,
};

/// Clients that call all the time.
const LOADED: usize = 3;

/// How soon a client has to know.
const NOTICE: Duration = Duration::from_millis(300);

/// What a loaded machine may add to it.
const SANE_NOTICE: Duration = Duration::from_secs(10);

/// How soon the next daemon has to serve, beside the time that its memory takes.
const START: Duration = Duration::from_millis(100);

const MIB: u64 = 1 << 20;

/// Has the holder store 8 objects and keep a lease on them.
fn hold(holder: &mut Worker) {
    for order in [
        "open",
        "reserve held 8 5000",
        "fill",
        "commit",
        "acquire held 8",
    ] {
        holder.must(order);
    }
}

/// Has it prove its lease and end it.
fn let_go(holder: &mut Worker) {
    assert_eq!(holder.must("verify"), "8", "a lease lost its bytes");
    holder.must("release");
    holder.must("close");
}

fn under_load(run: &mut Run) -> Result<(), Skipped> {
    let mut spec = DaemonSpec::default();
    let start = |_: usize| Worker::start_at(&spec.socket(), &[]);
    let mut loaded: Vec<Worker> = (0..LOADED).map(start).collect();
    let mut holder = start(LOADED);
    let (mut starts, mut notices) = (Timings::default(), Timings::default());
    while run.goes_on() {
        let begin = Instant::now();
        let daemon = spec.start();
        starts.add(begin.elapsed());
        if run.done() > 0 {
            // What the holder has from the pool before this one.
            let_go(&mut holder);
        }
        hold(&mut holder);
        for worker in &mut loaded {
            worker.must("open");
            worker.must(&format!("load-until-death {}", run.random.below(1 << 40)));
        }
        std::thread::sleep(Duration::from_micros(1000 + run.random.below(25_000)));
        if run.done().is_multiple_of(8) {
            daemon.audit();
        }
        spec = daemon.kill();
        let killed = Instant::now();
        for worker in &mut loaded {
            let answer = worker.answer();
            assert!(answer.starts_with("DISCONNECTED"), "{answer}");
            notices.add(killed.elapsed());
            // The end of a session whose daemon is gone is no error.
            worker.must("close");
        }
        assert!(holder.ask("lookup held 8").starts_with("DISCONNECTED"));
        assert_eq!(holder.must("verify"), "8", "a lease lost its bytes");
        run.count(1);
    }
    let last = spec.start();
    assert_eq!(holder.must("verify"), "8", "a lease lost its bytes");
    last.finish();
    for mut worker in loaded.into_iter().chain([holder]) {
        assert!(worker.end().success(), "a client died with its daemon");
    }
    run.note(format!("start {}", starts.summary()));
    run.note(format!("notice {}", notices.summary()));
    let worst = notices.at(1.0);
    assert!(worst < SANE_NOTICE, "a client noticed after {worst:?}");
    if !run.is_short() {
        judge_starts(run, &starts);
        let notice = notices.at(0.99);
        assert!(
            notice <= NOTICE,
            "clients notice after {notice:?} at the 99th percentile"
        );
    }
    Ok(())
}

/// The median start against the promise, and what each GiB adds.
fn judge_starts(run: &mut Run, starts: &Timings) {
    let small = starts.at(0.5);
    let mut large = Timings::default();
    for _ in 0..3 {
        let begin = Instant::now();
        DaemonSpec::new(&["--l1-size-gb", "0.53125"])
            .start()
            .finish();
        large.add(begin.elapsed());
    }
    // Half a GiB more than the small one.
    let per_gib = large.at(0.5).saturating_sub(small) * 2;
    run.note(format!("{} ms for each GiB", per_gib.as_millis()));
    let own = small.saturating_sub(per_gib / 32);
    assert!(
        own <= START,
        "a daemon of 32 MiB serves after {small:?}, {per_gib:?} a GiB of it for its memory"
    );
}

fn in_little_memory(run: &mut Run) -> Result<(), Skipped> {
    let pool_bytes = 128 * MIB;
    let group = Cgroup::with_memory(pool_bytes * 3 / 2).map_err(Skipped)?;
    let procs = group.procs();
    let enter = [
        "sh",
        "-c",
        "echo $$ > \"$0\" && exec \"$@\"",
        procs.to_str().expect("the path is text"),
    ];
    let spec = DaemonSpec::new(&["--l1-size-gb", "0.125", "--start-wait", "25"]).wrapped(&enter);
    let mut waits = Timings::default();
    let mut daemon = Some(spec.start());
    while run.goes_on() {
        let running = daemon.take().expect("a daemon runs between two cycles");
        let mut holder = Worker::start(&running);
        hold(&mut holder);
        let spec = running.kill();
        let named = format!("{}", holder.pid());
        let mut command = spec.command();
        command.stdout(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe { command.pre_exec(end_with_parent) };
        let mut next = command.spawn().expect("hostkvd can be run");
        let mut lines =
            BufReader::new(next.stderr.take().expect("standard error is a pipe")).lines();
        let told = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("old pool") && line.contains(&named));
        assert!(
            told.is_some(),
            "the daemon does not name process {named}, which maps the old pool"
        );
        assert!(
            RawClient::connect(spec.socket()).is_err(),
            "it serves where memory does not allow it"
        );
        let_go(&mut holder);
        let begin = Instant::now();
        // The log goes on being read, so that the daemon never waits for a reader.
        let reader =
            std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        while RawClient::connect(spec.socket()).is_err() {
            if let Some(status) = next.try_wait().unwrap() {
                let log = reader.join().expect("the reader of the log ends with it");
                panic!("the next daemon ended instead of serving: {status}\n{log}");
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "the next daemon does not serve after the old pool is gone"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        waits.add(begin.elapsed());
        next.kill().unwrap();
        next.wait().unwrap();
        reader.join().expect("the reader of the log ends with it");
        daemon = Some(spec.start());
        run.count(1);
    }
    if let Some(daemon) = daemon {
        daemon.finish();
    }
    run.note(format!(
        "serves after the holder's release: {}",
        waits.summary()
    ));
    Ok(())
}
