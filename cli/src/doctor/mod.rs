//! `hostkv doctor`: looks for what is wrong with the daemon and with this host, and says what to change.
//!
//! Every check is a function that gives one [`Finding`]: all is well, there is a problem with its remedy, or it could not
//! be looked at and why. None changes anything. While the daemon does not run, what it would be started with is asked of
//! the hostkvd program (`--print-config`, with the flags that are given behind `--`).
//!
//! ```text
//!   Scene: program (hostkvd on disk) --> daemon (socket, HELLO, STATE) --> settings
//!     |--> host:   kernel, features, pages, /dev/shm, limits, metrics port
//!     |--> reach:  socket, rights, versions, other instances, clock
//!     \--> pools:  who still maps the pool of an earlier daemon
//! ```

mod host;
mod pools;
mod program;
mod reach;
mod settings;

use serde::Serialize;

use crate::args::{Common, DoctorArguments};
use crate::failure::Failure;
use crate::output::{Output, Tone, shown};
use program::Program;
use reach::Daemon;
use settings::Settings;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Problem,
    NotChecked,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    outcome: Outcome,
    /// What was seen.
    text: String,
    /// What to change; of a problem only.
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            check,
            outcome: Outcome::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    fn problem(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            check,
            outcome: Outcome::Problem,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn not_checked(check: &'static str, why: impl Into<String>) -> Finding {
        Finding {
            check,
            outcome: Outcome::NotChecked,
            text: why.into(),
            remedy: None,
        }
    }
}

/// What the checks look at.
struct Scene<'a> {
    common: &'a Common,
    program: Result<Program, String>,
    daemon: Daemon,
    settings: Settings,
}

/// What `--json` shows.
#[derive(Serialize)]
struct Report {
    checks: Vec<Finding>,
    problem_count: usize,
}

/// Looks, and tells; true when there is a problem.
pub fn run(
    common: &Common,
    arguments: &DoctorArguments,
    output: &mut Output,
) -> Result<bool, Failure> {
    let program = program::find();
    let daemon = reach::look(common);
    let settings = settings::of(&daemon, program.as_ref().ok(), &arguments.daemon_flags);
    let scene = Scene {
        common,
        program,
        daemon,
        settings,
    };
    let checks = vec![
        host::kernel(),
        host::features(),
        reach::socket(&scene),
        reach::rights(&scene),
        reach::versions(&scene),
        reach::other_instances(&scene),
        settings::configuration(&scene),
        host::huge_pages(&scene),
        host::shm(&scene),
        host::descriptors(&scene),
        host::locked_memory(&scene),
        host::metrics_port(&scene),
        reach::clock(&scene),
        pools::old_pools(&scene),
    ];
    let problem_count = checks
        .iter()
        .filter(|c| c.outcome == Outcome::Problem)
        .count();
    if common.json {
        output.json(&Report {
            checks,
            problem_count,
        })?;
    } else {
        show(&checks, problem_count, output)?;
    }
    Ok(problem_count > 0)
}

fn show(checks: &[Finding], problem_count: usize, output: &mut Output) -> Result<(), Failure> {
    for finding in checks {
        let (mark, tone) = match finding.outcome {
            Outcome::Ok => ("ok", Tone::Good),
            Outcome::Problem => ("PROBLEM", Tone::Bad),
            Outcome::NotChecked => ("not checked", Tone::Plain),
        };
        let mark = output.toned(tone, &format!("{mark:11}"));
        output.line(&format!(
            "{mark}  {:16}  {}",
            finding.check,
            shown(&finding.text)
        ))?;
        if let Some(remedy) = &finding.remedy {
            let text = output.toned(Tone::Bold, &format!("-> {}", shown(remedy)));
            output.line(&format!("{:31}{text}", ""))?;
        }
    }
    output.line("")?;
    output.line(&match problem_count {
        0 => "no problem found".to_owned(),
        1 => "1 problem found".to_owned(),
        n => format!("{n} problems found"),
    })
}
