//! Stores without a round trip: what one takes while the daemon is awake, and how long after the commit another session
//! finds the object when the daemon was asleep.

use super::bytes::{Bench, WORD};
use super::stores::Bare;
use crate::limits::ring::hand_over_ns;
use crate::limits::trip::Echo;
use crate::measure::{median_of, percentile_of, runs};
use crate::pool::{Pool, items, keyspace, remove, said, session, store, store_unwritten};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::session::{ASYNC_COMMIT, READ_ONLY};
use std::time::{Duration, Instant};

/// A pool whose daemon stays awake between two stores.
const AWAKE_POOL: [&str; 4] = ["--l1-size-gb", "1", "--spin-us", "50"];
const LEN: u64 = 64 << 10;
/// Stores of a run while the daemon is awake.
const STORES: u64 = 512;

/// Both rows.
pub fn rows(report: &mut Report, echo: &Echo) -> Result<(), String> {
    awake(report, echo)?;
    until_found(report, echo)
}

fn awake(report: &mut Report, echo: &Echo) -> Result<(), String> {
    let work = "store 64 KiB with HOSTKV_SESSION_ASYNC_COMMIT, daemon awake";
    let Some(hand_over) = hand_over_ns(100_000) else {
        report.row(Row::absent(
            work,
            "both ends can't be awake on one processor",
        ));
        return Ok(());
    };
    let pool = Pool::start(&AWAKE_POOL)?;
    pool.bind_apart()?;
    let session = session(&pool.socket(), ASYNC_COMMIT)?;
    let keyspace = keyspace(&session)?;
    let bench = Bench {
        pool: &pool,
        session: &session,
        keyspace,
        echo,
    };
    let source = vec![WORD; LEN as usize / 8];
    let mut next = 1 << 40;
    let measured = runs(&[pool.pid()], || {
        let items = items(next..next + STORES, LEN);
        next += STORES;
        let keys: Vec<_> = items.iter().map(|item| item.key).collect();
        let mut figures = Vec::new();
        // One after the other, so that the daemon has no time to fall asleep.
        for item in items.chunks(1) {
            let begin = Instant::now();
            store(&session, keyspace, item, &source)?;
            figures.push(begin.elapsed().as_nanos() as f64);
        }
        session.flush().map_err(said)?;
        bench.check(&keys, LEN)?;
        remove(&session, keyspace, &keys)?;
        let mut bare = Bare::new(&bench, &source)?;
        let copy = bare.visible_copy_ns()?;
        bare.end()?;
        Ok((median_of(figures), copy))
    })?;
    let copy = measured.median(|run| run.1);
    report.row(
        Row::new(
            work,
            Unit::Nanoseconds,
            measured.median(|run| run.0),
            Goal::RatioAtMost((1.2 * copy + hand_over) / (copy + hand_over)),
        )
        .limit("copy until visible + 1 hand-over", copy + hand_over)
        .noise(measured.noise)
        .note("target: 1.2 x copy + 1 hand-over"),
    );
    Ok(())
}

/// From a commit through the ring until another session finds the key; before each the daemon has time to fall asleep.
fn until_found(report: &mut Report, echo: &Echo) -> Result<(), String> {
    const COMMITS: u64 = 100;
    const ASLEEP: Duration = Duration::from_millis(2);
    /// What the write path without a round trip promises.
    const WITHIN_NS: f64 = 1e6;
    let pool = Pool::start(&["--l1-size-gb", "1"])?;
    pool.bind_apart()?;
    let writer = session(&pool.socket(), ASYNC_COMMIT)?;
    let reader = session(&pool.socket(), READ_ONLY)?;
    let (of_writer, of_reader) = (keyspace(&writer)?, keyspace(&reader)?);
    let mut next = 1_u64 << 40;
    let measured = runs(&[pool.pid()], || {
        let mut figures = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..COMMITS {
            std::thread::sleep(ASLEEP);
            let items = items([next], LEN);
            next += 1;
            let key = [items[0].key];
            store_unwritten(&writer, of_writer, &items)?;
            let begin = Instant::now();
            while reader.lookup(of_reader, &key, None).map_err(said)? == 0 {
                std::hint::spin_loop();
            }
            figures.push(begin.elapsed().as_nanos() as f64);
            keys.extend(key);
        }
        remove(&writer, of_writer, &keys)?;
        Ok((
            median_of(figures.clone()),
            percentile_of(figures, 0.99),
            median_of(echo.trips_ns(200)?),
        ))
    })?;
    report.row(
        Row::new(
            "from a commit through the ring until another session finds the object, daemon asleep, p99",
            Unit::Nanoseconds,
            measured.median(|run| run.1),
            Goal::AtMost(WITHIN_NS),
        )
        .limit("a round trip", measured.median(|run| run.2))
        .noise(measured.noise)
        .note(format!(
            "half within {}",
            Unit::Nanoseconds.show(measured.median(|run| run.0))
        )),
    );
    Ok(())
}
