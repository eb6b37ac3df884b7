//! What readers of L1 feel of a tier that does not work: the p99 of acquires while others store, against that of a daemon
//! without a tier.
//!
//! The two daemons run side by side and are read in turns. While one is read, a second session stores new objects there,
//! which are all to go to its tier.
//!
//! ```text
//!   run: read the quiet one for 0.5 s ──> read the one with the tier for 0.5 s ──> p99 of each; median over all runs
//! ```

use std::time::{Duration, Instant};

use hostkv::session::{Request, Session};
use hostkv::{ChunkKey, KeyspaceId};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};

use crate::keys::key;
use crate::measure::{crowded_runs, percentile_of};
use crate::pool::{Pool, fill, items, keyspace, said, store_unwritten};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};

/// Keys of an acquire.
const KEYS: u64 = 16;
const LEN_BYTES: u64 = 64 << 10;
const TURN: Duration = Duration::from_millis(500);
/// Objects of a store, and the pause behind it.
const STORED: u64 = 8;
const PAUSE: Duration = Duration::from_millis(2);
const FLAGS: [&str; 4] = ["--l1-size-gb", "0.25", "--prometheus-port", "0"];
/// Kind, `timeout_ms` and the row's words. What hangs is never late, so that it holds as much as a tier may all the time; what
/// is slow takes half of its time.
const KINDS: [(&str, u64, &str); 3] = [
    ("hang", 600_000, "hangs"),
    ("slow", 200, "is slow"),
    ("error", 200, "fails"),
];

/// A row for each way in which a tier does not work.
pub fn rows(report: &mut Report) -> Result<(), String> {
    KINDS.into_iter().try_for_each(|(kind, timeout_ms, what)| {
        row(kind, timeout_ms, what).map(|row| report.row(row))
    })
}

fn row(kind: &str, timeout_ms: u64, what: &str) -> Result<Row, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
    let base = folder.path().join("tier");
    let tier = format!(
        r#"{{"type": "fault_inject", "kind": "{kind}", "inner": {{"type": "fs", "base_path": {base:?}, "timeout_ms": {timeout_ms}}}}}"#
    );
    let pool = Pool::launch(&[&FLAGS[..], &["--l2-adapter", &tier]].concat(), "CRITICAL")?;
    let quiet_pool = Pool::launch(&FLAGS, "CRITICAL")?;
    let (mut stalled, mut quiet) = (Turns::new(&pool)?, Turns::new(&quiet_pool)?);
    let measured = crowded_runs(&[pool.pid(), quiet_pool.pid()], || {
        let limit = quiet.turn()?;
        Ok((stalled.turn()?, limit))
    })?;
    Ok(Row::new(
        format!("acquire + release, {KEYS} keys, p99 while a tier {what}"),
        Unit::Nanoseconds,
        measured.median(|run| run.0),
        Goal::RatioAtMost(1.1),
    )
    .limit("no tier", measured.median(|run| run.1))
    .noise(measured.noise))
}

/// A session that reads and one that stores.
struct Turns {
    reader: Session,
    writer: Session,
    keyspace: KeyspaceId,
    writers_keyspace: KeyspaceId,
    keys: Vec<ChunkKey>,
    /// The next key that is stored.
    next: u64,
}

impl Turns {
    fn new(pool: &Pool) -> Result<Turns, String> {
        let (reader, writer) = (pool.session()?, pool.session()?);
        let keyspace_of_reader = keyspace(&reader)?;
        fill(&reader, keyspace_of_reader, KEYS, LEN_BYTES)?;
        Ok(Turns {
            keyspace: keyspace_of_reader,
            writers_keyspace: keyspace(&writer)?,
            reader,
            writer,
            keys: (0..KEYS).map(key).collect(),
            next: KEYS,
        })
    }

    /// The p99 of one turn's acquires, each of which must find all keys.
    fn turn(&mut self) -> Result<f64, String> {
        let has_ended = AtomicBool::new(false);
        let (writer, keyspace, next) = (&self.writer, self.writers_keyspace, self.next);
        let (figures, stored) = std::thread::scope(|scope| {
            let storing = scope.spawn(|| store_until(writer, keyspace, next, &has_ended));
            let figures = acquires(&self.reader, self.keyspace, &self.keys);
            // Relaxed: only the end of a loop.
            has_ended.store(true, Ordering::Relaxed);
            (figures, storing.join())
        });
        self.next = stored.map_err(|_| "the thread that stores failed".to_owned())??;
        Ok(percentile_of(figures?, 0.99))
    }
}

/// Nanoseconds of each acquire and release of one turn.
fn acquires(
    session: &Session,
    keyspace: KeyspaceId,
    keys: &[ChunkKey],
) -> Result<Vec<f64>, String> {
    let begin = Instant::now();
    let mut figures = Vec::new();
    while begin.elapsed() < TURN {
        let start = Instant::now();
        let lease = session
            .acquire(keyspace, keys, &Request::default())
            .map_err(said)?;
        let count = lease.prefix_count();
        lease.release().map_err(said)?;
        figures.push(start.elapsed().as_nanos() as f64);
        if count != keys.len() {
            return Err(format!("{count} of {} keys are there", keys.len()));
        }
    }
    Ok(figures)
}

/// Stores new keys from `next` on until told to end; gives the next one.
fn store_until(
    session: &Session,
    keyspace: KeyspaceId,
    mut next: u64,
    has_ended: &AtomicBool,
) -> Result<u64, String> {
    // Relaxed: only the end of a loop.
    while !has_ended.load(Ordering::Relaxed) {
        store_unwritten(session, keyspace, &items(next..next + STORED, LEN_BYTES))?;
        next += STORED;
        std::thread::sleep(PAUSE);
    }
    Ok(next)
}
