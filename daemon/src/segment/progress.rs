//! What people and the service manager see while the daemon starts.
//!
//! `create_payload` reports to a [`ProgressSink`] from the start-up thread, a few times a second; the sink decides
//! how often that is worth a line. [`StartProgress`] is the daemon's: a bar on a terminal, else a log line every
//! few seconds; and in both cases, under systemd, a status line and more time.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::systemd;

/// Between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Between two messages to the service manager.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(1);
/// How much more time each message asks for. Much longer than the interval, so that a stalled allocation of a
/// busy machine does not end the start.
const MORE_TIME: Duration = Duration::from_secs(60);

/// Hears how far the start has come. Calls are frequent; an implementation thins them out.
pub trait ProgressSink {
    /// The start waits; `text` says for whom.
    fn waiting(&mut self, text: &str);
    /// `done_bytes` of `total_bytes` have their pages.
    fn update(&mut self, done_bytes: u64, total_bytes: u64);
    /// No more calls of `update` follow, be it for success or for an error.
    fn finish(&mut self);
}

/// The daemon's sink.
#[derive(Debug)]
pub struct StartProgress {
    is_terminal: bool,
    bar: Option<ProgressBar>,
    log_lines: Throttle,
    notifications: Throttle,
}

impl StartProgress {
    /// Chooses the bar if standard error is a terminal.
    pub fn new() -> Self {
        StartProgress {
            is_terminal: std::io::stderr().is_terminal(),
            bar: None,
            log_lines: Throttle::every(LOG_INTERVAL),
            notifications: Throttle::every(NOTIFY_INTERVAL),
        }
    }

    fn tell_service_manager(&mut self, text: &str) {
        if self.notifications.is_due(Instant::now()) {
            systemd::extend_timeout(MORE_TIME);
            systemd::status(text);
        }
    }
}

impl Default for StartProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl ProgressSink for StartProgress {
    fn waiting(&mut self, text: &str) {
        if self.log_lines.is_due(Instant::now()) {
            log::warn!("{text}");
        }
        self.tell_service_manager(text);
    }

    fn update(&mut self, done_bytes: u64, total_bytes: u64) {
        if self.is_terminal {
            self.bar
                .get_or_insert_with(|| new_bar(total_bytes))
                .set_position(done_bytes);
        } else if self.log_lines.is_due(Instant::now()) {
            log::info!("{}", progress_text(done_bytes, total_bytes));
        }
        self.tell_service_manager(&progress_text(done_bytes, total_bytes));
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "prefault [{bar:40}] {binary_bytes}/{binary_total_bytes} {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr()).with_style(style)
}

fn progress_text(done_bytes: u64, total_bytes: u64) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    format!(
        "prefault {:.1}/{:.1} GiB",
        done_bytes as f64 / GIB,
        total_bytes as f64 / GIB
    )
}

/// Lets something happen at most once per interval, and the first time at once.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    last: Option<Instant>,
}

impl Throttle {
    pub(super) fn every(interval: Duration) -> Self {
        Throttle {
            interval,
            last: None,
        }
    }

    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= self.interval);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_the_first_call_through_and_then_one_per_interval() {
        let start = Instant::now();
        let mut throttle = Throttle::every(Duration::from_secs(5));
        let due: Vec<u64> = (0..=12)
            .filter(|&s| throttle.is_due(start + Duration::from_secs(s)))
            .collect();
        assert_eq!(due, [0, 5, 10]);
    }

    #[test]
    fn progress_is_said_in_gib() {
        assert_eq!(progress_text(3 << 29, 64 << 30), "prefault 1.5/64.0 GiB");
    }

    #[test]
    fn the_template_of_the_bar_is_valid() {
        assert!(
            ProgressStyle::with_template(
                "prefault [{bar:40}] {binary_bytes}/{binary_total_bytes} {eta}"
            )
            .is_ok()
        );
        let bar = new_bar(10);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_position(4);
        assert_eq!((bar.position(), bar.length()), (4, Some(10)));
    }
}
