//! Steps R1 to R7 against D1 to D6: a pinned extent is never overwritten.

use crate::harness::{Bound, Model, Mutant, broken, code, no_fence, reached, run, steps, weaken};
use crate::segments::{Control, Fields, Lease, NO_HASH, Payload, extent, key};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::control::writer::{IndexWriter, scan_fence};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::pins::pin_fence;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::sync::model::{Change, Operation};
use loom::thread;
use std::sync::Arc;

const PINS: &str = "lease/pins.rs";
const READER: &str = "control/reader.rs";
const WRITER: &str = "control/writer.rs";

/// Steps R1 to R5 for the key whose number is given, in a slot that the caller owns.
pub fn pin(
    reader: &IndexReader,
    lease: &Lease,
    entry: EntryNumber,
    key_number: u64,
    slot: usize,
) -> Option<Found> {
    let found = reader.verify(&key(key_number), NO_HASH, entry)?;
    pin_found(reader, lease, &found, slot).then_some(found)
}

/// Steps R3 to R5.
pub fn pin_found(reader: &IndexReader, lease: &Lease, found: &Found, slot: usize) -> bool {
    if !broken("raise after R4") {
        lease.pins.raise_high_water(slot as u32 + 1);
    }
    lease.pins.publish(slot, found.entry);
    pin_fence();
    if !broken("no look after R4") && !reader.is_current(found) {
        lease.pins.clear(slot);
        return false;
    }
    if broken("raise after R4") {
        lease.pins.raise_high_water(slot as u32 + 1);
    }
    reached("pinned");
    true
}

/// Step D1 for one entry, D2.
pub fn unpublish(writer: &mut IndexWriter, entries: &[EntryNumber]) {
    for entry in entries {
        writer.unpublish(*entry);
    }
    scan_fence();
}

/// Object of key k: 70 + k.
const FIRST: u64 = 70;
const ENTRY: EntryNumber = EntryNumber(0);

/// One entry whose key alternates between 0 in extent 0 and 1 in extent 1. A freed extent is overwritten at once.
fn reuse(wanted: &'static [&'static [u64]], reuses: usize) {
    let control = Arc::new(Control::new(1, Fields::Change));
    let lease = Arc::new(Lease::new(wanted.len() as u32));
    let payload = Arc::new(Payload::new(&[FIRST, 0]));
    let readers: Vec<_> = wanted
        .iter()
        .enumerate()
        .map(|(slot, wanted)| {
            let (control, lease, payload) = (control.clone(), lease.clone(), payload.clone());
            thread::spawn(move || {
                let reader = control.reader();
                for number in *wanted {
                    if let Some(found) = pin(&reader, &lease, ENTRY, *number, slot) {
                        assert_eq!(
                            u64::from(found.extent.offset_units),
                            *number,
                            "a torn entry was accepted"
                        );
                        assert_eq!(
                            payload.read(found.extent.offset_units),
                            FIRST + *number,
                            "another object's bytes"
                        );
                        lease.pins.clear(slot);
                    }
                }
            })
        })
        .collect();
    let mut writer = control.writer();
    let mut number = 0;
    for _ in 0..reuses {
        unpublish(&mut writer, &[ENTRY]);
        let mut is_pinned = lease.names(ENTRY);
        if is_pinned {
            reached("parked");
            // A zombie's second look needs no new fence.
            is_pinned = lease.names(ENTRY);
        }
        if is_pinned {
            break;
        }
        reached("freed");
        payload.write(number as u32, 999);
        number = 1 - number;
        payload.write(number as u32, FIRST + number);
        writer.write_fields(ENTRY, &key(number), extent(number as u32));
        writer.publish(ENTRY);
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

fn fence_mutants() -> Vec<Mutant> {
    vec![
        code("no reader fence R4", &[no_fence(PINS, "pin_fence")]),
        code(
            "AcqRel reader fence R4",
            &[weaken(
                PINS,
                "pin_fence",
                Operation::Fence,
                Ordering::AcqRel,
            )],
        ),
        code("no daemon fence D2", &[no_fence(WRITER, "scan_fence")]),
        code(
            "AcqRel daemon fence D2",
            &[weaken(
                WRITER,
                "scan_fence",
                Operation::Fence,
                Ordering::AcqRel,
            )],
        ),
        steps("no look after R4"),
        code(
            "Relaxed clear R7",
            &[weaken(PINS, "clear", Operation::Store, Ordering::Relaxed)],
        ),
        code(
            "Relaxed scan D3",
            &[weaken(PINS, "scan", Operation::Load, Ordering::Relaxed)],
        ),
    ]
}

#[test]
fn one_reader_two_pins_entry_reuse() {
    let mut mutants = fence_mutants();
    mutants.push(code("no R1 fence", &[no_fence(READER, "look")]));
    mutants.push(code(
        "Relaxed publish D6",
        &[weaken(
            WRITER,
            "publish",
            Operation::Store,
            Ordering::Relaxed,
        )],
    ));
    run(Model {
        name: "one reader, two pins, entry reuse",
        quick: Bound::Preemptions(3),
        full: Bound::All,
        body: || reuse(&[&[0, 1]], 2),
        ends: &["pinned", "parked", "freed"],
        mutants,
    });
}

#[test]
fn two_readers_other_extent() {
    run(Model {
        name: "two readers, other extent",
        quick: Bound::Preemptions(3),
        full: Bound::Preemptions(4),
        body: || reuse(&[&[0], &[1]], 1),
        ends: &["pinned", "parked", "freed"],
        mutants: fence_mutants(),
    });
}

/// Two threads of one session with a slot each raise the high-water mark beside each other.
fn high_water() {
    let control = Arc::new(Control::new(1, Fields::Fixed));
    let lease = Arc::new(Lease::with_high_water(2));
    let payload = Arc::new(Payload::new(&[FIRST]));
    let threads: Vec<_> = (0..2)
        .map(|slot| {
            let (control, lease, payload) = (control.clone(), lease.clone(), payload.clone());
            thread::spawn(move || {
                if pin(&control.reader(), &lease, ENTRY, 0, slot).is_some() {
                    assert_eq!(payload.read(0), FIRST);
                    lease.pins.clear(slot);
                }
            })
        })
        .collect();
    let early = lease.pins.scan_len();
    unpublish(&mut control.writer(), &[ENTRY]);
    let len = if broken("mark read before D2") {
        early
    } else {
        lease.pins.scan_len()
    };
    if (0..len).any(|slot| lease.pins.scan(slot).entry() == Some(ENTRY)) {
        reached("parked");
    } else {
        reached("freed");
        payload.write(0, 999);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn high_water_mark() {
    run(Model {
        name: "high-water mark",
        quick: Bound::Preemptions(4),
        full: Bound::Preemptions(5),
        body: high_water,
        ends: &["pinned", "parked", "freed"],
        mutants: vec![
            code(
                "load and store",
                &[crate::harness::Site {
                    file: PINS,
                    function: "raise_high_water",
                    operation: Operation::Modify,
                    change: Change::Split,
                }],
            ),
            steps("raise after R4"),
            steps("mark read before D2"),
        ],
    });
}

/// A lookup without a pin: a key that was linked into a used entry but never published is not found.
fn lookup() {
    let control = Arc::new(Control::new(1, Fields::Change));
    let reader = {
        let control = control.clone();
        thread::spawn(move || {
            let reader = control.reader();
            for number in [1, 0] {
                if let Some(found) = reader.verify(&key(number), NO_HASH, ENTRY)
                    && reader.is_current(&found)
                {
                    assert_eq!(number, 0, "a key that was never published was found");
                    assert_eq!(found.extent, extent(0), "a torn entry was accepted");
                    reached("found");
                } else {
                    reached("missed");
                }
            }
        })
    };
    let mut writer = control.writer();
    unpublish(&mut writer, &[ENTRY]);
    writer.write_fields(ENTRY, &key(1), extent(1));
    reader.join().unwrap();
}

#[test]
fn lookup_without_a_pin() {
    run(Model {
        name: "lookup without a pin",
        quick: Bound::All,
        full: Bound::All,
        body: lookup,
        ends: &["found", "missed"],
        mutants: vec![code(
            "no fence before the second look",
            &[no_fence(READER, "is_current")],
        )],
    });
}
