//! Who may connect, who may write, who may administer.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::PathBuf;

use hostkv_tests::{Daemon, DaemonSpec, Worker, is_root, skip};

/// The user and the group that the tests become.
const NOBODY: u32 = 65534;

/// Lets others into the daemon's temporary folder; gives a socket in a folder that the daemon has to make.
pub fn open_folder(spec: &DaemonSpec) -> PathBuf {
    std::fs::set_permissions(spec.folder(), PermissionsExt::from_mode(0o711)).unwrap();
    spec.folder().join("run/hostkv.sock")
}

/// A daemon that other users can reach as far as its own flags let them; none without root.
fn reachable(what: &str, flags: &[&str]) -> Option<Daemon> {
    if !is_root() {
        skip(&format!("{what}: becoming another user needs root"));
        return None;
    }
    let spec = DaemonSpec::new(flags);
    let socket = open_folder(&spec);
    Some(spec.at(socket).start())
}

/// What another user is told.
fn as_nobody(daemon: &Daemon, orders: &[&str]) -> String {
    let mut worker = Worker::start(daemon);
    worker.must(&format!("uid {NOBODY}"));
    let mut answer = String::new();
    for order in orders {
        answer = worker.ask(order);
    }
    answer
}

/// Mode and group of the socket's folder and of the socket.
fn modes(daemon: &Daemon) -> [(u32, u32); 2] {
    let socket = daemon.socket();
    let of = |path: &std::path::Path| {
        let found = std::fs::metadata(path).unwrap();
        (found.mode() & 0o7777, found.gid())
    };
    [of(socket.parent().unwrap()), of(&socket)]
}

#[test]
fn by_default_nobody_else_reaches_the_socket() {
    let spec = DaemonSpec::default();
    let socket = open_folder(&spec);
    let daemon = spec.at(socket).start();
    let [folder, file] = modes(&daemon);
    assert_eq!((folder.0, file.0), (0o700, 0o600));
    if is_root() {
        let answer = as_nobody(&daemon, &["open"]);
        assert!(answer.starts_with("PERMISSION "), "{answer}");
        for part in ["65534", "--socket-mode", "--allow-uid 65534"] {
            assert!(answer.contains(part), "{answer}");
        }
    } else {
        skip("by default nobody else reaches the socket: becoming another user needs root");
    }
    daemon.finish();
}

#[test]
fn another_user_who_reaches_the_socket_is_refused_by_uid_and_flag() {
    let Some(daemon) = reachable("a refused user", &["--socket-mode", "666"]) else {
        return;
    };
    let [folder, file] = modes(&daemon);
    assert_eq!((folder.0, file.0), (0o711, 0o666));
    let answer = as_nobody(&daemon, &["open"]);
    assert!(answer.starts_with("PERMISSION "), "{answer}");
    assert!(
        answer.contains("uid 65534") && answer.contains("--allow-uid 65534"),
        "{answer}"
    );
    daemon.finish();
}

#[test]
fn an_allowed_user_works_and_is_no_admin() {
    let flags = ["--socket-mode", "666", "--allow-uid", "65534"];
    let Some(daemon) = reachable("an allowed user", &flags) else {
        return;
    };
    let mut worker = Worker::start(&daemon);
    worker.must("uid 65534");
    for order in ["open", "reserve k 2 100", "fill", "commit", "acquire k 2"] {
        worker.must(order);
    }
    assert_eq!(worker.must("verify"), "2");
    worker.must("release");
    let audit = worker.ask("audit");
    assert!(
        audit.starts_with("PERMISSION ") && audit.contains("--admin-uid 65534"),
        "{audit}"
    );
    let clear = worker.ask("clear 1");
    assert!(
        clear.starts_with("PERMISSION ") && clear.contains("--admin-uid"),
        "{clear}"
    );
    assert_eq!(worker.must("clear 0"), "2");
    drop(worker);
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn an_admin_user_may_audit_and_clear_all() {
    let flags = ["--socket-mode", "666", "--admin-uid", "65534"];
    let Some(daemon) = reachable("an admin user", &flags) else {
        return;
    };
    let session = daemon.session();
    let space = session
        .open_keyspace(&hostkv_tests::keyspace_config("root's own"))
        .unwrap();
    hostkv_tests::store(&session, space, &hostkv_tests::keys("k", 3), 100);
    let mut worker = Worker::start(&daemon);
    worker.must("uid 65534");
    worker.must("open");
    assert_eq!(worker.must("audit"), "");
    assert_eq!(worker.must("clear 0"), "0");
    assert_eq!(worker.must("clear 1"), "3");
    drop((worker, session));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn a_read_only_user_must_open_read_only_whatever_else_names_it() {
    let flags = [
        "--socket-mode",
        "666",
        "--read-only-uid",
        "65534",
        "--allow-uid",
        "65534",
    ];
    let Some(daemon) = reachable("a read-only user", &flags) else {
        return;
    };
    let session = daemon.session();
    let space = hostkv_tests::keyspace(&session);
    hostkv_tests::store(&session, space, &hostkv_tests::keys("k", 2), 100);
    let refused = as_nobody(&daemon, &["open"]);
    assert!(refused.starts_with("PERMISSION "), "{refused}");
    assert!(refused.contains("--read-only-uid 65534"), "{refused}");
    assert!(refused.contains("READ_ONLY"), "{refused}");
    let mut worker = Worker::start(&daemon);
    worker.must("uid 65534");
    worker.must("open read-only");
    assert_eq!(worker.must("acquire k 2"), "2");
    assert_eq!(worker.must("verify"), "2");
    assert!(worker.ask("reserve n 1 10").starts_with("READ_ONLY "));
    drop((worker, session));
    daemon.wait_for_sessions(0);
    daemon.finish();
}

#[test]
fn a_group_is_admitted_by_its_members_supplementary_or_not() {
    // Any number will do; `nogroup` is there on every Debian and has it by name.
    let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(NOBODY));
    let Ok(Some(group)) = group else {
        skip("a socket group: this host has no group 65534");
        return;
    };
    let Some(daemon) = reachable("a socket group", &["--socket-group", &group.name]) else {
        return;
    };
    let [folder, file] = modes(&daemon);
    assert_eq!((folder, file), ((0o750, NOBODY), (0o660, NOBODY)));
    assert_eq!(as_nobody(&daemon, &["open"]), "OK");
    daemon.finish();

    let flags = ["--socket-mode", "666", "--allow-gid", "4321"];
    let Some(daemon) = reachable("an allowed group", &flags) else {
        return;
    };
    let open = |group: Option<u32>| {
        let mut worker = Worker::start(&daemon);
        worker.must(&match group {
            Some(gid) => format!("member 1234 {gid}"),
            None => "uid 1234".to_owned(),
        });
        worker.ask("open")
    };
    assert!(open(None).starts_with("PERMISSION "));
    assert!(open(Some(4322)).starts_with("PERMISSION "));
    assert_eq!(open(Some(4321)), "OK");
    daemon.finish();
}
