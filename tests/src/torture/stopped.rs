//! F2: a client is stopped while it holds pins and a reservation, by SIGSTOP or by the freezer.
//!
//! ```text
//!   worker: pins 3, reserves 4, writes ── stopped for seconds ── goes on: reads, commits, or EXPIRED
//!   writer: stores all the time           quiet | stopped | quiet: three rates
//! ```
//!
//! The others' rate is judged where the machine lets it be seen: in a long run whose two quiet rates agree within a
//! tenth in the median. The gauge of the oldest pin shows who stands still.

use std::time::{Duration, Instant};

use hostkv::session::Session;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::verify::Writer;
use super::{Fault, Run, Skipped, Stage};
use crate::cgroup::Cgroup;
use crate::{Worker, keys, keyspace, store, wait_until};

/// Stopped by a signal.
pub static BY_SIGNAL: Fault = Fault {
    id: "F2",
    name: "a client is SIGSTOPped with pins and a reservation",
    required: "writers of others >= 90 %, the oldest pin's gauge, resumes as if nothing had been",
    full_cycles: 100,
    weight: 4,
    run: |run| stopped(run, &How::Signal),
};

/// Stopped by the freezer.
pub static BY_FREEZER: Fault = Fault {
    id: "F2",
    name: "a client is frozen by its cgroup with pins and a reservation",
    required: "writers of others >= 90 %, the oldest pin's gauge, resumes as if nothing had been",
    full_cycles: 100,
    weight: 2,
    run: |run| stopped(run, &How::Freezer(Cgroup::freezable().map_err(Skipped)?)),
};

/// Stopped for longer than its leases live.
pub static BEYOND_ITS_TIME: Fault = Fault {
    id: "F2",
    name: "a client is SIGSTOPped for longer than the times to live",
    required: "EXPIRED at check and commit, its space is others', then it goes on",
    full_cycles: 100,
    weight: 2,
    run: beyond_its_time,
};

/// What stops a process.
enum How {
    Signal,
    Freezer(Cgroup),
}

impl How {
    fn stop(&self, worker: &Worker, is_stopped: bool) {
        match self {
            How::Signal => {
                let signal = if is_stopped {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGCONT
                };
                kill(Pid::from_raw(worker.pid() as i32), signal).unwrap();
            }
            How::Freezer(group) => group.freeze(is_stopped).unwrap(),
        }
    }
}

/// How long the rates are taken.
const WINDOW: Duration = Duration::from_millis(300);

/// The longest stop.
const LONGEST: Duration = Duration::from_secs(120);

/// Keys of the writer; they fit, so that the evictor's work does not blur the rates.
const KEYS: u32 = 1024;

/// Rounds a second of a writer.
fn rate(writer: &mut Writer<'_>, window: Duration) -> f64 {
    let begin = Instant::now();
    let mut rounds = 0_u32;
    while begin.elapsed() < window {
        writer.round();
        rounds += 1;
    }
    f64::from(rounds) / begin.elapsed().as_secs_f64()
}

/// The median; 0 of nothing.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// A worker that holds 3 pins and 4 written reservations.
fn holding(stage: &Stage) -> Worker {
    let mut worker = Worker::start(&stage.daemon);
    for order in ["open", "acquire base 3", "reserve own 4 8000", "fill"] {
        worker.must(order);
    }
    worker
}

fn stopped(run: &mut Run, how: &How) -> Result<(), Skipped> {
    let mut stage = Stage::new(&[]);
    let session: Session = stage.daemon.session();
    stage.expect_sessions(1);
    let space = keyspace(&session);
    let base = keys("base", 3);
    let mut writer = Writer::new(&session, 0, KEYS, 1, run.random.next_word());
    let (mut ratios, mut quiets) = (Vec::new(), Vec::new());
    let mut longest = Duration::ZERO;
    while run.goes_on() {
        store(&session, space, &base, 5000);
        let mut worker = holding(&stage);
        if let How::Freezer(group) = how {
            group.take(worker.pid()).map_err(Skipped)?;
        }
        // As long as the time that is left allows for the cycles that are left.
        let most = match run.time_left() {
            None => Duration::from_secs(1),
            Some(left) => {
                (left / (run.wanted() - run.done()) as u32).clamp(Duration::from_secs(1), LONGEST)
            }
        };
        let stop = Duration::from_secs(1).max(
            most.mul_f64(run.random.below(1000) as f64 / 500.0)
                .min(LONGEST),
        );
        let before = rate(&mut writer, WINDOW);
        how.stop(&worker, true);
        let begin = Instant::now();
        // It has no key any more and keeps the bytes.
        session.remove(space, &base, None).unwrap();
        let during = rate(&mut writer, WINDOW);
        wait_until("the oldest pin ages", || {
            stage.daemon.scrape().sample("hostkv_oldest_pin_seconds") > 0.9
        });
        // The bystander's own are there for a moment each.
        wait_until("its pins alone keep what has no key", || {
            stage.audit().zombie_count == 3
        });
        while begin.elapsed() < stop {
            writer.round();
            std::thread::sleep(Duration::from_millis(20));
        }
        how.stop(&worker, false);
        longest = longest.max(begin.elapsed());
        let after = rate(&mut writer, WINDOW);
        ratios.push(during / ((before + after) / 2.0));
        quiets.push(before / after);
        assert_eq!(
            worker.must("verify"),
            "3",
            "a stopped client's lease lost its bytes"
        );
        worker.must("check");
        worker.must("commit");
        assert_eq!(worker.must("lookup own 4"), "4");
        worker.must("remove own 4");
        worker.must("release");
        worker.must("close");
        assert!(worker.end().success());
        run.count(1);
    }
    // On a machine that others use, two quiet windows differ as much as a quiet one and another.
    let calm = |quiet: &&f64| (0.9..1.1).contains(*quiet);
    let is_calm = quiets.iter().filter(calm).count() * 2 > quiets.len();
    let ratio = median(ratios);
    run.note(format!(
        "others' writes {:.0} % of quiet, longest stop {longest:.0?}",
        ratio * 100.0
    ));
    if !run.is_short() && run.done() >= 5 {
        if is_calm {
            assert!(
                ratio >= 0.9,
                "others write at {ratio:.2} of their quiet rate"
            );
        } else {
            run.note("too busy a machine to judge the rate");
        }
    }
    drop(writer);
    session.close().unwrap();
    stage.finish(run);
    Ok(())
}

fn beyond_its_time(run: &mut Run) -> Result<(), Skipped> {
    let mut stage = Stage::new(&["--l1-read-ttl-seconds", "1", "--l1-write-ttl-seconds", "1"]);
    let session = stage.daemon.session();
    stage.expect_sessions(1);
    let space = keyspace(&session);
    let base = keys("base", 3);
    while run.goes_on() {
        store(&session, space, &base, 5000);
        let mut worker = holding(&stage);
        How::Signal.stop(&worker, true);
        session.remove(space, &base, None).unwrap();
        // Its objects are taken from its pins, and its reservation no longer reserves.
        stage.daemon.audit_until("what it holds expires", |audit| {
            audit.zombie_bytes == 0 && audit.reserved_count == 0
        });
        How::Signal.stop(&worker, false);
        let check = worker.ask("check");
        assert!(check.starts_with("EXPIRED"), "{check}");
        let commit = worker.ask("commit");
        assert!(commit.starts_with("EXPIRED"), "{commit}");
        assert!(worker.ask("release").starts_with("EXPIRED"));
        // And it goes on.
        for order in ["reserve own 4 8000", "fill", "commit", "acquire own 4"] {
            worker.must(order);
        }
        assert_eq!(worker.must("verify"), "4");
        worker.must("release");
        worker.must("remove own 4");
        worker.must("close");
        assert!(worker.end().success());
        run.count(1);
    }
    session.close().unwrap();
    stage.finish(run);
    Ok(())
}
