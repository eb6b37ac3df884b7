//! What the daemon's loop costs in CPU: a reserve and a commit of 32 keys against the system calls of such messages.

use super::Plan;
use super::reads::{LARGE, LARGE_ENTRIES, OBJECT_BYTES, small_object_flags};
use crate::limits::index::canonical;
use crate::limits::trip::Echo;
use crate::measure::runs;
use crate::pool::{Pool, items, keyspace, remove, store_unwritten};
use crate::report::Report;
use crate::table::{Goal, Row, Unit};
use hostkv_shm_protocol::id::{EntryNumber, OpId};
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::reply::{CommittedItem, Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request, Reserve, ReserveItem};

const KEYS: u64 = 32;
/// Reserves and commits of a run: what they store fits into the pool without eviction.
const PAIRS: u64 = 400;

/// Lengths of the four frames of a reserve and a commit of these keys: request, reply, request, reply.
fn frame_lengths(keys: u64) -> Result<[usize; 4], String> {
    let items = (0..keys)
        .map(|number| {
            canonical(number).map(|key| ReserveItem {
                key,
                len_bytes: OBJECT_BYTES as u32,
            })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let held = (0..keys as u32)
        .map(|number| HeldItem {
            entry: EntryNumber(number),
            generation: 2,
        })
        .collect();
    let reserved = (0..keys as u32)
        .map(|number| ReservedItem {
            status: Status::Ok,
            reason: Reason::None,
            entry: EntryNumber(number),
            offset_units: number,
            staging_units: 0,
            generation: 2,
        })
        .collect();
    let committed = (0..keys)
        .map(|_| CommittedItem {
            status: Status::Ok,
            generation: 2,
        })
        .collect();
    Ok([
        Request::Reserve(Reserve {
            op_id: OpId(1),
            request_id: String::new(),
            device: String::new(),
            items,
        })
        .encode(1, true)
        .len(),
        Reply::Reserved(reserved).encode(1).len(),
        Request::Commit(Held {
            op_id: OpId(1),
            items: held,
        })
        .encode(1, true)
        .len(),
        Reply::Committed(committed).encode(1).len(),
    ])
}

/// The row with objects of a usual size, and one with the smallest.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    measure(
        report,
        64 << 10,
        &["--l1-size-gb", "2"],
        Goal::RatioAtMost(2.2),
    )?;
    let flags = small_object_flags(LARGE, LARGE_ENTRIES);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    measure(report, OBJECT_BYTES, &flags, Goal::Shown)
}

fn measure(report: &mut Report, len: u64, flags: &[&str], goal: Goal) -> Result<(), String> {
    let pool = Pool::start(flags)?;
    let session = pool.session()?;
    let keyspace = keyspace(&session)?;
    pool.bind_apart()?;
    let frames = frame_lengths(KEYS)?;
    let mut next = 1 << 40;
    let measured = runs(&[pool.pid()], || {
        let mut stored = Vec::new();
        let (before, of_all) = (pool.loop_cpu_ns()?, pool.cpu_ns()?);
        for _ in 0..PAIRS {
            let items = items(next..next + KEYS, len);
            next += KEYS;
            store_unwritten(&session, keyspace, &items)?;
            stored.extend(items.iter().map(|item| item.key));
        }
        let a_pair = |begin: u64, end: u64| (end - begin) as f64 / PAIRS as f64;
        let ours = a_pair(before, pool.loop_cpu_ns()?);
        let of_all = a_pair(of_all, pool.cpu_ns()?);
        remove(&session, keyspace, &stored)?;
        Ok((ours, echo_cpu_ns(&frames)?, of_all))
    })?;
    let ours = measured.median(|run| run.0);
    report.row(
        Row::new(
            format!(
                "reserve + commit of {KEYS} keys of {}, daemon CPU",
                Unit::Bytes.show(len as f64)
            ),
            Unit::Nanoseconds,
            ours,
            goal,
        )
        .limit("the system calls alone", measured.median(|run| run.1))
        .noise(measured.noise)
        .note(format!(
            "the loop's thread, {:.2} M keys/s on one core; with checksums, scrubbing and the log on other threads {}",
            KEYS as f64 / ours * 1e3,
            Unit::Nanoseconds.show(measured.median(|run| run.2))
        )),
    );
    Ok(())
}

/// Nanoseconds of CPU that a server which only waits, receives and sends takes for messages of these lengths.
fn echo_cpu_ns(frames: &[usize; 4]) -> Result<f64, String> {
    let echo = Echo::start()?;
    let [reserve, reserved, commit, committed] = frames.map(|len| vec![0; len]);
    let (mut reserve, mut reserved) = (reserve, reserved);
    let (mut commit, mut committed) = (commit, committed);
    for _ in 0..PAIRS {
        echo.trip(&mut reserve, &mut reserved)?;
        echo.trip(&mut commit, &mut committed)?;
    }
    Ok(echo.end() as f64 / PAIRS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_the_limit_are_as_long_as_those_of_32_keys() {
        let [reserve, reserved, commit, committed] = frame_lengths(32).expect("frames");
        assert!(
            reserve > 32 * 52 && reserved > 32 * 17,
            "{reserve} {reserved}"
        );
        assert!(
            commit > 32 * 12 && committed > 32 * 9,
            "{commit} {committed}"
        );
    }
}
