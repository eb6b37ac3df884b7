//! Sessions from 1 to 64: idle ones, and ones that read.

use super::Plan;
use super::reads::{LARGE, LARGE_ENTRIES, OBJECT_BYTES, small_object_pool};
use crate::measure::runs;
use crate::pool::{Pool, items, remove, store_unwritten};
use crate::report::Report;
use crate::report::curve::{Curve, Series};
use crate::table::{Goal, Row, Unit};
use crate::worker::{BATCH, Work, Worker, together};
use hostkv::session::Session;
use std::time::{Duration, Instant};

const COUNTS: [usize; 4] = [1, 4, 16, 64];

/// The row of the idle daemon, and the curve.
pub fn rows(plan: &Plan, report: &mut Report) -> Result<(), String> {
    idle(plan, report)?;
    by_sessions(plan, report)
}

fn idle(plan: &Plan, report: &mut Report) -> Result<(), String> {
    let seconds = if plan.is_full { 10 } else { 3 };
    let pool = Pool::start(&["--l1-size-gb", "1"])?;
    let sessions = (0..64)
        .map(|_| pool.session())
        .collect::<Result<Vec<Session>, String>>()?;
    let measured = runs(&[pool.pid()], || {
        let (begin, before) = (Instant::now(), pool.cpu_ns()?);
        std::thread::sleep(Duration::from_secs(seconds));
        Ok((pool.cpu_ns()? - before) as f64 / begin.elapsed().as_nanos() as f64)
    })?;
    report.row(
        Row::new(
            format!(
                "idle daemon with {} idle sessions, share of a core",
                sessions.len()
            ),
            Unit::Share,
            measured.median(|share| *share),
            Goal::AtMost(0.001),
        )
        .noise(measured.noise),
    );
    Ok(())
}

/// CPU of a read with so many processes reading, and of a store with so many sessions open.
fn by_sessions(plan: &Plan, report: &mut Report) -> Result<(), String> {
    let live = if plan.is_full { 10_000_000 } else { LARGE };
    let entries = if plan.is_full {
        11_000_000
    } else {
        LARGE_ENTRIES
    };
    let (pool, session, keyspace) = small_object_pool(live - 4096, entries)?;
    let mut reading = Vec::new();
    let mut storing = Vec::new();
    let mut waiting = Vec::new();
    let mut workers: Vec<Worker> = Vec::new();
    let mut next = 1_u64 << 40;
    for count in COUNTS {
        while workers.len() < count {
            let seed = workers.len() as u64;
            workers.push(Worker::start(
                Work::Read(live - 4096),
                &pool.socket(),
                seed,
            )?);
        }
        let measured = runs(&[], || {
            let done = together(&mut workers, Duration::from_millis(500))?;
            if done.keys != done.calls * BATCH as f64 {
                return Err(format!(
                    "{} of {} keys found",
                    done.keys,
                    done.calls * BATCH as f64
                ));
            }
            let mut stored = Vec::new();
            let mut wall = Vec::new();
            let before = pool.loop_cpu_ns()?;
            for _ in 0..64 {
                let items = items(next..next + BATCH as u64, OBJECT_BYTES);
                next += BATCH as u64;
                let begin = Instant::now();
                store_unwritten(&session, keyspace, &items)?;
                wall.push(begin.elapsed().as_nanos() as f64);
                stored.extend(items.iter().map(|item| item.key));
            }
            let cpu = (pool.loop_cpu_ns()? - before) as f64 / 64.0;
            remove(&session, keyspace, &stored)?;
            Ok((
                done.cpu_ns / done.calls,
                cpu,
                crate::measure::median_of(wall),
            ))
        })?;
        reading.push((count as f64, measured.median(|run| run.0)));
        storing.push((count as f64, measured.median(|run| run.1)));
        waiting.push((count as f64, measured.median(|run| run.2)));
    }
    let growth = |points: &[(f64, f64)]| points[points.len() - 1].1 / points[0].1;
    let remark = format!(
        "{:.1} M live keys. From 1 to 64 reading processes a read's CPU grows {:.2} times: readers share no line that anybody \
         writes, so what grows is the processes' own caches and TLBs being refilled after each switch. A store's CPU in the daemon \
         grows {:.2} times: the sessions' rings and slots are looked at by the tick and by scans, not by a store.",
        live as f64 / 1e6,
        growth(&reading),
        growth(&storing),
    );
    report.curves.push(Curve {
        file: "latency-sessions",
        title: "Reading and storing 32 keys against sessions".to_owned(),
        x_label: "sessions",
        x_unit: Unit::Count,
        y_label: "time of a call",
        y_unit: Unit::Nanoseconds,
        series: vec![
            Series {
                name: "acquire + release, CPU of the reader".to_owned(),
                points: reading,
            },
            Series {
                name: "reserve + commit, CPU of the daemon's loop".to_owned(),
                points: storing,
            },
            Series {
                name: "reserve + commit, wall".to_owned(),
                points: waiting,
            },
        ],
        remark,
    });
    Ok(())
}
