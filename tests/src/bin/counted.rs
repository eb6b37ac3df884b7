//! Calls of the C interface to be counted: their instructions, system calls, allocations and page faults.
//!
//! `scripts/count-instructions.sh` runs this under valgrind, the end-to-end tests run it under strace and alone.
//!
//! ```text
//!   hostkv-test-counted SOCKET reads KEYS ROUNDS      ROUNDS times acquire + release of KEYS keys that are there
//!   hostkv-test-counted SOCKET stores KEYS ROUNDS     ROUNDS times reserve, copy and commit of KEYS new keys
//!   hostkv-test-counted SOCKET pairs KEYS ROUNDS      the same, with each commit and the next reserve in one call
//!   hostkv-test-counted SOCKET small KEYS ROUNDS      as stores, of the smallest objects, for what only the daemon does
//! ```
//!
//! It prints what the rounds took altogether: `allocations N faults N`. What is counted happens inside
//! [`hostkv_counted_reads`], [`hostkv_counted_stores`] and [`hostkv_counted_pair`], whose names valgrind knows. A tracer sees a
//! write to descriptor -1 around each reserve and each commit of a store. Reads go in batches that fit into the session's ring of
//! events and sleep in between, outside of what is counted, until the daemon has emptied it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails by panicking, with the place and the error"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};
use std::time::Duration;

use hostkv::ChunkKey;
use hostkv::ffi::types::{
    hostkv_key, hostkv_keyspace, hostkv_keyspace_config, hostkv_lease, hostkv_request,
    hostkv_reservation, hostkv_reserve_item, hostkv_session, hostkv_session_config,
    hostkv_span_mut, hostkv_status,
};
use hostkv::ffi::{lease, reservation, session};
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_tests::keys;

/// Reads of a batch: two events each, and the ring has 1024 places.
const BATCH: usize = 250;
/// Rounds before anything is counted, in which caches of the allocator and of the library fill.
const WARM_UP: usize = 64;
/// Length of an object, in bytes: a few pages, streamed by `hostkv_copy`.
const OBJECT_BYTES: u64 = 128 << 10;
/// Length of an object whose bytes do not matter, in bytes.
const SMALL_BYTES: u64 = 64;

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Relaxed: a count.
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Relaxed: a count.
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Who works, on what.
pub struct Work {
    session: *mut hostkv_session,
    keyspace: hostkv_keyspace,
    request: hostkv_request,
}

/// Acquire and release of these keys, `rounds` times; gives the keys found.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn hostkv_counted_reads(work: &Work, keys: &[ChunkKey], rounds: usize) -> usize {
    let mut found = 0;
    for _ in 0..rounds {
        let mut handle: *mut hostkv_lease = null_mut();
        // SAFETY: the session is open, the keys are there, and the lease is used until its release.
        unsafe {
            assert_ok(lease::hostkv_session_acquire(
                work.session,
                work.keyspace,
                keys.as_ptr().cast::<hostkv_key>(),
                keys.len(),
                &work.request,
                &mut handle,
            ));
            found += lease::hostkv_lease_get_prefix_count(handle);
            assert_ok(lease::hostkv_lease_release(handle));
        }
    }
    found
}

/// Reserve, copy and commit of these items.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn hostkv_counted_stores(work: &Work, items: &[hostkv_reserve_item], source: &[u8]) {
    let mut handle: *mut hostkv_reservation = null_mut();
    mark();
    // SAFETY: the session is open, the items are there, each span is as long as the source, and the reservation is used
    // until its commit.
    unsafe {
        assert_ok(reservation::hostkv_session_reserve(
            work.session,
            work.keyspace,
            items.as_ptr(),
            items.len(),
            &work.request,
            &mut handle,
        ));
        mark();
        copy(handle, items.len(), source);
        mark();
        assert_ok(reservation::hostkv_reservation_commit(handle));
    }
    mark();
}

/// Copies into all of a reservation.
///
/// # Safety
///
/// The reservation has not ended, and each of its `count` spans is as long as the source.
unsafe fn copy(handle: *const hostkv_reservation, count: usize, source: &[u8]) {
    for index in 0..count {
        let mut span = hostkv_span_mut {
            data: null_mut(),
            len_bytes: 0,
        };
        // SAFETY: the caller's promise; the span is written into before the reservation ends.
        unsafe {
            assert_ok(reservation::hostkv_reservation_get_span(
                handle, index, &mut span,
            ));
            assert_eq!(span.len_bytes, source.len() as u64);
            reservation::hostkv_copy(span.data, source.as_ptr().cast::<c_void>(), source.len());
        }
    }
}

/// The copy into a reservation, and its commit with the reserve of the next items; the next reservation.
///
/// # Safety
///
/// The reservation has not ended and is not used any more, and each of its spans is as long as the source.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe fn hostkv_counted_pair(
    work: &Work,
    handle: *mut hostkv_reservation,
    next: &[hostkv_reserve_item],
    source: &[u8],
) -> *mut hostkv_reservation {
    let mut made: *mut hostkv_reservation = null_mut();
    mark();
    // SAFETY: the caller's promise; the next items are there.
    unsafe {
        copy(
            handle,
            reservation::hostkv_reservation_get_count(handle),
            source,
        );
        mark();
        assert_ok(reservation::hostkv_reservation_commit_and_reserve(
            handle,
            work.keyspace,
            next.as_ptr(),
            next.len(),
            &work.request,
            &mut made,
        ));
    }
    mark();
    made
}

fn assert_ok(status: hostkv_status) {
    assert_eq!(status, hostkv_status::Ok);
}

/// A system call that does nothing, for a tracer to see.
fn mark() {
    // SAFETY: the descriptor is none, so the kernel reads nothing.
    unsafe { libc::write(-1, c"marker".as_ptr().cast(), 6) };
}

fn fault_count() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    usage.minor_page_faults() + usage.major_page_faults()
}

/// Allocations and page faults so far.
fn taken() -> (u64, i64) {
    (ALLOCATIONS.load(Ordering::Relaxed), fault_count())
}

fn open(socket: &str) -> Work {
    let path = CString::new(socket).unwrap();
    let config = hostkv_session_config {
        struct_size: size_of::<hostkv_session_config>() as u32,
        flags: hostkv::session::POPULATE,
        socket_path: path.as_ptr(),
        client_name: c"counted".as_ptr(),
        pin_slot_count: 0,
        timeout_ms: 0,
    };
    let keyspace_config = hostkv_keyspace_config {
        struct_size: size_of::<hostkv_keyspace_config>() as u32,
        tokens_per_key: 0,
        model_name: c"test-model".as_ptr(),
        cache_salt: null(),
        layout_fingerprint: 7,
    };
    let mut work = Work {
        session: null_mut(),
        keyspace: 0,
        request: hostkv_request {
            struct_size: size_of::<hostkv_request>() as u32,
            flags: 0,
            request_id: c"counted-request".as_ptr(),
            device: c"gpu0".as_ptr(),
        },
    };
    // SAFETY: the structs and texts live until the calls return.
    unsafe {
        assert_ok(session::hostkv_session_open(&config, &mut work.session));
        assert_ok(session::hostkv_session_open_keyspace(
            work.session,
            &keyspace_config,
            &mut work.keyspace,
        ));
    }
    work
}

fn items(keys: &[ChunkKey], len_bytes: u64) -> Vec<hostkv_reserve_item> {
    let item = |key: &ChunkKey| hostkv_reserve_item {
        key: hostkv_key {
            chunk_hash: key.chunk_hash,
            chunk_hash_len: key.chunk_hash_len,
            kv_rank: key.kv_rank,
            object_group_id: key.object_group_id,
        },
        len_bytes,
    };
    keys.iter().map(item).collect()
}

fn reads(work: &Work, key_count: usize, rounds: usize) -> (u64, i64) {
    let wanted = keys(&format!("counted-{key_count}"), key_count);
    if hostkv_counted_reads(work, &wanted, 1) < key_count {
        hostkv_counted_stores(
            work,
            &items(&wanted, SMALL_BYTES),
            &[7; SMALL_BYTES as usize],
        );
    }
    let batch = |count: usize| {
        let before = taken();
        assert_eq!(
            hostkv_counted_reads(work, &wanted, count),
            count * key_count
        );
        let after = taken();
        std::thread::sleep(Duration::from_millis(400));
        (after.0 - before.0, after.1 - before.1)
    };
    batch(WARM_UP);
    let mut sum = (0, 0);
    for first in (0..rounds).step_by(BATCH) {
        let (allocations, faults) = batch((rounds - first).min(BATCH));
        sum = (sum.0 + allocations, sum.1 + faults);
    }
    sum
}

/// The items of so many stores.
fn batches(key_count: usize, count: usize, len_bytes: u64) -> Vec<Vec<hostkv_reserve_item>> {
    (0..count)
        .map(|round| {
            items(
                &keys(&format!("stored-{key_count}-{round}"), key_count),
                len_bytes,
            )
        })
        .collect()
}

fn pairs(work: &Work, key_count: usize, rounds: usize) -> (u64, i64) {
    let source = vec![7; OBJECT_BYTES as usize];
    let batches = batches(key_count, 1 + WARM_UP + rounds, OBJECT_BYTES);
    let mut handle: *mut hostkv_reservation = null_mut();
    let mut before = taken();
    // SAFETY: the session is open, the items are there, and each reservation is used until its commit.
    unsafe {
        assert_ok(reservation::hostkv_session_reserve(
            work.session,
            work.keyspace,
            batches[0].as_ptr(),
            batches[0].len(),
            &work.request,
            &mut handle,
        ));
        for (round, next) in batches[1..].iter().enumerate() {
            if round == WARM_UP {
                before = taken();
            }
            handle = hostkv_counted_pair(work, handle, next, &source);
        }
    }
    let after = taken();
    // SAFETY: the handle is used for the last time.
    assert_ok(unsafe { reservation::hostkv_reservation_abort(handle) });
    (after.0 - before.0, after.1 - before.1)
}

fn stores(work: &Work, key_count: usize, rounds: usize, len_bytes: u64) -> (u64, i64) {
    let source = vec![7; len_bytes as usize];
    let batches = batches(key_count, WARM_UP + rounds, len_bytes);
    let (warm_up, counted) = batches.split_at(WARM_UP);
    warm_up
        .iter()
        .for_each(|items| hostkv_counted_stores(work, items, &source));
    let before = taken();
    counted
        .iter()
        .for_each(|items| hostkv_counted_stores(work, items, &source));
    let after = taken();
    (after.0 - before.0, after.1 - before.1)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, what, key_count, rounds] = &arguments[..] else {
        panic!("four arguments are wanted, see the head of counted.rs");
    };
    let (key_count, rounds) = (key_count.parse().unwrap(), rounds.parse().unwrap());
    let work = open(socket);
    let (allocations, faults) = match what.as_str() {
        "reads" => reads(&work, key_count, rounds),
        "stores" => stores(&work, key_count, rounds, OBJECT_BYTES),
        "small" => stores(&work, key_count, rounds, SMALL_BYTES),
        "pairs" => pairs(&work, key_count, rounds),
        other => panic!("{other} is none of reads, stores, small and pairs"),
    };
    println!("allocations {allocations} faults {faults}");
    // SAFETY: the handle is used for the last time.
    assert_ok(unsafe { session::hostkv_session_close(work.session) });
}
