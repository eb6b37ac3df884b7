//! Stores without a round trip: readable after a flush and soon without one, given back after every death, and hostile to
//! nobody.

use std::process::Command;
use std::time::Duration;

use hostkv::session::{ASYNC_COMMIT, READ_ONLY, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::{COMMIT_RECORDS, Commits};
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::wire::MAX_OUTSTANDING;
use hostkv_shm_protocol::wire::header::DOORBELL;
use hostkv_shm_protocol::wire::hello::hello_flags;
use hostkv_shm_protocol::wire::reply::{GrantedExtent, Reply};
use hostkv_shm_protocol::wire::request::{Grant, GrantedItem, Request as WireRequest};
use hostkv_tests::{
    Daemon, DaemonSpec, Random, RawClient, Worker, assert_reads, key, keys, keyspace,
    keyspace_config, request, reserve_items, seed, skip, statuses_of, store, store_sized,
    wait_until,
};

use nix::sys::signal::Signal;

use crate::assert_refused;

fn open(daemon: &Daemon) -> (Session, KeyspaceId) {
    let session = Session::open(&daemon.config(ASYNC_COMMIT)).unwrap();
    let space = keyspace(&session);
    (session, space)
}

fn present(session: &Session, space: KeyspaceId, asked: &[ChunkKey]) -> usize {
    let mut there = vec![0; asked.len()];
    session.lookup(space, asked, Some(&mut there)).unwrap();
    there.iter().filter(|byte| **byte == 1).count()
}

fn assert_bytes(session: &Session, space: KeyspaceId, asked: &[ChunkKey]) {
    let lease = session.acquire(space, asked, &request(0)).unwrap();
    assert_eq!(lease.prefix_count(), asked.len());
    for (index, key) in asked.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.release().unwrap();
}

#[test]
fn what_was_committed_is_readable_after_a_flush_and_soon_without_one() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    let reader = daemon.reader();
    let read_space = keyspace(&reader);
    let first = keys("flushed", 20);
    store(&session, space, &first, 5000);
    session.flush().unwrap();
    assert_eq!(present(&reader, read_space, &first), 20);
    assert_bytes(&reader, read_space, &first);
    // The daemon sleeps by now, and nothing but the commit's own bell wakes it; a tick would come after 100 ms.
    let mut slowest = Duration::ZERO;
    for round in 0..50 {
        std::thread::sleep(Duration::from_millis(3));
        let one = keys(&format!("soon{round}"), 1);
        store(&session, space, &one, 5000);
        let since = std::time::Instant::now();
        wait_until("it is readable", || present(&reader, read_space, &one) == 1);
        slowest = slowest.max(since.elapsed());
    }
    eprintln!("readable after {slowest:?} at most");
    let audit = daemon.audit();
    assert_eq!(audit.object_count, 70);
    drop((session, reader));
    daemon.wait_for_sessions(0);
    assert_eq!(daemon.audit().reserved_bytes, 0, "all grants are back");
    daemon.finish();
}

#[test]
fn a_store_is_counted_and_told_as_one_by_the_socket_is() {
    let spec = DaemonSpec::default();
    let events = spec.folder().join("events.jsonl");
    let jsonl = format!(r#"{{"type": "jsonl", "path": "{}"}}"#, events.display());
    let flags = ["--enable-telemetry", "--telemetry-processor", &jsonl];
    let daemon = DaemonSpec::new(&flags).beside(&spec).start();
    let (session, space) = open(&daemon);
    store(&session, space, &keys("told", 3), 5000);
    let again = session
        .reserve(space, &reserve_items(&keys("told", 4), 5000), &request(0))
        .unwrap();
    session.flush().unwrap();
    // Three of them may have been on their way when the second reserve looked.
    again.abort().unwrap();
    let again = session
        .reserve(space, &reserve_items(&keys("told", 4), 5000), &request(0))
        .unwrap();
    assert_eq!(
        statuses_of(&again),
        [Status::Exists, Status::Exists, Status::Exists, Status::Ok]
    );
    again.abort().unwrap();
    let figures = daemon.figures();
    assert_eq!((figures.sm_write_requests, figures.l1_write_keys), (3, 3));
    assert_eq!(
        figures.sm_write_succeed_keys + figures.sm_write_failed_keys,
        3 + 4 + 4
    );
    assert!(figures.sm_write_failed_keys >= 3, "{figures:?}");
    daemon.wait_for_line("Stored 768 tokens in");
    let ends = || {
        let text = std::fs::read_to_string(&events).unwrap_or_default();
        let is_end = |line: &&str| line.contains("stored_count");
        text.lines().filter(is_end).count()
    };
    wait_until("the ENDs are told", || ends() == 3);
    drop(session);
    daemon.finish();
}

#[test]
fn the_first_commit_of_a_key_wins_and_the_others_are_ok() {
    let daemon = Daemon::start(&[]);
    let ((first, space), (second, other)) = (open(&daemon), open(&daemon));
    let third = daemon.session();
    let third_space = keyspace(&third);
    let asked = keys("k", 4);
    let items = reserve_items(&asked, 5000);
    let slow = store_sized(&third, third_space, &items);
    let loser = store_sized(&second, other, &items);
    let winner = store_sized(&first, space, &items);
    assert_eq!(statuses_of(&loser), [Status::Ok; 4]);
    winner.commit().unwrap();
    first.flush().unwrap();
    assert_eq!(
        present(&third, third_space, &asked),
        4,
        "the socket's writer holds nothing up"
    );
    let before = daemon.audit();
    loser.commit().unwrap();
    second.flush().unwrap();
    let lease = slow.commit_and_acquire().unwrap();
    assert_eq!(lease.prefix_count(), 4);
    for (index, key) in asked.iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.release().unwrap();
    let after = daemon.audit();
    assert_eq!(after.object_count, 4);
    assert_eq!((after.quarantined_bytes, after.pin_count), (0, 0));
    // The loser has its extents still, for its next store.
    assert_eq!(before.reserved_bytes, after.reserved_bytes);
    let items = reserve_items(&keys("next", 4), 5000);
    store_sized(&second, other, &items).commit().unwrap();
    second.flush().unwrap();
    assert_eq!(present(&first, space, &keys("next", 4)), 4);
    drop((first, second, third));
    daemon.finish();
}

#[test]
fn an_object_is_pinned_before_it_is_visible_when_that_is_asked() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    store(&session, space, &keys("pinned", 1), 5000);
    session.flush().unwrap();
    let asked = keys("pinned", 3);
    let reservation = session
        .reserve(space, &reserve_items(&asked, 5000), &request(0))
        .unwrap();
    let expected = [Status::Exists, Status::Ok, Status::Ok];
    assert_eq!(statuses_of(&reservation), expected);
    for (index, key) in asked.iter().enumerate().skip(1) {
        let span = reservation.span(index).unwrap();
        // SAFETY: the span is this test's alone until the commit.
        unsafe { hostkv_tests::fill(key, span.data, span.len_bytes) };
    }
    let lease = reservation.commit_and_acquire().unwrap();
    assert_eq!(lease.prefix_count(), 3);
    for (index, key) in keys("pinned", 3).iter().enumerate() {
        assert_reads(&lease, index, key);
    }
    lease.release().unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn a_full_ring_and_objects_that_are_never_granted_go_by_the_socket() {
    let daemon = Daemon::start(&["--l1-size-gb", "0.25", "--l1-align-bytes", "64"]);
    let (session, space) = open(&daemon);
    // Nobody drains while the daemon stands still.
    let batch = |number: usize| keys(&format!("full{number}"), 512);
    let reserved: Vec<_> = (0..3)
        .map(|n| store_sized(&session, space, &reserve_items(&batch(n), 64)))
        .collect();
    daemon.signal(Signal::SIGSTOP);
    let mut reserved = reserved.into_iter();
    for _ in 0..2 {
        reserved.next().unwrap().commit().unwrap();
    }
    let third = reserved.next().unwrap();
    let pid = nix::unistd::Pid::from_raw(daemon.pid() as i32);
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
    });
    // It comes back only when the daemon has answered.
    third.commit().unwrap();
    waker.join().unwrap();
    assert_eq!(COMMIT_RECORDS, 1024);
    for number in 0..3 {
        assert_eq!(present(&session, space, &batch(number)), 512);
    }
    let large = reserve_items(&keys("large", 1), 8 << 20);
    store_sized(&session, space, &large).commit().unwrap();
    assert_eq!(present(&session, space, &keys("large", 1)), 1);
    drop(session);
    daemon.finish();
}

#[test]
fn a_request_never_overtakes_a_commit_of_its_session() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    for round in 0..200 {
        let one = [key("order", round)];
        store(&session, space, &one, 5000);
        let mut removed = [0];
        session.remove(space, &one, Some(&mut removed)).unwrap();
        assert_eq!(removed, [1], "round {round}");
    }
    drop(session);
    daemon.finish();
}

#[test]
fn grants_come_back_when_a_reserve_finds_no_space() {
    let daemon = Daemon::start(&["--eviction-policy", "noop"]);
    let (session, space) = open(&daemon);
    store(&session, space, &keys("one", 1), 4096);
    session.flush().unwrap();
    let held = || daemon.audit().reserved_bytes;
    assert!(held() > 0, "it holds grants ahead of need");
    let other = daemon.session();
    let other_space = keyspace(&other);
    // The pool is full for the other one, grants and all.
    for number in 0.. {
        let items = reserve_items(&keys(&format!("fill{number}"), 1), 4096);
        let reservation = other.reserve(other_space, &items, &request(0)).unwrap();
        if statuses_of(&reservation) != [Status::Ok] {
            break;
        }
        reservation.commit().unwrap();
    }
    session.flush().unwrap();
    wait_until("the grants are back", || held() == 0);
    let items = reserve_items(&keys("now", 1), 4096);
    let reservation = other.reserve(other_space, &items, &request(0)).unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Ok]);
    reservation.commit().unwrap();
    drop((session, other));
    daemon.finish();
}

#[test]
fn a_session_that_does_not_write_or_has_no_ring_says_so_and_works() {
    let daemon = Daemon::start(&["--keyspace-quota", "0.5"]);
    let message = assert_refused(
        Session::open(&daemon.config(READ_ONLY | ASYNC_COMMIT)),
        Status::InvalidArgument,
    );
    assert!(message.contains("ASYNC_COMMIT"), "{message}");
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let flags = hello_flags::READ_ONLY | hello_flags::ASYNC_COMMIT;
    let refused = raw.open_with(flags).unwrap_err();
    assert_eq!(refused.status, Status::InvalidArgument);
    let (session, space) = open(&daemon);
    daemon.wait_for_line("commits by socket because of --keyspace-quota");
    store(&session, space, &keys("k", 3), 5000);
    assert_eq!(
        present(&session, space, &keys("k", 3)),
        3,
        "without a flush"
    );
    session.flush().unwrap();
    assert_eq!(daemon.audit().reserved_bytes, 0);
    let plain = daemon.session();
    plain.flush().unwrap();
    // A session without a ring is granted nothing.
    let mut raw = daemon.raw_client();
    let reply = raw.ask(&WireRequest::Grant(Grant {
        len_bytes: 4096,
        count: 1,
    }));
    assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
    drop((session, plain, raw));
    daemon.finish();
}

#[test]
fn where_extents_are_zeroed_on_reuse_no_session_keeps_them_for_its_next_keyspace() {
    let daemon = Daemon::start(&["--zero-on-reuse"]);
    let (session, space) = open(&daemon);
    daemon.wait_for_line("commits by socket because of --zero-on-reuse");
    let other = session.open_keyspace(&keyspace_config("other")).unwrap();
    for number in 0..20 {
        let name = format!("k{number}");
        let items = reserve_items(&keys(&name, 1), 4096);
        let given_up = session.reserve(space, &items, &request(0)).unwrap();
        let span = given_up.span(0).unwrap();
        // SAFETY: a granted span is this thread's alone until the reservation ends.
        unsafe { span.data.write_bytes(0x5a, 4096) };
        given_up.abort().unwrap();
        let next = session.reserve(other, &items, &request(0)).unwrap();
        // SAFETY: as above, and every byte of a shared mapping is initialised.
        let bytes = unsafe { next.slice_mut(0) }.unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "{name}");
        next.abort().unwrap();
    }
    drop(session);
    daemon.finish();
}

#[test]
fn an_object_has_its_sum_before_a_flush_comes_back() {
    let daemon = Daemon::start(&["--integrity", "full"]);
    let (session, space) = open(&daemon);
    for round in 0..20 {
        let asked = keys(&format!("summed{round}"), 16);
        store(&session, space, &asked, 5000);
        session.flush().unwrap();
        assert_bytes(&session, space, &asked);
    }
    let reservation = store_sized(&session, space, &reserve_items(&keys("pinned", 2), 5000));
    let lease = reservation.commit_and_acquire().unwrap();
    assert_eq!(lease.prefix_count(), 2);
    lease.release().unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn the_end_of_the_daemon_is_told_at_the_next_call() {
    let daemon = Daemon::start(&[]);
    let (session, space) = open(&daemon);
    store(&session, space, &keys("k", 1), 5000);
    let held = store_sized(&session, space, &reserve_items(&keys("held", 1), 5000));
    drop(daemon.kill());
    wait_until("the end is seen", || {
        session.lookup(space, &keys("k", 1), None).is_err()
    });
    assert_refused(held.commit(), Status::Disconnected);
    assert_refused(session.flush(), Status::Disconnected);
    let items = reserve_items(&keys("more", 1), 5000);
    assert_refused(
        session.reserve(space, &items, &request(0)),
        Status::Disconnected,
    );
}

#[test]
fn a_store_makes_no_system_call_but_the_bell() {
    const BEFORE: usize = 70;
    const ROUNDS: usize = 40;
    let can_trace = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can_trace {
        skip("the system calls of stores without a round trip: strace is missing or may not trace");
        return;
    }
    let daemon = Daemon::start(&[]);
    let trace = daemon.spec().folder().join("trace");
    let trace = trace.to_str().unwrap();
    let wrapper = ["strace", "-f", "-e", "trace=all", "-o", trace];
    let mut worker = Worker::start_at(&daemon.socket(), &wrapper);
    worker.must("open async");
    // Grants of 16, 32 and 64 extents came before the marker, and are enough for what follows.
    worker.must(&format!("stores {BEFORE} {ROUNDS}"));
    worker.end();
    let text = std::fs::read_to_string(trace).unwrap();
    let between: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("write(-1,"))
        .skip(1)
        .take_while(|line| !line.contains("write(-1,"))
        .collect();
    let is_bell = |line: &&&str| line.contains("sendto(") && line.contains(r#""\0", 1,"#);
    let others: Vec<_> = between.iter().filter(|line| !is_bell(line)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(
        between.len() <= ROUNDS,
        "{} bells for {ROUNDS} stores",
        between.len()
    );
    let figures = daemon.figures();
    assert_eq!(figures.l1_write_keys as usize, BEFORE + ROUNDS);
    assert_eq!(figures.sm_write_requests as usize, BEFORE + ROUNDS);
    daemon.finish();
}

#[test]
fn a_worker_killed_at_any_step_leaves_what_it_committed_and_nothing_else() {
    let steps = ["open async", "reserve k 4 8000", "fill", "commit", "flush"];
    for last in 0..steps.len() {
        let daemon = Daemon::start(&[]);
        let mut worker = Worker::start(&daemon);
        for (number, order) in steps[..=last].iter().enumerate() {
            if *order == "commit" && number == last {
                // Its records lie in the ring when it dies, and the daemon has seen none.
                daemon.signal(Signal::SIGSTOP);
            }
            worker.must(order);
        }
        worker.kill();
        daemon.signal(Signal::SIGCONT);
        daemon.wait_for_sessions(0);
        let audit = daemon.audit();
        let committed = if last >= 3 { 4 } else { 0 };
        assert_eq!(
            audit.object_count, committed,
            "killed after {:?}",
            steps[last]
        );
        assert_eq!(audit.reserved_bytes, 0, "killed after {:?}", steps[last]);
        assert_eq!(audit.free_bytes, audit.capacity_bytes - committed * 8192);
        if committed > 0 {
            let reader = daemon.reader();
            assert_bytes(&reader, keyspace(&reader), &keys("k", 4));
            drop(reader);
        }
        daemon.finish();
    }
}

/// A client that speaks the protocol by hand and has a ring.
struct Raw {
    client: RawClient,
    space: KeyspaceId,
    commits: Commits,
}

impl Raw {
    fn open(daemon: &Daemon) -> Raw {
        let mut client = RawClient::connect(daemon.socket()).unwrap();
        client.open_with(hello_flags::ASYNC_COMMIT).unwrap();
        let space = client.keyspace();
        let view = client.lease();
        let geometry = LeaseGeometry::read(&view).unwrap();
        let commits = Commits::new(view, &geometry).unwrap().unwrap();
        Raw {
            client,
            space,
            commits,
        }
    }

    fn grant(&mut self, count: u32) -> Vec<GrantedExtent> {
        let len_bytes = 4096;
        match self
            .client
            .ask(&WireRequest::Grant(Grant { len_bytes, count }))
        {
            Reply::Granted(extents) => extents,
            other => panic!("{other:?}"),
        }
    }

    fn key(&self, number: usize) -> hostkv_shm_protocol::key::Key {
        let key = key("raw", number);
        hostkv_shm_protocol::key::Key::new(
            &key.chunk_hash,
            key.chunk_hash_len,
            key.kv_rank,
            key.object_group_id,
            self.space,
        )
        .unwrap()
    }

    fn ring(&self) {
        self.client.send_bytes(&DOORBELL).unwrap();
    }

    /// The outcome of the record at a position, once the daemon has taken it.
    fn outcome(&self, position: u64) -> Status {
        self.ring();
        wait_until("the record is taken", || self.commits.tail() > position);
        self.commits.outcome(position)
    }
}

#[test]
fn a_commit_behind_64_requests_that_wait_is_readable_soon_all_the_same() {
    const STORES: u64 = 20;
    let daemon = Daemon::start(&[]);
    let reader = daemon.reader();
    let space = keyspace(&reader);
    let mut raw = Raw::open(&daemon);
    let own = raw.grant(STORES as u32);
    // Each waits for a record that never comes, and with them the daemon reads no further.
    let far = WireRequest::Flush {
        position: STORES + 1,
    };
    for _ in 0..MAX_OUTSTANDING {
        raw.client.send(&far);
    }
    let mut ticks_waited = 0;
    for (number, granted) in own.iter().enumerate() {
        // Time for the daemon to fall asleep.
        std::thread::sleep(Duration::from_millis(3));
        let before = raw.client.heartbeat_tick();
        raw.commits
            .write(number as u64, granted.entry, 4096, &raw.key(number));
        raw.ring();
        wait_until("it is readable", || {
            reader.lookup(space, &[key("raw", number)], None).unwrap() == 1
        });
        ticks_waited += raw.client.heartbeat_tick() - before;
    }
    // A tick every 100 ms would have it readable too, one at a time.
    eprintln!("{ticks_waited} ticks for {STORES} stores");
    assert!(ticks_waited < STORES / 2, "{ticks_waited} ticks");
    // Their end lets the socket be read again.
    raw.commits
        .write(STORES, EntryNumber(u32::MAX), 1, &raw.key(0));
    for _ in 0..MAX_OUTSTANDING {
        assert_eq!(raw.client.receive(), Reply::Flushed);
    }
    let reply = raw.client.ask(&WireRequest::Ping);
    assert!(!matches!(reply, Reply::Error { .. }), "{reply:?}");
    drop((raw, reader));
    daemon.finish();
}

#[test]
fn a_record_that_lies_is_refused_and_hurts_nobody() {
    let daemon = Daemon::start(&[]);
    let (honest, space) = open(&daemon);
    store(&honest, space, &keys("honest", 4), 5000);
    let mut other = Raw::open(&daemon);
    let foreign = other.grant(1)[0];
    let mut raw = Raw::open(&daemon);
    let own = raw.grant(4);
    assert_eq!(own.len(), 4);
    let good = raw.key(0);
    let elsewhere = {
        let mut words = *good.words();
        words[5] |= 77;
        hostkv_shm_protocol::key::Key::from_words(words).unwrap()
    };
    let lies = [
        (EntryNumber(u32::MAX), 4096, good),
        (EntryNumber(0), 4096, good),
        (foreign.entry, 4096, good),
        (own[0].entry, 0, good),
        (own[0].entry, 4097, good),
        (own[0].entry, u32::MAX, good),
        (own[0].entry, 4096, elsewhere),
    ];
    let mut position = 0;
    for (entry, len_bytes, key) in lies {
        raw.commits.write(position, entry, len_bytes, &key);
        assert_eq!(raw.outcome(position), Status::InvalidArgument, "{entry:?}");
        position += 1;
    }
    daemon.wait_for_line("commits what it may not");
    // The truth still counts, once.
    for outcome in [Status::Ok, Status::InvalidArgument] {
        raw.commits.write(position, own[0].entry, 4096, &good);
        assert_eq!(raw.outcome(position), outcome);
        position += 1;
    }
    let spoken = raw.client.ask(&WireRequest::CommitGranted(vec![
        GrantedItem {
            key: raw.key(1),
            entry: foreign.entry,
            len_bytes: 1,
        },
        GrantedItem {
            key: raw.key(2),
            entry: own[1].entry,
            len_bytes: 1,
        },
    ]));
    let Reply::GrantedCommitted(items) = spoken else {
        panic!("{spoken:?}");
    };
    let told: Vec<Status> = items.iter().map(|item| item.status).collect();
    assert_eq!(told, [Status::InvalidArgument, Status::Ok]);
    let far = raw.client.ask(&WireRequest::Flush { position: u64::MAX });
    assert!(matches!(far, Reply::Error { .. }), "{far:?}");
    honest.flush().unwrap();
    assert_bytes(&honest, space, &keys("honest", 4));
    drop((raw, other, honest));
    daemon.wait_for_sessions(0);
    let audit = daemon.audit();
    assert_eq!((audit.reserved_bytes, audit.object_count), (0, 6));
    daemon.finish();
}

#[test]
fn random_words_all_over_a_ring_hurt_nobody() {
    let daemon = Daemon::start(&[]);
    let (honest, space) = open(&daemon);
    let mut random = Random(seed("random_words_all_over_a_ring_hurt_nobody"));
    let mut raw = Raw::open(&daemon);
    let own = raw.grant(16);
    let view = raw.client.lease();
    let geometry = LeaseGeometry::read(&view).unwrap();
    let first = geometry.commits_offset();
    for round in 0..2000_u64 {
        for _ in 0..32 {
            let place = random.below(u64::from(COMMIT_RECORDS));
            let word = random.below(8);
            let value = match random.below(4) {
                0 => random.next_word(),
                1 => raw.commits.tail() + 1 + random.below(3),
                2 => u64::from(own[random.below(16) as usize].entry.0) | 4096 << 32,
                _ => raw.key(random.below(9) as usize).words()[random.below(6) as usize],
            };
            let at = first + place * 64 + word * 8;
            view.u64(at).unwrap().store(value, Ordering::Relaxed);
        }
        // Head and tail are the client's to spoil.
        for at in [384, 448] {
            view.u64(at)
                .unwrap()
                .store(random.next_word(), Ordering::Relaxed);
        }
        raw.ring();
        if round % 200 == 0 {
            let asked = keys(&format!("beside{round}"), 2);
            store(&honest, space, &asked, 5000);
            honest.flush().unwrap();
            assert_bytes(&honest, space, &asked);
        }
    }
    drop(raw);
    drop(honest);
    daemon.wait_for_sessions(0);
    assert_eq!(daemon.audit().reserved_bytes, 0);
    daemon.finish();
}
