//! The loop's bookkeeping of its clients, turn by turn, with this process as the client.

use super::shared::Handout;
use super::*;
use crate::config::{Host, Invocation};
use crate::request::tests::{hello, pool};
use crate::systemd::listen::ListenError;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::hello::Challenge;
use hostkv_shm_protocol::wire::request::Request;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown,
    socket,
};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A host without files, variables and groups.
struct Nowhere;

impl Host for Nowhere {
    fn variable(&self, _: &str) -> Option<OsString> {
        None
    }

    fn read_file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn group_id(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn has_folder(&self, _: &Path) -> bool {
        false
    }

    fn is_root(&self) -> bool {
        true
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        Ok(None)
    }
}

/// Runs `play` with a server at `path` on a thread of its own, because a server changes its thread's signals.
fn with_server(play: impl FnOnce(&mut Server, &Path) + Send) {
    let null = || Rc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let run = || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostkv.sock");
        let arguments = ["hostkvd", "--l1-size-gb", "1", "--socket"].map(OsString::from);
        let arguments = arguments.into_iter().chain([path.clone().into()]).collect();
        let Ok(Invocation::Run(config)) = config::load(arguments, &Nowhere) else {
            panic!("the configuration is refused");
        };
        let mut place = SocketPlace::of(&config).lock().unwrap();
        let (store, facts) = pool();
        let mut server = Server::new(Parts {
            access: AccessRules::new(nix::unistd::geteuid().as_raw(), &config.access),
            alive: AliveMark::set(store.header()),
            store,
            facts,
            handout: Handout {
                control: null(),
                payload_writable: Some(null()),
                payload_read_only: null(),
                daemon: null(),
            },
            signals: Signals::block().unwrap(),
            questions: questions().unwrap().1,
            workers: Workers::start(crate::workers::tests::payload().1, 1).unwrap(),
            tiers: None,
            socket: place.listen().unwrap(),
            telemetry: None,
            start: StartFacts {
                started_at: 0,
                page_kind: "memfd, sparse".to_owned(),
                metrics_address: None,
                descriptors_wanted: 1120,
            },
            config: *config,
        })
        .unwrap();
        play(&mut server, &path);
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

/// A client's end of a connection that the server has accepted, and the server's number for it.
fn connected(server: &mut Server, path: &Path) -> (OwnedFd, u64) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let far = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(far.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    server.accept().unwrap();
    (far, server.last_client)
}

fn say(far: &OwnedFd, frame: &[u8]) {
    send(far.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL).unwrap();
}

fn greet(far: &OwnedFd) {
    let mut bytes = vec![0; 4096];
    let len = recv(far.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
    let (header, body) = FrameHeader::decode(&bytes[..len]).unwrap();
    assert_eq!(header.message, MessageType::Challenge);
    let mut greeting = hello();
    greeting.prefix.nonce = Challenge::decode(body).unwrap().nonce;
    say(far, &greeting.encode(1));
}

/// Closes for good, also where children of other tests hold a copy of the socket for a moment.
fn close(far: OwnedFd) {
    shutdown(far.as_raw_fd(), Shutdown::Both).unwrap();
}

#[test]
fn a_client_that_closes_before_its_hello_is_answered_stays_known_for_its_session() {
    with_server(|server, path| {
        let (far, number) = connected(server, path);
        greet(&far);
        close(far);
        // As when the close comes after the kernel has said what is ready.
        server.serve(number, EpollFlags::EPOLLIN).unwrap();
        assert_eq!(server.shared.store.session_count(), 1);
        assert_eq!(
            server.half_open.pop_late(Nanos::MAX),
            None,
            "it has said HELLO"
        );
        assert!(
            server.clients[&number].0.is_orphaned(),
            "its process lives, so its pidfd is watched"
        );
        // The look at orphans of this tick: its lease was lost with the reply.
        server.tick().unwrap();
        look_until_none_is_left(server);
    });
}

#[test]
fn a_client_whose_end_shows_at_a_send_is_forgotten_in_that_turn() {
    with_server(|server, path| {
        let (far, number) = connected(server, path);
        greet(&far);
        server.serve(number, EpollFlags::EPOLLIN).unwrap();
        assert_eq!(server.shared.store.session_count(), 1);
        let has_waiting = |server: &Server| {
            let (client, _) = &server.clients[&number];
            client.connection().unwrap().waiting_count() > 0
        };
        for request_id in 2.. {
            assert!(request_id < 10_000, "nothing fills the socket");
            say(&far, &Request::Ping.encode(request_id, true));
            server.serve(number, EpollFlags::EPOLLIN).unwrap();
            if has_waiting(server) {
                break;
            }
        }
        say(&far, &Request::Bye.encode(20_000, false));
        close(far);
        server
            .serve(number, EpollFlags::EPOLLOUT | EpollFlags::EPOLLIN)
            .unwrap();
        assert_eq!(server.shared.store.session_count(), 0);
        assert!(server.clients.is_empty());
    });
}

/// Children that other tests fork have a copy of every descriptor for the moment until they call exec.
fn look_until_none_is_left(server: &mut Server) {
    let deadline = monotonic_ns() + 10 * SECOND_NS;
    while server.shared.store.session_count() > 0 {
        assert!(monotonic_ns() < deadline, "orphans stay");
        server.look_after_orphans(monotonic_ns()).unwrap();
    }
}

#[test]
fn orphans_are_looked_at_in_short_turns_and_seldom() {
    with_server(|server, path| {
        let orphan_count = 200;
        // What a client keeps of its session: here the frame with the descriptors, which nobody takes off the socket.
        let mut kept = Vec::new();
        for _ in 0..orphan_count {
            let (far, number) = connected(server, path);
            greet(&far);
            server.serve(number, EpollFlags::EPOLLIN).unwrap();
            server.serve(number, EpollFlags::EPOLLHUP).unwrap();
            kept.push(far);
        }
        assert_eq!(server.shared.store.session_count(), orphan_count);
        let mut turns = 0;
        loop {
            let started = monotonic_ns();
            server.look_after_orphans(started).unwrap();
            let spent = monotonic_ns() - started;
            assert!(server.next_orphan_look <= started + SECOND_NS.max(spent * ORPHAN_REST_FACTOR));
            turns += 1;
            if server.orphans.is_empty() {
                assert!(server.next_orphan_look >= started + SECOND_NS);
                break;
            }
        }
        assert!(turns <= orphan_count, "each turn looks at one at least");
        assert_eq!(server.shared.store.session_count(), orphan_count);
        // Let go of: each is seen in the next round.
        drop(kept);
        look_until_none_is_left(server);
    });
}
