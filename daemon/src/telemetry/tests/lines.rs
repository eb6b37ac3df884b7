//! The lines that operators see: log lines, refusals of specs, and what goes to standard output.
//!
//! The log is one for each process, so what is logged is read from a child: this test program again.

use std::process::{Command, Output, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

use super::*;
use crate::logging;

const LOGGING: &str = r#"{"type": "logging"}"#;

fn lookup_end() -> Event {
    let mut end = event("lookup", EventType::End, "req-001");
    end.metadata = vec![("found_count", Value::Int(3))];
    end
}

fn push_lookup(telemetry: &mut Telemetry) {
    telemetry.push(PairId(1), event("lookup", EventType::Start, "req-001"));
    telemetry.push(PairId(1), lookup_end());
}

/// Runs `role` of [`role_of_a_child`] with a process level.
fn child(role: &str, level: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "telemetry::tests::lines::role_of_a_child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("HOSTKV_TEST_TELEMETRY_ROLE", role)
        .env_remove("LMCACHE_LOG_LEVEL")
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null());
    if let Some(level) = level {
        command.env("LMCACHE_LOG_LEVEL", level);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// The child's log lines without their times.
fn logged(role: &str, level: Option<&str>) -> Vec<String> {
    let output = child(role, level);
    String::from_utf8(output.stderr)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("] LMCache "))
        .map(|(_, line)| line.to_owned())
        .collect()
}

/// Those of them that hold `part`.
fn logged_with(part: &str, role: &str, level: Option<&str>) -> Vec<String> {
    let mut lines = logged(role, level);
    lines.retain(|line| line.contains(part));
    lines
}

/// Not a promise: what `child` runs. Without its variable it does nothing.
#[test]
fn role_of_a_child() {
    let Some(role) = std::env::var_os("HOSTKV_TEST_TELEMETRY_ROLE") else {
        return;
    };
    let role = role.into_string().unwrap();
    let log = logging::init(None, || {});
    match role.as_str() {
        "full" => fill_for_a_while(),
        "failing" => fail_for_a_while(),
        "stuck" => stick_at_the_end(),
        "limited" => run_into_a_limit(),
        spec => {
            let mut telemetry = Telemetry::start(processors_of(&[spec]), 100).unwrap();
            push_lookup(&mut telemetry);
            assert!(telemetry.shutdown(PATIENCE));
        }
    }
    log.flush(PATIENCE);
}

fn fill_for_a_while() {
    let (processor, let_go) = stuck(&Record::default(), 1);
    let mut telemetry = Telemetry::start(vec![processor], 4).unwrap();
    let start = Instant::now();
    let mut pair = 0;
    while start.elapsed() < Duration::from_millis(2500) {
        push_pair(&mut telemetry, pair);
        pair += 1;
        std::thread::sleep(Duration::from_micros(100));
    }
    drop(let_go);
    assert!(telemetry.shutdown(PATIENCE));
}

fn fail_for_a_while() {
    let processor = Record::default().processor(1, |_| Err("no room".into()));
    let mut telemetry = Telemetry::start(vec![processor], 10_000).unwrap();
    for pair in 0..1500 {
        push_pair(&mut telemetry, pair);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(telemetry.shutdown(PATIENCE));
}

fn stick_at_the_end() {
    let record = Record::default();
    let (processor, _let_go) = stuck(&record, 2);
    let mut telemetry = Telemetry::start(vec![record.plain(1), processor], 10).unwrap();
    push_pair(&mut telemetry, 1);
    wait_until("it is stuck", || record.events(2).len() == 1);
    assert!(!telemetry.shutdown(Duration::from_millis(200)));
}

/// A limit on file sizes cuts a write in two, as a full disk does.
fn run_into_a_limit() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let spec = format!(r#"{{"type": "jsonl", "path": {path:?}}}"#);
    let mut telemetry = Telemetry::start(processors_of(&[&spec]), 1000).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1000, hard).unwrap();
    for pair in 0..20 {
        push_pair(&mut telemetry, pair);
    }
    wait_until("all are tried", || telemetry.shared.waiting() == 0);
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
    let failures = telemetry.processor_failures();
    push_pair(&mut telemetry, 20);
    assert!(telemetry.shutdown(PATIENCE));
    let text = std::fs::read_to_string(&path).unwrap();
    for line in text.lines() {
        let event: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(event.is_ok(), "{line}");
    }
    assert!(failures > 0);
    assert_eq!(text.lines().count() as u64 + failures, 42);
    assert!(text.ends_with('\n') && text.contains("\"20\""));
}

#[test]
fn a_line_of_the_logging_processor_is_the_documented_literal() {
    let start = "Telemetry: lookup START session=req-001 ts=12345.680123 metadata={}";
    let end = "Telemetry: lookup END session=req-001 ts=12345.680123 metadata={'found_count': 3}";
    for level in ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] {
        let spec = format!(
            r#"{{"type": "logging", "log_level": "{}"}}"#,
            level.to_lowercase()
        );
        let lines = logged_with("Telemetry: ", &spec, Some("DEBUG"));
        assert_eq!(lines, [start, end].map(|line| format!("{level}: {line}")));
    }
    let lines = logged_with("Telemetry: ", LOGGING, Some("DEBUG"));
    assert_eq!(lines, [start, end].map(|line| format!("DEBUG: {line}")));
}

#[test]
fn the_default_levels_hide_the_lines_and_one_line_at_the_start_says_so() {
    let hint = "INFO: Telemetry events are logged at DEBUG and this log shows INFO and above, so they will not be seen; set \
                LMCACHE_LOG_LEVEL=DEBUG, or \"log_level\": \"INFO\" in --telemetry-processor";
    assert_eq!(logged_with("session=", LOGGING, None), [""; 0]);
    assert_eq!(logged_with("not be seen", LOGGING, None), [hint]);
    let at_info = r#"{"type": "logging", "log_level": "INFO"}"#;
    for (spec, level) in [(LOGGING, Some("DEBUG")), (at_info, None)] {
        assert_eq!(logged_with("session=", spec, level).len(), 2);
        assert_eq!(logged_with("not be seen", spec, level), [""; 0]);
    }
}

#[test]
fn a_start_says_how_to_turn_timestamps_into_the_time_of_day() {
    let lines = logged_with("Unix time", LOGGING, None);
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    let (text, offset) = line.rsplit_once(' ').unwrap();
    assert_eq!(
        text,
        "INFO: Telemetry is on: 1 processor(s), at most 100 event(s) waiting; the Unix time of an event is its ts +"
    );
    let difference = offset.parse::<f64>().unwrap() - unix_minus_monotonic_s();
    assert!(difference.abs() < 5.0, "{line}");
}

#[test]
fn a_full_queue_warns_at_most_once_a_second_with_the_total_so_far() {
    let lines = logged_with("discarded", "full", None);
    assert!((2..=3).contains(&lines.len()), "{lines:?}");
    assert_eq!(
        lines[0],
        "WARNING: Telemetry queue full (max_queue_size=4), 1 event(s) discarded so far"
    );
    let totals: Vec<u64> = lines
        .iter()
        .map(|line| {
            let rest = line
                .strip_prefix("WARNING: Telemetry queue full (max_queue_size=4), ")
                .unwrap();
            let total = rest.strip_suffix(" event(s) discarded so far").unwrap();
            total.parse().unwrap()
        })
        .collect();
    assert!(totals.is_sorted() && totals[1] > 1, "{totals:?}");
}

#[test]
fn a_failing_processor_is_logged_at_most_once_a_second_by_number_and_type_with_its_total() {
    let lines = logged_with("Telemetry processor", "failing", None);
    assert_eq!(
        lines[0],
        "ERROR: Telemetry processor #1 (recorder) failed on an event: no room; 1 event(s) missed so far"
    );
    assert_eq!(
        lines.last().unwrap(),
        "WARNING: Telemetry processor #1 (recorder) missed 3000 event(s) in all"
    );
    assert!((3..=8).contains(&lines.len()), "{lines:?}");
}

#[test]
fn a_shutdown_beyond_its_time_names_the_processor_that_does_not_return() {
    assert_eq!(
        logged_with("did not end", "stuck", None),
        [
            "WARNING: Telemetry did not end within 0.2 s: processor #2 does not return; 2 event(s) are lost"
        ]
    );
}

#[test]
fn a_line_that_a_full_disk_cuts_off_is_taken_back() {
    // The child asserts.
    child("limited", None);
}

#[test]
fn a_dash_is_standard_output() {
    let output = child(r#"{"type": "jsonl", "path": "-"}"#, None);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.find("{\"name\"").map(|at| &line[at..]))
        .collect();
    assert_eq!(
        lines,
        [
            r#"{"name":"lookup","event_type":"START","session_id":"req-001","timestamp":12345.680123,"metadata":{}}"#,
            r#"{"name":"lookup","event_type":"END","session_id":"req-001","timestamp":12345.680123,"metadata":{"found_count":3}}"#,
        ]
    );
}

#[test]
fn a_bad_spec_is_refused_with_the_documented_literal() {
    for (spec, refusal) in [
        (
            "{",
            "Invalid JSON for --telemetry-processor #2: EOF while parsing an object at line 1 column 1",
        ),
        (
            "",
            "Invalid JSON for --telemetry-processor #2: EOF while parsing a value at line 1 column 0",
        ),
        (
            "[]",
            "--telemetry-processor #2: expected a JSON object, got an array",
        ),
        (
            "\"logging\"",
            "--telemetry-processor #2: expected a JSON object, got a string",
        ),
        (
            "7",
            "--telemetry-processor #2: expected a JSON object, got a number",
        ),
        (
            "true",
            "--telemetry-processor #2: expected a JSON object, got a boolean",
        ),
        (
            "null",
            "--telemetry-processor #2: expected a JSON object, got null",
        ),
        ("{}", "--telemetry-processor #2: missing 'type' field"),
        (
            r#"{"type": "otlp"}"#,
            "--telemetry-processor #2: unknown processor type 'otlp'. Known: jsonl, logging",
        ),
        (
            r#"{"type": "a\nb"}"#,
            "--telemetry-processor #2: unknown processor type 'a\\nb'. Known: jsonl, logging",
        ),
        (
            r#"{"type": 5}"#,
            "--telemetry-processor #2: unknown processor type '5'. Known: jsonl, logging",
        ),
    ] {
        assert_eq!(refusal_of(spec), refusal);
    }
}

#[test]
fn a_bad_field_is_refused_with_its_name_its_value_and_what_is_allowed() {
    let levels = "allowed is DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case";
    let path = "allowed is the path of a file or a named pipe, or \"-\" for standard output";
    let bytes = "allowed is a whole number from 4096 to 1099511627776";
    for (spec, refusal) in [
        (
            r#"{"type": "logging", "log_level": "LOUD"}"#,
            format!("field 'log_level' of type 'logging' is \"LOUD\"; {levels}"),
        ),
        (
            r#"{"type": "logging", "log_level": 10}"#,
            format!("field 'log_level' of type 'logging' is 10; {levels}"),
        ),
        (
            r#"{"type": "logging", "path": "-"}"#,
            "unknown field 'path' of type 'logging'. Known: log_level".to_owned(),
        ),
        (
            r#"{"type": "jsonl"}"#,
            format!("missing 'path' field of type 'jsonl'; {path}"),
        ),
        (
            r#"{"type": "jsonl", "path": ""}"#,
            format!("field 'path' of type 'jsonl' is \"\"; {path}"),
        ),
        (
            r#"{"type": "jsonl", "path": ["a"]}"#,
            format!("field 'path' of type 'jsonl' is [\"a\"]; {path}"),
        ),
        (
            r#"{"type": "jsonl", "path": "/a", "max_bytes": 4095}"#,
            format!("field 'max_bytes' of type 'jsonl' is 4095; {bytes}"),
        ),
        (
            r#"{"type": "jsonl", "path": "/a", "max_bytes": "64 MiB"}"#,
            format!("field 'max_bytes' of type 'jsonl' is \"64 MiB\"; {bytes}"),
        ),
        (
            r#"{"type": "jsonl", "path": "/a", "max_files": 0}"#,
            "field 'max_files' of type 'jsonl' is 0; allowed is a whole number from 1 to 1000".to_owned(),
        ),
        (
            r#"{"type": "jsonl", "path": "/a", "max_files": 1.5}"#,
            "field 'max_files' of type 'jsonl' is 1.5; allowed is a whole number from 1 to 1000".to_owned(),
        ),
        (
            r#"{"type": "jsonl", "path": "/a", "max_byte": 5}"#,
            "unknown field 'max_byte' of type 'jsonl'. Known: path, max_bytes, max_files".to_owned(),
        ),
        (
            r#"{"type": "jsonl", "path": "-", "max_files": 5}"#,
            "fields 'max_files' and 'path' of type 'jsonl' do not go together: standard output is not rotated; leave \
             'max_files' out or give the path of a file"
                .to_owned(),
        ),
    ] {
        assert_eq!(
            refusal_of(spec),
            format!("--telemetry-processor #2: {refusal}")
        );
    }
}

/// What is said about a spec behind a good one.
fn refusal_of(spec: &str) -> String {
    let specs = [LOGGING.to_owned(), spec.to_owned()];
    let refusal = PROCESSORS.parse(&specs).unwrap_err().to_string();
    assert!(!refusal.contains('\n'), "one line: {refusal:?}");
    refusal
}

#[test]
fn checking_specs_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let processors = processors_of(&[
        LOGGING,
        &format!(r#"{{"type": "jsonl", "path": {path:?}}}"#),
    ]);
    assert_eq!(processors.len(), 2);
    drop(processors);
    assert!(!path.exists());
    assert!(PROCESSORS.parse(&[]).unwrap().is_empty());
}
