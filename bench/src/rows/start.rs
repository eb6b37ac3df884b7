//! What is paid at the start, and what is left to pay: start to ready, a worker's first touch, faults in a first store.

use super::Plan;
use crate::limits::pages::{HUGE_PAGE_BYTES, Pages, Region, touch_ns, zeroing_ns};
use crate::machine;
use crate::measure::runs;
use crate::pool::{Pool, items, keyspace, said, session, store};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv::session::{Mapping, POPULATE};

const GIB: usize = 1 << 30;
const POOL: [&str; 2] = ["--l1-size-gb", "1"];

/// The rows.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    ready(report)?;
    first_touch(report)?;
    faults(report)
}

fn ready(report: &mut Report) -> Result<(), String> {
    // As many threads as the daemon starts: half of the processors, at most eight.
    let threads = (machine::cpu_count() / 2).clamp(1, 8);
    let mut huge_bytes = 0;
    let measured = runs(&[], || {
        let limit = zeroing_ns(GIB, threads)?;
        let pool = Pool::start(&POOL)?;
        huge_bytes = pool.session()?.info().map_err(said)?.huge_page_bytes;
        Ok((pool.ready_ns(), limit))
    })?;
    let (ours, limit) = (measured.median(|run| run.0), measured.median(|run| run.1));
    // 1.2 times the limit and 0.1 s, as a ratio.
    report.row(
        Row::new(
            "start to ready, 1 GiB pool",
            Unit::Nanoseconds,
            ours,
            Goal::RatioAtMost(1.2 + 1e8 / limit),
        )
        .limit(format!("zeroing 1 GiB, {threads} thread(s)"), limit)
        .noise(measured.noise)
        .note(format!(
            "target: 1.2 x + 0.1 s; {:.0} % on 2 MiB pages",
            huge_bytes as f64 / GIB as f64 * 100.0
        )),
    );
    Ok(())
}

fn first_touch(report: &mut Report) -> Result<(), String> {
    let pool = Pool::start(&POOL)?;
    let region = Region::new(GIB, Pages::Huge)?;
    let measured = runs(&[], || {
        let limit = region.map_again()?.touch_all();
        let session = pool.session()?;
        let (base, len) = session.mapping(Mapping::Read).map_err(said)?;
        // SAFETY: the session's mapping is `len` bytes long and stays until the session ends.
        let ours = unsafe { touch_ns(base, len as usize) };
        Ok((ours, limit))
    })?;
    report.row(
        Row::new(
            "a worker's first touch of every page of 1 GiB",
            Unit::Nanoseconds,
            measured.median(|run| run.0),
            Goal::RatioAtMost(2.0),
        )
        .limit(
            format!(
                "a bare second mapping, {:.0} % on 2 MiB pages",
                region.huge_share() * 100.0
            ),
            measured.median(|run| run.1),
        )
        .noise(measured.noise),
    );
    Ok(())
}

/// Page faults of the worker and of the daemon in the first stores into a cold pool.
fn faults(report: &mut Report) -> Result<(), String> {
    const LEN: usize = 1 << 20;
    const STORES: u64 = 64;
    let source = vec![0x5a5a_5a5a_5a5a_5a5a_u64; LEN / 8];
    for (flags, what) in [(0, "default flags"), (POPULATE, "HOSTKV_SESSION_POPULATE")] {
        let pool = Pool::start(&POOL)?;
        let session = session(&pool.socket(), flags)?;
        let keyspace = keyspace(&session)?;
        // The stack, the heap and the socket's buffers are paid by the first stores, which take other pages than the others.
        let stored = |numbers: std::ops::Range<u64>| -> Result<(u64, u64), String> {
            let wanted: Vec<_> = numbers.map(|number| items([number], LEN as u64)).collect();
            let now = || {
                (
                    machine::faults(std::process::id()),
                    machine::faults(pool.pid()),
                )
            };
            let before = now();
            for items in &wanted {
                store(&session, keyspace, items, &source)?;
            }
            let after = now();
            Ok((after.0 - before.0, after.1 - before.1))
        };
        stored(1000..1000 + STORES)?;
        let (own, daemon) = stored(0..STORES)?;
        let row = Row::new(
            format!("page faults a first store of 1 MiB into a cold pool, {what}"),
            Unit::Count,
            (own + daemon) as f64 / STORES as f64,
            if flags == POPULATE {
                Goal::AtMost(0.0)
            } else {
                Goal::RatioAtMost(1.1)
            },
        )
        .note(format!(
            "in {STORES} stores {own} of the worker and {daemon} of the daemon"
        ));
        report.row(if flags == POPULATE {
            row
        } else {
            // A process that was not asked to map the pool at once maps each 2 MiB when it comes there.
            row.limit(
                "a new mapping on 2 MiB pages",
                LEN as f64 / HUGE_PAGE_BYTES as f64,
            )
        });
    }
    Ok(())
}
