//! Clients that die, lie, flood or stay silent; the daemon and an honest session beside them go on.

use super::support::*;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "HOSTKV_TEST_SERVE_CHILD";

#[test]
#[ignore = "runs as a child of the tests that kill a client, with a socket in its environment"]
fn child_reserves_and_waits() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let session = Session::open(Client::connect(path.as_ref()), |_| {});
    let keyspace = session.resolve();
    let first = session.reserve(1, &[key(keyspace, 100)], 8192);
    session.reserve(2, &[key(keyspace, 101)], 8192);
    // Sent, and its reply left unread: the kernel reports a reset before this commit when the process dies.
    session
        .client
        .say(&Request::Commit(held(1, &first)).encode(9, true));
    println!("ready");
    std::thread::sleep(PATIENCE);
}

#[test]
fn a_killed_client_leaves_its_commit_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let witness = daemon.session();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "faults::child_reserves_and_waits",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("ready")));
    assert_eq!(witness.figures().session_count, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let figures = daemon.figures_when(&witness, |f| f.session_count == 1);
    assert_eq!(
        figures.object_count, 1,
        "its commit was sent before it died"
    );
    assert_eq!(figures.reserved_bytes, 0);
    assert_eq!(figures.used_bytes, 8192);
}

#[test]
fn a_socket_closed_by_a_living_process_leaves_its_reservation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let mut daemon = Start::at(&path).serving();
    let witness = daemon.session();
    let Session { client, lease, .. } = {
        let session = daemon.session();
        let keyspace = session.resolve();
        session.reserve(1, &[key(keyspace, 1)], 8192);
        session
    };
    drop(client);
    daemon.line_with("has no socket any more");
    let figures = witness.figures();
    assert_eq!((figures.session_count, figures.reserved_bytes), (2, 8192));
    // As after exec: the maps of the process no longer show the lease.
    drop(lease);
    let figures = daemon.figures_when(&witness, |f| f.session_count == 1);
    assert_eq!(figures.reserved_bytes, 0);
}

#[test]
fn malformed_frames_end_their_connection_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let witness = daemon.session();
    let mut lying = Request::Ping.encode(3, true);
    lying[0] = 200;
    let mut unknown = Request::Ping.encode(3, true);
    unknown[4] = 99;
    let mut trailing = Request::Ping.encode(3, true);
    trailing.push(0);
    trailing[0] += 1;
    for frame in [vec![1], vec![0; 16], lying, unknown, trailing] {
        for after_hello in [false, true] {
            let client = daemon.client();
            let nonce = client.nonce();
            if after_hello {
                client.say(&greeting(nonce).encode(1));
                client.frame();
            }
            client.say(&frame);
            let (_, reply) = client.reply();
            assert!(
                matches!(
                    reply,
                    Reply::Error {
                        status: Status::InvalidArgument,
                        ..
                    }
                ),
                "{frame:?}: {reply:?}"
            );
            assert!(matches!(client.hear(), Heard::End | Heard::Reset));
        }
    }
    assert_eq!(witness.ask(&Request::Ping), Reply::Pong);
}

#[test]
fn who_does_not_say_hello_is_sent_away_after_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let silent = daemon.client();
    silent.nonce();
    let since = Instant::now();
    assert!(matches!(silent.hear(), Heard::End));
    let waited = since.elapsed();
    assert!(
        waited > Duration::from_millis(800) && waited < Duration::from_secs(5),
        "{waited:?}"
    );
}

#[test]
fn a_flood_of_half_open_connections_displaces_its_own_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let daemon = Start::at(&path).serving();
    let witness = daemon.session();
    let flood: Vec<Client> = (0..80).map(|_| daemon.client()).collect();
    assert_eq!(witness.ask(&Request::Ping), Reply::Pong);
    flood[0].nonce();
    assert!(matches!(flood[0].hear(), Heard::End));
    let late = daemon.session();
    assert_eq!(late.ask(&Request::Ping), Reply::Pong);
}

#[test]
fn without_descriptors_new_sessions_are_refused_and_old_ones_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    let mut start = Start::at(&path);
    start.descriptor_limit = Some(64);
    let daemon = start.serving();
    let mut sessions = vec![daemon.session()];
    let refusal = loop {
        assert!(sessions.len() < 64, "nothing refuses");
        let client = daemon.client();
        match client.challenge() {
            Ok(nonce) => sessions.push(Session::answer(client, nonce, |_| {})),
            Err(refusal) => break refusal,
        }
    };
    assert!(
        matches!(&*refusal, Reply::Error { status: Status::Quota, text } if text.contains("RLIMIT_NOFILE")),
        "{refusal:?}"
    );
    let keyspace = sessions[0].resolve();
    let granted = sessions[0].reserve(1, &[key(keyspace, 1)], 4096);
    assert_eq!(granted[0].status, Status::Ok);
    for session in sessions.drain(1..) {
        assert_eq!(session.ask(&Request::Bye), Reply::Bye);
    }
    assert_eq!(daemon.session().ask(&Request::Ping), Reply::Pong);
}
