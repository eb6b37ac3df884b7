//! The table: one row for each kind of work.

/// One measured kind of work.
pub struct Row {
    /// What was done.
    pub work: String,
    /// Our time for it, in nanoseconds.
    pub ours_ns: f64,
    /// What the limit is made of.
    pub limit: &'static str,
    /// The limit's time, in nanoseconds.
    pub limit_ns: f64,
    /// The ratio that is aimed at.
    pub target: f64,
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

/// The rows as a Markdown table; a missed target is marked.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| work | ours | limit | of | ratio | target | |\n|---|---:|---:|---|---:|---:|---|\n",
    );
    for row in rows {
        let ratio = row.ours_ns / row.limit_ns;
        let verdict = if ratio <= row.target { "" } else { "missed" };
        text += &format!(
            "| {} | {} | {} | {} | {ratio:.2} | {:.2} | {verdict} |\n",
            row.work,
            time(row.ours_ns),
            time(row.limit_ns),
            row.limit,
            row.target
        );
    }
    text
}

/// Median of five runs of `measure`, after one that warms up.
pub fn median(mut measure: impl FnMut() -> f64) -> f64 {
    measure();
    median_of((0..5).map(|_| measure()).collect())
}

/// The median of figures, of which there is at least one.
pub fn median_of(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
