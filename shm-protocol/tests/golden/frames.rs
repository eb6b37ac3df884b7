//! Every message as bytes: what is encoded is this, and this decodes to it.

use hostkv_shm_protocol::id::{EntryNumber, InstanceId, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::WireError;
use hostkv_shm_protocol::wire::header::{DOORBELL, FrameHeader, MessageType, flags};
use hostkv_shm_protocol::wire::hello::{Challenge, Hello, HelloPrefix, HelloReply, hello_flags};
use hostkv_shm_protocol::wire::reply::{
    Audit, CommittedItem, Figures, GrantedExtent, Prefetched, Reply, ReservedItem,
};
use hostkv_shm_protocol::wire::request::{
    Grant, GrantedItem, Held, HeldItem, List, Prefetch, Request, Reserve, ReserveItem, Resolve,
    clear_flags, list_flags, resolve_flags,
};

/// Any message, so that all are tested alike.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Challenge(Challenge),
    Hello(u64, Hello),
    HelloReply(u64, HelloReply),
    /// Number, whether a reply is wanted, request.
    Request(u64, bool, Request),
    Reply(u64, Reply),
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Challenge(challenge) => challenge.encode(),
            Message::Hello(id, hello) => hello.encode(*id),
            Message::HelloReply(id, reply) => reply.encode(*id),
            Message::Request(id, wants_reply, request) => request.encode(*id, *wants_reply),
            Message::Reply(id, reply) => reply.encode(*id),
        }
    }
}

/// Reads any frame, by the decoder that its header asks for.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    let (header, mut cursor) = FrameHeader::decode(frame)?;
    let is_reply = header.flags & flags::REPLY != 0;
    Ok(match header.message {
        MessageType::Challenge => Message::Challenge(Challenge::decode(cursor)?),
        MessageType::Hello if is_reply => {
            Message::HelloReply(header.request_id, HelloReply::decode(cursor)?)
        }
        MessageType::Hello => {
            let prefix = HelloPrefix::decode(&mut cursor)?;
            Message::Hello(header.request_id, Hello::decode_rest(prefix, cursor)?)
        }
        _ if is_reply => Message::Reply(header.request_id, Reply::decode(&header, cursor)?),
        _ => Message::Request(
            header.request_id,
            header.flags & flags::NO_REPLY == 0,
            Request::decode(&header, cursor)?,
        ),
    })
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => panic!("{:?} is no hexadecimal digit", b as char),
        })
        .collect();
    assert_eq!(digits.len() % 2, 0);
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn key(first: u8) -> Key {
    let mut chunk_hash = [0; 32];
    chunk_hash[0] = first;
    chunk_hash[7] = 0x77;
    Key::new(&chunk_hash, 8, 0x0102_0304, 0x0506_0708, KeyspaceId(9)).unwrap()
}

/// [`key`] of 0xa1 on the wire.
const KEY_A1: &str = "a100000000000077 0000000000000000 0000000000000000 0000000000000000
                      04030201 08070605 09000000 08000000";
/// [`key`] of 0xa2 on the wire.
const KEY_A2: &str = "a200000000000077 0000000000000000 0000000000000000 0000000000000000
                      04030201 08070605 09000000 08000000";

fn assert_frame(message: Message, hex: &str) {
    let expected = bytes(hex);
    assert_eq!(message.encode(), expected, "{message:?}");
    assert_eq!(decode(&expected), Ok(message));
}

#[test]
fn challenge_and_hello() {
    let nonce = *b"0123456789abcdef";
    let nonce_hex = "30313233343536373839616263646566";
    assert_frame(
        Message::Challenge(Challenge { nonce }),
        &format!("20000000 0100 0000 0000000000000000 {nonce_hex}"),
    );
    assert_frame(
        Message::Hello(
            0x1122_3344_5566_7788,
            Hello {
                prefix: HelloPrefix {
                    nonce,
                    protocol_version: 1,
                    abi_hash: 0x0102_0304_0506_0708,
                },
                flags: hello_flags::READ_ONLY,
                pin_slot_count: 256,
                mono_ns: 0x1_0000_0001,
                client_version: "0.1.0".to_owned(),
                client_name: "w0".to_owned(),
            },
        ),
        &format!(
            "47000000 0200 0000 8877665544332211
             {nonce_hex} 01000000 0807060504030201
             01000000 00010000 0100000001000000 0500 302e312e30 0200 7730"
        ),
    );
    assert_frame(
        Message::HelloReply(
            2,
            HelloReply {
                instance_id: InstanceId(nonce),
                daemon_thread_id: 0x0a0b,
                session_id: SessionId(3),
                capacity_bytes: 1 << 30,
                align_bytes: 4096,
                huge_page_bytes: 1 << 21,
                pin_quota_bytes: 1 << 29,
                reserve_quota_bytes: 1 << 28,
                keyspace_quota_bytes: 1 << 26,
                staging_bytes: 1 << 25,
                max_object_bytes: 1 << 27,
                pin_slot_count: 16_384,
                max_batch_keys: 1024,
                chunk_size: 256,
                server_version: "0.1.0".to_owned(),
            },
        ),
        &format!(
            "7f000000 0200 0100 0200000000000000
             {nonce_hex} 0b0a0000 0300000000000000
             0000004000000000 0010000000000000 0000200000000000 0000002000000000
             0000001000000000 0000000400000000 0000000200000000 0000000800000000
             00400000 00040000 00010000 0500 302e312e30"
        ),
    );
}

#[test]
fn resolve() {
    assert_frame(
        Message::Request(
            5,
            true,
            Request::Resolve(Resolve {
                flags: resolve_flags::AS_IT_STANDS,
                tokens_per_key: 256,
                layout_fingerprint: 0xf1f2_f3f4_f5f6_f7f8,
                model_name: "m/x".to_owned(),
                cache_salt: "s".to_owned(),
            }),
        ),
        "28000000 0300 0000 0500000000000000
         01000000 00010000 f8f7f6f5f4f3f2f1 0300 6d2f78 0100 73",
    );
    assert_frame(
        Message::Reply(
            5,
            Reply::Resolved {
                keyspace: KeyspaceId(7),
                tokens_per_key: 256,
                layout_fingerprint: 0xf1f2_f3f4_f5f6_f7f8,
            },
        ),
        "20000000 0300 0100 0500000000000000 07000000 00010000 f8f7f6f5f4f3f2f1",
    );
}

#[test]
fn reserve() {
    assert_frame(
        Message::Request(
            6,
            true,
            Request::Reserve(Reserve {
                op_id: OpId(0x0b0c),
                request_id: "r1".to_owned(),
                device: "cuda:0".to_owned(),
                items: vec![
                    ReserveItem {
                        key: key(0xa1),
                        len_bytes: 4096,
                    },
                    ReserveItem {
                        key: key(0xa2),
                        len_bytes: u32::MAX,
                    },
                ],
            }),
        ),
        &format!(
            "90000000 0400 0000 0600000000000000
             0c0b000000000000 0200 7231 0600 637564613a30 02000000
             {KEY_A1} 00100000 {KEY_A2} ffffffff"
        ),
    );
    assert_frame(
        Message::Reply(
            6,
            Reply::Reserved(vec![
                ReservedItem {
                    status: Status::Ok,
                    reason: Reason::None,
                    entry: EntryNumber(0x0102),
                    offset_units: 0x0304,
                    staging_units: 0x0506,
                    generation: 6,
                },
                ReservedItem {
                    status: Status::Quota,
                    reason: Reason::SessionReserved,
                    entry: EntryNumber(0),
                    offset_units: 0,
                    staging_units: 0,
                    generation: 0,
                },
            ]),
        ),
        "4c000000 0400 0100 0600000000000000 02000000
         00000000 00 000000 02010000 04030000 06050000 0600000000000000
         fbffffff 04 000000 00000000 00000000 00000000 0000000000000000",
    );
}

#[test]
fn commit_and_abort() {
    let held = Held {
        op_id: OpId(9),
        items: vec![
            HeldItem {
                entry: EntryNumber(1),
                generation: 2,
            },
            HeldItem {
                entry: EntryNumber(3),
                generation: 4,
            },
        ],
    };
    let body = "0900000000000000 02000000 01000000 0200000000000000 03000000 0400000000000000";
    assert_frame(
        Message::Request(1, true, Request::Commit(held.clone())),
        &format!("34000000 0500 0000 0100000000000000 {body}"),
    );
    assert_frame(
        Message::Request(2, false, Request::Abort(held)),
        &format!("34000000 0600 0200 0200000000000000 {body}"),
    );
    assert_frame(
        Message::Reply(
            1,
            Reply::Committed(vec![
                CommittedItem {
                    status: Status::Ok,
                    generation: 2,
                },
                CommittedItem {
                    status: Status::Expired,
                    generation: 0,
                },
            ]),
        ),
        "34000000 0500 0100 0100000000000000 02000000
         00000000 00000000 0200000000000000 f9ffffff 00000000 0000000000000000",
    );
    assert_frame(
        Message::Reply(2, Reply::Aborted(vec![Status::Ok, Status::NotFound])),
        "1c000000 0600 0100 0200000000000000 02000000 00000000 ffffffff",
    );
}

#[test]
fn commit_and_reserve_in_one() {
    assert_frame(
        Message::Request(
            10,
            true,
            Request::CommitReserve(
                Held {
                    op_id: OpId(9),
                    items: vec![HeldItem {
                        entry: EntryNumber(1),
                        generation: 2,
                    }],
                },
                Reserve {
                    op_id: OpId(0x0b0c),
                    request_id: "r1".to_owned(),
                    device: "d".to_owned(),
                    items: vec![ReserveItem {
                        key: key(0xa1),
                        len_bytes: 4096,
                    }],
                },
            ),
        ),
        &format!(
            "6f000000 1300 0000 0a00000000000000
             0900000000000000 01000000 01000000 0200000000000000
             0c0b000000000000 0200 7231 0100 64 01000000 {KEY_A1} 00100000"
        ),
    );
    let committed = vec![CommittedItem {
        status: Status::Ok,
        generation: 2,
    }];
    assert_frame(
        Message::Reply(
            10,
            Reply::CommitReserved(
                committed,
                vec![ReservedItem {
                    status: Status::Ok,
                    reason: Reason::None,
                    entry: EntryNumber(0x0102),
                    offset_units: 0x0304,
                    staging_units: 0x0506,
                    generation: 6,
                }],
            ),
        ),
        "44000000 1300 0100 0a00000000000000
         01000000 00000000 00000000 0200000000000000
         01000000 00000000 00 000000 02010000 04030000 06050000 0600000000000000",
    );
    // A commit that did not do everything: nothing is reserved.
    let expired = vec![CommittedItem {
        status: Status::Expired,
        generation: 0,
    }];
    assert_frame(
        Message::Reply(11, Reply::CommitReserved(expired, Vec::new())),
        "28000000 1300 0100 0b00000000000000 01000000 f9ffffff 00000000 0000000000000000 00000000",
    );
}

#[test]
fn remove_and_clear() {
    assert_frame(
        Message::Request(3, true, Request::Remove(vec![key(0xa1), key(0xa2)])),
        &format!("74000000 0700 0000 0300000000000000 02000000 {KEY_A1} {KEY_A2}"),
    );
    assert_frame(
        Message::Reply(3, Reply::Removed(vec![true, false, true])),
        "17000000 0700 0100 0300000000000000 03000000 01 00 01",
    );
    assert_frame(
        Message::Request(
            4,
            true,
            Request::Clear {
                flags: clear_flags::ALL_KEYSPACES,
            },
        ),
        "14000000 0800 0000 0400000000000000 01000000",
    );
    assert_frame(
        Message::Reply(4, Reply::Cleared(0x0102_0304_0506)),
        "18000000 0800 0100 0400000000000000 0605040302010000",
    );
}

#[test]
fn stats_and_audit() {
    assert_frame(
        Message::Request(1, true, Request::Stats),
        "10000000 0900 0000 0100000000000000",
    );
    let words = |first: u64, count: u64| -> String {
        (first..first + count)
            .map(|word| format!("{word:02x}00000000000000"))
            .collect()
    };
    assert_frame(
        Message::Reply(
            1,
            Reply::Stats(Figures {
                capacity_bytes: 1,
                used_bytes: 2,
                pinned_bytes: 3,
                reserved_bytes: 4,
                object_count: 5,
                session_count: 6,
                sm_read_requests: 7,
                sm_read_succeed_keys: 8,
                sm_read_failed_keys: 9,
                sm_write_requests: 10,
                sm_write_succeed_keys: 11,
                sm_write_failed_keys: 12,
                l1_read_keys: 13,
                l1_write_keys: 14,
                l1_evicted_keys: 15,
            }),
        ),
        &format!("88000000 0900 0100 0100000000000000 {}", words(1, 15)),
    );
    assert_frame(
        Message::Request(2, true, Request::Audit),
        "10000000 0a00 0000 0200000000000000",
    );
    assert_frame(
        Message::Reply(
            2,
            Reply::Audit(Audit {
                capacity_bytes: 1,
                object_bytes: 2,
                reserved_bytes: 3,
                zombie_bytes: 4,
                quarantined_bytes: 5,
                free_bytes: 6,
                entry_count: 7,
                object_count: 8,
                reserved_count: 9,
                zombie_count: 10,
                quarantined_count: 11,
                revoked_count: 12,
                free_count: 13,
                pin_count: 14,
                verdict: "no".to_owned(),
            }),
        ),
        &format!(
            "84000000 0a00 0100 0200000000000000 {} 0200 6e6f",
            words(1, 14)
        ),
    );
}

#[test]
fn list_state_and_reload() {
    assert_frame(
        Message::Request(
            5,
            true,
            Request::List(List {
                flags: list_flags::BY_MODEL | list_flags::BY_SALT,
                limit: 1024,
                cursor: 0x0102,
                model_name: "m".to_owned(),
                cache_salt: "se".to_owned(),
            }),
        ),
        "27000000 0e00 0000 0500000000000000 03000000 00040000 0201000000000000 0100 6d 0200 7365",
    );
    assert_frame(
        Message::Reply(5, Reply::Listed("{}".to_owned())),
        "16000000 0e00 0100 0500000000000000 02000000 7b7d",
    );
    assert_frame(
        Message::Request(6, true, Request::State { cursor: 9 }),
        "18000000 0f00 0000 0600000000000000 0900000000000000",
    );
    assert_frame(
        Message::Reply(6, Reply::State("[]".to_owned())),
        "16000000 0f00 0100 0600000000000000 02000000 5b5d",
    );
    assert_frame(
        Message::Request(7, true, Request::Reload),
        "10000000 1000 0000 0700000000000000",
    );
    assert_frame(
        Message::Reply(7, Reply::Reloaded(String::new())),
        "14000000 1000 0100 0700000000000000 00000000",
    );
}

#[test]
fn prefetch_and_its_end() {
    assert_frame(
        Message::Request(
            8,
            true,
            Request::Prefetch(Prefetch {
                op_id: OpId(0x77),
                request_id: "r1".to_owned(),
                device: "d".to_owned(),
                keys: vec![key(0xa1), key(0xa2)],
            }),
        ),
        &format!(
            "83000000 1100 0000 0800000000000000 7700000000000000 0200 7231 0100 64 02000000 {KEY_A1} {KEY_A2}"
        ),
    );
    assert_frame(
        Message::Reply(
            8,
            Reply::Prefetched(Prefetched {
                prefix_count: 2,
                loaded_count: 1,
                status: Status::Quota,
            }),
        ),
        "1c000000 1100 0100 0800000000000000 02000000 01000000 fbffffff",
    );
    assert_frame(
        Message::Request(9, false, Request::PrefetchEnd { op_id: OpId(0x77) }),
        "18000000 1200 0200 0900000000000000 7700000000000000",
    );
    assert_frame(
        Message::Reply(9, Reply::PrefetchEnded),
        "10000000 1200 0100 0900000000000000",
    );
}

#[test]
fn ping_bye_and_error() {
    assert_frame(
        Message::Request(1, true, Request::Ping),
        "10000000 0b00 0000 0100000000000000",
    );
    assert_frame(
        Message::Reply(1, Reply::Pong),
        "10000000 0b00 0100 0100000000000000",
    );
    assert_frame(
        Message::Request(u64::MAX, false, Request::Bye),
        "10000000 0c00 0200 ffffffffffffffff",
    );
    assert_frame(
        Message::Reply(2, Reply::Bye),
        "10000000 0c00 0100 0200000000000000",
    );
    assert_frame(
        Message::Reply(
            3,
            Reply::Error {
                status: Status::VersionMismatch,
                text: "\u{fc}".to_owned(),
            },
        ),
        "18000000 0d00 0100 0300000000000000 f5ffffff 0200 c3bc",
    );
}

#[test]
fn grants_and_their_commits() {
    assert_frame(
        Message::Request(
            7,
            true,
            Request::Grant(Grant {
                len_bytes: 0x0102_0304,
                count: 16,
            }),
        ),
        "18000000 1400 0000 0700000000000000 04030201 10000000",
    );
    assert_frame(
        Message::Reply(
            7,
            Reply::Granted(vec![GrantedExtent {
                entry: EntryNumber(3),
                offset_units: 0x0a0b,
                generation: 0x1_0000_0002,
            }]),
        ),
        "24000000 1400 0100 0700000000000000 01000000 03000000 0b0a0000 0200000001000000",
    );
    assert_frame(
        Message::Reply(7, Reply::Granted(Vec::new())),
        "14000000 1400 0100 0700000000000000 00000000",
    );
    assert_frame(
        Message::Request(
            8,
            false,
            Request::Return(vec![HeldItem {
                entry: EntryNumber(3),
                generation: 2,
            }]),
        ),
        "20000000 1500 0200 0800000000000000 01000000 03000000 0200000000000000",
    );
    assert_frame(
        Message::Reply(8, Reply::Returned),
        "10000000 1500 0100 0800000000000000",
    );
    assert_frame(
        Message::Request(
            9,
            true,
            Request::CommitGranted(vec![GrantedItem {
                key: key(0xa1),
                entry: EntryNumber(3),
                len_bytes: 0x1000,
            }]),
        ),
        &format!("4c000000 1600 0000 0900000000000000 01000000 {KEY_A1} 03000000 00100000"),
    );
    assert_frame(
        Message::Reply(
            9,
            Reply::GrantedCommitted(vec![CommittedItem {
                status: Status::Exists,
                generation: 2,
            }]),
        ),
        "24000000 1600 0100 0900000000000000 01000000 feffffff 00000000 0200000000000000",
    );
    assert_frame(
        Message::Request(10, true, Request::Flush { position: 0x0102 }),
        "18000000 1700 0000 0a00000000000000 0201000000000000",
    );
    assert_frame(
        Message::Reply(10, Reply::Flushed),
        "10000000 1700 0100 0a00000000000000",
    );
}

#[test]
fn the_doorbell_is_no_frame() {
    assert_eq!(DOORBELL, [0]);
    assert!(FrameHeader::decode(&DOORBELL).is_err());
}
