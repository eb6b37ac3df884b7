//! `hostkv ping`: how long a request to the daemon takes there and back.

use std::time::Duration;

use serde::Serialize;

use crate::args::{Common, PingArguments};
use crate::connect;
use crate::failure::Failure;
use crate::output::Output;

/// What was measured.
#[derive(Serialize)]
struct Pings {
    count: usize,
    min_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// Pings and tells how long it took.
pub fn run(common: &Common, arguments: &PingArguments, output: &mut Output) -> Result<(), Failure> {
    let session = connect::reader(common, "ping")?;
    let mut durations = Vec::with_capacity(arguments.count as usize);
    for _ in 0..arguments.count {
        durations.push(session.ping()?);
    }
    durations.sort_unstable();
    let pings = Pings {
        count: durations.len(),
        min_ns: nanos(durations[0]),
        p50_ns: quantile_ns(&durations, 0.5),
        p99_ns: quantile_ns(&durations, 0.99),
        max_ns: nanos(durations[durations.len() - 1]),
    };
    if common.json {
        return output.json(&pings);
    }
    let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
    output.line(&format!(
        "{} answers: fastest {}, half within {}, 99 % within {}, slowest {}",
        pings.count,
        us(pings.min_ns),
        us(pings.p50_ns),
        us(pings.p99_ns),
        us(pings.max_ns)
    ))
}

/// The duration within which this share of them lies; of none it is 0.
pub fn quantile_ns(sorted: &[Duration], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let at = rank.saturating_sub(1).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().map_or(0, nanos)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_durations() {
        let durations: Vec<Duration> = (1..=100).map(Duration::from_nanos).collect();
        assert_eq!(quantile_ns(&durations, 0.5), 50);
        assert_eq!(quantile_ns(&durations, 0.99), 99);
        assert_eq!(quantile_ns(&durations[..1], 0.99), 1);
        assert_eq!(quantile_ns(&[], 0.5), 0);
    }
}
