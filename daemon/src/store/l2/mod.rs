//! The store's side of the tiers behind L1: what is to be stored in them, loaded out of them, and kept for who asked.
//!
//! The loop fetches what is to be done ([`Store::take_tier_work`]), hands it to `tiers`, and brings what came of it
//! ([`Store::tier_ended`]). The store decides what is stored and when, keeps the bytes of each task where they are until
//! its end, and never waits for one.
//!
//! ```text
//!   commit --------> queue --room?--> StoreTask ------> stored, or not                        behind.rs
//!   eviction ------> not stored yet? --room?--^
//!   PREFETCH ------> L1 has it: kept
//!                    else LookupTask --> found --> room (parked with the reserves) --> LoadTask --> committed, kept
//!                                                  one load for all who ask                 prefetch.rs, loads.rs
//!   PREFETCH_END, the session's end ------> kept no longer                                        holds.rs
//! ```
//!
//! Without a tier nothing is stored, and a prefetch keeps what L1 has.

mod behind;
mod holds;
mod loads;
mod prefetch;

use super::parked::Resumed;
use super::{Nanos, Store};
use crate::tiers::{Completion, LoadTask, LookupTask, StoreTask, TaskId, TierKey};
use behind::Behind;
use holds::Holds;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::Key;
use loads::Loads;
use prefetch::Runs;

pub(super) use loads::LoadOf;
pub(super) use prefetch::RunId;

/// What the store is told of the tiers at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Config {
    /// How many there are; 0 = none.
    pub tier_count: usize,
    /// Whether an object leaves L1 as soon as a tier holds it.
    pub skips_l1: bool,
}

/// Something for the tiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierWork {
    /// Objects to be stored.
    Store(StoreTask),
    /// A question which tier holds what.
    Lookup(LookupTask),
    /// Objects to be loaded.
    Load(LoadTask),
    /// Objects to be removed.
    Remove(Vec<TierKey>),
}

/// All that the store knows of the tiers.
pub(super) struct L2 {
    config: L2Config,
    last_task: u64,
    /// Not fetched yet.
    work: Vec<TierWork>,
    behind: Behind,
    holds: Holds,
    runs: Runs,
    loads: Loads,
    /// Objects that nobody keeps any more since the last look at whether they are to leave L1.
    released: Vec<EntryNumber>,
    /// Answers of prefetches that the loop has not been given yet.
    done: Vec<Resumed>,
}

impl L2 {
    /// Nothing stored, loaded or kept yet.
    pub(super) fn new(config: L2Config, entry_count: u32) -> L2 {
        let stored_entries = if config.tier_count > 0 {
            entry_count
        } else {
            0
        };
        L2 {
            config,
            last_task: 0,
            work: Vec::new(),
            behind: Behind::new(stored_entries),
            holds: Holds::default(),
            runs: Runs::default(),
            loads: Loads::default(),
            released: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Whether there is a tier.
    pub(super) fn is_on(&self) -> bool {
        self.config.tier_count > 0
    }

    fn next_task(&mut self) -> TaskId {
        self.last_task += 1;
        TaskId(self.last_task)
    }

    /// Whether the entry may not be evicted because a prefetch keeps it.
    pub(super) fn is_kept(&self, entry: EntryNumber) -> bool {
        self.holds.contains(entry)
    }

    /// Whether a tier may be reading the entry's bytes.
    pub(super) fn is_read(&self, entry: EntryNumber) -> bool {
        self.behind.is_read(entry)
    }

    /// Bytes of objects that have left L1 and stay only until a tier has read them.
    pub(super) fn leaving_bytes(&self) -> u64 {
        self.behind.leaving_bytes
    }

    /// Those objects.
    pub(super) fn leaving_count(&self) -> u32 {
        self.behind.leaving_count
    }

    /// Bytes of extents that are being loaded into, or are about to be.
    pub(super) fn loading_bytes(&self) -> u64 {
        self.loads.bytes
    }

    /// Whether answers of prefetches wait for the loop.
    pub(super) fn has_answers(&self) -> bool {
        !self.done.is_empty()
    }

    /// Those answers.
    pub(super) fn take_answers(&mut self) -> Vec<Resumed> {
        std::mem::take(&mut self.done)
    }

    /// Bytes of private memory that grow with the index.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.behind.memory_bytes()
    }
}

/// What of L2 is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Gauges {
    /// Objects that wait to be given to the tiers.
    pub waiting_objects: u64,
    /// Objects that the tiers have and are not done with.
    pub storing_objects: u64,
    /// Their bytes, which stay where they are for so long.
    pub storing_bytes: u64,
    /// Bytes that are being loaded into, or are about to be.
    pub loading_bytes: u64,
    /// Open prefetches.
    pub prefetches: u64,
    /// Bytes that they keep in L1 or have asked for, each counted once for each prefetch.
    pub kept_bytes: u64,
}

impl Store {
    /// What the tiers are to do since the last call. Each task is to be ended by [`Store::tier_ended`].
    pub fn take_tier_work(&mut self) -> Vec<TierWork> {
        if !self.l2.is_on() {
            return Vec::new();
        }
        self.fill_stores();
        std::mem::take(&mut self.l2.work)
    }

    /// A task of a tier, or one object of it, is over. The answers of prefetches that waited for it come with the next
    /// [`Store::slice`].
    pub fn tier_ended(&mut self, completion: Completion, now: Nanos) {
        match completion {
            Completion::Stored {
                task,
                object,
                tiers,
            } => self.stored(task, object, tiers, now),
            Completion::LookedUp { task, found } => self.looked_up(task, &found, now),
            Completion::Loaded {
                task,
                object,
                outcome,
            } => self.loaded(task, object, outcome, now),
        }
    }

    /// What of L2 is at this moment.
    pub fn l2_gauges(&self) -> L2Gauges {
        let l2 = &self.l2;
        L2Gauges {
            waiting_objects: l2.behind.waiting_count(),
            storing_objects: l2.behind.read_count(),
            storing_bytes: l2.behind.read_bytes,
            loading_bytes: l2.loads.bytes,
            prefetches: l2.runs.count(),
            kept_bytes: l2.runs.kept_bytes,
        }
    }

    /// The name of a key in the tiers; none where another layout took its keyspace's name.
    fn tier_key(&mut self, key: &Key) -> Option<TierKey> {
        let space = self.names.tier_space(key.keyspace())?;
        Some(space.key(key))
    }

    /// Has keys that somebody removed go from the tiers too, those that are being stored at this moment included.
    pub(super) fn remove_from_tiers(&mut self, keys: &[Key]) {
        if !self.l2.is_on() {
            return;
        }
        let names: Vec<TierKey> = keys.iter().filter_map(|key| self.tier_key(key)).collect();
        if !names.is_empty() {
            self.l2.work.push(TierWork::Remove(names));
        }
    }

    /// What is wrong with the books of L2, for the audit.
    pub(super) fn audit_l2(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.audit_stores(&mut faults);
        self.audit_loads(&mut faults);
        let charged: u64 = self.sessions.iter().flatten().map(|l| l.kept_bytes).sum();
        let (kept, holds) = self.l2.runs.recount(|object| self.is_object(object));
        if kept != self.l2.runs.kept_bytes || charged != kept {
            faults.push(format!(
                "prefetches keep {kept} bytes, {} are booked and {charged} charged",
                self.l2.runs.kept_bytes
            ));
        }
        self.audit_holds(holds, &mut faults);
        faults
    }
}
