//! Every command in pipes: what it prints, as JSON too, and how it exits.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use hostkv::session::KeyspaceConfig;
use hostkv_tests::{Daemon, DaemonSpec, keys, keyspace, keyspace_config, store};

use crate::{Ran, run, tool};

/// A file with these bytes.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Bytes that no encoding leaves as they are.
fn object(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

#[test]
fn what_put_stores_get_gives_back_byte_for_byte_by_file_and_by_pipe() {
    let daemon = Daemon::start(&[]);
    let bytes = object((2 << 20) + 17);
    let source = file(&bytes);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run(&daemon, &["put", "a/b/3/1/00FF", path(&source)]).done(),
        ""
    );
    let target = folder.path().join("out");
    let target = target.to_str().unwrap();
    assert_eq!(
        run(&daemon, &["get", "a/b/3/1/00ff", "-o", target]).done(),
        ""
    );
    assert_eq!(std::fs::read(target).unwrap(), bytes);
    let piped = run(&daemon, &["get", "a/b/3/1/00ff", "-o", "-"]);
    assert_eq!((piped.code, piped.stderr.as_str()), (Some(0), ""));
    assert_eq!(piped.stdout, bytes);

    let mut child = tool(&["put", "a/b/3/1/02", "-", "--json"])
        .env("HOSTKV_SOCKET", daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"from a pipe")
        .unwrap();
    let stored = Ran::of(child.wait_with_output().unwrap()).json();
    assert_eq!(stored["key"], "a/b/3/1/02");
    assert_eq!(stored["len_bytes"], 11);
    let got = run(&daemon, &["get", "a/b/3/1/02", "--json", "-o", target]).json();
    assert_eq!(
        (&got["len_bytes"], &got["file"]),
        (&11.into(), &target.into())
    );
    assert_eq!(std::fs::read(target).unwrap(), b"from a pipe");
    daemon.finish();
}

#[test]
fn an_object_never_changes_and_a_file_appears_whole_or_not_at_all() {
    let daemon = Daemon::start(&[]);
    let (first, second) = (file(b"first"), file(b"second"));
    run(&daemon, &["put", "m/0/0/01", path(&first)]).done();
    let again = run(&daemon, &["put", "m/0/0/01", path(&second)]);
    again.assert_says(1, &["m/0/0/01 is there already", "hostkv rm"]);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    std::fs::write(&target, "what was there").unwrap();
    let missing = run(
        &daemon,
        &["get", "m/0/0/02", "-o", target.to_str().unwrap()],
    );
    missing.assert_says(3, &["no object m/0/0/02", "hostkv ls"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"what was there");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such/folder");
    run(
        &daemon,
        &["get", "m/0/0/01", "-o", nowhere.to_str().unwrap()],
    )
    .assert_says(1, &["writing", "No such file"]);
    daemon.finish();
}

#[test]
fn what_can_not_be_an_object_is_refused_with_the_limit() {
    let daemon = Daemon::start(&[]);
    run(&daemon, &["put", "m/0/0/01", path(&file(b""))]).assert_says(1, &["is empty", "1 byte"]);
    let large = file(&[]);
    large.as_file().set_len(1 << 30).unwrap();
    run(&daemon, &["put", "m/0/0/01", path(&large)]).assert_says(1, &["4194304", "--l1-size-gb"]);
    run(&daemon, &["put", "m/0/0/01", "/nonexistent"]).assert_says(1, &["/nonexistent"]);
    run(&daemon, &["put", "m/0/0/01", "/tmp"]).assert_says(2, &["folder"]);
    let audit = daemon.audit();
    assert_eq!((audit.object_count, audit.reserved_count), (0, 0));
    daemon.finish();
}

#[test]
fn rm_tells_what_went_and_fails_only_when_nothing_was_there() {
    let daemon = Daemon::start(&[]);
    for key in ["m/0/0/01", "m/0/0/02", "n/0/0/01"] {
        run(&daemon, &["put", key, path(&file(b"x"))]).done();
    }
    let some = run(
        &daemon,
        &["rm", "m/0/0/01", "m/0/0/09", "n/0/0/01", "--json"],
    );
    assert_eq!(some.code, Some(0));
    assert!(some.stderr.contains("m/0/0/09 was not there"), "{some:?}");
    let told: serde_json::Value = serde_json::from_str(&some.text()).unwrap();
    assert_eq!(told["removed"], serde_json::json!(["m/0/0/01", "n/0/0/01"]));
    assert_eq!(told["not_found"], serde_json::json!(["m/0/0/09"]));
    run(&daemon, &["rm", "m/0/0/01"]).assert_says(3, &["m/0/0/01"]);
    assert_eq!(
        run(&daemon, &["rm", "m/0/0/02"]).done(),
        "removed m/0/0/02\n"
    );
    daemon.finish();
}

#[test]
fn the_tool_takes_a_keyspace_as_it_stands_and_gives_a_new_one_fingerprint_0() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 3), 100);
    drop(session);
    // The layout is 7; nobody has it open, so another layout could take it over.
    run(&daemon, &["put", "test-model/0/0/01", path(&file(b"x"))]).done();
    assert_eq!(daemon.audit().object_count, 4);
    run(&daemon, &["put", "new/0/0/01", path(&file(b"x"))]).done();
    let session = daemon.session();
    session
        .open_keyspace(&keyspace_config("test-model"))
        .unwrap();
    let new = |layout_fingerprint| KeyspaceConfig {
        layout_fingerprint,
        ..keyspace_config("new")
    };
    let id = session.open_keyspace(&new(0)).unwrap();
    let other = daemon.session().open_keyspace(&new(5)).unwrap_err();
    assert_eq!(other.status, hostkv::Status::LayoutMismatch);
    let found = session.lookup(
        id,
        &[hostkv::ChunkKey {
            chunk_hash: one(),
            chunk_hash_len: 1,
            ..Default::default()
        }],
        None,
    );
    assert_eq!(found, Ok(1));
    drop(session);
    daemon.finish();
}

fn one() -> [u8; 32] {
    let mut hash = [0; 32];
    hash[0] = 1;
    hash
}

#[test]
fn a_salt_comes_from_the_environment_or_a_file_and_shows_nowhere() {
    let daemon = Daemon::start(&[]);
    let salt = "only-the-tenant-knows";
    let salt_file = file(format!("{salt}\n").as_bytes());
    let value = file(b"of the tenant");
    let with_variable = |arguments: &[&str]| {
        let mut command = tool(arguments);
        command.env("HOSTKV_SOCKET", daemon.socket());
        Ran::of(command.env("HOSTKV_SALT", salt).output().unwrap())
    };
    run(
        &daemon,
        &[
            "put",
            "m/0/0/01",
            path(&value),
            "--salt-file",
            path(&salt_file),
        ],
    )
    .done();
    run(&daemon, &["get", "m/0/0/01", "-o", "-"]).assert_says(3, &["HOSTKV_SALT"]);
    assert_eq!(
        with_variable(&["get", "m/0/0/01", "-o", "-"]).done(),
        "of the tenant"
    );
    run(&daemon, &["put", "m/0/0/02", path(&file(b"of nobody"))]).done();
    let all = run(&daemon, &["ls", "--json"]).done();
    assert_eq!(all.lines().count(), 2, "{all}");
    let own = with_variable(&["ls", "--json"]).done();
    assert_eq!(own.lines().count(), 1, "{own}");
    assert!(own.contains("\"is_salted\":true"), "{own}");
    let status = run(&daemon, &["status", "--json"]).done();
    for text in [&all, &own, &status, &daemon.log_text()] {
        assert!(!text.contains(salt), "{text}");
    }
    let cleared = with_variable(&["clear", "--keyspace", "m", "--yes", "--json"]).json();
    assert_eq!(cleared["cleared_keys"], 1);
    assert_eq!(
        run(&daemon, &["ls"]).done().lines().count(),
        2,
        "heading and the other one"
    );
    daemon.finish();
}

#[test]
fn a_daemon_that_asks_a_salt_of_everybody_has_it_named_and_is_measured_all_the_same() {
    let daemon = Daemon::start(&["--require-salt"]);
    let value = file(b"x");
    let bare = run(&daemon, &["put", "m/0/0/01", path(&value)]);
    assert!(bare.stderr.contains("--require-salt"), "{bare:?}");
    let salt_file = file(b"salt");
    let salted = [
        "put",
        "m/0/0/01",
        path(&value),
        "--salt-file",
        path(&salt_file),
    ];
    run(&daemon, &salted).done();
    run(&daemon, &["bench", "--seconds", "1"]).done();
    assert_eq!(daemon.audit().object_count, 1);
    daemon.finish();
}

#[test]
fn an_object_goes_through_named_pipes_too() {
    let daemon = Daemon::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let name = pipe.to_str().unwrap();
    let bytes = object(300_000);
    std::thread::scope(|scope| {
        let put = scope.spawn(|| run(&daemon, &["put", "m/0/0/01", name]));
        std::fs::write(&pipe, &bytes).unwrap();
        put.join().unwrap().done();
    });
    let (ran, got) = std::thread::scope(|scope| {
        let get = scope.spawn(|| run(&daemon, &["get", "m/0/0/01", "-o", name]));
        let got = std::fs::read(&pipe).unwrap();
        (get.join().unwrap(), got)
    });
    ran.done();
    assert!(got == bytes, "the pipe gave {} bytes", got.len());
    assert!(std::fs::metadata(&pipe).is_ok_and(|found| !found.is_file()));
    daemon.finish();
}

#[test]
fn clear_asks_where_it_can_and_refuses_where_it_can_not() {
    let daemon = Daemon::start(&[]);
    for key in ["m/0/0/01", "n/0/0/01", "n/0/0/02"] {
        run(&daemon, &["put", key, path(&file(b"x"))]).done();
    }
    run(&daemon, &["clear"]).assert_says(2, &["--keyspace", "--all"]);
    run(&daemon, &["clear", "--all", "--keyspace", "m", "--yes"]).assert_says(2, &["--all"]);
    run(&daemon, &["clear", "--all"]).assert_says(2, &["no terminal", "--yes"]);
    assert_eq!(daemon.audit().object_count, 3);
    let one = run(&daemon, &["clear", "--keyspace", "n", "--yes"]).done();
    assert_eq!(one, "2 objects removed\n");
    let rest = run(&daemon, &["clear", "--all", "--yes", "--json"]).json();
    assert_eq!(rest["cleared_keys"], 1);
    daemon.finish();
}

#[test]
fn status_has_everything_for_programs_and_a_table_without_colours_in_a_pipe() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("k", 5), 4096);
    let lease = session
        .acquire(id, &keys("k", 8), &Default::default())
        .unwrap();
    hostkv_tests::wait_until("the pins are seen", || {
        let status = run(&daemon, &["status", "--json"]).json();
        let sessions = status["sessions"].as_array().unwrap();
        sessions
            .iter()
            .any(|s| s["name"] == "e2e" && s["pin_count"] == 5)
    });
    let status = run(&daemon, &["status", "--json"]).json();
    assert_eq!(status["is_admin"], true);
    assert_eq!(status["figures"]["object_count"], 5);
    assert_eq!(status["figures"]["read_succeed_keys"], 5);
    assert_eq!(status["figures"]["read_failed_keys"], 3);
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    assert_eq!(status["daemon"]["instance_id"], status["instance_id"]);
    assert_eq!(status["daemon"]["usage"]["pinned_bytes"], 5 * 4096);
    assert_eq!(status["daemon"]["counters"]["l1_write_keys"], 5);
    let settings = status["daemon"]["settings"].as_array().unwrap();
    assert!(
        settings
            .iter()
            .any(|s| s["key"] == "l1_size_gb" && s["origin"] == "flag")
    );
    let ours = status["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "e2e");
    let ours = ours.unwrap();
    for (field, wanted) in [
        ("pid", u64::from(std::process::id())),
        ("pin_count", 5),
        ("pinned_bytes", 5 * 4096),
        ("read_succeed_keys", 5),
        ("write_keys", 5),
        ("keyspace_count", 1),
    ] {
        assert_eq!(ours[field], wanted, "{field}");
    }
    let table = run(&daemon, &["status"]).done();
    assert!(!table.contains('\x1b'), "{table}");
    for part in [
        "hostkvd 0.",
        "objects   5",
        "SESSION",
        "hostkv status",
        "5 of 8 keys found",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    lease.release().unwrap();
    drop(session);
    daemon.finish();
}

#[test]
fn status_shows_the_tiers_and_how_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    std::fs::write(&bad, "a file where a folder should be").unwrap();
    let spec = |name: &str, path: &std::path::Path, more: &str| {
        format!(r#"{{"type": "fs", "name": "{name}", "base_path": {path:?}{more}}}"#)
    };
    let daemon = Daemon::start(&[
        "--l2-adapter",
        &spec("disk", &good, r#", "max_capacity_gb": 1"#),
        "--l2-adapter",
        &spec("gone", &bad, r#", "required": false"#),
    ]);
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("k", 5), 4096);
    let tiers = || run(&daemon, &["status", "--json"]).json()["daemon"]["tiers"].clone();
    hostkv_tests::wait_until("the tier holds all", || tiers()[0]["object_count"] == 5);
    let tiers = tiers();
    for (field, wanted) in [("name", "disk"), ("type_name", "fs"), ("breaker", "closed")] {
        assert_eq!(tiers[0][field], wanted);
    }
    assert!(tiers[0]["used_bytes"].as_u64().unwrap() >= 5 * 4096);
    assert_eq!(tiers[0]["capacity_bytes"], 1_u64 << 30);
    assert_eq!(tiers[0]["queued_keys"], 0);
    assert_eq!(tiers[1]["name"], "gone");
    assert_ne!(tiers[1]["breaker"], "closed");
    let table = run(&daemon, &["status"]).done();
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(row("TIER").contains("BREAKER"), "{table}");
    assert!(row("disk").contains("closed"), "{table}");
    assert!(row("disk").contains("of 1.0 GiB"), "{table}");
    assert!(!row("gone").contains("closed"), "{table}");
    drop(session);
    daemon.finish();
}

#[test]
fn status_watch_goes_on_until_its_reader_has_gone_and_says_nothing_about_it() {
    let daemon = Daemon::start(&[]);
    let mut child = tool(&["status", "--watch", "--json"])
        .env("HOSTKV_SOCKET", daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }
    drop(stdout);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    daemon.finish();
}

#[test]
fn ping_and_bench_measure_and_bench_leaves_nothing_behind() {
    let daemon = Daemon::start(&[]);
    let ping = run(&daemon, &["ping", "--count", "50", "--json"]).json();
    assert_eq!(ping["count"], 50);
    let ns = |name: &str| ping[name].as_u64().unwrap();
    assert!(ns("min_ns") > 0 && ns("min_ns") <= ns("p50_ns"));
    assert!(ns("p50_ns") <= ns("p99_ns") && ns("p99_ns") <= ns("max_ns"));
    assert!(
        run(&daemon, &["ping", "-c", "1"])
            .done()
            .starts_with("1 answers: ")
    );
    let bench = run(
        &daemon,
        &[
            "bench",
            "--seconds",
            "1",
            "--object-bytes",
            "65536",
            "--json",
        ],
    )
    .json();
    for name in [
        "store_to_copy_ratio",
        "copy_out_to_copy_ratio",
        "read_ns_per_key",
        "ping_to_read_ratio",
    ] {
        assert!(bench[name].as_f64().unwrap() > 0.0, "{bench}");
    }
    assert_eq!(bench["object_count"], 32, "a sixteenth of the pool");
    assert_eq!(daemon.audit().object_count, 0);
    run(&daemon, &["bench", "--object-bytes", "1000000000"])
        .assert_says(2, &["--object-bytes", "4194304"]);
    daemon.finish();
}

#[test]
fn bench_that_is_interrupted_cleans_up() {
    let daemon = Daemon::start(&[]);
    let child = tool(&["bench", "--seconds", "60"])
        .env("HOSTKV_SOCKET", daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    hostkv_tests::wait_until("something is stored", || daemon.figures().l1_write_keys > 0);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = Ran::of(child.wait_with_output().unwrap());
    ended.assert_says(1, &["interrupted", "removed"]);
    daemon.audit_until("all is removed", |audit| audit.object_count == 0);
    daemon.finish();
}

#[test]
fn bench_takes_no_room_that_others_would_have_to_give() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 25), 1 << 20);
    let refused = run(
        &daemon,
        &["bench", "--seconds", "1", "--object-bytes", "4000000"],
    );
    refused.assert_says(1, &["eviction starts", "--object-bytes"]);
    run(
        &daemon,
        &["bench", "--seconds", "1", "--object-bytes", "4096"],
    )
    .done();
    assert_eq!(daemon.figures().l1_evicted_keys, 0);
    assert_eq!(daemon.audit().object_count, 25);
    drop(session);
    daemon.finish();
}

#[test]
fn reload_says_what_changed_what_could_not_and_what_is_wrong() {
    let spec = DaemonSpec::default();
    let config = spec.folder().join("hostkv.toml");
    let basis = "l1_size_gb = 0.03125\nprometheus_port = 0\n";
    std::fs::write(&config, basis).unwrap();
    let daemon = spec.flag("--config", &config).start();
    assert!(
        run(&daemon, &["reload"])
            .done()
            .contains("nothing has changed")
    );
    std::fs::write(
        &config,
        "l1_size_gb = 0.0625\nprometheus_port = 0\neviction_trigger_watermark = 0.5\n",
    )
    .unwrap();
    let told = run(&daemon, &["reload", "--json"]).json();
    assert_eq!(
        told["changed"][0],
        "eviction_trigger_watermark is now 0.5, was 0.8"
    );
    assert_eq!(
        told["kept"][0],
        "l1_size_gb stays 0.03125, because 0.0625 needs a restart"
    );
    std::fs::write(&config, "eviction_trigger_watermark = 5\n").unwrap();
    run(&daemon, &["reload"]).assert_says(1, &["nothing is changed", "eviction_trigger_watermark"]);
    let status = run(&daemon, &["status", "--json"]).json();
    assert_eq!(status["daemon"]["usage"]["watermark_ratio"], 0.5);
    daemon.finish();
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Ran::of(tool(&["completions", shell]).output().unwrap()).done();
        for command in [
            "status", "top", "ls", "get", "put", "rm", "clear", "ping", "bench", "doctor", "reload",
        ] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    Ran::of(tool(&["completions", "csh"]).output().unwrap()).assert_says(2, &["bash", "zsh"]);
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_says_what_is_allowed() {
    for (arguments, part) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["get", "m/0/0/zz", "-o", "x"], "hexadecimal"),
        (&["get", "m/0/0/00"], "--output"),
        (&["ls", "--limit", "0"], "--limit"),
        (&["ping", "--count", "0"], "--count"),
        (&["top", "--json"], "status --watch --json"),
        (&["top"], "needs a terminal"),
        (&["get", "m/0/0/00", "-o", "-", "--json"], "--json"),
        (&[], "Usage"),
    ] {
        Ran::of(tool(arguments).output().unwrap()).assert_says(2, &[part]);
    }
}

#[test]
fn a_daemon_that_can_not_be_reached_is_exit_code_4_for_every_command() {
    let value = file(b"x");
    for arguments in [
        &["status"][..],
        &["ls"],
        &["get", "m/0/0/00", "-o", "-"],
        &["put", "m/0/0/00", path(&value)],
        &["rm", "m/0/0/00"],
        &["clear", "--all", "--yes"],
        &["ping"],
        &["bench"],
        &["reload"],
    ] {
        let ran = Ran::of(
            tool(arguments)
                .args(["--socket", "/nonexistent/s"])
                .output()
                .unwrap(),
        );
        ran.assert_says(4, &["/nonexistent/s", "start hostkvd"]);
        assert_eq!(ran.text(), "");
    }
    // One that is stopped does not answer in time.
    let daemon = Daemon::start(&[]);
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    run(&daemon, &["ping", "--timeout-ms", "200"]).assert_says(4, &["200 ms"]);
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    daemon.finish();
}

#[test]
fn the_socket_is_found_as_the_library_finds_it_and_the_flag_goes_first() {
    let daemon = Daemon::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("hostkv")).unwrap();
    std::os::unix::fs::symlink(daemon.socket(), folder.path().join("hostkv/hostkv.sock")).unwrap();
    let by_folder = tool(&["ping"])
        .env("XDG_RUNTIME_DIR", folder.path())
        .output()
        .unwrap();
    Ran::of(by_folder).done();
    let socket = daemon.socket();
    let by_flag = tool(&["ping", "--socket", socket.to_str().unwrap()])
        .env("HOSTKV_SOCKET", "/nonexistent/s")
        .output()
        .unwrap();
    Ran::of(by_flag).done();
    daemon.finish();
}

#[test]
fn ls_of_100_000_objects_streams_in_bounded_memory_and_stops_quietly_when_nobody_reads() {
    let daemon = Daemon::start(&["--max-objects", "131072", "--l1-align-bytes", "64"]);
    let session = daemon.session();
    let id = keyspace(&session);
    const COUNT: usize = 100_000;
    for batch in keys("key", COUNT).chunks(1000) {
        store(&session, id, batch, 64);
    }
    drop(session);
    let mut child = tool(&["ls", "--json"])
        .env("HOSTKV_SOCKET", daemon.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut hashes = std::collections::HashSet::new();
    let mut line = String::new();
    let mut high_water_kib = 0;
    while std::io::BufRead::read_line(&mut stdout, &mut line).unwrap() > 0 {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(hashes.insert(object["chunk_hash"].as_str().unwrap().to_owned()));
        if hashes.len() == COUNT - 10_000 {
            high_water_kib = high_water_kib_of(child.id());
        }
        line.clear();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(hashes.len(), COUNT);
    println!("ls of {COUNT} objects: at most {high_water_kib} KiB resident");
    assert!(high_water_kib < 64 << 10, "{high_water_kib} KiB");

    let scrape = daemon.scrape();
    let lists = |part| {
        scrape.sample(&format!(
            "hostkv_request_duration_seconds_{part}{{request=\"list\"}}"
        ))
    };
    println!(
        "{} pages, {:.0} us of the daemon's loop each",
        lists("count"),
        lists("sum") * 1e6 / lists("count")
    );

    let limited = run(&daemon, &["ls", "--limit", "1500", "--json"]).done();
    assert_eq!(limited.lines().count(), 1500);
    let nothing = run(&daemon, &["ls", "--keyspace", "other"]).done();
    assert_eq!(nothing.lines().count(), 1, "the heading");
    let mut cut = tool(&["ls"])
        .env("HOSTKV_SOCKET", daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    cut.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let cut = Ran::of(cut.wait_with_output().unwrap());
    assert_eq!((cut.code, cut.stderr.as_str()), (Some(0), ""));
    daemon.finish();
}

fn high_water_kib_of(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    // It may be a zombie already; then it has written everything into the pipe.
    line.map_or(0, |line| {
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}
