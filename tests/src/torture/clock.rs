//! F17: the wall clock jumps under the daemon and its clients.
//!
//! ```text
//!   file of 8 bytes ── mapped by jumping_clock.c, preloaded into hostkvd and the worker ──> their time of day
//!   jump by years, by hours, in small steps ──> held, reserved, waited for: as if nothing had been
//!                                           ──> a second later what is too old expires, and nothing before it
//! ```
//!
//! The time of day can't be set without setting that of the machine, and a namespace has only the clocks that count time
//! without a date: hence a library before the C library's. That it is in place shows in the dates of the log.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hostkv::Status;
use tempfile::{NamedTempFile, TempDir};

use super::{Fault, Run, Skipped};
use crate::{Daemon, DaemonSpec, Worker, keys, keyspace, request, reserve_items, store};

/// Everything that has a time, over jumps.
pub static JUMPS: Fault = Fault {
    id: "F17",
    name: "the wall clock of daemon and client jumps by up to 10 years, in steps and in a slew",
    required: "no lease or reservation expires early or late, no call times out, no session ends: 0 early expiries",
    full_cycles: 100,
    weight: 2,
    run: jumps,
};

/// Both times to live.
const TTL: Duration = Duration::from_secs(2);

/// What a loaded machine may add to it.
const SLACK: Duration = Duration::from_secs(10);

const YEAR_NS: i64 = 31_556_952_000_000_000;
const HOUR_NS: i64 = 3_600_000_000_000;

/// The clock that jumps, and the library that shows it to a program.
#[derive(Debug)]
struct JumpingClock {
    library: PathBuf,
    jump: NamedTempFile,
    _folder: TempDir,
}

impl JumpingClock {
    /// Compiles it; fails where there is no compiler.
    fn build() -> Result<JumpingClock, Skipped> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let library = folder.path().join("jumping_clock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/jumping_clock.c");
        let outcome = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
            ])
            .args([&library, &source])
            .status()
            .map_err(|error| Skipped(format!("there is no C compiler cc ({error})")))?;
        assert!(outcome.success(), "{} does not compile", source.display());
        let jump = NamedTempFile::new().expect("a temporary file can be made");
        let clock = JumpingClock {
            library,
            jump,
            _folder: folder,
        };
        clock.jump_to(0);
        Ok(clock)
    }

    /// From now on the time of day is off by so much.
    fn jump_to(&self, nanoseconds: i64) {
        self.jump
            .as_file()
            .write_all_at(&nanoseconds.to_ne_bytes(), 0)
            .expect("a file of 8 bytes can be written");
    }

    /// The variables of a program that is to see it.
    fn variables(&self) -> [(&'static str, &Path); 2] {
        [
            ("LD_PRELOAD", &self.library),
            ("HOSTKV_TEST_CLOCK", self.jump.path()),
        ]
    }
}

/// Jumps as a run of the cycle's kind has them: a step of years, of hours, or a slew of small steps.
fn jump(run: &mut Run, clock: &JumpingClock) {
    let sign = if run.random.below(2) == 0 { 1 } else { -1 };
    match run.random.below(3) {
        0 => clock.jump_to(sign * (1 + run.random.below(10) as i64) * YEAR_NS),
        1 => clock.jump_to(sign * (1 + run.random.below(48) as i64) * HOUR_NS),
        _ => {
            for step in 1..=100 {
                clock.jump_to(sign * step * 50_000_000);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Panics unless the daemon's log shows a year that is not the one it started in.
fn assert_seen(daemon: &Daemon, clock: &JumpingClock) {
    let year = |line: &str| line.get(1..5).map(str::to_owned);
    let first = daemon.log_text().lines().next().and_then(year);
    clock.jump_to(20 * YEAR_NS);
    drop(daemon.session());
    crate::wait_until("the log shows the jump", || {
        daemon.log_text().lines().next_back().and_then(year) != first
    });
    clock.jump_to(0);
}

fn jumps(run: &mut Run) -> Result<(), Skipped> {
    let clock = JumpingClock::build()?;
    let ttl = TTL.as_secs().to_string();
    let mut spec = DaemonSpec::new(&[
        "--enable-telemetry",
        "--l1-read-ttl-seconds",
        &ttl,
        "--l1-write-ttl-seconds",
        &ttl,
    ]);
    for (name, value) in clock.variables() {
        spec = spec.variable(name, &value.to_string_lossy());
    }
    let daemon = spec.start();
    assert_seen(&daemon, &clock);
    let session = daemon.session();
    let space = keyspace(&session);
    let base = keys("base", 3);
    let socket = daemon.socket();
    let mut variables = clock.variables().to_vec();
    variables.push(("HOSTKV_SOCKET", &socket));
    let mut worker = Worker::start_with(&variables);
    worker.must("open");
    let (mut early, mut judged) = (0, 0);
    store(&session, space, &base, 5000);
    while run.goes_on() {
        let begin = Instant::now();
        worker.must("acquire base 3");
        worker.must("reserve own 4 8000");
        let own = keys("mine", 2);
        let held = session
            .reserve(space, &reserve_items(&own, 5000), &request(0))
            .unwrap();
        jump(run, &clock);
        let verified = worker.ask("verify");
        worker.must("fill");
        let committed = worker.ask("commit");
        let released = worker.ask("release");
        let kept = held.commit();
        // On a loaded machine the half of the time that this takes may be more.
        if begin.elapsed() < TTL {
            judged += 1;
            let is_early = verified != "OK 3"
                || kept.is_err()
                || [&committed, &released]
                    .iter()
                    .any(|answer| !answer.starts_with("OK"));
            early += u32::from(is_early);
            assert!(!is_early, "{verified}, {committed}, {released}, {kept:?}");
        }
        // And what is too old expires, whatever the clock says.
        let late = session
            .reserve(space, &reserve_items(&keys("late", 1), 5000), &request(0))
            .unwrap();
        jump(run, &clock);
        let begin = Instant::now();
        daemon.audit_until("a reservation expires", |audit| audit.reserved_count == 0);
        assert!(begin.elapsed() < TTL + SLACK, "{:?}", begin.elapsed());
        let error = late.commit().expect_err("it is too old");
        assert_eq!(error.status, Status::Expired, "{}", error.message);
        daemon.scrape();
        session.ping().unwrap();
        for (family, count) in [("own", 4), ("mine", 2)] {
            session.remove(space, &keys(family, count), None).unwrap();
        }
        run.count(1);
    }
    run.note(format!("{early} early expiries, {judged} cycles judged"));
    worker.must("close");
    assert!(worker.end().success());
    session.close().unwrap();
    daemon.finish();
    Ok(())
}
