//! Promises of the `jsonl` processor.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn spec(path: &Path, rest: &str) -> String {
    format!(r#"{{"type": "jsonl", "path": {path:?}{rest}}}"#)
}

fn start_on(path: &Path, rest: &str, max_queue_size: u32) -> Result<Telemetry, TelemetryError> {
    Telemetry::start(processors_of(&[&spec(path, rest)]), max_queue_size)
}

/// The sessions of a file's lines, each of which is whole.
fn sessions_of(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{path:?}");
    text.lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event.as_object().unwrap().len(), 5, "{line}");
            event["session_id"].as_str().unwrap().parse().unwrap()
        })
        .collect()
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}.{number}", path.display()))
}

fn both(pairs: impl IntoIterator<Item = u64>) -> Vec<u64> {
    pairs.into_iter().flat_map(|pair| [pair, pair]).collect()
}

#[test]
fn a_line_has_the_five_fields_and_metadata_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let mut telemetry = start_on(&path, "", 100).unwrap();
    telemetry.push(PairId(1), event("store", EventType::Start, "req-\"1\"\n"));
    let mut end = event("store", EventType::End, "req-\"1\"\n");
    end.metadata = vec![
        ("stored_count", Value::Int(3)),
        ("device", Value::Str("cuda:0".into())),
        ("b", Value::Bool(true)),
        ("a", Value::Float(0.5)),
    ];
    telemetry.push(PairId(1), end);
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        concat!(
            r#"{"name":"store","event_type":"START","session_id":"req-\"1\"\n","timestamp":12345.680123,"metadata":{}}"#,
            "\n",
            r#"{"name":"store","event_type":"END","session_id":"req-\"1\"\n","timestamp":12345.680123,"#,
            r#""metadata":{"stored_count":3,"device":"cuda:0","b":true,"a":0.5}}"#,
            "\n"
        )
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn a_next_start_appends_and_mends_a_line_that_was_left_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    for pair in [1, 2] {
        let mut telemetry = start_on(&path, "", 100).unwrap();
        push_pair(&mut telemetry, pair);
        assert!(telemetry.shutdown(PATIENCE));
    }
    assert_eq!(sessions_of(&path), [1, 1, 2, 2]);

    fs::write(&path, "{\"name\":\"loo").unwrap();
    let mut telemetry = start_on(&path, "", 100).unwrap();
    push_pair(&mut telemetry, 3);
    assert!(telemetry.shutdown(PATIENCE));
    let text = fs::read_to_string(&path).unwrap();
    let (torn, whole) = text.split_once('\n').unwrap();
    assert_eq!(torn, "{\"name\":\"loo");
    assert_eq!(whole.lines().count(), 2);
}

#[test]
fn files_are_rotated_by_size_and_number_and_hold_the_newest_events_in_order() {
    for (max_files, rest) in [
        (3, r#", "max_bytes": 4096, "max_files": 3"#),
        (1, r#", "max_bytes": 4096, "max_files": 1"#),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut telemetry = start_on(&path, rest, 100_000).unwrap();
        for pair in 0..300 {
            push_pair(&mut telemetry, pair);
        }
        assert!(telemetry.shutdown(PATIENCE));
        assert_eq!(telemetry.processor_failures(), 0);
        let mut files: Vec<PathBuf> = (1..max_files).rev().map(|n| numbered(&path, n)).collect();
        files.push(path.clone());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            files.len(),
            "no file more"
        );
        let mut sessions = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let len = fs::metadata(file).unwrap().len();
            assert!(len <= 4096, "{file:?} has {len} bytes");
            assert!(
                index + 1 == files.len() || len > 4096 - 200,
                "{file:?} was left early"
            );
            sessions.extend(sessions_of(file));
        }
        let all = both(0..300);
        assert_eq!(sessions, all[all.len() - sessions.len()..]);
    }
}

#[test]
fn a_rotation_that_fails_keeps_the_bound_and_the_old_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    // A file cannot take the name of a folder that is not empty.
    fs::create_dir_all(numbered(&path, 1).join("in the way")).unwrap();
    let rest = r#", "max_bytes": 4096, "max_files": 2"#;
    let mut telemetry = start_on(&path, rest, 100_000).unwrap();
    for pair in 0..100 {
        push_pair(&mut telemetry, pair);
    }
    wait_until("all are tried", || telemetry.shared.waiting() == 0);
    let failures = telemetry.processor_failures();
    assert!(failures > 0);
    assert_eq!(sessions_of(&path).len() as u64 + failures, 200);
    assert!(fs::metadata(&path).unwrap().len() <= 4096);

    fs::remove_dir_all(numbered(&path, 1)).unwrap();
    push_pair(&mut telemetry, 100);
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(sessions_of(&path), [100, 100]);
    assert_eq!(
        sessions_of(&numbered(&path, 1)).len() as u64 + failures,
        200
    );
}

#[test]
fn a_file_that_was_moved_away_does_not_end_the_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let rest = r#", "max_bytes": 4096, "max_files": 2"#;
    let mut telemetry = start_on(&path, rest, 100_000).unwrap();
    push_pair(&mut telemetry, 0);
    wait_until("it is written", || telemetry.shared.waiting() == 0);
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    for pair in 1..40 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(telemetry.processor_failures(), 0);
    assert_eq!(sessions_of(&path).last(), Some(&39));
}

#[test]
fn a_file_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let mut first = start_on(&path, "", 100).unwrap();
    let error = start_on(&path, "", 100).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "--telemetry-processor #1 (jsonl): {path:?} is in use by another hostkvd or another --telemetry-processor; give \
             each a path of its own"
        )
    );
    assert!(first.shutdown(PATIENCE));
    assert!(start_on(&path, "", 100).unwrap().shutdown(PATIENCE));
}

#[test]
fn a_target_that_takes_no_bytes_is_counted_and_stops_nothing() {
    let record = Record::default();
    let mut processors = processors_of(&[&spec(Path::new("/dev/full"), "")]);
    processors.push(record.plain(2));
    let mut telemetry = Telemetry::start(processors, 1000).unwrap();
    for pair in 0..50 {
        push_pair(&mut telemetry, pair);
    }
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(telemetry.processor_failures(), 100);
    assert_eq!(record.events(2).len(), 100);
    assert_eq!(telemetry.dropped_events(), 0);
}

#[test]
fn a_pipe_that_nobody_reads_fills_the_queue_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let record = Record::default();
    let mut processors = vec![record.plain(1)];
    processors.extend(processors_of(&[&spec(&path, "")]));
    let mut held = Some(Telemetry::start(processors, 100).unwrap());
    let mut pair_count = 0;
    wait_until("the pipe is full", || {
        let pairs = pair_count..pair_count + 100;
        pair_count = pairs.end;
        let mut pushing = held.take().unwrap();
        let pushed = at_once(move || {
            pairs.for_each(|pair| push_pair(&mut pushing, pair));
            pushing
        });
        let before = pushed.shared.waiting();
        std::thread::sleep(Duration::from_millis(50));
        let is_stuck = before > 0 && before == pushed.shared.waiting();
        held = Some(pushed);
        is_stuck
    });
    let mut telemetry = held.unwrap();
    assert!(telemetry.dropped_events() > 0);
    assert_eq!(telemetry.processor_failures(), 0);

    let reader = File::open(&path).unwrap();
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines.map(|line| line.unwrap()).collect::<Vec<String>>()
    });
    assert!(telemetry.shutdown(PATIENCE));
    let lines = lines.join().unwrap();
    assert_eq!(
        lines.len() as u64 + telemetry.dropped_events(),
        2 * pair_count
    );
    for pair in lines.chunks(2) {
        assert!(
            pair[0].contains("START") && pair[1].contains("END"),
            "{pair:?}"
        );
    }
    assert_eq!(record.events(1).len(), lines.len());
}

#[test]
fn a_shutdown_does_not_wait_for_a_pipe_that_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let mut telemetry = start_on(&path, "", 10_000).unwrap();
    for pair in 0..2000 {
        push_pair(&mut telemetry, pair);
    }
    let start = Instant::now();
    assert!(!telemetry.shutdown(Duration::from_millis(200)));
    assert!(start.elapsed() < PATIENCE);
    // Let go of the thread, and count what had got through.
    let reader = OpenOptions::new().read(true).open(&path).unwrap();
    let given = BufReader::new(reader).lines().count() as u64;
    assert_eq!(given + telemetry.dropped_events(), 4000);
}

#[test]
fn a_pipe_may_change_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let mut telemetry = start_on(&path, "", 100).unwrap();
    for pair in [1, 2] {
        push_pair(&mut telemetry, pair);
        let mut reader = BufReader::new(File::open(&path).unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(
                line.contains(&format!("\"session_id\":\"{pair}\"")),
                "{line}"
            );
        }
    }
    assert!(telemetry.shutdown(PATIENCE));
    assert_eq!(telemetry.processor_failures(), 0);
}
