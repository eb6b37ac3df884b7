//! Loads: entries that the daemon itself reserves and has filled out of a tier.
//!
//! ```text
//!   a run wants keys --> room for some of them, as for a reserve --> Loading --> LoadTask --> committed --> all who wait
//!                             parked behind the reserves of sessions         \--> no tier gave it: free, a miss for all
//! ```
//!
//! An entry that is being loaded belongs to nobody and stays where it is until the tiers are done with it, whatever becomes
//! of those who asked. Its key is linked, so that a second prefetch of the same key finds it and waits with the first.

use super::super::entries::EntryState;
use super::super::parked::Progress;
use super::super::reserve::Advance;
use super::super::slice::Effort;
use super::super::{Nanos, Store};
use super::TierWork;
use super::prefetch::{RunId, Want};
use crate::config::Integrity;
use crate::tiers::{Found, LoadObject, LoadOutcome, LoadTask, PayloadRange, TaskId};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::ReserveItem;
use std::collections::{HashMap, HashSet};

/// Most keys for which room is made at once.
const ROOM_AT_MOST: usize = 32;
/// Bytes from which on no further key is added to those.
const ROOM_BYTES: u64 = 64 << 20;

/// What a parked reserve of the daemon itself is for.
#[derive(Debug)]
pub struct LoadOf {
    run: RunId,
    /// Where each item stands in the run, and where it was found.
    wanted: Vec<(usize, Found)>,
}

impl LoadOf {
    /// The prefetch that asked.
    pub(in super::super) fn run(&self) -> RunId {
        self.run
    }
}

/// Everything on its way out of the tiers.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// Who waits for each entry, and at which place of the run.
    waiters: HashMap<EntryNumber, Vec<(RunId, usize)>>,
    tasks: HashMap<TaskId, (Vec<EntryNumber>, usize)>,
    /// Entries whose keys a commit has taken meanwhile: they are not in the index, and what is loaded is nobody's.
    overtaken: HashSet<EntryNumber>,
    /// Bytes of those entries, rounded up to the alignment.
    pub(super) bytes: u64,
}

impl Loads {
    /// One more waits for an entry that is being loaded.
    pub(super) fn join(&mut self, entry: EntryNumber, run: RunId, at: usize) {
        self.waiters.entry(entry).or_default().push((run, at));
    }

    /// One waits no more.
    pub(super) fn leave(&mut self, entry: EntryNumber, run: RunId, at: usize) {
        if let Some(waiters) = self.waiters.get_mut(&entry) {
            waiters.retain(|waiter| *waiter != (run, at));
        }
    }

    fn is_wanted(&self, entry: EntryNumber) -> bool {
        self.waiters.get(&entry).is_some_and(|w| !w.is_empty())
    }
}

impl Store {
    /// Asks for room for the next keys that a run has found in the tiers; what comes of it at once is taken up at once.
    pub(super) fn make_room_for_loads(&mut self, run_id: RunId, now: Nanos) {
        while let Some(wanted) = self.take_next_loads(run_id) {
            let items: Vec<ReserveItem> = wanted
                .iter()
                .map(|(_, key, found)| ReserveItem {
                    key: *key,
                    // As the lookup's answer was checked.
                    len_bytes: found.len_bytes as u32,
                })
                .collect();
            let align = self.align();
            let bytes = |item: &ReserveItem| u64::from(item.len_bytes).next_multiple_of(align);
            let requested_bytes = items.iter().map(bytes).sum();
            let load = LoadOf {
                run: run_id,
                wanted: wanted.into_iter().map(|(at, _, f)| (at, f)).collect(),
            };
            let mut progress = Progress::of_load(load, items, requested_bytes, now);
            let mut effort = Effort::whole();
            let advance = self.advance(&mut progress, &mut effort);
            self.count_request(&effort);
            match advance {
                Advance::Done => self.take_room(progress, now),
                Advance::Spent | Advance::Lacks(_) => {
                    self.parked.push_back(progress);
                    return;
                }
            }
        }
    }

    /// The next keys of a run for which room is wanted; none when there is none, or room is being made already.
    fn take_next_loads(&mut self, run_id: RunId) -> Option<Vec<(usize, Key, Found)>> {
        let run = self.l2.runs.get_mut(run_id)?;
        if run.is_making_room {
            return None;
        }
        let mut wanted = Vec::new();
        let mut bytes = 0;
        while wanted.len() < ROOM_AT_MOST
            && bytes < ROOM_BYTES
            && let Some(at) = run.to_load.pop_front()
        {
            if let Some(Want::InTier(found)) = run.want(at) {
                bytes += found.len_bytes;
                wanted.push((at, run.keys[at], found));
            }
        }
        run.is_making_room = !wanted.is_empty();
        (!wanted.is_empty()).then_some(wanted)
    }

    /// Room was made for some keys of a run, or was not: those with room are loaded.
    pub(in super::super) fn take_room(&mut self, progress: Progress, now: Nanos) {
        let Some(load) = progress.load else {
            return;
        };
        let mut objects = Vec::new();
        let items = progress.request.items.iter().zip(&progress.answers);
        for ((at, found), (item, answer)) in load.wanted.iter().zip(items) {
            if answer.status == Status::Ok {
                self.l2.loads.waiters.entry(answer.entry).or_default();
                objects.push((answer.entry, item.key, *found));
            }
            self.take_answer(load.run, *at, answer, &item.key);
        }
        self.submit_loads(objects);
        if let Some(run) = self.l2.runs.get_mut(load.run) {
            run.is_making_room = false;
        }
        self.settle_run(load.run, now);
    }

    /// What became of one key of a run for which room was wanted.
    fn take_answer(&mut self, run_id: RunId, at: usize, answer: &ReservedItem, key: &Key) {
        let Some(mut run) = self.l2.runs.take(run_id) else {
            return;
        };
        if run.want(at).is_some() {
            match answer.status {
                Status::Ok => {
                    run.set(at, Want::Loading(answer.entry));
                    self.l2.loads.join(answer.entry, run_id, at);
                }
                // Somebody was faster: a writer, or another prefetch.
                Status::Exists | Status::Reserved => {
                    self.uncharge(&mut run, at);
                    if let Err(status) = self.plan(&mut run, run_id, at, key) {
                        self.cut(&mut run, run_id, at, status);
                    } else if matches!(run.want(at), Some(Want::Unknown)) {
                        // It has gone again: rare enough to be a miss.
                        self.cut(&mut run, run_id, at, Status::NotFound);
                    }
                }
                status => self.cut(&mut run, run_id, at, status),
            }
        }
        self.l2.runs.put(run_id, run);
    }

    /// Has entries loaded that somebody waits for, and frees the others.
    fn submit_loads(&mut self, objects: Vec<(EntryNumber, Key, Found)>) {
        let mut entries = Vec::with_capacity(objects.len());
        let mut wanted = Vec::with_capacity(objects.len());
        for (entry, key, found) in objects {
            let name = self
                .tier_key(&key)
                .filter(|_| self.l2.loads.is_wanted(entry));
            let Some(name) = name else {
                self.give_load_up(entry);
                continue;
            };
            let extent = self.index.extent(entry);
            entries.push(entry);
            wanted.push(LoadObject {
                key: name,
                tier: found.tier,
                destination: PayloadRange {
                    offset_bytes: self.units_to_bytes(extent.offset_units),
                    len_bytes: u64::from(extent.len_bytes),
                },
            });
        }
        if entries.is_empty() {
            return;
        }
        let id = self.l2.next_task();
        let left = entries.len();
        self.l2.loads.tasks.insert(id, (entries, left));
        self.l2.work.push(TierWork::Load(LoadTask {
            id,
            objects: wanted,
        }));
    }

    /// A reserve of the daemon's own that is not needed any more: what it got is loaded if somebody else waits for it by now.
    pub(in super::super) fn drop_load(&mut self, progress: Progress) {
        let Some(load) = progress.load else {
            return;
        };
        let items = progress.request.items.iter().zip(&progress.answers);
        let granted = load
            .wanted
            .iter()
            .zip(items)
            .filter(|(_, (_, answer))| answer.status == Status::Ok)
            .map(|((_, found), (item, answer))| (answer.entry, item.key, *found))
            .collect();
        self.submit_loads(granted);
    }

    /// The tiers are done with one object of a load task.
    pub(super) fn loaded(&mut self, id: TaskId, object: usize, outcome: LoadOutcome, now: Nanos) {
        let Some((entries, left)) = self.l2.loads.tasks.get_mut(&id) else {
            return;
        };
        let Some(entry) = entries.get(object).copied() else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            self.l2.loads.tasks.remove(&id);
        }
        let waiters = self.l2.loads.waiters.remove(&entry).unwrap_or_default();
        // Under a name that another layout has by now nobody could find it.
        let has_name = self
            .key_of(entry)
            .is_some_and(|key| self.names.name(key.keyspace()).is_some());
        let is_loaded = match outcome {
            LoadOutcome::Loaded { sum, .. } if has_name && !self.is_overtaken(entry) => {
                let sum = (self.config.integrity != Integrity::Off).then_some(sum);
                self.l2.loads.bytes -= self.extent_bytes(entry);
                self.came_from_tier(entry);
                self.publish_object(entry, sum, now);
                self.stats.l1_write_keys += 1;
                true
            }
            LoadOutcome::Loaded { .. } | LoadOutcome::Missed => {
                self.give_load_up(entry);
                false
            }
        };
        for (run_id, at) in &waiters {
            self.take_loaded(*run_id, *at, entry, is_loaded);
        }
        for (run_id, _) in &waiters {
            self.settle_run(*run_id, now);
        }
        if is_loaded {
            // Who asked may have ended meanwhile.
            self.skip_l1(entry, now);
        }
    }

    fn take_loaded(&mut self, run_id: RunId, at: usize, entry: EntryNumber, is_loaded: bool) {
        let Some(mut run) = self.l2.runs.take(run_id) else {
            return;
        };
        if run.want(at) == Some(Want::Loading(entry)) {
            if is_loaded {
                run.loaded_count += 1;
                let seq = self.index.seq(entry);
                run.set(at, Want::Kept(entry, seq));
                self.l2.holds.add(entry);
            } else {
                self.cut(&mut run, run_id, at, Status::NotFound);
            }
        }
        self.l2.runs.put(run_id, run);
    }

    /// Gives an entry back that was to be loaded.
    fn give_load_up(&mut self, entry: EntryNumber) {
        self.l2.loads.waiters.remove(&entry);
        self.l2.loads.overtaken.remove(&entry);
        self.l2.loads.bytes -= self.extent_bytes(entry);
        self.free_uncopied(entry);
    }

    /// Lets a commit have the key of an entry that is being loaded: the load may still come to nothing, and the committed
    /// bytes are there.
    pub(in super::super) fn overtake_load(&mut self, entry: EntryNumber) {
        if let Some(key) = self.key_of(entry) {
            self.index.unlink(entry, self.index.hash(&key));
        }
        self.l2.loads.overtaken.insert(entry);
    }

    /// Whether a commit has taken the key of an entry that is being loaded.
    pub(in super::super) fn is_overtaken(&self, entry: EntryNumber) -> bool {
        self.l2.loads.overtaken.contains(&entry)
    }

    /// The daemon itself holds an entry for a load.
    pub(in super::super) fn charge_load(&mut self, entry: EntryNumber, bytes: u64) {
        self.entries.set_state(entry, EntryState::Loading, None);
        self.l2.loads.bytes += bytes;
    }

    pub(super) fn audit_loads(&self, faults: &mut Vec<String>) {
        let loads = &self.l2.loads;
        let tasks = loads.tasks.values().flat_map(|(entries, _)| entries);
        for entry in tasks.chain(loads.waiters.keys()) {
            // What is over of a task that goes on may be anything by now, but nobody waits for it.
            if loads.waiters.contains_key(entry)
                && self.entries.state(*entry) != EntryState::Loading
            {
                faults.push(format!(
                    "entry {} is {:?} and somebody waits for its load",
                    entry.0,
                    self.entries.state(*entry)
                ));
            }
        }
    }
}
