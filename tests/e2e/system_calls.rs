//! The read path makes no system call.

use std::process::Command;

use hostkv_tests::{Daemon, DaemonSpec, Worker, keys, keyspace, skip, store};

/// Rounds of lookup, acquire, 16 spans, check and release.
const ROUNDS: usize = 100_000;

fn count_system_calls(spec: DaemonSpec) {
    let can_trace = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can_trace {
        skip("the count of system calls of reads: strace is missing or may not trace");
        return;
    }
    let daemon: Daemon = spec.start();
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("trace", 16), 5000);
    let trace = daemon.spec().folder().join("trace");
    let trace = trace.to_str().unwrap();
    let wrapper = ["strace", "-f", "-e", "trace=all", "-o", trace];
    let mut worker = Worker::start_at(&daemon.socket(), &wrapper);
    worker.must("open");
    let did = worker.must(&format!("reads {ROUNDS}"));
    let found: usize = did.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(found, 16 * ROUNDS, "every lookup finds the 16 keys");
    worker.end();
    let text = std::fs::read_to_string(trace).unwrap();
    let marks: Vec<usize> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("write(-1,"))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(marks.len(), 2, "{text}");
    let between: Vec<&str> = text
        .lines()
        .skip(marks[0] + 1)
        .take(marks[1] - marks[0] - 1)
        .collect();
    assert!(
        between.is_empty(),
        "{} lines, the first: {:?}",
        between.len(),
        &between[..between.len().min(5)]
    );
    // And the daemon saw what they did.
    let scrape = daemon.scrape();
    assert!(
        scrape.counter("sm_read_requests_total") as usize >= ROUNDS,
        "{}",
        scrape.body
    );
    assert!(scrape.counter("l1_read_keys_total") as usize >= 16 * ROUNDS);
    drop(session);
    daemon.finish();
}

#[test]
fn a_hundred_thousand_reads_make_no_system_call_by_default() {
    count_system_calls(DaemonSpec::default());
}

#[test]
fn a_hundred_thousand_reads_make_no_system_call_when_every_object_is_compared_with_its_sum() {
    count_system_calls(DaemonSpec::new(&["--integrity", "full"]));
}

#[test]
fn a_hundred_thousand_reads_make_no_system_call_with_everything_on() {
    let spec = DaemonSpec::default();
    let events = spec.folder().join("events.jsonl");
    let jsonl = format!(
        r#"{{"type": "jsonl", "path": "{}", "max_bytes": 10000000, "max_files": 2}}"#,
        events.display()
    );
    let flags = [
        "--enable-telemetry",
        "--telemetry-processor",
        &jsonl,
        "--telemetry-processor",
        r#"{"type": "logging", "log_level": "DEBUG"}"#,
        "--l1-read-ttl-seconds",
        "3600",
        "--l1-write-ttl-seconds",
        "3600",
        "--prometheus-log-interval",
        "0.05",
        "--spin-us",
        "50",
    ];
    count_system_calls(
        DaemonSpec::new(&flags)
            .beside(&spec)
            .variable("LMCACHE_LOG_LEVEL", "DEBUG"),
    );
    assert!(
        std::fs::metadata(&events).unwrap().len() > 0,
        "telemetry was on"
    );
}
