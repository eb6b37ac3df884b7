//! Random frames: what was encoded decodes to itself, and nothing else does harm.
//!
//! The seed is printed; `HOSTKV_TEST_SEED` repeats it. `HOSTKV_TEST_CASES` sets the number of cases.

use crate::frames::{Message, decode};
use hostkv_shm_protocol::id::{EntryNumber, InstanceId, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::hello::{Challenge, Hello, HelloPrefix, HelloReply};
use hostkv_shm_protocol::wire::reply::{
    Audit, CommittedItem, Figures, GrantedExtent, Prefetched, Reply, ReservedItem,
};
use hostkv_shm_protocol::wire::request::{
    Grant, GrantedItem, Held, HeldItem, List, Prefetch, Request, Reserve, ReserveItem, Resolve,
    list_flags,
};
use hostkv_shm_protocol::wire::{MAX_BATCH_KEYS, MAX_FRAME_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::time::{SystemTime, UNIX_EPOCH};

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|e| panic!("{name} is {text:?}: {e}"))
    })
}

fn runner(cases: u64) -> TestRunner {
    let seed = from_environment("HOSTKV_TEST_SEED").unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64)
    });
    println!("seed {seed} (set HOSTKV_TEST_SEED to repeat another)");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: from_environment("HOSTKV_TEST_CASES").unwrap_or(cases) as u32,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A text of at most `most` bytes, without NUL and, if `is_plain`, without control characters.
fn text(least: usize, most: usize, is_plain: bool) -> impl Strategy<Value = String> {
    vec(any::<char>(), least..=most).prop_map(move |chars| {
        let mut text: String = chars
            .into_iter()
            .map(|c| {
                if c == '\0' || (is_plain && c.is_control()) {
                    'x'
                } else {
                    c
                }
            })
            .collect();
        text.truncate(text.floor_char_boundary(most));
        if text.len() < least {
            text = "x".repeat(least);
        }
        text
    })
}

fn keys() -> impl Strategy<Value = Key> {
    (
        any::<[u8; 32]>(),
        1..=32_u32,
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(chunk_hash, len, rank, group, keyspace)| {
            Key::new(&chunk_hash, len, rank, group, KeyspaceId(keyspace)).unwrap()
        })
}

fn statuses() -> impl Strategy<Value = Status> {
    proptest::sample::select(Status::ALL.to_vec())
}

fn reasons() -> impl Strategy<Value = Reason> {
    (0..6_u8).prop_map(|number| Reason::from_number(number).unwrap())
}

/// Mostly few items, now and then as many as are allowed.
fn counts() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 1..8_usize, 1 => Just(MAX_BATCH_KEYS)]
}

fn items<T: Strategy + Clone + 'static>(item: T) -> impl Strategy<Value = Vec<T::Value>> {
    counts().prop_flat_map(move |count| vec(item.clone(), count))
}

fn held() -> impl Strategy<Value = Held> {
    let item = (any::<u32>(), any::<u64>()).prop_map(|(entry, generation)| HeldItem {
        entry: EntryNumber(entry),
        generation,
    });
    (any::<u64>(), items(item.boxed())).prop_map(|(op_id, items)| Held {
        op_id: OpId(op_id),
        items,
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let resolve = (
        0..=1_u32,
        any::<u32>(),
        any::<u64>(),
        text(1, 144, false),
        text(0, 128, false),
    )
        .prop_map(
            |(flags, tokens_per_key, layout_fingerprint, model_name, cache_salt)| {
                Request::Resolve(Resolve {
                    flags,
                    tokens_per_key,
                    layout_fingerprint,
                    model_name,
                    cache_salt,
                })
            },
        );
    let item = (keys(), any::<u32>()).prop_map(|(key, len_bytes)| ReserveItem { key, len_bytes });
    let reserve = (
        any::<u64>(),
        text(0, 128, true),
        text(0, 32, true),
        items(item.boxed()),
    )
        .prop_map(|(op_id, request_id, device, items)| Reserve {
            op_id: OpId(op_id),
            request_id,
            device,
            items,
        })
        .boxed();
    let list = (
        0..=list_flags::ALL,
        1..=1024_u32,
        any::<u64>(),
        text(0, 144, false),
        text(0, 128, false),
    )
        .prop_map(|(flags, limit, cursor, model_name, cache_salt)| {
            Request::List(List {
                flags,
                limit,
                cursor,
                model_name,
                cache_salt,
            })
        });
    let prefetch = (
        any::<u64>(),
        text(0, 128, true),
        text(0, 32, true),
        items(keys().boxed()),
    )
        .prop_map(|(op_id, request_id, device, keys)| {
            Request::Prefetch(Prefetch {
                op_id: OpId(op_id),
                request_id,
                device,
                keys,
            })
        });
    let granted =
        (keys(), any::<u32>(), any::<u32>()).prop_map(|(key, entry, len_bytes)| GrantedItem {
            key,
            entry: EntryNumber(entry),
            len_bytes,
        });
    prop_oneof![
        (any::<u32>(), 1..=1024_u32)
            .prop_map(|(len_bytes, count)| Request::Grant(Grant { len_bytes, count })),
        held().prop_map(|held| Request::Return(held.items)),
        items(granted.boxed()).prop_map(Request::CommitGranted),
        any::<u64>().prop_map(|position| Request::Flush { position }),
        resolve,
        reserve.clone().prop_map(Request::Reserve),
        (held(), reserve).prop_map(|(held, reserve)| Request::CommitReserve(held, reserve)),
        prefetch,
        any::<u64>().prop_map(|op_id| Request::PrefetchEnd { op_id: OpId(op_id) }),
        held().prop_map(Request::Commit),
        held().prop_map(Request::Abort),
        items(keys().boxed()).prop_map(Request::Remove),
        (0..=1_u32).prop_map(|flags| Request::Clear { flags }),
        Just(Request::Stats),
        Just(Request::Audit),
        Just(Request::Ping),
        Just(Request::Bye),
        list,
        any::<u64>().prop_map(|cursor| Request::State { cursor }),
        Just(Request::Reload),
    ]
}

fn figures() -> impl Strategy<Value = Figures> {
    any::<[u64; 15]>().prop_map(|w| Figures {
        capacity_bytes: w[0],
        used_bytes: w[1],
        pinned_bytes: w[2],
        reserved_bytes: w[3],
        object_count: w[4],
        session_count: w[5],
        sm_read_requests: w[6],
        sm_read_succeed_keys: w[7],
        sm_read_failed_keys: w[8],
        sm_write_requests: w[9],
        sm_write_succeed_keys: w[10],
        sm_write_failed_keys: w[11],
        l1_read_keys: w[12],
        l1_write_keys: w[13],
        l1_evicted_keys: w[14],
    })
}

fn audits() -> impl Strategy<Value = Audit> {
    (any::<[u64; 14]>(), text(0, 1024, false)).prop_map(|(w, verdict)| Audit {
        capacity_bytes: w[0],
        object_bytes: w[1],
        reserved_bytes: w[2],
        zombie_bytes: w[3],
        quarantined_bytes: w[4],
        free_bytes: w[5],
        entry_count: w[6],
        object_count: w[7],
        reserved_count: w[8],
        zombie_count: w[9],
        quarantined_count: w[10],
        revoked_count: w[11],
        free_count: w[12],
        pin_count: w[13],
        verdict,
    })
}

fn replies() -> impl Strategy<Value = Reply> {
    let resolved = (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        |(keyspace, tokens_per_key, layout_fingerprint)| Reply::Resolved {
            keyspace: KeyspaceId(keyspace),
            tokens_per_key,
            layout_fingerprint,
        },
    );
    let reserved = (
        statuses(),
        reasons(),
        any::<u32>(),
        any::<[u32; 2]>(),
        any::<u64>(),
    )
        .prop_map(
            |(status, reason, entry, [offset_units, staging_units], generation)| ReservedItem {
                status,
                reason,
                entry: EntryNumber(entry),
                offset_units,
                staging_units,
                generation,
            },
        )
        .boxed();
    let committed = (statuses(), any::<u64>())
        .prop_map(|(status, generation)| CommittedItem { status, generation })
        .boxed();
    let prefetched = (0..=1024_u32, 0..=1024_u32, statuses()).prop_map(|(a, b, status)| {
        Reply::Prefetched(Prefetched {
            prefix_count: a.max(b),
            loaded_count: a.min(b),
            status,
        })
    });
    let extent =
        any::<(u32, u32, u64)>().prop_map(|(entry, offset_units, generation)| GrantedExtent {
            entry: EntryNumber(entry),
            offset_units,
            generation,
        });
    let outcomes = items(committed.clone());
    prop_oneof![
        prop::collection::vec(extent, 0..=1024).prop_map(Reply::Granted),
        Just(Reply::Returned),
        outcomes.prop_map(Reply::GrantedCommitted),
        Just(Reply::Flushed),
        resolved,
        prefetched,
        Just(Reply::PrefetchEnded),
        items(reserved.clone()).prop_map(Reply::Reserved),
        items(committed.clone()).prop_map(Reply::Committed),
        (
            items(committed),
            prop_oneof![items(reserved), Just(Vec::new())]
        )
            .prop_map(|(committed, reserved)| Reply::CommitReserved(committed, reserved)),
        items(statuses().boxed()).prop_map(Reply::Aborted),
        items(any::<bool>().boxed()).prop_map(Reply::Removed),
        any::<u64>().prop_map(Reply::Cleared),
        figures().prop_map(Reply::Stats),
        audits().prop_map(Reply::Audit),
        Just(Reply::Pong),
        Just(Reply::Bye),
        text(0, 70_000, false).prop_map(Reply::Listed),
        text(0, 300, false).prop_map(Reply::State),
        text(0, 300, false).prop_map(Reply::Reloaded),
        (statuses(), text(0, 1024, false)).prop_map(|(status, text)| Reply::Error { status, text }),
    ]
}

fn hellos() -> impl Strategy<Value = Hello> {
    (
        any::<[u8; 16]>(),
        any::<(u32, u64, u32, u64)>(),
        0..=3_u32,
        text(0, 32, true),
        text(0, 64, true),
    )
        .prop_map(
            |(nonce, numbers, flags, client_version, client_name)| Hello {
                prefix: HelloPrefix {
                    nonce,
                    protocol_version: numbers.0,
                    abi_hash: numbers.1,
                },
                flags,
                pin_slot_count: numbers.2,
                mono_ns: numbers.3,
                client_version,
                client_name,
            },
        )
}

fn hello_replies() -> impl Strategy<Value = HelloReply> {
    (
        any::<[u8; 16]>(),
        any::<[u64; 9]>(),
        any::<[u32; 4]>(),
        text(0, 31, true),
    )
        .prop_map(|(instance, w, n, server_version)| HelloReply {
            instance_id: InstanceId(instance),
            daemon_thread_id: n[0],
            session_id: SessionId(w[0]),
            capacity_bytes: w[1],
            align_bytes: w[2],
            huge_page_bytes: w[3],
            pin_quota_bytes: w[4],
            reserve_quota_bytes: w[5],
            keyspace_quota_bytes: w[7],
            staging_bytes: w[8],
            max_object_bytes: w[6],
            pin_slot_count: n[1],
            max_batch_keys: n[2],
            chunk_size: n[3],
            server_version,
        })
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        1 => any::<[u8; 16]>().prop_map(|nonce| Message::Challenge(Challenge { nonce })),
        2 => (any::<u64>(), hellos()).prop_map(|(id, hello)| Message::Hello(id, hello)),
        2 => (any::<u64>(), hello_replies()).prop_map(|(id, reply)| Message::HelloReply(id, reply)),
        8 => (any::<u64>(), any::<bool>(), requests())
            .prop_map(|(id, wants_reply, request)| Message::Request(id, wants_reply, request)),
        8 => (any::<u64>(), replies()).prop_map(|(id, reply)| Message::Reply(id, reply)),
    ]
}

/// Says in the header how long the frame is, so that a decoder gets past it.
fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 4 {
        let len = frame.len() as u32;
        frame[..4].copy_from_slice(&len.to_le_bytes());
    }
    frame
}

#[test]
fn every_valid_message_survives_and_fits_a_frame() {
    runner(2000)
        .run(&messages(), |message| {
            let frame = message.encode();
            prop_assert!(frame.len() <= MAX_FRAME_BYTES, "{} bytes", frame.len());
            prop_assert_eq!(decode(&frame), Ok(message));
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_truncation_and_every_trailing_byte_is_an_error() {
    runner(300)
        .run(&(messages(), any::<u8>()), |(message, extra)| {
            let frame = message.encode();
            // All cuts of a short frame; of a long one those near its ends and a sample between.
            let step = (frame.len() / 512).max(1);
            let near = |len: usize| len < 200 || frame.len() - len < 200;
            for len in (0..frame.len()).filter(|len| near(*len) || len % step == 0) {
                let cut = frame[..len].to_vec();
                prop_assert!(
                    decode(&cut).is_err(),
                    "{} of {} bytes, length kept",
                    len,
                    frame.len()
                );
                let cut = with_length(cut);
                prop_assert!(decode(&cut).is_err(), "{} of {} bytes", len, frame.len());
            }
            let mut longer = frame.clone();
            longer.push(extra);
            prop_assert!(decode(&longer).is_err(), "a byte more, length kept");
            prop_assert!(decode(&with_length(longer)).is_err(), "a byte more");
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    // A header that some message has, and anything behind it; or anything at all.
    let shaped = (
        0..=15_u16,
        0..=3_u16,
        any::<u64>(),
        vec(any::<u8>(), 0..400),
    )
        .prop_map(|(message, flags, id, body)| {
            let mut frame = vec![0; 4];
            frame.extend(message.to_le_bytes());
            frame.extend(flags.to_le_bytes());
            frame.extend(id.to_le_bytes());
            frame.extend(body);
            with_length(frame)
        });
    let anything = vec(any::<u8>(), 0..64).prop_map(with_length);
    runner(20_000)
        .run(&prop_oneof![4 => shaped, 1 => anything], |frame| {
            if let Ok(message) = decode(&frame) {
                // What decodes is a message like any other.
                prop_assert_eq!(decode(&message.encode()), Ok(message));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_mutated_frame_is_an_error_or_another_valid_message() {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    runner(4000)
        .run(&(messages(), changes), |(message, changes)| {
            let mut frame = message.encode();
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            for frame in [frame.clone(), with_length(frame)] {
                if let Ok(message) = decode(&frame) {
                    prop_assert_eq!(decode(&message.encode()), Ok(message));
                }
            }
            Ok(())
        })
        .unwrap();
}
