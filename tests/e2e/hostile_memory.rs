//! Hostile memory: who does its worst with every descriptor that a session is given resizes nothing, writes where it is
//! free to write only, and ends nobody by SIGBUS. Untrusted writers are in `untrusted`.

use hostkv_tests::{Daemon, DaemonSpec, Worker, attack, is_root, skip};

use crate::access::open_folder;

/// A process that stores, holds and reads while others attack.
struct Bystander {
    worker: Worker,
}

impl Bystander {
    fn start(daemon: &Daemon) -> Bystander {
        let mut worker = Worker::start(daemon);
        worker.must("open");
        for order in ["reserve k 3 100000", "fill", "commit"] {
            worker.must(order);
        }
        assert_eq!(worker.must("acquire k 3"), "3");
        assert_eq!(worker.must("verify"), "3");
        Bystander { worker }
    }

    /// It lives, what it holds is what it stored, and it goes on.
    fn assert_unharmed(mut self) {
        let worker = &mut self.worker;
        assert_eq!(worker.must("verify"), "3");
        for order in ["check", "release", "reserve more 3 100000", "fill"] {
            worker.must(order);
        }
        worker.must("commit-and-acquire");
        assert_eq!(worker.must("verify"), "3");
        worker.must("release");
        assert_eq!(worker.must("acquire k 3"), "3");
        assert_eq!(worker.must("verify"), "3");
        worker.must("release");
        worker.must("close");
        assert!(worker.end().success());
    }
}

#[test]
fn a_trusted_writer_resizes_nothing_and_never_writes_to_the_index() {
    let daemon = Daemon::start(&[]);
    let bystander = Bystander::start(&daemon);
    let client = daemon.raw_client();
    assert_eq!(attack::breaks(&client, true), [""; 0]);
    // The attack is a real one: what a writer is trusted with succeeds.
    let done = attack::succeed(client.payload_fd());
    assert!(done.contains(&"write".to_owned()), "{done:?}");
    bystander.assert_unharmed();
    drop(client);
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn a_read_only_user_changes_neither_payload_nor_index() {
    if !is_root() {
        skip("an attack by a read-only user: becoming another user needs root");
        return;
    }
    let spec = DaemonSpec::new(&["--socket-mode", "666", "--read-only-uid", "65534"]);
    let socket = open_folder(&spec);
    let daemon = spec.at(socket).start();
    let bystander = Bystander::start(&daemon);
    let mut attacker = Worker::start(&daemon);
    attacker.must("uid 65534");
    assert_eq!(attacker.must("attack read-only"), "");
    bystander.assert_unharmed();
    assert!(attacker.end().success());
    daemon.wait_for_sessions(0);
    daemon.finish();
}
