//! The torture runner: every fault of the fault table as a function that does its worst, again and again.
//!
//! Called by the program `hostkv-torture` for the whole number of cycles, and by the tests in `e2e/torture.rs` for a
//! hundredth of it. All of it runs on the caller's thread, with threads and processes of its own that end with it.
//!
//! ```text
//!   FAULTS ── one row a promise: id, name, what is required, cycles, weight, run
//!     │
//!     ├─ e2e/torture.rs ── short(row): cycles / 100, a panic fails the test
//!     └─ bin/torture.rs ── attempt(row, share of the time) ──> Report ──> the table at the end
//! ```
//!
//! A new fault is a file here, with a static [`Fault`] for each of its promises, a line in [`FAULTS`] and a line in
//! `e2e/torture.rs`. Its `run` goes round while [`Run::goes_on`] says so, counts what it did with [`Run::count`],
//! says its figures with [`Run::note`], and panics at the first thing that is wrong. What this machine cannot do is
//! `Err(Skipped)`, which is counted and never a pass.

pub mod abroad;
pub mod calls;
pub mod changed;
pub mod clock;
pub mod closed;
pub mod flood;
pub mod fork;
pub mod greedy;
pub mod hostile;
pub mod kill;
pub mod little;
pub mod paused;
pub mod race;
pub mod refused;
pub mod restart;
mod run;
pub mod short;
mod stage;
pub mod stopped;
pub mod stuck;
pub mod threads;
pub mod verify;

pub use run::{Report, Run, Skipped, Timings, Verdict, attempt};
pub use stage::Stage;

/// One promise under one fault.
#[derive(Debug)]
pub struct Fault {
    /// Number of the fault in the table of faults, `F1`; the promises of a fault share it.
    pub id: &'static str,
    /// What is done to hostkv.
    pub name: &'static str,
    /// What has to hold, with its numbers.
    pub required: &'static str,
    /// How often a whole run does it; the short form does a hundredth.
    pub full_cycles: u64,
    /// Its share of the time of a whole run, relative to the others.
    pub weight: u32,
    /// Does it; panics when the promise is broken.
    pub run: fn(&mut Run) -> Result<(), Skipped>,
}

/// All promises, in the order in which they run.
pub const FAULTS: &[&Fault] = &[
    &verify::READS,
    &kill::AT_EVERY_STEP,
    &kill::AT_RANDOM,
    &kill::WITH_ALL_SLOTS,
    &calls::AT_EVERY_CALL,
    &stopped::BY_SIGNAL,
    &stopped::BY_FREEZER,
    &stopped::BEYOND_ITS_TIME,
    &greedy::TWO_AT_ONCE,
    &greedy::WITHOUT_A_QUOTA,
    &closed::AND_WRITING,
    &fork::INTO_CHILDREN,
    &fork::DURING_OPENS,
    &threads::KILLED,
    &hostile::FLIPS_AND_LIES,
    &changed::AFTER_COMMIT,
    &restart::UNDER_LOAD,
    &restart::IN_LITTLE_MEMORY,
    &little::SHM,
    &little::CGROUP,
    &flood::OF_CONNECTIONS,
    &flood::OF_DESCRIPTORS,
    &clock::JUMPS,
    &stuck::LOG,
    &abroad::IN_NAMESPACES,
    &refused::OF_THE_DAEMON,
    &refused::OF_A_CLIENT,
    &short::OF_MEMORY,
    &race::FOR_ONE_SOCKET,
    &paused::BY_SIGNAL,
];

/// The short form for a test: a hundredth of the cycles and no limit in time.
pub fn short(fault: &'static Fault) {
    let cycles = (fault.full_cycles / 100).max(1);
    let seed = crate::seed(fault.name);
    let mut run = Run::new(cycles, None, seed);
    match (fault.run)(&mut run) {
        Ok(()) => eprintln!(
            "{} {}: {} cycles; {}",
            fault.id,
            fault.name,
            run.done(),
            run.notes()
        ),
        Err(Skipped(why)) => crate::skip(&format!("{} {}: {why}", fault.id, fault.name)),
    }
}
