//! What the replies to an operator's questions hold: LIST, STATE and RELOAD answer with JSON of these types.
//!
//! The daemon writes them, the Rust client reads them for the tool, and `hostkv … --json` shows them as they are: a
//! field keeps its name and its meaning, and new ones may come. Numbers are whole and in the unit of their name. No
//! type here has a place for a cache salt: a keyspace's number tells tenants apart.

use serde::{Deserialize, Serialize};

/// Some of the objects that there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPage {
    /// In no order that means anything.
    pub objects: Vec<ListedObject>,
    /// Where the next page begins; `None` = this was the last one.
    pub next_cursor: Option<u64>,
}

/// One readable object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedObject {
    /// Name of its model.
    pub model_name: String,
    /// Rank of the worker whose part of the chunk it is.
    pub kv_rank: u32,
    /// Number of the object group.
    pub object_group_id: u32,
    /// The chunk hash, hexadecimal.
    pub chunk_hash: String,
    /// Number of its keyspace, which tells tenants of one model apart.
    pub keyspace: u32,
    /// Whether the keyspace has a cache salt.
    pub is_salted: bool,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Seconds since its commit.
    pub age_seconds: u64,
    /// Whether the last look at the pins, at most about a second ago, found one on it.
    pub is_pinned: bool,
}

/// Some of the daemon's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatePage {
    /// The daemon itself; on the first page only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub daemon: Option<DaemonState>,
    /// Sessions by number.
    pub sessions: Vec<SessionState>,
    /// Where the next page begins; `None` = this was the last one.
    pub next_cursor: Option<u64>,
}

/// The daemon and its pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonState {
    /// Version of the daemon.
    pub version: String,
    /// Version of the socket protocol.
    pub protocol_version: u32,
    /// This start of the daemon, 32 hexadecimal digits.
    pub instance_id: String,
    /// Its process, as it knows itself.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Seconds since it began to serve.
    pub uptime_seconds: u64,
    /// Its CLOCK_MONOTONIC in nanoseconds, to find a shifted time namespace.
    pub monotonic_ns: u64,
    /// Path of its socket.
    pub socket: String,
    /// Where `/metrics` is served, as `host:port`; `None` = disabled.
    pub metrics_address: Option<String>,
    /// What the payload is made of, in words.
    pub page_kind: String,
    /// Descriptors that it may have open.
    pub descriptor_limit: u64,
    /// Descriptors that `max_sessions` sessions and all else take.
    pub descriptors_wanted: u64,
    /// What is in use.
    pub usage: PoolUsage,
    /// What has been counted since the start.
    pub counters: PoolCounters,
    /// What holds now.
    pub limits: PoolLimits,
    /// The tiers behind L1, in the order in which they are asked; empty = none, or a daemon that does not tell.
    #[serde(default)]
    pub tiers: Vec<TierState>,
    /// The configuration, in the order of `--help`.
    pub settings: Vec<SettingState>,
}

/// What is in use now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolUsage {
    /// Length of the payload.
    pub capacity_bytes: u64,
    /// Payload bytes that are not free.
    pub used_bytes: u64,
    /// Bytes of distinct pinned objects, at most about a second old.
    pub pinned_bytes: u64,
    /// Bytes reserved and not committed yet.
    pub reserved_bytes: u64,
    /// Bytes of expired reservations whose writer may still write.
    pub quarantined_bytes: u64,
    /// Bytes held by live processes whose socket is gone.
    pub orphaned_bytes: u64,
    /// Payload bytes on huge pages.
    pub huge_page_bytes: u64,
    /// The largest free extent.
    pub largest_free_extent_bytes: u64,
    /// Share of the payload in use at which eviction starts.
    pub watermark_ratio: f64,
    /// Readable objects.
    pub object_count: u64,
    /// Entries of the index.
    pub index_entries: u64,
    /// Entries of the index that are not free.
    pub index_entries_used: u64,
    /// Open sessions, orphans included.
    pub session_count: u64,
    /// Keyspaces.
    pub keyspace_count: u64,
    /// Age of the oldest pin.
    pub oldest_pin_ms: u64,
    /// Whether new pins are refused.
    pub is_pin_gate_shut: bool,
}

/// What has been counted since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolCounters {
    /// Read requests.
    pub read_requests: u64,
    /// Keys of them that were found.
    pub read_succeed_keys: u64,
    /// The rest of their keys.
    pub read_failed_keys: u64,
    /// Reserve requests.
    pub write_requests: u64,
    /// Keys of them that got space.
    pub write_succeed_keys: u64,
    /// The rest of their keys.
    pub write_failed_keys: u64,
    /// Of the rest, those that were there already.
    pub write_exists_keys: u64,
    /// Keys whose lease was released.
    pub l1_read_keys: u64,
    /// Keys committed.
    pub l1_write_keys: u64,
    /// Keys evicted.
    pub l1_evicted_keys: u64,
    /// Bytes of evicted objects.
    pub evicted_bytes: u64,
    /// Passes of eviction.
    pub eviction_passes: u64,
    /// Passes that freed nothing because everything was pinned.
    pub eviction_passes_all_pinned: u64,
    /// Keys removed on request.
    pub removed_keys: u64,
    /// Keys cleared.
    pub cleared_keys: u64,
    /// Pins taken back from processes that died.
    pub reclaimed_pins: u64,
    /// Reserved entries taken back from processes that died.
    pub reclaimed_reservations: u64,
    /// Pins voided because a session held more than its quota.
    pub voided_pins: u64,
    /// Entries whose pins outlived the read time to live.
    pub expired_pins: u64,
    /// Frames refused because their form was wrong.
    pub rejected_frames: u64,
}

/// What holds for sessions and objects now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLimits {
    /// Unit of extents.
    pub align_bytes: u64,
    /// Largest object.
    pub max_object_bytes: u64,
    /// Most bytes that one session may pin.
    pub pin_quota_bytes: u64,
    /// Most bytes that one session may have reserved.
    pub reserve_quota_bytes: u64,
    /// Most sessions.
    pub max_sessions: u64,
}

/// One tier behind L1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierState {
    /// Its name, the label `l2_name` of the metrics.
    pub name: String,
    /// Its type, as `fs`.
    pub type_name: String,
    /// State of its breaker: `closed`, it works; `half_open`, that is being tried; `open`, nothing is asked of it.
    pub breaker: String,
    /// Bytes that it uses, as far as the daemon knows.
    pub used_bytes: u64,
    /// Bytes that it may use; `None` = not limited here.
    pub capacity_bytes: Option<u64>,
    /// Objects that it holds, as far as the daemon knows.
    pub object_count: u64,
    /// Objects that wait for it or that it is at work on.
    pub queued_keys: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// One setting of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingState {
    /// Its key in the configuration file.
    pub key: String,
    /// Its value as TOML; empty = none. Long ones are cut.
    pub value: String,
    /// Where the value comes from, in words.
    pub origin: String,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Its number.
    pub session_id: u64,
    /// Its process, as the daemon sees it; 0 where it can't.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The name that the client gave.
    pub name: String,
    /// Version of the client's library.
    pub library_version: String,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Whether it may write.
    pub can_write: bool,
    /// Whether it may do what is kept to admins.
    pub is_admin: bool,
    /// Its process lives but its socket is gone: it is not served, and what it holds stays.
    pub is_orphaned: bool,
    /// Pin slots that it has.
    pub pin_slot_count: u64,
    /// Pins that the last look found, at most about a second ago.
    pub pin_count: u64,
    /// Bytes of those pins, counted once for each pin.
    pub pinned_bytes: u64,
    /// Bytes that it has reserved, quarantined ones included.
    pub reserved_bytes: u64,
    /// Reservations that it has open.
    pub reservation_count: u64,
    /// Keyspaces that it has open.
    pub keyspace_count: u64,
    /// Read requests since it was opened.
    pub read_requests: u64,
    /// Keys of them that were found.
    pub read_succeed_keys: u64,
    /// The rest of their keys.
    pub read_failed_keys: u64,
    /// Keys that it committed.
    pub write_keys: u64,
}

/// What a new look at the configuration changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One sentence for each setting that changed; it holds for sessions opened from now on.
    pub changed: Vec<String>,
    /// One sentence for each setting that differs and needs a restart.
    pub kept: Vec<String>,
}
