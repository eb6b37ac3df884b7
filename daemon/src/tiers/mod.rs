//! The tiers behind L1 (together L2): where objects are kept that memory has no room for, and that other hosts share.
//!
//! The start parses the operator's `--l2-adapter` specs with [`spec::parse`] and opens them with [`Tiers::open`]; from then
//! on the loop owns the [`Tiers`]. It hands over tasks, never waits for one, and reads what is over when the descriptor of
//! [`AsFd`] says so. Each tier has threads of its own; a tier that is slow, hangs or fails is felt by nobody but those who
//! asked for what only that tier holds.
//!
//! ```text
//!   loop                         tier 0 (fs)                      tier 1 (resp) ...
//!   submit_store ──────────────> [queue] ─> threads ─> files       the same, at the same time
//!   submit_lookup ─────────────> [queue] ─> found? ──the missing──> [queue] ─> found? ─┐
//!   submit_load ───────────────> [queue] ─> bytes? ────a miss─────> [queue] ─> bytes? ─┤
//!   bell <── completions <─────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Who owns the bytes.** A task names bytes of the payload by offset and length. From its submission until its
//! completion came out of [`Tiers::completions`] (or of [`Tiers::cancel_stores`]) the loop keeps them where they are: the
//! source of a store stays committed and is not reused, the destination of a load is nobody else's. After the completion
//! no thread of a tier touches them. That holds for a tier that hangs, too: its completion is late, not false. A lookup has
//! no bytes; it is answered by the deadline of each tier at the latest.
//!
//! **What comes back.** Every task gets one completion an object, whatever fails. A tier whose queue is full, whose
//! breaker is open or that is not there takes part in nothing, which is counted and is no fault of the task: a store then
//! says that fewer tiers, or none, hold the object, a lookup and a load say that it was not found.
//!
//! Tiers are asked in the order of their specs. An object that was damaged, cut short, written under another format or is
//! of another length than the load expects is a miss and counted as what it is; wrong bytes never come with
//! [`LoadOutcome::Loaded`].
//!
//! Modules, each using only those above it: [`spec`], [`key`], [`figures`], `seal`, `lru`, `backend`, `fs`, `remote`, `fault`,
//! `open`, `breaker`, `jobs`, `tier`, `engine`, and the handle here.

mod backend;
mod breaker;
mod engine;
mod fault;
pub mod figures;
mod fs;
mod jobs;
pub mod key;
mod lru;
mod open;
#[cfg(feature = "l2-remote")]
mod remote;
mod seal;
pub mod spec;
mod tier;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use hostkv_shm_protocol::sum::Sum;
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};

use crate::workers::PayloadBytes;
use engine::Engine;
use jobs::{LoadJob, Lookup, Store, StoreJob, Tally};
use tier::Tier;

pub use figures::TierFigures;
pub use key::{TierKey, TierSpace};
pub use spec::AdapterSpec;

/// What the name of each thread of the tiers begins with.
const TIER_THREADS: &str = "l2-";
/// Opens a store. Who waits for it is told when it ends without an answer.
const OPEN_THREAD: &str = "l2-open";
/// Talks to stores. What ends there comes back to who asked as an error.
const NET_THREAD: &str = "l2-net";
/// How often the watch looks, at most and at least: a quarter of the shortest deadline in between.
const SHORTEST_WATCH: Duration = Duration::from_millis(5);
const LONGEST_WATCH: Duration = Duration::from_millis(100);
/// How long the end waits for what is at work and can be told to stop.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Why the tiers can't be opened: one sentence with the number of the flag, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// A tier that is required can't be used.
    #[error("--l2-adapter #{number} ({type_name}): {sentence}")]
    Adapter {
        /// Its place among the specs, from 1.
        number: usize,
        /// Its type.
        type_name: &'static str,
        /// What was tried, what came of it, and what to do.
        sentence: String,
    },
    /// A thread or a descriptor can't be had.
    #[error(
        "starting the threads of the tiers failed: {0}; raise the limits on threads and descriptors of this process or give fewer --l2-adapter"
    )]
    Thread(std::io::Error),
}

/// Whether the thread of this name is one that others wait for: without it a task is never answered, and the bytes that it
/// reads or writes are never free.
pub fn is_needed(thread: &str) -> bool {
    thread.starts_with(TIER_THREADS) && thread != OPEN_THREAD && thread != NET_THREAD
}

/// The place of a tier among the specs, from 0.
pub type TierNumber = usize;

/// Names a task; the loop's own number, which it gives once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// Bytes of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PayloadRange {
    /// Where they begin in the payload, a multiple of 64.
    pub offset_bytes: u64,
    /// How many they are.
    pub len_bytes: u64,
}

/// One object that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreObject {
    /// Its name in the tiers.
    pub key: TierKey,
    /// Where it is.
    pub source: PayloadRange,
    /// Its sum if the index has it, which spares the tiers to make it and finds what changed since the commit.
    pub sum: Option<Sum>,
}

/// Objects that are to be stored in every tier; one completion each, numbered as they stand here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTask {
    /// Its name, also in the log.
    pub id: TaskId,
    /// The objects, the most wanted first.
    pub objects: Vec<StoreObject>,
}

/// A question which tier holds which object; one completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupTask {
    /// Its name.
    pub id: TaskId,
    /// The names of the objects.
    pub keys: Vec<TierKey>,
}

/// One object that is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadObject {
    /// Its name in the tiers.
    pub key: TierKey,
    /// Where a lookup found it; when it is gone there, the tiers behind that one are asked.
    pub tier: TierNumber,
    /// Where it is to go; as long as the lookup said.
    pub destination: PayloadRange,
}

/// Objects that are to be loaded; one completion each, numbered as they stand here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadTask {
    /// Its name.
    pub id: TaskId,
    /// The objects, the most wanted first.
    pub objects: Vec<LoadObject>,
}

/// Some of the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierSet(u32);

impl TierSet {
    /// With one more.
    pub fn with(self, tier: TierNumber) -> TierSet {
        TierSet(self.0 | 1 << tier)
    }

    /// Whether it has the tier.
    pub fn has(self, tier: TierNumber) -> bool {
        self.0 >> tier & 1 != 0
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Where a lookup found an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The first tier that holds it.
    pub tier: TierNumber,
    /// Its length.
    pub len_bytes: u64,
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    /// All bytes are at the destination, and their sum is the one that was stored with them.
    Loaded {
        /// The tier they came from.
        tier: TierNumber,
        /// Their sum, for the index.
        sum: Sum,
    },
    /// No tier gave it; the destination holds anything.
    Missed,
}

/// A task, or one object of it, that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// No tier reads the object's bytes any more.
    Stored {
        /// Of which task.
        task: TaskId,
        /// The object's place in its task.
        object: usize,
        /// The tiers that hold it now, those included that held it before.
        tiers: TierSet,
    },
    /// Every tier that can answer has.
    LookedUp {
        /// Which task.
        task: TaskId,
        /// For each key, in its order.
        found: Vec<Option<Found>>,
    },
    /// No tier writes to the destination any more.
    Loaded {
        /// Of which task.
        task: TaskId,
        /// The object's place in its task.
        object: usize,
        /// What came of it.
        outcome: LoadOutcome,
    },
}

/// All tiers, owned by the loop.
pub struct Tiers {
    engine: Arc<Engine>,
    names: Vec<String>,
    /// What is not known to be over, the oldest first.
    stores: VecDeque<Arc<Store>>,
    threads: Vec<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    is_ending: Arc<AtomicBool>,
}

impl Tiers {
    /// Opens each tier, waiting for it at most its deadline or five seconds.
    ///
    /// A tier that can't be used ends the start, unless its spec says `"required": false`: then it is tried again and
    /// again in the background, and is empty until it comes.
    pub fn open(specs: &[AdapterSpec], payload: PayloadBytes) -> Result<Tiers, TierError> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| TierError::Thread(errno.into()))?;
        let mut tiers = Vec::new();
        for (number, spec) in (1..).zip(specs) {
            let backend = match open::open_in_time(spec, payload) {
                Ok(backend) => Some(backend),
                Err(fault) if spec.is_required => {
                    return Err(TierError::Adapter {
                        number,
                        type_name: spec.adapter.type_name(),
                        sentence: fault.sentence,
                    });
                }
                Err(fault) => {
                    log::warn!(
                        "L2 {} is not there and is tried again in the background: {}.",
                        spec.name,
                        fault.sentence
                    );
                    None
                }
            };
            tiers.push(Tier::new(spec.clone(), backend));
        }
        let mut tiers = Tiers {
            names: specs.iter().map(|spec| spec.name.clone()).collect(),
            engine: Arc::new(Engine::new(tiers, payload, bell)),
            stores: VecDeque::new(),
            threads: Vec::new(),
            watch: None,
            is_ending: Arc::new(AtomicBool::new(false)),
        };
        tiers.start_threads().map_err(TierError::Thread)?;
        Ok(tiers)
    }

    fn start_threads(&mut self) -> io::Result<()> {
        for (number, tier) in self.engine.tiers.iter().enumerate() {
            for thread in 0..tier.thread_count {
                let engine = Arc::clone(&self.engine);
                let thread = Builder::new()
                    .name(format!("{TIER_THREADS}{number}-{thread}"))
                    .spawn(move || engine.serve(number))?;
                self.threads.push(thread);
            }
        }
        let shortest = self.engine.tiers.iter().map(|tier| tier.spec.timeout).min();
        if let Some(shortest) = shortest {
            let (engine, is_ending) = (Arc::clone(&self.engine), Arc::clone(&self.is_ending));
            let pause = (shortest / 4).clamp(SHORTEST_WATCH, LONGEST_WATCH);
            let watch = move || {
                // Relaxed: a sign to stop, nothing stands behind it.
                while !is_ending.load(Ordering::Relaxed) {
                    std::thread::park_timeout(pause);
                    for (number, tier) in engine.tiers.iter().enumerate() {
                        engine.hand_on(number, tier.watch(Instant::now()));
                    }
                }
            };
            let watch = Builder::new()
                .name(format!("{TIER_THREADS}watch"))
                .spawn(watch)?;
            self.watch = Some(watch);
        }
        Ok(())
    }

    /// The names of the tiers in their order: labels `l2_name` of the metrics, each another.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Stores objects in every tier; never waits.
    pub fn submit_store(&mut self, task: StoreTask) {
        let tier_count = self.engine.tiers.len();
        let stores: Vec<Arc<Store>> = (0..)
            .zip(task.objects)
            .map(|(index, object)| Store::new(task.id, index, object, tier_count))
            .collect();
        if stores.is_empty() {
            return;
        }
        for (number, tier) in self.engine.tiers.iter().enumerate() {
            let tally = Tally::new(task.id, stores.len());
            log::debug!(
                "Submitted store task {} to adapter {number} with {} keys.",
                task.id.0,
                stores.len()
            );
            let job = |store: &Arc<Store>| StoreJob {
                store: Arc::clone(store),
                tally: Arc::clone(&tally),
            };
            for refused in tier.offer_stores(stores.iter().map(job).collect()) {
                self.engine.store_refused(number, &refused);
            }
        }
        for store in stores {
            match store.leave(None) {
                Some(completion) => self.engine.complete(completion),
                None => self.stores.push_back(store),
            }
        }
        while self.stores.front().is_some_and(|store| store.is_over()) {
            self.stores.pop_front();
        }
    }

    /// Asks which tier holds which object, tier by tier; never waits.
    pub fn submit_lookup(&mut self, task: LookupTask) {
        let lookup = Lookup::new(task.id, task.keys);
        self.engine.look_up_from(&lookup, 0);
    }

    /// Loads objects; never waits. Loads and lookups go before stores.
    pub fn submit_load(&mut self, task: LoadTask) {
        let mut tallies: Vec<Option<Arc<Tally>>> = vec![None; self.engine.tiers.len()];
        for (number, tally) in tallies.iter_mut().enumerate() {
            let count = task
                .objects
                .iter()
                .filter(|load| load.tier == number)
                .count();
            if count > 0 {
                self.engine.tiers[number].count_load_task();
                *tally = Some(Tally::new(task.id, count));
            }
        }
        for (index, load) in task.objects.into_iter().enumerate() {
            self.engine.load(LoadJob {
                task: task.id,
                index,
                load,
                tally: tallies.get(load.tier).cloned().flatten(),
            });
        }
    }

    /// Removes objects from every tier, as far as it can be reached; never waits, and nothing is told of it.
    pub fn submit_remove(&mut self, keys: Vec<TierKey>) {
        for tier in &self.engine.tiers {
            tier.offer_removes(&keys);
        }
    }

    /// Gives the oldest stores up that no tier is at work on, until `bytes` of sources are free; the completions of those
    /// are the result and come no other way. Counted as dropped for every tier that had not stored the object.
    pub fn cancel_stores(&mut self, bytes: u64) -> Vec<Completion> {
        let mut freed_bytes = 0;
        let mut completions = Vec::new();
        for store in &self.stores {
            if freed_bytes >= bytes {
                break;
            }
            if let Some(completion) = store.cancel() {
                freed_bytes += store.object.source.len_bytes;
                completions.push(completion);
            }
        }
        if !completions.is_empty() {
            self.stores.retain(|store| !store.is_over());
            for (number, tier) in self.engine.tiers.iter().enumerate() {
                for job in tier.drop_cancelled() {
                    self.engine.store_refused(number, &job);
                }
            }
        }
        completions
    }

    /// At most `most` completions. When there are more, the bell rings again.
    pub fn completions(&mut self, most: usize) -> Vec<Completion> {
        self.engine.take_completions(most)
    }

    /// What each tier has done and how it is.
    pub fn figures(&self) -> Vec<TierFigures> {
        self.engine.tiers.iter().map(Tier::figures).collect()
    }

    /// Ends all threads, storing what is queued until `within` is over and dropping the rest.
    ///
    /// Whether no thread is left that may touch the payload. When one is (a file system that hangs), the payload must stay
    /// mapped until the end of the process.
    pub fn shutdown(mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        for (number, tier) in self.engine.tiers.iter().enumerate() {
            self.engine.hand_on(number, tier.drain(until));
        }
        self.wait_until(until);
        let left = self
            .engine
            .tiers
            .iter()
            .map(Tier::queued_stores)
            .sum::<usize>();
        if left > 0 {
            log::info!("L2: {left} objects were not stored before the end.");
        }
        self.end()
    }

    fn wait_until(&self, until: Instant) -> bool {
        loop {
            let is_quiet = self.threads.iter().all(JoinHandle::is_finished);
            if is_quiet || Instant::now() >= until {
                return is_quiet;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends what still runs; whether all has ended.
    fn end(&mut self) -> bool {
        // Relaxed: as where it is read.
        self.is_ending.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            watch.thread().unpark();
            // A panic was logged when it happened.
            let _ = watch.join();
        }
        let now = Instant::now();
        for tier in &self.engine.tiers {
            tier.drain(now);
            if let Some(backend) = tier.backend() {
                backend.end();
            }
        }
        self.wait_until(now + LAST_WAIT)
    }
}

/// Without a word about what is queued: an end that is not a [`Tiers::shutdown`] is one of a start that failed.
impl Drop for Tiers {
    fn drop(&mut self) {
        self.end();
    }
}

/// The bell: readable while there are completions.
impl AsFd for Tiers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.bell.as_fd()
    }
}
