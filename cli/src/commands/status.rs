//! `hostkv status`: the daemon, its pool and, to an admin, its sessions.

use std::time::Duration;

use hostkv::Status;
use hostkv::admin::{DaemonState, SessionState, TierState};
use hostkv::session::{Session, SessionInfo};
use hostkv_shm_protocol::wire::reply::Figures;
use serde::Serialize;

use crate::args::{Common, StatusArguments};
use crate::connect::{self, rights};
use crate::failure::Failure;
use crate::output::{Output, Tone, human_bytes, human_seconds, percent, shown};

/// Between two looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What `--json` shows. `daemon` and `sessions` are for admins.
#[derive(Serialize)]
struct Report {
    version: String,
    instance_id: String,
    is_admin: bool,
    figures: FiguresReport,
    daemon: Option<DaemonState>,
    sessions: Option<Vec<SessionState>>,
}

/// The figures that every session may see.
#[derive(Serialize)]
struct FiguresReport {
    capacity_bytes: u64,
    used_bytes: u64,
    pinned_bytes: u64,
    reserved_bytes: u64,
    object_count: u64,
    session_count: u64,
    read_requests: u64,
    read_succeed_keys: u64,
    read_failed_keys: u64,
    write_requests: u64,
    write_succeed_keys: u64,
    write_failed_keys: u64,
    l1_read_keys: u64,
    l1_write_keys: u64,
    l1_evicted_keys: u64,
}

impl From<Figures> for FiguresReport {
    fn from(figures: Figures) -> FiguresReport {
        FiguresReport {
            capacity_bytes: figures.capacity_bytes,
            used_bytes: figures.used_bytes,
            pinned_bytes: figures.pinned_bytes,
            reserved_bytes: figures.reserved_bytes,
            object_count: figures.object_count,
            session_count: figures.session_count,
            read_requests: figures.sm_read_requests,
            read_succeed_keys: figures.sm_read_succeed_keys,
            read_failed_keys: figures.sm_read_failed_keys,
            write_requests: figures.sm_write_requests,
            write_succeed_keys: figures.sm_write_succeed_keys,
            write_failed_keys: figures.sm_write_failed_keys,
            l1_read_keys: figures.l1_read_keys,
            l1_write_keys: figures.l1_write_keys,
            l1_evicted_keys: figures.l1_evicted_keys,
        }
    }
}

/// Shows the state, once or every second.
pub fn run(
    common: &Common,
    arguments: &StatusArguments,
    output: &mut Output,
) -> Result<(), Failure> {
    let session = connect::reader(common, "status")?;
    let info = session.info()?;
    loop {
        let report = report(&session, &info)?;
        let clears = arguments.watch && output.is_terminal() && !common.json;
        if clears {
            output.bytes(b"\x1b[H\x1b[2J")?;
        }
        match common.json {
            true => output.json(&report)?,
            false => show(&report, output)?,
        }
        if arguments.watch && !clears && !common.json {
            output.line("")?;
        }
        output.flush()?;
        if !arguments.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn report(session: &Session, info: &SessionInfo) -> Result<Report, Failure> {
    let (daemon, sessions) = match session.state() {
        Ok((daemon, sessions)) => (Some(daemon), Some(sessions)),
        Err(error) if error.status == Status::Permission => (None, None),
        Err(error) => return Err(error.into()),
    };
    Ok(Report {
        version: info.server_version.clone(),
        instance_id: info
            .instance_id
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
        is_admin: daemon.is_some(),
        figures: session.figures()?.into(),
        daemon,
        sessions,
    })
}

fn show(report: &Report, output: &mut Output) -> Result<(), Failure> {
    let mut pairs = vec![("daemon", format!("hostkvd {}", report.version))];
    if let Some(daemon) = &report.daemon {
        pairs[0].1.push_str(&format!(
            ", pid {}, uid {}, up {}",
            daemon.pid,
            daemon.uid,
            human_seconds(daemon.uptime_seconds)
        ));
        pairs.push(("socket", shown(&daemon.socket)));
        let metrics = daemon.metrics_address.as_ref();
        pairs.push((
            "metrics",
            metrics.map_or("off".to_owned(), |at| format!("http://{at}/metrics")),
        ));
    }
    pairs.push(("instance", report.instance_id.clone()));
    let figures = &report.figures;
    let of_pool = |bytes| {
        format!(
            "{} ({})",
            human_bytes(bytes),
            percent(bytes, figures.capacity_bytes)
        )
    };
    let mut used = format!(
        "{} of {} ({})",
        human_bytes(figures.used_bytes),
        human_bytes(figures.capacity_bytes),
        percent(figures.used_bytes, figures.capacity_bytes)
    );
    if let Some(daemon) = &report.daemon {
        let usage = &daemon.usage;
        used.push_str(&format!(
            ", eviction from {:.0} %",
            usage.watermark_ratio * 100.0
        ));
        pairs.push(("used", used));
        pairs.push(("memory", daemon.page_kind.clone()));
        pairs.push((
            "index",
            format!(
                "{} of {} entries",
                usage.index_entries_used, usage.index_entries
            ),
        ));
    } else {
        pairs.push(("used", used));
    }
    pairs.push(("pinned", of_pool(figures.pinned_bytes)));
    pairs.push(("reserved", of_pool(figures.reserved_bytes)));
    if let Some(daemon) = &report.daemon {
        let usage = &daemon.usage;
        for (name, bytes) in [
            ("quarantined", usage.quarantined_bytes),
            ("orphaned", usage.orphaned_bytes),
        ] {
            if bytes > 0 {
                pairs.push((name, of_pool(bytes)));
            }
        }
        if usage.is_pin_gate_shut {
            let text =
                "shut: more than 80 % of the pool is pinned; release leases or raise --l1-size-gb";
            pairs.push(("pin gate", output.toned(Tone::Bad, text)));
        }
    }
    pairs.push(("objects", figures.object_count.to_string()));
    let asked = figures.read_succeed_keys + figures.read_failed_keys;
    pairs.push((
        "reads",
        format!(
            "{} requests, {} of {asked} keys found ({})",
            figures.read_requests,
            figures.read_succeed_keys,
            percent(figures.read_succeed_keys, asked)
        ),
    ));
    pairs.push((
        "writes",
        format!(
            "{} requests, {} keys stored, {} not granted, {} evicted",
            figures.write_requests,
            figures.l1_write_keys,
            figures.write_failed_keys,
            figures.l1_evicted_keys
        ),
    ));
    pairs.push(("sessions", figures.session_count.to_string()));
    output.pairs(&pairs)?;
    output.line("")?;
    let tiers = report
        .daemon
        .as_ref()
        .map_or(&[][..], |daemon| &daemon.tiers);
    if !tiers.is_empty() {
        output.table(&TIER_HEADINGS, &tier_rows(tiers))?;
        output.line("")?;
    }
    match &report.sessions {
        Some(sessions) => output.table(&SESSION_HEADINGS, &session_rows(sessions)),
        None => output.line(
            "The daemon shows its sessions to admins only: its own user, root, and whom --admin-uid names.",
        ),
    }
}

/// Columns of [`tier_rows`].
const TIER_HEADINGS: [&str; 6] = ["TIER", "TYPE", "BREAKER", "USED", "OBJECTS", "QUEUED"];

/// Tiers as rows of a table.
fn tier_rows(tiers: &[TierState]) -> Vec<Vec<String>> {
    tiers
        .iter()
        .map(|tier| {
            let used = human_bytes(tier.used_bytes);
            vec![
                shown(&tier.name),
                shown(&tier.type_name),
                shown(&tier.breaker),
                match tier.capacity_bytes {
                    Some(capacity) => format!("{used} of {}", human_bytes(capacity)),
                    None => used,
                },
                tier.object_count.to_string(),
                format!("{} ({})", tier.queued_keys, human_bytes(tier.queued_bytes)),
            ]
        })
        .collect()
}

/// Columns of [`session_rows`].
pub const SESSION_HEADINGS: [&str; 9] = [
    "SESSION", "PID", "UID", "NAME", "AGE", "PINS", "PINNED", "RESERVED", "RIGHTS",
];

/// Sessions as rows of a table.
pub fn session_rows(sessions: &[SessionState]) -> Vec<Vec<String>> {
    sessions
        .iter()
        .map(|session| {
            vec![
                session.session_id.to_string(),
                session.pid.to_string(),
                session.uid.to_string(),
                match session.name.as_str() {
                    "" => "-".to_owned(),
                    name => shown(name),
                },
                human_seconds(session.age_seconds),
                session.pin_count.to_string(),
                human_bytes(session.pinned_bytes),
                human_bytes(session.reserved_bytes),
                rights(session),
            ]
        })
        .collect()
}
