//! Each of the problems that doctor knows, planted for real; and a healthy daemon, of which it finds none.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::header::FrameHeader;
use hostkv_shm_protocol::wire::hello::Challenge;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_tests::{Daemon, DaemonSpec, daemon_program, is_root, keys, keyspace, skip, store};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv,
    send, socket,
};
use serde_json::Value;

use crate::admins::{open_to_all, run_as_nobody};
use crate::{Ran, make_program, run, tool, tool_at, tool_for_everybody};

/// What `doctor --json` says: the exit code and the checks.
struct Diagnosis {
    code: Option<i32>,
    report: Value,
}

impl Diagnosis {
    fn of(ran: Ran) -> Diagnosis {
        assert_eq!(ran.stderr, "", "{ran:?}");
        Diagnosis {
            code: ran.code,
            report: serde_json::from_str(&ran.text()).unwrap(),
        }
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == name);
        found.unwrap_or_else(|| panic!("there is no check {name:?}: {}", self.report))
    }

    /// Panics unless this check has a problem whose text and remedy have these parts.
    fn assert_finds(&self, name: &str, text: &[&str], remedy: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.report);
        let check = self.check(name);
        assert_eq!(check["outcome"], "problem", "{}", self.report);
        for (field, parts) in [("text", text), ("remedy", remedy)] {
            let said = check[field].as_str().unwrap();
            for part in parts {
                assert!(
                    said.contains(part),
                    "{part:?} is not in the {field}: {check}"
                );
            }
        }
    }

    fn assert_ok(&self, name: &str) {
        assert_eq!(self.check(name)["outcome"], "ok", "{}", self.report);
    }
}

fn diagnose(daemon: &Daemon) -> Diagnosis {
    Diagnosis::of(run(daemon, &["doctor", "--json"]))
}

/// Where no daemon runs, with flags for the one that would.
fn diagnose_without(socket: &Path, flags: &[&str]) -> Diagnosis {
    let mut command = tool(&["doctor", "--json", "--"]);
    command.args(flags).env("HOSTKV_SOCKET", socket);
    Diagnosis::of(Ran::of(command.output().unwrap()))
}

#[test]
fn a_healthy_daemon_has_no_problem() {
    let daemon = Daemon::start(&[]);
    let deadline = Instant::now() + hostkv_tests::PATIENCE;
    loop {
        let diagnosis = diagnose(&daemon);
        for check in [
            "kernel",
            "features",
            "socket",
            "rights",
            "versions",
            "other instances",
            "configuration",
            "huge pages",
            "/dev/shm",
            "descriptors",
            "locked memory",
            "metrics port",
            "clock",
        ] {
            diagnosis.assert_ok(check);
        }
        if diagnosis.check("old pools")["outcome"] == "ok" {
            assert_eq!(diagnosis.code, Some(0));
            assert_eq!(diagnosis.report["problem_count"], 0);
            break;
        }
        // Others on this host may hold a pool of theirs.
        if Instant::now() > deadline {
            skip("doctor's exit code without a problem: somebody on this host holds an old pool");
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = run(&daemon, &["doctor"]);
    assert!(told.text().contains("ok           kernel"), "{told:?}");
    assert!(!told.text().contains('\x1b'), "{told:?}");
    daemon.finish();
}

#[test]
fn no_huge_pages() {
    let daemon = Daemon::start(&["--hugepages", "off"]);
    let text = ["0 B of 32.0 MiB"];
    diagnose(&daemon).assert_finds("huge pages", &text, &["--hugepages off"]);
    let socket = daemon.socket();
    daemon.finish();
    let reserved = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
    if reserved.trim() != "0" {
        skip("doctor on a missing reserve of huge pages: this host has one");
        return;
    }
    diagnose_without(
        &socket,
        &["--hugepages", "hugetlb", "--prometheus-port", "0"],
    )
    .assert_finds(
        "huge pages",
        &["--hugepages hugetlb takes 1.0 GiB", "0 B"],
        &["vm.nr_hugepages=512", "--hugepages auto"],
    );
}

#[test]
fn a_socket_without_rights() {
    if !is_root() {
        skip("doctor on a socket without rights: becoming another user needs root");
        return;
    }
    // Another user may not even enter the folder.
    let daemon = Daemon::start(&[]);
    run_nobody(&daemon).assert_finds(
        "rights",
        &["uid 65534 may not open the socket", "mode 0"],
        &["--socket-group", "--allow-uid 65534"],
    );
    daemon.finish();
    // Root sees that those who are allowed do not reach it.
    let daemon = Daemon::start(&["--allow-uid", "65534"]);
    diagnose(&daemon).assert_finds(
        "rights",
        &["uid 65534 is allowed to connect", "mode 0600"],
        &["--socket-group", "--socket-mode"],
    );
    daemon.finish();
}

fn run_nobody(daemon: &Daemon) -> Diagnosis {
    Diagnosis::of(run_as_nobody(daemon, &["doctor", "--json"]))
}

#[test]
fn a_wrong_uid() {
    if !is_root() {
        skip("doctor as a wrong uid: becoming another user needs root");
        return;
    }
    let daemon = open_to_all(&[]);
    let diagnosis = run_nobody(&daemon);
    diagnosis.assert_ok("socket");
    diagnosis.assert_finds("rights", &["refuses uid 65534"], &["--allow-uid 65534"]);
    daemon.finish();
}

/// A listener that challenges, reads the HELLO and refuses it as a daemon of another release does.
fn another_release(path: &Path) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    // It ends with the test's process, which waits for nothing of it.
    std::thread::spawn(move || {
        while let Ok(client) = accept4(&listener, flags) {
            let say = |frame: &[u8]| send(client.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
            let _ = say(&Challenge { nonce: [1; 16] }.encode());
            let mut hello = [0; 4096];
            let len = recv(client.as_raw_fd(), &mut hello, MsgFlags::empty()).unwrap_or(0);
            if let Ok((header, _)) = FrameHeader::decode(&hello[..len]) {
                let refusal = Reply::Error {
                    status: Status::VersionMismatch,
                    text: "the client speaks protocol version 1 and the daemon (9.9.9) 9"
                        .to_owned(),
                };
                let _ = say(&refusal.encode(header.request_id));
            }
        }
    });
}

#[test]
fn version_skew_with_the_running_daemon_and_with_the_program_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostkv.sock");
    another_release(&path);
    let diagnosis = diagnose_without(&path, &["--prometheus-port", "0"]);
    diagnosis.assert_ok("socket");
    diagnosis.assert_finds("versions", &["9.9.9", "0.1.0"], &["one release", "restart"]);

    let daemon = Daemon::start(&[]);
    let (tools, program) = tool_for_everybody();
    let mut other = tempfile::NamedTempFile::new().unwrap();
    other.write_all(b"#!/bin/sh\necho hostkvd 9.9.9\n").unwrap();
    make_program(other.path(), &tools.path().join("hostkvd"));
    let mut command = tool_at(&program, &["doctor", "--json"]);
    let ran = command
        .env("HOSTKV_SOCKET", daemon.socket())
        .output()
        .unwrap();
    Diagnosis::of(Ran::of(ran)).assert_finds(
        "versions",
        &["hostkvd is 9.9.9 and the running daemon 0.1.0"],
        &["one release"],
    );
    daemon.finish();
}

#[test]
fn a_small_dev_shm_with_shm_name() {
    if !is_root() {
        skip("doctor on a small /dev/shm: mounting one needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A mount of its own in a namespace of its own; the host's stays as it is.
    let script = "mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 77; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh", crate::TOOL])
        .args(["doctor", "--json", "--", "--shm-name", "hostkv-doctor"])
        .args(["--l1-size-gb", "0.5", "--prometheus-port", "0"])
        .env_remove("XDG_RUNTIME_DIR")
        .env("HOSTKV_SOCKET", folder.path().join("hostkv.sock"));
    let ran = match command.output() {
        Ok(output) => Ran::of(output),
        Err(error) => {
            skip(&format!("doctor on a small /dev/shm: unshare: {error}"));
            return;
        }
    };
    if ran.code == Some(77) || ran.text().is_empty() {
        skip(&format!(
            "doctor on a small /dev/shm: it can't be mounted: {}",
            ran.stderr
        ));
        return;
    }
    Diagnosis::of(ran).assert_finds(
        "/dev/shm",
        &["512.0 MiB", "64.0 MiB of 64.0 MiB are free"],
        &["remount,size=512M", "--shm-size", "--l1-size-gb"],
    );
}

#[test]
fn a_low_descriptor_limit() {
    let daemon = DaemonSpec::default()
        .wrapped(&["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"])
        .start();
    diagnose(&daemon).assert_finds(
        "descriptors",
        &["200 descriptors", "--max-sessions 256 needs 1120"],
        &["LimitNOFILE=", "1120"],
    );
    daemon.finish();
}

#[test]
fn a_daemon_that_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hostkv.sock");
    let diagnosis = diagnose_without(&socket, &["--prometheus-port", "0"]);
    diagnosis.assert_finds("socket", &["is down", "hostkv.sock"], &["start hostkvd"]);
    // Also where no place is named at all.
    let ran = tool(&["doctor", "--json", "--", "--prometheus-port", "0"])
        .env("XDG_RUNTIME_DIR", folder.path())
        .output()
        .unwrap();
    let diagnosis = Diagnosis::of(Ran::of(ran));
    if Path::new("/run/hostkv/hostkv.sock").exists() {
        skip("doctor without a daemon in any usual place: this host has one");
        return;
    }
    diagnosis.assert_finds("socket", &["is down"], &["start hostkvd"]);
}

#[test]
fn a_stale_socket() {
    let daemon = Daemon::start(&[]);
    let socket = daemon.socket();
    let spec = daemon.kill();
    diagnose_without(&socket, &["--prometheus-port", "0"]).assert_finds(
        "socket",
        &["is stale", "killed"],
        &["replaces a stale socket"],
    );
    drop(spec);
}

#[test]
fn another_instance_where_other_clients_look() {
    let daemon = Daemon::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let other_socket = folder.path().join("hostkv/hostkv.sock");
    let other = DaemonSpec::default().at(&other_socket).start();
    let look = |arguments: &[&str]| {
        let mut command = tool(arguments);
        command.env("HOSTKV_SOCKET", daemon.socket());
        let ran = command
            .env("XDG_RUNTIME_DIR", folder.path())
            .output()
            .unwrap();
        Diagnosis::of(Ran::of(ran))
    };
    look(&["doctor", "--json"]).assert_finds(
        "other instances",
        &[other_socket.to_str().unwrap(), "pool of its own"],
        &["HOSTKV_SOCKET"],
    );
    // Who names a socket has chosen.
    let socket = daemon.socket();
    look(&["doctor", "--json", "--socket", socket.to_str().unwrap()]).assert_ok("other instances");
    other.finish();
    daemon.finish();
}

#[test]
fn a_metrics_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hostkv.sock");
    let flags = ["--prometheus-port", port.as_str()];
    diagnose_without(&socket, &flags).assert_finds(
        "metrics port",
        &[&format!("127.0.0.1:{port}"), "in use"],
        &["ss -ltnp", "--prometheus-port"],
    );
    // The same from a configuration file, as a service has it.
    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "prometheus_port = {port}").unwrap();
    let config = ["--config", config.path().to_str().unwrap()];
    let diagnosis = diagnose_without(&socket, &config);
    assert_eq!(diagnosis.check("metrics port")["outcome"], "problem");
    drop(taken);
    diagnose_without(&socket, &config).assert_ok("metrics port");
}

#[test]
fn an_old_pool_that_is_still_held_and_by_whom() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 1), 4096);
    let lease = session
        .acquire(keyspace(&session), &keys("k", 1), &Default::default())
        .unwrap();
    let socket = daemon.socket();
    let spec = daemon.kill();
    let held = format!("{} (", std::process::id());
    diagnose_without(&socket, &["--prometheus-port", "0"]).assert_finds(
        "old pools",
        &[&held],
        &["end their handles"],
    );
    drop((lease, session, spec));
}

#[test]
fn a_shifted_clock() {
    let daemon = Daemon::start(&[]);
    let socket = daemon.socket();
    let shifted = Command::new("unshare")
        .args(["--time", "--monotonic", "1000", "--fork", crate::TOOL])
        .args(["doctor", "--json", "--socket", socket.to_str().unwrap()])
        .output();
    match shifted.map(Ran::of) {
        Ok(ran) if !ran.text().is_empty() => {
            Diagnosis::of(ran).assert_finds("clock", &["off by 1000.0 s"], &["one time namespace"]);
        }
        other => skip(&format!(
            "doctor on a shifted clock: no time namespace can be made: {other:?}"
        )),
    }
    daemon.finish();
}

#[test]
fn a_configuration_that_hostkvd_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hostkv.sock");
    let diagnosis = diagnose_without(&socket, &["--eviction-ratio", "7"]);
    diagnosis.assert_finds("configuration", &["--eviction-ratio", "7"], &["--help"]);
    assert_eq!(diagnosis.check("metrics port")["outcome"], "not_checked");
    assert!(daemon_program().exists());
}

#[test]
fn a_daemon_that_is_stopped_is_told_in_time() {
    let daemon = Daemon::start(&[]);
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    let ran = run(&daemon, &["doctor", "--json", "--timeout-ms", "300"]);
    Diagnosis::of(ran).assert_finds("socket", &["does not serve", "300 ms"], &["stopped"]);
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    daemon.finish();
}
