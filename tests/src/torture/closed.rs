//! F4: a client closes its socket, lives on, and goes on writing into what it was granted.
//!
//! ```text
//!   worker: reserve 4 ── close the socket ── writes, writes, writes ───────────────── SIGKILL
//!   daemon:              orphan: charged, its extents nobody else's ───────────────── given back
//!   writer:                        stores the whole pool, every word proven     stores where it wrote
//! ```

use super::verify::Writer;
use super::{Fault, Run, Skipped, Stage};
use crate::pattern::{self, prove};
use crate::{Worker, keyspace, request, wait_until};
use hostkv::session::{ACQUIRE_ALL, Session};

/// Closed and alive.
pub static AND_WRITING: Fault = Fault {
    id: "F4",
    name: "a client closes its socket, lives on and writes",
    required: "no reuse before its end: 0 foreign bytes; the orphan's gauge",
    full_cycles: 10_000,
    weight: 6,
    run: and_writing,
};

/// Keys of the writer: more than the pool holds.
const KEYS: u32 = 4096;

/// Bytes that a worker holds: four extents of two pages.
const HELD_BYTES: u64 = 4 * 8192;

/// Cycles between two looks at the gauge, which is only as new as the last scan.
const LOOK_EVERY: u64 = 32;

fn and_writing(run: &mut Run) -> Result<(), Skipped> {
    // As small a pool as there is: the whole of it is written in every cycle.
    let mut stage = Stage::new(&["--l1-size-gb", "0.0078125"]);
    let session = stage.daemon.session();
    stage.expect_sessions(1);
    let mut writer = Writer::new(&session, 0, KEYS, 1, run.random.next_word());
    let mut proven = 0;
    while run.goes_on() {
        let mut worker = Worker::start(&stage.daemon);
        for order in [
            "raw connect",
            "raw hello",
            "raw reserve k 4 8000",
            "raw close-socket",
            "raw scribble",
        ] {
            worker.must(order);
        }
        let orphaned = || stage.daemon.scrape().sample("hostkv_orphaned_bytes") as u64;
        if run.done().is_multiple_of(LOOK_EVERY) {
            wait_until("the gauge shows the orphan", || orphaned() == HELD_BYTES);
        }
        proven += store_and_prove(&mut writer, &session);
        let audit = stage.audit();
        assert!(
            audit.reserved_bytes >= HELD_BYTES,
            "the extents of a living process were given away: {audit:?}"
        );
        worker.kill();
        stage.wait_until_alone();
        if run.done().is_multiple_of(LOOK_EVERY) {
            wait_until("the gauge forgets the orphan", || orphaned() == 0);
        }
        // Now its extents are others', and its last bytes are overwritten.
        proven += store_and_prove(&mut writer, &session);
        run.count(1);
    }
    run.note(format!("{proven} objects proven"));
    drop(writer);
    session.close().unwrap();
    stage.finish(run);
    Ok(())
}

/// Stores until the evictor has gone round, then proves every object that is there.
fn store_and_prove(writer: &mut Writer<'_>, session: &Session) -> u64 {
    for _ in 0..48 {
        writer.round();
    }
    let space = keyspace(session);
    let numbers: Vec<u32> = (0..KEYS).collect();
    let mut proven = 0;
    for batch in numbers.chunks(256) {
        let keys: Vec<_> = batch.iter().map(|number| pattern::key(*number)).collect();
        let lease = session
            .acquire(space, &keys, &request(ACQUIRE_ALL))
            .unwrap();
        for (index, number) in batch.iter().enumerate() {
            let Ok(span) = lease.span(index) else {
                continue;
            };
            // SAFETY: the lease keeps the bytes, and committed bytes do not change.
            if let Err(lie) = unsafe { prove(*number, span.data, span.len_bytes) } {
                panic!("{lie}");
            }
            proven += 1;
        }
        lease.release().unwrap();
    }
    proven
}
