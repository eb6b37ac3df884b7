//! `hostkv bench`: a moment's measurement of this host and the daemon on it.
//!
//! It stores objects of its own in a keyspace of its own, reads them, and removes them again, also when it is
//! interrupted. It takes a sixteenth of the pool at most, and only room below the eviction watermark, so nobody's object
//! goes for it. The figures that say something are the ratios to what the host does without hostkv.
//!
//! ```text
//!   copy in private memory --> store --> read in place --> copy out --> ask the daemon --> remove
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostkv::admin::DaemonState;
use hostkv::session::{KeyspaceConfig, ReserveItem, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use serde::Serialize;

use super::ping::quantile_ns;
use crate::args::{BenchArguments, Common};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, human_bytes};

/// Most bytes that are stored at a time.
const MOST_BYTES: u64 = 64 << 20;
/// Share of the pool that is stored at most.
const POOL_DIVISOR: u64 = 16;
/// Most objects at a time, and of one call.
const MOST_OBJECTS: u64 = 256;
/// Share of the pool from which a daemon evicts unless it says otherwise.
const USUAL_WATERMARK: f64 = 0.8;
/// What is measured, one after the other.
const PHASES: u32 = 5;

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    object_bytes: u64,
    object_count: u64,
    copy_bytes_per_second: f64,
    store_bytes_per_second: f64,
    copy_out_bytes_per_second: f64,
    read_ns_per_key: f64,
    ping_p50_ns: u64,
    ping_p99_ns: u64,
    store_to_copy_ratio: f64,
    copy_out_to_copy_ratio: f64,
    ping_to_read_ratio: f64,
}

/// Measures.
pub fn run(
    common: &Common,
    arguments: &BenchArguments,
    output: &mut Output,
) -> Result<(), Failure> {
    let stop = stop_on_signals()?;
    let session = connect::writer(common, "bench")?;
    let bench = Bench::prepare(&session, arguments, stop)?;
    let measured = bench.measure();
    // Whatever came of it, what was stored goes; the session has no other keyspace.
    let cleared = session.clear(0);
    let measured = measured?;
    cleared?;
    if common.json {
        return output.json(&measured);
    }
    show(&measured, output)
}

/// A word that SIGINT, SIGTERM and SIGHUP set, so that what was stored can be removed before the end.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|error| {
            Failure::failed(format!("signal {signal} can't be waited for: {error}"))
        })?;
    }
    Ok(stop)
}

struct Bench<'a> {
    session: &'a Session,
    keyspace: KeyspaceId,
    keys: Vec<ChunkKey>,
    object_bytes: u64,
    batch_keys: usize,
    phase: Duration,
    stop: Arc<AtomicBool>,
}

impl<'a> Bench<'a> {
    fn prepare(
        session: &'a Session,
        arguments: &BenchArguments,
        stop: Arc<AtomicBool>,
    ) -> Result<Bench<'a>, Failure> {
        let info = session.info()?;
        let object_bytes = arguments.object_bytes;
        if object_bytes > info.max_object_bytes {
            return Err(Failure::usage(format!(
                "--object-bytes is {object_bytes} and the largest object of this pool has {} bytes; choose a smaller one",
                info.max_object_bytes
            )));
        }
        let rounded_bytes = object_bytes.next_multiple_of(info.align_bytes);
        let figures = session.figures()?;
        let watermark = match session.state_page(0) {
            Ok(page) => page.daemon.as_ref().map_or(USUAL_WATERMARK, watermark_of),
            Err(error) if error.status == Status::Permission => USUAL_WATERMARK,
            Err(error) => return Err(error.into()),
        };
        let evicts_from = (figures.capacity_bytes as f64 * watermark) as u64;
        let room = evicts_from.saturating_sub(figures.used_bytes);
        let wanted = MOST_BYTES
            .min(figures.capacity_bytes / POOL_DIVISOR)
            .max(rounded_bytes);
        let count = (wanted.min(room) / rounded_bytes).min(MOST_OBJECTS);
        if count == 0 {
            return Err(Failure::failed(format!(
                "{} of {} are in use and eviction starts at {}: there is no room for an object of {}, and others' must \
                 not go for this; choose smaller --object-bytes, or try at another time",
                human_bytes(figures.used_bytes),
                human_bytes(figures.capacity_bytes),
                human_bytes(evicts_from),
                human_bytes(object_bytes)
            )));
        }
        let batch_keys = (info.reserve_quota_bytes / rounded_bytes).clamp(1, count) as usize;
        let nonce = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let keyspace = session.open_keyspace(&KeyspaceConfig {
            model_name: format!("hostkv-bench-{}-{nonce:x}", std::process::id()),
            // A tenant of its own, for a daemon that asks one of everybody.
            cache_salt: format!("{nonce:x}"),
            ..KeyspaceConfig::default()
        })?;
        Ok(Bench {
            session,
            keyspace,
            keys: (0..count).map(key).collect(),
            object_bytes,
            batch_keys,
            phase: Duration::from_secs(u64::from(arguments.seconds)) / PHASES,
            stop,
        })
    }

    fn measure(&self) -> Result<Measured, Failure> {
        let copy = self.copy_privately()?;
        let store = self.store()?;
        let read_ns_per_key = self.read()?;
        let copy_out = self.copy_out()?;
        let pings = self.ping()?;
        let (ping_p50_ns, ping_p99_ns) = (quantile_ns(&pings, 0.5), quantile_ns(&pings, 0.99));
        Ok(Measured {
            object_bytes: self.object_bytes,
            object_count: self.keys.len() as u64,
            copy_bytes_per_second: copy,
            store_bytes_per_second: store,
            copy_out_bytes_per_second: copy_out,
            read_ns_per_key,
            ping_p50_ns,
            ping_p99_ns,
            store_to_copy_ratio: store / copy,
            copy_out_to_copy_ratio: copy_out / copy,
            ping_to_read_ratio: ping_p50_ns as f64 / read_ns_per_key,
        })
    }

    /// Does `step` until the phase is over; gives how often, and the seconds.
    fn repeat(
        &self,
        mut step: impl FnMut() -> Result<Duration, Failure>,
    ) -> Result<(f64, f64), Failure> {
        let started = Instant::now();
        let (mut times, mut spent) = (0_u64, Duration::ZERO);
        while times == 0 || started.elapsed() < self.phase {
            // Relaxed: a single word that nothing else depends on.
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::failed(
                    "interrupted; what was stored for the measurement is removed",
                ));
            }
            spent += step()?;
            times += 1;
        }
        Ok((times as f64, spent.as_secs_f64().max(1e-9)))
    }

    fn all_bytes(&self) -> f64 {
        self.keys.len() as f64 * self.object_bytes as f64
    }

    /// Bytes a second of copies between two private buffers as large as all objects.
    fn copy_privately(&self) -> Result<f64, Failure> {
        let len = self.keys.len() * self.object_bytes as usize;
        let source = vec![1_u8; len];
        let mut target = vec![2_u8; len];
        let (times, seconds) = self.repeat(|| {
            let started = Instant::now();
            target.copy_from_slice(&source);
            std::hint::black_box(&mut target);
            Ok(started.elapsed())
        })?;
        Ok(times * self.all_bytes() / seconds)
    }

    /// Bytes a second of reserve, copy and commit. The objects of the last round stay.
    fn store(&self) -> Result<f64, Failure> {
        let object = vec![3_u8; self.object_bytes as usize];
        let (times, seconds) = self.repeat(|| {
            self.session.remove(self.keyspace, &self.keys, None)?;
            let started = Instant::now();
            for batch in self.keys.chunks(self.batch_keys) {
                self.store_batch(batch, &object)?;
            }
            Ok(started.elapsed())
        })?;
        Ok(times * self.all_bytes() / seconds)
    }

    fn store_batch(&self, batch: &[ChunkKey], object: &[u8]) -> Result<(), Failure> {
        let items: Vec<ReserveItem> = batch
            .iter()
            .map(|key| ReserveItem {
                key: *key,
                len_bytes: self.object_bytes,
            })
            .collect();
        let reservation = self
            .session
            .reserve(self.keyspace, &items, &Default::default())?;
        for index in 0..batch.len() {
            let span = reservation.span(index)?;
            // SAFETY: the span is as long as the object, and this reservation's alone until it ends.
            unsafe { hostkv::copy::copy(span.data, object.as_ptr(), object.len()) };
        }
        Ok(reservation.commit()?)
    }

    /// Nanoseconds a key of acquire, span and release.
    fn read(&self) -> Result<f64, Failure> {
        let (times, seconds) = self.repeat(|| {
            let started = Instant::now();
            let lease = self
                .session
                .acquire(self.keyspace, &self.keys, &Default::default())?;
            for index in 0..self.keys.len() {
                std::hint::black_box(lease.span(index)?);
            }
            lease.release()?;
            Ok(started.elapsed())
        })?;
        Ok(seconds * 1e9 / (times * self.keys.len() as f64))
    }

    /// Bytes a second of copies out of the pool into a private buffer.
    fn copy_out(&self) -> Result<f64, Failure> {
        let len = self.object_bytes as usize;
        let mut target = vec![0_u8; self.keys.len() * len];
        let (times, seconds) = self.repeat(|| {
            let started = Instant::now();
            let lease = self
                .session
                .acquire(self.keyspace, &self.keys, &Default::default())?;
            for (index, part) in target.chunks_exact_mut(len).enumerate() {
                let span = lease.span(index)?;
                // SAFETY: the lease keeps the span, which is as long as the object was stored; `part` is ours.
                unsafe { std::ptr::copy_nonoverlapping(span.data, part.as_mut_ptr(), len) };
            }
            lease.release()?;
            std::hint::black_box(&mut target);
            Ok(started.elapsed())
        })?;
        Ok(times * self.all_bytes() / seconds)
    }

    fn ping(&self) -> Result<Vec<Duration>, Failure> {
        let mut pings = Vec::new();
        self.repeat(|| {
            let ping = self.session.ping()?;
            pings.push(ping);
            Ok(ping)
        })?;
        pings.sort_unstable();
        Ok(pings)
    }
}

fn watermark_of(daemon: &DaemonState) -> f64 {
    daemon.usage.watermark_ratio
}

fn key(number: u64) -> ChunkKey {
    let mut chunk_hash = [0; 32];
    chunk_hash[..8].copy_from_slice(&number.to_be_bytes());
    ChunkKey {
        chunk_hash,
        chunk_hash_len: 32,
        ..ChunkKey::default()
    }
}

fn show(measured: &Measured, output: &mut Output) -> Result<(), Failure> {
    let speed = |bytes: f64| format!("{}/s", human_bytes(bytes as u64));
    output.line(&format!(
        "{} objects of {}",
        measured.object_count,
        human_bytes(measured.object_bytes)
    ))?;
    output.pairs(&[
        (
            "copy in private memory",
            speed(measured.copy_bytes_per_second),
        ),
        (
            "store",
            format!(
                "{}, {:.2} of the copy",
                speed(measured.store_bytes_per_second),
                measured.store_to_copy_ratio
            ),
        ),
        (
            "copy out of the pool",
            format!(
                "{}, {:.2} of the copy",
                speed(measured.copy_out_bytes_per_second),
                measured.copy_out_to_copy_ratio
            ),
        ),
        (
            "find, pin and release",
            format!("{:.0} ns a key", measured.read_ns_per_key),
        ),
        (
            "ask the daemon",
            format!(
                "half within {:.1} us, 99 % within {:.1} us; {:.0} times a read",
                measured.ping_p50_ns as f64 / 1e3,
                measured.ping_p99_ns as f64 / 1e3,
                measured.ping_to_read_ratio
            ),
        ),
    ])
}
