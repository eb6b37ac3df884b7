//! What it costs to be observed: reads with telemetry to a file, scrapes every second and the log at INFO, against the
//! same reads on a daemon that shows nothing of itself.
//!
//! The two daemons run side by side and are read in turns, so that what the machine does meanwhile hits both. A second
//! thread scrapes.
//!
//! ```text
//!   run: read the quiet one for 0.5 s ──> read the observed one for 0.5 s ──> median of each over all runs
//! ```

use super::Plan;
use crate::keys::key;
use crate::limits::copy;
use crate::measure::{Runs, runs};
use crate::pool::{Pool, fill, keyspace, said};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::session::{Request, Session};
use hostkv::{ChunkKey, KeyspaceId};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Keys of a read.
const KEYS: u64 = 16;
const TURN: Duration = Duration::from_millis(500);
/// Room for the keys of one reserve, which is an eighth of the pool at most.
const POOL: [&str; 2] = ["--l1-size-gb", "0.625"];

/// A session that reads.
struct Reader {
    session: Session,
    keyspace: KeyspaceId,
    keys: Vec<ChunkKey>,
    words: usize,
    sums: Vec<u64>,
    read_count: u64,
}

impl Reader {
    fn new(pool: &Pool, len_bytes: u64) -> Result<Reader, String> {
        let session = pool.session()?;
        let keyspace = keyspace(&session)?;
        fill(&session, keyspace, KEYS, len_bytes)?;
        let mut reader = Reader {
            session,
            keyspace,
            keys: (0..KEYS).map(key).collect(),
            words: len_bytes as usize / 8,
            sums: Vec::new(),
            read_count: 0,
        };
        // What every later read must find.
        reader.sums = reader.read()?;
        Ok(reader)
    }

    /// Acquires all keys, reads all their bytes and releases them.
    fn read(&self) -> Result<Vec<u64>, String> {
        let request = Request {
            request_id: Some("bench-request-0001"),
            device: Some("cuda:0"),
            ..Request::default()
        };
        let lease = self
            .session
            .acquire(self.keyspace, &self.keys, &request)
            .map_err(said)?;
        let sums = (0..self.keys.len())
            .map(|index| {
                let span = lease.span(index)?;
                // SAFETY: nobody writes a committed object in this benchmark; the span is aligned to 64 bytes or more.
                Ok(unsafe { copy::sum(span.data, self.words) })
            })
            .collect::<Result<Vec<u64>, hostkv::Error>>()
            .map_err(said)?;
        lease.release().map_err(said)?;
        Ok(sums)
    }

    /// Nanoseconds of a read, over one turn; every read must find the bytes of the first one.
    fn turn(&mut self) -> Result<f64, String> {
        let begin = Instant::now();
        let mut count = 0;
        while begin.elapsed() < TURN {
            if self.read()? != self.sums {
                return Err("a read found other bytes than the first one".to_owned());
            }
            count += 1;
        }
        self.read_count += count;
        Ok(begin.elapsed().as_nanos() as f64 / count as f64)
    }
}

/// A row of reads of 64 KiB a key, faster than a session's events can be told, and one of 4 MiB, all of
/// whose are.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    report.row(row(64 << 10)?);
    report.row(row(4 << 20)?);
    Ok(())
}

fn row(len_bytes: u64) -> Result<Row, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
    let events = folder.path().join("events.jsonl");
    let (pool, address) = observed_pool(&events)?;
    let quiet_pool = Pool::launch(&[&POOL[..], &["--disable-prometheus"]].concat(), "CRITICAL")?;
    let (mut observed, mut quiet) = (
        Reader::new(&pool, len_bytes)?,
        Reader::new(&quiet_pool, len_bytes)?,
    );
    let has_ended = AtomicBool::new(false);
    let (outcome, scrapes) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| scrape_every_second(address, &has_ended));
        let outcome = turns(&mut observed, &mut quiet);
        // Relaxed: only the end of a loop.
        has_ended.store(true, Ordering::Relaxed);
        (outcome, scraper.join())
    });
    let measured = outcome?;
    let scrapes = scrapes.map_err(|_| "the scraper failed".to_owned())??;
    if scrapes < measured.values.len() / 2 {
        return Err(format!(
            "{scrapes} scrapes in {} runs",
            measured.values.len()
        ));
    }
    let text = std::fs::read_to_string(&events).map_err(|error| error.to_string())?;
    let told = text
        .matches("{\"name\":\"retrieve\",\"event_type\":\"END\"")
        .count();
    if told == 0 {
        return Err("no read was told to the telemetry".to_owned());
    }
    let share = told as f64 / observed.read_count as f64 * 100.0;
    Ok(Row::new(
        format!(
            "acquire + read all bytes, {KEYS} keys of {} KiB, all observed",
            len_bytes >> 10
        ),
        Unit::Nanoseconds,
        measured.median(|run| run.0),
        Goal::RatioAtMost(1.05),
    )
    .limit("nobody looking", measured.median(|run| run.1))
    .noise(measured.noise)
    .note(format!("{share:.0} % of the events in the file")))
}

fn observed_pool(events: &Path) -> Result<(Pool, SocketAddr), String> {
    // A port that is free now; a daemon that finds it taken does not start, and the run says so.
    let address = TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))?;
    let port = address.port().to_string();
    let jsonl = format!(
        r#"{{"type": "jsonl", "path": "{}", "max_bytes": 1000000000}}"#,
        events.display()
    );
    let flags = [
        "--enable-telemetry",
        "--telemetry-processor",
        &jsonl,
        "--telemetry-processor",
        r#"{"type": "logging"}"#,
        "--prometheus-port",
        &port,
    ];
    Ok((
        Pool::launch(&[&POOL[..], &flags].concat(), "INFO")?,
        address,
    ))
}

/// Runs of observed and of quiet reads.
fn turns(observed: &mut Reader, quiet: &mut Reader) -> Result<Runs<(f64, f64)>, String> {
    runs(&[], || {
        let limit = quiet.turn()?;
        Ok((observed.turn()?, limit))
    })
}

/// Scrapes until told to end; gives how often.
fn scrape_every_second(address: SocketAddr, has_ended: &AtomicBool) -> Result<usize, String> {
    let fault = |error: std::io::Error| format!("a scrape failed: {error}");
    let mut count = 0;
    let mut next = Instant::now();
    // Relaxed: only the end of a loop.
    while !has_ended.load(Ordering::Relaxed) {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        next += Duration::from_secs(1);
        let mut stream = TcpStream::connect(address).map_err(fault)?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .map_err(fault)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(fault)?;
        if !answer.contains("lmcache_mp:sm_read_requests_total") {
            return Err(format!("a scrape was answered with {answer:?}"));
        }
        count += 1;
    }
    Ok(count)
}
