//! Small line plots as inline SVG, for the status page. Runs on the render thread.
//!
//! ```text
//!   top    ┌─────────────────────────┐ <- a round number above every value, or the fixed top
//!          │      ╱╲    ╱──  line    │
//!          │-----╱--╲--╱--- mark ----│ <- the watermark
//!   0      └─────────────────────────┘
//!          15 min ago              now
//! ```
//!
//! Colours are classes of the page's style sheet, so that they follow dark and light.

use std::fmt::Write;
use std::time::Duration;

use crate::metrics::history::{HISTORY, Point};

/// The plot's own units; the page scales it.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Neighbours further apart than this are not joined: nothing is known in between. The endpoint looks at
/// itself every 30 s.
const MAX_GAP: Duration = Duration::from_secs(75);

/// One line of a plot.
pub(super) struct Line<'a> {
    /// Its class in the style sheet.
    pub(super) class: &'static str,
    pub(super) points: &'a [Point],
}

/// What one plot shows.
pub(super) struct Plot<'a> {
    /// Read aloud in place of the picture.
    pub(super) label: &'static str,
    pub(super) lines: &'a [Line<'a>],
    /// The value at the top edge; `None` takes the smallest round number that holds every value.
    pub(super) top: Option<f64>,
    /// A level drawn across.
    pub(super) mark: Option<f64>,
}

impl Plot<'_> {
    /// The value at the top edge.
    pub(super) fn top(&self) -> f64 {
        let largest = || {
            let values = self.lines.iter().flat_map(|line| line.points);
            round_up(values.filter_map(|point| point.value).fold(0.0, f64::max))
        };
        self.top.unwrap_or_else(largest)
    }

    /// Appends the picture, its right edge at `now`.
    pub(super) fn draw(&self, out: &mut String, now: Duration) {
        let top = self.top();
        let x = |at: Duration| {
            let age = now.saturating_sub(at).as_secs_f64() / HISTORY.as_secs_f64();
            WIDTH * (1.0 - age.min(1.0))
        };
        let y = |value: f64| HEIGHT * (1.0 - (value / top).clamp(0.0, 1.0));
        let mut picture = format!(
            "<svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\">",
            self.label
        );
        for third in 1..3 {
            let x = WIDTH * f64::from(third) / 3.0;
            let _ = write!(
                picture,
                "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{HEIGHT}\"/>"
            );
        }
        if let Some(mark) = self.mark {
            let y = y(mark);
            let _ = write!(
                picture,
                "<line class=\"mark\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
        for line in self.lines {
            let mut path = String::new();
            let mut last_at: Option<Duration> = None;
            for point in line.points {
                let Some(value) = point.value else {
                    last_at = None;
                    continue;
                };
                let is_joined = last_at.is_some_and(|last| point.at - last <= MAX_GAP);
                let verb = if is_joined { 'L' } else { 'M' };
                let _ = write!(path, "{verb}{:.1} {:.1}", x(point.at), y(value));
                if !is_joined {
                    // A lone point shows as a dot: round caps make one of a line of no length.
                    path.push_str("h0");
                }
                last_at = Some(point.at);
            }
            let _ = write!(picture, "<path class=\"{}\" d=\"{path}\"/>", line.class);
        }
        picture.push_str("</svg>");
        out.push_str(&picture);
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `value`; 1 for 0.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    for factor in [1.0, 2.0, 5.0] {
        if value <= factor * power {
            return factor * power;
        }
    }
    10.0 * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(points: &[Point], top: Option<f64>) -> String {
        let lines = [Line { class: "a", points }];
        let plot = Plot {
            label: "l",
            lines: &lines,
            top,
            mark: None,
        };
        let mut out = String::new();
        plot.draw(&mut out, Duration::from_secs(900));
        out
    }

    fn point(at_seconds: u64, value: impl Into<Option<f64>>) -> Point {
        Point {
            at: Duration::from_secs(at_seconds),
            value: value.into(),
        }
    }

    #[test]
    fn the_top_is_the_next_round_number() {
        for (value, top) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (4.0, 5.0),
            (730.0, 1000.0),
            (0.03, 0.05),
        ] {
            assert!((round_up(value) - top).abs() < 1e-9 * top, "{value}");
        }
        assert_eq!(round_up(f64::NAN), 1.0);
    }

    #[test]
    fn a_line_spans_the_quarter_of_an_hour_from_left_to_right() {
        let all: Vec<Point> = (0..=15).map(|minute| point(minute * 60, 0.5)).collect();
        let picture = draw(&all, Some(1.0));
        assert!(picture.contains("d=\"M0.0 60.0h0L40.0 60.0"), "{picture}");
        assert!(picture.contains("L600.0 60.0\"/>"), "{picture}");
    }

    #[test]
    fn what_is_not_known_is_not_drawn() {
        let picture = draw(
            &[
                point(700, 1.0),
                point(730, None),
                point(760, 0.0),
                point(890, 0.0),
            ],
            Some(1.0),
        );
        assert_eq!(picture.matches('M').count(), 3, "{picture}");
        assert!(!picture.contains('L'), "{picture}");
    }

    #[test]
    fn a_value_beyond_the_top_stays_inside_the_picture() {
        let picture = draw(&[point(900, 7.0)], Some(1.0));
        assert!(picture.contains("M600.0 0.0"), "{picture}");
    }
}
