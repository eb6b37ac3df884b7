//! Two processes that read at once, each as fast for a second of CPU as one alone.

use super::Plan;
use super::reads::{LARGE, LARGE_ENTRIES, small_object_pool};
use crate::measure::{Runs, crowded_runs, median_of};
use crate::peers::{Lmdb, Peer};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use crate::worker::{BATCH, Done, Work, Worker, together};
use std::path::Path;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(400);

/// The row.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    let (pool, _session, _) = small_object_pool(LARGE, LARGE_ENTRIES)?;
    let ours = alone_and_both(Work::Read(LARGE), &pool.socket())?;
    let of_lmdb = {
        let mut lmdb = Lmdb::start()?;
        lmdb.fill(LARGE, super::reads::OBJECT_BYTES as usize)?;
        alone_and_both(Work::ReadLmdb(LARGE), &lmdb.folder())?
    };
    let rate = |runs: &Runs<(Done, Done)>, part: fn(&(Done, Done)) -> &Done| {
        median_of(
            runs.values
                .iter()
                .map(|run| part(run).keys_per_cpu_second())
                .collect(),
        )
    };
    let wall = |part: fn(&(Done, Done)) -> &Done| {
        ours.median(|run| part(run).keys / part(run).wall_ns * 1e9)
    };
    report.row(
        Row::new(
            format!(
                "two processes acquire + release {BATCH} of 1 Mi keys at once, keys a CPU-second"
            ),
            Unit::PerCpuSecond,
            rate(&ours, |run| &run.1),
            Goal::RatioAtLeast(0.95),
        )
        .limit("one alone", rate(&ours, |run| &run.0))
        .peers(vec![("LMDB, two at once", rate(&of_lmdb, |run| &run.1))])
        .noise(ours.noise)
        .note(format!(
            "wall, not gated: {} alone, {} both",
            Unit::PerCpuSecond.show(wall(|run| &run.0)),
            Unit::PerCpuSecond.show(wall(|run| &run.1)),
        )),
    );
    Ok(())
}

/// Runs of one process alone and of two at once.
fn alone_and_both(work: Work, at: &Path) -> Result<Runs<(Done, Done)>, String> {
    let mut workers = [Worker::start(work, at, 1)?, Worker::start(work, at, 2)?];
    let pids = workers.each_ref().map(Worker::pid);
    crowded_runs(&pids, || {
        let alone = together(&mut workers[..1], TURN)?;
        let both = together(&mut workers, TURN)?;
        for done in [alone, both] {
            if done.keys != done.calls * BATCH as f64 {
                return Err(format!(
                    "{} of {} keys found",
                    done.keys,
                    done.calls * BATCH as f64
                ));
            }
        }
        Ok((alone, both))
    })
}
