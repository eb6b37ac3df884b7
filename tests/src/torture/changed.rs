//! F8: a trusted writer changes objects after their commit, where every object is compared with its sum.
//!
//! An untrusted writer cannot: `e2e/untrusted.rs` is that attacker.

use hostkv::session::{ACQUIRE_ALL, Mapping};
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

use super::{Fault, Run, Skipped, Stage};
use crate::{keys, keyspace, request, store};

/// One flipped bit each.
pub static AFTER_COMMIT: Fault = Fault {
    id: "F8",
    name: "a trusted writer flips one bit of an object after its commit (--integrity full)",
    required: "100 % are misses at once; 0 whole objects are",
    full_cycles: 100_000,
    weight: 2,
    run: after_commit,
};

/// Objects of a round.
const CHANGED: usize = 250;

/// Bytes of each.
const LEN: u64 = 3000;

fn after_commit(run: &mut Run) -> Result<(), Skipped> {
    // No scrubber: what is found is found by readers.
    let flags = ["--integrity", "full", "--scrub-bytes-per-second", "0"];
    let stage = Stage::new(&flags);
    let session = &stage.witness;
    let space = keyspace(session);
    let base = session.mapping(Mapping::Write).unwrap().0;
    let read_base = session.mapping(Mapping::Read).unwrap().0 as usize;
    let (changed, whole) = (keys("changed", CHANGED), keys("whole", 64));
    store(session, space, &whole, LEN);
    while run.goes_on() {
        // What the daemon has removed by itself meanwhile is stored again, what it has not is removed here.
        session.remove(space, &changed, None).unwrap();
        store(session, space, &changed, LEN);
        let lease = session.acquire(space, &changed, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), CHANGED, "a whole object is a miss");
        let offsets: Vec<usize> = (0..CHANGED)
            .map(|index| lease.span(index).unwrap().data as usize - read_base)
            .collect();
        lease.release().unwrap();
        for offset in offsets {
            let word = run.random.below(LEN / 8) as usize;
            // SAFETY: the object lies at a multiple of the alignment inside the mapping, which lives as long as the
            // session; whoever else looks at it does so by atomics.
            let word = unsafe { &*base.add(offset + word * 8).cast::<AtomicU64>() };
            word.fetch_xor(1 << run.random.below(64), Ordering::Relaxed);
        }
        let lease = session
            .acquire(space, &changed, &request(ACQUIRE_ALL))
            .unwrap();
        let unnoticed = (0..CHANGED).filter(|index| lease.span(*index).is_ok());
        assert_eq!(unnoticed.count(), 0, "changed objects are handed out");
        drop(lease);
        let lease = session.acquire(space, &whole, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), whole.len(), "a false alarm");
        lease.release().unwrap();
        run.count(CHANGED as u64);
    }
    run.note(format!("{} of {} detected", run.done(), run.done()));
    stage.finish(run);
    Ok(())
}
