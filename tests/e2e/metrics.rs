//! The contract counters: their names, and every path counted to the key.

use std::net::TcpListener;
use std::time::Duration;

use hostkv::session::ACQUIRE_ALL;
use hostkv_tests::{
    Daemon, DaemonSpec, NINE, Random, Scrape, Worker, daemon_program, keys, keyspace, request,
    reserve_items, seed, store, store_sized, wait_until,
};

/// Panics unless the counters moved by exactly this much; gives the new scrape.
fn moved(daemon: &Daemon, before: &Scrape, what: &str, by: [u64; 9]) -> Scrape {
    let after = daemon.scrape();
    let (old, new) = (before.nine(), after.nine());
    for index in 0..9 {
        assert_eq!(
            new[index] - old[index],
            by[index],
            "{what}: {} went from {} to {}",
            NINE[index],
            old[index],
            new[index]
        );
    }
    after
}

#[test]
fn the_nine_are_there_at_0_from_the_start_under_their_literal_names() {
    let daemon = Daemon::start(&[]);
    let scrape = daemon.scrape();
    for line in [
        "lmcache_mp:sm_read_requests_total 0",
        "lmcache_mp:sm_read_succeed_keys_total 0",
        "lmcache_mp:sm_read_failed_keys_total 0",
        "lmcache_mp:sm_write_requests_total 0",
        "lmcache_mp:sm_write_succeed_keys_total 0",
        "lmcache_mp:sm_write_failed_keys_total 0",
        "lmcache_mp:l1_read_keys_total 0",
        "lmcache_mp:l1_write_keys_total 0",
        "lmcache_mp:l1_evicted_keys_total 0",
        "# TYPE lmcache_mp:sm_read_requests_total counter",
        "hostkv_l1_capacity_bytes 33554432",
        "hostkv_l1_used_bytes 0",
        "hostkv_sessions 0",
        "hostkv_write_failures_total{reason=\"exists\"} 0",
    ] {
        assert!(
            scrape.body.lines().any(|found| found == line),
            "{line:?} is not in:\n{}",
            scrape.body
        );
    }
    assert!(
        scrape
            .head
            .contains("Content-Type: text/plain; version=0.0.4"),
        "{}",
        scrape.head
    );
    let own: Vec<&str> = scrape
        .body
        .lines()
        .filter(|line| line.starts_with("lmcache_mp:"))
        .collect();
    assert_eq!(own.len(), 9, "{own:?}");
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        // The processor time of a daemon that has just started may round to nothing.
        assert!(scrape.sample(name) > 0.0 || name.contains("cpu"), "{name}");
    }
    daemon.finish();
}

#[test]
fn every_read_path_is_counted_to_the_key() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 6);
    store(&session, space, &[asked[0], asked[1], asked[3]], 100);
    let now = daemon.scrape();
    session.lookup(space, &asked, None).unwrap();
    let now = moved(&daemon, &now, "a lookup", [0; 9]);
    let lease = session.acquire(space, &asked, &request(0)).unwrap();
    let now = moved(&daemon, &now, "an acquire", [1, 2, 4, 0, 0, 0, 0, 0, 0]);
    lease.release().unwrap();
    let now = moved(&daemon, &now, "its release", [0, 0, 0, 0, 0, 0, 2, 0, 0]);
    let lease = session
        .acquire(space, &asked, &request(ACQUIRE_ALL))
        .unwrap();
    let now = moved(&daemon, &now, "ACQUIRE_ALL", [1, 3, 3, 0, 0, 0, 0, 0, 0]);
    drop(lease);
    let now = moved(&daemon, &now, "its drop", [0, 0, 0, 0, 0, 0, 3, 0, 0]);
    let twice = [asked[0], asked[0], asked[5], asked[5]];
    let lease = session.acquire(space, &twice, &request(0)).unwrap();
    lease.release().unwrap();
    let now = moved(&daemon, &now, "duplicates", [1, 2, 2, 0, 0, 0, 2, 0, 0]);
    let lease = session.acquire(space, &asked[5..], &request(0)).unwrap();
    lease.release().unwrap();
    let now = moved(&daemon, &now, "a miss", [1, 0, 1, 0, 0, 0, 0, 0, 0]);
    // Refused as a whole: none of the nine moves.
    session.acquire(space, &[], &request(0)).err().unwrap();
    session
        .acquire(hostkv::KeyspaceId(77), &asked, &request(0))
        .err()
        .unwrap();
    let now = moved(&daemon, &now, "refused calls", [0; 9]);
    // A session whose handle ends with a lease open: the release counts all the same.
    let lease = session.acquire(space, &asked[..1], &request(0)).unwrap();
    session.close().unwrap();
    lease.release().unwrap();
    moved(
        &daemon,
        &now,
        "a release after the close",
        [1, 1, 0, 0, 0, 0, 1, 0, 0],
    );
    daemon.finish();
}

#[test]
fn every_write_path_is_counted_to_the_key_and_by_its_reason() {
    let daemon = Daemon::start(&["--eviction-policy", "noop"]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 4);
    let now = daemon.scrape();
    let reservation = store_sized(&session, space, &reserve_items(&asked[..3], 100));
    let now = moved(&daemon, &now, "a reserve", [0, 0, 0, 1, 3, 0, 0, 0, 0]);
    reservation.commit().unwrap();
    let now = moved(&daemon, &now, "its commit", [0, 0, 0, 0, 0, 0, 0, 3, 0]);
    let twice = [asked[2], asked[3], asked[3]];
    let reservation = session
        .reserve(space, &reserve_items(&twice, 100), &request(0))
        .unwrap();
    let now = moved(
        &daemon,
        &now,
        "EXISTS and RESERVED",
        [0, 0, 0, 1, 1, 2, 0, 0, 0],
    );
    assert_eq!(
        (now.write_failures("exists"), now.write_failures("reserved")),
        (1, 1)
    );
    reservation.abort().unwrap();
    let now = moved(&daemon, &now, "an abort", [0; 9]);
    let items = reserve_items(&keys("quota", 6), 1 << 20);
    drop(session.reserve(space, &items, &request(0)).unwrap());
    let now = moved(&daemon, &now, "QUOTA", [0, 0, 0, 1, 4, 2, 0, 0, 0]);
    assert_eq!(now.write_failures("quota"), 2);
    let fills = keys("fill", 31);
    fills
        .chunks(4)
        .for_each(|batch| store(&session, space, batch, 1 << 20));
    let now = moved(&daemon, &now, "eight stores", [0, 0, 0, 8, 31, 0, 0, 31, 0]);
    drop(session.reserve(space, &items[..3], &request(0)).unwrap());
    let now = moved(&daemon, &now, "NO_SPACE", [0, 0, 0, 1, 0, 3, 0, 0, 0]);
    assert_eq!(now.write_failures("no_space"), 3);
    session.remove(space, &fills, None).unwrap();
    let now = moved(&daemon, &now, "a remove evicts nothing", [0; 9]);
    assert_eq!(now.sample("hostkv_removed_keys_total"), 31.0);
    // commit_and_acquire counts as a write; its release counts the keys read.
    daemon.audit_until("the removed bytes are free", |audit| {
        audit.zombie_bytes == 0
    });
    let both = [asked[0], asked[3]];
    let reservation = session
        .reserve(space, &reserve_items(&both, 100), &request(0))
        .unwrap();
    let lease = reservation.commit_and_acquire().unwrap();
    assert_eq!(lease.prefix_count(), 2);
    let now = moved(
        &daemon,
        &now,
        "commit_and_acquire",
        [0, 0, 0, 1, 1, 1, 0, 1, 0],
    );
    lease.release().unwrap();
    let now = moved(&daemon, &now, "its release", [0, 0, 0, 0, 0, 0, 2, 0, 0]);
    session.clear(0).unwrap();
    let now = moved(&daemon, &now, "a clear", [0; 9]);
    assert_eq!(now.sample("hostkv_cleared_keys_total"), 4.0);
    let empty = session.reserve(space, &[], &request(0));
    empty.err().unwrap();
    moved(&daemon, &now, "a refused reserve", [0; 9]);
    drop(session);
    daemon.finish();
}

#[test]
fn a_session_that_is_killed_is_counted_up_to_its_last_call() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 4), 100);
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    let now = daemon.scrape();
    assert_eq!(worker.must("acquire k 6"), "4");
    worker.kill();
    daemon.wait_for_sessions(1);
    let now = moved(
        &daemon,
        &now,
        "killed before the release",
        [1, 4, 2, 0, 0, 0, 0, 0, 0],
    );
    let mut worker = Worker::start(&daemon);
    worker.must("open");
    worker.must("acquire k 4");
    worker.must("release");
    worker.must("acquire k 1");
    worker.must("reserve new 2 100");
    worker.kill();
    daemon.wait_for_sessions(1);
    let now = moved(
        &daemon,
        &now,
        "killed with all of it",
        [2, 5, 0, 1, 2, 0, 4, 0, 0],
    );
    assert_eq!(now.sample("hostkv_reclaimed_pins_total"), 5.0);
    assert_eq!(now.sample("hostkv_reclaimed_reservations_total"), 2.0);
    drop(session);
    daemon.finish();
}

#[test]
fn the_sums_hold_in_every_scrape_and_no_counter_falls_while_100_sessions_come_and_are_killed() {
    let daemon = Daemon::start(&["--prometheus-log-interval", "0.05"]);
    let mut random = Random(seed("no_counter_falls"));
    let mut last = daemon.scrape();
    for _ in 0..50 {
        let mut workers = [Worker::start(&daemon), Worker::start(&daemon)];
        for worker in &mut workers {
            worker.must("open");
            worker.must(&format!("load-until-death {}", random.below(1 << 40)));
        }
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
        for worker in &mut workers {
            // Scrapes run while the load runs, and after each death; `scrape` checks the sums.
            let scrape = daemon.scrape();
            for (name, value) in last.counters() {
                let now = scrape.find(name).unwrap_or(-1.0);
                assert!(now >= value, "{name} fell from {value} to {now}");
            }
            last = scrape;
            worker.kill();
        }
    }
    daemon.wait_for_sessions(0);
    let scrape = daemon.scrape();
    assert!(scrape.counter("sm_read_requests_total") > 0);
    assert!(scrape.counter("sm_write_requests_total") > 0);
    let audit = daemon.audit();
    assert_eq!((audit.reserved_bytes, audit.pin_count), (0, 0));
    daemon.audit_until("zombies go", |audit| audit.zombie_bytes == 0);
    eprintln!("no_counter_falls: {:?}", scrape.nine());
    daemon.finish();
}

#[test]
fn counters_survive_a_clean_close_and_the_figures_agree_with_the_scrape() {
    let daemon = Daemon::start(&[]);
    for round in 0..5 {
        let session = daemon.session();
        let space = keyspace(&session);
        let stored = keys(&format!("r{round}"), 3);
        store(&session, space, &stored, 100);
        session
            .acquire(space, &stored, &request(0))
            .unwrap()
            .release()
            .unwrap();
        session.close().unwrap();
    }
    let scrape = daemon.scrape();
    assert_eq!(scrape.nine(), [5, 15, 0, 5, 15, 0, 15, 15, 0]);
    let figures = daemon.figures();
    let seen = [
        figures.sm_read_requests,
        figures.sm_read_succeed_keys,
        figures.sm_read_failed_keys,
        figures.sm_write_requests,
        figures.sm_write_succeed_keys,
        figures.sm_write_failed_keys,
        figures.l1_read_keys,
        figures.l1_write_keys,
        figures.l1_evicted_keys,
    ];
    assert_eq!(seen, scrape.nine());
    assert_eq!(figures.object_count, 15);
    assert_eq!(figures.used_bytes, 15 * 4096);
    assert_eq!(scrape.sample("hostkv_l1_used_bytes"), 15.0 * 4096.0);
    assert_eq!(figures.capacity_bytes, 32 << 20);
    daemon.finish();
}

#[test]
fn the_endpoint_answers_health_and_refuses_what_it_does_not_have() {
    let daemon = Daemon::start(&[]);
    let address = daemon.metrics_address();
    // Its socket is there a moment before the loop that serves it, and so is the endpoint.
    wait_until("the daemon serves", || {
        let health = Scrape::get(address, "/healthz").unwrap();
        if health.head.starts_with("HTTP/1.1 503") {
            return false;
        }
        assert!(health.head.starts_with("HTTP/1.1 200"), "{}", health.head);
        assert_eq!(health.body.trim(), "ok");
        true
    });
    let page = Scrape::get(address, "/").unwrap();
    assert!(page.head.starts_with("HTTP/1.1 200") && page.body.contains("/metrics"));
    let none = Scrape::get(address, "/nothing").unwrap();
    assert!(none.head.starts_with("HTTP/1.1 404"), "{}", none.head);
    daemon.finish();
}

#[test]
fn it_is_on_at_loopback_9090_unless_flags_say_otherwise() {
    let output = std::process::Command::new(daemon_program())
        .args(["--socket", "/tmp/x.sock", "--print-config"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for (key, value) in [
        ("prometheus_port", "9090"),
        ("prometheus_host", "127.0.0.1"),
        ("prometheus_log_interval", "10"),
        ("disable_prometheus", "false"),
    ] {
        let line = text.lines().find(|line| line.contains(key)).unwrap();
        assert!(line.contains(value) && line.contains("default"), "{line}");
    }
}

#[test]
fn without_the_endpoint_the_daemon_listens_on_nothing_and_counts_all_the_same() {
    let daemon = Daemon::start(&["--disable-prometheus"]);
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 2), 100);
    assert_eq!(session.figures().unwrap().l1_write_keys, 2);
    assert!(!daemon.log_text().contains("Prometheus metrics available"));
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| link.starts_with("socket:"))
        .collect();
    let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid())).unwrap();
    for socket in sockets {
        let inode = socket.trim_start_matches("socket:[").trim_end_matches(']');
        assert!(
            !tcp.lines()
                .any(|line| line.split_whitespace().nth(9) == Some(inode))
        );
    }
    drop(session);
    daemon.finish();
}

#[test]
fn host_and_port_are_taken_as_given() {
    let daemon = Daemon::start(&["--prometheus-host", "0.0.0.0"]);
    let line = daemon.wait_for_line("Prometheus metrics available at http://0.0.0.0:");
    assert!(line.ends_with("/metrics"), "{line}");
    assert!(!daemon.log_text().contains("loopback only"));
    let port = daemon.metrics_address().port();
    let scrape = Scrape::get(([127, 0, 0, 1], port).into(), "/metrics").unwrap();
    scrape.assert_adds_up();
    daemon.finish();

    // A port that was free a moment ago; if another process takes it meanwhile, the start says so.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let daemon = DaemonSpec::new(&["--prometheus-port", &port.to_string()]).start();
    assert_eq!(
        daemon.metrics_address().to_string(),
        format!("127.0.0.1:{port}")
    );
    daemon.finish();
}
