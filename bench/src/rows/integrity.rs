//! What checksums cost: the same stores and reads on three daemons, in turns.

use super::Plan;
use crate::keys::key;
use crate::limits::copy;
use crate::measure::runs;
use crate::pool::{Pool, items, keyspace, remove, said, store};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::session::Session;
use hostkv::{ChunkKey, KeyspaceId};
use std::time::{Duration, Instant};

const MODES: [&str; 3] = ["off", "sampled", "full"];
const KEYS: u64 = 16;
const LEN: u64 = 1 << 20;
const TURN: Duration = Duration::from_millis(300);

struct Bench {
    pool: Pool,
    session: Session,
    keyspace: KeyspaceId,
}

/// What a turn cost, in nanoseconds an object.
struct Cost {
    read: f64,
    store: f64,
    daemon: f64,
}

/// One of the figures.
type Part = fn(&Cost) -> f64;

/// A row for each mode and kind of work; none is gated.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    let benches = MODES
        .iter()
        .map(|mode| {
            let pool = Pool::start(&["--l1-size-gb", "1", "--integrity", mode])?;
            let session = pool.session()?;
            let keyspace = keyspace(&session)?;
            Ok(Bench {
                pool,
                session,
                keyspace,
            })
        })
        .collect::<Result<Vec<Bench>, String>>()?;
    let source = vec![0x5a5a_5a5a_5a5a_5a5a_u64; LEN as usize / 8];
    let pids: Vec<u32> = benches.iter().map(|bench| bench.pool.pid()).collect();
    let measured = runs(&pids, || {
        benches
            .iter()
            .map(|bench| bench.turn(&source))
            .collect::<Result<Vec<Cost>, String>>()
    })?;
    let kinds: [(&str, Part); 3] = [
        ("acquire + read all bytes", |cost| cost.read),
        ("store", |cost| cost.store),
        ("store and its background work, daemon CPU", |cost| {
            cost.daemon
        }),
    ];
    for (what, of) in kinds {
        for (at, mode) in MODES.iter().enumerate().skip(1) {
            report.row(
                Row::new(
                    format!("integrity {mode}: {what}, 1 MiB, an object"),
                    Unit::Nanoseconds,
                    measured.median(|run| of(&run[at])),
                    Goal::Shown,
                )
                .limit("integrity off", measured.median(|run| of(&run[0])))
                .noise(measured.noise),
            );
        }
    }
    Ok(())
}

impl Bench {
    fn turn(&self, source: &[u64]) -> Result<Cost, String> {
        let keys: Vec<ChunkKey> = (0..KEYS).map(key).collect();
        let items = items(0..KEYS, LEN);
        let (begin, cpu) = (Instant::now(), self.pool.cpu_ns()?);
        let (mut stores, mut reads) = (0.0, 0.0);
        let (mut store_ns, mut read_ns) = (0.0, 0.0);
        while begin.elapsed() < TURN {
            let start = Instant::now();
            store(&self.session, self.keyspace, &items, source)?;
            store_ns += start.elapsed().as_nanos() as f64;
            stores += KEYS as f64;
            for _ in 0..4 {
                let start = Instant::now();
                self.read(&keys)?;
                read_ns += start.elapsed().as_nanos() as f64;
                reads += KEYS as f64;
            }
            remove(&self.session, self.keyspace, &keys)?;
        }
        Ok(Cost {
            read: read_ns / reads,
            store: store_ns / stores,
            daemon: (self.pool.cpu_ns()? - cpu) as f64 / stores,
        })
    }

    fn read(&self, keys: &[ChunkKey]) -> Result<(), String> {
        let lease = self
            .session
            .acquire(self.keyspace, keys, &Default::default())
            .map_err(said)?;
        for index in 0..keys.len() {
            let span = lease.span(index).map_err(said)?;
            // SAFETY: nobody writes a committed object here; the span is aligned to 64 bytes or more.
            let sum = unsafe { copy::sum(span.data, LEN as usize / 8) };
            if sum != 0x5a5a_5a5a_5a5a_5a5a_u64.wrapping_mul(LEN / 8) {
                return Err("bytes were read that nobody stored".to_owned());
            }
        }
        lease.release().map_err(said)
    }
}
