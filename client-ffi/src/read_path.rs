//! The read path: find keys, pin them, check and release the pins, over shared words alone.
//!
//! [`crate::session`] calls this on any thread, after it has seen that the process is no forked child and that
//! the session is open. Nothing here makes a system call, takes a lock or waits; memory comes from the lease's
//! own [`Pins`], which are used again and again.
//!
//! ```text
//!   keys --prefetch all--> --locate all--> --verify all (R1, R2)--> slots, quota --R3 all--> R4 once --R5 all-->
//!        --compare some or all with their sums-->
//!   pins --check: seq - q <= 1--> --release: counters, touches in reverse order, R7, give slots back-->
//! ```
//!
//! The steps R1 to R7 and why they are safe are in [`hostkv_shm_protocol::lease::pins`].

use crate::chunk_keys::ChunkKey;
use crate::error::{Error, Result};
use crate::events::{Caller, ReadEvents};
use crate::pin_slots::{SlotPool, Wanted};
use hostkv_shm_protocol::control::header::{HeaderView, State, flags};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::{Key, KeyHash};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::counters::{Counter, Counters};
use hostkv_shm_protocol::lease::pins::{PinSlots, pin_fence};
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::sum::sum_of;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering, fence};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::HelloReply;
use nix::time::{ClockId, clock_gettime};

/// Keys whose cache misses overlap.
const BLOCK_KEYS: usize = 64;
/// The same for short calls, which would fill a large block in vain.
const SMALL_BLOCK_KEYS: usize = 8;
/// Age from which a heartbeat makes a reader ask the socket, in nanoseconds.
const OLD_HEARTBEAT_NS: u64 = 300_000_000;
/// Length of a heartbeat tick in nanoseconds.
const TICK_NS: u64 = 100_000_000;

/// 2^64 divided by the golden ratio: the multiples of it, modulo 2^64, are spread evenly.
const TURN_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether the daemon of this session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It does.
    Alive,
    /// It has ended, or another instance is in its place.
    Gone,
    /// The kernel keeps no liveness word and the heartbeat is old: the socket must be asked.
    AskSocket,
}

/// What stopped a run of pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// No pin slot was free.
    Slots,
    /// The session's pinned bytes would pass its quota.
    Bytes,
    /// Too much of the whole pool is pinned.
    Gate,
}

/// What became of one key of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is pinned in this slot.
    Pinned(u32),
    /// It is there and not pinned yet; only inside a call.
    Found,
    /// It was not there, or lies behind the end of the run.
    NotFound,
    /// It was there and could not be pinned.
    Quota,
}

/// One key of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    /// Entry, sequence number and extent; nothing of it counts unless the key is found or pinned.
    pub(crate) found: Found,
    /// What became of it.
    pub(crate) place: Place,
}

impl Item {
    /// A key that is not there.
    pub(crate) const NOT_FOUND: Item = Item {
        found: Found {
            entry: EntryNumber(0),
            seq: 0,
            extent: Extent {
                offset_units: 0,
                len_bytes: 0,
            },
        },
        place: Place::NotFound,
    };

    /// A key that is there.
    pub(crate) fn found(found: Found) -> Item {
        Item {
            found,
            place: Place::Found,
        }
    }

    #[inline]
    fn slot(&self) -> Option<u32> {
        match self.place {
            Place::Pinned(slot) => Some(slot),
            Place::Found | Place::NotFound | Place::Quota => None,
        }
    }
}

/// The keys of one lease, and the memory that making it needs.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// One for each key asked, in order.
    pub(crate) items: Vec<Item>,
    /// What stopped the run, if something did.
    pub(crate) shortage: Option<Shortage>,
    /// Who asked, for the events of the lease.
    pub(crate) caller: Caller,
    wanted: Vec<Wanted>,
    scratch: Vec<u64>,
}

impl Pins {
    /// Empties it and makes room for `count` keys.
    pub(crate) fn reset(&mut self, count: usize) {
        self.items.clear();
        self.items.reserve(count);
        self.shortage = None;
    }

    fn slots(&self) -> impl DoubleEndedIterator<Item = u32> + Clone {
        self.items.iter().filter_map(Item::slot)
    }

    /// Keys pinned.
    pub(crate) fn pinned_count(&self) -> usize {
        self.slots().count()
    }

    /// Leading keys pinned.
    pub(crate) fn prefix_count(&self) -> usize {
        self.items.iter().take_while(|i| i.slot().is_some()).count()
    }
}

/// Drops repeated touches of an entry within one tick; private to the process.
struct TouchFilter {
    /// Tick (high half) and entry (low half) of the last touch that fell here.
    seen: Box<[AtomicU64]>,
}

const FILTER_WORDS: usize = 4096;

impl TouchFilter {
    fn new() -> TouchFilter {
        TouchFilter {
            seen: (0..FILTER_WORDS)
                .map(|_| AtomicU64::new(u64::MAX))
                .collect(),
        }
    }

    #[inline]
    fn is_new(&self, entry: EntryNumber, tick: u64) -> bool {
        let seen = &self.seen[entry.index() % FILTER_WORDS];
        let now = tick << 32 | u64::from(entry.0);
        // Relaxed: a race lets one touch more through.
        if seen.load(Ordering::Relaxed) == now {
            return false;
        }
        seen.store(now, Ordering::Relaxed);
        true
    }
}

/// A session's view of the control segment and of its lease segment.
pub(crate) struct ReadPath {
    header: HeaderView,
    index: IndexReader,
    slots: PinSlots,
    recency: Recency,
    counters: Counters,
    pool: SlotPool,
    filter: TouchFilter,
    /// What reads tell of themselves.
    pub(crate) events: ReadEvents,
    instance: [u64; 2],
    daemon_thread_id: u32,
    align_bytes: u64,
    payload_len: u64,
    payload: View,
    /// One acquired object in this many is compared with its sum; 0 = none.
    check_every: u32,
    /// Objects acquired so far, to choose those that are compared.
    turns: AtomicU64,
}

impl ReadPath {
    /// Checks both segments against what HELLO said.
    /// `payload` is read only under pins, and only while the session is held.
    pub(crate) fn new(
        control: View,
        lease: View,
        payload: View,
        hello: &HelloReply,
    ) -> Result<ReadPath> {
        let header = HeaderView::new(control)?;
        let index = IndexReader::new(control)?;
        let geometry = LeaseGeometry::read(&lease)?;
        let differences = [
            (
                "align_bytes",
                u64::from(header.align_bytes()),
                hello.align_bytes,
            ),
            ("payload_len", header.payload_len(), hello.capacity_bytes),
            (
                "slot_count",
                u64::from(geometry.slot_count),
                u64::from(hello.pin_slot_count),
            ),
        ];
        for (field, in_segment, in_hello) in differences {
            if in_segment != in_hello {
                return Err(Error::internal(format!(
                    "the segments say {field} {in_segment} and HELLO says {in_hello}; report this defect of hostkvd"
                )));
            }
        }
        let slots = PinSlots::new(lease, &geometry)?;
        let quota_units = hello.pin_quota_bytes / hello.align_bytes;
        Ok(ReadPath {
            header,
            index,
            slots,
            recency: Recency::new(lease, &geometry)?,
            counters: Counters::new(lease)?,
            pool: SlotPool::new(slots.count(), quota_units),
            filter: TouchFilter::new(),
            events: ReadEvents::new(header, lease, &geometry)?,
            instance: hello.instance_id.words(),
            daemon_thread_id: hello.daemon_thread_id,
            align_bytes: hello.align_bytes,
            payload_len: hello.capacity_bytes,
            payload,
            check_every: header.check_every(),
            turns: AtomicU64::new(hello.session_id.0.wrapping_mul(TURN_FACTOR)),
        })
    }

    /// Whether the daemon lives, as far as shared words tell.
    #[inline]
    pub(crate) fn liveness(&self) -> Liveness {
        // Relaxed, all of them: each word alone is the answer, and nothing is read through it. Bytes under a
        // pin stay valid whatever the answer is.
        let header = &self.header;
        if header.daemon_alive().load(Ordering::Relaxed) != self.daemon_thread_id
            || header.instance_words() != self.instance
            || header.state().load(Ordering::Relaxed) == State::Closed as u32
        {
            return Liveness::Gone;
        }
        if header.flags().load(Ordering::Relaxed) & flags::NO_ROBUST_LIST != 0 {
            return self.liveness_by_heartbeat();
        }
        Liveness::Alive
    }

    #[cold]
    fn liveness_by_heartbeat(&self) -> Liveness {
        // The tick is the clock itself, in units of 100 ms.
        let beat_ns = self.heartbeat_tick().saturating_mul(TICK_NS);
        let now_ns = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(u64::MAX, |now| {
            now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
        });
        if now_ns.saturating_sub(beat_ns) > OLD_HEARTBEAT_NS {
            Liveness::AskSocket
        } else {
            Liveness::Alive
        }
    }

    /// The daemon's heartbeat, to tell a stopped daemon from a busy one.
    pub(crate) fn heartbeat_tick(&self) -> u64 {
        self.header.heartbeat_tick().load(Ordering::Relaxed)
    }

    /// Which keys are readable now, without a pin; gives the number of leading ones. With `present` every key
    /// is looked up, without it the first miss ends the work. The keys' lengths have been checked.
    pub(crate) fn lookup(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        mut present: Option<&mut [u8]>,
    ) -> usize {
        let mut prefix_count = 0;
        let mut index = 0;
        self.find_each(keyspace, keys, |found| {
            // R5 without a pin: the key was there when it was looked at.
            let is_there = found.is_some_and(|found| self.index.is_current(&found));
            if is_there && prefix_count == index {
                prefix_count += 1;
            }
            if let Some(byte) = present
                .as_deref_mut()
                .and_then(|bytes| bytes.get_mut(index))
            {
                *byte = u8::from(is_there);
            }
            index += 1;
            is_there || present.is_some()
        });
        prefix_count
    }

    /// Pins the leading run of present keys, or with `is_all` every present key, and counts the read request.
    /// The keys' lengths have been checked.
    pub(crate) fn acquire(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        is_all: bool,
        pins: &mut Pins,
    ) {
        pins.reset(keys.len());
        self.find_each(keyspace, keys, |found| {
            pins.items.push(found.map_or(Item::NOT_FOUND, Item::found));
            found.is_some() || is_all
        });
        pins.items.resize(keys.len(), Item::NOT_FOUND);
        self.pin_found(is_all, pins);
        self.leave_out_changed(is_all, pins);
        let found = pins.pinned_count() as u32;
        self.counters
            .add_read_request(found, keys.len() as u32 - found);
    }

    /// Three passes over each block of keys; `visit` gets them in order and says whether to go on.
    #[inline]
    fn find_each(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        visit: impl FnMut(Option<Found>) -> bool,
    ) {
        if keys.len() == 1 {
            self.find_blocks::<1>(keyspace, keys, visit);
        } else if keys.len() <= SMALL_BLOCK_KEYS {
            self.find_blocks::<SMALL_BLOCK_KEYS>(keyspace, keys, visit);
        } else {
            self.find_blocks::<BLOCK_KEYS>(keyspace, keys, visit);
        }
    }

    #[inline]
    fn find_blocks<const BLOCK: usize>(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        mut visit: impl FnMut(Option<Found>) -> bool,
    ) {
        for block in keys.chunks(BLOCK) {
            // Arrays that are filled in place: built by value they would be moved about.
            let Some(first) = block.first().and_then(|key| key.canonical(keyspace)) else {
                return;
            };
            let mut whole = [first; BLOCK];
            let mut hashes = [KeyHash { h0: 0, h1: 0 }; BLOCK];
            let mut candidates: [Option<EntryNumber>; BLOCK] = [None; BLOCK];
            for (key, (whole, hash)) in block.iter().zip(whole.iter_mut().zip(&mut hashes)) {
                let Some(key) = key.canonical(keyspace) else {
                    return;
                };
                *whole = key;
                *hash = self.index.hash(whole);
                self.index.prefetch(*hash);
            }
            for (hash, candidate) in hashes.iter().zip(&mut candidates).take(block.len()) {
                *candidate = self.index.locate(*hash);
            }
            for ((key, hash), candidate) in
                whole.iter().zip(&hashes).zip(&candidates).take(block.len())
            {
                let found =
                    candidate.and_then(|candidate| self.index.verify(key, *hash, candidate));
                if !visit(found) {
                    return;
                }
            }
        }
    }

    /// Pins every found key (R3 to R5). A key that is gone by then was not found; without `is_all` it ends the
    /// run, and the pins behind it are cleared again.
    fn pin_found(&self, is_all: bool, pins: &mut Pins) {
        self.name_found(pins);
        end_run_at_shortage(pins);
        if pins.wanted.is_empty() {
            return;
        }
        // R4: once for the batch.
        pin_fence();
        let Pins {
            items,
            shortage,
            wanted,
            ..
        } = pins;
        // Items and wanted pins are in the same order; pins that stood there before are not looked at again.
        let mut named = wanted.iter().peekable();
        for at in 0..items.len() {
            let item = &mut items[at];
            let Some(want) = named.next_if(|want| item.place == Place::Pinned(want.slot)) else {
                continue;
            };
            if self.index.is_current(&item.found) {
                continue;
            }
            if is_all {
                *item = Item::NOT_FOUND;
                self.unpin([want.slot].into_iter());
                continue;
            }
            self.unpin(items[at..].iter().filter_map(Item::slot));
            items[at..].fill(Item::NOT_FOUND);
            *shortage = None;
            return;
        }
    }

    /// Compares pinned objects with their sums, all or a sample, as the daemon wants it. One that has changed was not
    /// found, the daemon is told, and without `is_all` it ends the run.
    #[inline]
    fn leave_out_changed(&self, is_all: bool, pins: &mut Pins) {
        if self.check_every != 0 {
            self.compare(is_all, pins);
        }
    }

    fn compare(&self, is_all: bool, pins: &mut Pins) {
        let pinned_count = pins.pinned_count() as u64;
        // Relaxed: two threads may share turns; only the share counts.
        let mut turn = self.turns.fetch_add(pinned_count, Ordering::Relaxed);
        let share = u64::MAX / u64::from(self.check_every);
        for at in 0..pins.items.len() {
            let item = pins.items[at];
            let Some(slot) = item.slot() else {
                continue;
            };
            // Successive products are spread evenly, whatever the number of keys of a call is.
            let is_due = turn.wrapping_mul(TURN_FACTOR) <= share;
            turn = turn.wrapping_add(1);
            if !is_due || !self.has_changed(&item.found) {
                continue;
            }
            self.events.report_changed(&item.found);
            if is_all {
                pins.items[at] = Item::NOT_FOUND;
                self.unpin([slot].into_iter());
                continue;
            }
            self.unpin(pins.items[at..].iter().filter_map(Item::slot));
            pins.items[at..].fill(Item::NOT_FOUND);
            pins.shortage = None;
            return;
        }
    }

    /// Whether a pinned object is not what its sum says; without a sum it is believed.
    fn has_changed(&self, found: &Found) -> bool {
        let Some(expected) = self.index.sum(found.entry) else {
            return false;
        };
        let Some((offset, len)) = self.byte_range(found.extent) else {
            return false;
        };
        sum_of(&self.payload, offset, len).is_ok_and(|sum| sum != expected)
    }

    /// Takes slots for the found keys, as far as slots and quota allow, and names their entries there (up to and
    /// with R3). Found keys that got none stay [`Place::Found`]; [`Pins::shortage`] then says why.
    fn name_found(&self, pins: &mut Pins) {
        let Pins {
            items,
            shortage,
            wanted,
            scratch,
            ..
        } = pins;
        wanted.clear();
        let mut found = items.iter_mut().filter(|item| item.place == Place::Found);
        let found_count = found.by_ref().count();
        if found_count == 0 {
            return;
        }
        // Relaxed: the gate asks for moderation and guards no data.
        if self.header.pin_gate().load(Ordering::Relaxed) != 0 {
            *shortage = Some(Shortage::Gate);
            return;
        }
        let mut found = items.iter_mut().filter(|item| item.place == Place::Found);
        let taken = self.pool.take(found_count, |slot| {
            if let Some(item) = found.next() {
                item.place = Place::Pinned(slot);
                wanted.push(Wanted {
                    slot,
                    entry: item.found.entry,
                    units: self.units(item.found.extent),
                });
            }
        });
        if taken < found_count {
            *shortage = Some(Shortage::Slots);
        }
        let admitted = self.pool.admit(wanted, scratch);
        if admitted < taken {
            *shortage = Some(Shortage::Bytes);
            self.pool
                .forget(wanted[admitted..].iter().map(|want| want.slot));
            // Items and wanted pins are in the same order.
            let mut refused = wanted[admitted..].iter().peekable();
            for item in items.iter_mut() {
                if refused
                    .next_if(|want| item.place == Place::Pinned(want.slot))
                    .is_some()
                {
                    item.place = Place::Found;
                }
            }
            wanted.truncate(admitted);
        }
        if let Some(highest) = wanted.last() {
            self.slots.raise_high_water(highest.slot + 1);
        }
        for want in wanted.iter() {
            self.slots.publish(want.slot as usize, want.entry);
        }
    }

    /// Clears slots that this lease owns (R7) and gives them back.
    #[inline]
    fn unpin(&self, slots: impl Iterator<Item = u32> + Clone) {
        for slot in slots.clone() {
            self.slots.clear(slot as usize);
        }
        self.pool.forget(slots);
    }

    #[inline]
    fn units(&self, extent: Extent) -> u32 {
        // At most 32 bits: the length has 32 and the alignment is at least 1.
        u64::from(extent.len_bytes).div_ceil(self.align_bytes) as u32
    }

    /// Names reserved entries in slots before they are committed, so that each is pinned before it is visible.
    /// The items stand in `pins` as found; those without slot or quota become [`Place::Quota`].
    pub(crate) fn pin_before_commit(&self, pins: &mut Pins) {
        self.name_found(pins);
        for item in &mut pins.items {
            if item.place == Place::Found {
                item.place = Place::Quota;
            }
        }
        // R4, with the daemon's publish in the place of R5: no scan that could free the entry comes before it.
        pin_fence();
    }

    /// Acquires the keys at `missing`, which stand in `pins` as not found, as ACQUIRE_ALL does.
    pub(crate) fn acquire_more<'a>(
        &self,
        missing: impl Iterator<Item = (usize, &'a Key)>,
        pins: &mut Pins,
    ) {
        for (at, key) in missing {
            if let Some(found) = self.index.find(key, self.index.hash(key)) {
                pins.items[at] = Item::found(found);
            }
        }
        self.pin_found(true, pins);
        self.leave_out_changed(true, pins);
    }

    /// Clears all pins and counts nothing: the lease never came to be.
    pub(crate) fn abandon(&self, pins: &mut Pins) {
        self.unpin(pins.slots());
        pins.items.clear();
    }

    /// Whether what was read under the pins until now was theirs.
    #[inline]
    pub(crate) fn check(&self, pins: &Pins) -> bool {
        // Acquire: the payload reads before it come before the loads of seq; pairs with the release fence that
        // the daemon executes after it has moved the sequence number of a revoked entry.
        fence(Ordering::Acquire);
        pins.items
            .iter()
            .filter(|item| item.slot().is_some())
            .all(|item| {
                self.index
                    .seq(item.found.entry)
                    .wrapping_sub(item.found.seq)
                    <= 1
            })
    }

    /// Ends the pins: the verdict of [`ReadPath::check`], the counter of keys read, the touches, then R7.
    pub(crate) fn release(&self, pins: &mut Pins) -> bool {
        let is_valid = self.check(pins);
        let pinned_count = pins.pinned_count();
        if pinned_count != 0 {
            // Before the slots are cleared: whoever finds the pins gone also finds the keys counted.
            self.counters.add(Counter::L1ReadKeys, pinned_count as u64);
            self.touch(pins);
            self.unpin(pins.slots());
        }
        pins.items.clear();
        is_valid
    }

    /// Tells the daemon what was read, the last key first, so that the tail of a prefix is colder than its head.
    fn touch(&self, pins: &Pins) {
        let tick = self.heartbeat_tick();
        let mut overflows = 0;
        for item in pins.items.iter().rev().filter(|i| i.slot().is_some()) {
            let entry = item.found.entry;
            if self.filter.is_new(entry, tick) && !self.recency.touch(entry) {
                overflows += 1;
            }
        }
        if overflows != 0 {
            self.counters.add(Counter::RecencyOverflows, overflows);
        }
    }

    /// Offset and length of a pinned key's object in bytes, checked against the mapped payload.
    #[inline]
    pub(crate) fn byte_range(&self, extent: Extent) -> Option<(u64, u64)> {
        extent.byte_range(self.align_bytes, self.payload_len)
    }

    /// Pin slots of the session.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.count()
    }

    /// The most distinct bytes that the session may pin.
    pub(crate) fn pin_quota_bytes(&self) -> u64 {
        self.pool.quota_units() * self.align_bytes
    }
}

/// The first found key without a pin says QUOTA, those behind it are not found.
fn end_run_at_shortage(pins: &mut Pins) {
    if pins.shortage.is_none() {
        return;
    }
    let mut unpinned = pins
        .items
        .iter_mut()
        .filter(|item| item.place == Place::Found);
    if let Some(first) = unpinned.next() {
        first.place = Place::Quota;
    }
    unpinned.for_each(|item| *item = Item::NOT_FOUND);
}

#[cfg(test)]
#[path = "read_path/tests.rs"]
mod tests;
