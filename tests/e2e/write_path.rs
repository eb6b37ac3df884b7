//! Writes: reserve, write in place, commit or abort.

use std::os::fd::{AsFd as _, AsRawFd as _};

use hostkv::Status;
use hostkv_tests::{
    Daemon, RawClient, assert_reads, key, keys, keyspace, request, reserve_items, statuses_of,
    store, store_sized,
};

use crate::assert_refused;

#[test]
fn a_key_that_is_there_says_exists_and_one_that_is_being_written_says_reserved() {
    let daemon = Daemon::start(&[]);
    let (first, second) = (daemon.session(), daemon.session());
    let (space, other) = (keyspace(&first), keyspace(&second));
    let asked = keys("k", 3);
    store(&first, space, &asked[..1], 100);
    let held = store_sized(&first, space, &reserve_items(&asked[1..2], 100));
    let reservation = second
        .reserve(other, &reserve_items(&asked, 100), &request(0))
        .unwrap();
    let expected = [Status::Exists, Status::Reserved, Status::Ok];
    assert_eq!(statuses_of(&reservation), expected);
    reservation.abort().unwrap();
    held.abort().unwrap();
    // Once it is given back, the other writer may have it.
    let reservation = second
        .reserve(other, &reserve_items(&asked[1..2], 100), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Ok]);
    drop(reservation);
    drop((first, second));
    daemon.finish();
}

#[test]
fn the_second_occurrence_in_one_reserve_is_reserved() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let twice = [key("a", 0), key("b", 0), key("a", 0)];
    let reservation = session
        .reserve(space, &reserve_items(&twice, 100), &request(0))
        .unwrap();
    assert_eq!(
        statuses_of(&reservation),
        [Status::Ok, Status::Ok, Status::Reserved]
    );
    reservation.commit().unwrap();
    assert_eq!(session.lookup(space, &twice, None).unwrap(), 3);
    assert_eq!(daemon.audit().object_count, 2);
    drop(session);
    daemon.finish();
}

#[test]
fn a_length_of_zero_or_above_the_largest_object_fails_the_whole_call() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let most = session.info().unwrap().max_object_bytes;
    for bad in [0, most + 1, 1 << 32, u64::MAX] {
        let mut items = reserve_items(&keys("k", 2), 100);
        items[1].len_bytes = bad;
        let message = assert_refused(
            session.reserve(space, &items, &request(0)),
            Status::InvalidArgument,
        );
        let limit = most.to_string();
        assert!(
            message.contains(&limit) && message.contains("item 1"),
            "{message}"
        );
    }
    assert_eq!(daemon.audit().reserved_bytes, 0);
    let reservation = store_sized(&session, space, &reserve_items(&keys("k", 1), most));
    assert_eq!(daemon.audit().reserved_bytes, most);
    reservation.commit().unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn the_daemon_itself_refuses_lengths_and_keyspaces_that_a_client_lets_through() {
    let daemon = Daemon::start(&[]);
    let mut raw = daemon.raw_client();
    let space = raw.keyspace();
    let asked = keys("k", 1);
    use hostkv_shm_protocol::wire::reply::Reply;
    for (bad_space, length) in [(space, 0), (space, u32::MAX), (hostkv::KeyspaceId(99), 10)] {
        let reply = raw.ask(&RawClient::reserve(1, bad_space, &asked, length));
        assert!(
            matches!(
                &reply,
                Reply::Error {
                    status: Status::InvalidArgument,
                    ..
                }
            ),
            "{reply:?}"
        );
    }
    // The same number for two reservations.
    assert!(matches!(
        raw.ask(&RawClient::reserve(2, space, &asked, 10)),
        Reply::Reserved(_)
    ));
    let again = raw.ask(&RawClient::reserve(2, space, &keys("l", 1), 10));
    assert!(
        matches!(
            again,
            Reply::Error {
                status: Status::InvalidArgument,
                ..
            }
        ),
        "{again:?}"
    );
    let scrape = daemon.scrape();
    assert_eq!(scrape.counter("sm_write_requests_total"), 1);
    assert_eq!(scrape.write_failures("invalid"), 4);
    drop(raw);
    daemon.finish();
}

#[test]
fn commit_and_acquire_pins_before_others_can_evict() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 4);
    store(&session, space, &asked[1..2], 700);
    let other = daemon.session();
    let held = store_sized(&other, keyspace(&other), &reserve_items(&asked[3..], 10));
    let reservation = session
        .reserve(space, &reserve_items(&asked, 500), &request(0))
        .unwrap();
    let expected = [Status::Ok, Status::Exists, Status::Ok, Status::Reserved];
    assert_eq!(statuses_of(&reservation), expected);
    for index in [0, 2] {
        let span = reservation.span(index).unwrap();
        // SAFETY: the span is this test's alone until the commit.
        unsafe { hostkv_tests::fill(&asked[index], span.data, span.len_bytes) };
    }
    let lease = reservation.commit_and_acquire().unwrap();
    assert_eq!((lease.count(), lease.prefix_count()), (4, 3));
    for (index, length) in [(0, 500), (1, 700), (2, 500)] {
        assert_eq!(lease.span(index).unwrap().len_bytes, length);
        assert_reads(&lease, index, &asked[index]);
    }
    assert_refused(lease.span(3), Status::NotFound);
    assert_eq!(daemon.audit().pin_count, 3);
    lease.release().unwrap();
    held.abort().unwrap();
    drop((session, other));
    daemon.finish();
}

#[test]
fn without_eviction_a_full_pool_grants_the_leading_run_and_says_no_space() {
    let daemon = Daemon::start(&["--eviction-policy", "noop"]);
    let session = daemon.session();
    let space = keyspace(&session);
    store(&session, space, &keys("fill", 30), 1 << 20);
    let mut asked = keys("more", 4);
    asked.push(key("fill", 0));
    let reservation = session
        .reserve(space, &reserve_items(&asked, 1 << 20), &request(0))
        .unwrap();
    let (ok, full) = (Status::Ok, Status::NoSpace);
    assert_eq!(
        statuses_of(&reservation),
        [ok, ok, full, full, Status::Exists]
    );
    let message = assert_refused(reservation.span(2), full);
    assert!(
        message.contains("no_space") && message.contains("--l1-size-gb"),
        "{message}"
    );
    reservation.commit().unwrap();
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.free_bytes), (32, 0));
    let scrape = daemon.scrape();
    assert_eq!(scrape.counter("l1_evicted_keys_total"), 0);
    assert_eq!(scrape.write_failures("no_space"), 2);
    drop(session);
    daemon.finish();
}

#[test]
fn without_eviction_a_full_index_says_no_space_with_its_reason() {
    let flags = ["--eviction-policy", "noop", "--max-objects", "1000"];
    let daemon = Daemon::start(&flags);
    let session = daemon.session();
    let space = keyspace(&session);
    let room = daemon.audit().entry_count as usize;
    assert!((1000..2000).contains(&room), "{room} entries");
    store(&session, space, &keys("fill", room - 1), 64);
    let reservation = session
        .reserve(space, &reserve_items(&keys("more", 2), 64), &request(0))
        .unwrap();
    assert_eq!(statuses_of(&reservation), [Status::Ok, Status::NoSpace]);
    let message = assert_refused(reservation.span(1), Status::NoSpace);
    assert!(
        message.contains("no_entry") && message.contains("--max-objects"),
        "{message}"
    );
    assert_eq!(daemon.scrape().write_failures("no_entry"), 1);
    drop((reservation, session));
    daemon.finish();
}

#[test]
fn a_reservation_that_outlives_the_write_ttl_commits_nothing() {
    let daemon = Daemon::start(&["--l1-write-ttl-seconds", "0.2"]);
    let (slow, quick) = (daemon.session(), daemon.session());
    let (space, other) = (keyspace(&slow), keyspace(&quick));
    let asked = keys("k", 2);
    let late = store_sized(&slow, space, &reserve_items(&asked, 8192));
    let audit = daemon.audit_until("it expires", |audit| audit.quarantined_bytes == 16_384);
    assert_eq!(audit.reserved_bytes, 0);
    assert_eq!(
        daemon.scrape().sample("hostkv_l1_quarantined_bytes"),
        16_384.0
    );
    // The keys are free at once, the bytes are not: their writer may still write.
    store(&quick, other, &asked, 100);
    assert_refused(late.commit(), Status::Expired);
    let audit = daemon.audit();
    assert_eq!((audit.quarantined_bytes, audit.object_count), (0, 2));
    let lease = quick.acquire(other, &asked, &request(0)).unwrap();
    assert_reads(&lease, 1, &asked[1]);
    assert_eq!(lease.span(1).unwrap().len_bytes, 100);
    // As with commit_and_acquire, and with an abort there is nothing to refuse.
    let late = store_sized(&slow, space, &reserve_items(&keys("l", 1), 100));
    let later = store_sized(&slow, space, &reserve_items(&keys("m", 1), 100));
    daemon.audit_until("they expire", |audit| audit.quarantined_count == 2);
    assert_refused(late.commit_and_acquire(), Status::Expired);
    later.abort().unwrap();
    assert_eq!(daemon.audit().quarantined_bytes, 0);
    drop((lease, slow, quick));
    daemon.finish();
}

#[test]
fn a_read_only_session_writes_nothing_by_any_way() {
    let daemon = Daemon::start(&[]);
    let writer = daemon.session();
    let space = keyspace(&writer);
    let asked = keys("k", 1);
    store(&writer, space, &asked, 100);
    let reader = daemon.reader();
    let space = keyspace(&reader);
    let items = reserve_items(&keys("new", 1), 100);
    assert_refused(reader.reserve(space, &items, &request(0)), Status::ReadOnly);
    assert_refused(reader.remove(space, &asked, None), Status::ReadOnly);
    assert_refused(reader.clear(0), Status::ReadOnly);
    assert_refused(
        reader.mapping(hostkv::session::Mapping::Write),
        Status::InvalidArgument,
    );

    // A client that does not check gets the same from the daemon, and from the kernel.
    use hostkv_shm_protocol::wire::hello::hello_flags;
    use hostkv_shm_protocol::wire::reply::Reply;
    use hostkv_shm_protocol::wire::request::Request;
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let mut hello = RawClient::hello(raw.challenge().unwrap());
    hello.flags = hello_flags::READ_ONLY;
    raw.send_hello(&hello);
    raw.opened().unwrap();
    let space = raw.keyspace();
    for request in [
        RawClient::reserve(1, space, &asked, 10),
        Request::Clear { flags: 0 },
    ] {
        let reply = raw.ask(&request);
        assert!(
            matches!(
                &reply,
                Reply::Error {
                    status: Status::ReadOnly,
                    ..
                }
            ),
            "{reply:?}"
        );
    }
    let payload = raw.payload_fd();
    // SAFETY: the map is made only to see that it is refused; nothing is done with it.
    let map = unsafe {
        memmap2::MmapOptions::new()
            .len(4096)
            .map_mut(payload.as_fd().as_raw_fd())
    };
    assert!(map.is_err(), "the payload can be mapped writable");
    let wrote = nix::unistd::write(payload.as_fd(), b"x");
    assert!(wrote.is_err(), "the payload can be written");
    drop(payload);
    drop((raw, reader, writer));
    daemon.finish();
}
