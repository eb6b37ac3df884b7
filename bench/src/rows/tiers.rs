//! The rows of the tiers: what storing and loading objects costs beside what the store itself can do in the same run, and
//! what a tier that does not work costs those who read L1.
//!
//! ```text
//!   disk       fs     beside threads that write and read files with O_DIRECT
//!   redis      resp   beside redis-benchmark on the same socket
//!   stalled    acquires beside a tier that hangs, is slow or fails, and without one
//! ```

mod disk;
mod redis;
mod stalled;

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use hostkv_daemon::tiers::{
    Completion, LoadObject, LoadOutcome, LoadTask, PayloadRange, StoreObject, StoreTask, TaskId,
    TierKey, Tiers, spec,
};
use hostkv_daemon::workers::PayloadBytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Plan;
use crate::limits::pages::{Pages, Region};
use crate::measure::Runs;
use crate::report::Report;
use crate::table::{Goal, Row, Unit};

/// Objects of a run.
const OBJECTS: usize = 64;
/// 80 % of what the store does.
const TARGET: f64 = 1.25;

/// What a run took, in nanoseconds an object.
struct Times {
    store: f64,
    store_limit: f64,
    load: f64,
    load_limit: f64,
}

/// The rows of all tiers; what can't be had here is absent.
pub fn rows(_plan: &Plan, report: &mut Report) -> Result<(), String> {
    disk::rows(report)?;
    redis::rows(report)?;
    stalled::rows(report)
}

/// The two rows of runs with objects of this length.
fn show(
    report: &mut Report,
    tier: &str,
    len_bytes: u64,
    [store_limit, load_limit]: [&str; 2],
    measured: &Runs<Times>,
) {
    type Part = fn(&Times) -> f64;
    let kinds: [(&str, Part, &str, Part); 2] = [
        ("store", |t| t.store, store_limit, |t| t.store_limit),
        ("load", |t| t.load, load_limit, |t| t.load_limit),
    ];
    for (what, ours, limit, of) in kinds {
        report.row(
            Row::new(
                format!("{tier} tier: {what} {} MiB, an object", len_bytes >> 20),
                Unit::Nanoseconds,
                measured.median(ours),
                Goal::RatioAtMost(TARGET),
            )
            .limit(limit, measured.median(of))
            .noise(measured.noise),
        );
    }
}

/// One tier, used as the daemon's loop uses it, and the memory that it reads and writes.
struct Bench {
    len_bytes: u64,
    tiers: Tiers,
    payload: Region,
}

fn key(run: usize, object: usize) -> TierKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(object as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&(run as u64).to_le_bytes());
    // The folder is chosen by the first byte.
    TierKey::from_bytes(bytes)
}

impl Bench {
    /// Opens the tier of a spec, over memory for one run's objects of this length.
    fn open(text: String, len_bytes: u64) -> Result<Bench, String> {
        let specs = spec::parse(&[text]).map_err(|error| error.to_string())?;
        let whole_bytes = OBJECTS * len_bytes as usize;
        // Shared memory, as the pool's is.
        let payload = Region::new(whole_bytes, Pages::Huge)?;
        for number in 0..whole_bytes / 8 {
            let word = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // SAFETY: the word lies in the mapping, which nobody else has.
            unsafe { payload.bytes().cast::<u64>().add(number).write(word) };
        }
        let base = NonNull::new(payload.bytes()).ok_or("memory at address 0")?;
        // SAFETY: `tiers` is declared before `payload` in `Bench`, so it is dropped before it.
        let bytes = unsafe { PayloadBytes::new(base, whole_bytes as u64) };
        let tiers = Tiers::open(&specs, bytes).map_err(|error| error.to_string())?;
        Ok(Bench {
            len_bytes,
            tiers,
            payload,
        })
    }

    fn range(&self, object: usize) -> PayloadRange {
        PayloadRange {
            offset_bytes: object as u64 * self.len_bytes,
            len_bytes: self.len_bytes,
        }
    }

    /// Waits until every object has its completion, each of which went well.
    fn wait(&mut self, is_good: impl Fn(&Completion) -> bool) -> Result<(), String> {
        let mut ended = 0;
        while ended < OBJECTS {
            let mut bell = [PollFd::new(self.tiers.as_fd(), PollFlags::POLLIN)];
            let rung = poll(&mut bell, PollTimeout::from(10_000_u16))
                .map_err(|errno| format!("poll: {errno}"))?;
            // None when the bell rang for what was taken the time before.
            let completions = self.tiers.completions(OBJECTS);
            if rung == 0 || !completions.iter().all(&is_good) {
                return Err(format!("a tier did not do its work: {completions:?}"));
            }
            ended += completions.len();
        }
        Ok(())
    }

    /// Nanoseconds an object.
    fn store(&mut self, run: usize) -> Result<f64, String> {
        let object = |object| StoreObject {
            key: key(run, object),
            source: self.range(object),
            sum: None,
        };
        let objects = (0..OBJECTS).map(object).collect();
        let start = Instant::now();
        self.tiers.submit_store(StoreTask {
            id: TaskId(run as u64),
            objects,
        });
        self.wait(|c| matches!(c, Completion::Stored { tiers, .. } if tiers.has(0)))?;
        Ok(start.elapsed().as_nanos() as f64 / OBJECTS as f64)
    }

    /// Nanoseconds an object.
    fn load(&mut self, run: usize) -> Result<f64, String> {
        let object = |object| LoadObject {
            key: key(run, object),
            tier: 0,
            destination: self.range(object),
        };
        let objects = (0..OBJECTS).map(object).collect();
        let start = Instant::now();
        self.tiers.submit_load(LoadTask {
            id: TaskId(run as u64),
            objects,
        });
        let is_loaded = |outcome: &LoadOutcome| matches!(outcome, LoadOutcome::Loaded { .. });
        self.wait(|c| matches!(c, Completion::Loaded { outcome, .. } if is_loaded(outcome)))?;
        Ok(start.elapsed().as_nanos() as f64 / OBJECTS as f64)
    }

    /// Removes what a run stored, so that the store holds no more than one.
    fn remove(&mut self, run: usize) -> Result<(), String> {
        self.tiers
            .submit_remove((0..OBJECTS).map(|object| key(run, object)).collect());
        let start = Instant::now();
        while {
            let figures = &self.tiers.figures()[0];
            figures.objects > 0 || figures.running > 0
        } {
            if start.elapsed() > Duration::from_secs(60) {
                return Err("objects that were removed are still there".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
