//! What only admins may see and do, and what a hostile client makes of the three messages.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;

use hostkv::Status;
use hostkv::admin::{ObjectFilter, ObjectPage};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{List, Request};
use hostkv_tests::{Daemon, DaemonSpec, is_root, keys, keyspace, skip, store};

use crate::{Ran, tool_at, tool_for_everybody};

/// The user that the tests become.
pub const NOBODY: u32 = 65534;

/// A daemon whose socket everybody reaches, with these flags.
pub fn open_to_all(flags: &[&str]) -> Daemon {
    let spec = DaemonSpec::new(flags);
    std::fs::set_permissions(spec.folder(), PermissionsExt::from_mode(0o711)).unwrap();
    let socket = spec.folder().join("run/hostkv.sock");
    spec.at(socket).flag("--socket-mode", "666").start()
}

/// Runs the tool as another user.
pub fn run_as_nobody(daemon: &Daemon, arguments: &[&str]) -> Ran {
    let (_folder, program) = tool_for_everybody();
    let mut command = tool_at(&program, arguments);
    command
        .env("HOSTKV_SOCKET", daemon.socket())
        .current_dir("/");
    Ran::of(command.uid(NOBODY).gid(NOBODY).output().unwrap())
}

#[test]
fn another_user_sees_the_figures_and_is_told_which_flag_shows_the_rest() {
    if !is_root() {
        skip("what is kept to admins: becoming another user needs root");
        return;
    }
    let daemon = open_to_all(&["--allow-uid", "65534"]);
    let status = run_as_nobody(&daemon, &["status", "--json"]).json();
    assert_eq!(status["is_admin"], false);
    assert_eq!(status["figures"]["session_count"], 1);
    assert!(status["daemon"].is_null() && status["sessions"].is_null());
    assert!(
        run_as_nobody(&daemon, &["status"])
            .done()
            .contains("--admin-uid")
    );
    for command in [&["ls"][..], &["reload"], &["clear", "--all", "--yes"]] {
        let refused = run_as_nobody(&daemon, command);
        refused.assert_says(1, &["--admin-uid"]);
    }
    run_as_nobody(&daemon, &["ping", "-c", "1"]).done();
    daemon.finish();
    let daemon = open_to_all(&["--allow-uid", "65534", "--admin-uid", "65534"]);
    let status = run_as_nobody(&daemon, &["status", "--json"]).json();
    assert_eq!(status["sessions"][0]["uid"], NOBODY);
    run_as_nobody(&daemon, &["ls"]).done();
    run_as_nobody(&daemon, &["reload"]).done();
    daemon.finish();
}

#[test]
fn a_cursor_out_of_range_is_the_end_and_a_limit_out_of_range_ends_only_who_sent_it() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 10), 4096);
    let list = |limit, cursor| {
        Request::List(List {
            flags: 0,
            limit,
            cursor,
            model_name: String::new(),
            cache_salt: String::new(),
        })
    };
    let mut raw = daemon.raw_client();
    for cursor in [u64::MAX, 1 << 40, u64::from(u32::MAX) + 1] {
        let Reply::Listed(json) = raw.ask(&list(1024, cursor)) else {
            panic!("no page");
        };
        let page: ObjectPage = serde_json::from_str(&json).unwrap();
        assert_eq!((page.objects.len(), page.next_cursor), (0, None));
    }
    let Reply::State(json) = raw.ask(&Request::State { cursor: u64::MAX }) else {
        panic!("no page");
    };
    assert_eq!(json, r#"{"sessions":[],"next_cursor":null}"#);
    for limit in [0, 1025, u32::MAX] {
        let mut raw = daemon.raw_client();
        let Reply::Error { status, text } = raw.ask(&list(limit, 0)) else {
            panic!("{limit} is taken");
        };
        assert_eq!(status, Status::InvalidArgument);
        assert!(text.contains("1 to 1024"), "{text}");
        assert!(raw.is_disconnected());
    }
    let refused = session
        .list_page(&ObjectFilter::default(), 0, 1025)
        .unwrap_err();
    assert_eq!(refused.status, Status::InvalidArgument);
    let page = session
        .list_page(&ObjectFilter::default(), 0, 1024)
        .unwrap();
    assert_eq!(page.objects.len(), 10);
    drop((session, raw));
    daemon.finish();
}

#[test]
fn a_state_of_many_sessions_comes_in_pages_and_has_each_once() {
    let daemon = Daemon::start(&[]);
    let sessions: Vec<_> = (0..70)
        .map(|_| {
            let config = hostkv::session::SessionConfig {
                client_name: "\u{fc}".repeat(32),
                pin_slot_count: 256,
                ..daemon.config(hostkv::session::READ_ONLY)
            };
            hostkv::session::Session::open(&config).unwrap()
        })
        .collect();
    let (state, told) = sessions[0].state().unwrap();
    assert_eq!(state.usage.session_count, 70);
    let numbers: Vec<u64> = told.iter().map(|session| session.session_id).collect();
    let mut wanted: Vec<u64> = sessions
        .iter()
        .map(|s| s.info().unwrap().session_id)
        .collect();
    wanted.sort_unstable();
    assert_eq!(numbers, wanted);
    assert!(told.iter().all(|session| session.uid == state.uid));
    drop(sessions);
    daemon.finish();
}

#[test]
fn an_orphan_is_told_as_one_with_what_it_still_holds() {
    let daemon = Daemon::start(&[]);
    let mut raw = daemon.raw_client();
    let keyspace = raw.keyspace();
    raw.ask(&hostkv_tests::RawClient::reserve(
        1,
        keyspace,
        &keys("k", 2),
        4096,
    ));
    raw.close_socket();
    let session = daemon.session();
    hostkv_tests::wait_until("the orphan is told", || {
        let (_, sessions) = session.state().unwrap();
        sessions
            .iter()
            .any(|s| s.is_orphaned && s.reserved_bytes == 8192 && s.reservation_count == 1)
    });
    drop(session);
    // Its process is this one and lives on, so it stays until the daemon ends.
    drop(daemon);
}
