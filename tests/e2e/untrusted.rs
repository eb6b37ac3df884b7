//! Untrusted writers: they write like all others, and never into memory that is anybody else's.
//!
//! A daemon that trusts nobody gives every writer a staging segment, also one of its own user, so most of this needs no
//! other user.

use std::os::fd::AsFd as _;
use std::time::Duration;

use hostkv::Status;
use hostkv::session::{Mapping, SINGLE_MAPPING, Session};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;
use hostkv_tests::{
    Daemon, DaemonSpec, RawClient, Worker, assert_reads, attack, is_root, key, keys, keyspace,
    request, reserve_items, skip, statuses_of, store, store_sized,
};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::access::open_folder;
use crate::{EndOnDrop, assert_refused};

const MIB: u64 = 1 << 20;

/// A daemon that trusts neither its own user nor root.
fn trusting_nobody(flags: &[&str]) -> Daemon {
    let own = nix::unistd::geteuid().to_string();
    let mut all = vec!["--untrusted-uid", "0", "--untrusted-uid", &own];
    all.extend(flags);
    Daemon::start(&all)
}

#[test]
fn an_untrusted_user_stores_and_reads_like_any_other() {
    if !is_root() {
        skip("an untrusted user stores and reads: becoming another user needs root");
        return;
    }
    let spec = DaemonSpec::new(&["--socket-mode", "666", "--untrusted-uid", "65534"]);
    let socket = open_folder(&spec);
    let daemon = spec.at(socket).start();
    let mut worker = Worker::start(&daemon);
    worker.must("uid 65534");
    worker.must("open");
    daemon.wait_for_line("read-write through a staging segment");
    // Others may write this daemon's payload, so it is not sealed against writers; what this one was given is.
    assert_eq!(worker.must("attack"), "");
    for order in ["reserve k 3 100000", "fill", "commit", "acquire k 3"] {
        worker.must(order);
    }
    assert_eq!(worker.must("verify"), "3");
    worker.must("release");
    for order in ["reserve more 2 4097", "fill"] {
        worker.must(order);
    }
    worker.must("commit-and-acquire");
    assert_eq!(worker.must("verify"), "2");
    worker.must("release");
    assert_eq!(worker.must("attack"), "");
    // A trusted session of the same daemon reads the same bytes, and writes in place.
    let session = daemon.session();
    let space = keyspace(&session);
    for (family, count) in [("k", 3), ("more", 2)] {
        let asked = keys(family, count);
        let lease = session.acquire(space, &asked, &request(0)).unwrap();
        assert_eq!(lease.prefix_count(), count);
        for (index, key) in asked.iter().enumerate() {
            assert_reads(&lease, index, key);
        }
    }
    store(&session, space, &keys("trusted", 2), 100);
    worker.must("acquire trusted 2");
    assert_eq!(worker.must("verify"), "2");
    drop((session, worker));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn no_descriptor_of_an_untrusted_writer_changes_the_payload_or_the_index() {
    let daemon = trusting_nobody(&[]);
    let client = daemon.raw_client();
    assert_eq!(attack::breaks(&client, false), [""; 0]);
    // Its own segment is its own, and keeps its size.
    let (staging, _) = client.staging().expect("a staging segment");
    let done = attack::succeed(staging);
    assert!(done.contains(&"map writable".to_owned()), "{done:?}");
    for never in ["shrink", "grow"] {
        assert!(!done.iter().any(|what| what.starts_with(never)), "{done:?}");
    }
    drop(client);
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn the_caller_does_not_notice_but_for_the_mapping_that_it_writes_into() {
    let daemon = trusting_nobody(&[]);
    let message = assert_refused(
        Session::open(&daemon.config(SINGLE_MAPPING)),
        Status::InvalidArgument,
    );
    assert!(message.contains("--untrusted-uid"), "{message}");
    let session = daemon.session();
    let space = keyspace(&session);
    // An eighth of 32 MiB.
    let (write, write_bytes) = session.mapping(Mapping::Write).unwrap();
    assert_eq!(write_bytes, 4 * MIB);
    let (read, read_bytes) = session.mapping(Mapping::Read).unwrap();
    assert_eq!(read_bytes, 32 * MIB);
    let asked = keys("k", 3);
    let reservation = store_sized(&session, space, &reserve_items(&asked, MIB));
    for index in 0..3 {
        let at = reservation.span(index).unwrap().data;
        let offset = (at as usize).checked_sub(write as usize).unwrap();
        assert!(offset as u64 + MIB <= write_bytes && offset.is_multiple_of(4096));
    }
    let lease = reservation.commit_and_acquire().unwrap();
    assert_eq!(lease.prefix_count(), 3);
    for (index, key) in asked.iter().enumerate() {
        assert_reads(&lease, index, key);
        let at = lease.span(index).unwrap().data as usize;
        assert!((read as usize..read as usize + read_bytes as usize).contains(&at));
    }
    // Dropped, existing and repeated keys are as for everybody.
    let again = [asked[0], key("new", 1), key("new", 1)];
    let reservation = session
        .reserve(space, &reserve_items(&again, 100), &request(0))
        .unwrap();
    assert_eq!(
        statuses_of(&reservation),
        [Status::Exists, Status::Ok, Status::Reserved]
    );
    drop(reservation);
    drop(lease);
    // More than the staging segment ever holds at once goes through it, evicting.
    store(&session, space, &keys("flood", 100), MIB);
    let figures = session.figures().unwrap();
    assert!(figures.l1_evicted_keys > 60, "{figures:?}");
    assert_eq!(figures.reserved_bytes, 0);
    // Children don't inherit it, and no core has it.
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", worker.pid())).unwrap();
    let of_staging = maps.split("memfd:hostkv-staging").skip(1);
    let flags: Vec<&str> = of_staging
        .filter_map(|part| part.lines().find(|line| line.starts_with("VmFlags")))
        .collect();
    assert!(!flags.is_empty());
    for line in flags {
        assert!(line.contains(" dc") && line.contains(" dd"), "{line}");
    }
    drop((session, worker));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn quotas_hold_for_what_is_staged() {
    let daemon = trusting_nobody(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = reserve_items(&keys("k", 6), MIB);
    let reservation = session.reserve(space, &asked, &request(0)).unwrap();
    let ok = Status::Ok;
    let quota = Status::Quota;
    assert_eq!(
        statuses_of(&reservation),
        [ok, ok, ok, ok, quota, quota],
        "the quota is 4 MiB"
    );
    let message = assert_refused(reservation.span(4), Status::Quota);
    assert!(message.contains("session_reserved"), "{message}");
    assert_eq!(daemon.audit().reserved_bytes, 4 * MIB);
    reservation.abort().unwrap();
    let reservation = session.reserve(space, &asked[..4], &request(0)).unwrap();
    assert_eq!(statuses_of(&reservation), [ok; 4]);
    drop(reservation);
    drop(session);
    daemon.finish();
}

#[test]
fn a_reservation_that_outlived_its_time_is_expired_and_its_place_is_free_again() {
    let daemon = trusting_nobody(&["--l1-write-ttl-seconds", "0.2"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let reservation = store_sized(&session, space, &reserve_items(&keys("k", 4), MIB));
    daemon.audit_until("the reservation expires", |audit| {
        audit.quarantined_count == 4
    });
    assert_refused(reservation.commit(), Status::Expired);
    assert_eq!(session.lookup(space, &keys("k", 4), None).unwrap(), 0);
    let reservation = session
        .reserve(space, &reserve_items(&keys("k", 4), MIB), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Ok; 4]);
    drop(reservation);
    drop(session);
    daemon.finish();
}

/// Opens, reserves, fills and commits one key by hand; gives the place in the staging segment.
fn commit_by_hand(client: &mut RawClient, op: u64, family: &str, len_bytes: u32) -> u64 {
    let space = client.keyspace();
    let asked = keys(family, 1);
    let reply = client.ask(&RawClient::reserve(op, space, &asked, len_bytes));
    let (held, granted) = RawClient::held(op, &reply);
    client.fill(&asked[0], &granted[0], len_bytes.into());
    let Reply::Committed(items) = client.ask(&Request::Commit(held)) else {
        panic!("not committed");
    };
    assert_eq!(items[0].status, Status::Ok);
    u64::from(granted[0].staging_units) * 4096
}

#[test]
fn what_a_writer_does_to_its_staging_segment_after_the_commit_changes_no_object() {
    let daemon = trusting_nobody(&[]);
    let mut client = daemon.raw_client();
    let place = commit_by_hand(&mut client, 1, "k", 100_000);
    let (fd, map) = client.staging().unwrap();
    // SAFETY: the place lies inside the map, which is this client's alone.
    unsafe {
        map.as_mut_ptr()
            .add(place as usize)
            .write_bytes(0x66, 100_000);
    }
    let reader = daemon.reader();
    let lease = reader
        .acquire(keyspace(&reader), &keys("k", 1), &request(0))
        .unwrap();
    assert_reads(&lease, 0, &key("k", 0));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, hole, 0, map.len() as i64).unwrap();
    assert_reads(&lease, 0, &key("k", 0));
    drop((lease, reader, client));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn a_writer_that_scribbles_while_it_is_copied_changes_its_own_object_and_no_other() {
    let daemon = trusting_nobody(&[]);
    let session = daemon.session();
    let others = keys("others", 4);
    store(&session, keyspace(&session), &others, MIB);
    let mut client = daemon.raw_client();
    let space = client.keyspace();
    let has_ended = AtomicBool::new(false);
    let base = client.staging().unwrap().1.as_mut_ptr() as usize;
    let staging_fd = client
        .staging()
        .unwrap()
        .0
        .as_fd()
        .try_clone_to_owned()
        .unwrap();
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&has_ended);
        scope.spawn(|| {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let mut byte = 0;
            // Relaxed: only the end of a loop.
            while !has_ended.load(Ordering::Relaxed) {
                byte += 1;
                // SAFETY: the first MiB of the staging map, which lives as long as the client; races are the point.
                unsafe { (base as *mut u8).write_bytes(byte % 100 + 1, MIB as usize) };
                // Now and then the pages go as well.
                if byte == 200 {
                    byte = 0;
                    fallocate(&staging_fd, hole, 0, MIB as i64).unwrap();
                }
            }
        });
        for op in 0..50 {
            let asked = [key("scribbled", op as usize)];
            let reply = client.ask(&RawClient::reserve(op + 1, space, &asked, MIB as u32));
            let (held, granted) = RawClient::held(op + 1, &reply);
            assert_eq!(
                granted[0].staging_units, 0,
                "the place that is scribbled over"
            );
            let Reply::Committed(items) = client.ask(&Request::Commit(held)) else {
                panic!("not committed");
            };
            assert_eq!(items[0].status, Status::Ok);
            // Whatever it is, from now on it stays.
            let lease = session
                .acquire(keyspace(&session), &asked, &request(0))
                .unwrap();
            let span = lease.span(0).unwrap();
            let read = || {
                // SAFETY: the lease keeps the bytes, and no writer maps the payload.
                unsafe { std::slice::from_raw_parts(span.data, MIB as usize) }.to_vec()
            };
            let first = read();
            assert!(first.iter().all(|byte| *byte <= 100), "bytes of others");
            std::thread::sleep(Duration::from_millis(1));
            assert!(first == read(), "a committed object changes");
            drop(lease);
            session.remove(keyspace(&session), &asked, None).unwrap();
        }
    });
    let lease = session
        .acquire(keyspace(&session), &others, &request(0))
        .unwrap();
    for (index, key) in others.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    drop((lease, session, client));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn an_untrusted_writer_killed_at_any_step_gives_everything_back() {
    let daemon = trusting_nobody(&["--l1-size-gb", "0.125"]);
    let steps: [(&[&str], u64); 7] = [
        (&["open"], 0),
        (&["open", "reserve k 4 1000000"], 0),
        (&["open", "reserve k 4 1000000", "fill"], 0),
        (&["open", "reserve k 4 1000000", "fill", "commit"], 4),
        (
            &["raw connect", "raw hello", "raw reserve-unread k 4 1000000"],
            0,
        ),
        (
            &[
                "raw connect",
                "raw hello",
                "raw reserve k 4 1000000",
                "raw commit-unread",
            ],
            4,
        ),
        (
            &[
                "raw connect",
                "raw hello",
                "raw reserve k 4 1000000",
                "raw abort-unread",
            ],
            0,
        ),
    ];
    let admin = daemon.session();
    let space = keyspace(&admin);
    for round in 0..3 {
        for (orders, stored) in steps {
            let mut worker = Worker::start(&daemon);
            for order in orders {
                worker.must(order);
            }
            worker.kill();
            daemon.wait_for_sessions(1);
            let audit = daemon.audit_until("all is given back", |audit| {
                (audit.reserved_bytes, audit.zombie_bytes) == (0, 0)
            });
            assert_eq!(audit.object_count, stored, "round {round}: {orders:?}");
            assert_eq!(admin.clear(0).unwrap(), stored);
        }
    }
    let _ = space;
    drop(admin);
    daemon.finish();
}
