//! A client's life, played over a socket pair against a small pool.

use super::*;
use crate::config::AccessConfig;
use crate::request::tests::{applicant, hello, limits, pool};
use crate::server::monotonic_ns;
use crate::server::peer::{AccessRules, Credentials, pidfd_open};
use crate::server::shared::Handout;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::version::ABI_HASH;
use hostkv_shm_protocol::wire::hello::HelloReply;
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Reserve, ReserveItem, Resolve};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg, send,
    shutdown, socketpair,
};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::process::{Child, Command};

const SECOND: Nanos = 1_000_000_000;
const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

fn null() -> Rc<OwnedFd> {
    Rc::new(std::fs::File::open("/dev/null").unwrap().into())
}

fn shared() -> Shared {
    let nobody_else = AccessConfig {
        allow_uids: vec![],
        allow_gids: vec![],
        read_only_uids: vec![],
        untrusted_uids: vec![],
        admin_uids: vec![],
    };
    let (store, facts) = pool();
    let handout = Handout {
        control: null(),
        payload_writable: Some(null()),
        payload_read_only: null(),
        daemon: null(),
    };
    let access = AccessRules::new(0, &nobody_else);
    Shared::new(store, facts, limits(), access, handout, None, None)
}

/// A client's end of the socket, and the process that it pretends to be.
struct Far {
    socket: Option<OwnedFd>,
    process: Child,
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Far {
    fn say(&self, frame: &[u8]) {
        let socket = self.socket.as_ref().unwrap();
        send(socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    fn ask(&self, request_id: u64, request: &Request) {
        self.say(&request.encode(request_id, true));
    }

    /// The next frame and the descriptors with it; none when nothing is there.
    fn hear(&self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; 128 << 10];
        let mut control = nix::cmsg_space!([RawFd; 8]);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(
            self.socket.as_ref().unwrap().as_raw_fd(),
            &mut iov,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let got = match got {
            Ok(got) => got,
            Err(Errno::EAGAIN) => return None,
            Err(errno) => panic!("{errno}"),
        };
        let mut descriptors = Vec::new();
        for message in got.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: they were received just now and belong to nobody else.
                descriptors.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let len = got.bytes;
        bytes.truncate(len);
        (len > 0).then_some((bytes, descriptors))
    }

    fn reply(&self) -> (u64, Reply) {
        let (frame, _) = self.hear().expect("no reply");
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        (header.request_id, Reply::decode(&header, body).unwrap())
    }
}

/// A client that has got its challenge. Its process is one that sleeps.
fn connected(must_attest: bool) -> (Client, Far) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let process = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id() as i32;
    let peer = Peer {
        credentials: Credentials {
            pid,
            uid: 1000,
            gids: vec![1000],
        },
        pidfd: pidfd_open(pid).unwrap(),
        must_attest,
    };
    let mut user = applicant(1000);
    user.pid = pid;
    let client = Client::new(77, ours, peer, user, NONCE).unwrap();
    let far = Far {
        socket: Some(theirs),
        process,
    };
    let (frame, _) = far.hear().unwrap();
    let (header, body) = FrameHeader::decode(&frame).unwrap();
    assert_eq!(header.message, MessageType::Challenge);
    assert_eq!(Challenge::decode(body).unwrap().nonce, NONCE);
    (client, far)
}

fn greeting() -> Hello {
    let mut greeting = hello();
    greeting.prefix.nonce = NONCE;
    greeting
}

fn serving(shared: &mut Shared) -> (Client, Far) {
    let (mut client, far) = connected(false);
    far.say(&greeting().encode(1));
    assert_eq!(client.step(shared, 0), Step::Opened);
    far.hear().unwrap();
    (client, far)
}

fn refusal_of_first(shared: &mut Shared, client: &mut Client, far: &Far) -> (Status, String) {
    assert_eq!(client.step(shared, 0), Step::Ended);
    let (_, reply) = far.reply();
    assert!(far.hear().is_none(), "the daemon closes after an error");
    assert_eq!(shared.store.session_count(), 0);
    match reply {
        Reply::Error { status, text } => (status, text),
        other => panic!("{other:?}"),
    }
}

fn resolved(shared: &mut Shared, client: &mut Client, far: &Far) -> KeyspaceId {
    far.ask(
        2,
        &Request::Resolve(Resolve {
            flags: 0,
            tokens_per_key: 0,
            layout_fingerprint: 1,
            model_name: "m".to_owned(),
            cache_salt: String::new(),
        }),
    );
    assert_eq!(client.step(shared, 0), Step::Handled);
    match far.reply() {
        (2, Reply::Resolved { keyspace, .. }) => keyspace,
        other => panic!("{other:?}"),
    }
}

fn reserve_of(keyspace: KeyspaceId, op_id: u64) -> Request {
    Request::Reserve(Reserve {
        op_id: OpId(op_id),
        request_id: String::new(),
        device: String::new(),
        items: vec![ReserveItem {
            key: Key::new(&[op_id as u8; 32], 32, 0, 0, keyspace).unwrap(),
            len_bytes: 4096,
        }],
    })
}

fn held_of(op_id: u64, reply: Reply) -> Held {
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
}

fn reserved(shared: &mut Shared, client: &mut Client, far: &Far, op_id: u64) -> Held {
    let keyspace = resolved(shared, client, far);
    far.ask(3, &reserve_of(keyspace, op_id));
    assert_eq!(client.step(shared, 0), Step::Handled);
    held_of(op_id, far.reply().1)
}

#[test]
fn challenge_then_hello_opens_a_session_with_four_descriptors() {
    let mut shared = shared();
    let (mut client, far) = connected(false);
    assert_eq!(client.step(&mut shared, 0), Step::Idle);
    far.say(&greeting().encode(41));
    assert_eq!(client.step(&mut shared, 0), Step::Opened);
    let (frame, descriptors) = far.hear().unwrap();
    let (header, body) = FrameHeader::decode(&frame).unwrap();
    assert_eq!(
        (header.message, header.request_id),
        (MessageType::Hello, 41)
    );
    let reply = HelloReply::decode(body).unwrap();
    assert_eq!(shared.clients[&reply.session_id], 77);
    assert_eq!(descriptors.len(), 4);
    let inode = |at: usize| nix::sys::stat::fstat(&descriptors[at]).unwrap().st_ino;
    assert_ne!(inode(1), inode(0));
}

#[test]
fn nothing_comes_before_hello() {
    let mut shared = shared();
    let (mut client, far) = connected(false);
    far.ask(5, &Request::Ping);
    let (status, text) = refusal_of_first(&mut shared, &mut client, &far);
    assert_eq!(status, Status::InvalidArgument);
    assert!(text.contains("Ping"), "{text}");
    assert_eq!(shared.rejected_frames, 1);
}

#[test]
fn a_client_that_takes_its_hello_back_before_the_reply_leaves_no_session() {
    let mut shared = shared();
    let (mut client, far) = connected(false);
    far.say(&greeting().encode(1));
    far.ask(2, &Request::Bye);
    // A close would wait for copies that children of other tests hold for a moment.
    shutdown(far.socket.as_ref().unwrap().as_raw_fd(), Shutdown::Both).unwrap();
    assert_eq!(client.step(&mut shared, 0), Step::Ended);
    assert_eq!(shared.store.session_count(), 0);
    assert!(shared.clients.is_empty());
}

#[test]
fn a_hello_with_another_nonce_is_refused() {
    let mut shared = shared();
    let (mut client, far) = connected(false);
    let mut stale = greeting();
    stale.prefix.nonce[3] ^= 1;
    far.say(&stale.encode(1));
    let (status, text) = refusal_of_first(&mut shared, &mut client, &far);
    assert_eq!(status, Status::Permission);
    assert!(text.contains("nonce"), "{text}");
    assert_eq!(shared.rejected_frames, 0, "its form was right");
}

#[test]
fn a_hello_from_another_process_than_the_watched_one_is_refused_where_that_is_checked() {
    let mut shared = shared();
    let (mut client, far) = connected(true);
    // The kernel attests this test's own pid, not that of the process which is watched.
    nix::sys::socket::setsockopt(
        client.connection().unwrap(),
        nix::sys::socket::sockopt::PassCred,
        &true,
    )
    .unwrap();
    far.say(&greeting().encode(1));
    let (status, text) = refusal_of_first(&mut shared, &mut client, &far);
    assert_eq!(status, Status::Permission);
    assert!(text.contains(&std::process::id().to_string()), "{text}");
}

#[test]
fn another_version_hears_both_versions_even_when_the_rest_of_its_hello_differs() {
    let mut shared = shared();
    let (mut client, far) = connected(false);
    let mut w = FrameHeader {
        message: MessageType::Hello,
        flags: 0,
        request_id: 1,
    }
    .start();
    w.bytes(&NONCE);
    w.u32(99);
    w.u64(ABI_HASH);
    w.bytes(b"fields of the future");
    far.say(&w.finish());
    let (status, text) = refusal_of_first(&mut shared, &mut client, &far);
    assert_eq!(status, Status::VersionMismatch);
    assert!(text.contains("99"), "{text}");
}

#[test]
fn a_malformed_frame_is_answered_and_makes_an_orphan_that_ends_with_its_process() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    reserved(&mut shared, &mut client, &far, 1);
    let mut frame = Request::Ping.encode(6, true);
    frame.push(0);
    far.say(&frame);
    assert_eq!(client.step(&mut shared, 0), Step::Orphaned);
    assert!(matches!(
        far.reply(),
        (
            0,
            Reply::Error {
                status: Status::InvalidArgument,
                ..
            }
        )
    ));
    assert_eq!(shared.rejected_frames, 1);
    assert!(client.is_orphaned() && client.connection().is_none());
    // What it reserved is still its own.
    assert_eq!(shared.store.session_count(), 1);
    assert_eq!(shared.store.figures().reserved_bytes, 4096);

    assert_eq!(client.died(&mut shared, 0), Step::Ended);
    assert_eq!(shared.store.session_count(), 0);
    assert_eq!(shared.store.figures().reserved_bytes, 0);
    assert!(shared.clients.is_empty());
}

#[test]
fn a_closed_socket_changes_nothing_while_the_process_lives() {
    let mut shared = shared();
    let (mut client, mut far) = serving(&mut shared);
    let held = reserved(&mut shared, &mut client, &far, 1);
    far.ask(9, &Request::Commit(held));
    far.socket = None;
    assert_eq!(client.hung_up(&mut shared, 0), Step::Orphaned);
    // The commit that was queued counts.
    assert_eq!(shared.store.figures().object_count, 1);
    assert_eq!(shared.store.session_count(), 1);
}

#[test]
fn a_queued_commit_survives_the_death_of_a_client_with_an_unread_reply() {
    let mut shared = shared();
    let (mut client, mut far) = serving(&mut shared);
    let first = reserved(&mut shared, &mut client, &far, 1);
    // A second reservation, whose reply stays unread: at the death the kernel then reports a reset first.
    let keyspace = resolved(&mut shared, &mut client, &far);
    far.ask(4, &reserve_of(keyspace, 2));
    assert_eq!(client.step(&mut shared, 0), Step::Handled);
    far.ask(5, &Request::Commit(first));
    far.socket = None;
    assert_eq!(client.died(&mut shared, 0), Step::Ended);
    let figures = shared.store.figures();
    assert_eq!(figures.object_count, 1, "the commit was carried out");
    assert_eq!(figures.reserved_bytes, 0, "the other reservation was freed");
    assert_eq!(figures.session_count, 0);
}

#[test]
fn of_a_queued_commit_and_reserve_the_commit_survives_the_death_of_a_client() {
    let mut shared = shared();
    let (mut client, mut far) = serving(&mut shared);
    let first = reserved(&mut shared, &mut client, &far, 1);
    let keyspace = resolved(&mut shared, &mut client, &far);
    let Request::Reserve(next) = reserve_of(keyspace, 2) else {
        panic!("no reserve");
    };
    far.ask(5, &Request::CommitReserve(first, next));
    far.socket = None;
    assert_eq!(client.died(&mut shared, 0), Step::Ended);
    let figures = shared.store.figures();
    assert_eq!((figures.object_count, figures.reserved_bytes), (1, 0));
    assert_eq!(figures.sm_write_requests, 1, "only the first was reserved");
}

#[test]
fn requests_queued_behind_a_death_are_not_carried_out() {
    let mut shared = shared();
    let (mut client, mut far) = serving(&mut shared);
    let keyspace = resolved(&mut shared, &mut client, &far);
    far.ask(4, &reserve_of(keyspace, 1));
    far.socket = None;
    assert_eq!(client.died(&mut shared, 0), Step::Ended);
    assert_eq!(shared.store.figures().sm_write_requests, 0);
}

#[test]
fn bye_ends_the_session_at_once_and_is_answered() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    reserved(&mut shared, &mut client, &far, 1);
    far.ask(8, &Request::Bye);
    assert_eq!(client.step(&mut shared, 0), Step::Ended);
    assert_eq!(far.reply(), (8, Reply::Bye));
    assert_eq!(shared.store.session_count(), 0);
    assert_eq!(shared.store.figures().reserved_bytes, 0);
}

#[test]
fn a_request_that_wants_no_reply_gets_none() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    far.say(&Request::Ping.encode(5, false));
    assert_eq!(client.step(&mut shared, 0), Step::Handled);
    far.ask(6, &Request::Ping);
    assert_eq!(client.step(&mut shared, 0), Step::Handled);
    assert_eq!(far.reply(), (6, Reply::Pong));
}

#[test]
fn a_client_with_too_many_unread_replies_is_no_longer_read() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    let mut asked = 0;
    while client.may_read() {
        far.ask(asked, &Request::Stats);
        assert_eq!(client.step(&mut shared, 0), Step::Handled);
        asked += 1;
        assert!(asked < 10_000, "nothing bounds what waits");
    }
    assert_eq!(
        client.connection().unwrap().waiting_count(),
        MAX_OUTSTANDING
    );
    // It reads again, and every reply arrives in order.
    for expected in 0..asked {
        assert_eq!(far.reply().0, expected);
        assert_eq!(client.writable(&mut shared), Step::Handled);
    }
    assert!(client.may_read());
}

#[test]
fn long_replies_that_nobody_reads_stop_the_reading_and_cut_nobody_off() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    let keyspace = resolved(&mut shared, &mut client, &far);
    let items: Vec<ReserveItem> = (0..1024_u32)
        .map(|number| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_le_bytes());
            ReserveItem {
                key: Key::new(&hash, 32, 0, 0, keyspace).unwrap(),
                len_bytes: 4096,
            }
        })
        .collect();
    let mut asked = 0;
    while client.may_read() {
        let reserve = Reserve {
            op_id: OpId(100 + asked),
            request_id: String::new(),
            device: String::new(),
            items: items.clone(),
        };
        far.ask(asked, &Request::Reserve(reserve));
        assert_eq!(client.step(&mut shared, 0), Step::Handled);
        asked += 1;
        assert!(asked < 10_000, "nothing bounds what waits");
    }
    // It is their length that stops it, not their number.
    let waiting = client.connection().unwrap().waiting_count();
    assert!((16..MAX_OUTSTANDING).contains(&waiting), "{waiting}");
    for expected in 0..asked {
        assert_eq!(far.reply().0, expected);
        assert_eq!(client.writable(&mut shared), Step::Handled);
    }
    assert!(client.may_read());
}

/// Children that other tests fork have a copy of every descriptor for the moment until they call exec.
fn look_until_ended(client: &mut Client, shared: &mut Shared) {
    let deadline = monotonic_ns() + 10 * SECOND;
    while client.look_after_orphan(shared, 0) != Step::Ended {
        assert!(monotonic_ns() < deadline, "the orphan stays");
        std::thread::yield_now();
    }
}

#[test]
fn an_orphan_whose_lease_nobody_has_is_ended_and_one_that_is_mapped_is_kept() {
    let mut shared = shared();
    let (mut client, mut far) = serving(&mut shared);
    far.socket = None;
    assert_eq!(client.hung_up(&mut shared, 0), Step::Orphaned);
    // The pretended process never mapped the lease, as one that has called exec.
    look_until_ended(&mut client, &mut shared);
    assert_eq!(shared.store.session_count(), 0);

    let (mut client, far) = connected(false);
    far.say(&greeting().encode(1));
    assert_eq!(client.step(&mut shared, 0), Step::Opened);
    let (_, descriptors) = far.hear().unwrap();
    let map = memmap2::MmapOptions::new()
        .len(4096)
        .map_raw(&descriptors[1])
        .unwrap();
    drop(descriptors);
    let mut far = far;
    far.socket = None;
    assert_eq!(client.hung_up(&mut shared, 0), Step::Orphaned);
    assert_eq!(client.look_after_orphan(&mut shared, 0), Step::Orphaned);
    assert_eq!(shared.store.session_count(), 1);
    // Once its process has ended its number may be that of another, which says nothing.
    far.process.kill().unwrap();
    far.process.wait().unwrap();
    client.applicant.pid = std::process::id() as i32;
    drop(map);
    assert_eq!(client.look_after_orphan(&mut shared, 0), Step::Orphaned);
    assert_eq!(client.died(&mut shared, 0), Step::Ended);
}

/// The requests that were counted, and how many.
fn counted(shared: &Shared) -> Vec<(TimedRequest, u64)> {
    TimedRequest::ALL
        .into_iter()
        .map(|request| (request, shared.request_durations.of(request).count()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn each_answered_request_counts_once_with_the_time_since_its_frame_was_read() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    let held = reserved(&mut shared, &mut client, &far, 1);
    far.ask(9, &Request::Commit(held));
    assert_eq!(client.step(&mut shared, 0), Step::Handled);
    // Refused, and without a reply: they were carried out all the same.
    far.ask(10, &Request::Audit);
    assert_eq!(client.step(&mut shared, 0), Step::Handled);
    far.say(&Request::Ping.encode(11, false));
    let three_seconds_ago = monotonic_ns() - 3 * SECOND;
    assert_eq!(client.step(&mut shared, three_seconds_ago), Step::Handled);
    assert_eq!(client.step(&mut shared, 0), Step::Idle);
    far.ask(12, &Request::Bye);
    assert_eq!(client.step(&mut shared, 0), Step::Ended);
    assert_eq!(
        counted(&shared),
        [
            (TimedRequest::Resolve, 1),
            (TimedRequest::Reserve, 1),
            (TimedRequest::Commit, 1),
            (TimedRequest::Audit, 1),
            (TimedRequest::Ping, 1),
            (TimedRequest::Hello, 1),
        ]
    );
    let ping_ns = shared.request_durations.of(TimedRequest::Ping).sum();
    let expected = u128::from(3 * SECOND)..u128::from(60 * SECOND);
    assert!(expected.contains(&ping_ns), "{ping_ns} ns");
}

#[test]
fn a_parked_reserve_counts_once_when_it_is_answered_with_all_the_time_it_waited() {
    let mut shared = shared();
    let (mut client, far) = serving(&mut shared);
    let keyspace = resolved(&mut shared, &mut client, &far);
    // Objects of 1 MiB fill the pool, so that the last reserve must evict.
    let asked_at = monotonic_ns() - 3 * SECOND;
    let mut op_id = 0;
    let parked = loop {
        op_id += 1;
        let Request::Reserve(mut reserve) = reserve_of(keyspace, op_id) else {
            unreachable!()
        };
        reserve.items[0].len_bytes = 1 << 20;
        far.ask(op_id, &Request::Reserve(reserve));
        assert_eq!(client.step(&mut shared, asked_at), Step::Handled);
        let Some((frame, _)) = far.hear() else {
            break op_id;
        };
        let (header, body) = FrameHeader::decode(&frame).unwrap();
        let held = held_of(op_id, Reply::decode(&header, body).unwrap());
        far.ask(0, &Request::Commit(held));
        assert_eq!(client.step(&mut shared, 0), Step::Handled);
        far.reply();
        assert!(op_id < 100, "the pool is never full");
    };
    let reserves = |shared: &Shared| {
        let reserves = shared.request_durations.of(TimedRequest::Reserve);
        (reserves.count(), reserves.sum())
    };
    let (before, sum_before) = reserves(&shared);
    assert_eq!(before, parked - 1, "what is parked is not answered yet");
    let mut answered = 0;
    for _ in 0..1000 {
        for done in shared.store.slice(1) {
            answered += 1;
            let ticket = done.ticket;
            let reply = request::resumed(done);
            assert_eq!(client.resumed(&mut shared, ticket, &reply), Step::Handled);
            // The same answer again is nobody's.
            assert_eq!(client.resumed(&mut shared, ticket, &reply), Step::Handled);
        }
    }
    assert_eq!(answered, 1);
    assert_eq!(far.reply().0, parked);
    assert!(far.hear().is_none(), "one answer");
    let (after, sum_after) = reserves(&shared);
    assert_eq!(after, parked);
    assert!(sum_after - sum_before >= u128::from(3 * SECOND));
}

#[test]
fn a_death_counts_with_the_time_since_the_socket_ended() {
    let mut shared = shared();
    // A first session dies before its socket is seen to end; one that never opened is none.
    let (mut client, _far) = serving(&mut shared);
    assert_eq!(client.died(&mut shared, 5 * SECOND), Step::Ended);
    let (mut client, _far) = connected(false);
    assert_eq!(client.died(&mut shared, 5 * SECOND), Step::Ended);
    let deaths = |shared: &Shared| (shared.owner_death.count(), shared.owner_death.sum());
    assert_eq!(deaths(&shared), (1, 0));

    let (mut client, mut far) = serving(&mut shared);
    far.socket = None;
    let before = monotonic_ns();
    assert_eq!(client.hung_up(&mut shared, before), Step::Orphaned);
    let after = monotonic_ns();
    assert_eq!(deaths(&shared).0, 1, "its process lives");
    let died_at = after + 3 * SECOND;
    assert_eq!(client.died(&mut shared, died_at), Step::Ended);
    let (count, sum_ns) = deaths(&shared);
    assert_eq!(count, 2);
    let expected = u128::from(died_at - after)..=u128::from(died_at - before);
    assert!(expected.contains(&sum_ns), "{sum_ns} ns");

    // A process that says BYE, or goes on without its lease as after exec, has not died.
    let (mut client, far) = serving(&mut shared);
    far.ask(8, &Request::Bye);
    assert_eq!(client.died(&mut shared, 5 * SECOND), Step::Ended);
    let (mut client, mut far) = serving(&mut shared);
    far.socket = None;
    assert_eq!(client.hung_up(&mut shared, 0), Step::Orphaned);
    look_until_ended(&mut client, &mut shared);
    assert_eq!(deaths(&shared).0, 2);
}
