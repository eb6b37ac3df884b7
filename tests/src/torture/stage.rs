//! Where a fault takes place: a daemon, a witness, and a bystander who must not notice anything.
//!
//! ```text
//!   Stage ── Daemon            audited, its descriptors counted
//!     │  └── witness           the fault's own session: figures, audits
//!     └── bystander thread     stores, reads and verifies small objects all the time, and times it
//! ```
//!
//! The end of a stage is the end that every fault has to have: the daemon lives, an audit finds nothing, no reserved
//! byte and no zombie is left, the daemon has no descriptor more than at the beginning, the bystander saw no wrong
//! byte and no refusal, and SIGTERM ends the daemon cleanly.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hostkv::session::{Request, Session};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_shm_protocol::wire::reply::Audit;

use super::{Run, Timings};
use crate::{Daemon, DaemonSpec, assert_reads, keys, keyspace, reserve_items, store, wait_until};

/// Objects of the bystander, and the most pins that it has.
pub(super) const BYSTANDER_OBJECTS: usize = 8;

/// Bytes of each.
const OWN_BYTES: u64 = 1000;

/// The stage.
pub struct Stage {
    /// The daemon.
    pub daemon: Daemon,
    /// The fault's own session.
    pub witness: Session,
    bystander: Bystander,
    descriptors: usize,
    sessions: u64,
}

impl Stage {
    /// A daemon with these flags beside the harness's defaults.
    pub fn new(flags: &[&str]) -> Stage {
        Stage::on(DaemonSpec::new(flags))
    }

    /// A daemon as this says.
    pub fn on(spec: DaemonSpec) -> Stage {
        let daemon = spec.start();
        let witness = daemon.session();
        let bystander = Bystander::start(&daemon);
        let sessions = 2;
        wait_until("the stage is set", || {
            witness.figures().unwrap().session_count == sessions
        });
        Stage {
            descriptors: count_descriptors(daemon.pid()),
            daemon,
            witness,
            bystander,
            sessions,
        }
    }

    /// Says that the fault itself opened this many sessions more, which are closed before the end.
    pub fn expect_sessions(&mut self, count: u64) {
        self.sessions += count;
    }

    /// Whether nobody but the witness and the bystander has a session.
    pub fn is_alone(&self) -> bool {
        self.witness.figures().unwrap().session_count == self.sessions
    }

    /// Waits until all sessions of the fault are gone; gives how long that took.
    pub fn wait_until_alone(&self) -> Duration {
        let begin = Instant::now();
        let deadline = begin + crate::PATIENCE;
        // Without sleeping: this is what reclaim is timed by.
        while !self.is_alone() {
            assert!(
                Instant::now() < deadline,
                "dead sessions are not reclaimed:\n{}",
                self.daemon.log_text()
            );
        }
        begin.elapsed()
    }

    /// A recount, in which nothing may be off.
    pub fn audit(&self) -> Audit {
        let audit = self.witness.audit().unwrap();
        assert_eq!(audit.verdict, "", "{audit:?}\n{}", self.daemon.log_text());
        audit
    }

    /// Waits until no session of the fault holds anything, and checks that nothing has leaked.
    pub fn assert_nothing_leaked(&self) -> Audit {
        self.wait_until_alone();
        let deadline = Instant::now() + crate::PATIENCE;
        loop {
            let audit = self.audit();
            // The bystander holds little and not for long; what is left over stays.
            if audit.zombie_bytes == 0 && audit.reserved_bytes == 0 && audit.quarantined_bytes == 0
            {
                assert_eq!(audit.object_bytes + audit.free_bytes, audit.capacity_bytes);
                return audit;
            }
            assert!(Instant::now() < deadline, "bytes have leaked: {audit:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the stage: nothing leaked, nobody hurt; adds the bystander's times to the figures.
    pub fn finish(mut self, run: &mut Run) {
        let timings = self.bystander.end();
        self.sessions = 1;
        self.assert_nothing_leaked();
        run.note(format!(
            "bystander {} rounds {}",
            timings.count(),
            timings.summary()
        ));
        wait_until("the daemon has no more descriptors than before", || {
            count_descriptors(self.daemon.pid()) <= self.descriptors
        });
        drop(self.witness);
        self.daemon.finish();
    }
}

fn count_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the daemon lives and is a child of this process")
        .count()
}

/// A client beside the fault.
struct Bystander {
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Timings>>,
}

impl Bystander {
    fn start(daemon: &Daemon) -> Bystander {
        let session = daemon.session();
        let has_ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&has_ended);
        let thread = std::thread::spawn(move || {
            let mut timings = Timings::default();
            // Relaxed: only the end of a loop.
            while !is_over.load(Ordering::Relaxed) {
                timings.add(Bystander::round(&session));
                std::thread::sleep(Duration::from_millis(1));
            }
            timings
        });
        Bystander {
            has_ended,
            thread: Some(thread),
        }
    }

    /// Reads its objects, and stores again what was evicted.
    fn round(session: &Session) -> Duration {
        let space = keyspace(session);
        let own = keys("bystander", BYSTANDER_OBJECTS);
        let begin = Instant::now();
        let lease = session.acquire(space, &own, &Request::default()).unwrap();
        let found = lease.prefix_count();
        for (index, key) in own.iter().enumerate().take(found) {
            assert_reads(&lease, index, key);
        }
        lease.release().unwrap();
        if found < BYSTANDER_OBJECTS {
            let items = reserve_items(&own[found..], OWN_BYTES);
            let reservation = session.reserve(space, &items, &Request::default()).unwrap();
            for (index, item) in items.iter().enumerate() {
                if let Ok(span) = reservation.span(index) {
                    // SAFETY: a granted span is this thread's alone until the commit.
                    unsafe { crate::fill(&item.key, span.data, span.len_bytes) };
                }
            }
            reservation.commit().unwrap();
        } else {
            // A write of every round, so that the daemon is asked too.
            let last = &own[BYSTANDER_OBJECTS - 1..];
            session.remove(space, last, None).unwrap();
            store(session, space, last, OWN_BYTES);
        }
        begin.elapsed()
    }

    fn end(&mut self) -> Timings {
        self.tell();
        let thread = self.thread.take().expect("it is ended once");
        thread.join().expect("the bystander was hurt")
    }

    fn tell(&self) {
        // Relaxed: only the end of a loop.
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.tell();
    }
}
