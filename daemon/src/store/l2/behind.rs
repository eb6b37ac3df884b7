//! Write-behind: committed objects go to the tiers some time after their commit, off every request's path.
//!
//! ```text
//!                   commit                room, in the order of commits          a tier holds it
//!   (fresh) ----------------> Waiting --------------------------------> Storing ----------------> Stored
//!                                | evicted                                 |   \--none does, or gave way--> Failed
//!                                v                                         |                                |
//!             has time and room? Storing, as a zombie       evicted: a zombie until the end                 | evicted
//!             else gone, and counted                                                                        v
//!                                                                              once more as Waiting, then gone, counted
//! ```
//!
//! A waiting object costs nothing and may be evicted at any time. One that is being stored stays where it is, whatever
//! becomes of it, until every tier is done with its bytes; so these are at most [`READ_AT_MOST`] objects and a tenth of
//! the payload, and what is larger than that is never stored. When a reserve finds no space otherwise, the oldest that no
//! tier is at work on give way. Each generation of an object is stored once.

use super::super::ages::Leaving;
use super::super::entries::EntryState;
use super::super::numbers::NumberMap;
use super::super::{Nanos, Store};
use super::TierWork;
use crate::tiers::{Completion, PayloadRange, StoreObject, StoreTask, TaskId, TierSet};
use hostkv_shm_protocol::id::EntryNumber;
use std::collections::{HashMap, HashSet, VecDeque};

/// Most objects that the tiers may be reading.
const READ_AT_MOST: usize = 64;
/// Their bytes, as a share of the payload.
const READ_DIVISOR: u64 = 10;
/// Most objects of one task.
const TASK_AT_MOST: usize = 16;
/// Waiting objects that have gone by now and are passed over in one turn.
const PASSED_AT_MOST: u32 = 4096;
/// Most objects that wait; what comes when so many do is not stored, and counted.
const WAITING_AT_MOST: usize = 262_144;

/// How an entry's object stands to the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Standing {
    /// To be stored.
    Waiting,
    /// The tiers have it.
    Storing,
    /// A tier holds it.
    Stored,
    /// No tier took it.
    Failed,
    /// Not to be stored: too large, or there was no place to wait.
    LeftOut,
}

/// An object that the tiers have.
#[derive(Debug, Clone, Copy)]
struct Reading {
    seq: u64,
    bytes: u64,
    /// Whether it was removed meanwhile, so that the tiers must not keep it.
    is_removed: bool,
}

/// A store task that is not over.
#[derive(Debug)]
struct Storing {
    entries: Vec<EntryNumber>,
    left: usize,
}

/// The write-behind.
#[derive(Debug)]
pub(super) struct Behind {
    /// By entry; empty without tiers.
    standings: Vec<Standing>,
    /// Entries with their sequence numbers, in the order of their commits; what is no such object any more is passed over.
    waiting: VecDeque<(EntryNumber, u64)>,
    /// Evicted before they were stored, and bound for the next task.
    leaving: Vec<EntryNumber>,
    tasks: HashMap<TaskId, Storing>,
    reading: NumberMap<EntryNumber, Reading>,
    /// Bytes of those, rounded up to the alignment.
    pub(super) read_bytes: u64,
    /// Bytes of those that have left L1.
    pub(super) leaving_bytes: u64,
    /// Those.
    pub(super) leaving_count: u32,
    /// Those that a pass of the eviction controller has counted as freed, until they are.
    credited: HashSet<EntryNumber>,
    /// Bytes that a reserve wants stores to make way for; the loop has not been told yet.
    wanted_room: Option<u64>,
    /// Whether the loop has been told, or is to be.
    pub(super) is_giving_way: bool,
}

impl Behind {
    /// Nothing to be stored yet; `entry_count` is 0 without tiers.
    pub(super) fn new(entry_count: u32) -> Behind {
        Behind {
            standings: vec![Standing::Failed; entry_count as usize],
            waiting: VecDeque::new(),
            leaving: Vec::new(),
            tasks: HashMap::new(),
            reading: NumberMap::default(),
            read_bytes: 0,
            leaving_bytes: 0,
            leaving_count: 0,
            credited: HashSet::new(),
            wanted_room: None,
            is_giving_way: false,
        }
    }

    /// Whether a tier may be reading the entry's bytes.
    pub(super) fn is_read(&self, entry: EntryNumber) -> bool {
        self.reading.contains_key(&entry)
    }

    /// Objects that tiers may be reading.
    pub(super) fn read_count(&self) -> u64 {
        self.reading.len() as u64
    }

    /// Objects that wait, those included that have gone meanwhile and were not passed over yet.
    pub(super) fn waiting_count(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Bytes of private memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.standings.capacity() * size_of::<Standing>()) as u64
    }

    fn stand(&mut self, entry: EntryNumber, standing: Standing) {
        if let Some(place) = self.standings.get_mut(entry.index()) {
            *place = standing;
        }
    }

    fn has_room(&self, bytes: u64, payload_len: u64) -> bool {
        self.reading.len() < READ_AT_MOST && self.read_bytes + bytes <= payload_len / READ_DIVISOR
    }

    /// The tiers may read the entry's bytes from now on.
    fn begin(&mut self, entry: EntryNumber, seq: u64, bytes: u64) {
        self.stand(entry, Standing::Storing);
        self.read_bytes += bytes;
        let reading = Reading {
            seq,
            bytes,
            is_removed: false,
        };
        self.reading.insert(entry, reading);
    }
}

impl Store {
    /// Notes an object that a session committed, to be stored.
    pub(in super::super) fn store_behind(&mut self, entry: EntryNumber, seq: u64) {
        if !self.l2.is_on() {
            return;
        }
        let is_too_large = self.extent_bytes(entry) > self.config.payload_len / READ_DIVISOR;
        // Two steps for one object, so that what has gone never fills the queue.
        for _ in 0..2 {
            match self.l2.behind.waiting.front().copied() {
                Some(first) if !self.is_object(first) => self.l2.behind.waiting.pop_front(),
                _ => break,
            };
        }
        if is_too_large || self.l2.behind.waiting.len() >= WAITING_AT_MOST {
            self.stats.l2_left_out_keys += 1;
            self.l2.behind.stand(entry, Standing::LeftOut);
            return;
        }
        self.l2.behind.stand(entry, Standing::Waiting);
        self.l2.behind.waiting.push_back((entry, seq));
    }

    /// Notes an object that came out of a tier.
    pub(super) fn came_from_tier(&mut self, entry: EntryNumber) {
        self.l2.behind.stand(entry, Standing::Stored);
    }

    /// Makes store tasks of what waits, as far as there is room.
    pub(super) fn fill_stores(&mut self) {
        self.fill(false);
    }

    /// Makes store tasks of all that waits, at the end of the daemon: nobody needs the room any more.
    pub fn store_the_rest(&mut self) {
        if self.l2.is_on() {
            self.fill(true);
        }
    }

    fn fill(&mut self, is_boundless: bool) {
        let mut passed = 0;
        loop {
            let mut entries = std::mem::take(&mut self.l2.behind.leaving);
            while entries.len() < TASK_AT_MOST
                && (is_boundless || passed < PASSED_AT_MOST)
                && let Some((entry, seq)) = self.l2.behind.waiting.front().copied()
            {
                passed += 1;
                if self.is_waiting((entry, seq)) {
                    let bytes = self.extent_bytes(entry);
                    if !is_boundless && !self.l2.behind.has_room(bytes, self.config.payload_len) {
                        break;
                    }
                    self.l2.behind.begin(entry, seq, bytes);
                    entries.push(entry);
                }
                self.l2.behind.waiting.pop_front();
            }
            if entries.is_empty() {
                return;
            }
            self.submit_stores(entries);
        }
    }

    fn is_waiting(&self, object: (EntryNumber, u64)) -> bool {
        self.is_object(object)
            && self.l2.behind.standings.get(object.0.index()) == Some(&Standing::Waiting)
    }

    fn submit_stores(&mut self, entries: Vec<EntryNumber>) {
        let id = self.l2.next_task();
        let mut objects = Vec::with_capacity(entries.len());
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = self.key_of(entry).and_then(|key| self.tier_key(&key));
            let Some(key) = name else {
                // Another layout has its keyspace's name by now: nobody can find it any more.
                self.end_reading(entry, TierSet::default(), 0);
                continue;
            };
            let extent = self.index.extent(entry);
            objects.push(StoreObject {
                key,
                source: PayloadRange {
                    offset_bytes: self.units_to_bytes(extent.offset_units),
                    len_bytes: u64::from(extent.len_bytes),
                },
                sum: self.index.sum(entry),
            });
            named.push(entry);
        }
        if objects.is_empty() {
            return;
        }
        let task = Storing {
            left: named.len(),
            entries: named,
        };
        self.l2.behind.tasks.insert(id, task);
        self.l2
            .work
            .push(TierWork::Store(StoreTask { id, objects }));
    }

    /// The tiers are done with one object of a store task.
    pub(super) fn stored(&mut self, id: TaskId, object: usize, tiers: TierSet, now: Nanos) {
        let Some(task) = self.l2.behind.tasks.get_mut(&id) else {
            return;
        };
        let Some(entry) = task.entries.get(object).copied() else {
            return;
        };
        task.left -= 1;
        if task.left == 0 {
            self.l2.behind.tasks.remove(&id);
        }
        self.end_reading(entry, tiers, now);
    }

    /// Nobody reads the entry's bytes any more.
    fn end_reading(&mut self, entry: EntryNumber, tiers: TierSet, now: Nanos) {
        let Some(reading) = self.l2.behind.reading.remove(&entry) else {
            return;
        };
        self.l2.behind.read_bytes -= reading.bytes;
        if self.entries.state(entry) != EntryState::Committed {
            // A zombie: it stayed for the tiers.
            self.l2.behind.leaving_bytes -= reading.bytes;
            self.l2.behind.leaving_count -= 1;
            self.wants_scan = true;
            if reading.is_removed {
                if let Some(key) = self.key_of(entry) {
                    self.remove_from_tiers(&[key]);
                }
            } else if tiers.is_empty() {
                self.stats.l2_evicted_unstored_keys += 1;
            }
            return;
        }
        self.pass_is_blocked = false;
        if tiers.is_empty() {
            self.l2.behind.stand(entry, Standing::Failed);
            return;
        }
        self.l2.behind.stand(entry, Standing::Stored);
        if self.is_object((entry, reading.seq)) {
            self.skip_l1(entry, now);
        }
    }

    /// Takes a stored object out of L1, where that is the policy and no prefetch keeps it.
    pub(super) fn skip_l1(&mut self, entry: EntryNumber, now: Nanos) {
        let is_stored = self.l2.behind.standings.get(entry.index()) == Some(&Standing::Stored);
        if self.l2.config.skips_l1 && is_stored && !self.l2.is_kept(entry) {
            self.stats.l2_skipped_l1_keys += 1;
            self.unpublish(entry, Leaving::Removed, now);
        }
    }

    /// Eviction takes an object. With time its bytes are stored first when that has not happened yet and there is room;
    /// else it is gone, and counted.
    pub(in super::super) fn store_evicted(&mut self, entry: EntryNumber, has_time: bool) {
        let Some(standing) = self.l2.behind.standings.get(entry.index()).copied() else {
            return;
        };
        if matches!(standing, Standing::Storing | Standing::Stored) {
            return;
        }
        let bytes = self.extent_bytes(entry);
        let may_store = has_time && standing != Standing::LeftOut;
        if may_store && self.l2.behind.has_room(bytes, self.config.payload_len) {
            let seq = self.index.seq(entry);
            self.l2.behind.begin(entry, seq, bytes);
            self.l2.behind.leaving.push(entry);
        } else {
            self.stats.l2_evicted_unstored_keys += 1;
        }
    }

    /// An object leaves L1, for whatever reason.
    pub(in super::super) fn note_leaving(&mut self, entry: EntryNumber) {
        self.l2.holds.forget(entry);
        if let Some(reading) = self.l2.behind.reading.get(&entry) {
            self.l2.behind.leaving_bytes += reading.bytes;
            self.l2.behind.leaving_count += 1;
        }
    }

    /// A pass counts an object as freed that stays until a tier has read it; false when none is reading it.
    pub(in super::super) fn credit_leaving(&mut self, entry: EntryNumber) -> bool {
        let is_read = self.l2.is_read(entry);
        if is_read {
            self.l2.behind.credited.insert(entry);
        }
        is_read
    }

    /// Whether a zombie was counted as freed when it was evicted; asked once, when it is freed.
    pub(in super::super) fn take_credit(&mut self, entry: EntryNumber) -> bool {
        // Nearly always there is none, and a table hashes before it looks.
        !self.l2.behind.credited.is_empty() && self.l2.behind.credited.remove(&entry)
    }

    /// An object that is being stored was removed.
    pub(in super::super) fn note_removed(&mut self, entry: EntryNumber) {
        if let Some(reading) = self.l2.behind.reading.get_mut(&entry) {
            reading.is_removed = true;
        }
    }

    /// Asks the loop to have stores give way to a reserve that needs these bytes; false when there is none to do so.
    pub(in super::super) fn have_stores_give_way(&mut self, bytes: u64) -> bool {
        if self.l2.behind.reading.is_empty() {
            return false;
        }
        self.l2.behind.wanted_room = Some(bytes);
        self.l2.behind.is_giving_way = true;
        true
    }

    /// Bytes for which the oldest stores that no tier is at work on are to be given up now; what came of it goes to
    /// [`Store::stores_gave_way`].
    pub fn take_wanted_room(&mut self) -> Option<u64> {
        self.l2.behind.wanted_room.take()
    }

    /// The stores that were given up.
    pub fn stores_gave_way(&mut self, completions: Vec<Completion>, now: Nanos) {
        self.l2.behind.is_giving_way = false;
        self.stats.l2_displaced_stores += completions.len() as u64;
        for completion in completions {
            self.tier_ended(completion, now);
        }
    }

    /// Whether a reserve waits for stores to give way.
    pub(in super::super) fn is_waiting_for_stores(&self) -> bool {
        self.l2.behind.is_giving_way
    }

    pub(super) fn audit_stores(&self, faults: &mut Vec<String>) {
        let behind = &self.l2.behind;
        let (mut bytes, mut leaving_bytes, mut leaving_count) = (0, 0, 0);
        for (entry, reading) in &behind.reading {
            bytes += reading.bytes;
            let state = self.entries.state(*entry);
            if state == EntryState::Zombie {
                leaving_bytes += reading.bytes;
                leaving_count += 1;
            }
            if !matches!(state, EntryState::Committed | EntryState::Zombie)
                || self.extent_bytes(*entry) != reading.bytes
            {
                faults.push(format!(
                    "entry {} is {state:?} and has {} bytes while tiers read {}",
                    entry.0,
                    self.extent_bytes(*entry),
                    reading.bytes
                ));
            }
        }
        let tasks: HashSet<EntryNumber> = behind
            .tasks
            .values()
            .flat_map(|task| &task.entries)
            .chain(&behind.leaving)
            .copied()
            .collect();
        if let Some(entry) = behind.reading.keys().find(|e| !tasks.contains(e)) {
            faults.push(format!("entry {} is read for no task", entry.0));
        }
        if (bytes, leaving_bytes, leaving_count)
            != (
                behind.read_bytes,
                behind.leaving_bytes,
                behind.leaving_count,
            )
        {
            faults.push(format!(
                "tiers read {bytes} bytes, {leaving_bytes} of {leaving_count} objects that left; booked are {}, {} and {}",
                behind.read_bytes, behind.leaving_bytes, behind.leaving_count
            ));
        }
    }
}
