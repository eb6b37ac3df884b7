//! Events: what a session did, for telemetry and for log lines, told to the daemon without a call.
//!
//! ```text
//! client: claim a place (CAS on the head) --> write the record --> seq = position + 1 (Release)
//! daemon: seq == position + 1 (Acquire)? --> copy, check --> tail = position + 1 (Release)
//! ```
//!
//! Several threads push; the daemon takes records in order and stops at the first that is claimed but not finished, so
//! a thread that was killed in the middle of a push loses only its own record and those behind it. A START is claimed
//! only while a place for every END that is owed stays free ([`Events::claim`] with the number of those places), so an
//! END always finds room.

use super::{LeaseGeometry, header::LeaseHeader};
use crate::id::{EntryNumber, KeyspaceId, OpId};
use crate::sync::{AtomicU64, Ordering};
use crate::text::is_plain;
use crate::view::{OutOfBounds, View, Words};
use crate::wire::{MAX_DEVICE_BYTES, MAX_REQUEST_ID_BYTES};
use core::mem::offset_of;

/// Records of the event ring.
pub const EVENT_RECORDS: u32 = 1024;

crate::layout! {
    /// One record of the event ring.
    ///
    /// `value0` and `value1`: of a lookup, keys pinned (in a record that only wants a line, the leading ones) and keys
    /// asked; of a retrieve, keys read and keys asked; of a store, keys committed and keys asked.
    pub struct EventRecord [256] {
        /// Position + 1 when the record is whole.
        0: seq: u64,
        /// CLOCK_MONOTONIC of the event, in nanoseconds.
        8: mono_ns: u64,
        /// Pairs START and END.
        16: op_id: u64,
        /// [`EventOp`].
        24: op: u8,
        /// [`EventPhase`].
        25: phase: u8,
        /// Length of `id` in bytes.
        26: id_len: u8,
        /// Length of `device` in bytes.
        27: device_len: u8,
        /// See above.
        28: value0: u32,
        /// See above.
        32: value1: u32,
        /// Keyspace of the keys.
        36: keyspace: u32,
        /// CLOCK_MONOTONIC of the acquire that a retrieve belongs to, or of the reserve of a store, in nanoseconds.
        40: start_ns: u64,
        /// The caller's request id.
        48: id: [u8; 128],
        /// The caller's device name.
        176: device: [u8; 32],
        /// Zero.
        208: reserved_208: [u8; 48],
    }
}

const _: () = assert!(MAX_REQUEST_ID_BYTES == 128 && MAX_DEVICE_BYTES == 32);

const WORDS: usize = size_of::<EventRecord>() / 8;
const ID_WORD: usize = offset_of!(EventRecord, id) / 8;
const DEVICE_WORD: usize = offset_of!(EventRecord, device) / 8;

/// The operation of a record that reports a changed object: `op_id` is its sequence number, `value0` its entry, and
/// nothing else counts.
const CHANGED_OP: u8 = 4;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventOp {
    /// A read request.
    Lookup = 1,
    /// The reading of what a lease holds.
    Retrieve = 2,
    /// A store into granted extents, from its reserve to its commit or abort.
    Store = 3,
}

/// Which end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventPhase {
    /// It begins.
    Start = 0,
    /// It is over.
    End = 1,
    /// Only a log line is wanted.
    Line = 2,
}

/// An event as a client has it at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// What was done.
    pub op: EventOp,
    /// Which end of it.
    pub phase: EventPhase,
    /// CLOCK_MONOTONIC now, in nanoseconds.
    pub mono_ns: u64,
    /// CLOCK_MONOTONIC of the acquire, in nanoseconds.
    pub start_ns: u64,
    /// Pairs START and END.
    pub op_id: OpId,
    /// Keyspace of the keys.
    pub keyspace: KeyspaceId,
    /// Keys pinned or read.
    pub value0: u32,
    /// Keys asked.
    pub value1: u32,
    /// The caller's request id, at most 128 bytes; empty = none.
    pub request_id: &'a str,
    /// The caller's device name, at most 32 bytes; may be empty.
    pub device: &'a str,
}

/// What the daemon finds at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Nothing, or a record that is not finished.
    Nothing,
    /// A reader found an object whose bytes are not what its sum says; nothing of it is to be believed.
    Changed {
        /// Its entry.
        entry: EntryNumber,
        /// Its sequence number.
        seq: u64,
    },
    /// A whole record that is no event: its client wrote nonsense.
    Garbage,
    /// An event.
    Event(TakenEvent),
}

/// An event that the daemon has copied out and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenEvent {
    /// What was done.
    pub op: EventOp,
    /// Which end of it.
    pub phase: EventPhase,
    /// CLOCK_MONOTONIC of the event, in nanoseconds.
    pub mono_ns: u64,
    /// CLOCK_MONOTONIC of the acquire, in nanoseconds.
    pub start_ns: u64,
    /// Pairs START and END.
    pub op_id: OpId,
    /// Keyspace of the keys.
    pub keyspace: KeyspaceId,
    /// Keys pinned or read.
    pub value0: u32,
    /// Keys asked.
    pub value1: u32,
    /// The caller's request id; empty = none.
    pub request_id: String,
    /// The caller's device name.
    pub device: String,
}

/// The event ring of one session, as either side sees it.
#[derive(Clone, Copy)]
pub struct Events {
    view: View,
    records: Words,
}

impl Events {
    /// The ring of a lease segment.
    pub fn new(view: View, geometry: &LeaseGeometry) -> Result<Events, OutOfBounds> {
        for offset in [
            offset_of!(LeaseHeader, event_head),
            offset_of!(LeaseHeader, event_dropped),
            offset_of!(LeaseHeader, event_tail),
        ] {
            view.u64(offset as u64)?;
        }
        Ok(Events {
            view,
            records: view.words(
                geometry.events_offset(),
                u64::from(geometry.event_capacity) * WORDS as u64,
            )?,
        })
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.view
            .u64(offset as u64)
            .expect("Events::new checked that the word is mapped")
    }

    fn capacity(&self) -> u64 {
        (self.records.count() / WORDS) as u64
    }

    fn record(&self, position: u64) -> usize {
        (position % self.capacity()) as usize * WORDS
    }

    /// Client: claims a place if more than `keep_free` are free.
    #[inline]
    pub fn claim(&self, keep_free: u64) -> Option<u64> {
        self.claim_with(|| keep_free)
    }

    /// Client: claims a place if more than `keep_free()` are free. It is asked again whenever another claim came in
    /// between, so what a thread adds to it before its own claim is seen by every later one.
    #[inline]
    pub fn claim_with(&self, keep_free: impl Fn() -> u64) -> Option<u64> {
        let head_word = self.word(offset_of!(LeaseHeader, event_head));
        // Acquire, here and where the exchange fails: pairs with the exchange of the claim before, so that
        // `keep_free` sees what its thread did first.
        let mut head = head_word.load(Ordering::Acquire);
        loop {
            let tail = self
                .word(offset_of!(LeaseHeader, event_tail))
                // Acquire: pairs with `release`; the record there has been copied out.
                .load(Ordering::Acquire);
            let free = self.capacity().saturating_sub(head.wrapping_sub(tail));
            if free <= keep_free() {
                return None;
            }
            // Release: pairs with the loads above. It also keeps two threads off one place.
            match head_word.compare_exchange_weak(
                head,
                head + 1,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(head),
                Err(current) => head = current,
            }
        }
    }

    /// Client: fills a claimed place and hands it over. Texts beyond their limits are cut at a character.
    pub fn write(&self, position: u64, event: &Event<'_>) {
        let first = self.record(position);
        // Relaxed: the record is handed over by the store of its sequence word.
        let set = |word: usize, value: u64| {
            self.records
                .at(first + word)
                .store(value, Ordering::Relaxed);
        };
        let id = cut(event.request_id, MAX_REQUEST_ID_BYTES);
        let device = cut(event.device, MAX_DEVICE_BYTES);
        set(1, event.mono_ns);
        set(2, event.op_id.0);
        set(
            3,
            event.op as u64
                | (event.phase as u64) << 8
                | (id.len() as u64) << 16
                | (device.len() as u64) << 24
                | u64::from(event.value0) << 32,
        );
        set(
            4,
            u64::from(event.value1) | u64::from(event.keyspace.0) << 32,
        );
        set(5, event.start_ns);
        for (at, text) in [(ID_WORD, id), (DEVICE_WORD, device)] {
            for (i, chunk) in text.chunks(8).enumerate() {
                let mut bytes = [0; 8];
                bytes[..chunk.len()].copy_from_slice(chunk);
                set(at + i, u64::from_le_bytes(bytes));
            }
        }
        self.records
            .at(first)
            // Release: pairs with `take`'s Acquire; the fields come with it.
            .store(position + 1, Ordering::Release);
    }

    /// Client: fills a claimed place with the report of a changed object and hands it over.
    pub fn write_changed(&self, position: u64, entry: EntryNumber, seq: u64) {
        let first = self.record(position);
        let op_word = u64::from(CHANGED_OP) | u64::from(entry.0) << 32;
        for (word, value) in [(2, seq), (3, op_word)] {
            // Relaxed: the record is handed over by the store of its sequence word.
            self.records
                .at(first + word)
                .store(value, Ordering::Relaxed);
        }
        self.records
            .at(first)
            // Release: as in `write`.
            .store(position + 1, Ordering::Release);
    }

    /// Client: counts events that found no place.
    pub fn add_dropped(&self, count: u64) {
        self.word(offset_of!(LeaseHeader, event_dropped))
            .fetch_add(count, Ordering::Relaxed);
    }

    /// Daemon: events that found no place so far.
    pub fn dropped(&self) -> u64 {
        self.word(offset_of!(LeaseHeader, event_dropped))
            .load(Ordering::Relaxed)
    }

    /// Daemon: whether places from `position` on have been claimed; their records may not be finished yet.
    #[inline]
    pub fn has_claims(&self, position: u64) -> bool {
        // Relaxed: a hint; a claim that is not seen now is seen at the next look.
        self.word(offset_of!(LeaseHeader, event_head))
            .load(Ordering::Relaxed)
            != position
    }

    /// Daemon: copies the record at its private `position` out and checks it.
    pub fn take(&self, position: u64) -> Taken {
        if self.capacity() == 0 {
            return Taken::Nothing;
        }
        let first = self.record(position);
        // Acquire: pairs with `write`'s Release.
        if self.records.at(first).load(Ordering::Acquire) != position + 1 {
            return Taken::Nothing;
        }
        // One relaxed load of each word into a local; only the local is looked at.
        let words: [u64; WORDS] =
            core::array::from_fn(|i| self.records.at(first + i).load(Ordering::Relaxed));
        if words[3] as u8 == CHANGED_OP {
            return Taken::Changed {
                entry: EntryNumber((words[3] >> 32) as u32),
                seq: words[2],
            };
        }
        decode(&words).map_or(Taken::Garbage, Taken::Event)
    }

    /// Daemon: gives the places before `position` back.
    pub fn release(&self, position: u64) {
        self.word(offset_of!(LeaseHeader, event_tail))
            // Release: pairs with `claim`'s Acquire; the records before it have been copied out.
            .store(position, Ordering::Release);
    }
}

fn cut(text: &str, most: usize) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(most)]
}

fn decode(words: &[u64; WORDS]) -> Option<TakenEvent> {
    let op = match words[3] as u8 {
        1 => EventOp::Lookup,
        2 => EventOp::Retrieve,
        3 => EventOp::Store,
        _ => return None,
    };
    let phase = match (words[3] >> 8) as u8 {
        0 => EventPhase::Start,
        1 => EventPhase::End,
        2 => EventPhase::Line,
        _ => return None,
    };
    Some(TakenEvent {
        op,
        phase,
        mono_ns: words[1],
        start_ns: words[5],
        op_id: OpId(words[2]),
        keyspace: KeyspaceId((words[4] >> 32) as u32),
        value0: (words[3] >> 32) as u32,
        value1: words[4] as u32,
        request_id: text(&words[ID_WORD..DEVICE_WORD], (words[3] >> 16) as u8)?,
        device: text(
            &words[DEVICE_WORD..DEVICE_WORD + MAX_DEVICE_BYTES / 8],
            (words[3] >> 24) as u8,
        )?,
    })
}

/// A text of `len` bytes in these words, without control characters.
fn text(words: &[u64], len: u8) -> Option<String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = core::str::from_utf8(bytes.get(..usize::from(len))?).ok()?;
    is_plain(text).then(|| text.to_owned())
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::id::{InstanceId, SessionId};

    fn ring() -> (Vec<u64>, Events) {
        let geometry = LeaseGeometry::new(256, 1000);
        let mut words = vec![0_u64; geometry.segment_len() as usize / 8];
        // SAFETY: the vector is returned beside the ring and outlives it in every test; nobody else uses it.
        let view = unsafe { View::new(words.as_mut_ptr().cast(), geometry.segment_len()) };
        geometry
            .initialise(&view, InstanceId([1; 16]), SessionId(1))
            .unwrap();
        assert_eq!(LeaseGeometry::read(&view), Ok(geometry));
        let events = Events::new(view, &geometry).unwrap();
        (words, events)
    }

    fn event<'a>(n: u64, request_id: &'a str, device: &'a str) -> Event<'a> {
        Event {
            op: EventOp::Retrieve,
            phase: EventPhase::End,
            mono_ns: n + 1,
            start_ns: n + 2,
            op_id: OpId(n),
            keyspace: KeyspaceId(n as u32 + 3),
            value0: n as u32 + 4,
            value1: u32::MAX,
            request_id,
            device,
        }
    }

    #[test]
    fn an_event_comes_out_as_it_went_in_lap_after_lap() {
        let (_words, events) = ring();
        let id = "r\u{e9}q-".repeat(21);
        for n in 0..3000 {
            let position = events.claim(0).unwrap();
            events.write(position, &event(n, &id, "cuda:0"));
            let Taken::Event(taken) = events.take(n) else {
                panic!("event {n} is not there");
            };
            assert_eq!((taken.mono_ns, taken.start_ns), (n + 1, n + 2));
            assert_eq!(
                (taken.op_id, taken.value0, taken.value1),
                (OpId(n), n as u32 + 4, u32::MAX)
            );
            assert_eq!(taken.keyspace, KeyspaceId(n as u32 + 3));
            assert_eq!(
                (taken.op, taken.phase),
                (EventOp::Retrieve, EventPhase::End)
            );
            assert_eq!(
                (taken.request_id.as_str(), taken.device.as_str()),
                (id.as_str(), "cuda:0")
            );
            assert_eq!(events.take(n + 1), Taken::Nothing);
            events.release(n + 1);
        }
    }

    #[test]
    fn a_report_of_a_changed_object_comes_out_as_it_went_in() {
        let (_words, events) = ring();
        let position = events.claim(0).unwrap();
        events.write_changed(position, EntryNumber(u32::MAX), u64::MAX);
        assert_eq!(
            events.take(0),
            Taken::Changed {
                entry: EntryNumber(u32::MAX),
                seq: u64::MAX
            }
        );
    }

    #[test]
    fn places_that_are_kept_free_are_not_claimed() {
        let (_words, events) = ring();
        for _ in 0..EVENT_RECORDS - 2 {
            assert!(events.claim(2).is_some());
        }
        assert_eq!(events.claim(2), None);
        assert!(events.claim(0).is_some() && events.claim(0).is_some());
        assert_eq!(events.claim(0), None);
        events.release(1);
        assert!(events.claim(0).is_some());
    }

    #[test]
    fn what_is_kept_free_counts_the_claims_that_came_in_between() {
        let (_words, events) = ring();
        let owed = core::cell::Cell::new(1);
        for _ in 0..EVENT_RECORDS - 3 {
            events.claim(0).unwrap();
        }
        // Three places are free. While this claim, which owes one, looks, another that owes one as well takes one.
        let claimed = events.claim_with(|| {
            let keep_free = owed.get();
            if keep_free == 1 {
                owed.set(2);
                events.claim(2).unwrap();
            }
            keep_free
        });
        assert_eq!(claimed, None, "only two places were left for the two owed");
        assert!(events.claim(0).is_some() && events.claim(0).is_some());
    }

    #[test]
    fn an_unfinished_record_holds_those_behind_it_back_and_nonsense_is_told_apart() {
        let (mut words, events) = ring();
        let first = events.claim(0).unwrap();
        let second = events.claim(0).unwrap();
        events.write(second, &event(1, "", ""));
        assert_eq!(events.take(0), Taken::Nothing);
        events.write(first, &event(0, "", ""));
        for n in 0..2 {
            assert!(matches!(events.take(n), Taken::Event(taken) if taken.op_id == OpId(n)));
        }
        let at = LeaseGeometry::new(256, 1000).events_offset() as usize / 8;
        for (word, value) in [
            (3, 9),
            (3, 1 | 7 << 8),
            (3, 1 | 200 << 16),
            (3, 1 | 40 << 24),
        ] {
            words[at + word] = value;
            assert_eq!(events.take(0), Taken::Garbage, "{value:#x}");
        }
    }

    #[test]
    fn texts_beyond_their_limits_are_cut_at_a_character() {
        let (_words, events) = ring();
        let position = events.claim(0).unwrap();
        events.write(position, &event(0, &"\u{20ac}".repeat(50), &"d".repeat(40)));
        let Taken::Event(taken) = events.take(0) else {
            panic!("the event is not there");
        };
        assert_eq!(taken.request_id, "\u{20ac}".repeat(42));
        assert_eq!(taken.device.len(), 32);
    }
}
