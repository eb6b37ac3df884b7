//! The cache as plain synchronous code: no sockets, no clock; time is an argument.
//!
//! The loop's thread owns the one [`Store`] and calls it from `request/` (one method for each request) and from the
//! loop itself ([`Store::slice`], [`Store::tick`], [`Store::fold`]). The store never calls up and never waits.
//!
//! ```text
//!   request/*  --> reserve ----> entries, allocator, index.link        (parked when it must evict)
//!              --> grant_extents, return_grants ----> entries, allocator
//!              --> commit  ----> index.publish, policy.insert      (parked when its bytes must be summed)
//!              --> commit_reserve: both, one behind the other
//!              --> remove  ----> index.unpublish ---> zombies ---scan---> freed, or kept while pinned
//!              --> prefetch ---> kept in L1            (parked when tiers must be asked)
//!   loop       --> drain_rings ----> commits of granted entries, flushes
//!              --> take_jobs, job_ended ----> what the workers do to payload bytes
//!              --> take_tier_work, tier_ended ----> what the tiers store and load
//!              --> slice   ----> scan, parked reserves, sweeps, eviction passes: bounded pieces of work
//!              --> tick    ----> recency, times to live, gauges, gate
//! ```
//!
//! Everything that leaves the index goes through one door: it is unpublished, becomes a zombie, and the next scan
//! either frees it or keeps it while a pin names it. The states are drawn in [`entries`].
//!
//! Modules, each using only those above it: `numbers`, [`stats`], [`ages`], `slice`, `links`, [`entries`], [`allocator`], [`eviction`],
//! [`watermark`], [`names`], [`ledger`], `glances`, `pins`, `parked`; then the methods of the store by theme: `sessions`,
//! `events`, `touches`, `jobs`, `guard`, [`l2`], `staging`, `reserve`, `commits`, `commit`, `pair`, `grants`, `rings`, `remove`, `scan`, `evict`, `room`, `figures`, `list`, `audit`.

pub mod ages;
pub mod allocator;
mod audit;
mod commit;
mod commits;
mod endings;
pub mod entries;
pub mod events;
mod evict;
pub mod eviction;
mod figures;
mod glances;
mod grants;
mod guard;
mod jobs;
pub mod l2;
pub mod ledger;
mod links;
mod list;
pub mod names;
mod numbers;
mod pair;
mod parked;
mod pins;
mod quota;
mod remove;
mod reserve;
mod resident;
mod rings;
mod room;
mod scan;
mod sessions;
mod slice;
mod staging;
pub mod stats;
mod touches;
pub mod watermark;

#[cfg(test)]
mod tests;

pub use figures::Gauges;
pub use grants::{GRANT_SHARES, GrantShares};
pub use ledger::LeaseParts;
pub use list::ListFilter;
pub use names::Resolved;
pub use numbers::NumberMap;
pub use parked::{Outcome, Pair, Resumed, ResumedAnswer, Ticket};
pub use sessions::{SessionEnd, SessionFigures};
pub use slice::SLICE_NS;
pub use stats::Stats;

use crate::config::{EvictionPolicy, Integrity};
use ages::Ages;
use allocator::Allocator;
use commit::StoredLine;
use commits::Commits;
use endings::Ending;
use entries::{EntryState, EntryTable};
use events::EventBook;
use evict::Pass;
use eviction::Policy;
use glances::Glance;
use guard::Guard;
use hostkv_shm_protocol::control::ControlError;
use hostkv_shm_protocol::control::header::HeaderView;
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::extent::max_object_bytes;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, SessionId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::view::View;
use jobs::JobBook;
use l2::{L2, L2Config};
use ledger::Ledger;
use names::Names;
use parked::Progress;
use pins::PinMarks;
use remove::Sweep;
use rings::Rings;
use scan::ScanStage;
use std::collections::VecDeque;
use touches::RecencyRound;
use watermark::Watermark;

/// A moment of CLOCK_MONOTONIC, in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds of a second.
const SECOND: Nanos = 1_000_000_000;
/// Share of the payload that one session may pin.
const PIN_QUOTA_DIVISOR: u64 = 2;
/// Share of the payload that all sessions together may have reserved.
const POOL_RESERVED_DIVISOR: u64 = 2;

/// A request that is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, as a number.
    pub status: Status,
    /// One sentence with the value, the limit and the remedy.
    pub text: String,
}

/// What the store is told at start.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Unit of extents in bytes.
    pub align_bytes: u32,
    /// Who goes first.
    pub policy: EvictionPolicy,
    /// Share of the payload, or of the index, in use at which eviction starts.
    pub watermark: f64,
    /// Share of what is used that a pass frees.
    pub ratio: f64,
    /// Age at which a reservation expires.
    pub write_ttl_ns: Option<u64>,
    /// Age at which a pin may be voided.
    pub read_ttl_ns: Option<u64>,
    /// Tokens per key of a keyspace that names none.
    pub chunk_size: u32,
    /// Most sessions at a time.
    pub max_sessions: u32,
    /// Reserved bytes of one session as a share of the payload.
    pub max_reserved_ratio: f64,
    /// Most keyspaces.
    pub max_keyspaces: u32,
    /// Whether a keyspace without a cache salt is refused.
    pub requires_salt: bool,
    /// Share of the payload that one keyspace may use; `None` = all of it.
    pub keyspace_quota: Option<f64>,
    /// Whether an extent is zeroed before it is used again.
    pub zeroes_on_reuse: bool,
    /// Which objects have sums, and when.
    pub integrity: Integrity,
    /// What scrubber and first sums may read; 0 = nothing.
    pub scrub_bytes_per_second: u64,
    /// The tiers behind L1.
    pub l2: L2Config,
    /// What grants may hold; [`GRANT_SHARES`] but in tests.
    pub grant_shares: GrantShares,
    /// Estimated nanoseconds of one slice; [`SLICE_NS`] but in tests.
    pub slice_ns: u32,
}

/// The cache.
pub struct Store {
    config: StoreConfig,
    header: HeaderView,
    index: IndexWriter,
    entries: EntryTable,
    allocator: Allocator,
    names: Names,
    policy: Box<dyn Policy>,
    watermark: Watermark,
    sessions: Vec<Option<Ledger>>,
    /// By the same slots.
    glances: Vec<Option<Glance>>,
    session_slots: NumberMap<SessionId, usize>,
    last_session: u64,
    stats: Stats,
    ages: Ages,
    /// Reserved bytes of all sessions, granted and quarantined ones included.
    reserved_bytes: u64,
    /// Quarantined bytes alone.
    quarantined_bytes: u64,
    /// Granted bytes alone.
    granted_bytes: u64,
    /// When sessions were last asked for grants that they do not use.
    last_recall: Option<Nanos>,
    /// Unpublished entries that have not been freed, and revoked ones whose number a slot still names.
    zombies: Vec<EntryNumber>,
    /// Whether something was unpublished, or a pin may have gone, since the last scan's fence.
    wants_scan: bool,
    scan: Option<ScanStage>,
    marks: PinMarks,
    /// Sessions above their pin quota that the loop has not been told of.
    offenders: Vec<SessionId>,
    pass: Option<Pass>,
    /// A pass could not reach its goal; the next one waits for the second to change.
    pass_is_blocked: bool,
    parked: VecDeque<Progress>,
    guard: Guard,
    l2: L2,
    /// Commits that wait for a worker.
    commits: Commits,
    /// The commit rings of the sessions that have one.
    rings: Rings,
    /// Whether the last choice between a parked reserve and the rest of the work fell on the reserve.
    is_parked_turn: bool,
    last_ticket: u64,
    sweeps: VecDeque<Sweep>,
    /// Ended sessions whose reservations are not all given back.
    endings: VecDeque<Ending>,
    /// Whether reservations have expired that had no room in a slice.
    wants_expiry: bool,
    jobs: JobBook,
    /// Whether the oldest parked reserve can only go on when something has been zeroed.
    is_waiting_for_zeros: bool,
    events: EventBook,
    /// Log lines of stores that are not written yet.
    stored_lines: Vec<StoredLine>,
    recency: RecencyRound,
    /// Second of the last once-a-second work.
    last_second: Nanos,
    last_usage_line: Option<Nanos>,
    last_pinned_warning: Option<Nanos>,
    last_gate_warning: Option<Nanos>,
    /// Whether the gate's shutting was told, so that its opening is too.
    has_warned_of_gate: bool,
    last_reported_usage: u64,
    /// Estimated nanoseconds that requests have taken of this turn of the loop.
    requests_ns: u64,
}

impl Store {
    /// The store of a control segment whose header has been initialised.
    pub fn new(config: StoreConfig, control: View) -> Result<Store, ControlError> {
        let index = IndexWriter::new(control)?;
        let header = HeaderView::new(control)?;
        let entry_count = index.entry_count();
        let units = config.payload_len / u64::from(config.align_bytes);
        let units = u32::try_from(units).map_err(|_| ControlError::Field {
            field: "payload_len in units of align_bytes",
            value: units,
        })?;
        let has_read_ttl = config.read_ttl_ns.is_some();
        Ok(Store {
            policy: eviction::policy(
                config.policy,
                config.keyspace_quota.map_or(0, |_| entry_count),
            ),
            watermark: Watermark {
                trigger: config.watermark,
                ratio: config.ratio,
            },
            l2: L2::new(config.l2, entry_count),
            guard: Guard::new(config.integrity, entry_count),
            config,
            header,
            index,
            entries: EntryTable::new(entry_count),
            allocator: Allocator::new(units, entry_count),
            names: Names::default(),
            sessions: Vec::new(),
            glances: Vec::new(),
            session_slots: NumberMap::default(),
            last_session: 0,
            stats: Stats::default(),
            ages: Ages::new(entry_count),
            reserved_bytes: 0,
            quarantined_bytes: 0,
            granted_bytes: 0,
            last_recall: None,
            rings: Rings::default(),
            zombies: Vec::new(),
            wants_scan: false,
            scan: None,
            offenders: Vec::new(),
            marks: PinMarks::new(entry_count, has_read_ttl),
            pass: None,
            pass_is_blocked: false,
            parked: VecDeque::new(),
            commits: Commits::default(),
            is_parked_turn: false,
            last_ticket: 0,
            sweeps: VecDeque::new(),
            endings: VecDeque::new(),
            wants_expiry: false,
            jobs: JobBook::default(),
            is_waiting_for_zeros: false,
            events: EventBook::default(),
            stored_lines: Vec::new(),
            recency: RecencyRound::default(),
            last_second: 0,
            last_usage_line: None,
            last_pinned_warning: None,
            last_gate_warning: None,
            has_warned_of_gate: false,
            last_reported_usage: 0,
            requests_ns: 0,
        })
    }

    /// The control segment's header.
    pub fn header(&self) -> HeaderView {
        self.header
    }

    /// Most bytes that one session may pin: half of the payload.
    pub fn pin_quota_bytes(&self) -> u64 {
        self.config.payload_len / PIN_QUOTA_DIVISOR
    }

    /// Most bytes that one session may have reserved.
    pub fn reserve_quota_bytes(&self) -> u64 {
        (self.config.payload_len as f64 * self.config.max_reserved_ratio) as u64
    }

    /// Most bytes that all sessions together may have reserved: half of the payload.
    pub fn pool_reserve_quota_bytes(&self) -> u64 {
        self.config.payload_len / POOL_RESERVED_DIVISOR
    }

    /// Most bytes that one keyspace may use.
    pub fn keyspace_quota_bytes(&self) -> u64 {
        match self.config.keyspace_quota {
            None => self.config.payload_len,
            Some(share) => (self.config.payload_len as f64 * share) as u64,
        }
    }

    /// Whether a keyspace may use only a part of the payload.
    pub fn has_keyspace_quota(&self) -> bool {
        self.config.keyspace_quota.is_some()
    }

    /// Whether an extent is zeroed before it is used again.
    pub fn zeroes_on_reuse(&self) -> bool {
        self.config.zeroes_on_reuse
    }

    /// Largest object in bytes.
    pub fn max_object_bytes(&self) -> u64 {
        max_object_bytes(self.config.payload_len, u64::from(self.config.align_bytes))
    }

    /// Changes what may change while serving.
    pub fn set_limits(
        &mut self,
        watermark: f64,
        ratio: f64,
        max_reserved_ratio: f64,
        max_keyspaces: u32,
    ) {
        self.watermark = Watermark {
            trigger: watermark,
            ratio,
        };
        self.config.max_reserved_ratio = max_reserved_ratio;
        self.config.max_keyspaces = max_keyspaces;
        self.pass_is_blocked = false;
    }

    /// Bytes of a session's commits that wait for a worker.
    fn committing_bytes(&self, id: SessionId) -> u64 {
        self.commits.of_session(id).map(|commit| commit.bytes).sum()
    }

    fn units_to_bytes(&self, units: u32) -> u64 {
        u64::from(units) * u64::from(self.config.align_bytes)
    }

    /// Bytes of an entry's extent, rounded up to the alignment; 0 when it has none.
    fn extent_bytes(&self, entry: EntryNumber) -> u64 {
        self.allocator
            .extent(entry.0)
            .map_or(0, |(_, units)| self.units_to_bytes(units))
    }

    fn key_of(&self, entry: EntryNumber) -> Option<Key> {
        Key::from_words(self.index.key_words(entry)).ok()
    }

    /// The keyspace of an entry where keyspaces have a quota: whose second order of eviction it is in.
    fn quota_keyspace(&self, entry: EntryNumber) -> Option<KeyspaceId> {
        self.config.keyspace_quota?;
        self.key_of(entry).map(|key| key.keyspace())
    }

    /// Takes an entry's extent back, if it has one; the number stays.
    fn free_extent(&mut self, entry: EntryNumber) {
        let bytes = self.extent_bytes(entry);
        if bytes == 0 {
            return;
        }
        self.allocator.free(entry.0);
        if let Some(key) = self.key_of(entry) {
            self.names.extent_freed(key.keyspace(), bytes);
        }
    }

    /// Takes an unlinked entry's extent and number back, whatever its state.
    fn free_entry(&mut self, entry: EntryNumber) {
        if self.zero_first(entry, false) {
            return;
        }
        let bytes = self.extent_bytes(entry);
        if bytes > 0 {
            self.allocator.free(entry.0);
        }
        if let Some(key) = self.key_of(entry) {
            self.names.entry_gone(key.keyspace(), bytes);
        }
        self.entries.give_back(entry);
    }

    /// Takes the number of an entry back that has no extent any more.
    fn free_number(&mut self, entry: EntryNumber) {
        if let Some(key) = self.key_of(entry) {
            self.names.entry_gone(key.keyspace(), 0);
        }
        self.entries.give_back(entry);
    }

    /// Takes back an entry of a reservation, or a granted one; the caller takes its bytes off the session's account.
    fn free_held(&mut self, entry: EntryNumber) -> u64 {
        let bytes = self.extent_bytes(entry);
        match self.entries.state(entry) {
            EntryState::Reserved => {
                if let Some(key) = self.key_of(entry) {
                    self.index.unlink(entry, self.index.hash(&key));
                }
            }
            EntryState::Quarantine => self.quarantined_bytes -= bytes,
            EntryState::Granted => {}
            EntryState::Free
            | EntryState::Committing
            | EntryState::Committed
            | EntryState::Zombie
            | EntryState::Revoked
            | EntryState::Dirty
            | EntryState::Loading => return 0,
        }
        // A late commit of the same writer names the old sequence number and is refused.
        self.index.revoke(entry);
        self.free_entry(entry);
        bytes
    }
}
