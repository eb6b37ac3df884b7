//! STATE: what the daemon knows of itself and of its sessions, for operators.
//!
//! The loop calls [`page`] on its own thread, because only it has all sessions and the configuration. A page has at most
//! [`SESSIONS_A_PAGE`] sessions, so that it neither holds the loop up nor outgrows a frame; no salt is in it.

use serde::Serialize;

use nix::sys::resource::{Resource, getrlimit};

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::version::{PACKAGE_VERSION, PROTOCOL_VERSION};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::report::{
    DaemonState, PoolCounters, PoolLimits, PoolUsage, Reloaded, SettingState, StatePage, TierState,
};

use super::session::Client;
use super::shared::Shared;
use super::{SECOND_NS, snapshots};
use crate::config::Config;
use crate::store::{Nanos, NumberMap};
use crate::tiers::TierFigures;

/// Sessions of one page: with names of 64 control characters they are half of a page, settings the other half.
const SESSIONS_A_PAGE: usize = 32;
/// A value or an origin of a setting that is longer is cut.
const TEXT_BYTES: usize = 256;

/// What is known of the start, and does not change.
#[derive(Debug, Clone)]
pub struct StartFacts {
    /// When the loop began.
    pub started_at: Nanos,
    /// What the payload is made of, in words.
    pub page_kind: String,
    /// Where `/metrics` is served; none when it is disabled.
    pub metrics_address: Option<String>,
    /// Descriptors that the most sessions and all else take.
    pub descriptors_wanted: u64,
}

/// The reply to STATE: the sessions after number `cursor`, with the daemon itself when that is 0.
pub fn page<'a>(
    shared: &mut Shared,
    config: &Config,
    start: &StartFacts,
    client_of: impl Fn(u64) -> Option<&'a Client>,
    cursor: u64,
    now: Nanos,
) -> Reply {
    shared.store.fold();
    let ids = next_sessions(&shared.clients, cursor);
    let is_last = ids.len() < SESSIONS_A_PAGE;
    let state_of = |id: &SessionId| client_of(*shared.clients.get(id)?)?.state(&shared.store, now);
    let page = StatePage {
        sessions: ids.iter().filter_map(state_of).collect(),
        next_cursor: ids.last().filter(|_| !is_last).map(|id| id.0),
        daemon: (cursor == 0).then(|| daemon(shared, config, start, now)),
    };
    json_reply(&page, Reply::State)
}

/// The lowest numbers above `cursor`, in order.
fn next_sessions(clients: &NumberMap<SessionId, u64>, cursor: u64) -> Vec<SessionId> {
    let mut ids: Vec<SessionId> = clients.keys().filter(|id| id.0 > cursor).copied().collect();
    if ids.len() > SESSIONS_A_PAGE {
        ids.select_nth_unstable_by_key(SESSIONS_A_PAGE, |id| id.0);
        ids.truncate(SESSIONS_A_PAGE);
    }
    ids.sort_unstable_by_key(|id| id.0);
    ids
}

fn daemon(shared: &mut Shared, config: &Config, start: &StartFacts, now: Nanos) -> DaemonState {
    let snapshot = snapshots::snapshot(shared);
    let instance_id = shared.facts.instance_id.0.iter();
    DaemonState {
        version: PACKAGE_VERSION.to_owned(),
        protocol_version: PROTOCOL_VERSION,
        instance_id: instance_id.map(|byte| format!("{byte:02x}")).collect(),
        pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        uptime_seconds: now.saturating_sub(start.started_at) / SECOND_NS,
        monotonic_ns: now,
        socket: config.socket.display().to_string(),
        metrics_address: start.metrics_address.clone(),
        page_kind: start.page_kind.clone(),
        descriptor_limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        descriptors_wanted: start.descriptors_wanted,
        usage: PoolUsage {
            capacity_bytes: snapshot.l1_capacity_bytes,
            used_bytes: snapshot.l1_used_bytes,
            pinned_bytes: snapshot.l1_pinned_bytes,
            reserved_bytes: snapshot.l1_reserved_bytes,
            quarantined_bytes: snapshot.l1_quarantined_bytes,
            orphaned_bytes: snapshot.orphaned_bytes,
            huge_page_bytes: snapshot.huge_page_bytes,
            largest_free_extent_bytes: snapshot.largest_free_extent_bytes,
            watermark_ratio: snapshot.eviction_watermark_ratio,
            object_count: snapshot.l1_objects,
            index_entries: snapshot.index_entries,
            index_entries_used: snapshot.index_entries_used,
            session_count: snapshot.sessions,
            keyspace_count: snapshot.keyspaces,
            oldest_pin_ms: (snapshot.oldest_pin_seconds * 1e3) as u64,
            is_pin_gate_shut: snapshot.is_pin_gate_shut,
        },
        counters: PoolCounters {
            read_requests: snapshot.read_requests,
            read_succeed_keys: snapshot.read_succeed_keys,
            read_failed_keys: snapshot.read_failed_keys,
            write_requests: snapshot.write_requests,
            write_succeed_keys: snapshot.write_succeed_keys,
            write_failed_keys: snapshot.write_failed_keys,
            write_exists_keys: snapshot.write_failures.exists,
            l1_read_keys: snapshot.l1_read_keys,
            l1_write_keys: snapshot.l1_write_keys,
            l1_evicted_keys: snapshot.l1_evicted_keys,
            evicted_bytes: snapshot.evicted_bytes,
            eviction_passes: snapshot.eviction_passes,
            eviction_passes_all_pinned: snapshot.eviction_passes_all_pinned,
            removed_keys: snapshot.removed_keys,
            cleared_keys: snapshot.cleared_keys,
            reclaimed_pins: snapshot.reclaimed_pins,
            reclaimed_reservations: snapshot.reclaimed_reservations,
            voided_pins: snapshot.voided_pins,
            expired_pins: snapshot.expired_pins,
            rejected_frames: snapshot.rejected_frames,
        },
        limits: PoolLimits {
            align_bytes: shared.facts.align_bytes,
            max_object_bytes: shared.store.max_object_bytes(),
            pin_quota_bytes: shared.store.pin_quota_bytes(),
            reserve_quota_bytes: shared.store.reserve_quota_bytes(),
            max_sessions: u64::from(shared.limits.max_sessions),
        },
        tiers: snapshot.tiers.into_iter().map(tier).collect(),
        settings: config
            .settings()
            .map(|(key, value, origin)| SettingState {
                key,
                value: cut(value),
                origin: cut(origin),
            })
            .collect(),
    }
}

fn tier(figures: TierFigures) -> TierState {
    TierState {
        name: cut(figures.name),
        type_name: figures.type_name.to_owned(),
        breaker: figures.breaker.label().to_owned(),
        used_bytes: figures.used_bytes,
        capacity_bytes: figures.capacity_bytes,
        object_count: figures.objects,
        queued_keys: figures.queued_keys,
        queued_bytes: figures.queued_bytes,
    }
}

/// The reply to RELOAD. A value that is longer than a page has room for is cut in its sentence, not in the log.
pub fn reloaded(changed: Vec<String>, kept: Vec<String>) -> Reply {
    let cut_all = |sentences: Vec<String>| sentences.into_iter().map(cut).collect();
    let reloaded = Reloaded {
        changed: cut_all(changed),
        kept: cut_all(kept),
    };
    json_reply(&reloaded, Reply::Reloaded)
}

fn json_reply(page: &impl Serialize, reply: fn(String) -> Reply) -> Reply {
    match serde_json::to_string(page) {
        Ok(json) => reply(json),
        Err(error) => Reply::Error {
            status: Status::Internal,
            text: format!(
                "the page can't be written as JSON: {error}; report this defect of hostkvd"
            ),
        },
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES {
        text.truncate(text.floor_char_boundary(TEXT_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_sessions_follow_each_other_without_gap_and_end() {
        let clients: NumberMap<SessionId, u64> =
            (1..=100).map(|id| (SessionId(id * 3), id)).collect();
        let mut seen = Vec::new();
        let mut cursor = 0;
        loop {
            let page = next_sessions(&clients, cursor);
            seen.extend(page.iter().map(|id| id.0));
            match page.last() {
                Some(last) => cursor = last.0,
                None => break,
            }
        }
        assert_eq!(seen, (1..=100).map(|id| id * 3).collect::<Vec<u64>>());
        assert!(next_sessions(&clients, u64::MAX).is_empty());
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("ü".repeat(300));
        assert_eq!(long, "ü".repeat(128) + "…");
    }
}
