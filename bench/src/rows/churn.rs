//! Reads while a writer stores without end and the evictor runs flat out.

use super::Plan;
use crate::measure::crowded_runs;
use crate::pool::{Pool, fill, keyspace, said};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use crate::worker::{BATCH, Done, Work, Worker};
use std::time::Duration;

const TURN: Duration = Duration::from_millis(500);
/// Keys that are read: all of them are touched again long before the writer has gone once round the pool.
const READ_KEYS: u64 = 4096;
const LEN_BYTES: u64 = 4096;

/// The row.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    // Room for 262144 objects of 4 KiB, in the index too.
    let pool = Pool::start(&["--l1-size-gb", "1", "--max-objects", "300000"])?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    fill(&session, keyspace, READ_KEYS, LEN_BYTES)?;
    let mut reader = Worker::start(Work::Read(READ_KEYS), &pool.socket(), 1)?;
    let mut writer = Worker::start(Work::Churn(LEN_BYTES), &pool.socket(), 1)?;
    let mut missing = 0.0;
    let mut asked = 0.0;
    let mut stored = 0.0;
    // The reader's keys must stay the warmest, so it reads on while nobody is measured.
    let before = session.figures().map_err(said)?.l1_evicted_keys;
    let measured = crowded_runs(&[pool.pid(), reader.pid(), writer.pid()], || {
        let quiet = one(&mut reader)?;
        writer.go(TURN + TURN / 5)?;
        let churned = one(&mut reader)?;
        stored += writer.done()?.keys;
        missing += churned.calls * BATCH as f64 - churned.keys;
        asked += churned.calls * BATCH as f64;
        if quiet.keys < quiet.calls * BATCH as f64 * 0.999 {
            fill(&session, keyspace, READ_KEYS, LEN_BYTES)?;
        }
        Ok((quiet, churned))
    })?;
    let evicted = session.figures().map_err(said)?.l1_evicted_keys - before;
    if evicted < 100_000 {
        return Err(format!(
            "only {evicted} objects were evicted, so nothing churned"
        ));
    }
    report.row(
        Row::new(
            format!("acquire + release {BATCH} keys while a writer churns and the evictor runs, keys a CPU-second"),
            Unit::PerCpuSecond,
            measured.median(|run| run.1.keys_per_cpu_second()),
            Goal::RatioAtLeast(0.90),
        )
        .limit("quiet", measured.median(|run| run.0.keys_per_cpu_second()))
        .noise(measured.noise)
        .note(format!(
            "{:.1} M objects stored, {:.1} M evicted meanwhile; {:.4} % of the reader's keys were missing",
            stored / 1e6,
            evicted as f64 / 1e6,
            missing / asked * 100.0
        )),
    );
    Ok(())
}

fn one(reader: &mut Worker) -> Result<Done, String> {
    reader.go(TURN)?;
    reader.done()
}
