//! One run of one fault: how long it may go on, what it counts and measures, and how it ended.
//!
//! ```text
//!   attempt ── Run::new ──> fault.run ──┬─ Ok ────────> HELD
//!                                       ├─ Err(Skipped) > SKIPPED, with its reason
//!                                       └─ panic ─────> VIOLATED, with its message
//! ```

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::Fault;
use crate::Random;

/// How often a run tells its rate.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Why a fault cannot be shown on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped(pub String);

/// The going on of one fault.
#[derive(Debug)]
pub struct Run {
    wanted: u64,
    done: u64,
    began: Instant,
    end: Option<Instant>,
    told: Instant,
    seed: u64,
    notes: Vec<String>,
    /// For everything that is left to chance.
    pub random: Random,
}

impl Run {
    /// A run of `cycles`, or until `end` when that comes first.
    pub fn new(cycles: u64, end: Option<Instant>, seed: u64) -> Run {
        let now = Instant::now();
        Run {
            wanted: cycles,
            done: 0,
            began: now,
            end,
            told: now,
            seed,
            notes: Vec::new(),
            random: Random(seed),
        }
    }

    /// Whether there is more to do: fewer cycles than wanted, and time left. The first cycle is always run.
    pub fn goes_on(&self) -> bool {
        let has_time = self.end.is_none_or(|end| Instant::now() < end);
        self.done < self.wanted && (self.done == 0 || has_time)
    }

    /// Counts cycles that are done, and tells the rate now and then.
    pub fn count(&mut self, cycles: u64) {
        self.done += cycles;
        if self.end.is_some() && self.told.elapsed() > TELL_EVERY {
            self.told = Instant::now();
            eprintln!(
                "    {} of {} cycles, {}",
                self.done,
                self.wanted,
                self.rate()
            );
        }
    }

    /// Cycles so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Cycles to be done, time permitting.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// How much time is left; none when the cycles alone decide.
    pub fn time_left(&self) -> Option<Duration> {
        self.end
            .map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// Whether this is the short form of a test, in which figures are told and not judged.
    pub fn is_short(&self) -> bool {
        self.end.is_none()
    }

    /// Cycles a second so far.
    pub fn rate(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        let rate = self.done as f64 / seconds;
        match rate {
            1000.0.. => format!("{rate:.0}/s"),
            1.0.. => format!("{rate:.1}/s"),
            _ => format!("{rate:.3}/s"),
        }
    }

    /// Adds a figure to what the table says was measured.
    pub fn note(&mut self, figure: impl Display) {
        self.notes.push(figure.to_string());
    }

    /// The figures so far.
    pub fn notes(&self) -> String {
        self.notes.join(", ")
    }
}

/// How long something took, many times.
#[derive(Debug, Default, Clone)]
pub struct Timings(Vec<Duration>);

impl Timings {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Timings) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one that this share of them does not exceed; zero when there is none.
    pub fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    /// Median, 99th percentile and worst, for a reader.
    pub fn summary(&self) -> String {
        format!(
            "p50 {:.1?} p99 {:.1?} worst {:.1?}",
            self.at(0.5),
            self.at(0.99),
            self.at(1.0)
        )
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was required held.
    Held,
    /// Something did not; what.
    Violated(String),
    /// It cannot be shown here; why.
    Skipped(String),
}

/// What became of one fault.
#[derive(Debug)]
pub struct Report {
    /// The fault.
    pub fault: &'static Fault,
    /// Cycles that were wanted.
    pub wanted: u64,
    /// Cycles that were run.
    pub done: u64,
    /// Their rate.
    pub rate: String,
    /// What was measured.
    pub measured: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// Runs a fault for `cycles`, or until `end`; what goes wrong is in the report.
pub fn attempt(fault: &'static Fault, cycles: u64, end: Instant, seed: u64) -> Report {
    let mut run = Run::new(cycles, Some(end), seed);
    // The run is only read afterwards, and its counts are whole after any panic.
    let outcome = catch_unwind(AssertUnwindSafe(|| (fault.run)(&mut run)));
    let verdict = match outcome {
        Ok(Ok(())) => Verdict::Held,
        Ok(Err(Skipped(why))) => Verdict::Skipped(why),
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words");
            Verdict::Violated(format!("{text} (seed {})", run.seed))
        }
    };
    Report {
        fault,
        wanted: cycles,
        done: run.done,
        rate: run.rate(),
        measured: run.notes(),
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_that(run: fn(&mut Run) -> Result<(), Skipped>) -> &'static Fault {
        Box::leak(Box::new(Fault {
            id: "F0",
            name: "nothing",
            required: "nothing",
            full_cycles: 5,
            weight: 1,
            run,
        }))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_run_ends_at_its_cycles_or_at_its_time_but_not_before_the_first() {
        let mut run = Run::new(3, None, 1);
        let mut cycles = 0;
        while run.goes_on() {
            run.count(1);
            cycles += 1;
        }
        assert_eq!((cycles, run.done()), (3, 3));
        let mut late = Run::new(3, Some(Instant::now()), 1);
        assert!(late.goes_on());
        late.count(1);
        assert!(!late.goes_on());
    }

    #[test]
    fn a_panic_is_a_violation_and_a_skip_is_no_pass() {
        let held = attempt(
            fault_that(|run| {
                run.count(5);
                run.note("five");
                Ok(())
            }),
            5,
            soon(),
            7,
        );
        assert_eq!((held.verdict, held.done), (Verdict::Held, 5));
        assert_eq!(held.measured, "five");
        let skipped = attempt(fault_that(|_| Err(Skipped("no root".into()))), 5, soon(), 7);
        assert_eq!(skipped.verdict, Verdict::Skipped("no root".into()));
        let violated = attempt(
            fault_that(|run| {
                run.count(1);
                panic!("wrong bytes")
            }),
            5,
            soon(),
            7,
        );
        assert_eq!(
            violated.verdict,
            Verdict::Violated("wrong bytes (seed 7)".into())
        );
        assert_eq!(violated.done, 1);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut timings = Timings::default();
        assert_eq!(timings.at(0.99), Duration::ZERO);
        for ms in (1..=100).rev() {
            timings.add(Duration::from_millis(ms));
        }
        assert_eq!(timings.at(0.5), Duration::from_millis(50));
        assert_eq!(timings.at(0.99), Duration::from_millis(99));
        assert_eq!(timings.at(1.0), Duration::from_millis(100));
    }
}
