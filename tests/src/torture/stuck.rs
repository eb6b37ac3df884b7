//! F20: the log goes nowhere: a pipe that nobody reads, one that is closed, a full disk.
//!
//! ```text
//!   LMCACHE_LOG_LEVEL=DEBUG: several lines a commit ── queue of bounded length ── writer thread ── (stuck)
//!   a client stores and removes: as ever
//! ```

use std::time::{Duration, Instant};

use super::{Fault, Run, Skipped, Timings};
use crate::{Daemon, DaemonSpec, keys, keyspace, request, reserve_items};

/// All three.
pub static LOG: Fault = Fault {
    id: "F20",
    name: "the daemon logs at DEBUG into a stuck pipe, a closed pipe, a full disk",
    required: "0 stalls, no SIGPIPE, a clean end",
    full_cycles: 3600,
    weight: 2,
    run: into_nowhere,
};

/// Commits of a cycle.
const COMMITS: usize = 200;

/// What a loaded machine may take for one call.
const SANE: Duration = Duration::from_secs(2);

/// A daemon whose log ends in this way.
fn start(how: usize) -> Daemon {
    let spec = DaemonSpec::new(&["--disable-prometheus"]).variable("LMCACHE_LOG_LEVEL", "DEBUG");
    match how {
        0 => spec.with_stuck_stderr(),
        // The reader of the pipe has ended before the first line comes.
        1 => spec
            .wrapped(&["bash", "-c", "exec \"$@\" 2> >(exec true)", "bash"])
            .with_stuck_stderr(),
        _ => spec
            .wrapped(&["sh", "-c", "exec \"$@\" 2> /dev/full", "sh"])
            .with_stuck_stderr(),
    }
    .start()
}

fn into_nowhere(run: &mut Run) -> Result<(), Skipped> {
    let mut calls = Timings::default();
    let per_daemon = (run.wanted() / 3).clamp(1, 200);
    for how in (0..3).cycle() {
        if !run.goes_on() {
            break;
        }
        let mut daemon = start(how);
        let session = daemon.session();
        let space = keyspace(&session);
        let one = keys("k", 1);
        for _ in 0..per_daemon {
            for _ in 0..COMMITS {
                let begin = Instant::now();
                let items = reserve_items(&one, 64);
                let reservation = session.reserve(space, &items, &request(0)).unwrap();
                reservation.commit().unwrap();
                session.remove(space, &one, None).unwrap();
                calls.add(begin.elapsed());
            }
            run.count(1);
            if !run.goes_on() {
                break;
            }
        }
        session.close().unwrap();
        daemon.stop();
    }
    let worst = calls.at(1.0);
    run.note(format!("reserve, commit and remove {}", calls.summary()));
    assert!(worst < SANE, "a call stood still for {worst:?}");
    Ok(())
}
