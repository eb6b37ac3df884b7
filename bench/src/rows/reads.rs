//! Finding, pinning and releasing keys, and looking them up, against the bare search of an index of the same layout.

use super::Plan;
use crate::counters::{Counters, Misses};
use crate::keys::{SEED, random_keys, random_numbers};
use crate::limits::index::{BareIndex, canonical};
use crate::limits::pages::Pages;
use crate::measure::{Runs, runs, typical_ns};
use crate::peers::{self, Peer};
use crate::pool::{Pool, fill, keyspace, said};
use crate::report::Report;
use crate::report::curve::{Capacity, Curve, Series, capacities, explain};
use crate::table::{Goal, Row, Unit};
use hostkv::session::Session;
use hostkv::{ChunkKey, KeyspaceId};
use hostkv_shm_protocol::key::Key;

/// Keys that stay in the caches.
pub const SMALL: u64 = 4 << 10;
/// Keys that do not.
pub const LARGE: u64 = 1 << 20;
/// Room of the index for [`LARGE`] keys.
pub const LARGE_ENTRIES: u32 = 1_400_000;
/// Length of an object where only its key matters.
pub const OBJECT_BYTES: u64 = 64;
/// Keys of one measurement.
const SAMPLE: usize = 32_768;
/// Keys that are timed together, so that the clock costs nothing.
const CHUNK: usize = 256;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Acquire and release.
    Acquire,
    /// Lookup.
    Lookup,
}

/// Flags of a pool of `live` small objects with room in the index for `entries`.
pub fn small_object_flags(live: u64, entries: u32) -> Vec<String> {
    let gib = (live * OBJECT_BYTES) as f64 * 1.05 / (1_u64 << 30) as f64;
    [
        "--l1-size-gb",
        &format!("{:.4}", gib.max(0.03125)),
        "--l1-align-bytes",
        "64",
        "--max-objects",
        &entries.to_string(),
        "--eviction-trigger-watermark",
        "1.0",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A pool with keys `0..live`, and a session.
pub fn small_object_pool(live: u64, entries: u32) -> Result<(Pool, Session, KeyspaceId), String> {
    let flags = small_object_flags(live, entries);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let pool = Pool::start(&flags)?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    fill(&session, keyspace, live, OBJECT_BYTES)?;
    Ok((pool, session, keyspace))
}

/// One call of ours; every key must be found.
pub fn call(
    session: &Session,
    keyspace: KeyspaceId,
    keys: &[ChunkKey],
    kind: Call,
) -> Result<(), String> {
    let found = match kind {
        Call::Acquire => {
            let lease = session
                .acquire(keyspace, keys, &Default::default())
                .map_err(said)?;
            let found = lease.prefix_count();
            lease.release().map_err(said)?;
            found
        }
        Call::Lookup => session.lookup(keyspace, keys, None).map_err(said)?,
    };
    if found == keys.len() {
        Ok(())
    } else {
        Err(format!("{found} of {} keys found", keys.len()))
    }
}

/// Ours and the limit's nanoseconds for a call of `batch` random keys of `live`.
fn measure(
    session: &Session,
    keyspace: KeyspaceId,
    bare: &mut BareIndex,
    live: u64,
    batch: usize,
    kind: Call,
) -> Result<Runs<(f64, f64)>, String> {
    let keys = random_keys(SEED, live, SAMPLE);
    let bare_keys = random_numbers(SEED, live, SAMPLE)
        .into_iter()
        .map(canonical)
        .collect::<Result<Vec<Key>, String>>()?;
    let (calls, chunk) = (SAMPLE / batch, CHUNK.div_ceil(batch));
    runs(&[], || {
        let ours = typical_ns(calls, chunk, |at| {
            call(session, keyspace, &keys[at * batch..(at + 1) * batch], kind)
        })?;
        let mut found = 0;
        let limit = typical_ns(calls, chunk, |at| {
            found += bare.find(
                &bare_keys[at * batch..(at + 1) * batch],
                kind == Call::Acquire,
            );
            Ok(())
        })?;
        // One in some ten thousand hides behind a key with the same tag, which the bare search leaves at that.
        let asked = calls / chunk * chunk * batch;
        if found < asked - asked / 1000 {
            return Err(format!("the bare search found {found} of {asked} keys"));
        }
        Ok((ours, limit))
    })
}

fn plural(batch: usize) -> String {
    match batch {
        1 => "1 key".to_owned(),
        n => format!("{n} keys"),
    }
}

/// The rows, and the curves against batch size and live keys.
pub fn rows(plan: &Plan, report: &mut Report) -> Result<(), String> {
    {
        let (_pool, session, keyspace) = small_object_pool(LARGE, LARGE_ENTRIES)?;
        // The best that the kernel gives: an index on 2 MiB pages is searched faster.
        let mut bare = BareIndex::new(LARGE_ENTRIES, LARGE, Pages::Huge)?;
        if bare.huge_share() < 1.0 {
            report.skip(format!(
                "the bare index has {:.0} % of its bytes on 2 MiB pages; the kernel gave no more",
                bare.huge_share() * 100.0
            ));
        }
        let mut peers = peers::start(report);
        table_rows(report, &session, keyspace, &mut bare, &mut peers)?;
        limit_lines(report)?;
        by_batch(report, &session, keyspace, &mut bare)?;
    }
    by_live_keys(plan, report)
}

fn table_rows(
    report: &mut Report,
    session: &Session,
    keyspace: KeyspaceId,
    bare: &mut BareIndex,
    peers: &mut Vec<Box<dyn Peer>>,
) -> Result<(), String> {
    for (live, what) in [(SMALL, "4 Ki keys"), (LARGE, "1 Mi keys, random")] {
        peers.retain(|peer| live <= peer.most_keys());
        for peer in peers.iter_mut() {
            peer.fill(live, OBJECT_BYTES as usize)?;
        }
        for batch in [1_usize, 32, 256] {
            for kind in [Call::Acquire, Call::Lookup] {
                if kind == Call::Lookup && batch == 1 {
                    continue;
                }
                let runs = measure(session, keyspace, bare, live, batch, kind)?;
                let (name, of, most) = match kind {
                    Call::Acquire if live == SMALL && batch == 1 => {
                        ("acquire + release", "hit", 3.0)
                    }
                    Call::Acquire if live == SMALL => ("acquire + release", "hits", 2.0),
                    Call::Acquire if batch == 1 => ("acquire + release", "dependent miss", 2.0),
                    Call::Acquire => ("acquire + release", "overlapped misses", 2.0),
                    Call::Lookup if live == SMALL => ("lookup", "hits without pins", 1.6),
                    Call::Lookup => ("lookup", "overlapped misses without pins", 1.6),
                };
                let mut figures = Vec::new();
                for peer in peers.iter_mut() {
                    if let Some(ns) = peer_ns(peer.as_mut(), live, batch, kind)? {
                        figures.push((peer.name(), ns));
                    }
                }
                report.row(
                    Row::new(
                        format!("{name}, {}, {what}", plural(batch)),
                        Unit::Nanoseconds,
                        runs.median(|run| run.0),
                        Goal::RatioAtMost(most),
                    )
                    .limit(of, runs.median(|run| run.1))
                    .peers(figures)
                    .noise(runs.noise),
                );
            }
        }
    }
    Ok(())
}

/// A peer on the same keys; none when it has no such call.
fn peer_ns(
    peer: &mut dyn Peer,
    live: u64,
    batch: usize,
    kind: Call,
) -> Result<Option<f64>, String> {
    if kind == Call::Acquire && !peer.gives_views() {
        return Ok(None);
    }
    // A server's round trip takes a hundred times longer than a call in process.
    let sample = if peer.is_in_process() {
        SAMPLE
    } else {
        SAMPLE / 8
    };
    let keys = random_keys(SEED, live, sample.max(batch * 64));
    let figures = (0..crate::measure::RUNS)
        .map(|_| {
            typical_ns(keys.len() / batch, CHUNK.div_ceil(batch), |at| {
                let keys = &keys[at * batch..(at + 1) * batch];
                let found = match kind {
                    Call::Acquire => peer.view(keys)?,
                    Call::Lookup => peer.find(keys)?,
                };
                if found == batch {
                    Ok(())
                } else {
                    Err(format!("{} found {found} of {batch} keys", peer.name()))
                }
            })
        })
        .collect::<Result<Vec<f64>, String>>()?;
    Ok(Some(crate::measure::median_of(figures)))
}

/// What one miss costs on either kind of page, alone and overlapped.
fn limit_lines(report: &mut Report) -> Result<(), String> {
    let keys = random_numbers(SEED, LARGE, SAMPLE)
        .into_iter()
        .map(canonical)
        .collect::<Result<Vec<Key>, String>>()?;
    for pages in [Pages::Small, Pages::Huge] {
        let mut bare = BareIndex::new(LARGE_ENTRIES, LARGE, pages)?;
        for batch in [1_usize, 32] {
            let runs = runs(&[], || {
                typical_ns(SAMPLE / batch, CHUNK / batch, |at| {
                    bare.find(&keys[at * batch..(at + 1) * batch], true);
                    Ok(())
                })
            })?;
            let how = if batch == 1 {
                "one dependent miss"
            } else {
                "one of 32 overlapped misses"
            };
            report.limit(
                format!("find, pin, release in 1 Mi keys, {how}, {}", pages.name()),
                Unit::Nanoseconds,
                runs.median(|ns| *ns) / batch as f64,
            );
        }
    }
    Ok(())
}

/// Nanoseconds a key against the batch size.
fn by_batch(
    report: &mut Report,
    session: &Session,
    keyspace: KeyspaceId,
    bare: &mut BareIndex,
) -> Result<(), String> {
    let mut series: Vec<Series> = ["hostkv, 1 Mi keys", "limit, 1 Mi keys", "hostkv, 4 Ki keys"]
        .map(|name| Series {
            name: name.to_owned(),
            points: Vec::new(),
        })
        .to_vec();
    for batch in (0..=8).map(|power| 1_usize << power) {
        let large = measure(session, keyspace, bare, LARGE, batch, Call::Acquire)?;
        let small = measure(session, keyspace, bare, SMALL, batch, Call::Acquire)?;
        let per_key = [
            large.median(|run| run.0),
            large.median(|run| run.1),
            small.median(|run| run.0),
        ];
        for (series, ns) in series.iter_mut().zip(per_key) {
            series.points.push((batch as f64, ns / batch as f64));
        }
    }
    let points = &series[0].points;
    // Where another doubling brings less than a tenth.
    let bend = points
        .windows(2)
        .find(|pair| pair[1].1 > pair[0].1 * 0.9)
        .map_or(points[points.len() - 1], |pair| pair[0]);
    let (alone, least) = (
        points[0].1,
        points.iter().map(|p| p.1).fold(f64::MAX, f64::min),
    );
    let limit = &series[1].points;
    let remark = format!(
        "It flattens from {:.0} keys on. One key waits for its bucket and then for its entry; in a batch these misses overlap, \
         and a key costs {:.1} times less than alone ({:.1} times by the bare search), which is about how many misses this core \
         keeps in flight at once. What is left beyond a few keys is work, not waiting.",
        bend.0,
        alone / least,
        limit[0].1 / limit.iter().map(|p| p.1).fold(f64::MAX, f64::min),
    );
    report.curves.push(Curve {
        file: "latency-batch",
        title: "Acquire and release: time a key against batch size".to_owned(),
        x_label: "keys of a call",
        x_unit: Unit::Count,
        y_label: "time a key",
        y_unit: Unit::Nanoseconds,
        series,
        remark,
    });
    Ok(())
}

/// Nanoseconds a key against the number of live keys.
fn by_live_keys(plan: &Plan, report: &mut Report) -> Result<(), String> {
    let mut lives = vec![10_000_u64, 100_000, 1_000_000];
    if plan.is_full {
        lives.push(10_000_000);
    } else {
        report.skip("10^7 keys; make bench-full measures them");
    }
    let mut series: Vec<Series> = [
        "hostkv, 1 key",
        "hostkv, 32 keys",
        "limit, 1 key",
        "limit, 32 keys",
    ]
    .map(|name| Series {
        name: name.to_owned(),
        points: Vec::new(),
    })
    .to_vec();
    let mut page_bytes = 4096;
    let mut counters = Counters::open();
    let mut misses: Vec<Misses> = Vec::new();
    for live in lives {
        let entries = (live + live / 5) as u32;
        let (pool, session, keyspace) = small_object_pool(live, entries)?;
        if session.figures().map_err(said)?.object_count != live {
            return Err(format!("the pool does not hold {live} objects"));
        }
        if crate::machine::huge_mapped_bytes(std::process::id()) > u64::from(entries) * 64 {
            page_bytes = 2 << 20;
        }
        let mut bare = BareIndex::new(entries, live, Pages::Huge)?;
        for (at, batch) in [1_usize, 32].into_iter().enumerate() {
            let runs = measure(&session, keyspace, &mut bare, live, batch, Call::Acquire)?;
            series[at]
                .points
                .push((live as f64, runs.median(|run| run.0) / batch as f64));
            series[at + 2]
                .points
                .push((live as f64, runs.median(|run| run.1) / batch as f64));
        }
        if let Some(counters) = &mut counters {
            let keys = random_keys(SEED ^ 1, live, SAMPLE);
            misses.push(counters.count(|| {
                keys.iter().try_for_each(|key| {
                    call(&session, keyspace, std::slice::from_ref(key), Call::Acquire)
                })
            })?);
        }
        drop(pool);
    }
    // Half of the buckets are someone's home at least; each key has an entry. Both are lines of 64 bytes.
    let touched = |live: f64| live * 64.0 + (live / 2.0) * 64.0;
    let known: Vec<Capacity> = capacities(page_bytes);
    let counted = match (misses.first(), misses.last()) {
        (Some(first), Some(last)) => format!(
            " Counted: from the fewest to the most keys, loads that miss the last cache grow from {:.2} to {:.2} a key and those \
             that miss the TLB from {:.2} to {:.2}.",
            first.last_level / SAMPLE as f64,
            last.last_level / SAMPLE as f64,
            first.tlb / SAMPLE as f64,
            last.tlb / SAMPLE as f64
        ),
        _ => {
            " This machine gives no counters of misses, so the reason is by size alone.".to_owned()
        }
    };
    let remark = explain(&series[0].points, Unit::Count, touched, &known) + &counted;
    report.curves.push(Curve {
        file: "latency-keys",
        title: "Acquire and release: time a key against live keys".to_owned(),
        x_label: "live keys",
        x_unit: Unit::Count,
        y_label: "time a key",
        y_unit: Unit::Nanoseconds,
        series,
        remark,
    });
    Ok(())
}
