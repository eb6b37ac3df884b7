//! What the index costs in memory for each object that it has room for.

use super::Plan;
use super::reads::{OBJECT_BYTES, small_object_flags};
use crate::machine;
use crate::pool::{Pool, fill, keyspace, said};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};

const CONFIGURED: u64 = 10_000_000;
const TARGET_BYTES: f64 = 160.0;

/// The row, with all objects live that there is room for.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    let flags = small_object_flags(CONFIGURED, CONFIGURED as u32);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // What a daemon takes without an index is not the index's.
    let small = Pool::start(&["--l1-size-gb", "0.03125", "--max-objects", "1"])?;
    let base = private_bytes(&small);
    drop(small);
    let pool = Pool::start(&flags)?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    fill(&session, keyspace, CONFIGURED, OBJECT_BYTES)?;
    let found = session.figures().map_err(said)?.object_count;
    if found != CONFIGURED {
        return Err(format!("{found} objects are live, not {CONFIGURED}"));
    }
    let control = machine::mapped_bytes(pool.pid(), "hostkv-control", "Rss:");
    if control == 0 {
        return Err("the daemon maps no control segment of that name".to_owned());
    }
    let private = private_bytes(&pool).saturating_sub(base);
    report.row(
        Row::new(
            "index memory an object at 10 M, configured and live",
            Unit::Bytes,
            (control + private) as f64 / CONFIGURED as f64,
            Goal::AtMost(TARGET_BYTES),
        )
        .note(format!(
            "{:.1} MiB control segment, {:.1} MiB private",
            control as f64 / 1048576.0,
            private as f64 / 1048576.0,
        )),
    );
    Ok(())
}

/// Bytes of the daemon's own heap and stacks.
fn private_bytes(pool: &Pool) -> u64 {
    machine::mapped_bytes(pool.pid(), "", "Anonymous:")
}
