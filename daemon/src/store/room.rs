//! Making room for parked reserves: on demand, only what is needed, the oldest reserve first.
//!
//! ```text
//!   serve: advance the oldest --answered--> Resumed, and the next
//!             | lacks bytes or an entry
//!             v
//!          scan what is unpublished, drain recency, pick victims, scan   --room--> advance ...
//!             | nothing more can go, or twice what it asks for has gone
//!             v
//!          NO_SPACE, or QUOTA
//! ```
//!
//! A reserve that lacks room within the quota of its keyspace is served in the same way, by victims of that keyspace alone.

use super::entries::EntryState;
use super::evict::{BATCH_ENTRIES, SEARCH_STEPS, Want};
use super::parked::{Lack, Progress, Resumed};
use super::reserve::{Advance, HASHED_AT_ONCE};
use super::slice::Effort;
use super::{Nanos, Store};
use crate::config::EvictionPolicy;
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::key::KeyHash;
use hostkv_shm_protocol::status::{Reason, Status};

/// A reserve may evict this many times the bytes, or the entries, that it asks for.
const EVICT_FACTOR: u64 = 2;

impl Store {
    /// Advances parked reserves, the oldest first, until one lacks something or the effort is spent; the lack of that one.
    pub(super) fn advance_parked(
        &mut self,
        now: Nanos,
        done: &mut Vec<Resumed>,
        effort: &mut Effort,
    ) -> Option<Lack> {
        while let Some(mut progress) = self.parked.pop_front() {
            match self.advance(&mut progress, effort) {
                Advance::Done if progress.load.is_some() => self.take_room(progress, now),
                Advance::Done => {
                    effort.spend(Effort::REQUEST);
                    self.finish_reserve(&mut progress, now);
                    done.push(progress.into_resumed());
                }
                Advance::Spent => {
                    self.parked.push_front(progress);
                    return None;
                }
                Advance::Lacks(lack) => {
                    self.parked.push_front(progress);
                    return Some(lack);
                }
            }
        }
        None
    }

    pub(super) fn serve_parked(
        &mut self,
        now: Nanos,
        effort: &mut Effort,
        done: &mut Vec<Resumed>,
    ) {
        let Some(lack) = self.advance_parked(now, done, effort) else {
            return;
        };
        let Some(mut progress) = self.parked.pop_front() else {
            return;
        };
        if !self.make_room(&mut progress, lack, now, effort) {
            let is_of_one_keyspace = matches!(lack, Lack::Quota(..));
            if progress.has_drained && progress.evicted_entries == 0 && !is_of_one_keyspace {
                self.count_pass_without_victims(now);
            }
            progress.ended = Some(match lack {
                Lack::Bytes(_) => (Status::NoSpace, Reason::NoSpace),
                Lack::Entry => (Status::NoSpace, Reason::NoEntry),
                Lack::Quota(..) => (Status::Quota, Reason::KeyspaceQuota),
            });
        }
        self.parked.push_front(progress);
    }

    /// Brings a parked reserve nearer to what it lacks; false when nothing more can be done for it.
    fn make_room(
        &mut self,
        progress: &mut Progress,
        lack: Lack,
        now: Nanos,
        effort: &mut Effort,
    ) -> bool {
        self.recall_grants(now);
        if self.evict_for(progress, lack, now, effort) {
            return true;
        }
        // What the tiers only wait to read is the last that can go.
        let may_displace = progress.load.is_none() && !progress.has_displaced;
        if !may_displace || !self.have_stores_give_way(progress.requested_bytes) {
            return false;
        }
        progress.has_displaced = true;
        progress.has_rescanned = false;
        progress.looked_at = 0;
        progress.evicted_bytes = 0;
        progress.evicted_entries = 0;
        true
    }

    /// The same by eviction alone.
    fn evict_for(
        &mut self,
        progress: &mut Progress,
        lack: Lack,
        now: Nanos,
        effort: &mut Effort,
    ) -> bool {
        if self.wants_scan {
            self.start_scan(now);
            return true;
        }
        if !self.zombies.is_empty() && self.rescan_for(progress, now) {
            return true;
        }
        if self.jobs.zeroing_bytes > 0 {
            // It may be enough; more is evicted only when it was not.
            self.is_waiting_for_zeros = true;
            return true;
        }
        if self.config.policy == EvictionPolicy::Noop {
            return false;
        }
        if !progress.has_drained {
            progress.has_drained = self.drain_recency(now, effort);
            self.stats.eviction_passes += u64::from(progress.has_drained);
            return true;
        }
        let bytes_left =
            (EVICT_FACTOR * progress.requested_bytes).saturating_sub(progress.evicted_bytes);
        let entries_left = (EVICT_FACTOR as u32 * progress.request.items.len() as u32)
            .saturating_sub(progress.evicted_entries);
        let is_exhausted = match lack {
            Lack::Bytes(_) | Lack::Quota(..) => bytes_left == 0,
            Lack::Entry => entries_left == 0,
        };
        if is_exhausted {
            return false;
        }
        let committed = self.entries.count(EntryState::Committed);
        if committed == 0 {
            return false;
        }
        if progress.looked_at > committed.saturating_mul(2) {
            return self.rescan_for(progress, now);
        }
        let want = self.want_of(progress, lack, effort);
        let want = Want {
            bytes: want.bytes.min(bytes_left),
            entries: want.entries.min(entries_left),
            ..want
        };
        let picked = self.pick_victims(want, now, effort);
        progress.evicted_bytes += picked.bytes;
        progress.evicted_entries += picked.entries;
        progress.looked_at += picked.looked_at;
        if picked.entries > 0 {
            self.start_scan(now);
            return true;
        }
        if picked.looked_at >= SEARCH_STEPS {
            return true;
        }
        // All of it was pinned at the last scan, or may not be evicted; what was pinned then may be free now.
        self.rescan_for(progress, now)
    }

    /// What the rest of a reserve lacks: for new keys only, as far as the quotas go, beyond what is free. Not for more keys than
    /// a batch has victims: what comes behind them is looked up when it is their turn, and not for each batch again.
    fn want_of(&self, progress: &Progress, lack: Lack, effort: &mut Effort) -> Want {
        let held = self
            .session_slots
            .get(&progress.session)
            .and_then(|slot| self.sessions[*slot].as_ref())
            .map_or(0, |ledger| ledger.reserved_bytes);
        let session_allowance = self.reserve_quota_bytes().saturating_sub(held);
        let pool_allowance = self
            .pool_reserve_quota_bytes()
            .saturating_sub(self.reserved_bytes);
        let (of, keyspace_allowance) = match lack {
            Lack::Quota(keyspace, _) => (Some(keyspace), self.keyspace_quota_bytes()),
            Lack::Bytes(_) | Lack::Entry => (None, u64::MAX),
        };
        let allowance = match progress.load {
            Some(_) => keyspace_allowance,
            None => session_allowance
                .min(pool_allowance)
                .min(keyspace_allowance),
        };
        let (bytes, entries) = self.new_ones(progress, of, allowance, effort);
        match lack {
            Lack::Entry => Want {
                bytes: 0,
                entries: entries.max(1),
                of,
                has_time: false,
            },
            Lack::Quota(keyspace, next_item) => {
                let used = self.names.used_bytes(keyspace);
                let beyond = (used + bytes).saturating_sub(self.keyspace_quota_bytes());
                Want {
                    bytes: beyond.max(next_item),
                    entries: 0,
                    of,
                    has_time: false,
                }
            }
            // When enough is free but in pieces, one item's worth.
            Lack::Bytes(next_item) => {
                let free = self.units_to_bytes(self.allocator.free_units());
                Want {
                    bytes: bytes.saturating_sub(free).max(next_item),
                    entries: 0,
                    of,
                    has_time: false,
                }
            }
        }
    }

    /// Bytes and number of the next keys of a reserve that are new, as far as the allowance goes and a batch of victims may
    /// serve.
    fn new_ones(
        &self,
        progress: &Progress,
        of: Option<KeyspaceId>,
        allowance: u64,
        effort: &mut Effort,
    ) -> (u64, u32) {
        let (mut bytes, mut entries) = (0, 0);
        let mut hashes = [KeyHash { h0: 0, h1: 0 }; HASHED_AT_ONCE];
        for items in progress.request.items[progress.answers.len()..].chunks(HASHED_AT_ONCE) {
            for (hash, item) in hashes.iter_mut().zip(items) {
                *hash = self.index.hash(&item.key);
                self.index.prefetch_bucket(*hash);
            }
            for (item, hash) in items.iter().zip(hashes) {
                effort.spend(Effort::FIND);
                let is_meant = of.is_none_or(|keyspace| keyspace == item.key.keyspace());
                if !is_meant || self.index.find(&item.key, hash).is_some() {
                    continue;
                }
                let item_bytes = u64::from(item.len_bytes).next_multiple_of(self.align());
                if bytes + item_bytes > allowance {
                    return (bytes, entries);
                }
                bytes += item_bytes;
                entries += 1;
                if entries == BATCH_ENTRIES {
                    return (bytes, entries);
                }
            }
        }
        (bytes, entries)
    }

    /// One scan for this reserve alone; false when it has had it.
    fn rescan_for(&mut self, progress: &mut Progress, now: Nanos) -> bool {
        if progress.has_rescanned {
            return false;
        }
        progress.has_rescanned = true;
        progress.looked_at = 0;
        self.start_scan(now);
        true
    }
}
