//! Eviction: what an object costs the daemon, how long others wait behind it, and whether any goes that need not.

use super::Plan;
use super::reads::OBJECT_BYTES;
use crate::keys::{SEED, key, mix, shuffle};
use crate::limits::evict::{BareEviction, Scale};
use crate::limits::pages::Pages;
use crate::machine::is_mostly_huge;
use crate::measure::{Runs, crowded_runs, percentile_of, runs};
use crate::pool::{Pool, fill, items, keyspace, remove, said, store_unwritten};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::admin::ObjectFilter;
use hostkv::session::Session;
use hostkv::{KeyspaceId, Status};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Pin slots of its one session that each scan looks at while evictions are measured.
const SCANNED_SLOTS: u64 = 4096;

/// All rows.
pub fn rows(plan: &Plan, report: &mut Report) -> Result<(), String> {
    cost(report)?;
    waits(report)?;
    extra(plan, report)
}

/// Daemon CPU of an evicted object: of passes that free a fifth of an aged pool, while nobody stores.
fn cost(report: &mut Report) -> Result<(), String> {
    const UNITS: u64 = 1 << 18;
    const ENTRIES: u32 = 300_000;
    const LEN: u64 = 4096;
    // At the watermark, and not above it.
    const LIVE: u64 = UNITS / 100 * 95;
    const PASS: u64 = LIVE / 5;
    let entries = ENTRIES.to_string();
    // Sums and scrubbing go on beside a pass, and are not what is measured.
    let flags = [
        "--integrity",
        "off",
        "--l1-size-gb",
        "1",
        "--max-objects",
        &entries,
        "--eviction-trigger-watermark",
        "0.95",
        "--eviction-ratio",
        "0.2",
    ];
    let pool = Pool::start(&flags)?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    pool.bind_apart()?;
    fill(&session, keyspace, LIVE, LEN)?;
    pin_once(&session, keyspace, SCANNED_SLOTS)?;
    age(&session, keyspace, LIVE, LEN)?;
    let pages = match is_mostly_huge(pool.pid(), "hostkv-control") {
        true => Pages::Huge,
        false => Pages::Small,
    };
    let mut bare = BareEviction::new(Scale {
        entry_count: ENTRIES,
        unit_count: UNITS as u32,
        live: LIVE as u32,
        slot_count: SCANNED_SLOTS as usize,
        pages,
    })?;
    let mut next = 2 * LIVE;
    let mut store = |count: u64| {
        next += count;
        store_unwritten(&session, keyspace, &items(next - count..next, LEN))
    };
    let measured = runs(&[pool.pid()], || {
        let figures = || session.figures().map_err(said);
        let evicted = figures()?.l1_evicted_keys;
        let before = pool.loop_cpu_ns()?;
        // Above the watermark.
        store(64)?;
        let begin = Instant::now();
        let evicted = loop {
            std::thread::sleep(Duration::from_millis(10));
            let count = figures()?.l1_evicted_keys - evicted;
            if count >= PASS {
                break count;
            }
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(format!("{count} objects were evicted, not {PASS}"));
            }
        };
        // What was unpublished last is being freed.
        std::thread::sleep(Duration::from_millis(10));
        let ours = (pool.loop_cpu_ns()? - before) as f64 / evicted as f64;
        while figures()?.object_count < LIVE {
            store((LIVE - figures()?.object_count).min(1024))?;
        }
        Ok((ours, bare.pass_ns(PASS as usize)?))
    })?;
    report.row(
        Row::new(
            "eviction, an object, in batches, daemon CPU",
            Unit::Nanoseconds,
            measured.median(|run| run.0),
            Goal::RatioAtMost(2.0),
        )
        .limit("unpublish, scan, free", measured.median(|run| run.1))
        .noise(measured.noise)
        .note(format!(
            "the loop's thread; passes in an aged pool, the index on {}",
            pages.name()
        )),
    );
    Ok(())
}

/// Pins so many objects at once and lets them go: from then on every scan looks at as many slots of the session.
fn pin_once(session: &Session, keyspace: KeyspaceId, count: u64) -> Result<(), String> {
    let keys: Vec<_> = (0..count).map(key).collect();
    let mut leases = Vec::new();
    for keys in keys.chunks(1024) {
        let lease = session
            .acquire(keyspace, keys, &Default::default())
            .map_err(said)?;
        if lease.prefix_count() != keys.len() {
            return Err("a key that was stored is not there any more".to_owned());
        }
        leases.push(lease);
    }
    leases
        .into_iter()
        .try_for_each(|lease| lease.release().map_err(said))
}

/// Makes of a pool that was just filled with keys `0..live` one that has been used for a while: keys `live..2 * live`, stored in
/// this order, in entries and extents that have nothing to do with it. Fails unless that is so.
fn age(session: &Session, keyspace: KeyspaceId, live: u64, len: u64) -> Result<(), String> {
    let mut old: Vec<u64> = (0..live).collect();
    shuffle(&mut old, SEED);
    // The key at each place of the payload, by its offset.
    let mut places = Vec::new();
    let mut next = live;
    // Few at a time, or those that lie side by side leave one hole, and it is filled in order.
    for batch in old.chunks(512) {
        let keys: Vec<_> = batch.iter().copied().map(key).collect();
        remove(session, keyspace, &keys)?;
        let numbers = next..next + batch.len() as u64;
        next = numbers.end;
        let reservation = session
            .reserve(keyspace, &items(numbers.clone(), len), &Default::default())
            .map_err(said)?;
        for (at, number) in numbers.enumerate() {
            let span = reservation.span(at).map_err(said)?;
            places.push((span.data as u64 / len, number));
        }
        reservation.commit().map_err(said)?;
    }
    places.sort_unstable();
    let by_place: Vec<u64> = places.iter().map(|(_, number)| *number).collect();
    fails_unless_mixed("places in the payload", &by_place, live)?;
    let numbers: HashMap<String, u64> = (live..2 * live)
        .map(|number| {
            let bytes = key(number).chunk_hash;
            let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (text, number)
        })
        .collect();
    let mut by_entry = Vec::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let page = session
            .list_page(&ObjectFilter::default(), from, 1024)
            .map_err(said)?;
        let listed = page.objects.iter().map(|object| &object.chunk_hash);
        by_entry.extend(listed.filter_map(|hash| numbers.get(hash)));
        cursor = page.next_cursor;
    }
    fails_unless_mixed("numbers of entries", &by_entry, live)
}

/// Fails when more than a hundredth of the neighbours were stored soon after each other: of a random order it is far less.
fn fails_unless_mixed(what: &str, stored: &[u64], live: u64) -> Result<(), String> {
    const SOON: u64 = 64;
    let near = stored
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) <= SOON)
        .count();
    if stored.len() as u64 == live && near < stored.len() / 100 {
        return Ok(());
    }
    Err(format!(
        "the pool is not aged: of {} objects of {live} by their {what}, {near} were stored soon after their neighbour",
        stored.len()
    ))
}

/// How long a request waits while another one evicts thousands of objects.
fn waits(report: &mut Report) -> Result<(), String> {
    const LIVE: u64 = 1 << 19;
    const SLICE_NS: f64 = 500_000.0;
    const TURN: Duration = Duration::from_secs(2);
    let pool = Pool::start(&[
        "--l1-size-gb",
        "0.03125",
        "--l1-align-bytes",
        "64",
        "--max-objects",
        "700000",
        "--eviction-trigger-watermark",
        "1.0",
    ])?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    fill(&session, keyspace, LIVE, OBJECT_BYTES)?;
    let measured: Runs<(f64, f64)> = crowded_runs(&[pool.pid()], || {
        let quiet = p999(&session, TURN, || false)?;
        let evicting = pool.session()?;
        let before = session.figures().map_err(said)?.l1_evicted_keys;
        let busy = std::thread::scope(|scope| {
            let churn = scope.spawn(|| evict_for(&evicting, TURN, SEED ^ before));
            let busy = p999(&session, TURN * 2, || churn.is_finished());
            churn
                .join()
                .map_err(|_| "the churning thread failed".to_owned())??;
            busy
        })?;
        let evicted = session.figures().map_err(said)?.l1_evicted_keys - before;
        if evicted < 100_000 {
            return Err(format!("only {evicted} objects were evicted"));
        }
        Ok((busy, quiet))
    })?;
    report.row(
        Row::new(
            "longest wait of another request behind an eviction, p99.9",
            Unit::Nanoseconds,
            measured.median(|run| run.0),
            Goal::RatioAtMost(1.0),
        )
        .limit(
            "2 slices of 0.5 ms + its own quiet p99.9",
            measured.median(|run| run.1 + 2.0 * SLICE_NS),
        )
        .noise(measured.noise),
    );
    Ok(())
}

/// The 99.9th percentile of a small request's round trip.
fn p999(session: &Session, time: Duration, ends: impl Fn() -> bool) -> Result<f64, String> {
    let begin = Instant::now();
    let mut figures = Vec::new();
    while begin.elapsed() < time && !ends() {
        let begin = Instant::now();
        session.figures().map_err(said)?;
        figures.push(begin.elapsed().as_nanos() as f64);
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(percentile_of(figures, 0.999))
}

/// Reserves 1024 objects of 1 KiB at once, for which 16384 small ones go, and stores as many small ones again.
fn evict_for(session: &Session, time: Duration, seed: u64) -> Result<(), String> {
    let keyspace = keyspace(session)?;
    let begin = Instant::now();
    let mut next = seed;
    let mut numbers =
        |count: usize| -> Vec<u64> { (0..count).map(|_| mix(&mut next) | 1 << 63).collect() };
    while begin.elapsed() < time {
        let large = items(numbers(1024), 1024);
        store_unwritten(session, keyspace, &large)?;
        let keys: Vec<_> = large.iter().map(|item| item.key).collect();
        remove(session, keyspace, &keys)?;
        for _ in 0..256 {
            store_unwritten(session, keyspace, &items(numbers(64), OBJECT_BYTES))?;
        }
    }
    Ok(())
}

/// A mix of object sizes in units of 64 bytes, by the number of the allocation and a random number.
type Mix = fn(u64, u64) -> u64;

/// The sizes of the four mixes, a 64th of what engines store, as the unit is a 64th of the default one.
const MIXES: [(&str, Mix); 4] = [
    ("one model (1.5 MiB)", |_, _| 384),
    ("three models (160 KiB, 768 KiB, 5 MiB)", |_, random| {
        [40, 192, 1280][random as usize % 3]
    }),
    ("log-uniform 16 KiB to 16 MiB", |_, random| {
        (4.0 * 1024_f64.powf(random as f64 / u64::MAX as f64)) as u64
    }),
    ("phase shift 160 KiB, 5 MiB", |turn, _| {
        [40, 1280][(turn / 20_000) as usize % 2]
    }),
];

/// Allocations at 90 % full whose place had to be made by evicting more than the watermark asks for.
///
/// The daemon's allocator serves, and this process is the policy: it keeps the pool at 90 % by removing what was used
/// longest ago, touches one of a hot third twice between two allocations, and counts every reserve for which no hole fits.
fn extra(plan: &Plan, report: &mut Report) -> Result<(), String> {
    const UNIT: u64 = 64;
    let turnovers = if plan.is_full { 8 } else { 2 };
    for (name, mix_of) in MIXES {
        let pool = Pool::start(&[
            "--l1-size-gb",
            "1",
            "--l1-align-bytes",
            "64",
            "--max-objects",
            "700000",
            "--eviction-policy",
            "noop",
        ])?;
        let session = pool.session()?;
        let keyspace = keyspace(&session)?;
        let capacity = session.info().map_err(said)?.capacity_bytes;
        let mut lru = Lru::new();
        let (mut allocations, mut extra, mut stored_bytes) = (0_u64, 0_u64, 0_u64);
        let mut state = SEED;
        while stored_bytes < capacity * turnovers {
            let batch: Vec<(u64, u64)> = (0..64)
                .map(|at| {
                    let turn = allocations + at;
                    (turn, mix_of(turn, mix(&mut state)) * UNIT)
                })
                .collect();
            let wanted: u64 = batch.iter().map(|(_, len)| len).sum();
            let over = (lru.bytes + wanted).saturating_sub(capacity / 10 * 9);
            lru.remove(&session, keyspace, over)?;
            for (number, len) in batch {
                extra += lru.store(&session, keyspace, number, len)?;
                for _ in 0..2 {
                    lru.touch_hot(mix(&mut state));
                }
                allocations += 1;
            }
            stored_bytes += wanted;
        }
        let used = session.figures().map_err(said)?.used_bytes;
        if used != lru.bytes {
            return Err(format!("{used} bytes are used, not {}", lru.bytes));
        }
        report.row(
            Row::new(
                format!("extra evictions an allocation at 90 % full, {name}"),
                Unit::Count,
                extra as f64 / allocations as f64,
                Goal::AtMost(0.0),
            )
            .note(format!(
                "{allocations} allocations, {:.1} times the pool, at {:.1} % full",
                stored_bytes as f64 / capacity as f64,
                used as f64 / capacity as f64 * 100.0
            )),
        );
    }
    Ok(())
}

/// What is stored, in the order of its use.
struct Lru {
    by_use: BTreeMap<u64, (u64, u64)>,
    hot: VecDeque<(u64, u64)>,
    clock: u64,
    bytes: u64,
}

impl Lru {
    fn new() -> Lru {
        Lru {
            by_use: BTreeMap::new(),
            hot: VecDeque::new(),
            clock: 0,
            bytes: 0,
        }
    }

    /// Stores an object; how many others had to go because no hole fitted.
    fn store(
        &mut self,
        session: &Session,
        keyspace: KeyspaceId,
        number: u64,
        len: u64,
    ) -> Result<u64, String> {
        let items = items([number], len);
        let mut extra = 0;
        loop {
            let reservation = session
                .reserve(keyspace, &items, &Default::default())
                .map_err(said)?;
            match reservation.span(0) {
                Ok(_) => {
                    reservation.commit().map_err(said)?;
                    break;
                }
                Err(error) if error.status == Status::NoSpace => {
                    drop(reservation);
                    extra += 1;
                    self.remove(session, keyspace, 1)?;
                }
                Err(error) => return Err(error.message),
            }
        }
        self.clock += 1;
        self.by_use.insert(self.clock, (number, len));
        // Every third object is one that is used again and again.
        if number.is_multiple_of(3) {
            self.hot.push_back((self.clock, number));
        }
        self.bytes += len;
        Ok(extra)
    }

    /// Uses one of the hot objects that are left.
    fn touch_hot(&mut self, random: u64) {
        if self.hot.is_empty() {
            return;
        }
        let at = random as usize % self.hot.len();
        let (used, number) = self.hot[at];
        match self.by_use.remove(&used) {
            Some(object) => {
                self.clock += 1;
                self.by_use.insert(self.clock, object);
                self.hot[at] = (self.clock, number);
            }
            // It was removed meanwhile.
            None => {
                self.hot.swap_remove_back(at);
            }
        }
    }

    /// Removes what was used longest ago until as many bytes are gone.
    fn remove(
        &mut self,
        session: &Session,
        keyspace: KeyspaceId,
        bytes: u64,
    ) -> Result<(), String> {
        let mut gone = 0;
        let mut keys = Vec::new();
        while gone < bytes {
            let Some((_, (number, len))) = self.by_use.pop_first() else {
                return Err("nothing is left to evict".to_owned());
            };
            gone += len;
            keys.push(key(number));
        }
        self.bytes -= gone;
        remove(session, keyspace, &keys)
    }
}
