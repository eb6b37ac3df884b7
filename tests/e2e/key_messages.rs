//! The key messages: their numbers, their levels, their absence, and the ways in which a level is set.

use std::time::{Duration, Instant};

use hostkv::session::{ACQUIRE_ALL, Request};
use hostkv_tests::{
    Daemon, DaemonSpec, keys, keyspace, keyspace_config, request, reserve_items, store, store_sized,
};

const MIB: u64 = 1 << 20;

/// All that a key message begins with.
const KEY_MESSAGES: [&str; 5] = [
    "Stored ",
    "Retrieved ",
    "Prefetch request ",
    "Memory usage ",
    "Prometheus metrics available",
];

/// The messages of this level that begin like this, as they are so far.
fn messages(daemon: &Daemon, level: &str, begin: &str) -> Vec<String> {
    let begin = format!("LMCache {level}: {begin}");
    let lines = daemon.log_lines();
    let parts = lines.iter().filter_map(|line| line.split_once(&begin));
    parts.map(|(_, rest)| rest.to_owned()).collect()
}

/// The only such message, waited for.
fn only(daemon: &Daemon, level: &str, begin: &str) -> String {
    daemon.wait_for_line(&format!("LMCache {level}: {begin}"));
    let found = messages(daemon, level, begin);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// The number before `unit`, which must have this many decimals.
fn number(text: &str, unit: &str, decimals: usize) -> f64 {
    let number = text
        .strip_suffix(unit)
        .unwrap_or_else(|| panic!("{text:?} does not end with {unit:?}"));
    let (whole, fraction) = number.split_once('.').unwrap();
    assert!(whole.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    assert_eq!(fraction.len(), decimals, "{text}");
    number.parse().unwrap()
}

#[test]
fn tokens_seconds_and_hits_are_those_of_the_work() {
    let daemon = DaemonSpec::default()
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    let session = daemon.session();
    let mut config = keyspace_config("test-model");
    config.tokens_per_key = 64;
    let space = session.open_keyspace(&config).unwrap();
    let asked = keys("k", 7);
    let pause = Duration::from_millis(120);

    // From reserve to commit. What is not granted is not stored.
    store(&session, space, &asked[..1], 100);
    assert!(only(&daemon, "INFO", "Stored ").starts_with("64 tokens in "));
    let begin = Instant::now();
    let items = reserve_items(&asked[..5], 100);
    let reservation = session.reserve(space, &items, &request(0)).unwrap();
    std::thread::sleep(pause);
    reservation.commit().unwrap();
    let took = begin.elapsed().as_secs_f64();
    let line = only(&daemon, "INFO", "Stored 256 tokens in ");
    let seconds = number(&line, " seconds", 3);
    assert!((0.12..=took + 0.001).contains(&seconds), "{line}");

    // From acquire to release; the prefix is what was found at the acquire.
    let begin = Instant::now();
    let named = Request {
        request_id: Some("req-7"),
        ..Request::default()
    };
    let lease = session.acquire(space, &asked, &named).unwrap();
    lease.span(4).unwrap();
    std::thread::sleep(pause);
    lease.release().unwrap();
    let took = begin.elapsed().as_secs_f64();
    let line = only(&daemon, "INFO", "Retrieved 320 tokens in ");
    let seconds = number(&line, " seconds", 3);
    assert!((0.12..=took + 0.001).contains(&seconds), "{line}");
    let line = only(
        &daemon,
        "INFO",
        "Prefetch request completed (L1+L2): 5/7 prefix hits",
    );
    let rest = line.strip_prefix(" (5 L1, 0 L2) in ").unwrap();
    let millis = number(rest, " ms (session=req-7)", 1);
    assert!(millis < 100.0, "the acquire alone is measured: {line}");
    let line = only(&daemon, "DEBUG", "Prefetch request submitted: ");
    assert_eq!(line, "7 total keys, 5 L1 prefix hits, 2 remaining for L2");

    // Nothing found: no times and no session, nothing retrieved. Without a name the session's number.
    session
        .acquire(space, &asked[5..], &named)
        .unwrap()
        .release()
        .unwrap();
    let line = only(&daemon, "INFO", "Prefetch request completed (L1+L2): 0/2");
    assert_eq!(line, " prefix hits");
    session
        .acquire(space, &asked[..1], &request(0))
        .unwrap()
        .release()
        .unwrap();
    let line = only(
        &daemon,
        "INFO",
        "Prefetch request completed (L1+L2): 1/1 prefix hits",
    );
    assert!(line.contains(" ms (session=session-"), "{line}");
    // An abort, a lookup, and a lease of which no span was taken, say nothing more.
    session
        .reserve(space, &reserve_items(&asked[5..], 9), &request(0))
        .unwrap()
        .abort()
        .unwrap();
    session.lookup(space, &asked, None).unwrap();
    drop(session);
    daemon.wait_for_sessions(0);
    daemon.wait_for_line("closed: said BYE");
    assert_eq!(messages(&daemon, "INFO", "Stored ").len(), 2);
    assert_eq!(messages(&daemon, "INFO", "Retrieved ").len(), 1);
    assert_eq!(
        messages(&daemon, "INFO", "Prefetch request completed").len(),
        3
    );
    daemon.finish();
}

#[test]
fn memory_usage_is_told_with_two_decimals_once_a_second_on_either_side_of_the_watermark() {
    let begin = Instant::now();
    let daemon = DaemonSpec::new(&["--eviction-trigger-watermark", "0.5"])
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    let session = daemon.session();
    let space = keyspace(&session);
    // 8 MiB of 32, and then 18.
    for round in 0..2 {
        store(&session, space, &keys(&format!("a{round}"), 4), MIB);
    }
    daemon
        .wait_for_line("LMCache DEBUG: Memory usage 0.25 below watermark 0.50; skipping eviction.");
    for round in 0..2 {
        store(&session, space, &keys(&format!("b{round}"), 4), MIB);
    }
    assert!(messages(&daemon, "INFO", "Memory usage ").is_empty());
    store(&session, space, &keys("c", 2), MIB);
    assert_eq!(
        only(&daemon, "INFO", "Memory usage "),
        "0.56 above watermark 0.50; triggering eviction."
    );
    // A run of evictions is one line a second, as is the other line.
    while begin.elapsed() < Duration::from_millis(3000) {
        store_sized(&session, space, &reserve_items(&keys("d", 4), MIB))
            .commit()
            .unwrap();
        session.remove(space, &keys("d", 4), None).unwrap();
    }
    for level in ["INFO", "DEBUG"] {
        let lines = messages(&daemon, level, "Memory usage ").len();
        let seconds = begin.elapsed().as_secs_f64();
        assert!(
            lines as f64 <= seconds + 1.0,
            "{lines} lines at {level} in {seconds} s"
        );
    }
    drop(session);
    daemon.finish();
}

/// Stores, reads, misses and evicts.
fn work(daemon: &Daemon) {
    let session = daemon.session();
    let space = keyspace(&session);
    for round in 0..7 {
        let family = keys(&format!("f{round}"), 4);
        store(&session, space, &family, MIB);
        let lease = session.acquire(space, &family, &request(0)).unwrap();
        lease.span(0).unwrap();
        lease.release().unwrap();
    }
    session
        .acquire(space, &keys("none", 1), &request(0))
        .unwrap();
}

#[test]
fn at_warning_there_is_no_key_message_and_at_info_none_of_debug() {
    for (level, is_shown) in [("WARNING", false), ("INFO", true)] {
        let daemon = DaemonSpec::default()
            .variable("LMCACHE_LOG_LEVEL", level)
            .start();
        work(&daemon);
        daemon.audit();
        if is_shown {
            for message in KEY_MESSAGES {
                daemon.wait_for_line(&format!("LMCache INFO: {message}"));
            }
        }
        let mut daemon = daemon;
        daemon.stop();
        let text = daemon.log_text();
        for message in KEY_MESSAGES {
            assert_eq!(
                text.contains(message),
                is_shown,
                "{level} {message}:\n{text}"
            );
        }
        assert!(!text.contains("Prefetch request submitted"), "{text}");
        assert!(!text.contains("skipping eviction"), "{text}");
    }
}

const LEVELS: [&str; 5] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/// A daemon that says each event of telemetry once at each level.
fn at_all_levels() -> DaemonSpec {
    let specs = LEVELS.map(|level| format!(r#"{{"type": "logging", "log_level": "{level}"}}"#));
    let spec = DaemonSpec::new(&["--enable-telemetry", "--disable-prometheus"]);
    specs.into_iter().fold(spec, |spec, processor| {
        spec.flag("--telemetry-processor", processor)
    })
}

/// What stands before ` Telemetry: store START` in the lines of the log.
fn heads_of_store(daemon: &Daemon) -> Vec<String> {
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 1), 100);
    drop(session);
    daemon.wait_for_line("LMCache CRITICAL: Telemetry: store END");
    let lines = daemon.log_lines();
    let heads = lines
        .iter()
        .filter_map(|line| line.split_once(": Telemetry: store START"));
    heads.map(|(head, _)| head.to_owned()).collect()
}

#[test]
fn every_spelling_of_a_level_shows_it_and_what_is_above_it() {
    for (lowest, level) in LEVELS.iter().enumerate() {
        let lower = level.to_lowercase();
        let mixed = format!("{}{}", &level[..1], &lower[1..]);
        for spelling in [level, lower.as_str(), mixed.as_str()] {
            let daemon = at_all_levels()
                .variable("LMCACHE_LOG_LEVEL", spelling)
                .start();
            let heads = heads_of_store(&daemon);
            let shown: Vec<&str> = heads
                .iter()
                .map(|head| head.rsplit_once("] LMCache ").unwrap().1)
                .collect();
            assert_eq!(shown, LEVELS[lowest..], "{spelling}");
            daemon.finish();
        }
    }
}

#[test]
fn the_level_of_the_file_holds_only_when_the_variable_is_unset() {
    for (variable, shown) in [(None, &LEVELS[3..]), (Some("WARNING"), &LEVELS[2..])] {
        let mut spec = at_all_levels();
        let file = spec.folder().join("hostkv.toml");
        std::fs::write(&file, "log_level = \"error\"\nl1_size_gb = 0.03125\n").unwrap();
        spec = spec.flag("--config", file);
        if let Some(level) = variable {
            spec = spec.variable("LMCACHE_LOG_LEVEL", level);
        }
        let daemon = spec.start();
        let heads = heads_of_store(&daemon);
        let levels: Vec<&str> = heads
            .iter()
            .map(|head| head.rsplit_once("] LMCache ").unwrap().1)
            .collect();
        assert_eq!(levels, shown, "{variable:?}");
        daemon.finish();
    }
}

#[test]
fn under_the_journal_the_time_is_left_out_and_the_level_goes_as_a_prefix() {
    // The variable names standard error itself, as systemd sets it.
    let script = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$0\" \"$@\"";
    let daemon = at_all_levels()
        .wrapped(&["sh", "-c", script])
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    let expected = [
        "<7>LMCache DEBUG",
        "<6>LMCache INFO",
        "<4>LMCache WARNING",
        "<3>LMCache ERROR",
        "<2>LMCache CRITICAL",
    ];
    assert_eq!(heads_of_store(&daemon), expected);
    daemon.finish();
    // Another stream is not standard error.
    let daemon = at_all_levels()
        .variable("JOURNAL_STREAM", "1:2")
        .variable("LMCACHE_LOG_LEVEL", "DEBUG")
        .start();
    for (head, level) in heads_of_store(&daemon).iter().zip(LEVELS) {
        assert!(
            head.starts_with('[') && head.ends_with(&format!("] LMCache {level}")),
            "{head}"
        );
    }
    daemon.finish();
}

#[test]
fn a_read_of_all_keys_says_the_leading_hits() {
    let daemon = Daemon::start(&[]);
    let session = daemon.session();
    let space = keyspace(&session);
    let asked = keys("k", 4);
    store(&session, space, &[asked[0], asked[1], asked[3]], 100);
    let lease = session
        .acquire(space, &asked, &request(ACQUIRE_ALL))
        .unwrap();
    assert_eq!(lease.prefix_count(), 2);
    lease.release().unwrap();
    let line = daemon.wait_for_line("Prefetch request completed (L1+L2): ");
    assert!(
        line.contains(": 2/4 prefix hits (2 L1, 0 L2) in "),
        "{line}"
    );
    drop(session);
    daemon.finish();
}
