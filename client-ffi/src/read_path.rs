//! The read path: find keys, pin them, check and release the pins, over shared words alone.
//!
//! [`crate::session`] calls this on any thread, after it has seen that the process is no forked child and that
//! the session is open. Nothing here makes a system call, takes a lock or waits; memory comes from the lease's
//! own [`Pins`], which are used again and again.
//!
//! ```text
//!   keys --prefetch all--> --locate all--> --verify all (R1, R2)-->                     find.rs
//!        slots, quota --R3 all--> R4 once --R5 all-->                                    pinning.rs
//!        --compare some or all with their sums-->                                        compare.rs
//!   pins --check: seq - q <= 1--> --release: counters; for each key, the last first: check, R7; give slots back; touches-->
//! ```
//!
//! The steps R1 to R7 and why they are safe are in [`hostkv_shm_protocol::lease::pins`].

mod compare;
mod find;
mod pinning;

use crate::chunk_keys::ChunkKey;
use crate::error::{Error, Result};
use crate::events::{Caller, ReadEvents};
use crate::pin_slots::{QuotaScratch, SlotPool};
use find::Ahead;
use hostkv_shm_protocol::control::header::{HeaderView, State, flags};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::counters::{Counter, Counters};
use hostkv_shm_protocol::lease::pins::{PinSlots, pin_fence};
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering, fence};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::HelloReply;
use nix::time::{ClockId, clock_gettime};

/// Age from which a heartbeat makes a reader ask the socket, in nanoseconds.
const OLD_HEARTBEAT_NS: u64 = 300_000_000;
/// Length of a heartbeat tick in nanoseconds.
const TICK_NS: u64 = 100_000_000;

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
    /// It is there and has this slot, and nobody has looked again yet; only inside a call.
    Named(u32),
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
    fn pinned(&self) -> Option<u32> {
        match self.place {
            Place::Pinned(slot) => Some(slot),
            Place::Named(_) | Place::Found | Place::NotFound | Place::Quota => None,
        }
    }

    #[inline]
    fn named(&self) -> Option<u32> {
        match self.place {
            Place::Named(slot) => Some(slot),
            Place::Pinned(_) | Place::Found | Place::NotFound | Place::Quota => None,
        }
    }
}

/// The keys of one lease, and the memory that making and ending it needs.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// One for each key asked, in order.
    pub(crate) items: Vec<Item>,
    /// What stopped the run, if something did.
    pub(crate) shortage: Option<Shortage>,
    /// Who asked, for the events of the lease.
    pub(crate) caller: Caller,
    pinned_count: usize,
    prefix_count: usize,
    quota: QuotaScratch,
    touched: Vec<EntryNumber>,
}

impl Pins {
    /// Empties it and makes room for `count` keys.
    pub(crate) fn reset(&mut self, count: usize) {
        self.items.clear();
        self.items.reserve(count);
        self.shortage = None;
        self.pinned_count = 0;
        self.prefix_count = 0;
    }

    /// Keys pinned.
    pub(crate) fn pinned_count(&self) -> usize {
        self.pinned_count
    }

    /// Leading keys pinned.
    pub(crate) fn prefix_count(&self) -> usize {
        self.prefix_count
    }

    fn pinned(&self) -> impl DoubleEndedIterator<Item = u32> + Clone {
        self.items.iter().filter_map(Item::pinned)
    }

    /// Counts what the last change left pinned.
    fn count(&mut self) {
        self.pinned_count = self.pinned().count();
        self.count_prefix();
    }

    fn count_prefix(&mut self) {
        self.prefix_count = if self.pinned_count == self.items.len() {
            self.pinned_count
        } else {
            let is_pinned = |item: &&Item| item.pinned().is_some();
            self.items.iter().take_while(is_pinned).count()
        };
    }
}

/// Drops repeated touches of an entry within one tick; private to the process.
struct TouchFilter {
    /// Tick (high half) and entry (low half) of the last touch that fell here.
    seen: Box<[AtomicU64; FILTER_WORDS]>,
}

const FILTER_WORDS: usize = 4096;

impl TouchFilter {
    fn new() -> TouchFilter {
        TouchFilter {
            seen: Box::new([const { AtomicU64::new(u64::MAX) }; FILTER_WORDS]),
        }
    }
}

#[inline]
fn is_new_touch(seen: &[AtomicU64; FILTER_WORDS], entry: EntryNumber, tick: u64) -> bool {
    let seen = &seen[entry.index() % FILTER_WORDS];
    let now = tick << 32 | u64::from(entry.0);
    // Relaxed: a race lets one touch more through.
    if seen.load(Ordering::Relaxed) == now {
        return false;
    }
    seen.store(now, Ordering::Relaxed);
    true
}

/// The unit of extents, i.e. the pool's alignment.
#[derive(Clone, Copy)]
struct Unit {
    bytes: u64,
    /// `bytes` is two to this power.
    log2: u32,
}

impl Unit {
    /// An extent's units, rounded up.
    #[inline]
    fn count(self, extent: Extent) -> u32 {
        let rounded_up = u64::from(extent.len_bytes) + self.bytes - 1;
        // At most 32 bits: the length has 32 and the unit is at least 1 byte.
        (rounded_up >> self.log2) as u32
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
    unit: Unit,
    payload_len: u64,
    payload: View,
    /// One acquired object in this many is compared with its sum; 0 = none.
    check_every: u32,
    /// Chooses the objects that are compared.
    turns: compare::Turns,
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
        if !hello.align_bytes.is_power_of_two() {
            return Err(Error::internal(format!(
                "HELLO says align_bytes {}, which is no power of two; report this defect of hostkvd",
                hello.align_bytes
            )));
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
            unit: Unit {
                bytes: hello.align_bytes,
                log2: hello.align_bytes.trailing_zeros(),
            },
            payload_len: hello.capacity_bytes,
            payload,
            check_every: header.check_every(),
            turns: compare::Turns(AtomicU64::new(
                hello.session_id.0.wrapping_mul(compare::TURN_FACTOR),
            )),
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
        self.find_each(keyspace, keys, None, |found| {
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

    /// Whether a key is readable now.
    pub(crate) fn is_readable(&self, key: &Key) -> bool {
        let found = self.index.find(key, self.index.hash(key));
        found.is_some_and(|found| self.index.is_current(&found))
    }

    /// Pins the leading run of present keys, or with `is_all` every present key, and counts the read request.
    /// The keys' lengths have been checked. `ahead` is what has been done for the same keys before.
    pub(crate) fn acquire(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        is_all: bool,
        ahead: Option<Ahead>,
        pins: &mut Pins,
    ) {
        pins.reset(keys.len());
        // All at once, which takes less than pushing one by one.
        pins.items.resize(keys.len(), Item::NOT_FOUND);
        let mut items = pins.items.iter_mut();
        let mut found_count = 0;
        self.find_each(keyspace, keys, ahead, |found| {
            let item = items.next();
            match found {
                Some(found) => {
                    if let Some(item) = item {
                        *item = Item::found(found);
                        found_count += 1;
                    }
                    true
                }
                None => is_all,
            }
        });
        pins.pinned_count = self.pin_found(found_count, is_all, pins);
        pins.count_prefix();
        self.leave_out_changed(is_all, pins);
        let found = pins.pinned_count as u32;
        self.counters
            .add_read_request(found, keys.len() as u32 - found);
    }

    /// Names reserved entries in slots before they are committed, so that each is pinned before it is visible.
    /// The items stand in `pins` as found; those without slot or quota become [`Place::Quota`].
    pub(crate) fn pin_before_commit(&self, pins: &mut Pins) {
        let is_found = |item: &&Item| item.place == Place::Found;
        let found_count = pins.items.iter().filter(is_found).count();
        self.name_found(found_count, pins);
        // R4, with the daemon's publish in the place of R5: no scan that could free the entry comes before it.
        pin_fence();
        for item in &mut pins.items {
            item.place = match item.place {
                Place::Named(slot) => Place::Pinned(slot),
                Place::Found => Place::Quota,
                place => place,
            };
        }
        pins.count();
    }

    /// Acquires the keys at `missing`, which stand in `pins` as not found, as ACQUIRE_ALL does.
    pub(crate) fn acquire_more<'a>(
        &self,
        missing: impl Iterator<Item = (usize, &'a Key)>,
        pins: &mut Pins,
    ) {
        let mut found_count = 0;
        for (at, key) in missing {
            if let Some(found) = self.index.find(key, self.index.hash(key)) {
                pins.items[at] = Item::found(found);
                found_count += 1;
            }
        }
        self.pin_found(found_count, true, pins);
        pins.count();
        self.leave_out_changed(true, pins);
    }

    /// Clears all pins and counts nothing: the lease never came to be.
    pub(crate) fn abandon(&self, pins: &mut Pins) {
        self.unpin(pins.pinned());
        pins.reset(0);
    }

    /// Whether what was read under the pins until now was theirs.
    #[inline]
    pub(crate) fn check(&self, pins: &Pins) -> bool {
        // Acquire: the payload reads before it come before the loads of seq; pairs with the release fence that
        // the daemon executes after it has moved the sequence number of a revoked entry.
        fence(Ordering::Acquire);
        pins.items
            .iter()
            .filter(|item| item.pinned().is_some())
            .all(|item| is_honoured(&self.index, &item.found))
    }

    /// Ends the pins: the counter of keys read, then for each key the verdict of [`ReadPath::check`] and R7, and the
    /// touches.
    ///
    /// The touches tell the daemon what was read, the last key first, so that the tail of a prefix is colder than its
    /// head.
    pub(crate) fn release(&self, pins: &mut Pins) -> bool {
        let mut is_valid = true;
        if pins.pinned_count != 0 {
            // Before the slots are cleared: whoever finds the pins gone also finds the keys counted.
            self.counters
                .add(Counter::L1ReadKeys, pins.pinned_count as u64);
            // Acquire: as in `check`.
            fence(Ordering::Acquire);
            let tick = self.heartbeat_tick();
            let Pins { items, touched, .. } = &mut *pins;
            touched.clear();
            is_valid = self.clear_all(items, tick, touched);
            if !touched.is_empty() {
                let overflows = self.recency.touch_all(touched);
                if overflows != 0 {
                    self.counters
                        .add(Counter::RecencyOverflows, overflows as u64);
                }
            }
        }
        pins.reset(0);
        is_valid
    }

    /// Clears the pins of a lease, the last first; gives the verdict, and the entries whose touch is new in this tick.
    ///
    /// A function of its own, so that its loop has all registers.
    #[inline(never)]
    fn clear_all(&self, items: &[Item], tick: u64, touched: &mut Vec<EntryNumber>) -> bool {
        // Copies, as in `find_each`.
        let (index, slots, seen) = (self.index, self.slots, &*self.filter.seen);
        let mut is_valid = true;
        let mut forgotten = self.pool.forgotten();
        for item in items.iter().rev() {
            let Some(slot) = item.pinned() else {
                continue;
            };
            // Before the slot is cleared: a pin that is gone is honoured no longer.
            is_valid &= is_honoured(&index, &item.found);
            slots.clear(slot as usize);
            forgotten.add(slot);
            if is_new_touch(seen, item.found.entry, tick) {
                touched.push(item.found.entry);
            }
        }
        forgotten.finish();
        is_valid
    }

    /// Offset and length of a pinned key's object in bytes, checked against the mapped payload.
    #[inline]
    pub(crate) fn byte_range(&self, extent: Extent) -> Option<(u64, u64)> {
        extent.byte_range(self.unit.bytes, self.payload_len)
    }

    /// Pin slots of the session.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.count()
    }

    /// The most distinct bytes that the session may pin.
    pub(crate) fn pin_quota_bytes(&self) -> u64 {
        self.pool.quota_units() * self.unit.bytes
    }
}

/// Whether the daemon still honours a pin of what was found; after the fence of [`ReadPath::check`].
#[inline]
fn is_honoured(index: &IndexReader, found: &Found) -> bool {
    index.seq(found.entry).wrapping_sub(found.seq) <= 1
}

#[cfg(test)]
#[path = "read_path/tests.rs"]
mod tests;
