//! The rows: what an engine does, and what it costs at least.

use crate::limits;
use crate::pool::{Pool, fill, key, keyspace, mix};
use crate::table::{Row, median};
use hostkv::session::{ReserveItem, Session};
use hostkv::{ChunkKey, KeyspaceId};
use std::hint::black_box;
use std::time::Instant;

const SEED: u64 = 20_261_124;
const SMALL: u64 = 4 << 10;
const LARGE: u64 = 1 << 20;

/// Measures all rows.
pub fn run() -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let trip = limits::trip_ns(64)?;
    {
        let pool = Pool::start(&[
            "--l1-size-gb",
            "0.25",
            "--l1-align-bytes",
            "64",
            "--max-objects",
            "1400000",
            "--eviction-trigger-watermark",
            "1.0",
        ])?;
        let session = pool.session()?;
        let ks = keyspace(&session)?;
        fill(&session, ks, LARGE, 64)?;
        reads(&session, ks, &mut rows)?;
    }
    for len_bytes in [64 << 10, 1 << 20, 4 << 20] {
        let pool = Pool::start(&["--l1-size-gb", "1"])?;
        let session = pool.session()?;
        let ks = keyspace(&session)?;
        bytes(&session, ks, len_bytes, trip, &mut rows)?;
    }
    rows.extend(crate::observed::rows()?);
    Ok(rows)
}

fn reads(session: &Session, ks: KeyspaceId, rows: &mut Vec<Row>) -> Result<(), String> {
    for (live, what) in [(SMALL, "4 Ki keys"), (LARGE, "1 Mi keys, random")] {
        for batch in [1_usize, 32, 256] {
            let keys = random_keys(live, 32_768);
            let limit_ns = bare(session, ks, &keys, batch, true)?;
            let ours_ns = per_call(&keys, batch, |keys| {
                let lease = session
                    .acquire(ks, keys, &Default::default())
                    .map_err(|error| error.message)?;
                let found = lease.prefix_count();
                lease.release().map_err(|error| error.message)?;
                Ok(found)
            })?;
            rows.push(Row {
                work: format!("acquire + release, {batch} keys, {what}"),
                ours_ns,
                limit: "find, pin, release",
                limit_ns,
                target: if live == SMALL && batch == 1 {
                    3.0
                } else {
                    2.0
                },
            });
            if batch > 1 {
                let limit_ns = bare(session, ks, &keys, batch, false)?;
                let ours_ns = per_call(&keys, batch, |keys| {
                    session
                        .lookup(ks, keys, None)
                        .map_err(|error| error.message)
                })?;
                rows.push(Row {
                    work: format!("lookup, {batch} keys, {what}"),
                    ours_ns,
                    limit: "find",
                    limit_ns,
                    target: 1.6,
                });
            }
        }
    }
    Ok(())
}

fn random_keys(live: u64, count: usize) -> Vec<ChunkKey> {
    let mut state = SEED;
    (0..count).map(|_| key(mix(&mut state) % live)).collect()
}

/// Nanoseconds of one call of `batch` keys; every key must be found.
fn per_call(
    keys: &[ChunkKey],
    batch: usize,
    mut call: impl FnMut(&[ChunkKey]) -> Result<usize, String>,
) -> Result<f64, String> {
    let mut fault = None;
    let ns = median(|| {
        let start = Instant::now();
        for keys in keys.chunks_exact(batch) {
            match call(keys) {
                Ok(found) if found == batch => {}
                Ok(found) => fault = Some(format!("{found} of {batch} keys found")),
                Err(message) => fault = Some(message),
            }
        }
        start.elapsed().as_nanos() as f64 / (keys.len() / batch) as f64
    });
    fault.map_or(Ok(ns), Err)
}

/// Nanoseconds of the same finds by the bare protocol code: no handle, no counters, no recency.
fn bare(
    session: &Session,
    ks: KeyspaceId,
    keys: &[ChunkKey],
    batch: usize,
    pins: bool,
) -> Result<f64, String> {
    use hostkv_shm_protocol::control::Geometry;
    use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
    use hostkv_shm_protocol::control::reader::IndexReader;
    use hostkv_shm_protocol::control::writer::IndexWriter;
    use hostkv_shm_protocol::extent::Extent;
    use hostkv_shm_protocol::id::{EntryNumber, InstanceId, SessionId};
    use hostkv_shm_protocol::key::{HashSecret, Key};
    use hostkv_shm_protocol::lease::LeaseGeometry;
    use hostkv_shm_protocol::lease::pins::{PinSlots, pin_fence};
    use hostkv_shm_protocol::view::View;

    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let _ = session;
    let geometry = Geometry::for_entries(1_400_000);
    let mut control = vec![0_u64; geometry.segment_len() as usize / 8];
    // SAFETY: the vector outlives the view and is used only through it.
    let view = unsafe { View::new(control.as_mut_ptr().cast(), geometry.segment_len()) };
    HeaderView::new(view)
        .map_err(|e| fault(&e))?
        .initialise(&HeaderInit {
            instance_id: InstanceId([1; 16]),
            boot_id: [0; 2],
            created_mono_ns: 0,
            flags: 0,
            geometry,
            align_bytes: 64,
            hash_secret: HashSecret { k0: 17, k1: 19 },
            payload_len: 1 << 28,
            max_sessions: 1,
            check_every: 0,
        });
    let canonical = |k: &ChunkKey| {
        Key::new(
            &k.chunk_hash,
            k.chunk_hash_len,
            k.kv_rank,
            k.object_group_id,
            ks,
        )
        .map_err(|e| fault(&e))
    };
    let mut writer = IndexWriter::new(view).map_err(|e| fault(&e))?;
    for n in 0..LARGE {
        let k = canonical(&key(n))?;
        let entry = EntryNumber(n as u32);
        writer.write_fields(
            entry,
            &k,
            Extent {
                offset_units: n as u32,
                len_bytes: 64,
            },
        );
        writer.link(entry, writer.hash(&k)).map_err(|e| fault(&e))?;
        writer.publish(entry);
    }
    let reader = IndexReader::new(view).map_err(|e| fault(&e))?;
    let lease_geometry = LeaseGeometry::new(4096, geometry.entry_count);
    let mut lease = vec![0_u64; lease_geometry.segment_len() as usize / 8];
    // SAFETY: as for the control segment.
    let lease_view = unsafe { View::new(lease.as_mut_ptr().cast(), lease_geometry.segment_len()) };
    lease_geometry
        .initialise(&lease_view, InstanceId([1; 16]), SessionId(1))
        .map_err(|e| fault(&e))?;
    let slots = PinSlots::new(lease_view, &lease_geometry).map_err(|e| fault(&e))?;
    slots.raise_high_water(batch as u32);
    let mut words = Vec::with_capacity(batch);
    let mut found = Vec::with_capacity(batch);
    per_call(keys, batch, |keys| {
        words.clear();
        found.clear();
        for k in keys {
            let k = canonical(k)?;
            let hash = reader.hash(&k);
            reader.prefetch(hash);
            words.push((k, hash, None));
        }
        for (_, hash, candidate) in &mut words {
            *candidate = reader.locate(*hash);
        }
        for (k, hash, candidate) in &words {
            if let Some(hit) = candidate.and_then(|entry| reader.verify(k, *hash, entry)) {
                found.push(hit);
            }
        }
        if pins {
            for (slot, hit) in found.iter().enumerate() {
                slots.publish(slot, hit.entry);
            }
            pin_fence();
        }
        let whole = found.iter().filter(|hit| reader.is_current(hit)).count();
        if pins {
            (0..found.len()).for_each(|slot| slots.clear(slot));
        }
        Ok(black_box(whole))
    })
}

/// Rows whose cost is that of the bytes.
fn bytes(
    session: &Session,
    ks: KeyspaceId,
    len_bytes: u64,
    trip: f64,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let size = format!("{} KiB", len_bytes >> 10);
    let source = vec![0x5a_u8; len_bytes as usize];
    let mut next = 0;
    let mut store = |count: u64| -> Result<f64, String> {
        let items: Vec<ReserveItem> = (0..count)
            .map(|i| ReserveItem {
                key: key(1 << 40 | (next + i)),
                len_bytes,
            })
            .collect();
        next += count;
        let start = Instant::now();
        let reservation = session
            .reserve(ks, &items, &Default::default())
            .map_err(|error| error.message)?;
        for index in 0..items.len() {
            let span = reservation.span(index).map_err(|error| error.message)?;
            // SAFETY: the span is ours until the commit, and as long as the source.
            unsafe { hostkv::copy::copy(span.data, source.as_ptr(), source.len()) };
        }
        reservation.commit().map_err(|error| error.message)?;
        Ok(start.elapsed().as_nanos() as f64 / count as f64)
    };
    let mut fault = None;
    let mut measured = |count: u64, rounds: u32| {
        median(|| {
            let mut total = 0.0;
            for _ in 0..rounds {
                match store(count) {
                    Ok(ns) => total += ns,
                    Err(message) => fault = Some(message),
                }
            }
            total / f64::from(rounds)
        })
    };
    let one = measured(1, 50);
    let many = measured((8_u64 << 20).div_ceil(len_bytes).clamp(2, 32), 4);
    if let Some(message) = fault {
        return Err(format!("storing {size}: {message}"));
    }
    let reservation = session
        .reserve(
            ks,
            &[ReserveItem {
                key: key(1 << 50),
                len_bytes,
            }],
            &Default::default(),
        )
        .map_err(|error| error.message)?;
    let span = reservation.span(0).map_err(|error| error.message)?;
    // SAFETY: the span is ours until the commit.
    let copy = unsafe { limits::copy_ns(span.data, &source) };
    reservation.commit().map_err(|error| error.message)?;
    rows.push(Row {
        work: format!("store one by one, {size}"),
        ours_ns: one,
        limit: "copy + 2 trips",
        limit_ns: copy + 2.0 * trip,
        target: 1.1,
    });
    let batch = (8_u64 << 20).div_ceil(len_bytes).clamp(2, 32) as f64;
    rows.push(Row {
        work: format!("store in batches of {batch}, {size}, per object"),
        ours_ns: many,
        limit: "copy + 2 trips / batch",
        limit_ns: copy + 2.0 * trip / batch,
        target: 1.2,
    });
    let words = len_bytes as usize / 8;
    let wanted = [key(1 << 50)];
    let ours_ns = per_call(&wanted, 1, |keys| {
        let lease = session
            .acquire(ks, keys, &Default::default())
            .map_err(|error| error.message)?;
        let span = lease.span(0).map_err(|error| error.message)?;
        // SAFETY: nobody writes a committed object in this benchmark; the span is aligned to 64 bytes or more.
        let data = unsafe { std::slice::from_raw_parts(span.data.cast::<u64>(), words) };
        let right = limits::sum(data) == 0x5a5a_5a5a_5a5a_5a5a_u64.wrapping_mul(words as u64);
        let found = lease.prefix_count();
        lease.release().map_err(|error| error.message)?;
        if right {
            Ok(found)
        } else {
            Err("wrong bytes".to_owned())
        }
    })?;
    let lease = session
        .acquire(ks, &wanted, &Default::default())
        .map_err(|error| error.message)?;
    let span = lease.span(0).map_err(|error| error.message)?;
    // SAFETY: as above.
    let data = unsafe { std::slice::from_raw_parts(span.data.cast::<u64>(), words) };
    rows.push(Row {
        work: format!("acquire + read all bytes, {size}"),
        ours_ns,
        limit: "read",
        limit_ns: limits::read_ns(data),
        target: 1.15,
    });
    Ok(())
}
