//! Promises of the log.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use log::Log;

use super::line::{local_time, write_line};
use super::queue::LINE_COUNT;
use super::*;

const SOON: Duration = Duration::from_secs(20);
const PLAIN: Form = Form::Plain { has_colours: false };

fn line_of(form: Form, level: Level, message: &str) -> String {
    let mut out = Vec::new();
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_086_603);
    write_line(&mut out, form, time, level, &format_args!("{message}")).unwrap();
    String::from_utf8(out).unwrap()
}

fn record_to(logger: &Logger, level: log::Level, target: &str, message: &str) {
    let arguments = format_args!("{message}");
    let record = log::Record::builder()
        .level(level)
        .target(target)
        .args(arguments)
        .build();
    logger.log(&record);
}

/// A logger into a pipe, at a level.
fn piped(level: Level) -> (Logger, Arc<Progress>, PipeReader) {
    let (reader, writer): (PipeReader, PipeWriter) = pipe().unwrap();
    // A pipe is no terminal, so the trait of terminals is met by a file.
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    let (logger, progress) = build(file, PLAIN, Arc::new(Threshold::new(level)), || {}).unwrap();
    (logger, progress, reader)
}

#[test]
fn a_line_is_the_documented_literal() {
    let line = line_of(PLAIN, Level::Info, "Stored 256 tokens in 0.001 seconds");
    let (time, rest) = line.split_at(25);
    assert_eq!(rest, " LMCache INFO: Stored 256 tokens in 0.001 seconds\n");
    let shape: String = time
        .chars()
        .map(|character| {
            if character.is_ascii_digit() {
                '0'
            } else {
                character
            }
        })
        .collect();
    assert_eq!(shape, "[0000-00-00 00:00:00,000]");
    assert!(time.ends_with(",603]"), "{time}");
}

#[test]
fn a_journal_line_is_the_documented_literal_of_each_level() {
    let lines = Level::ALL.map(|level| line_of(Form::Journal, level, "m"));
    let literals = [
        "<7>LMCache DEBUG: m\n",
        "<6>LMCache INFO: m\n",
        "<4>LMCache WARNING: m\n",
        "<3>LMCache ERROR: m\n",
        "<2>LMCache CRITICAL: m\n",
    ];
    assert_eq!(lines, literals);
}

#[test]
fn colours_paint_the_level_alone() {
    let line = line_of(Form::Plain { has_colours: true }, Level::Warning, "m");
    assert!(
        line.ends_with(" LMCache \x1b[33mWARNING\x1b[0m: m\n"),
        "{line:?}"
    );
    assert!(!line_of(PLAIN, Level::Warning, "m").contains('\x1b'));
}

#[test]
fn one_call_makes_one_line_whatever_the_message_holds() {
    let line = line_of(PLAIN, Level::Info, "a\nb\r\x1b[2Jc\t\u{85}Ü \\n");
    assert!(
        line.ends_with(": a\\nb\\r\\u{1b}[2Jc\\t\\u{85}Ü \\n\n"),
        "{line:?}"
    );
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn the_time_is_local() {
    // The zone is read once for each process, so another process is asked.
    for (zone, hour) in [("UTC0", "00"), ("XYZ-3", "03")] {
        let output = child("time").env("TZ", zone).output().unwrap();
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            line.contains(&format!("1970-01-01 {hour}:00:01,005")),
            "{zone}: {line}"
        );
    }
}

#[test]
fn levels_are_known_in_any_case_and_nothing_else_is() {
    for (name, level) in [
        ("DEBUG", Level::Debug),
        ("info", Level::Info),
        ("Warning", Level::Warning),
        ("eRRor", Level::Error),
        ("critical", Level::Critical),
    ] {
        assert_eq!(Level::from_name(name), Some(level));
    }
    for name in ["", "WARN", "TRACE", "NOTSET", "10", " INFO"] {
        assert_eq!(Level::from_name(name), None, "{name:?}");
    }
}

#[test]
fn each_level_shows_itself_and_what_is_above_it() {
    for threshold in Level::ALL {
        let (logger, progress, reader) = piped(threshold);
        record_to(&logger, log::Level::Trace, "t", "trace");
        record_to(&logger, log::Level::Debug, "t", "debug");
        record_to(&logger, log::Level::Info, "t", "info");
        record_to(&logger, log::Level::Warn, "t", "warning");
        record_to(&logger, log::Level::Error, "t", "error");
        record_to(&logger, log::Level::Error, CRITICAL_TARGET, "critical");
        assert!(progress.flush(SOON));
        drop(logger);
        let shown: Vec<_> = BufReader::new(reader)
            .lines()
            .map(|line| line.unwrap().split_once("LMCache ").unwrap().1.to_owned())
            .collect();
        let all = [
            "DEBUG: trace",
            "DEBUG: debug",
            "INFO: info",
            "WARNING: warning",
            "ERROR: error",
            "CRITICAL: critical",
        ];
        let first = match threshold {
            Level::Debug => 0,
            other => other as usize + 1,
        };
        assert_eq!(shown, all[first..], "{threshold:?}");
    }
}

#[test]
fn a_full_queue_drops_counts_and_never_waits() {
    let (logger, progress, mut reader) = piped(Level::Info);
    let line_count = 3 * LINE_COUNT;
    let start = Instant::now();
    for number in 0..line_count {
        record_to(&logger, log::Level::Info, "t", &format!("{number:060}"));
    }
    let took = start.elapsed();
    assert!(
        took < SOON,
        "logging waited for a reader that does not read: {took:?}"
    );
    let dropped = progress.dropped();
    // The queue, the line in the writer's hand, and what 64 KiB of pipe hold.
    let pipe_lines = 65_536 / 80;
    let kept = line_count as u64 - dropped;
    assert!(dropped > 0);
    assert!(kept >= LINE_COUNT as u64, "{kept} kept");
    assert!(
        kept <= (LINE_COUNT + 1 + pipe_lines + 1) as u64,
        "{kept} kept"
    );
    assert!(
        !progress.flush(Duration::from_millis(20)),
        "nobody has read"
    );

    drop(logger);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(
        text.lines().count() as u64,
        kept,
        "each line is written or counted"
    );
    assert_eq!(progress.dropped(), dropped);
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(numbers.is_sorted(), "in the order of the calls");
}

#[test]
fn lines_that_come_while_the_writer_rests_are_written_together_behind_it() {
    let (mut reader, writer) = pipe().unwrap();
    let (sender, lines) = sync_channel(LINE_COUNT);
    sender.send(b"0 0\n".to_vec()).unwrap();
    let mut sender = Some(sender);
    let mut rests = 0;
    queue::write_lines(&lines, &writer, &Progress::default(), || {
        rests += 1;
        // Nobody is there to be woken: it is this thread that sends.
        for number in 0..10 {
            if let Some(sender) = &sender {
                sender
                    .send(format!("{rests} {number}\n").into_bytes())
                    .unwrap();
            }
        }
        sender.take_if(|_| rests == 5);
    });
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(rests, 6, "one rest for each run of lines");
    let rest_of = |line: &str| line.split_once(' ').unwrap().0.parse::<u32>().unwrap();
    assert!(text.lines().is_sorted() && text.lines().count() == 51);
    assert!(text.lines().is_sorted_by_key(rest_of));
}

#[test]
fn a_broken_pipe_is_counted_and_ends_nothing() {
    let (logger, progress, reader) = piped(Level::Info);
    drop(reader);
    for _ in 0..10 {
        record_to(&logger, log::Level::Info, "t", "unheard");
    }
    assert!(progress.flush(SOON));
    assert_eq!(progress.dropped(), 10);
}

#[test]
fn a_descriptor_that_somebody_made_nonblocking_loses_nothing() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (mut reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (mut lines, progress) = queue::start(writer, || {}).unwrap();
    let line = [b'x'; 1000];
    for _ in 0..200 {
        lines.write_all(&line).unwrap();
    }
    drop(lines);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 200 * line.len());
    assert_eq!(progress.dropped(), 0);
}

#[test]
fn the_last_line_does_not_wait_for_a_reader_that_does_not_read() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (_reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, &[0; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let start = Instant::now();
    queue::write_past(&writer, "hostkvd: the end");
    assert!(start.elapsed() < SOON);
}

#[test]
fn the_last_line_is_cut_where_a_pipe_would_block() {
    let (mut reader, writer) = pipe().unwrap();
    queue::write_past(&writer, &"ü".repeat(5000));
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{}\n", "ü".repeat(2047)));
}

/// This test program again, in the role of a daemon that logs.
fn child(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "logging::tests::role_of_a_child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("HOSTKV_TEST_LOG_ROLE", role)
        .env_remove("LMCACHE_LOG_LEVEL")
        .env_remove("JOURNAL_STREAM")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Not a promise: what `child` runs. Without its variable it does nothing.
#[test]
fn role_of_a_child() {
    let Some(role) = env::var_os("HOSTKV_TEST_LOG_ROLE") else {
        return;
    };
    let role = role.into_string().unwrap();
    if role == "time" {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1005);
        eprintln!("{}", local_time(time));
        return;
    }
    let (config_level, then_level) = match role.split_once(' ') {
        Some((first, then)) => (Some(first), Some(then)),
        None => (None, None),
    };
    let logging = init(config_level.filter(|level| *level != "-"), || {});
    log::debug!("first debug");
    log::info!("first info");
    crate::critical!("first {}", "critical");
    if let Some(level) = then_level {
        let took_over = set_level(Some(level).filter(|level| *level != "-"));
        crate::critical!("took over {took_over}");
        log::debug!("second debug");
        log::info!("second info");
    }
    logging.flush(SOON);
    write_last_line(&format!("hostkvd: dropped {}", dropped_lines()));
}

/// What a child says, without the times.
fn said(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr)
        .unwrap()
        .lines()
        .map(|line| match line.split_once("] LMCache ") {
            Some((time, rest)) if time.len() == 24 => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect()
}

#[test]
fn the_level_of_the_environment_goes_before_that_of_the_file_and_stays() {
    let critical = "CRITICAL: first critical";
    let last = "hostkvd: dropped 0";
    assert_eq!(
        said(&mut child("none")),
        ["INFO: first info", critical, last]
    );
    let text = said(&mut child("ERROR DEBUG"));
    let took = "CRITICAL: took over true";
    let debug = "DEBUG: second debug";
    assert_eq!(text, [critical, took, debug, "INFO: second info", last]);
    let text = said(child("ERROR DEBUG").env("LMCACHE_LOG_LEVEL", "Critical"));
    assert_eq!(text, [critical, "CRITICAL: took over false", last]);
    let text = said(&mut child("DEBUG -"));
    let first = ["DEBUG: first debug", "INFO: first info", critical];
    assert_eq!(
        text,
        [&first[..], &[took, "INFO: second info", last]].concat()
    );
}

#[test]
fn an_unknown_level_is_a_warning_and_means_info() {
    let text = said(child("ERROR DEBUG").env("LMCACHE_LOG_LEVEL", "LOUD"));
    let warning = "WARNING: Unknown log level \"LOUD\", using INFO; allowed for LMCACHE_LOG_LEVEL is one of DEBUG, INFO, WARNING, ERROR, CRITICAL";
    assert_eq!(
        text[..3],
        [warning, "INFO: first info", "CRITICAL: first critical"]
    );
}

#[test]
fn the_journal_gets_priorities_only_when_it_is_named_as_standard_error() {
    let run = |stream: fn(u64, u64) -> String| {
        let (mut reader, writer) = pipe().unwrap();
        let stat = nix::sys::stat::fstat(&writer).unwrap();
        let mut command = child("none");
        command
            .env("JOURNAL_STREAM", stream(stat.st_dev, stat.st_ino))
            .stderr(writer);
        assert!(command.status().unwrap().success());
        drop(command);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    };
    let text = run(|device, inode| format!("{device}:{inode}"));
    assert_eq!(
        text,
        "<6>LMCache INFO: first info\n<2>LMCache CRITICAL: first critical\nhostkvd: dropped 0\n"
    );
    let text = run(|device, inode| format!("{device}:{}", inode + 1));
    assert!(text.starts_with('[') && !text.contains('<'), "{text}");
    let text = run(|_, _| String::new());
    assert!(text.starts_with('['), "{text}");
}

#[test]
fn a_process_whose_standard_error_has_no_reader_ends_as_usual() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let status = child("none").stderr(writer).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    // The master of a new pseudo terminal is a terminal too.
    let terminal = std::fs::File::open("/dev/ptmx").unwrap();
    let coloured = Form::Plain { has_colours: true };
    assert_eq!(Form::of(&terminal, None, false), coloured);
    assert_eq!(Form::of(&terminal, None, true), PLAIN);
    let file = tempfile::tempfile().unwrap();
    assert_eq!(Form::of(&file, None, false), PLAIN);
}
