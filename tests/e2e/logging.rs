//! Log lines: their form, their levels, the key messages, and a standard error that nobody reads.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use hostkv_tests::{
    Daemon, DaemonSpec, Scrape, keys, keyspace, keyspace_config, request, reserve_items, store,
};
use nix::sys::signal::Signal;

/// The level and the message of a line, which must have the literal form
/// `[2026-11-24 21:08:06,603] LMCache INFO: message`.
fn parts(line: &str) -> (&str, &str) {
    let bytes = line.as_bytes();
    let form = "[dddd-dd-dd dd:dd:dd,ddd] LMCache ";
    assert!(bytes.len() > form.len(), "{line:?}");
    for (at, (wanted, found)) in form.bytes().zip(bytes).enumerate() {
        let is_right = match wanted {
            b'd' => found.is_ascii_digit(),
            _ => *found == wanted,
        };
        // The name has a `d` in no place, so that only digits are meant by it.
        assert!(is_right, "byte {at} of {line:?}");
    }
    line[form.len()..].split_once(": ").unwrap()
}

#[test]
fn every_line_has_the_literal_form_and_a_known_level() {
    let daemon = DaemonSpec::default()
        .variable("LMCACHE_LOG_LEVEL", "debug")
        .start();
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 3), 100);
    drop(session);
    daemon.wait_for_sessions(0);
    daemon.wait_for_line("DEBUG");
    let lines = daemon.log_lines();
    assert!(lines.len() >= 4);
    for line in &lines {
        let (level, message) = parts(line);
        assert!(
            ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level),
            "{line}"
        );
        assert!(!message.is_empty());
    }
    daemon.finish();
}

#[test]
fn the_key_messages_are_literal() {
    let daemon = Daemon::start(&["--eviction-trigger-watermark", "0.5"]);
    let address = daemon.metrics_address();
    let message = format!("Prometheus metrics available at http://{address}/metrics");
    assert_eq!(
        parts(&daemon.wait_for_line("Prometheus")),
        ("INFO", message.as_str())
    );
    let session = daemon.session();
    let mut config = keyspace_config("test-model");
    config.tokens_per_key = 100;
    let space = session.open_keyspace(&config).unwrap();
    store(&session, space, &keys("k", 3), 100);
    let line = daemon.wait_for_line("Stored ");
    let (level, message) = parts(&line);
    assert_eq!(level, "INFO");
    let seconds = message
        .strip_prefix("Stored 300 tokens in ")
        .and_then(|rest| rest.strip_suffix(" seconds"))
        .unwrap_or_else(|| panic!("{message}"));
    let (whole, decimals) = seconds.split_once('.').unwrap();
    assert!(
        whole.parse::<u64>().is_ok() && decimals.len() == 3,
        "{message}"
    );
    assert!(decimals.parse::<u64>().is_ok(), "{message}");
    // A commit that stores nothing says nothing.
    session
        .reserve(space, &reserve_items(&keys("k", 3), 100), &request(0))
        .unwrap()
        .commit()
        .unwrap();
    for round in 0..5 {
        store(&session, space, &keys(&format!("fill{round}"), 4), 1 << 20);
    }
    let line = daemon.wait_for_line("triggering eviction");
    let (level, message) = parts(&line);
    assert_eq!(level, "INFO");
    assert!(message.starts_with("Memory usage 0.5"), "{message}");
    assert!(
        message.ends_with(" above watermark 0.50; triggering eviction."),
        "{message}"
    );
    let opened = daemon.wait_for_line("Session ");
    assert!(
        opened.contains("opened") && opened.contains("\"e2e\""),
        "{opened}"
    );
    let stored = daemon
        .log_lines()
        .iter()
        .filter(|line| line.contains("Stored 300"))
        .count();
    assert_eq!(stored, 1);
    drop(session);
    daemon.wait_for_line("closed: said BYE");
    daemon.finish();
}

/// The text between `begin` and `end`, which must be all there is besides.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.strip_prefix(begin)
        .and_then(|rest| rest.strip_suffix(end))
        .unwrap_or_else(|| panic!("{text:?} is not {begin:?}…{end:?}"))
}

#[test]
fn the_key_messages_of_reads_are_literal() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 5);
    store(&session, space, &asked[..3], 100);
    let mut named = request(0);
    named.request_id = Some("req-001");
    // It is a retrieve once a span is taken.
    let lease = session.acquire(space, &asked, &named).unwrap();
    lease.span(2).unwrap();
    lease.release().unwrap();
    let line = daemon.wait_for_line("Prefetch request completed");
    let (level, message) = parts(&line);
    assert_eq!(level, "INFO");
    let begin = "Prefetch request completed (L1+L2): 3/5 prefix hits (3 L1, 0 L2) in ";
    let millis = between(message, begin, " ms (session=req-001)");
    let (whole, decimal) = millis.split_once('.').unwrap();
    assert!(
        whole.parse::<u64>().is_ok() && decimal.len() == 1,
        "{message}"
    );
    let line = daemon.wait_for_line("Retrieved ");
    let (level, message) = parts(&line);
    assert_eq!(level, "INFO");
    // Three keys of 256 tokens.
    let seconds = between(message, "Retrieved 768 tokens in ", " seconds");
    let (whole, decimals) = seconds.split_once('.').unwrap();
    assert!(
        whole.parse::<u64>().is_ok() && decimals.len() == 3,
        "{message}"
    );
    // A miss has no time and no session, and retrieves nothing.
    session
        .acquire(space, &asked[3..], &named)
        .unwrap()
        .release()
        .unwrap();
    let line = daemon.wait_for_line("Prefetch request completed (L1+L2): 0/2");
    assert!(
        line.ends_with("Prefetch request completed (L1+L2): 0/2 prefix hits"),
        "{line}"
    );
    let retrieved = daemon
        .log_lines()
        .iter()
        .filter(|line| line.contains("Retrieved"))
        .count();
    assert_eq!(retrieved, 1);
    drop(session);
    daemon.finish();
}

#[test]
fn lines_of_reads_are_at_most_100_a_second_a_session_and_reads_go_on() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 2);
    store(&session, space, &asked, 100);
    let begin = Instant::now();
    for _ in 0..20_000 {
        let lease = session.acquire(space, &asked, &request(0)).unwrap();
        lease.span(0).unwrap();
        lease.release().unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    drop(session);
    daemon.wait_for_sessions(0);
    daemon.audit();
    let lines = |part: &str| {
        daemon
            .log_lines()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    };
    // One allowance at the start, then ten a tick.
    let most = 100.0 * (seconds + 2.0);
    let (hits, retrieved) = (lines("Prefetch request completed"), lines("Retrieved"));
    assert!(
        hits > 0 && (hits as f64) <= most,
        "{hits} lines in {seconds} s"
    );
    assert_eq!(hits, retrieved);
    assert_eq!(daemon.scrape().counter("sm_read_requests_total"), 20_000);
    daemon.finish();
}

#[test]
fn the_level_hides_what_is_below_it() {
    for (level, shown, hidden) in [
        ("DEBUG", "DEBUG", "nothing"),
        ("INFO", "INFO", "DEBUG"),
        ("warning", "WARNING", "INFO"),
        ("Error", "", "WARNING"),
        ("CRITICAL", "", "ERROR"),
    ] {
        // Without prefault there is one WARNING at the start.
        let daemon = DaemonSpec::new(&["--prefault", "no"])
            .variable("LMCACHE_LOG_LEVEL", level)
            .start();
        let session = daemon.session();
        store(&session, keyspace(&session), &keys("k", 1), 100);
        drop(session);
        daemon.audit();
        if !shown.is_empty() {
            daemon.wait_for_line(&format!("LMCache {shown}: "));
        }
        let text = daemon.log_text();
        assert!(
            !text.contains(&format!("LMCache {hidden}: ")),
            "{level}:\n{text}"
        );
        daemon.finish();
    }
}

#[test]
fn an_unknown_level_is_a_warning_and_means_info() {
    let daemon = DaemonSpec::new(&["--disable-prometheus"])
        .variable("LMCACHE_LOG_LEVEL", "LOUD")
        .start();
    let line = daemon.wait_for_line("\"LOUD\"");
    let (level, message) = parts(&line);
    assert_eq!(level, "WARNING");
    assert!(
        message.contains("LMCACHE_LOG_LEVEL") && message.contains("CRITICAL"),
        "{message}"
    );
    daemon.wait_for_line("LMCache INFO: ");
    daemon.finish();
}

#[test]
fn no_line_holds_a_salt_or_bytes_of_an_object() {
    let daemon = DaemonSpec::default()
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    let session = daemon.session();
    let mut config = keyspace_config("test-model");
    config.cache_salt = "very-secret-salt".to_owned();
    let space = session.open_keyspace(&config).unwrap();
    let stored = keys("secret-key", 2);
    let reservation = session
        .reserve(space, &reserve_items(&stored, 100), &request(0))
        .unwrap();
    // SAFETY: the span is this test's alone until the commit.
    unsafe { reservation.slice_mut(0).unwrap()[..12].copy_from_slice(b"secret-bytes") };
    reservation.commit().unwrap();
    session
        .acquire(space, &stored, &request(0))
        .unwrap()
        .release()
        .unwrap();
    session.remove(space, &stored, None).unwrap();
    config.layout_fingerprint = 1;
    daemon.session().open_keyspace(&config).unwrap_err();
    drop(session);
    daemon.wait_for_sessions(0);
    let text = daemon.log_text();
    for secret in ["very-secret", "secret-bytes", "secret-key"] {
        assert!(!text.contains(secret), "{text}");
    }
    daemon.finish();
}

#[test]
fn a_standard_error_that_nobody_reads_stops_neither_the_work_nor_the_end() {
    // The log is not read, so it can't say which port was picked.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut daemon = DaemonSpec::new(&["--prometheus-port", &port.to_string()])
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .with_stuck_stderr()
        .start();
    let session = daemon.session();
    let space = keyspace(&session);
    let dropped = || {
        Scrape::get(([127, 0, 0, 1], port).into(), "/metrics")
            .unwrap()
            .sample("hostkv_log_lines_dropped_total")
    };
    let begin = Instant::now();
    let mut worst = Duration::ZERO;
    let mut commits = 0;
    // One line a commit: the pipe fills, then the queue of 8192 lines, and then lines are dropped.
    while dropped() == 0.0 {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "no line is dropped after {commits} commits"
        );
        for _ in 0..500 {
            let one = keys("k", 1);
            let begin = Instant::now();
            let reservation = session
                .reserve(space, &reserve_items(&one, 64), &request(0))
                .unwrap();
            reservation.commit().unwrap();
            session.remove(space, &one, None).unwrap();
            worst = worst.max(begin.elapsed());
            commits += 1;
        }
    }
    eprintln!("a stuck standard error: {commits} commits, the slowest took {worst:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    drop(session);
    assert_eq!(daemon.audit().object_count, 0);
    let begin = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}
