//! Log lines on standard error, written by a thread of their own.
//!
//! `main` calls [`init`] once the configuration stands, the loop calls [`set_level`] on SIGHUP, and
//! everything logs with the macros of `log` and with [`critical!`](crate::critical), from any
//! thread. No log call waits: `env_logger` formats the line, and its target is a bounded queue.
//!
//! ```text
//!   log::info!(…) ──> level ──> env_logger: line ──> queue ──> hostkvd-log ──> standard error
//! ```
//!
//! The level is `LMCACHE_LOG_LEVEL`, or the file's `log_level` when that is unset.

mod line;
mod queue;
#[cfg(test)]
mod tests;

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use env_logger::{Builder, Logger, Target};
use hostkv_shm_protocol::sync::{AtomicU32, Ordering};
use log::LevelFilter;

use line::Form;
pub use line::{CRITICAL_TARGET, Level};
use queue::Progress;

/// The variable that sets the level.
const LEVEL_VARIABLE: &str = "LMCACHE_LOG_LEVEL";

/// Logs what ends the process.
///
/// Takes what `log::error!` takes.
#[macro_export]
macro_rules! critical {
    ($($arguments:tt)+) => {
        ::log::error!(target: $crate::logging::CRITICAL_TARGET, $($arguments)+)
    };
}

/// The one logger of the process.
static INSTALLED: OnceLock<Logging> = OnceLock::new();

/// A handle on the running log.
#[derive(Clone, Debug)]
pub struct Logging {
    progress: Option<Arc<Progress>>,
    threshold: Arc<Threshold>,
}

/// The lowest level that is shown.
#[derive(Debug)]
struct Threshold(AtomicU32);

impl Threshold {
    fn new(level: Level) -> Self {
        Self(AtomicU32::new(level as u32))
    }

    fn set(&self, level: Level) {
        // Relaxed: a line logged meanwhile may follow either level.
        self.0.store(level as u32, Ordering::Relaxed);
    }

    fn admits(&self, level: Level) -> bool {
        // Relaxed: as in `set`.
        level as u32 >= self.0.load(Ordering::Relaxed)
    }
}

/// Starts logging at the level of the environment, else at `config_level`, else at INFO.
///
/// The thread that writes calls `begin` first, before it takes a line. A second call changes nothing and gives a handle
/// on the same log.
pub fn init(config_level: Option<&str>, begin: impl FnOnce() + Send + 'static) -> Logging {
    let mut is_first = false;
    let logging = INSTALLED.get_or_init(|| {
        is_first = true;
        install(begin)
    });
    if is_first {
        apply(logging, level_of_environment().as_deref().or(config_level));
    }
    logging.clone()
}

/// Takes over another level of the file, when the environment sets none; tells whether it did.
pub fn set_level(config_level: Option<&str>) -> bool {
    match INSTALLED.get() {
        Some(logging) if level_of_environment().is_none() => {
            apply(logging, config_level);
            true
        }
        _ => false,
    }
}

/// Lines that were dropped since the start: the queue was full, or standard error was broken.
pub fn dropped_lines() -> u64 {
    let progress = INSTALLED
        .get()
        .and_then(|logging| logging.progress.as_ref());
    progress.map_or(0, |progress| progress.dropped())
}

impl Logging {
    /// Waits until the lines logged so far are on standard error; false when that takes longer
    /// than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        match &self.progress {
            Some(progress) => progress.flush(timeout),
            None => true,
        }
    }
}

/// Writes a line to standard error past the queue, for a process that is about to end.
pub(crate) fn write_last_line(line: &str) {
    queue::write_past(&io::stderr(), line);
}

fn level_of_environment() -> Option<String> {
    // What is no text is no level either, and is shown as far as it can be.
    env::var_os(LEVEL_VARIABLE).map(|level| level.to_string_lossy().into_owned())
}

fn install(begin: impl FnOnce() + Send + 'static) -> Logging {
    // The C library reads the time zone's file once, at the first time that it prints: here, where it still may.
    line::local_time(SystemTime::now());
    let journal_stream = env::var("JOURNAL_STREAM").ok();
    let no_color_is_set = env::var_os("NO_COLOR").is_some();
    let form = Form::of(&io::stderr(), journal_stream.as_deref(), no_color_is_set);
    let threshold = Arc::new(Threshold::new(Level::Info));
    let progress = match build(io::stderr(), form, Arc::clone(&threshold), begin) {
        Ok((logger, progress)) => {
            if let Err(error) = log::set_boxed_logger(Box::new(logger)) {
                write_last_line(&format!("hostkvd: nothing will be logged: {error}"));
            }
            Some(progress)
        }
        Err(error) => {
            write_last_line(&format!("hostkvd: nothing will be logged: {error}"));
            None
        }
    };
    Logging {
        progress,
        threshold,
    }
}

/// Sets the level of a name; an unknown name is a warning and means INFO.
fn apply(logging: &Logging, name: Option<&str>) {
    let level = match name {
        Some(name) => Level::from_name(name),
        None => Some(Level::Info),
    };
    let chosen = level.unwrap_or(Level::Info);
    logging.threshold.set(chosen);
    log::set_max_level(chosen.filter());
    if let (None, Some(name)) = (level, name) {
        log::warn!("{}", unknown_level(name));
    }
}

fn unknown_level(name: &str) -> String {
    let names = Level::ALL.map(Level::name).join(", ");
    format!(
        "Unknown log level {name:?}, using INFO; allowed for {LEVEL_VARIABLE} is one of {names}"
    )
}

/// A logger that writes to `sink` through a queue of its own.
fn build<S>(
    sink: S,
    form: Form,
    threshold: Arc<Threshold>,
    begin: impl FnOnce() + Send + 'static,
) -> io::Result<(Logger, Arc<Progress>)>
where
    S: AsFd + IsTerminal + Send + 'static,
{
    let (lines, progress) = queue::start(sink, begin)?;
    let logger = Builder::new()
        // The threshold decides: it can change, and it knows CRITICAL.
        .filter_level(LevelFilter::Trace)
        // Its lines at lower levels speak of our inner hop, which is no concern of operators.
        .filter_module("tiny_http", LevelFilter::Warn)
        .target(Target::Pipe(Box::new(lines)))
        .format(move |out, record| {
            let level = Level::of(record);
            if !threshold.admits(level) {
                return Ok(());
            }
            line::write_line(out, form, SystemTime::now(), level, record.args())
        })
        .build();
    Ok((logger, progress))
}
