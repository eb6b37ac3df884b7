//! A small pool for tests of the requests, and what every request must do whatever it is.

use super::*;
use crate::config::{EvictionPolicy, Integrity, LimitsConfig};
use crate::segment;
use crate::store::l2::L2Config;
use crate::store::{SLICE_NS, StoreConfig};
use hello::PoolFacts;
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::id::{InstanceId, OpId};
use hostkv_shm_protocol::key::{HashSecret, Key};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::version::{ABI_HASH, PROTOCOL_VERSION};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::{Hello, HelloPrefix};
use hostkv_shm_protocol::wire::report::ObjectPage;
use hostkv_shm_protocol::wire::request::{
    Held, HeldItem, List, Reserve, ReserveItem, Resolve, list_flags,
};
use std::time::Duration;

const PAYLOAD_BYTES: u64 = 8 << 20;
const ENTRIES: u32 = 1024;

/// A store over a control segment of its own, which is never unmapped, and what sessions are told of it.
pub(crate) fn pool() -> (Store, PoolFacts) {
    let geometry = Geometry::for_entries(ENTRIES);
    let control = segment::create_control(geometry.segment_len(), segment::HugePages::Off).unwrap();
    // SAFETY: the segment is leaked below, so its mapping outlives the store.
    let view = unsafe { View::new(control.base().as_ptr(), control.len_bytes()) };
    std::mem::forget(control);
    let instance_id = InstanceId([7; 16]);
    HeaderView::new(view).unwrap().initialise(&HeaderInit {
        instance_id,
        boot_id: [0; 2],
        created_mono_ns: 0,
        flags: 0,
        geometry,
        align_bytes: 4096,
        hash_secret: HashSecret { k0: 1, k1: 2 },
        payload_len: PAYLOAD_BYTES,
        max_sessions: 256,
        check_every: 0,
    });
    let config = StoreConfig {
        grant_shares: crate::store::GRANT_SHARES,
        payload_len: PAYLOAD_BYTES,
        align_bytes: 4096,
        policy: EvictionPolicy::Lru,
        watermark: 0.8,
        ratio: 0.2,
        write_ttl_ns: None,
        read_ttl_ns: None,
        chunk_size: 256,
        max_sessions: 256,
        max_reserved_ratio: 0.125,
        max_keyspaces: 100,
        requires_salt: false,
        keyspace_quota: None,
        zeroes_on_reuse: false,
        integrity: Integrity::Off,
        scrub_bytes_per_second: 0,
        l2: L2Config::default(),
        slice_ns: SLICE_NS,
    };
    let facts = PoolFacts {
        instance_id,
        daemon_thread_id: 42,
        capacity_bytes: PAYLOAD_BYTES,
        align_bytes: 4096,
        huge_page_bytes: 0,
        entry_count: ENTRIES,
        is_sealed: false,
    };
    (Store::new(config, view).unwrap(), facts)
}

/// The limits of a daemon without flags.
pub(crate) fn limits() -> LimitsConfig {
    LimitsConfig {
        write_ttl: None,
        read_ttl: None,
        chunk_size: 256,
        max_sessions: 256,
        max_pins: 65_536,
        max_reserved_ratio: 0.125,
        max_keyspaces: 100,
        spin: Duration::ZERO,
    }
}

/// A user that may write and is no admin.
pub(crate) fn applicant(uid: u32) -> Applicant {
    Applicant {
        pid: 1,
        uid,
        may_write: true,
        is_trusted: true,
        is_admin: false,
    }
}

/// The wishes of a client of this build.
pub(crate) fn hello() -> Hello {
    Hello {
        prefix: HelloPrefix {
            nonce: [0; 16],
            protocol_version: PROTOCOL_VERSION,
            abi_hash: ABI_HASH,
        },
        flags: 0,
        pin_slot_count: 256,
        mono_ns: 0,
        client_version: "0.1.0".to_owned(),
        client_name: "test".to_owned(),
    }
}

fn open(store: &mut Store, facts: &PoolFacts) -> Caller {
    let applicant = applicant(1000);
    let opened = hello::open(store, facts, &limits(), &applicant, &hello(), 0).unwrap();
    Caller {
        session: opened.session,
        applicant,
    }
}

fn reply(store: &mut Store, caller: &Caller, request: Request) -> Reply {
    match execute(store, caller, request, 1) {
        Answer::Reply(reply) | Answer::Ended(reply) => reply,
        Answer::OfLoop(wanted) => panic!("{wanted:?} is the loop's"),
        Answer::Parked(ticket) => loop {
            if let Some(done) = store.slice(1).into_iter().find(|d| d.ticket == ticket) {
                return resumed(done);
            }
        },
    }
}

fn resolve() -> Request {
    Request::Resolve(Resolve {
        flags: 0,
        tokens_per_key: 16,
        layout_fingerprint: 9,
        model_name: "model".to_owned(),
        cache_salt: String::new(),
    })
}

#[test]
fn each_request_gets_the_reply_of_its_own_kind() {
    let (mut store, facts) = pool();
    let caller = open(&mut store, &facts);
    let mut ask = |request: Request| reply(&mut store, &caller, request);
    let Reply::Resolved {
        keyspace,
        tokens_per_key: 16,
        layout_fingerprint: 9,
    } = ask(resolve())
    else {
        panic!("not resolved");
    };
    let key = Key::new(&[5; 32], 32, 0, 0, keyspace).unwrap();
    let reserve = |op_id| {
        Request::Reserve(Reserve {
            op_id: OpId(op_id),
            request_id: String::new(),
            device: String::new(),
            items: vec![ReserveItem {
                key,
                len_bytes: 5000,
            }],
        })
    };
    let held = |op_id: u64, reply: Reply| {
        let Reply::Reserved(items) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(items[0].status, Status::Ok);
        Held {
            op_id: OpId(op_id),
            items: vec![HeldItem {
                entry: items[0].entry,
                generation: items[0].generation,
            }],
        }
    };
    let first = held(1, ask(reserve(1)));
    assert_eq!(ask(Request::Abort(first)), Reply::Aborted(vec![Status::Ok]));
    let second = held(2, ask(reserve(2)));
    let Reply::Committed(committed) = ask(Request::Commit(second)) else {
        panic!("not committed");
    };
    assert_eq!(committed[0].status, Status::Ok);
    let Reply::Stats(figures) = ask(Request::Stats) else {
        panic!("no figures");
    };
    assert_eq!((figures.object_count, figures.used_bytes), (1, 8192));
    assert_eq!(ask(Request::Remove(vec![key])), Reply::Removed(vec![true]));
    assert_eq!(ask(Request::Clear { flags: 0 }), Reply::Cleared(0));
    let key_of = |first| Key::new(&[first; 32], 32, 0, 0, keyspace).unwrap();
    let reserve_of = |op_id, first| Reserve {
        op_id: OpId(op_id),
        request_id: String::new(),
        device: String::new(),
        items: vec![ReserveItem {
            key: key_of(first),
            len_bytes: 5000,
        }],
    };
    let third = held(3, ask(Request::Reserve(reserve_of(3, 6))));
    let Reply::CommitReserved(committed, reserved) =
        ask(Request::CommitReserve(third, reserve_of(4, 7)))
    else {
        panic!("not committed and reserved");
    };
    assert_eq!(committed[0].status, Status::Ok);
    let fourth = held(4, Reply::Reserved(reserved));
    assert_eq!(
        ask(Request::Abort(fourth)),
        Reply::Aborted(vec![Status::Ok])
    );
    assert_eq!(
        ask(Request::Remove(vec![key_of(6)])),
        Reply::Removed(vec![true])
    );
    assert_eq!(ask(Request::Ping), Reply::Pong);
    assert_eq!(ask(Request::Bye), Reply::Bye);
    assert_eq!(store.session_count(), 0);
}

#[test]
fn an_audit_is_for_admins_and_the_refusal_names_the_uid_and_the_flag() {
    let (mut store, facts) = pool();
    let mut caller = open(&mut store, &facts);
    let Reply::Error { status, text } = reply(&mut store, &caller, Request::Audit) else {
        panic!("not refused");
    };
    assert_eq!(status, Status::Permission);
    assert!(text.contains("--admin-uid 1000"), "{text}");
    caller.applicant.is_admin = true;
    let Reply::Audit(audit) = reply(&mut store, &caller, Request::Audit) else {
        panic!("no audit");
    };
    assert_eq!(audit.verdict, "");
    assert_eq!(audit.capacity_bytes, PAYLOAD_BYTES);
}

#[test]
fn what_operators_ask_is_for_admins_and_the_refusal_names_the_uid_and_the_flag() {
    let (mut store, facts) = pool();
    let mut caller = open(&mut store, &facts);
    let list = || {
        Request::List(List {
            flags: 0,
            limit: 1,
            cursor: 0,
            model_name: String::new(),
            cache_salt: String::new(),
        })
    };
    for request in [list(), Request::State { cursor: 0 }, Request::Reload] {
        let Reply::Error { status, text } = reply(&mut store, &caller, request) else {
            panic!("not refused");
        };
        assert_eq!(status, Status::Permission);
        assert!(text.contains("--admin-uid 1000"), "{text}");
    }
    caller.applicant.is_admin = true;
    for (request, wanted) in [
        (
            Request::State { cursor: 7 },
            LoopRequest::State { cursor: 7 },
        ),
        (Request::Reload, LoopRequest::Reload),
    ] {
        let answer = execute(&mut store, &caller, request, 1);
        assert_eq!(answer, Answer::OfLoop(wanted));
    }
    assert!(matches!(
        reply(&mut store, &caller, list()),
        Reply::Listed(_)
    ));
}

#[test]
fn a_walk_meets_every_object_once_whatever_comes_and_goes_and_ends_wherever_it_begins() {
    let (mut store, facts) = pool();
    let mut caller = open(&mut store, &facts);
    caller.applicant.is_admin = true;
    let mut op_id = 0;
    let mut put = |store: &mut Store, model: &str, salt: &str, first: u8| {
        let resolve = Request::Resolve(Resolve {
            flags: 0,
            tokens_per_key: 16,
            layout_fingerprint: 9,
            model_name: model.to_owned(),
            cache_salt: salt.to_owned(),
        });
        let Reply::Resolved { keyspace, .. } = reply(store, &caller, resolve) else {
            panic!("not resolved");
        };
        let key = Key::new(&[first; 32], 5, 3, 4, keyspace).unwrap();
        op_id += 1;
        let reserve = Request::Reserve(Reserve {
            op_id: OpId(op_id),
            request_id: String::new(),
            device: String::new(),
            items: vec![ReserveItem {
                key,
                len_bytes: 5000,
            }],
        });
        let Reply::Reserved(items) = reply(store, &caller, reserve) else {
            panic!("not reserved");
        };
        let held = Held {
            op_id: OpId(op_id),
            items: vec![HeldItem {
                entry: items[0].entry,
                generation: items[0].generation,
            }],
        };
        reply(store, &caller, Request::Commit(held));
        key
    };
    let keys: Vec<Key> = (0..60).map(|i| put(&mut store, "a", "", i)).collect();
    put(&mut store, "a", "secret", 200);
    put(&mut store, "b", "secret", 201);
    let page = |store: &mut Store, flags, limit, cursor, model: &str, salt: &str| {
        let list = Request::List(List {
            flags,
            limit,
            cursor,
            model_name: model.to_owned(),
            cache_salt: salt.to_owned(),
        });
        let Reply::Listed(json) = reply(store, &caller, list) else {
            panic!("no page");
        };
        assert!(!json.contains("secret"), "{json}");
        serde_json::from_str::<ObjectPage>(&json).unwrap()
    };
    // Half of the objects go during the walk, and others take their entries.
    let mut met = Vec::new();
    let mut cursor = 0;
    for step in 0.. {
        let part = page(&mut store, list_flags::BY_MODEL, 7, cursor, "a", "");
        assert!(part.objects.len() <= 7);
        met.extend(part.objects);
        if step == 2 {
            reply(&mut store, &caller, Request::Remove(keys[30..].to_vec()));
            while store.has_work() {
                store.slice(2);
            }
            for i in 100..110 {
                put(&mut store, "b", "", i);
            }
        }
        match part.next_cursor {
            Some(next) => cursor = next,
            None => break,
        }
    }
    let stayed: Vec<&str> = met
        .iter()
        .map(|object| object.chunk_hash.as_str())
        .filter(|hash| u8::from_str_radix(&hash[..2], 16).unwrap() < 30)
        .collect();
    let wanted: Vec<String> = (0..30).map(|i| format!("{i:02x}").repeat(5)).collect();
    assert_eq!(stayed, wanted);
    let salted = met.iter().filter(|object| object.is_salted).count();
    assert_eq!(salted, 1);
    let one = &met[0];
    assert_eq!(
        (one.kv_rank, one.object_group_id, one.len_bytes),
        (3, 4, 5000)
    );
    let by_salt = page(&mut store, list_flags::BY_SALT, 1024, 0, "", "secret");
    assert_eq!(by_salt.objects.len(), 2);
    for cursor in [1024, 1 << 32, u64::MAX] {
        let past = page(&mut store, 0, 1024, cursor, "", "");
        assert_eq!((past.objects.len(), past.next_cursor), (0, None));
    }
}

#[test]
fn a_refused_reserve_counts_its_keys_as_invalid() {
    let (mut store, facts) = pool();
    let caller = open(&mut store, &facts);
    let Reply::Resolved { keyspace, .. } = reply(&mut store, &caller, resolve()) else {
        panic!("not resolved");
    };
    let item = |byte| ReserveItem {
        key: Key::new(&[byte; 32], 32, 0, 0, keyspace).unwrap(),
        len_bytes: 0,
    };
    let refused = reply(
        &mut store,
        &caller,
        Request::Reserve(Reserve {
            op_id: OpId(1),
            request_id: String::new(),
            device: String::new(),
            items: vec![item(1), item(2)],
        }),
    );
    assert!(
        matches!(
            refused,
            Reply::Error {
                status: Status::InvalidArgument,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(store.stats().write_failures.invalid, 2);
    assert_eq!(store.stats().write_requests, 0);
}
