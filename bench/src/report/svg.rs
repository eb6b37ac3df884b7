//! Plots as SVG without any program: both axes logarithmic, legible on light and on dark paper.
//!
//! ```text
//!   title
//!   y |      .--o series          the legend stands in rows under the title
//!     | o---'
//!     +-----------> x
//! ```

use super::curve::{Curve, Series};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 56.0;
const LEGEND_ROW: f64 = 18.0;
const LEGEND_COLUMNS: usize = 2;

/// Six colours that people with any colour vision tell apart on light paper, after Okabe and Ito (2008).
const ON_LIGHT: [&str; 6] = [
    "#0060a0", "#b84a00", "#007a5a", "#9a3d78", "#6b5b00", "#333333",
];
/// The same hues for dark paper.
const ON_DARK: [&str; 6] = [
    "#56b4e9", "#f0a050", "#3fd0a0", "#e79ac6", "#f0e442", "#dddddd",
];

/// The plot of a curve.
pub fn draw(curve: &Curve) -> String {
    let rows = curve.series.len().div_ceil(LEGEND_COLUMNS);
    let top = 40.0 + rows as f64 * LEGEND_ROW;
    let xs = span(
        curve
            .series
            .iter()
            .flat_map(|s| s.points.iter().map(|p| p.0)),
    );
    let ys = span(
        curve
            .series
            .iter()
            .flat_map(|s| s.points.iter().map(|p| p.1)),
    );
    let frame = Frame { xs, ys, top };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n{}\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n<text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>\n",
        escape(&curve.title),
        style(),
        escape(&curve.title)
    );
    for y in ticks(ys) {
        let at = frame.y(y);
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            escape(&curve.y_unit.show(y))
        );
    }
    for x in curve.xs() {
        let at = frame.x(x);
        let base = HEIGHT - BOTTOM;
        svg += &format!(
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{base:.1}\"/>\
             <text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>\n",
            base + 18.0,
            escape(&curve.x_unit.show(x))
        );
    }
    svg += &format!(
        "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n\
         <text class=\"tick\" text-anchor=\"middle\" transform=\"translate(16 {:.1}) rotate(-90)\">{}</text>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        escape(curve.x_label),
        (top + HEIGHT - BOTTOM) / 2.0,
        escape(curve.y_label)
    );
    for (number, series) in curve.series.iter().enumerate() {
        svg += &line(&frame, number, series);
    }
    svg + "</svg>\n"
}

/// One series: its line, its points and its entry in the legend.
fn line(frame: &Frame, number: usize, series: &Series) -> String {
    let class = number % ON_LIGHT.len();
    let points: Vec<String> = series
        .points
        .iter()
        .map(|(x, y)| format!("{:.1},{:.1}", frame.x(*x), frame.y(*y)))
        .collect();
    let mut svg = format!(
        "<polyline class=\"s s{class}\" points=\"{}\"/>\n",
        points.join(" ")
    );
    for (x, y) in &series.points {
        svg += &format!(
            "<circle class=\"d s{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
            frame.x(*x),
            frame.y(*y)
        );
    }
    let column = (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS as f64;
    let at = LEFT + (number % LEGEND_COLUMNS) as f64 * column;
    let row = 44.0 + (number / LEGEND_COLUMNS) as f64 * LEGEND_ROW;
    svg + &format!(
        "\n<line class=\"s s{class}\" x1=\"{at:.1}\" x2=\"{:.1}\" y1=\"{row:.1}\" y2=\"{row:.1}\"/>\
         <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        at + 20.0,
        at + 26.0,
        row + 4.0,
        escape(&series.name)
    )
}

struct Frame {
    xs: (f64, f64),
    ys: (f64, f64),
    top: f64,
}

impl Frame {
    fn x(&self, x: f64) -> f64 {
        LEFT + share(self.xs, x) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - share(self.ys, y) * (HEIGHT - BOTTOM - self.top)
    }
}

fn share((low, high): (f64, f64), value: f64) -> f64 {
    (value / low).ln() / (high / low).ln()
}

/// Lowest and highest, a little apart from the outermost points.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    (low / 1.15, high * 1.15)
}

/// Round figures in a span: 1, 2 and 5 of each power of ten, or the powers alone when that would be many.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    let steps: &[f64] = if last - first > 3 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    (first..=last)
        .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

fn style() -> String {
    let palette = |colours: &[&str]| -> String {
        colours
            .iter()
            .enumerate()
            .map(|(class, colour)| {
                format!(".s{class}{{stroke:{colour};}}.d.s{class}{{fill:{colour};}}")
            })
            .collect()
    };
    format!(
        "<style>text{{font-family:system-ui,sans-serif;fill:#222;}}.title{{font-size:16px;font-weight:600;}}.tick{{font-size:12px;}}\
         .paper{{fill:#fff;}}.grid{{stroke:#ddd;stroke-width:1;}}.s{{fill:none;stroke-width:2;}}{}\
         @media (prefers-color-scheme: dark){{text{{fill:#ddd;}}.paper{{fill:#16181c;}}.grid{{stroke:#3a3d44;}}{}}}</style>\n",
        palette(&ON_LIGHT),
        palette(&ON_DARK)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Unit;

    fn curve() -> Curve {
        Curve {
            file: "test",
            title: "a < b & c".to_owned(),
            x_label: "keys",
            x_unit: Unit::Count,
            y_label: "time",
            y_unit: Unit::Nanoseconds,
            series: vec![
                Series {
                    name: "ours".to_owned(),
                    points: vec![(1.0, 100.0), (10.0, 50.0), (100.0, 40.0)],
                },
                Series {
                    name: "limit".to_owned(),
                    points: vec![(1.0, 90.0), (100.0, 30.0)],
                },
            ],
            remark: String::new(),
        }
    }

    #[test]
    fn a_plot_has_every_point_inside_its_frame_and_escapes_its_texts() {
        let svg = draw(&curve());
        assert_eq!(svg.matches("<circle").count(), 5);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("a < b"));
        assert!(svg.contains("prefers-color-scheme: dark"));
        for (attribute, most) in [("cx=\"", WIDTH), ("cy=\"", HEIGHT)] {
            for part in svg.split(attribute).skip(1) {
                let at: f64 = part
                    .split('"')
                    .next()
                    .and_then(|text| text.parse().ok())
                    .expect("a number");
                assert!((0.0..=most).contains(&at), "{at}");
            }
        }
    }

    #[test]
    fn a_table_of_a_curve_has_a_line_for_each_x_and_gaps_where_a_series_has_none() {
        let text = curve().markdown();
        assert!(text.contains("| 10 | 50 ns | |\n"), "{text}");
        assert!(text.contains("| 100 | 40 ns | 30 ns |"), "{text}");
    }
}
