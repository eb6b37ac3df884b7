//! F27: the daemon stands still while clients call it.
//!
//! ```text
//!   daemon:  SIGSTOP ───────────────────────────── SIGCONT ── late replies, late grants given back
//!   client:     reserve, commit, remove, figures: TIMEOUT at timeout_ms       acquire, read, release: as ever
//! ```

use std::time::{Duration, Instant};

use hostkv::session::{Session, SessionConfig};
use hostkv::{Error, Status};
use nix::sys::signal::Signal;

use super::{Fault, Run, Skipped, Timings};
use crate::{
    Daemon, assert_reads, keys, keyspace, keyspace_config, request, reserve_items, store,
    store_sized,
};

/// Stopped in the middle of everything.
pub static BY_SIGNAL: Fault = Fault {
    id: "F27",
    name: "the daemon is SIGSTOPped under calls",
    required: "reads go on, calls end with TIMEOUT at their time, late grants are given back: 0 leaked bytes",
    full_cycles: 200,
    weight: 3,
    run: by_signal,
};

/// What a call may take.
const LIMIT: Duration = Duration::from_millis(300);

/// What a loaded machine may add to it.
const SLACK: Duration = Duration::from_secs(2);

fn by_signal(run: &mut Run) -> Result<(), Skipped> {
    let daemon = Daemon::start(&[]);
    let quick = daemon.session();
    let space = keyspace(&quick);
    let stored = keys("stored", 8);
    store(&quick, space, &stored, 5000);
    let mut beyond = Timings::default();
    while run.goes_on() {
        let mut session = None;
        // On a loaded machine an open may take longer than this limit too.
        crate::wait_until("a session opens", || {
            session = Session::open(&SessionConfig {
                timeout_ms: LIMIT.as_millis() as u32,
                ..daemon.config(0)
            })
            .ok();
            session.as_ref().is_some_and(|session| {
                session
                    .open_keyspace(&keyspace_config("test-model"))
                    .is_ok()
            })
        });
        let session = session.expect("it has opened");
        let held = store_sized(&quick, space, &reserve_items(&keys("held", 2), 5000));
        daemon.signal(Signal::SIGSTOP);
        let mut late = |outcome: Box<dyn FnOnce() -> Result<(), Error> + '_>| {
            let begin = Instant::now();
            let error = outcome().expect_err("a daemon that stands still answers nothing");
            let took = begin.elapsed();
            assert_eq!(error.status, Status::Timeout, "{}", error.message);
            assert!(
                took >= LIMIT && took < LIMIT + SLACK,
                "a call took {took:?}"
            );
            beyond.add(took - LIMIT);
        };
        for _ in 0..1 + run.random.below(3) {
            match run.random.below(4) {
                0 => late(Box::new(|| {
                    let items = reserve_items(&keys("late", 3), 7000);
                    session.reserve(space, &items, &request(0)).map(drop)
                })),
                1 => late(Box::new(|| session.remove(space, &stored[7..], None))),
                2 => late(Box::new(|| session.figures().map(drop))),
                _ => late(Box::new(|| session.ping().map(drop))),
            }
            for _ in 0..100 {
                let lease = session.acquire(space, &stored[..7], &request(0)).unwrap();
                assert_eq!(lease.prefix_count(), 7, "reads do not go on");
                let at = run.random.below(7) as usize;
                assert_reads(&lease, at, &stored[at]);
                lease.release().unwrap();
            }
        }
        daemon.signal(Signal::SIGCONT);
        held.commit().unwrap();
        quick.remove(space, &keys("held", 2), None).unwrap();
        // The next call that is answered cleans up behind the late ones.
        crate::wait_until("the daemon answers again", || session.ping().is_ok());
        session.close().unwrap();
        let audit = daemon.audit_until("late grants are given back", |audit| {
            audit.reserved_bytes == 0 && audit.zombie_bytes == 0
        });
        assert_eq!(audit.object_bytes + audit.free_bytes, audit.capacity_bytes);
        store_what_is_missing(&quick, &stored);
        run.count(1);
    }
    run.note(format!("beyond the limit {}", beyond.summary()));
    drop(quick);
    daemon.finish();
    Ok(())
}

/// The last object may have been removed by a late call.
fn store_what_is_missing(session: &Session, stored: &[hostkv::ChunkKey]) {
    let space = keyspace(session);
    if session.lookup(space, stored, None).unwrap() < stored.len() {
        store(session, space, &stored[stored.len() - 1..], 5000);
    }
}
