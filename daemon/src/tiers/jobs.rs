//! What is known of a task while tiers work on it, shared by all that do.
//!
//! **The locks** guard the progress of one object or one lookup each. Nothing waits, logs or takes another lock while
//! holding one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hostkv_shm_protocol::sync::{AtomicUsize, Ordering};

use super::key::TierKey;
use super::{Completion, Found, LoadObject, StoreObject, TaskId, TierNumber, TierSet};

/// How many objects of a task a tier has not done with yet.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) task: TaskId,
    pub(super) keys_count: usize,
    left: AtomicUsize,
}

impl Tally {
    pub(super) fn new(task: TaskId, keys_count: usize) -> Arc<Tally> {
        Arc::new(Tally {
            task,
            keys_count,
            left: AtomicUsize::new(keys_count),
        })
    }

    /// One object is done with; whether it was the last.
    pub(super) fn one_ended(&self) -> bool {
        // Relaxed: a count, nothing stands behind it.
        self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// One object on its way into the tiers.
#[derive(Debug)]
pub(super) struct Store {
    task: TaskId,
    index: usize,
    pub(super) object: StoreObject,
    progress: Mutex<StoreProgress>,
}

#[derive(Debug)]
struct StoreProgress {
    /// Tiers that have not done with it, and one for who still hands it out.
    left: usize,
    /// Tiers that are at work on it.
    running: usize,
    tiers: TierSet,
    is_over: bool,
}

impl Store {
    /// That of an object which `tier_count` tiers will get.
    pub(super) fn new(
        task: TaskId,
        index: usize,
        object: StoreObject,
        tier_count: usize,
    ) -> Arc<Store> {
        Arc::new(Store {
            task,
            index,
            object,
            progress: Mutex::new(StoreProgress {
                left: tier_count + 1,
                running: 0,
                tiers: TierSet::default(),
                is_over: false,
            }),
        })
    }

    fn progress(&self) -> MutexGuard<'_, StoreProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn completion(&self, progress: &StoreProgress) -> Completion {
        Completion::Stored {
            task: self.task,
            object: self.index,
            tiers: progress.tiers,
        }
    }

    /// A tier begins; false if the store was cancelled, and then it does not.
    pub(super) fn begin(&self) -> bool {
        let mut progress = self.progress();
        if !progress.is_over {
            progress.running += 1;
        }
        !progress.is_over
    }

    /// A tier that began has done with it, and `holder` holds it; the completion if it was the last.
    pub(super) fn end(&self, holder: Option<TierNumber>) -> Option<Completion> {
        self.progress().running -= 1;
        self.leave(holder)
    }

    /// A tier that did not begin has done with it, or whoever handed it out.
    pub(super) fn leave(&self, holder: Option<TierNumber>) -> Option<Completion> {
        let mut progress = self.progress();
        progress.left -= 1;
        if let Some(tier) = holder {
            progress.tiers = progress.tiers.with(tier);
        }
        if progress.left > 0 || progress.is_over {
            return None;
        }
        progress.is_over = true;
        Some(self.completion(&progress))
    }

    /// Gives it up unless a tier is at work on it or it is over.
    pub(super) fn cancel(&self) -> Option<Completion> {
        let mut progress = self.progress();
        if progress.running > 0 || progress.is_over {
            return None;
        }
        progress.is_over = true;
        Some(self.completion(&progress))
    }

    pub(super) fn is_over(&self) -> bool {
        self.progress().is_over
    }
}

/// One object for one tier.
#[derive(Debug)]
pub(super) struct StoreJob {
    pub(super) store: Arc<Store>,
    pub(super) tally: Arc<Tally>,
}

/// One object that is to be loaded from one tier.
#[derive(Debug)]
pub(super) struct LoadJob {
    pub(super) task: TaskId,
    pub(super) index: usize,
    pub(super) load: LoadObject,
    /// That of the tier which is asked first.
    pub(super) tally: Option<Arc<Tally>>,
}

/// One lookup on its way through the tiers.
#[derive(Debug)]
pub(super) struct Lookup {
    task: TaskId,
    keys: Vec<TierKey>,
    progress: Mutex<LookupProgress>,
}

#[derive(Debug)]
struct LookupProgress {
    /// The tier that is asked; the answer of any other comes too late.
    stage: TierNumber,
    found: Vec<Option<Found>>,
    is_over: bool,
}

impl Lookup {
    pub(super) fn new(task: TaskId, keys: Vec<TierKey>) -> Arc<Lookup> {
        let found = vec![None; keys.len()];
        Arc::new(Lookup {
            task,
            keys,
            progress: Mutex::new(LookupProgress {
                stage: 0,
                found,
                is_over: false,
            }),
        })
    }

    fn progress(&self) -> MutexGuard<'_, LookupProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a tier has to find, or, when nothing or nobody is left, the completion.
    pub(super) fn ask(
        self: &Arc<Self>,
        tier: TierNumber,
        tier_count: usize,
        now: Instant,
    ) -> Result<Arc<LookupJob>, Option<Completion>> {
        let mut progress = self.progress();
        progress.stage = tier;
        let places: Vec<usize> = (0..self.keys.len())
            .filter(|place| progress.found[*place].is_none())
            .collect();
        if places.is_empty() || tier >= tier_count {
            let was_over = std::mem::replace(&mut progress.is_over, true);
            let found = std::mem::take(&mut progress.found);
            return Err((!was_over).then_some(Completion::LookedUp {
                task: self.task,
                found,
            }));
        }
        Ok(Arc::new(LookupJob {
            lookup: Arc::clone(self),
            keys: places.iter().map(|place| self.keys[*place]).collect(),
            places,
            since: now,
        }))
    }

    /// What a tier found, if it was asked and nobody answered for it; whether the next tier is to be asked.
    pub(super) fn answer(&self, tier: TierNumber, job: &LookupJob, lens: &[Option<u64>]) -> bool {
        let mut progress = self.progress();
        if progress.is_over || progress.stage != tier {
            return false;
        }
        progress.stage = tier + 1;
        for (place, len_bytes) in job.places.iter().zip(lens) {
            progress.found[*place] = len_bytes.map(|len_bytes| Found { tier, len_bytes });
        }
        true
    }
}

/// What one tier has to find.
#[derive(Debug)]
pub(super) struct LookupJob {
    pub(super) lookup: Arc<Lookup>,
    pub(super) keys: Vec<TierKey>,
    places: Vec<usize>,
    pub(super) since: Instant,
}
