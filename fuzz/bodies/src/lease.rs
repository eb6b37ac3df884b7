//! A lease segment with anything in it, as the daemon reads it: the scan of the pin slots, the touches, the events, the
//! counters, the commit ring.
//!
//! ```text
//! data: which part (1) | word (2, LE) | length (1) | bytes ...   laid over the segment, then the daemon has its turn; again
//! ```
//!
//! A part's words are those of the header, the slots, the recency ring, the bitmap, the event ring or the commit ring; one part
//! is a commit as the library writes it, of a granted entry, a key and a length that the bytes choose. The rings are short,
//! so that a few bytes reach all of them. Beside the hostile session there is an honest one, whose pin must hold whatever
//! the other writes. After each turn the audit adds up, no figure has fallen, and every event makes sense.

use hostkv_daemon::store::{GrantShares, LeaseParts, Nanos, Outcome, SessionEnd, Store};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::id::{EntryNumber, InstanceId, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::Commits;
use hostkv_shm_protocol::lease::counters::Counters;
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::{PinSlots, pin_fence};
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::Figures;
use hostkv_shm_protocol::wire::request::{Grant, Held, HeldItem, Reserve, ReserveItem, Resolve};

use crate::memory::Memory;
use crate::pool::{ALIGN, ENTRIES, Pool, audited, default_config, key, settle};

const TENTH_OF_A_SECOND: Nanos = 100_000_000;
/// Keys that are stored again and again.
const KEYS: u8 = 8;
/// Turns of the daemon at most.
const TURNS: usize = 64;

/// A session's lease segment.
struct Lease {
    id: SessionId,
    geometry: LeaseGeometry,
    memory: Memory,
    pins: PinSlots,
    commits: Option<Commits>,
}

fn open(store: &mut Store, commit_capacity: u32) -> Lease {
    let geometry = LeaseGeometry {
        slot_count: 64,
        recency_capacity: 16,
        bitmap_words: ENTRIES.div_ceil(64),
        event_capacity: 8,
        commit_capacity,
    };
    let memory = Memory::new(geometry.segment_len());
    let view = memory.view();
    let id = store.next_session_id();
    geometry.initialise(&view, InstanceId([7; 16]), id).unwrap();
    let pins = PinSlots::new(view, &geometry).unwrap();
    let commits = Commits::new(view, &geometry).unwrap();
    let parts = LeaseParts {
        pins,
        recency: Recency::new(view, &geometry).unwrap(),
        counters: Counters::new(view).unwrap(),
        events: Events::new(view, &geometry).unwrap(),
        commits,
        mapping: Box::new(()),
    };
    store.open_session(id, parts, true, false, 0);
    Lease {
        id,
        geometry,
        memory,
        pins,
        commits,
    }
}

/// Lets the daemon read what the bytes put into a lease segment.
pub fn run(data: &[u8]) {
    let config = default_config_once();
    let mut pool = Pool::new(&config, |store| {
        store.max_reserved_ratio = 0.5;
        store.grant_shares = GrantShares {
            session: 8,
            pool: 8,
        };
    });
    let reader = pool.reader;
    let mut store = pool.store.take().unwrap();
    store.collect_events();
    let hostile = open(&mut store, 8);
    let honest = open(&mut store, 0);
    let mut now = 100 * TENTH_OF_A_SECOND;
    let keyspace = resolve(&mut store, honest.id);
    let of_hostile = resolve(&mut store, hostile.id);
    let mut op = 0;
    for number in 0..KEYS {
        store_key(&mut store, honest.id, keyspace, number, &mut op, now);
    }
    let pinned = pin(&reader, &honest, keyspace);
    let mut last = store.figures();
    let mut rest = data;
    for turn in 0..TURNS {
        let granted = granted(&mut store, hostile.id, now);
        let Some(left) = scribble(&hostile, granted, of_hostile, rest) else {
            break;
        };
        rest = left;
        now += TENTH_OF_A_SECOND * (1 + 9 * u64::from(turn % 4 == 3));
        store.tick(now);
        store.drain_rings(now);
        store_key(
            &mut store,
            honest.id,
            keyspace,
            turn as u8 % KEYS,
            &mut op,
            now,
        );
        store.slice(now);
        store.fold();
        store.take_offenders();
        check(&mut store, &mut last);
        check_pin(&reader, &pinned);
    }
    settle(&mut store, now);
    check(&mut store, &mut last);
    check_pin(&reader, &pinned);
    let end = if data.len().is_multiple_of(2) {
        SessionEnd::Death
    } else {
        SessionEnd::Bye
    };
    store.close_session(hostile.id, end, now);
    honest.pins.clear(0);
    store.close_session(honest.id, SessionEnd::Death, now);
    store.tick(now + 10 * TENTH_OF_A_SECOND);
    settle(&mut store, now);
    check(&mut store, &mut last);
    let audit = audited(&mut store);
    assert_eq!(
        (
            audit.reserved_count,
            audit.zombie_count,
            audit.revoked_count,
            audit.pin_count
        ),
        (0, 0, 0, 0),
        "something outlives its session: {audit:?}"
    );
}

fn default_config_once() -> std::rc::Rc<hostkv_daemon::config::Config> {
    thread_local! {
        static CONFIG: std::rc::Rc<hostkv_daemon::config::Config> = std::rc::Rc::new(default_config());
    }
    CONFIG.with(std::rc::Rc::clone)
}

/// An extent of one unit that the session gets ahead of need, while there is one.
fn granted(store: &mut Store, session: SessionId, now: Nanos) -> Option<EntryNumber> {
    let wish = Grant {
        len_bytes: ALIGN,
        count: 1,
    };
    let extents = store.grant_extents(session, &wish, now).unwrap();
    extents.first().map(|extent| extent.entry)
}

/// Lays the next piece over the segment; gives what is left, none at the end.
fn scribble<'a>(
    lease: &Lease,
    granted: Option<EntryNumber>,
    keyspace: KeyspaceId,
    data: &'a [u8],
) -> Option<&'a [u8]> {
    let (head, rest) = data.split_at_checked(4)?;
    let geometry = &lease.geometry;
    let (start, end) = match head[0] % 8 {
        0 => (0, geometry.slots_offset()),
        1 => (geometry.slots_offset(), geometry.recency_offset()),
        2 => (geometry.recency_offset(), geometry.bitmap_offset()),
        3 => (geometry.bitmap_offset(), geometry.events_offset()),
        4 => (geometry.events_offset(), geometry.commits_offset()),
        5 => (geometry.commits_offset(), geometry.segment_len()),
        6 => {
            let entry = granted.unwrap_or(EntryNumber(head[1].into()));
            let len_bytes = u32::from(head[3]) * (ALIGN / 128);
            if let Some(commits) = &lease.commits {
                commits.write(commits.tail(), entry, len_bytes, &key(keyspace, head[2]));
            }
            return Some(rest);
        }
        _ => (0, geometry.segment_len()),
    };
    let words = (end - start) / 8;
    let word = u64::from(u16::from_le_bytes([head[1], head[2]])) % words.max(1);
    let len = usize::from(head[3]).min(rest.len());
    lease.memory.fill((start / 8 + word) as usize, &rest[..len]);
    Some(&rest[len..])
}

fn resolve(store: &mut Store, session: SessionId) -> KeyspaceId {
    let wish = Resolve {
        flags: 0,
        tokens_per_key: 0,
        layout_fingerprint: 1,
        model_name: "m".to_owned(),
        cache_salt: String::new(),
    };
    store.resolve(session, &wish).unwrap().keyspace
}

/// Stores a key of two units unless it is there. The honest session may evict for it.
fn store_key(
    store: &mut Store,
    session: SessionId,
    keyspace: KeyspaceId,
    number: u8,
    op: &mut u64,
    now: Nanos,
) {
    *op += 1;
    let reserve = Reserve {
        op_id: OpId(*op),
        request_id: String::new(),
        device: String::new(),
        items: vec![ReserveItem {
            key: key(keyspace, number),
            len_bytes: 2 * ALIGN,
        }],
    };
    let Ok(Outcome::Done(answers)) = store.reserve(session, reserve, now) else {
        return;
    };
    if answers[0].status == Status::Ok {
        let held = Held {
            op_id: OpId(*op),
            items: vec![HeldItem {
                entry: answers[0].entry,
                generation: answers[0].generation,
            }],
        };
        store.commit(session, &held, now).unwrap();
    }
}

/// Pins key 0 as the library does, in slot 0 of the honest session.
fn pin(reader: &IndexReader, honest: &Lease, keyspace: KeyspaceId) -> Found {
    let key = key(keyspace, 0);
    let found = reader.find(&key, reader.hash(&key)).unwrap();
    honest.pins.raise_high_water(1);
    honest.pins.publish(0, found.entry);
    pin_fence();
    assert!(reader.is_current(&found));
    found
}

/// The entry may have been unpublished, and nothing more.
fn check_pin(reader: &IndexReader, pinned: &Found) {
    let moved = reader.seq(pinned.entry).wrapping_sub(pinned.seq);
    assert!(moved <= 1, "an honest pin did not hold: {moved} steps");
}

fn check(store: &mut Store, last: &mut Figures) {
    audited(store);
    let figures = store.figures();
    let totals = |f: &Figures| {
        [
            f.sm_read_requests,
            f.sm_read_succeed_keys,
            f.sm_read_failed_keys,
            f.sm_write_requests,
            f.l1_read_keys,
            f.l1_write_keys,
            f.l1_evicted_keys,
        ]
    };
    let pairs = totals(last).into_iter().zip(totals(&figures));
    for (before, after) in pairs {
        assert!(before <= after, "a total fell: {last:?} then {figures:?}");
    }
    assert!(figures.used_bytes <= figures.capacity_bytes);
    assert!(figures.pinned_bytes <= figures.capacity_bytes);
    *last = figures;
    for note in store.take_events() {
        assert!(
            note.device.len() <= 32 && !note.device.chars().any(char::is_control),
            "{note:?}"
        );
    }
}
