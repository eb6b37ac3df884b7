//! The rows: what an engine does, what it costs at least, and what it costs with peers.
//!
//! One file for each kind of work. A group of rows starts its own daemons, adds its rows and curves to the report, and
//! fails by itself: the others go on.

mod async_commits;
pub mod bytes;
pub mod churn;
pub mod engine;
pub mod evict;
pub mod hit_rate;
pub mod integrity;
pub mod loops;
pub mod memory;
pub mod observed;
pub mod parallel;
pub mod reads;
pub mod sessions;
pub mod start;
mod stores;
pub mod tiers;

use crate::report::Report;
use crate::table::Row;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Also what takes minutes: 10^7 keys, the engine.
    pub is_full: bool,
    /// Only groups whose name contains this.
    pub only: String,
}

type Group = fn(&Plan, &mut Report) -> Result<(), String>;

/// All groups, in the order of the table.
const GROUPS: [(&str, Group); 15] = [
    ("limits", bytes::limits),
    ("reads", reads::rows),
    ("bytes", bytes::rows),
    ("parallel", parallel::rows),
    ("loop", loops::rows),
    ("evict", evict::rows),
    ("churn", churn::rows),
    ("hit-rate", hit_rate::rows),
    ("start", start::rows),
    ("memory", memory::rows),
    ("sessions", sessions::rows),
    ("integrity", integrity::rows),
    ("observed", observed::rows),
    ("tiers", tiers::rows),
    ("engine", engine::rows),
];

/// Measures all groups that the plan names.
pub fn run(plan: &Plan, report: &mut Report) -> Result<(), String> {
    if !GROUPS.iter().any(|(name, _)| name.contains(&plan.only)) {
        let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "no group's name contains '{}'; they are {}",
            plan.only,
            names.join(", ")
        ));
    }
    for (name, group) in GROUPS {
        if !name.contains(&plan.only) {
            continue;
        }
        let begin = std::time::Instant::now();
        if let Err(message) = group(plan, report) {
            report.row(Row::failed(format!("group {name}"), message));
        }
        // Whatever a group bound to a processor goes where it likes again.
        crate::machine::bind(0, None)?;
        eprintln!(
            "hostkv-bench: {name} took {:.0} s",
            begin.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
