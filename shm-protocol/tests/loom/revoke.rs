//! Revoking a pin, and the check that tells its holder.
//!
//! A revoked reader and the extent's next writer race by design, so the payload here is relaxed atomics: what
//! counts is that the check after the reads says so.

use crate::harness::{Bound, Model, broken, code, no_fence, reached, run, steps, weaken};
use crate::pins::{pin, unpublish};
use crate::segments::{Control, Fields, Lease, Payload, extent, key};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sync::model::Operation;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

const ENTRY: EntryNumber = EntryNumber(0);
const WRITER: &str = "control/writer.rs";

/// The check of a lease: after the payload reads, before the slot is cleared.
fn check(reader: &IndexReader, found: &Found) -> bool {
    if !broken("no fence in the check") {
        fence(Ordering::Acquire);
    }
    reader.seq(found.entry).wrapping_sub(found.seq) <= 1
}

/// The grant reaches the next writer through relaxed stores: only the fence that `revoke` ends with orders it.
fn revoke_and_check() {
    let control = Arc::new(Control::new(1, Fields::Fixed));
    let lease = Arc::new(Lease::new(1));
    let payload = Arc::new([AtomicU64::new(70), AtomicU64::new(70)]);
    let grant = Arc::new(AtomicU64::new(0));
    let holder = {
        let (control, lease, payload) = (control.clone(), lease.clone(), payload.clone());
        thread::spawn(move || {
            let reader = control.reader();
            if let Some(found) = pin(&reader, &lease, ENTRY, 0, 0) {
                let copy = [0, 1].map(|i: usize| payload[i].load(Ordering::Relaxed));
                if check(&reader, &found) {
                    reached("valid");
                    assert_eq!(copy, [70, 70], "the check passed over overwritten bytes");
                } else {
                    reached("expired");
                }
                lease.pins.clear(0);
            }
        })
    };
    let next = {
        let (control, payload, grant) = (control.clone(), payload.clone(), grant.clone());
        thread::spawn(move || {
            if grant.load(Ordering::Acquire) != 1 {
                return;
            }
            if !broken("no release fence in the new writer") {
                fence(Ordering::Release);
            }
            for word in payload.iter() {
                word.store(99, Ordering::Relaxed);
            }
            if broken("seq moved only at commit") {
                control.writer().publish(ENTRY);
            }
        })
    };
    let mut writer = control.writer();
    unpublish(&mut writer, &[ENTRY]);
    if lease.names(ENTRY) {
        reached("revoked");
    }
    let give = || grant.store(1, Ordering::Relaxed);
    if broken("grant before the bump") {
        give();
        writer.revoke(ENTRY);
    } else if broken("seq moved only at commit") {
        fence(Ordering::Release);
        give();
    } else {
        writer.revoke(ENTRY);
        give();
    }
    holder.join().unwrap();
    next.join().unwrap();
}

#[test]
fn revoke_and_check_agree() {
    run(Model {
        name: "revoke and check",
        quick: Bound::All,
        full: Bound::All,
        body: revoke_and_check,
        ends: &["pinned", "revoked", "valid", "expired"],
        mutants: vec![
            steps("no fence in the check"),
            steps("no release fence in the new writer"),
            code(
                "Relaxed bump, no fence behind it",
                &[
                    weaken(WRITER, "revoke", Operation::Store, Ordering::Relaxed),
                    no_fence(WRITER, "revoke"),
                ],
            ),
            steps("grant before the bump"),
            steps("seq moved only at commit"),
        ],
    });
}

/// Without a time to live no honest pin is ever told that it expired.
fn release_order() {
    let control = Arc::new(Control::new(1, Fields::Change));
    let lease = Arc::new(Lease::new(1));
    let payload = Arc::new(Payload::new(&[70]));
    let holder = {
        let (control, lease, payload) = (control.clone(), lease.clone(), payload.clone());
        thread::spawn(move || {
            let reader = control.reader();
            if let Some(found) = pin(&reader, &lease, ENTRY, 0, 0) {
                assert_eq!(payload.read(0), 70);
                if broken("clear, then check") {
                    lease.pins.clear(0);
                    assert!(
                        check(&reader, &found),
                        "an honest pin is told that it expired"
                    );
                } else {
                    assert!(
                        check(&reader, &found),
                        "an honest pin is told that it expired"
                    );
                    lease.pins.clear(0);
                }
            }
        })
    };
    let mut writer = control.writer();
    unpublish(&mut writer, &[ENTRY]);
    let is_pinned = lease.names(ENTRY);
    if is_pinned {
        reached("parked");
        if broken("zombie revived") {
            writer.publish(ENTRY);
        }
    }
    if !is_pinned || !lease.names(ENTRY) {
        reached("freed");
        payload.write(0, 999);
        writer.write_fields(ENTRY, &key(1), extent(0));
        writer.publish(ENTRY);
    }
    holder.join().unwrap();
}

#[test]
fn release_checks_before_it_clears() {
    run(Model {
        name: "release order",
        quick: Bound::All,
        full: Bound::All,
        body: release_order,
        ends: &["pinned", "parked", "freed"],
        mutants: vec![steps("clear, then check"), steps("zombie revived")],
    });
}
