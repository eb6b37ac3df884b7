//! Storing and reading objects, against copying and summing the same bytes in the same mapping, and round trips.

use super::stores::Stored;
use super::{Plan, async_commits};
use crate::keys::key;
use crate::limits::copy::{self, copies};
use crate::limits::pages::{Pages, Region, touch_ns};
use crate::limits::ring::hand_over_ns;
use crate::limits::trip::Echo;
use crate::measure::{RUNS, Runs, median_of, runs, typical_ns};
use crate::peers::{self, Peer};
use crate::pool::{Pool, items, keyspace, remove, said, store, store_unwritten};
use crate::report::Report;
use crate::report::curve::{Curve, Series, capacities, explain};
use crate::table::{Goal, Row, Unit};
use hostkv::session::Session;
use hostkv::{ChunkKey, KeyspaceId};
use std::time::Instant;

/// What every stored word is.
pub(super) const WORD: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// Bytes that a run stores, so that larger objects do not take longer.
pub(super) const RUN_BYTES: u64 = 64 << 20;
/// Bytes of the objects that are read in turns, more than caches hold, if so many are enough and no more than one call takes.
const READ_BYTES: u64 = 64 << 20;
const LEAST_READ_OBJECTS: u64 = 16;
const MOST_READ_OBJECTS: u64 = 1024;
/// The next object that is read is so many further on, so that no prefetcher runs from one object into the next one that
/// is asked for. Odd, hence coprime to the number of objects, which is a power of two.
const READ_STRIDE: usize = 7;
/// A pool whose reserve quota (an eighth) has room for 32 objects of 16 MiB.
const POOL: [&str; 2] = ["--l1-size-gb", "4"];

/// What the machine does with bytes, whoever asks.
pub fn limits(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    const LEN: usize = 64 << 20;
    let source = vec![WORD; LEN / 8];
    for pages in [Pages::Small, Pages::Huge] {
        let region = Region::new(LEN, pages)?;
        for len in [64 << 10, 1 << 20, 4 << 20] {
            let at = |turn: usize| turn * len % LEN;
            for (name, copy) in copies() {
                let runs = runs(&[], || {
                    typical_ns(LEN / len, 1, |turn| {
                        // SAFETY: both ranges are `LEN` bytes long, ours, and multiples of 256.
                        unsafe {
                            copy(
                                region.bytes().add(at(turn)),
                                source.as_ptr().cast::<u8>().add(at(turn)),
                                len,
                            );
                        }
                        Ok(())
                    })
                })?;
                report.limit(
                    format!("copy {} KiB, {name}, {}", len >> 10, pages.name()),
                    Unit::Nanoseconds,
                    runs.median(|ns| *ns),
                );
            }
            let runs = runs(&[], || {
                typical_ns(LEN / len, 1, |turn| {
                    // SAFETY: as above; nobody writes now.
                    let sum = unsafe { copy::sum(region.bytes().add(at(turn)), len / 8) };
                    is_right(sum, len)
                })
            })?;
            report.limit(
                format!("read {} KiB, {}", len >> 10, pages.name()),
                Unit::Nanoseconds,
                runs.median(|ns| *ns),
            );
        }
        let runs = runs(&[], || Ok(region.map_again()?.touch_all()))?;
        report.limit(
            format!(
                "first touch of a second mapping of 64 MiB, {}",
                pages.name()
            ),
            Unit::Nanoseconds,
            runs.median(|ns| *ns),
        );
    }
    let fresh = runs(&[], || {
        let fresh = vec![0_u8; LEN];
        // SAFETY: the vector is `LEN` bytes long.
        Ok(unsafe { touch_ns(fresh.as_ptr(), LEN) } / (LEN / 4096) as f64)
    })?;
    report.limit(
        "page fault, 4 KiB",
        Unit::Nanoseconds,
        fresh.median(|ns| *ns),
    );
    let echo = Echo::start()?;
    let trips = runs(&[], || Ok(median_of(echo.trips_ns(1000)?)))?;
    report.limit("trip, 64 bytes", Unit::Nanoseconds, trips.median(|ns| *ns));
    match hand_over_ns(100_000) {
        Some(ns) => report.limit(
            "hand-over of a ring, both ends awake",
            Unit::Nanoseconds,
            ns,
        ),
        None => report.skip("the hand-over of a ring: both ends can't be awake on one processor"),
    }
    Ok(())
}

fn is_right(sum: u64, len: usize) -> Result<(), String> {
    if sum == WORD.wrapping_mul(len as u64 / 8) {
        Ok(())
    } else {
        Err(format!("{len} bytes were read that nobody stored"))
    }
}

/// The rows, and the curve against the object's size.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    let mut peers = peers::start(report);
    let mut series: Vec<Series> = [
        "acquire + read",
        "store in batches",
        "store one by one",
        "read (limit)",
        "copy (limit)",
    ]
    .map(|name| Series {
        name: name.to_owned(),
        points: Vec::new(),
    })
    .to_vec();
    let echo = Echo::start()?;
    // One pool for all sizes: where its pages lie is the same for all.
    let pool = Pool::start(&POOL)?;
    pool.bind_apart()?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    let bench = Bench {
        pool: &pool,
        session: &session,
        keyspace,
        echo: &echo,
    };
    for (len, is_row) in [
        (16_u64 << 10, false),
        (64 << 10, true),
        (256 << 10, false),
        (1 << 20, true),
        (4 << 20, true),
        (16 << 20, false),
    ] {
        let store = bench.store(len)?;
        let read = bench.read(len)?;
        let per_second = |ns: f64| len as f64 / ns * 1e9 / (1_u64 << 30) as f64;
        let figures = [
            read.median(|run| run.0),
            store.median(|run| run.batched),
            store.median(|run| run.single),
            read.median(|run| run.1),
            store.median(|run| run.limit.copy),
        ];
        for (series, ns) in series.iter_mut().zip(figures) {
            series.points.push((len as f64, per_second(ns)));
        }
        if is_row {
            let of_peers = peers
                .iter_mut()
                .map(|peer| PeerBytes::measure(peer.as_mut(), len))
                .collect::<Result<Vec<PeerBytes>, String>>()?;
            add_rows(report, len, &store, &read, &of_peers);
        }
    }
    control_row(report, &bench)?;
    async_commits::rows(report, &echo)?;
    let invert = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points
            .iter()
            .map(|(len, rate)| (*len, 1.0 / rate))
            .collect()
    };
    let remark = format!(
        "Reading, {} MiB of objects in turns but {LEAST_READ_OBJECTS} to {MOST_READ_OBJECTS}, time a byte: {} Storing one by one pays two round trips an object, so it \
         reaches the copy only where the copy takes much longer than they do; in batches of {} MiB it does everywhere.",
        READ_BYTES >> 20,
        explain(
            &invert(&series[0].points),
            Unit::Bytes,
            |len| len * read_objects(len as u64) as f64,
            &capacities(2 << 20)
        ),
        BATCH_BYTES >> 20,
    );
    report.curves.push(Curve {
        file: "throughput-size",
        title: "Storing and reading: throughput against object size".to_owned(),
        x_label: "object size",
        x_unit: Unit::Bytes,
        y_label: "GiB a second",
        y_unit: Unit::GibPerSecond,
        series,
        remark,
    });
    Ok(())
}

/// Most bytes of a batch.
const BATCH_BYTES: u64 = 128 << 20;

pub(super) fn batch_of(len: u64) -> u64 {
    (BATCH_BYTES / len).clamp(2, 32)
}

/// Objects of a length that are read in turns.
fn read_objects(len: u64) -> u64 {
    (READ_BYTES / len).clamp(LEAST_READ_OBJECTS, MOST_READ_OBJECTS)
}

pub(super) struct Bench<'a> {
    pub(super) pool: &'a Pool,
    pub(super) session: &'a Session,
    pub(super) keyspace: KeyspaceId,
    pub(super) echo: &'a Echo,
}

impl Bench<'_> {
    /// Reads what was stored, every byte of it.
    pub(super) fn check(&self, stored: &[ChunkKey], len: u64) -> Result<(), String> {
        stored.iter().try_for_each(|key| self.read_one(key, len))
    }

    fn read_one(&self, key: &ChunkKey, len: u64) -> Result<(), String> {
        let lease = self
            .session
            .acquire(
                self.keyspace,
                std::slice::from_ref(key),
                &Default::default(),
            )
            .map_err(said)?;
        let span = lease.span(0).map_err(said)?;
        // SAFETY: nobody writes a committed object here; the span is aligned to 64 bytes or more.
        let sum = unsafe { copy::sum(span.data, len as usize / 8) };
        lease.release().map_err(said)?;
        is_right(sum, len as usize)
    }

    /// Acquires and reads objects in turns, and sums the same bytes without asking, in every run.
    fn read(&self, len: u64) -> Result<Runs<(f64, f64)>, String> {
        let source = vec![WORD; len as usize / 8];
        let numbers = (1_u64 << 60)..(1 << 60) + read_objects(len);
        let keys: Vec<ChunkKey> = numbers.clone().map(key).collect();
        let items = items(numbers, len);
        for items in items.chunks(batch_of(len) as usize) {
            store(self.session, self.keyspace, items, &source)?;
        }
        let lease = self
            .session
            .acquire(self.keyspace, &keys, &Default::default())
            .map_err(said)?;
        let spans = (0..keys.len())
            .map(|index| lease.span(index).map_err(said))
            .collect::<Result<Vec<_>, String>>()?;
        let turns = (RUN_BYTES * 4 / len).clamp(64, 4096) as usize;
        let at = |turn: usize| turn * READ_STRIDE % keys.len();
        let measured = runs(&[], || {
            let ours = typical_ns(turns, 1, |turn| self.read_one(&keys[at(turn)], len))?;
            let limit = typical_ns(turns, 1, |turn| {
                // SAFETY: the lease keeps the span readable, and nobody writes it.
                let sum = unsafe { copy::sum(spans[at(turn)].data, len as usize / 8) };
                is_right(sum, len as usize)
            })?;
            Ok((ours, limit))
        })?;
        lease.release().map_err(said)?;
        remove(self.session, self.keyspace, &keys)?;
        Ok(measured)
    }
}

/// A peer's nanoseconds an object.
struct PeerBytes {
    name: &'static str,
    is_batching: bool,
    single: f64,
    batched: f64,
    read: f64,
}

impl PeerBytes {
    fn measure(peer: &mut dyn Peer, len: u64) -> Result<PeerBytes, String> {
        let bytes: Vec<u8> = WORD.to_le_bytes().repeat(len as usize / 8);
        let keys: Vec<ChunkKey> = (0..read_objects(len)).map(key).collect();
        peer.clear()?;
        // The first round makes the room that later ones write into.
        peer.store(&keys, &bytes)?;
        let mut figures = [const { Vec::new() }; 3];
        let start = Instant::now();
        for _ in 0..RUNS {
            peer.make_room(&keys)?;
            for key in &keys {
                let begin = Instant::now();
                peer.store(std::slice::from_ref(key), &bytes)?;
                figures[0].push(begin.elapsed().as_nanos() as f64);
            }
            peer.make_room(&keys)?;
            let begin = Instant::now();
            peer.store(&keys, &bytes)?;
            figures[1].push(begin.elapsed().as_nanos() as f64 / keys.len() as f64);
            for key in &keys {
                let begin = Instant::now();
                let sum = peer.sum(key, len as usize)?;
                figures[2].push(begin.elapsed().as_nanos() as f64);
                is_right(sum, len as usize)?;
            }
            if start.elapsed().as_secs() > 10 {
                break;
            }
        }
        let [single, batched, read] = figures.map(median_of);
        Ok(PeerBytes {
            name: peer.name(),
            is_batching: peer.batches_stores(),
            single,
            batched,
            read,
        })
    }
}

fn add_rows(
    report: &mut Report,
    len: u64,
    store: &Runs<Stored>,
    read: &Runs<(f64, f64)>,
    peers: &[PeerBytes],
) {
    let size = if len < 1 << 20 {
        format!("{} KiB", len >> 10)
    } else {
        format!("{} MiB", len >> 20)
    };
    let batch = batch_of(len) as f64;
    let of_peers = |figure: fn(&PeerBytes) -> f64| -> Vec<(&'static str, f64)> {
        peers.iter().map(|peer| (peer.name, figure(peer))).collect()
    };
    report.row(
        Row::new(
            format!("acquire + read all bytes, {size}"),
            Unit::Nanoseconds,
            read.median(|run| run.0),
            Goal::RatioAtMost(1.15),
        )
        .limit("read", read.median(|run| run.1))
        .peers(of_peers(|peer| peer.read))
        .noise(read.noise),
    );
    let (copy, trip) = (
        store.median(|run| run.limit.copy),
        store.median(|run| run.limit.trip),
    );
    let trip_of_batch = store.median(|run| run.limit.trip_of_batch);
    report.row(
        Row::new(
            format!("store one by one, {size}"),
            Unit::Nanoseconds,
            store.median(|run| run.single),
            Goal::RatioAtMost(1.1),
        )
        .limit("copy + 2 trips", copy + 2.0 * trip)
        .peers(of_peers(|peer| peer.single))
        .noise(store.noise),
    );
    report.row(
        Row::new(
            format!("store in batches of {batch}, {size}, an object"),
            Unit::Nanoseconds,
            store.median(|run| run.batched),
            Goal::RatioAtMost(
                1.2 * (copy + 2.0 * trip_of_batch / batch / 1.2)
                    / (copy + 2.0 * trip_of_batch / batch),
            ),
        )
        .limit(
            format!("copy + 2 trips / {batch}"),
            copy + 2.0 * trip_of_batch / batch,
        )
        .peers(
            peers
                .iter()
                .filter(|peer| peer.is_batching)
                .map(|peer| (peer.name, peer.batched))
                .collect(),
        )
        .noise(store.noise)
        .note("target: 1.2 x copy + 2 trips / batch"),
    );
    report.row(
        Row::new(
            format!("store batch after batch of {batch}, commit and next reserve in one, {size}, an object"),
            Unit::Nanoseconds,
            store.median(|run| run.paired),
            Goal::RatioAtMost(1.2 * (copy + trip_of_batch / batch / 1.2) / (copy + trip_of_batch / batch)),
        )
        .limit(format!("copy + 1 trip / {batch}"), copy + trip_of_batch / batch)
        .noise(store.noise)
        .note("target: 1.2 x copy + 1 trip / batch"),
    );
    report.row(
        Row::new(
            format!("store batch after batch of {batch}, two asked for ahead, {size}, an object"),
            Unit::Nanoseconds,
            store.median(|run| run.ahead),
            Goal::RatioAtMost(1.2),
        )
        .limit(
            format!("copy + 1 message each way / {batch}"),
            copy + store.median(|run| run.limit.messages_of_batch) / batch,
        )
        .noise(store.noise),
    );
}

/// Store, lookup and retrieve of one chunk without its bytes.
fn control_row(report: &mut Report, bench: &Bench<'_>) -> Result<(), String> {
    report.skip(
        "LMCache: its server is a Python process behind ZMQ, for which this program has no client",
    );
    const LEN: u64 = 256 << 10;
    const CHUNKS: u64 = 200;
    let mut next = 1_u64 << 55;
    let measured = runs(&[bench.pool.pid()], || {
        let mut figures = Vec::new();
        let mut trips = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..CHUNKS {
            // Ours and the limit take turns, so that the processors fall asleep as deeply for both.
            trips.extend(bench.echo.trips_ns(2)?);
            let items = items([next], LEN);
            next += 1;
            let key = [items[0].key];
            let begin = Instant::now();
            store_unwritten(bench.session, bench.keyspace, &items)?;
            let present = bench
                .session
                .lookup(bench.keyspace, &key, None)
                .map_err(said)?;
            let lease = bench
                .session
                .acquire(bench.keyspace, &key, &Default::default())
                .map_err(said)?;
            let len_bytes = lease.span(0).map_err(said)?.len_bytes;
            lease.release().map_err(said)?;
            figures.push(begin.elapsed().as_nanos() as f64);
            if (present, len_bytes) != (1, LEN) {
                return Err(format!("{present} chunks of {len_bytes} bytes"));
            }
            keys.extend(key);
        }
        remove(bench.session, bench.keyspace, &keys)?;
        Ok((median_of(figures), median_of(trips)))
    })?;
    report.row(
        Row::new(
            "store + lookup + retrieve of a 256 KiB chunk, control part",
            Unit::Nanoseconds,
            measured.median(|run| run.0),
            Goal::RatioAtMost(1.1),
        )
        .limit("2 trips", measured.median(|run| 2.0 * run.1))
        .noise(measured.noise),
    );
    Ok(())
}
