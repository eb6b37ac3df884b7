//! What the loop tells the service manager again and again: that it is alive, and how full the pool is.
//!
//! The loop's thread calls [`Reports::tick`] ten times a second, between requests. There is no other thread that could
//! feed the watchdog while the loop hangs. Without a service manager a tick does nothing.
//!
//! ```text
//!   tick ── half of WATCHDOG_USEC has passed ──> WATCHDOG=1
//!        └─ 5 s have passed, other figures ────> STATUS=3.2 of 64.0 GiB used (5 %), 812 objects, 4 sessions
//! ```

use std::time::Duration;

use crate::store::{Gauges, Nanos};
use crate::systemd;

/// Between two status lines.
const STATUS_INTERVAL_NS: Nanos = 5_000_000_000;

/// When what was said last.
#[derive(Debug)]
pub struct Reports {
    is_heard: bool,
    /// Half of what the service manager waits, so that one late tick is not the end.
    feed_interval_ns: Option<Nanos>,
    next_feed: Nanos,
    next_status: Nanos,
    last_status: String,
}

impl Reports {
    /// Says what is due from the first tick on.
    pub fn new(now: Nanos) -> Reports {
        let half = |interval: Duration| interval.as_nanos() as Nanos / 2;
        Reports {
            is_heard: systemd::is_heard(),
            feed_interval_ns: systemd::watchdog_interval().map(half),
            next_feed: now,
            next_status: now,
            last_status: String::new(),
        }
    }

    /// Says what is due; `gauges` is asked only for a status line.
    pub fn tick(&mut self, now: Nanos, gauges: impl FnOnce() -> Gauges) {
        if !self.is_heard {
            return;
        }
        if let Some(interval_ns) = self.feed_interval_ns
            && now >= self.next_feed
            && systemd::feed_watchdog()
        {
            self.next_feed = now + interval_ns;
        }
        if now >= self.next_status {
            self.next_status = now + STATUS_INTERVAL_NS;
            let text = status_text(&gauges());
            if text != self.last_status && systemd::status_if_read(&text) {
                self.last_status = text;
            }
        }
    }
}

fn status_text(gauges: &Gauges) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    let (used, capacity) = (gauges.used_bytes as f64, gauges.capacity_bytes as f64);
    format!(
        "{:.2} of {:.2} GiB used ({:.0} %), {} objects, {} sessions",
        used / GIB,
        capacity / GIB,
        100.0 * used / capacity,
        gauges.objects,
        gauges.sessions,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_says_how_full_the_pool_is() {
        let gauges = Gauges {
            capacity_bytes: 64 << 30,
            used_bytes: 16 << 30,
            objects: 812,
            sessions: 4,
            ..Gauges::default()
        };
        assert_eq!(
            status_text(&gauges),
            "16.00 of 64.00 GiB used (25 %), 812 objects, 4 sessions"
        );
    }
}
