//! The sandbox from outside: it is on by default, what is switched on works in it, and a kernel without it is a warning.
//!
//! All other tests run with it as well, since it is the default.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostkv_tests::{Daemon, DaemonSpec, Manager, Worker, keys, keyspace, skip, store, wait_until};
use nix::sys::signal::Signal;

/// The values of a field of `/proc/PID/task/TID/status`, one for each thread, with the thread's name.
fn of_each_thread(daemon: &Daemon, field: &str) -> Vec<(String, String)> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    threads
        .filter_map(|thread| {
            let path = thread.unwrap().path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            // A thread may end meanwhile.
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Whether the kernel has both, as the daemon finds it.
fn is_whole(daemon: &Daemon) -> bool {
    let line = daemon.wait_for_line("Sandbox: ");
    let is_whole = line.contains("and seccomp") && line.contains("landlock");
    if !is_whole {
        skip(&format!("the sandbox: {line}"));
    }
    is_whole
}

/// A daemon with a file, which may be replaced.
fn configured(flags: &[&str]) -> (PathBuf, Daemon) {
    let spec = DaemonSpec::new(flags);
    std::fs::create_dir(spec.folder().join("etc")).unwrap();
    let file = spec.folder().join("etc/hostkvd.toml");
    std::fs::write(&file, "l1_size_gb = 0.03125\nprometheus_port = 0\n").unwrap();
    (file.clone(), spec.flag("--config", &file).start())
}

/// Sends SIGHUP and waits for the last word on it.
fn reload(daemon: &Daemon) -> String {
    let words = || {
        let lines = daemon.log_lines().into_iter();
        lines
            .filter(|line| line.contains("Reload: done.") || line.contains("Reload: nothing"))
            .collect::<Vec<_>>()
    };
    let before = words().len();
    daemon.signal(Signal::SIGHUP);
    wait_until("the file is read again", || words().len() > before);
    words().pop().unwrap()
}

#[test]
fn every_thread_is_closed_in_by_default_and_none_when_it_is_off() {
    let spec = DaemonSpec::default();
    let events = spec.folder().join("events.jsonl");
    let jsonl = format!(r#"{{"type": "jsonl", "path": "{}"}}"#, events.display());
    let flags = ["--enable-telemetry", "--telemetry-processor", &jsonl];
    let daemon = DaemonSpec::new(&flags).beside(&spec).start();
    if is_whole(&daemon) {
        for name in [
            "hostkvd",
            "hostkvd-log",
            "hostkvd-events",
            "payload-0",
            "metrics-accept",
        ] {
            // A thread names itself, a moment after its start.
            wait_until(&format!("there is a thread {name}"), || {
                let threads = of_each_thread(&daemon, "Seccomp");
                threads.iter().any(|(found, _)| found == name)
            });
        }
        for (field, wanted) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
            for (name, value) in of_each_thread(&daemon, field) {
                assert_eq!(value, wanted, "{field} of {name}");
            }
        }
    }
    daemon.finish();
    let daemon = Daemon::start(&["--sandbox", "off"]);
    for (field, wanted) in [("Seccomp", "0"), ("NoNewPrivs", "0")] {
        for (name, value) in of_each_thread(&daemon, field) {
            assert_eq!(value, wanted, "{field} of {name}");
        }
    }
    assert!(!daemon.log_text().contains("Sandbox: "));
    daemon.finish();
}

#[test]
fn a_file_in_place_of_the_configuration_is_read_and_one_elsewhere_is_not() {
    for (flags, is_on) in [(&[][..], true), (&["--sandbox", "off"], false)] {
        let (file, daemon) = configured(flags);
        if is_on && !is_whole(&daemon) {
            continue;
        }
        // As an editor writes it: a new file under the old name.
        let next = file.with_extension("next");
        std::fs::write(&next, "l1_size_gb = 0.03125\nmax_pins = 1000\n").unwrap();
        std::fs::rename(&next, &file).unwrap();
        let word = reload(&daemon);
        assert!(word.contains("Reload: done."), "{word}");
        daemon.wait_for_line("max_pins is now 1000");
        // A link to what the daemon had no reason to read.
        let secret = daemon.spec().folder().join("secret.toml");
        std::fs::write(&secret, "max_pins = 2000\n").unwrap();
        symlink(&secret, &next).unwrap();
        std::fs::rename(&next, &file).unwrap();
        let word = reload(&daemon);
        assert_eq!(word.contains("Permission denied"), is_on, "{word}");
        let is_read = daemon.log_text().contains("max_pins is now 2000");
        assert_eq!(is_read, !is_on, "{}", daemon.log_text());
        daemon.finish();
    }
}

#[test]
fn events_are_rotated_in_their_folder_and_go_nowhere_else() {
    let spec = DaemonSpec::default();
    let folder = spec.folder().join("events");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("events.jsonl");
    let jsonl = format!(
        r#"{{"type": "jsonl", "path": "{}", "max_bytes": 4096, "max_files": 3}}"#,
        file.display()
    );
    let flags = ["--enable-telemetry", "--telemetry-processor", &jsonl];
    let daemon = DaemonSpec::new(&flags).beside(&spec).start();
    let session = daemon.session();
    let space = keyspace(&session);
    let stores = || {
        for number in 0..20 {
            store(&session, space, &keys(&format!("k{number}"), 2), 100);
            session.clear(0).unwrap();
        }
    };
    let is_there = |path: &Path| {
        stores();
        path.exists()
    };
    wait_until("the third file", || {
        is_there(&folder.join("events.jsonl.2"))
    });
    if is_whole(&daemon) {
        // The folder's name leads elsewhere: the descriptor goes on, a new file is refused.
        let elsewhere = daemon.spec().folder().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::rename(&folder, folder.with_extension("moved")).unwrap();
        symlink(&elsewhere, &folder).unwrap();
        wait_until("a refusal", || {
            stores();
            daemon.log_text().contains("Permission denied")
        });
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
    drop(session);
    daemon.finish();
}

#[test]
fn a_named_segment_still_loses_its_name_at_the_end() {
    let name = format!("hostkv-sandbox-{}", std::process::id());
    let daemon = Daemon::start(&["--shm-name", &name]);
    let path = Path::new("/dev/shm").join(&name);
    assert!(path.exists());
    is_whole(&daemon);
    daemon.finish();
    assert!(!path.exists());
}

/// Whether this machine lets strace trace with these arguments.
fn can_trace(arguments: &[&str]) -> bool {
    let status = Command::new("strace")
        .args(arguments)
        .args(["-o", "/dev/null", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    let can = status.is_ok_and(|status| status.success());
    if !can {
        skip("the sandbox under strace: strace is missing or may not trace");
    }
    can
}

#[test]
fn a_kernel_that_lacks_a_part_is_one_warning_and_a_daemon_that_serves() {
    let no_landlock = "inject=landlock_create_ruleset:error=EOPNOTSUPP";
    let no_seccomp = "inject=seccomp:error=EINVAL";
    for (faults, parts) in [
        (
            &[no_landlock][..],
            &["seccomp only", "landlock is missing"][..],
        ),
        (&[no_seccomp], &[" only: seccomp is missing"]),
        (&["inject=seccomp:error=ENOSYS"], &["built without it"]),
        (&["inject=prctl:error=EPERM"], &["is missing"]),
        (
            &[no_landlock, no_seccomp],
            &["none: landlock", "seccomp is"],
        ),
    ] {
        let words: Vec<&str> = faults.iter().flat_map(|fault| ["-e", *fault]).collect();
        if !can_trace(&words) {
            return;
        }
        let spec = DaemonSpec::default();
        let trace = spec.folder().join("trace");
        // With -D the daemon, and not strace, is the child that is told to end.
        let mut wrapper = vec!["strace", "-D", "-f", "-o", trace.to_str().unwrap()];
        wrapper.extend(&words);
        let traced = spec.clone().wrapped(&wrapper);
        let daemon = traced.start();
        let line = daemon.wait_for_line("Sandbox: ");
        assert!(line.contains("LMCache WARNING: "), "{line}");
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        let lines = daemon.log_lines();
        let said = lines.iter().filter(|line| line.contains("Sandbox: "));
        assert_eq!(said.count(), 1, "{lines:?}");
        let session = daemon.session();
        store(&session, keyspace(&session), &keys("k", 3), 100);
        drop(session);
        daemon.finish();
    }
}

/// Calls that the kernel refused, other than those that are asked to find something out.
fn refused_calls(trace: &str) -> Vec<&str> {
    let refused = |line: &&str| {
        ["EPERM", "EACCES"]
            .iter()
            .any(|errno| line.contains(&format!("= -1 {errno}")))
    };
    // Everything before is the start, outside of the sandbox.
    let closed = trace.rfind("seccomp(SECCOMP_SET_MODE_FILTER").unwrap();
    trace[closed..].lines().filter(refused).collect()
}

#[test]
fn nothing_that_a_busy_daemon_with_all_switched_on_does_is_refused() {
    if !can_trace(&["-f"]) {
        return;
    }
    let manager = Manager::new();
    let spec = DaemonSpec::default();
    let trace = spec.folder().join("trace");
    let events = spec.folder().join("events.jsonl");
    let jsonl = format!(
        r#"{{"type": "jsonl", "path": "{}", "max_bytes": 4096, "max_files": 2}}"#,
        events.display()
    );
    let own = nix::unistd::geteuid().to_string();
    let file = spec.folder().join("hostkvd.toml");
    std::fs::write(&file, "l1_size_gb = 0.0625\nprometheus_port = 0\n").unwrap();
    // One that is there from the start, one that is opened within the sandbox, and one whose server never is.
    let later = spec.folder().join("later");
    std::fs::write(&later, "in the way of a folder").unwrap();
    let fs = |name: &str, folder: &Path| {
        format!(
            r#"{{"type": "fs", "name": "{name}", "base_path": "{}", "required": false}}"#,
            folder.display()
        )
    };
    let tiers = [
        fs("disk", &spec.folder().join("disk")),
        fs("later", &later.join("objects")),
        r#"{"type": "resp", "host": "localhost", "port": 1, "required": false}"#.to_owned(),
    ];
    let flags = [
        "--enable-telemetry",
        "--telemetry-processor",
        &jsonl,
        "--telemetry-processor",
        r#"{"type": "logging", "log_level": "DEBUG"}"#,
        "--integrity",
        "full",
        "--zero-on-reuse",
        "--l1-read-ttl-seconds",
        "2",
        "--l1-write-ttl-seconds",
        "2",
        "--prometheus-log-interval",
        "0.05",
        "--untrusted-uid",
        "0",
        "--untrusted-uid",
        &own,
        "--l2-adapter",
        &tiers[0],
        "--l2-adapter",
        &tiers[1],
        "--l2-adapter",
        &tiers[2],
    ];
    let wrapper = [
        "strace",
        "-D",
        "-f",
        "-s",
        "64",
        "-o",
        trace.to_str().unwrap(),
    ];
    let daemon = DaemonSpec::new(&flags)
        .flag("--config", &file)
        .variable("NOTIFY_SOCKET", manager.notify_socket().to_str().unwrap())
        .variable("WATCHDOG_USEC", "400000")
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .beside(&spec)
        .wrapped(&wrapper)
        .start();
    let is_whole = is_whole(&daemon);
    std::fs::remove_file(&later).unwrap();
    std::fs::create_dir(&later).unwrap();
    for round in 0..3 {
        let session = daemon.session();
        let space = keyspace(&session);
        store(&session, space, &keys(&format!("k{round}"), 40), 1 << 20);
        session.lookup(space, &keys("k0", 40), None).unwrap();
        drop(session);
        // One that dies, one that runs another program: the daemon looks at both.
        let mut dying = Worker::start(&daemon);
        dying.must("open");
        dying.must("reserve d 4 100000");
        dying.kill();
        let mut other = Worker::start(&daemon);
        other.must("open");
        other.must("exec");
        other.end();
        for path in ["/metrics", "/", "/healthz"] {
            let scrape = hostkv_tests::Scrape::get(daemon.metrics_address(), path).unwrap();
            assert!(scrape.head.starts_with("HTTP/1.1 200"), "{}", scrape.head);
        }
        assert!(reload(&daemon).contains("Reload: done."));
        daemon.audit_until("all is given back", |audit| audit.reserved_bytes == 0);
    }
    let stored = |name: &str| {
        let sample = format!("hostkv_l2_stored_keys_total{{l2_name=\"{name}\"}}");
        daemon.scrape().sample(&sample) as u64
    };
    wait_until("a tier that is opened in the sandbox", || {
        let session = daemon.session();
        let space = keyspace(&session);
        store(&session, space, &keys("again", 4), 1 << 20);
        session.clear(0).unwrap();
        stored("disk") > 0 && stored("later") > 0
    });
    daemon.finish();
    assert!(
        events.with_extension("jsonl.1").exists(),
        "files were rotated"
    );
    if is_whole {
        let read = || std::fs::read_to_string(&trace).unwrap();
        // strace ends after the daemon.
        wait_until("the end of the trace", || {
            read().contains("+++ exited with 0")
        });
        let trace = read();
        let refused = refused_calls(&trace);
        assert!(refused.is_empty(), "{refused:#?}");
    }
}
