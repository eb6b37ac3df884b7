//! A daemon of a few lines at the other end of a socket pair: deadlines, late replies, its death.

use super::*;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::Reason;
use hostkv_shm_protocol::wire::header::{MessageType, flags};
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::{Reserve, ReserveItem};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::os::fd::{AsRawFd, OwnedFd};

fn pair() -> (Connection, Daemon) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    (Connection::new(Descriptor::new(ours)), Daemon(theirs))
}

struct Daemon(OwnedFd);

impl Daemon {
    /// The next request, waited for at most five seconds.
    fn next(&self) -> (FrameHeader, Request) {
        let deadline = Deadline::after_ms(5000);
        assert!(wait_ready(self.0.as_raw_fd(), PollFlags::POLLIN, &deadline).unwrap());
        let mut buffer = vec![0; MAX_FRAME_BYTES];
        let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).unwrap();
        let (header, cursor) = FrameHeader::decode(&buffer[..len]).unwrap();
        let request = Request::decode(&header, cursor).unwrap();
        (header, request)
    }

    fn reply(&self, request_id: u64, reply: &Reply) {
        send(
            self.0.as_raw_fd(),
            &reply.encode(request_id),
            MsgFlags::MSG_NOSIGNAL,
        )
        .unwrap();
    }
}

fn any_key() -> Key {
    Key::new(&[1; 32], 32, 0, 0, KeyspaceId(1)).unwrap()
}

fn reserve(op_id: u64) -> Request {
    Request::Reserve(Reserve {
        op_id: OpId(op_id),
        request_id: String::new(),
        device: String::new(),
        items: vec![ReserveItem {
            key: any_key(),
            len_bytes: 1,
        }],
    })
}

fn grant(entry: u32, status: Status) -> ReservedItem {
    ReservedItem {
        status,
        reason: Reason::None,
        entry: EntryNumber(entry),
        offset_units: 0,
        staging_units: 0,
        generation: u64::from(entry) * 2,
    }
}

#[test]
fn replies_in_any_order_reach_their_callers() {
    let (connection, daemon) = pair();
    let calls = 16;
    std::thread::scope(|scope| {
        for _ in 0..calls {
            scope.spawn(|| {
                let reply = connection.call(&Request::Clear { flags: 0 }, Deadline::after_ms(5000));
                assert!(matches!(reply, Ok(Reply::Cleared(_))), "{reply:?}");
            });
        }
        let mut ids: Vec<u64> = (0..calls).map(|_| daemon.next().0.request_id).collect();
        ids.reverse();
        for id in ids {
            daemon.reply(id, &Reply::Cleared(id));
        }
    });
}

#[test]
fn a_refusal_is_an_error_with_the_daemons_sentence() {
    let (connection, daemon) = pair();
    let refusal = Reply::Error {
        status: Status::Permission,
        text: "uid 7 may not; see --admin-uid".to_owned(),
    };
    daemon.reply(2, &refusal);
    let error = connection
        .call(&Request::Audit, Deadline::after_ms(5000))
        .unwrap_err();
    assert_eq!(error.to_string(), "uid 7 may not; see --admin-uid");
    assert_eq!(crate::Error::from(error).status, Status::Permission);
}

#[test]
fn each_call_ends_at_its_own_deadline_whatever_the_others_do() {
    let (connection, _daemon) = pair();
    std::thread::scope(|scope| {
        for timeout_ms in [400, 30, 120, 60] {
            let connection = &connection;
            scope.spawn(move || {
                let start = Instant::now();
                let error = connection
                    .call(&Request::Ping, Deadline::after_ms(timeout_ms))
                    .unwrap_err();
                assert_eq!(
                    error,
                    ConnectionError::Timeout {
                        timeout_ms,
                        was_sent: true
                    }
                );
                let took = start.elapsed();
                let limit = Duration::from_millis(u64::from(timeout_ms));
                assert!(
                    took >= limit && took < limit + Duration::from_millis(250),
                    "{took:?}"
                );
            });
        }
    });
}

#[test]
fn the_grants_of_a_late_reserve_are_aborted_at_the_next_call() {
    let (connection, daemon) = pair();
    let error = connection
        .call(&reserve(77), Deadline::after_ms(20))
        .unwrap_err();
    assert!(matches!(
        error,
        ConnectionError::Timeout { was_sent: true, .. }
    ));
    let (header, _) = daemon.next();
    let items = vec![
        grant(5, Status::Ok),
        grant(6, Status::Exists),
        grant(7, Status::Ok),
    ];
    daemon.reply(header.request_id, &Reply::Reserved(items));
    let expected = connection.call(&Request::Ping, Deadline::after_ms(20));
    assert!(expected.is_err(), "nobody answered the ping");
    let (abort_header, abort) = daemon.next();
    assert_eq!(abort_header.flags, flags::NO_REPLY);
    assert_ne!(abort_header.request_id, header.request_id);
    let held = |entry: u32| HeldItem {
        entry: EntryNumber(entry),
        generation: u64::from(entry) * 2,
    };
    assert_eq!(
        abort,
        Request::Abort(Held {
            op_id: OpId(77),
            items: vec![held(5), held(7)]
        })
    );
    assert_eq!(daemon.next().0.message, MessageType::Ping);
}

#[test]
fn more_late_replies_than_places_end_the_session_for_good() {
    let (connection, daemon) = pair();
    for _ in 0..MAX_OUTSTANDING {
        let error = connection
            .call(&Request::Ping, Deadline::after_ms(1))
            .unwrap_err();
        assert!(matches!(error, ConnectionError::Timeout { .. }), "{error}");
    }
    for _ in 0..2 {
        let error = connection
            .call(&Request::Ping, Deadline::after_ms(1))
            .unwrap_err();
        assert_eq!(error, ConnectionError::TooManyLate);
    }
    drop(daemon);
}

#[test]
fn a_late_reply_makes_its_place_free_again() {
    let (connection, daemon) = pair();
    for _ in 0..MAX_OUTSTANDING {
        connection
            .call(&Request::Ping, Deadline::after_ms(1))
            .unwrap_err();
    }
    let (header, _) = daemon.next();
    daemon.reply(header.request_id, &Reply::Pong);
    let error = connection
        .call(&Request::Ping, Deadline::after_ms(1))
        .unwrap_err();
    assert!(
        matches!(error, ConnectionError::Timeout { was_sent: true, .. }),
        "{error}"
    );
}

#[test]
fn a_reply_that_was_sent_before_the_daemon_died_is_read_first() {
    let (connection, daemon) = pair();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| connection.call(&reserve(1), Deadline::after_ms(5000)));
        let (header, _) = daemon.next();
        // A frame that it never reads makes its end reset the socket.
        connection
            .call(&Request::Ping, Deadline::after_ms(1))
            .unwrap_err();
        daemon.reply(
            header.request_id,
            &Reply::Reserved(vec![grant(1, Status::Ok)]),
        );
        drop(daemon);
        let reply = call.join().unwrap();
        assert!(matches!(reply, Ok(Reply::Reserved(_))), "{reply:?}");
    });
    let error = connection
        .call(&Request::Ping, Deadline::after_ms(5000))
        .unwrap_err();
    assert!(error.is_final(), "{error}");
    assert!(connection.is_hung_up());
}

#[test]
fn what_the_daemon_said_before_it_went_is_the_reason() {
    let (connection, daemon) = pair();
    let words = Reply::Error {
        status: Status::Disconnected,
        text: "hostkvd was told to stop".to_owned(),
    };
    daemon.reply(0, &words);
    assert!(!connection.is_hung_up());
    drop(daemon);
    let error = connection
        .call(&Request::Ping, Deadline::after_ms(5000))
        .unwrap_err();
    assert!(
        error.to_string().contains("hostkvd was told to stop"),
        "{error}"
    );
    assert_eq!(crate::Error::from(error).status, Status::Disconnected);
}

#[test]
fn a_full_socket_times_out_without_having_sent() {
    let (connection, _daemon) = pair();
    let big = Request::Remove(vec![any_key(); 1024]);
    let error = (0..60)
        .map(|_| connection.call(&big, Deadline::after_ms(2)).unwrap_err())
        .find(|error| {
            matches!(
                error,
                ConnectionError::Timeout {
                    was_sent: false,
                    ..
                }
            )
        });
    assert!(
        error.is_some(),
        "60 frames of 48 KiB fitted into the socket"
    );
}

#[test]
fn a_frame_that_makes_no_sense_ends_the_session() {
    let (connection, daemon) = pair();
    send(daemon.0.as_raw_fd(), b"nonsense", MsgFlags::MSG_NOSIGNAL).unwrap();
    let error = connection
        .call(&Request::Ping, Deadline::after_ms(5000))
        .unwrap_err();
    assert!(matches!(error, ConnectionError::Protocol(_)), "{error}");
}

#[test]
fn a_socket_that_fails_ends_the_session_and_says_so_to_every_later_call() {
    let (connection, _daemon) = pair();
    let failed = ConnectionError::system("recv", Errno::ENOMEM);
    connection.take_in(&mut connection.lock(), &[], Err(failed));
    let error = connection
        .call(&Request::Ping, Deadline::after_ms(5000))
        .unwrap_err();
    assert!(error.is_final(), "{error}");
    assert!(error.to_string().contains("recv failed"), "{error}");
    assert_eq!(crate::Error::from(error).status, Status::Disconnected);
}

#[test]
fn a_request_that_was_not_sent_is_told_from_one_that_may_be_carried_out() {
    let deadline = Deadline::after_ms(1);
    for (error, was_never_sent) in [
        (deadline.timeout(false), true),
        (deadline.timeout(true), false),
        (ConnectionError::system("send", Errno::ENOMEM), true),
        (ConnectionError::ended("it closed the socket"), false),
        (ConnectionError::TooManyLate, false),
    ] {
        assert_eq!(error.was_never_sent(), was_never_sent, "{error}");
    }
}

#[test]
fn a_reply_may_be_waited_for_again_while_other_calls_go_on_and_is_given_once() {
    let (connection, daemon) = pair();
    let begun = connection
        .begin(&reserve(9), Deadline::after_ms(1000))
        .unwrap();
    for timeout_ms in [0, 20, 0] {
        let waited = connection.wait_for(begun, Deadline::after_ms(timeout_ms));
        assert_eq!(waited, Ok(None));
    }
    assert_eq!(daemon.next().0.request_id, begun);
    daemon.reply(begun + 1, &Reply::Pong);
    let called = connection.call(&Request::Ping, Deadline::after_ms(1000));
    assert_eq!(called, Ok(Reply::Pong));
    daemon.reply(begun, &Reply::Reserved(vec![grant(5, Status::Ok)]));
    let waited = connection.wait_for(begun, Deadline::after_ms(1000));
    assert!(matches!(waited, Ok(Some(Reply::Reserved(_)))), "{waited:?}");
    assert!(connection.wait_for(begun, Deadline::after_ms(0)).is_err());
}

#[test]
fn a_reply_that_nobody_will_wait_for_gives_its_place_back_when_it_comes_or_at_once() {
    let (connection, daemon) = pair();
    let begin = || connection.begin(&Request::Ping, Deadline::after_ms(1000));
    let answered = |id| connection.wait_for(id, Deadline::after_ms(1000));
    let late = begin().unwrap();
    connection.forget(late);
    let early = begin().unwrap();
    let other = begin().unwrap();
    daemon.reply(early, &Reply::Pong);
    daemon.reply(other, &Reply::Pong);
    assert_eq!(answered(other), Ok(Some(Reply::Pong)));
    connection.forget(early);
    assert_eq!(connection.lock().outstanding.len(), 1, "the late one");
    let other = begin().unwrap();
    daemon.reply(late, &Reply::Pong);
    daemon.reply(other, &Reply::Pong);
    assert_eq!(answered(other), Ok(Some(Reply::Pong)));
    assert_eq!(connection.lock().outstanding.len(), 0);
}
