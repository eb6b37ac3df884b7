//! The table: one row for each kind of work.

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Operations in a second of CPU.
    PerCpuSecond,
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// GiB a second.
    GibPerSecond,
    /// A share of 1, shown in percent.
    Share,
}

impl Unit {
    /// The figure as a reader wants it.
    pub fn show(self, figure: f64) -> String {
        match self {
            Unit::Nanoseconds => match figure {
                ns if ns < 1e3 => format!("{ns:.0} ns"),
                ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
                ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
                ns => format!("{:.2} s", ns / 1e9),
            },
            Unit::PerCpuSecond => match figure {
                n if n < 1e6 => format!("{:.1} k/s", n / 1e3),
                n => format!("{:.2} M/s", n / 1e6),
            },
            Unit::Count => match figure {
                n if n >= 1e6 && n % 1e5 == 0.0 => format!("{} M", n / 1e6),
                n if n >= 1e4 && n % 1e2 == 0.0 => format!("{} k", n / 1e3),
                n if n == n.round() => format!("{n:.0}"),
                n => format!("{n:.3}"),
            },
            Unit::Bytes => {
                let (n, unit) = match figure {
                    n if n < 1024.0 => (n, "B"),
                    n if n < 1048576.0 => (n / 1024.0, "KiB"),
                    n => (n / 1048576.0, "MiB"),
                };
                match n == n.round() {
                    true => format!("{n} {unit}"),
                    false => format!("{n:.1} {unit}"),
                }
            }
            Unit::GibPerSecond => match figure {
                n if n < 1.0 => format!("{n:.2} GiB/s"),
                n if n < 10.0 => format!("{n:.1} GiB/s"),
                n => format!("{n:.0} GiB/s"),
            },
            Unit::Share => format!("{:.3} %", figure * 100.0),
        }
    }
}

/// What a row must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Ours divided by the limit is at most this.
    RatioAtMost(f64),
    /// Ours divided by the limit is at least this.
    RatioAtLeast(f64),
    /// Ours itself is at most this.
    AtMost(f64),
    /// Nothing; the figure is shown.
    Shown,
}

/// The limit beside a figure.
#[derive(Debug, Clone)]
pub struct Limit {
    /// What it is made of.
    pub of: String,
    /// Its figure, in the row's unit.
    pub figure: f64,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The goal is reached, or there is none.
    Met,
    /// It is not.
    Missed,
    /// Others took too much of the machine.
    NotMeasurable,
    /// It was not measured here.
    Absent,
    /// Measuring it failed.
    Failed,
}

/// One kind of work.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What the figures count.
    pub unit: Unit,
    /// Ours; none when it was not measured.
    pub ours: Option<f64>,
    /// The limit in the same run.
    pub limit: Option<Limit>,
    /// Peers on the same work.
    pub peers: Vec<(&'static str, f64)>,
    /// What is aimed at.
    pub goal: Goal,
    /// Share of the time that others took, when it was too much.
    pub noise: Option<f64>,
    /// What a reader should know.
    pub note: String,
    /// Why the row has no figure, when measuring it failed.
    pub is_failure: bool,
}

impl Row {
    /// A row with a figure of ours alone.
    pub fn new(work: impl Into<String>, unit: Unit, ours: f64, goal: Goal) -> Row {
        Row {
            work: work.into(),
            unit,
            ours: Some(ours),
            limit: None,
            peers: Vec::new(),
            goal,
            noise: None,
            note: String::new(),
            is_failure: false,
        }
    }

    /// A row that is not measured here, and why.
    pub fn absent(work: impl Into<String>, why: impl Into<String>) -> Row {
        Row {
            ours: None,
            note: why.into(),
            ..Row::new(work, Unit::Count, 0.0, Goal::Shown)
        }
    }

    /// A row whose measuring failed, and why.
    pub fn failed(work: impl Into<String>, why: impl Into<String>) -> Row {
        Row {
            is_failure: true,
            ..Row::absent(work, why)
        }
    }

    /// The same with a limit.
    pub fn limit(self, of: impl Into<String>, figure: f64) -> Row {
        Row {
            limit: Some(Limit {
                of: of.into(),
                figure,
            }),
            ..self
        }
    }

    /// The same with peers' figures.
    pub fn peers(self, peers: Vec<(&'static str, f64)>) -> Row {
        Row { peers, ..self }
    }

    /// The same, measured in this noise.
    pub fn noise(self, noise: Option<f64>) -> Row {
        Row { noise, ..self }
    }

    /// The same with a note.
    pub fn note(self, note: impl Into<String>) -> Row {
        Row {
            note: note.into(),
            ..self
        }
    }

    /// Ours divided by the limit.
    pub fn ratio(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        (limit.figure != 0.0)
            .then_some(())
            .and(self.ours)
            .map(|ours| ours / limit.figure)
    }

    /// What became of it.
    pub fn verdict(&self) -> Verdict {
        let Some(ours) = self.ours else {
            return if self.is_failure {
                Verdict::Failed
            } else {
                Verdict::Absent
            };
        };
        let is_met = match (self.goal, self.ratio()) {
            (Goal::Shown, _) => return Verdict::Met,
            (Goal::AtMost(most), _) => ours <= most,
            (Goal::RatioAtMost(most), Some(ratio)) => ratio <= most,
            (Goal::RatioAtLeast(least), Some(ratio)) => ratio >= least,
            (Goal::RatioAtMost(_) | Goal::RatioAtLeast(_), None) => return Verdict::Failed,
        };
        match (is_met, self.noise) {
            (_, Some(_)) => Verdict::NotMeasurable,
            (true, None) => Verdict::Met,
            (false, None) => Verdict::Missed,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::RatioAtMost(most) => format!("<= {most:.2} x"),
            Goal::RatioAtLeast(least) => format!(">= {least:.2} x"),
            Goal::AtMost(most) => format!("<= {}", self.unit.show(most)),
            Goal::Shown => "shown".to_owned(),
        }
    }

    fn verdict_text(&self) -> String {
        match self.verdict() {
            Verdict::Met => String::new(),
            Verdict::Missed => "**missed**".to_owned(),
            Verdict::NotMeasurable => format!(
                "not measurable: others took {:.0} %",
                self.noise.unwrap_or(0.0) * 100.0
            ),
            Verdict::Absent => "SKIPPED".to_owned(),
            Verdict::Failed => "**failed**".to_owned(),
        }
    }
}

/// The rows as a Markdown table.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| work | ours | limit | best peer | ratio | target | | remark |\n|---|---:|---|---|---:|---:|---|---|\n",
    );
    for row in rows {
        let show = |figure: f64| row.unit.show(figure);
        let limit = row.limit.as_ref().map_or(String::new(), |limit| {
            format!("{} ({})", show(limit.figure), limit.of)
        });
        let mut peers = row.peers.clone();
        peers.sort_by(|a, b| a.1.total_cmp(&b.1));
        if row.unit == Unit::PerCpuSecond {
            peers.reverse();
        }
        let peers: Vec<String> = peers
            .iter()
            .map(|(name, figure)| format!("{name} {}", show(*figure)))
            .collect();
        text += &format!(
            "| {} | {} | {limit} | {} | {} | {} | {} | {} |\n",
            row.work,
            row.ours.map_or(String::new(), show),
            peers.join(", "),
            row.ratio()
                .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            row.goal_text(),
            row.verdict_text(),
            row.note,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, limit: f64, goal: Goal) -> Row {
        Row::new("work", Unit::Nanoseconds, ours, goal).limit("bare", limit)
    }

    #[test]
    fn a_missed_target_is_marked_and_a_disturbed_one_is_not_judged() {
        assert_eq!(
            row(10.0, 5.0, Goal::RatioAtMost(2.0)).verdict(),
            Verdict::Met
        );
        assert_eq!(
            row(11.0, 5.0, Goal::RatioAtMost(2.0)).verdict(),
            Verdict::Missed
        );
        assert_eq!(
            row(9.0, 10.0, Goal::RatioAtLeast(0.95)).verdict(),
            Verdict::Missed
        );
        let disturbed = row(11.0, 5.0, Goal::RatioAtMost(2.0)).noise(Some(0.2));
        assert_eq!(disturbed.verdict(), Verdict::NotMeasurable);
        assert_eq!(
            Row::new("faults", Unit::Count, 1.0, Goal::AtMost(0.0)).verdict(),
            Verdict::Missed
        );
        let text = render(&[row(11.0, 5.0, Goal::RatioAtMost(2.0))]);
        assert!(
            text.contains("| work | 11 ns | 5 ns (bare) |  | 2.20 | <= 2.00 x | **missed** |"),
            "{text}"
        );
    }

    #[test]
    fn a_row_without_a_figure_says_why() {
        let text = render(&[Row::absent("store", "not in this build")]);
        assert!(
            text.contains("SKIPPED") && text.contains("not in this build"),
            "{text}"
        );
        assert_eq!(Row::failed("store", "broken").verdict(), Verdict::Failed);
    }
}
