//! The status page: the pool at a glance, for those who would rather look than read metrics.
//!
//! [`pages`](super::pages) calls [`render`] on the render thread. The page is one file: style and plots
//! are inside it, it runs no script, asks for nothing else (its content policy forbids it), and reloads
//! itself. It shows figures of the pool as a whole: no key, no keyspace, no tenant, no process.
//!
//! ```text
//!   ┌ hostkvd 0.1.0 · serving · up 3 h ───────────────┐
//!   │ [ used ▓▓▓▓▓▓▓▓▓░░░|░░ ]  objects, pages, pins  │
//!   │ ~ usage ~   ~ hit rate ~   ~ keys a second ~    │
//!   │ what needs attention, with the remedy           │
//!   └─────────────────────────────────────────────────┘
//! ```

use std::fmt::{Display, Write};
use std::time::Duration;

use super::plot::{Line, Plot};
use crate::metrics::families::Snapshot;
use crate::metrics::history::{Point, Series};

const STYLE: &str = include_str!("status.css");
/// Seconds until the page loads itself anew.
const RELOAD_SECONDS: u32 = 5;

/// What the page may load and do: its own style, nothing else.
pub(super) const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// What the page shows.
pub(super) struct Status<'a> {
    /// The figures of now; `None` when the loop thread gave none in time.
    pub(super) now: Option<(&'a Snapshot, &'a Series)>,
    pub(super) is_serving: bool,
    /// Since the endpoint's start, which is the daemon's but for the prefault.
    pub(super) uptime: Duration,
}

/// The page as HTML.
pub(super) fn render(status: &Status) -> String {
    let mut out = String::with_capacity(24 << 10);
    let (class, state) = if status.is_serving {
        ("good", "serving")
    } else {
        ("bad", "not serving")
    };
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{RELOAD_SECONDS}\">\
         <link rel=\"icon\" href=\"data:,\"><title>hostkvd</title><style>{STYLE}</style></head><body>\n\
         <header><h1>hostkvd {}</h1><span class=\"state {class}\">{state}</span><span>up {}</span></header>\n<main>\n",
        env!("CARGO_PKG_VERSION"),
        time_span(status.uptime),
    );
    match status.now {
        Some((snapshot, series)) => {
            pool(&mut out, snapshot);
            plots(&mut out, snapshot, series, status.uptime);
            attention(&mut out, snapshot);
            figures(&mut out, snapshot);
        }
        None => out.push_str(
            "<section class=\"wide\"><h2>Busy</h2><p>The daemon is busy and gave no figures in time. \
             The page tries again by itself.</p></section>\n",
        ),
    }
    out.push_str(
        "</main>\n<footer><span><a href=\"/metrics\">/metrics</a> for Prometheus</span>\
         <span><a href=\"/healthz\">/healthz</a> for probes</span></footer>\n</body></html>\n",
    );
    out
}

/// How full the pool is, against the level at which eviction starts.
fn pool(out: &mut String, snapshot: &Snapshot) {
    let share = |part: u64| match snapshot.l1_capacity_bytes {
        0 => 0.0,
        capacity => 100.0 * part as f64 / capacity as f64,
    };
    let used = share(snapshot.l1_used_bytes);
    let held = share(snapshot.l1_pinned_bytes + snapshot.l1_reserved_bytes).min(used);
    let watermark = 100.0 * snapshot.eviction_watermark_ratio;
    let _ = writeln!(
        out,
        "<section class=\"wide\"><h2>L1</h2>\
         <div class=\"big\">{used:.1} % <span class=\"note\">{} of {}</span></div>\
         <div class=\"bar\"><svg role=\"img\" aria-label=\"{used:.1} percent used, eviction from {watermark:.0} percent\" \
         viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\">\
         <rect class=\"used\" width=\"{used:.2}\" height=\"1\"/><rect class=\"held\" width=\"{held:.2}\" height=\"1\"/>\
         <line class=\"mark\" x1=\"{watermark:.2}\" x2=\"{watermark:.2}\" y1=\"0\" y2=\"1\"/></svg></div>\
         <div class=\"keys note\"><span><i class=\"key second\"></i>pinned or reserved</span> \
         <span><i class=\"key first\"></i>other objects</span> \
         <span><i class=\"key mark\"></i>eviction starts at {watermark:.0} %</span></div></section>",
        bytes(snapshot.l1_used_bytes),
        bytes(snapshot.l1_capacity_bytes),
    );
}

fn plots(out: &mut String, snapshot: &Snapshot, series: &Series, now: Duration) {
    let percent = |ratio: f64| format!("{:.1} %", 100.0 * ratio);
    let usage = [Line {
        class: "first",
        points: &series.usage_ratio,
    }];
    figure(
        out,
        "Usage",
        percent(snapshot.l1_usage_ratio),
        "share of L1 in use; dashed: eviction starts",
        &Plot {
            label: "Share of L1 in use over the last 15 minutes",
            lines: &usage,
            top: Some(1.0),
            mark: Some(snapshot.eviction_watermark_ratio),
        },
        now,
        "100 %",
    );
    let hits = [Line {
        class: "first",
        points: &series.hit_ratio,
    }];
    figure(
        out,
        "Hit rate",
        last(&series.hit_ratio).map_or("no reads".to_owned(), percent),
        "keys found, of those that read requests asked for",
        &Plot {
            label: "Hit rate over the last 15 minutes",
            lines: &hits,
            top: Some(1.0),
            mark: None,
        },
        now,
        "100 %",
    );
    let throughput = [
        Line {
            class: "third",
            points: &series.evicted_keys_per_second,
        },
        Line {
            class: "second",
            points: &series.write_keys_per_second,
        },
        Line {
            class: "first",
            points: &series.read_keys_per_second,
        },
    ];
    let plot = Plot {
        label: "Keys a second over the last 15 minutes",
        lines: &throughput,
        top: None,
        mark: None,
    };
    let rate = last(&series.read_keys_per_second).unwrap_or(0.0);
    figure(
        out,
        "Throughput",
        format!("{} keys/s read", count(rate.round() as u64)),
        "keys a second: <span><i class=\"key first\"></i>read</span> <span><i class=\"key second\"></i>written</span>\
         <span><i class=\"key third\"></i>evicted</span>",
        &plot,
        now,
        format_args!("{} keys/s", plot.top()),
    );
}

/// One plot in its card. `caption` is markup of this module.
fn figure(
    out: &mut String,
    heading: &str,
    value: String,
    caption: &str,
    plot: &Plot,
    now: Duration,
    top: impl Display,
) {
    let _ = write!(
        out,
        "<section><h2>{heading}</h2><div class=\"big\">{value}</div>\
         <figure><div class=\"axis\"><span>{top}</span></div>"
    );
    plot.draw(out, now);
    let _ = writeln!(
        out,
        "<div class=\"axis\"><span>15 min ago</span><span>now</span></div>\
         <figcaption>{caption}</figcaption></figure></section>"
    );
}

/// What an operator should look at, with the remedy; nothing when all is well.
fn attention(out: &mut String, snapshot: &Snapshot) {
    let mut sentences = Vec::new();
    if snapshot.is_pin_gate_shut {
        sentences.push(format!(
            "New pins are refused, {} are pinned: look for workers that keep leases; the oldest pin is {:.0} s old.",
            bytes(snapshot.l1_pinned_bytes),
            snapshot.oldest_pin_seconds,
        ));
    }
    if snapshot.l1_quarantined_bytes > 0 {
        sentences.push(format!(
            "{} wait for writers that let their reservations expire: end those processes to get them back.",
            bytes(snapshot.l1_quarantined_bytes),
        ));
    }
    if snapshot.orphaned_bytes > 0 {
        sentences.push(format!(
            "{} are held by processes that live but have lost their connection: restart those workers.",
            bytes(snapshot.orphaned_bytes),
        ));
    }
    if snapshot.huge_page_bytes < snapshot.l1_capacity_bytes {
        sentences.push(format!(
            "Only {} of {} are on 2 MiB pages, so reads touch more page tables: free memory on the host and restart.",
            bytes(snapshot.huge_page_bytes),
            bytes(snapshot.l1_capacity_bytes),
        ));
    }
    let no_room = snapshot.write_failures.no_space
        + snapshot.write_failures.no_entry
        + snapshot.write_failures.bucket_full;
    if no_room > 0 {
        sentences.push(format!(
            "{} keys found no room since the start: see hostkv_write_failures_total by reason; a larger --l1-size-gb or \
             --max-objects helps.",
            count(no_room),
        ));
    }
    if snapshot.telemetry_events_dropped + snapshot.log_lines_dropped > 0 {
        sentences.push(format!(
            "{} telemetry events and {} log lines were dropped since the start because nobody took them in time.",
            count(snapshot.telemetry_events_dropped),
            count(snapshot.log_lines_dropped),
        ));
    }
    if sentences.is_empty() {
        return;
    }
    out.push_str("<section class=\"wide\"><h2>Worth a look</h2><ul>");
    for sentence in sentences {
        let _ = write!(out, "<li>{sentence}</li>");
    }
    out.push_str("</ul></section>\n");
}

fn figures(out: &mut String, snapshot: &Snapshot) {
    let now = [
        ("Sessions", count(snapshot.sessions)),
        ("Keyspaces", count(snapshot.keyspaces)),
        ("Objects", count(snapshot.l1_objects)),
        (
            "Index entries used",
            format!(
                "{} of {}",
                count(snapshot.index_entries_used),
                count(snapshot.index_entries)
            ),
        ),
        (
            "Oldest pin",
            time_span(Duration::from_secs_f64(
                snapshot.oldest_pin_seconds.max(0.0),
            )),
        ),
    ];
    let memory = [
        ("Pinned", bytes(snapshot.l1_pinned_bytes)),
        ("Reserved", bytes(snapshot.l1_reserved_bytes)),
        ("Quarantined", bytes(snapshot.l1_quarantined_bytes)),
        (
            "Largest free extent",
            bytes(snapshot.largest_free_extent_bytes),
        ),
        ("On 2 MiB pages", bytes(snapshot.huge_page_bytes)),
    ];
    let since_start = [
        ("Read requests", snapshot.read_requests),
        ("Keys found", snapshot.read_succeed_keys),
        ("Keys not found", snapshot.read_failed_keys),
        ("Keys stored", snapshot.l1_write_keys),
        ("Keys evicted", snapshot.l1_evicted_keys),
        ("Keys removed", snapshot.removed_keys),
        ("Reclaimed from dead workers", {
            snapshot.reclaimed_pins + snapshot.reclaimed_reservations
        }),
        ("Frames refused", snapshot.rejected_frames),
    ];
    table(out, "Now", now);
    table(out, "Memory", memory);
    table(
        out,
        "Since the start",
        since_start.map(|(name, number)| (name, count(number))),
    );
}

fn table<const N: usize>(out: &mut String, heading: &str, rows: [(&str, String); N]) {
    let _ = write!(out, "<section><h2>{heading}</h2><dl>");
    for (name, value) in rows {
        let _ = write!(out, "<dt>{name}</dt><dd>{value}</dd>");
    }
    out.push_str("</dl></section>\n");
}

fn last(points: &[Point]) -> Option<f64> {
    points.last().and_then(|point| point.value)
}

/// `3 GiB`, `1.4 GiB`, `12 KiB`.
fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if value.fract() < 0.05 || value >= 100.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `1 234 567`, in groups of three.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `12 s`, `5 min`, `3 h 12 min`, `4 d 2 h`.
fn time_span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(snapshot: &Snapshot) -> String {
        render(&Status {
            now: Some((snapshot, &Series::default())),
            is_serving: true,
            uptime: Duration::from_secs(11_520),
        })
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(12 << 10), "12 KiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(1 << 40), "1 TiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(time_span(Duration::from_secs(59)), "59 s");
        assert_eq!(time_span(Duration::from_secs(11_520)), "3 h 12 min");
        assert_eq!(time_span(Duration::from_secs(356_400)), "4 d 3 h");
    }

    #[test]
    fn a_pool_of_no_bytes_divides_by_nothing() {
        assert!(page(&Snapshot::default()).contains(">0.0 % <"));
    }

    #[test]
    fn all_well_says_nothing_and_each_trouble_says_its_remedy() {
        let well = Snapshot {
            l1_capacity_bytes: 1 << 30,
            huge_page_bytes: 1 << 30,
            ..Snapshot::default()
        };
        assert!(!page(&well).contains("Worth a look"));
        type Spoil = fn(&mut Snapshot);
        let cases: [(Spoil, &str); 6] = [
            (|s| s.is_pin_gate_shut = true, "keep leases"),
            (|s| s.l1_quarantined_bytes = 1, "end those processes"),
            (|s| s.orphaned_bytes = 1, "restart those workers"),
            (|s| s.huge_page_bytes = 0, "free memory"),
            (|s| s.write_failures.no_entry = 1, "--max-objects"),
            (|s| s.log_lines_dropped = 1, "dropped"),
        ];
        for (spoil, remedy) in cases {
            let mut troubled = well.clone();
            spoil(&mut troubled);
            let text = page(&troubled);
            assert_eq!(text.matches("<li>").count(), 1, "{remedy}");
            assert!(text.contains(remedy), "{remedy}");
        }
    }

    #[test]
    fn the_page_is_one_file_that_asks_for_nothing_and_runs_nothing() {
        let text = page(&Snapshot::default());
        for forbidden in [
            "http://", "https://", "<script", "src=", "url(", "@import", "//cdn",
        ] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        let links: Vec<&str> = text.split("href=\"").skip(1).collect();
        let known = ["data:,", "/metrics", "/healthz"];
        for link in links {
            let target = link.split('"').next().unwrap();
            assert!(known.contains(&target), "{target}");
        }
        assert!(text.len() < 64 << 10, "{}", text.len());
    }
}
