//! What a service manager hears: ready, time for the start, the watchdog's feed, the status line, reload and stop.

use std::time::{Duration, Instant};

use hostkv_tests::{
    Daemon, DaemonSpec, Manager, Notice, RawClient, keys, keyspace, skip, store, wait_until,
};
use nix::sys::signal::Signal;

/// A daemon that notifies `manager`.
fn notifying(manager: &Manager, spec: DaemonSpec) -> DaemonSpec {
    spec.variable("NOTIFY_SOCKET", manager.notify_socket().to_str().unwrap())
}

/// One that has said READY=1.
fn ready(manager: &Manager, spec: DaemonSpec) -> Daemon {
    let daemon = notifying(manager, spec).start();
    manager.wait_for("READY", drop);
    daemon
}

#[test]
fn ready_is_said_once_when_requests_are_served_and_not_before() {
    let manager = Manager::new();
    let spec = notifying(&manager, DaemonSpec::new(&["--l1-size-gb", "0.125"]));
    let socket = spec.socket();
    let mut child = spec.command().spawn().unwrap();
    let mut before: Vec<Notice> = Vec::new();
    let notice = manager.wait_for("READY", |notice| before.push(notice));
    // A HELLO is answered from now on, without a second try.
    RawClient::connect(&socket).unwrap().open().unwrap();

    assert_eq!(notice.text, "READY=1\n");
    let said = |key: &str| before.iter().filter_map(|notice| notice.value(key)).count();
    assert!(said("EXTEND_TIMEOUT_USEC") > 0, "{before:?}");
    let is_progress = |notice: &Notice| {
        notice
            .value("STATUS")
            .is_some_and(|status| status.starts_with("prefault "))
    };
    assert!(before.iter().any(is_progress), "{before:?}");
    assert_eq!(said("STOPPING") + said("RELOADING") + said("WATCHDOG"), 0);
    // NotifyAccess=main hears only the main process.
    for notice in before.iter().chain([&notice]) {
        assert_eq!(notice.pid, child.id() as i32, "{notice:?}");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        Signal::SIGTERM,
    )
    .unwrap();
    manager.wait_for("STOPPING", |notice| assert_eq!(notice.value("READY"), None));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_loop_itself_feeds_the_watchdog() {
    let manager = Manager::new();
    let spec = DaemonSpec::default().variable("WATCHDOG_USEC", "400000");
    let daemon = ready(&manager, spec);
    for _ in 0..3 {
        manager.wait_for("WATCHDOG", drop);
    }
    let loop_thread = daemon.pid() as i32;
    if let Err(error) = freeze(loop_thread) {
        skip(&format!(
            "a loop that hangs is not fed for: stopping one thread of a child: {error}"
        ));
    } else {
        // The other threads run on: they still serve the port, and none of them feeds.
        manager.count_so_far("WATCHDOG");
        std::net::TcpStream::connect(daemon.metrics_address()).unwrap();
        assert_eq!(manager.hear(Duration::from_secs(2)), None);
        thaw(loop_thread);
        manager.wait_for("WATCHDOG", drop);
    }

    daemon.signal(Signal::SIGSTOP);
    wait_until("the feed stops with the process", || {
        manager.count_so_far("WATCHDOG");
        manager.hear(Duration::from_secs(1)).is_none()
    });
    daemon.signal(Signal::SIGCONT);
    manager.wait_for("WATCHDOG", drop);
    daemon.finish();
}

/// Stops one thread of a child, as a hang would.
fn freeze(thread: i32) -> nix::Result<()> {
    // SAFETY: the calls take numbers and write to no memory of this process.
    unsafe {
        let none = std::ptr::null_mut::<libc::c_void>();
        nix::errno::Errno::result(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none))?;
        nix::errno::Errno::result(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none))?;
        let mut status = 0;
        nix::errno::Errno::result(libc::waitpid(thread, &raw mut status, libc::__WALL))?;
    }
    Ok(())
}

fn thaw(thread: i32) {
    // SAFETY: as in `freeze`.
    let done = unsafe {
        let none = std::ptr::null_mut::<libc::c_void>();
        libc::ptrace(libc::PTRACE_DETACH, thread, none, none)
    };
    assert_eq!(done, 0);
}

#[test]
fn without_a_watchdog_of_its_own_nothing_is_fed() {
    let manager = Manager::new();
    // The variables of a parent that has one: another process is meant.
    let spec = DaemonSpec::default()
        .variable("WATCHDOG_USEC", "200000")
        .variable("WATCHDOG_PID", "1");
    let daemon = ready(&manager, spec);
    manager.wait_for("STATUS", |notice| {
        assert_eq!(notice.value("WATCHDOG"), None)
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(manager.count_so_far("WATCHDOG"), 0);
    daemon.finish();
}

#[test]
fn the_status_line_shows_the_use_and_changes_at_most_every_five_seconds() {
    let manager = Manager::new();
    let begin = Instant::now();
    let daemon = ready(&manager, DaemonSpec::new(&["--l1-size-gb", "0.0625"]));
    let first = manager.wait_for("STATUS", drop);
    assert_eq!(
        first.text,
        "STATUS=0.00 of 0.06 GiB used (0 %), 0 objects, 0 sessions\n"
    );
    let mut lines = 1;
    let session = daemon.session();
    let space = keyspace(&session);
    // Every store changes what could be said.
    let stored = keys("k", 32);
    for key in stored.chunks(1) {
        store(&session, space, key, 1 << 20);
        std::thread::sleep(Duration::from_millis(50));
    }
    let full = "STATUS=0.03 of 0.06 GiB used (50 %), 32 objects, 1 sessions\n";
    loop {
        let notice = manager.wait_for("STATUS", drop);
        lines += 1;
        if notice.text == full {
            break;
        }
    }
    let at_most = 2 + begin.elapsed().as_secs() / 5;
    assert!(lines <= at_most, "{lines} lines in {:?}", begin.elapsed());
    // Nothing changes, nothing is said.
    assert_eq!(manager.hear(Duration::from_secs(6)), None);
    drop(session);
    daemon.finish();
}

#[test]
fn a_reload_is_framed_by_reloading_and_ready() {
    let manager = Manager::new();
    let spec = DaemonSpec::default();
    let file = spec.folder().join("hostkv.toml");
    let basis = "l1_size_gb = 0.03125\nprometheus_port = 0\n";
    std::fs::write(&file, basis).unwrap();
    let daemon = ready(&manager, spec.flag("--config", &file));
    // A file that is refused ends the reload as well.
    for (text, max_pins) in [("max_pins = 1000\n", 1000), ("no_such_key = 1\n", 1000)] {
        std::fs::write(&file, format!("{basis}{text}")).unwrap();
        let before = monotonic_usec();
        daemon.signal(Signal::SIGHUP);
        let notice = manager.wait_for("RELOADING", |notice| {
            assert_eq!(notice.value("READY"), None);
        });
        assert_eq!(notice.value("RELOADING"), Some("1"));
        let said: u64 = notice.value("MONOTONIC_USEC").unwrap().parse().unwrap();
        assert!((before..=monotonic_usec()).contains(&said), "{notice:?}");
        manager.wait_for("READY", drop);
        // What was said to be done is done.
        let info = daemon.session().info().unwrap();
        assert_eq!(info.pin_slot_count, max_pins);
    }
    daemon.finish();
}

fn monotonic_usec() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}
