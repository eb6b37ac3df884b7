//! How a figure is taken: medians of quiet runs.
//!
//! A *run* measures ours and the limit one after the other, so that whatever the machine does meanwhile hits both. Runs
//! during which threads of the processes concerned waited for a processor, or the hypervisor took one away, for more
//! than [`NOISE_LIMIT`] of the time are repeated, at most [`REPEATS`] times; after that the noisiest kept runs count and
//! the row says that it is not measurable.
//!
//! Inside a run, work that never sleeps is timed in short chunks, whose median a neighbour's time slice does not move.

use crate::machine;
use std::time::Instant;

/// Runs of a figure.
pub const RUNS: usize = 5;
/// Runs that may be repeated because they were disturbed.
const REPEATS: usize = 5;
/// Share of a run that may be lost to others.
pub const NOISE_LIMIT: f64 = 0.05;

/// The values of a figure's runs.
pub struct Runs<T> {
    /// One for each run that counts, at least [`RUNS`].
    pub values: Vec<T>,
    /// Share of the time that others took, when too few runs were quiet.
    pub noise: Option<f64>,
}

impl<T> Runs<T> {
    /// The median of what `part` takes from each run.
    pub fn median(&self, part: impl Fn(&T) -> f64) -> f64 {
        median_of(self.values.iter().map(part).collect())
    }
}

/// How the noise of a run is told.
#[derive(Debug, Clone, Copy)]
enum Account {
    /// By what threads of our processes waited for a processor.
    Waiting,
    /// By what the processors did for others than our processes.
    Others,
}

/// Calls `run` once to warm up and then until [`RUNS`] runs were quiet or the repeats are used up. The run-queue wait of
/// this process and of `others` counts.
pub fn runs<T>(others: &[u32], run: impl FnMut() -> Result<T, String>) -> Result<Runs<T>, String> {
    accounted(Account::Waiting, others, run)
}

/// The same for work in which this process and `ours` have more to do at once than there are processors, so that they wait
/// for each other: what counts is what the processors did for anybody else. Children that ended meanwhile are ours, too.
pub fn crowded_runs<T>(
    ours: &[u32],
    run: impl FnMut() -> Result<T, String>,
) -> Result<Runs<T>, String> {
    accounted(Account::Others, ours, run)
}

fn accounted<T>(
    account: Account,
    pids: &[u32],
    mut run: impl FnMut() -> Result<T, String>,
) -> Result<Runs<T>, String> {
    run()?;
    let mut quiet = Vec::new();
    let mut noisy = Vec::new();
    while quiet.len() < RUNS && quiet.len() + noisy.len() < RUNS + REPEATS {
        let (value, noise) = watched(account, pids, &mut run)?;
        if noise <= NOISE_LIMIT {
            quiet.push(value);
        } else {
            noisy.push((noise, value));
        }
    }
    let missing = RUNS.saturating_sub(quiet.len());
    if missing == 0 {
        return Ok(Runs {
            values: quiet,
            noise: None,
        });
    }
    noisy.sort_by(|a, b| a.0.total_cmp(&b.0));
    let noise = noisy.get(missing - 1).map(|(noise, _)| *noise);
    quiet.extend(noisy.into_iter().take(missing).map(|(_, value)| value));
    Ok(Runs {
        values: quiet,
        noise,
    })
}

/// One run, and the share of its time that others took.
fn watched<T>(
    account: Account,
    pids: &[u32],
    run: &mut impl FnMut() -> Result<T, String>,
) -> Result<(T, f64), String> {
    let own = std::process::id();
    let lost = || match account {
        Account::Waiting => std::iter::once(&own)
            .chain(pids)
            .map(|pid| machine::run_queue_wait_ns(*pid) as f64)
            .sum::<f64>(),
        Account::Others => {
            let ours: u64 = std::iter::once(&own)
                .chain(pids)
                .filter_map(|pid| machine::cpu_ns(*pid).ok())
                .sum::<u64>()
                + machine::ended_children_cpu_ns();
            (machine::busy_ns() as f64 - ours as f64) / machine::cpu_count() as f64
        }
    };
    let (begin, before, stolen) = (Instant::now(), lost(), machine::steal_ns());
    let value = run()?;
    let elapsed = begin.elapsed().as_nanos() as f64;
    // A thread that ended takes its account along.
    let lost = (lost() - before).max(0.0);
    let steal = machine::steal_ns().saturating_sub(stolen) as f64 / machine::cpu_count() as f64;
    Ok((value, (lost / elapsed).max(steal / elapsed)))
}

/// Nanoseconds of one `call`, typical of `calls` of them: the median over chunks of `chunk` calls each.
pub fn typical_ns(
    calls: usize,
    chunk: usize,
    mut call: impl FnMut(usize) -> Result<(), String>,
) -> Result<f64, String> {
    let chunk = chunk.clamp(1, calls);
    let mut figures = Vec::with_capacity(calls / chunk);
    for first in (0..calls - chunk + 1).step_by(chunk) {
        let begin = Instant::now();
        for at in first..first + chunk {
            call(at)?;
        }
        figures.push(begin.elapsed().as_nanos() as f64 / chunk as f64);
    }
    Ok(median_of(figures))
}

/// The median of figures, of which there is at least one.
pub fn median_of(figures: Vec<f64>) -> f64 {
    percentile_of(figures, 0.5)
}

/// The figure below which `share` of the figures lie.
pub fn percentile_of(mut figures: Vec<f64>, share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len() as f64 * share) as usize;
    figures[at.min(figures.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_figure_that_was_measured() {
        let figures: Vec<f64> = (0..1000).rev().map(f64::from).collect();
        assert_eq!(median_of(figures.clone()), 500.0);
        assert_eq!(percentile_of(figures.clone(), 0.999), 999.0);
        assert_eq!(percentile_of(figures, 1.0), 999.0);
        assert_eq!(median_of(vec![7.0]), 7.0);
    }

    #[test]
    fn a_figure_has_five_runs_after_one_that_warms_up_and_at_most_ten() {
        let mut calls = 0;
        let runs = runs(&[], || {
            calls += 1;
            Ok(f64::from(calls))
        })
        .expect("nothing fails");
        assert_eq!(runs.values.len(), RUNS);
        assert!((6..=11).contains(&calls), "{calls} calls");
        assert!(runs.values.iter().all(|value| *value > 1.0));
    }

    #[test]
    fn every_call_is_made_once_in_order() {
        let mut seen = Vec::new();
        let ns = typical_ns(10, 4, |at| {
            seen.push(at);
            Ok(())
        })
        .expect("nothing fails");
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        assert!(ns > 0.0);
    }
}
