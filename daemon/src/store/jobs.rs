//! Work on payload bytes, which the store has done by others: the loop fetches the jobs and brings their ends.
//!
//! ```text
//!   free_entry, settle_zombie --> Dirty, a job --take_jobs--> (a worker zeroes) --job_ended--> free, or Revoked
//!   guard: sums to be made, reports, scrubber -----> jobs --take_jobs--> (workers sum) --job_ended--> compared
//!   commit, if staged        --> Committing, jobs --take_jobs--> (workers copy, and sum) --job_ended--> published
//!   commit, --integrity full --> Committing, jobs --take_jobs--> (workers sum) --job_ended--> published
//! ```
//!
//! The extent of a job belongs to it until its end: an entry whose extent is being worked on is in no list that anything
//! else frees from, so neither the death of a session nor an eviction can give the bytes away meanwhile.
//!
//! What is being zeroed is still used, and charged to its keyspace. A reserve that lacks space waits for it and evicts
//! nothing more meanwhile.

use super::commits::WaitingCommit;
use super::entries::EntryState;
use super::guard::{Origin, Watched};
use super::parked::{Resumed, Ticket};
use super::{Nanos, Store};
use crate::config::Integrity;
use crate::workers::{Job, JobEnd, JobId, Task};
use hostkv_shm_protocol::id::EntryNumber;
use std::collections::HashMap;
use std::sync::Arc;

/// What a job is for.
#[derive(Debug)]
enum Purpose {
    /// An extent is zeroed before it may be used again.
    Zero {
        entry: EntryNumber,
        /// Whether a void pin names the entry, so that its number must stay when the extent goes.
        is_named: bool,
    },
    /// An item of a commit is copied out of a staging segment before it can be read.
    Copy { ticket: Ticket, item: usize },
    /// The items of a commit from `first` on are summed before they can be read.
    Commit { ticket: Ticket, first: usize },
    /// Objects are read in the background.
    Watch {
        origin: Origin,
        objects: Vec<Watched>,
    },
}

/// Most items of a commit in one job: the loop takes the ends of many such jobs in one turn.
const COMMIT_ITEMS_AT_MOST: usize = 64;
/// Most objects of one background job. There is one such job at a time, so each wakes a worker and the loop once; making and
/// ending it costs the loop some thirty nanoseconds an object, and must stay far below a slice of its work.
const WATCHED_AT_MOST: usize = 256;
/// Bytes from which on a job takes no further extent, so that several workers share a large commit.
const JOB_BYTES: u64 = 4 << 20;

/// The jobs that are not over.
#[derive(Debug, Default)]
pub(super) struct JobBook {
    last_id: u64,
    /// Not fetched yet.
    new: Vec<Job>,
    purposes: HashMap<JobId, Purpose>,
    /// Bytes that are being zeroed.
    pub(super) zeroing_bytes: u64,
}

impl JobBook {
    fn add(&mut self, purpose: Purpose, task: Task) {
        self.last_id += 1;
        let id = JobId(self.last_id);
        self.purposes.insert(id, purpose);
        self.new.push(Job { id, task });
    }
}

impl Store {
    /// The jobs that were made since the last call. Each is to be ended by [`Store::job_ended`].
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs.new)
    }

    /// A job is over.
    ///
    /// Gives the answer of a request that waited for it.
    pub fn job_ended(&mut self, end: JobEnd, now: Nanos) -> Option<Resumed> {
        match self.jobs.purposes.remove(&end.id)? {
            Purpose::Copy { ticket, item } => {
                if let Err(errno) = end.outcome {
                    log::error!(
                        "An object can't be copied out of its writer's staging segment and is not committed: {}",
                        errno.desc()
                    );
                }
                let copied = end.outcome.map(|sums| sums.first().copied());
                return self.commit_copied(ticket, item, copied, now);
            }
            Purpose::Commit { ticket, first } => match end.outcome {
                Ok(sums) => return self.commit_summed(ticket, first, &sums, now),
                // Only at the end of the daemon: every extent lies inside the payload.
                Err(errno) => {
                    log::warn!("A commit stays undone: {}.", errno.desc());
                    return None;
                }
            },
            Purpose::Watch { origin, objects } => match end.outcome {
                Ok(sums) => self.guard_summed(origin, &objects, &sums, now),
                Err(_) => self.guard_failed(),
            },
            Purpose::Zero { entry, is_named } => {
                if let Err(errno) = end.outcome {
                    // It stays used for as long as the daemon runs: nobody may see what is in it.
                    log::error!(
                        "The extent of entry {} can't be zeroed and is not used any more: {}",
                        entry.0,
                        errno.desc()
                    );
                    return None;
                }
                self.jobs.zeroing_bytes -= self.extent_bytes(entry);
                self.free_extent(entry);
                if is_named {
                    self.entries.set_state(entry, EntryState::Revoked, None);
                    self.zombies.push(entry);
                } else {
                    self.free_number(entry);
                }
                self.is_waiting_for_zeros = false;
            }
        }
        None
    }

    /// Has the items of a commit copied into the payload; false when its session writes there itself.
    pub(super) fn copy_staged(&mut self, slot: usize, commit: &WaitingCommit) -> bool {
        let ledger = self.sessions[slot].as_ref();
        let Some(staging) = ledger.and_then(|ledger| ledger.staging.as_ref()) else {
            return false;
        };
        let align = u64::from(self.config.align_bytes);
        for (item, part) in commit.items.iter().enumerate() {
            let extent = self.index.extent(part.entry);
            // Each reserved entry of such a session has its place; without one there would be nothing to read.
            let from_units = staging.offset(part.entry).unwrap_or(u32::MAX);
            let task = Task::Copy {
                from: Arc::clone(&staging.file),
                from_bytes: u64::from(from_units) * align,
                offset_bytes: u64::from(extent.offset_units) * align,
                len_bytes: u64::from(extent.len_bytes),
                is_summed: self.config.integrity == Integrity::Full,
            };
            let ticket = commit.ticket;
            self.jobs.add(Purpose::Copy { ticket, item }, task);
        }
        true
    }

    /// Has the items of a commit summed, by as many jobs as their bytes are worth.
    pub(super) fn sum_items(&mut self, commit: &WaitingCommit) {
        let extents: Vec<_> = commit
            .items
            .iter()
            .map(|item| self.bytes_of(item.entry))
            .collect();
        let mut first = 0;
        while first < extents.len() {
            let mut bytes = 0;
            let count = extents[first..]
                .iter()
                .take(COMMIT_ITEMS_AT_MOST)
                .take_while(|(_, len)| {
                    let has_room = bytes < JOB_BYTES;
                    bytes += len;
                    has_room
                })
                .count();
            let purpose = Purpose::Commit {
                ticket: commit.ticket,
                first,
            };
            let extents = extents[first..first + count].to_vec();
            self.jobs.add(purpose, Task::Sum { extents });
            first += count;
        }
    }

    /// Adds an object to those of one job, which have `bytes` so far; whether they are enough for it.
    pub(super) fn fills_job(
        &self,
        objects: &mut Vec<Watched>,
        bytes: &mut u64,
        object: Watched,
    ) -> bool {
        objects.push(object);
        *bytes += self.bytes_of(object.0).1;
        objects.len() >= WATCHED_AT_MOST || *bytes >= JOB_BYTES
    }

    /// Has objects summed in the background; how many bytes that are.
    pub(super) fn watch_objects(&mut self, origin: Origin, objects: Vec<Watched>) -> u64 {
        let extents: Vec<_> = objects
            .iter()
            .map(|(entry, _)| self.bytes_of(*entry))
            .collect();
        let bytes = extents.iter().map(|(_, len)| len).sum();
        let purpose = Purpose::Watch { origin, objects };
        self.jobs.add(purpose, Task::Sum { extents });
        bytes
    }

    /// Where an entry's object lies in the payload: offset and length in bytes.
    fn bytes_of(&self, entry: EntryNumber) -> (u64, u64) {
        let extent = self.index.extent(entry);
        (
            self.units_to_bytes(extent.offset_units),
            u64::from(extent.len_bytes),
        )
    }

    /// Has an entry's extent zeroed, if it must be before another may use it; false when it need not.
    pub(super) fn zero_first(&mut self, entry: EntryNumber, is_named: bool) -> bool {
        if !self.config.zeroes_on_reuse {
            return false;
        }
        let Some((offset, units)) = self.allocator.extent(entry.0) else {
            return false;
        };
        let len_bytes = self.units_to_bytes(units);
        self.entries.set_state(entry, EntryState::Dirty, None);
        self.jobs.zeroing_bytes += len_bytes;
        let task = Task::Zero {
            offset_bytes: self.units_to_bytes(offset),
            len_bytes,
        };
        self.jobs.add(Purpose::Zero { entry, is_named }, task);
        true
    }
}
