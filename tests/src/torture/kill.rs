//! F1: a client is SIGKILLed, at each step of the protocol and at random moments.
//!
//! ```text
//!   orders ──> worker ── SIGKILL ── its pidfd is readable ──┬─ the clock of reclaim ─┬─ its session is gone
//!                                                           daemon: final drain, give back
//! ```
//!
//! What it committed stays, and whole; all else is back within 10 ms of the pidfd. That number is judged in a long run
//! on a machine that lets it be seen: when a bare ping of the daemon, taken between the kills, has a 99th percentile
//! of at most `QUIET_PING`. Everywhere it is told.

use std::time::Duration;

use super::stage::BYSTANDER_OBJECTS;
use super::{Fault, Run, Skipped, Stage, Timings};
use crate::{Worker, assert_reads, keys, keyspace, request, store};

/// Killed at each step of the protocol.
pub static AT_EVERY_STEP: Fault = Fault {
    id: "F1",
    name: "a client is SIGKILLed at each step of the protocol",
    required: "committed keys whole, all else back; reclaim <= 10 ms p99 after the pidfd",
    full_cycles: 22_000,
    weight: 8,
    run: at_every_step,
};

/// Killed at random.
pub static AT_RANDOM: Fault = Fault {
    id: "F1",
    name: "a client under load is SIGKILLed at a random moment",
    required: "0 leaked bytes, 0 wrong bytes; reclaim <= 10 ms p99 after the pidfd",
    full_cycles: 10_000,
    weight: 8,
    run: at_random,
};

/// Killed with every slot of its lease in use.
pub static WITH_ALL_SLOTS: Fault = Fault {
    id: "F1",
    name: "a client with a pin in each of its 16,384 slots is SIGKILLed",
    required: "0 leaked bytes; reclaim <= 100 ms p99 after the pidfd",
    full_cycles: 1000,
    weight: 2,
    run: with_all_slots,
};

/// The promise of reclaim with many pins, 99th percentile from the pidfd.
const RECLAIM_OF_MANY: Duration = Duration::from_millis(100);

/// The promise of reclaim, 99th percentile from the pidfd.
const RECLAIM: Duration = Duration::from_millis(10);

/// A machine on which a ping is slower than this, 99th percentile, is too busy to judge [`RECLAIM`] by.
const QUIET_PING: Duration = Duration::from_millis(1);

/// No single reclaim takes longer than this, whatever else the machine does.
const SANE_RECLAIM: Duration = Duration::from_secs(10);

/// Objects that are there before anybody is killed.
const BASE: usize = 3;

/// Keys of a killed worker.
const OWN: usize = 4;

/// A step: its name, the orders before the kill, and whether the keys are committed by then.
type Step = (&'static str, &'static [&'static str], bool);

const STEPS: [Step; 22] = [
    ("connected", &["raw connect"], false),
    (
        "HELLO sent, its reply unread",
        &["raw connect", "raw hello-unread"],
        false,
    ),
    ("HELLO answered", &["raw connect", "raw hello"], false),
    (
        "reserve sent, its reply unread",
        &["raw connect", "raw hello", "raw reserve-unread k 4 8000"],
        false,
    ),
    (
        "written by hand",
        &["raw connect", "raw hello", "raw reserve k 4 8000"],
        false,
    ),
    (
        "commit sent, its reply unread",
        &[
            "raw connect",
            "raw hello",
            "raw reserve k 4 8000",
            "raw commit-unread",
        ],
        true,
    ),
    (
        "commit queued behind unread replies",
        &[
            "raw connect",
            "raw hello",
            "raw reserve k 4 8000",
            "raw commit-behind-unread-replies",
        ],
        true,
    ),
    (
        "abort sent, its reply unread",
        &[
            "raw connect",
            "raw hello",
            "raw reserve k 4 8000",
            "raw abort-unread",
        ],
        false,
    ),
    (
        "commit sent, then the socket closed",
        &[
            "raw connect",
            "raw hello",
            "raw reserve k 4 8000",
            "raw commit-unread",
            "raw close-socket",
        ],
        true,
    ),
    ("opened", &["open"], false),
    ("reserved", &["open", "reserve k 4 8000"], false),
    ("written", &["open", "reserve k 4 8000", "fill"], false),
    (
        "committed",
        &["open", "reserve k 4 8000", "fill", "commit"],
        true,
    ),
    (
        "aborted",
        &["open", "reserve k 4 8000", "fill", "abort"],
        false,
    ),
    (
        "committed and acquired",
        &["open", "reserve k 4 8000", "fill", "commit-and-acquire"],
        true,
    ),
    ("looked up", &["open", "lookup base 3"], false),
    ("pinned", &["open", "acquire base 3"], false),
    ("read", &["open", "acquire base 3", "verify"], false),
    ("checked", &["open", "acquire base 3", "check"], false),
    ("released", &["open", "acquire base 3", "release"], false),
    (
        "pinned and writing",
        &["open", "acquire base 3", "reserve k 4 8000", "fill"],
        false,
    ),
    (
        "closed with a lease open",
        &["open", "acquire base 3", "close"],
        false,
    ),
];

/// Times of reclaims, and of pings for comparison.
#[derive(Default)]
struct Watch {
    reclaims: Timings,
    pings: Timings,
}

impl Watch {
    /// Kills the worker and waits until everything of it is back.
    fn kill(&mut self, stage: &Stage, worker: &mut Worker) {
        worker.kill();
        let took = stage.wait_until_alone();
        assert!(
            took < SANE_RECLAIM,
            "what a dead client held is back after {took:?}"
        );
        self.reclaims.add(took);
        self.pings.add(stage.witness.ping().unwrap());
    }

    fn judge(&self, run: &mut Run, promise: Duration) {
        let (reclaim, ping) = (self.reclaims.at(0.99), self.pings.at(0.99));
        run.note(format!("reclaim {}", self.reclaims.summary()));
        run.note(format!("ping {}", self.pings.summary()));
        if run.is_short() {
            return;
        }
        if ping <= QUIET_PING {
            assert!(
                reclaim <= promise,
                "reclaim takes {reclaim:?} at the 99th percentile; a ping {ping:?}"
            );
        } else {
            run.note("too busy a machine to judge reclaim");
        }
    }
}

fn at_every_step(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let space = keyspace(&stage.witness);
    let (base, own) = (keys("base", BASE), keys("k", OWN));
    store(&stage.witness, space, &base, 5000);
    let mut watch = Watch::default();
    while run.goes_on() {
        let (step, orders, is_committed) = &STEPS[run.done() as usize % STEPS.len()];
        let mut worker = Worker::start(&stage.daemon);
        for order in *orders {
            worker.must(order);
        }
        watch.kill(&stage, &mut worker);
        let lease = stage.witness.acquire(space, &own, &request(0)).unwrap();
        let expected = if *is_committed { OWN } else { 0 };
        assert_eq!(lease.prefix_count(), expected, "{step}");
        for (index, key) in own.iter().enumerate().take(expected) {
            assert_reads(&lease, index, key);
        }
        lease.release().unwrap();
        let lease = stage.witness.acquire(space, &base, &request(0)).unwrap();
        for (index, key) in base.iter().enumerate() {
            assert_reads(&lease, index, key);
        }
        lease.release().unwrap();
        stage.witness.remove(space, &own, None).unwrap();
        stage.assert_nothing_leaked();
        run.count(1);
    }
    watch.judge(run, RECLAIM);
    stage.finish(run);
    Ok(())
}

fn at_random(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let mut watch = Watch::default();
    while run.goes_on() {
        let mut worker = Worker::start(&stage.daemon);
        // Its first answer: from here on the moment falls into an open or the load, not into the start of a program.
        worker.must("maps");
        worker.order("open");
        worker.order(&format!("load-until-death {}", run.random.below(1 << 40)));
        std::thread::sleep(Duration::from_micros(run.random.below(8000)));
        watch.kill(&stage, &mut worker);
        run.count(1);
        if run.done().is_multiple_of(16) {
            stage.assert_nothing_leaked();
        }
    }
    watch.judge(run, RECLAIM);
    stage.finish(run);
    Ok(())
}

fn with_all_slots(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let space = keyspace(&stage.witness);
    // Fewer bytes than its quota, so that no pin is void; the slots beyond name entries that are free.
    store(&stage.witness, space, &keys("base", 3000), 1000);
    let mut watch = Watch::default();
    while run.goes_on() {
        let mut worker = Worker::start(&stage.daemon);
        for order in ["raw connect", "raw hello", "raw pin-every-entry"] {
            worker.must(order);
        }
        watch.kill(&stage, &mut worker);
        if run.done().is_multiple_of(16) {
            let pins = stage.audit().pin_count;
            assert!(
                pins <= BYSTANDER_OBJECTS as u64,
                "{pins} pins are left, more than the bystander's"
            );
        }
        run.count(1);
    }
    watch.judge(run, RECLAIM_OF_MANY);
    stage.finish(run);
    Ok(())
}
