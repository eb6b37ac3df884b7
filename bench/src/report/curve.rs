//! How a cost grows: points of a few series, and a sentence about where it bends and why.
//!
//! The bend is the step of the first series with the largest growth against the series' own trend; the reason is the first
//! capacity of the machine that what is touched outgrows in that step. Capacities are read from the machine, and where the
//! processor's counters can be had, misses are counted at both ends of the step.

use crate::machine;
use crate::table::Unit;

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// x, y; x grows.
    pub points: Vec<(f64, f64)>,
}

/// A plot and its table.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Name of the plot's file, without ending.
    pub file: &'static str,
    /// Heading.
    pub title: String,
    /// What grows along x.
    pub x_label: &'static str,
    /// How x is shown.
    pub x_unit: Unit,
    /// What is measured.
    pub y_label: &'static str,
    /// How y is shown.
    pub y_unit: Unit,
    /// The lines.
    pub series: Vec<Series>,
    /// Where it bends and why.
    pub remark: String,
}

impl Curve {
    /// Heading, plot, remark and table.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "\n## {}\n\n![{}]({}.svg)\n\n{}\n\n| {} |",
            self.title, self.title, self.file, self.remark, self.x_label
        );
        for series in &self.series {
            text += &format!(" {} |", series.name);
        }
        text += &format!("\n|---:|{}\n", "---:|".repeat(self.series.len()));
        for x in self.xs() {
            text += &format!("| {} |", self.x_unit.show(x));
            for series in &self.series {
                let y = series.points.iter().find(|point| point.0 == x);
                text += &y.map_or(" |".to_owned(), |point| {
                    format!(" {} |", self.y_unit.show(point.1))
                });
            }
            text += "\n";
        }
        text
    }

    /// All x of all series, in order.
    pub fn xs(&self) -> Vec<f64> {
        let mut xs: Vec<f64> = self
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.0))
            .collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        xs
    }
}

/// A capacity that what is touched may outgrow.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// What it is.
    pub name: String,
    /// How much it holds.
    pub bytes: u64,
}

/// The capacities of this machine, smallest first; `page_bytes` is the size of the pages touched.
pub fn capacities(page_bytes: u64) -> Vec<Capacity> {
    let named = |name: String, bytes: u64| Capacity { name, bytes };
    let mut known = vec![
        named("the L2 cache".to_owned(), machine::cache_bytes(2)),
        named("the L3 cache".to_owned(), machine::cache_bytes(3)),
        named(
            format!(
                "the reach of the second-level TLB on {} KiB pages",
                page_bytes >> 10
            ),
            machine::tlb_entries(page_bytes) * page_bytes,
        ),
    ];
    known.retain(|capacity| capacity.bytes > 0);
    known.sort_by_key(|capacity| capacity.bytes);
    known
}

/// The step of a rising cost with the largest growth, as indices of its two points; none when nothing grows by a quarter.
pub fn steepest_step(points: &[(f64, f64)]) -> Option<usize> {
    let growth = |at: usize| points[at + 1].1 / points[at].1;
    (0..points.len().saturating_sub(1))
        .max_by(|a, b| growth(*a).total_cmp(&growth(*b)))
        .filter(|at| growth(*at) >= 1.25)
}

/// A sentence about the steepest step of a cost, `touched_bytes` being what one round of the work at `x` touches.
pub fn explain(
    points: &[(f64, f64)],
    x_unit: Unit,
    touched_bytes: impl Fn(f64) -> f64,
    capacities: &[Capacity],
) -> String {
    let Some(at) = steepest_step(points) else {
        return "It does not bend: no step grows by a quarter.".to_owned();
    };
    let ((from, before), (to, after)) = (points[at], points[at + 1]);
    let (small, large) = (touched_bytes(from), touched_bytes(to));
    let passed: Vec<String> = capacities
        .iter()
        .filter(|capacity| small <= capacity.bytes as f64 && (capacity.bytes as f64) < large)
        .map(|capacity| {
            format!(
                "{} ({})",
                capacity.name,
                Unit::Bytes.show(capacity.bytes as f64)
            )
        })
        .collect();
    let why = if passed.is_empty() {
        "which passes none of the sizes that this machine tells".to_owned()
    } else {
        format!("which passes {}", passed.join(" and "))
    };
    format!(
        "It bends between {} and {} ({:.1} times dearer): what is touched grows from {} to {}, {why}.",
        x_unit.show(from),
        x_unit.show(to),
        after / before,
        Unit::Bytes.show(small),
        Unit::Bytes.show(large),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn l2() -> Vec<Capacity> {
        vec![Capacity {
            name: "the L2 cache".to_owned(),
            bytes: 1 << 20,
        }]
    }

    #[test]
    fn a_bend_is_where_the_cost_grows_most_and_its_reason_is_what_is_outgrown_there() {
        let points = [(1e4, 100.0), (1e5, 110.0), (1e6, 300.0), (1e7, 330.0)];
        let text = explain(&points, Unit::Count, |keys| keys * 10.0, &l2());
        assert!(text.contains("between 100 k and 1 M (2.7 times"), "{text}");
        assert!(text.contains("passes the L2 cache (1 MiB)"), "{text}");
        let text = explain(&points, Unit::Count, |keys| keys * 1000.0, &l2());
        assert!(text.contains("passes none"), "{text}");
    }

    #[test]
    fn a_flat_cost_does_not_bend() {
        let points = [(1.0, 100.0), (2.0, 105.0), (4.0, 99.0)];
        assert!(explain(&points, Unit::Count, |x| x, &l2()).contains("does not bend"));
    }
}
