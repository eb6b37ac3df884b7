//! The form of a log line, and the names of the levels.
//!
//! Runs in the thread that logs, inside `env_logger`. One call makes one line: what would break a
//! line or steer a terminal is written as an escape.
//!
//! ```text
//!   plain     [2026-11-24 21:08:06,603] LMCache INFO: message
//!   journal   <6>LMCache INFO: message
//! ```

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostkv_shm_protocol::text::is_plain;
use log::LevelFilter;

/// Target of the lines that [`critical!`](crate::critical) writes: `log` has no level above error.
pub const CRITICAL_TARGET: &str = "hostkv::critical";

/// The levels, from talkative to silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Steps, for whoever debugs.
    Debug,
    /// What an operator wants to see.
    Info,
    /// Something is wrong and the daemon copes.
    Warning,
    /// Something failed.
    Error,
    /// What ends the process.
    Critical,
}

impl Level {
    /// All levels, in their order.
    pub const ALL: [Self; 5] = [
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
    ];

    /// The name, as it is printed and as `LMCACHE_LOG_LEVEL` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// The level of a name in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
    }

    /// The level of a record. Traces count as DEBUG.
    pub(super) fn of(record: &log::Record<'_>) -> Self {
        match record.level() {
            log::Level::Trace | log::Level::Debug => Self::Debug,
            log::Level::Info => Self::Info,
            log::Level::Warn => Self::Warning,
            log::Level::Error if record.target() == CRITICAL_TARGET => Self::Critical,
            log::Level::Error => Self::Error,
        }
    }

    /// The coarser filter that the `log` macros apply before anything is formatted.
    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::Trace,
            Self::Info => LevelFilter::Info,
            Self::Warning => LevelFilter::Warn,
            Self::Error | Self::Critical => LevelFilter::Error,
        }
    }

    /// The priority of syslog.
    fn journal_priority(self) -> u8 {
        match self {
            Self::Debug => 7,
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
            Self::Critical => 2,
        }
    }

    /// The parameters of the terminal's colour sequence.
    fn colour(self) -> &'static str {
        match self {
            Self::Debug => "36",
            Self::Info => "32",
            Self::Warning => "33",
            Self::Error => "31",
            Self::Critical => "1;31",
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With the time, for people and files.
    Plain { has_colours: bool },
    /// With the priority, for the journal, which knows the time.
    Journal,
}

impl Form {
    /// The form for a descriptor: the journal's when `JOURNAL_STREAM` names its device and inode,
    /// colours when it is a terminal and `NO_COLOR` is unset.
    pub(super) fn of(
        sink: &(impl AsFd + IsTerminal),
        journal_stream: Option<&str>,
        no_color_is_set: bool,
    ) -> Self {
        let is_journal = nix::sys::stat::fstat(sink).is_ok_and(|stat| {
            journal_stream == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str())
        });
        if is_journal {
            return Self::Journal;
        }
        let has_colours = !no_color_is_set && sink.is_terminal();
        Self::Plain { has_colours }
    }
}

/// Writes one line.
pub(super) fn write_line(
    out: &mut impl io::Write,
    form: Form,
    time: SystemTime,
    level: Level,
    message: &fmt::Arguments<'_>,
) -> io::Result<()> {
    let name = level.name();
    let message = one_line(message);
    match form {
        Form::Journal => writeln!(
            out,
            "<{}>LMCache {name}: {message}",
            level.journal_priority()
        ),
        Form::Plain { has_colours: false } => {
            writeln!(out, "[{}] LMCache {name}: {message}", local_time(time))
        }
        Form::Plain { has_colours: true } => {
            let (time, colour) = (local_time(time), level.colour());
            writeln!(
                out,
                "[{time}] LMCache \x1b[{colour}m{name}\x1b[0m: {message}"
            )
        }
    }
}

/// The message with escapes in place of control characters.
fn one_line(message: &fmt::Arguments<'_>) -> String {
    let text = message.to_string();
    if is_plain(&text) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// `2026-11-24 21:08:06,603` in the time zone of the process.
pub(super) fn local_time(time: SystemTime) -> String {
    thread_local! {
        /// The second of this thread's last line, and its text: lines come in runs, and the calendar costs more than the rest.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since_epoch.as_secs();
    let mut text = LAST.with_borrow_mut(|(last, text)| {
        if *last != seconds {
            *last = seconds;
            *text = local_second(seconds as libc::time_t);
        }
        let mut copy = String::with_capacity(text.len() + ",603".len());
        copy.push_str(text);
        copy
    });
    let ms = since_epoch.subsec_millis();
    text.push(',');
    for unit in [100, 10, 1] {
        text.push(char::from(b'0' + (ms / unit % 10) as u8));
    }
    text
}

/// `2026-11-24 21:08:06`, of seconds since the epoch.
fn local_second(seconds: libc::time_t) -> String {
    // SAFETY: `tm` is a plain struct of integers and one pointer, for which zero is a value.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types; the function keeps neither. It
    // reads TZ from the environment, which this process never changes.
    let filled = unsafe { libc::localtime_r(&seconds, &mut parts) };
    if filled.is_null() {
        // A year that does not fit: the number says more than a wrong date.
        return seconds.to_string();
    }
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}
