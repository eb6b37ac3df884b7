//! Promises of the tiers, kept against real folders, a real Redis and a real S3 server, through what the loop uses.
//!
//! Random tests take their seed from `HOSTKV_TEST_SEED` and print it.

#![allow(
    clippy::unwrap_used,
    reason = "what a test can not set up is its failure"
)]

mod capacity;
mod damage;
mod faults;
mod kill;
#[cfg(feature = "l2-remote")]
mod redis;
mod round;
#[cfg(feature = "l2-remote")]
mod s3;
#[cfg(feature = "l2-remote")]
mod server;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use hostkv_daemon::tiers::figures::BreakerState;
use hostkv_daemon::tiers::{
    Completion, Found, LoadObject, LoadOutcome, LoadTask, LookupTask, PayloadRange, StoreObject,
    StoreTask, TaskId, TierFigures, TierKey, TierSet, Tiers, spec,
};
use hostkv_daemon::workers::PayloadBytes;

/// The longest that anything may take; only broken code needs it.
const PATIENCE: Duration = Duration::from_secs(60);
const PAYLOAD_BYTES: usize = 64 << 20;

/// A seed, printed, so that a failure can be had again.
fn seed() -> u64 {
    let seed = std::env::var("HOSTKV_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("HOSTKV_TEST_SEED={seed}");
    seed
}

/// splitmix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn key(number: u64) -> TierKey {
    let mut bytes = [0; 32];
    let mut state = number;
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&next_random(&mut state).to_le_bytes());
    }
    TierKey::from_bytes(bytes)
}

/// What the object of a number holds.
fn content(number: u64, len_bytes: u64) -> Vec<u8> {
    let mut state = number ^ 0x5eed;
    let mut bytes = Vec::with_capacity(len_bytes as usize + 8);
    while (bytes.len() as u64) < len_bytes {
        bytes.extend_from_slice(&next_random(&mut state).to_le_bytes());
    }
    bytes.truncate(len_bytes as usize);
    bytes
}

fn fs_spec(folder: &Path, more: &str) -> String {
    format!(r#"{{"type": "fs", "base_path": {folder:?}{more}}}"#)
}

fn fault_spec(inner: &str, kind: &str, rate: f64) -> String {
    format!(
        r#"{{"type": "fault_inject", "inner": {inner}, "kind": "{kind}", "rate": {rate}, "seed": 7}}"#
    )
}

/// Tiers with a payload of their own, and a loop's view of both.
struct Pool {
    tiers: Option<Tiers>,
    payload: MmapRaw,
    next_task: u64,
    /// Completions that nobody has waited for yet.
    waiting: Vec<Completion>,
}

impl Pool {
    fn open(specs: &[String]) -> Pool {
        Pool::try_open(specs).unwrap_or_else(|sentence| panic!("{sentence}"))
    }

    fn try_open(specs: &[String]) -> Result<Pool, String> {
        let specs = spec::parse(specs).map_err(|error| error.to_string())?;
        let payload = MmapRaw::from(MmapMut::map_anon(PAYLOAD_BYTES).unwrap());
        let base = NonNull::new(payload.as_mut_ptr()).unwrap();
        // SAFETY: the tiers are dropped, or have said that they are quiet, before the payload is.
        let bytes = unsafe { PayloadBytes::new(base, PAYLOAD_BYTES as u64) };
        let tiers = Tiers::open(&specs, bytes).map_err(|error| error.to_string())?;
        Ok(Pool {
            tiers: Some(tiers),
            payload,
            next_task: 1,
            waiting: Vec::new(),
        })
    }

    fn tiers(&mut self) -> &mut Tiers {
        self.tiers.as_mut().unwrap()
    }

    fn task(&mut self) -> TaskId {
        self.next_task += 1;
        TaskId(self.next_task - 1)
    }

    fn write(&self, offset_bytes: u64, bytes: &[u8]) {
        assert!(offset_bytes as usize + bytes.len() <= PAYLOAD_BYTES);
        // SAFETY: in bounds, and no tier is at work on these bytes in any test.
        unsafe {
            self.payload
                .as_mut_ptr()
                .add(offset_bytes as usize)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    fn read(&self, range: PayloadRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len_bytes as usize];
        // SAFETY: as for `write`.
        unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping(
                self.payload.as_ptr().add(range.offset_bytes as usize),
                bytes.len(),
            );
        }
        bytes
    }

    /// Hands an object's store over; its task.
    fn submit_store(&mut self, number: u64, range: PayloadRange) -> TaskId {
        self.write(range.offset_bytes, &content(number, range.len_bytes));
        let id = self.task();
        let object = StoreObject {
            key: key(number),
            source: range,
            sum: None,
        };
        self.tiers().submit_store(StoreTask {
            id,
            objects: vec![object],
        });
        id
    }

    fn submit_load(&mut self, number: u64, tier: usize, destination: PayloadRange) -> TaskId {
        self.write(
            destination.offset_bytes,
            &vec![0xee; destination.len_bytes as usize],
        );
        let id = self.task();
        self.tiers().submit_load(LoadTask {
            id,
            objects: vec![LoadObject {
                key: key(number),
                tier,
                destination,
            }],
        });
        id
    }

    /// The completion of a task of one object.
    fn wait(&mut self, task: TaskId) -> Completion {
        let begin = Instant::now();
        loop {
            let is_it = |completion: &Completion| match completion {
                Completion::Stored { task: of, .. }
                | Completion::LookedUp { task: of, .. }
                | Completion::Loaded { task: of, .. } => *of == task,
            };
            if let Some(place) = self.waiting.iter().position(is_it) {
                return self.waiting.remove(place);
            }
            assert!(begin.elapsed() < PATIENCE, "{task:?} does not end");
            let mut bell = [PollFd::new(
                self.tiers.as_ref().unwrap().as_fd(),
                PollFlags::POLLIN,
            )];
            poll(&mut bell, PollTimeout::from(100_u16)).unwrap();
            let more = self.tiers().completions(16);
            self.waiting.extend(more);
        }
    }

    /// Stores an object; the tiers that hold it then.
    fn store(&mut self, number: u64, range: PayloadRange) -> TierSet {
        let task = self.submit_store(number, range);
        match self.wait(task) {
            Completion::Stored { tiers, .. } => tiers,
            other => panic!("{other:?}"),
        }
    }

    /// Looks objects up.
    fn look_up(&mut self, numbers: &[u64]) -> Vec<Option<Found>> {
        let id = self.task();
        let keys = numbers.iter().map(|number| key(*number)).collect();
        self.tiers().submit_lookup(LookupTask { id, keys });
        match self.wait(id) {
            Completion::LookedUp { found, .. } => found,
            other => panic!("{other:?}"),
        }
    }

    /// Loads an object and sees that a load gives its bytes or nothing; the tier it came from.
    fn load(&mut self, number: u64, tier: usize, destination: PayloadRange) -> Option<usize> {
        let task = self.submit_load(number, tier, destination);
        self.loaded(task, number, destination)
    }

    fn loaded(&mut self, task: TaskId, number: u64, destination: PayloadRange) -> Option<usize> {
        match self.wait(task) {
            Completion::Loaded {
                outcome: LoadOutcome::Loaded { tier, sum },
                ..
            } => {
                let bytes = self.read(destination);
                assert!(
                    bytes == content(number, destination.len_bytes),
                    "wrong bytes"
                );
                // SAFETY: the payload outlives the view; only its words are loaded.
                let view = unsafe {
                    hostkv_shm_protocol::view::View::new(
                        self.payload.as_ptr(),
                        PAYLOAD_BYTES as u64,
                    )
                };
                let expected = hostkv_shm_protocol::sum::sum_of(
                    &view,
                    destination.offset_bytes,
                    destination.len_bytes,
                );
                assert_eq!(expected, Ok(sum));
                Some(tier)
            }
            Completion::Loaded {
                outcome: LoadOutcome::Missed,
                ..
            } => None,
            other => panic!("{other:?}"),
        }
    }

    fn figures(&self, tier: usize) -> TierFigures {
        self.tiers.as_ref().unwrap().figures().remove(tier)
    }

    /// Waits until the figures of a tier are as wanted.
    fn until(&self, tier: usize, what: &str, is_so: impl Fn(&TierFigures) -> bool) {
        let begin = Instant::now();
        while !is_so(&self.figures(tier)) {
            assert!(
                begin.elapsed() < PATIENCE,
                "never {what}: {:?}",
                self.figures(tier)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_breaker(&self, tier: usize, state: BreakerState) {
        self.until(tier, state.label(), |figures| figures.breaker == state);
    }

    /// Ends the tiers; whether they say that they are quiet.
    fn shutdown(&mut self) -> bool {
        self.tiers.take().unwrap().shutdown(Duration::from_secs(10))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Before the payload.
        self.tiers = None;
    }
}

fn range(offset_bytes: u64, len_bytes: u64) -> PayloadRange {
    PayloadRange {
        offset_bytes,
        len_bytes,
    }
}

/// Every file of objects below the base of an fs tier.
fn files_of(base: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(base.join("v1")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            files.push(file.unwrap().path());
        }
    }
    files
}

/// Where an object's file is.
fn file_of(base: &Path, number: u64) -> std::path::PathBuf {
    let name = key(number).to_string();
    base.join("v1").join(&name[..2]).join(name)
}
