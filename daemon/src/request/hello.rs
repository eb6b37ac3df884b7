//! HELLO: a session is opened.
//!
//! ```text
//!   check_versions --> check rights, limits, slots --> lease segment made --> account opened --> reply + descriptors
//! ```

use std::os::fd::OwnedFd;

use hostkv_shm_protocol::id::{InstanceId, SessionId};
use hostkv_shm_protocol::lease::commits::{COMMIT_RECORDS, Commits};
use hostkv_shm_protocol::lease::counters::Counters;
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::PinSlots;
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::lease::{DEFAULT_PIN_SLOTS, LeaseGeometry, MIN_PIN_SLOTS};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::version::{ABI_HASH, PACKAGE_VERSION, PROTOCOL_VERSION};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;
use hostkv_shm_protocol::wire::hello::{Hello, HelloPrefix, HelloReply, hello_flags};

use super::Applicant;
use crate::ballast;
use crate::config::LimitsConfig;
use crate::segment::{self, Mapping};
use crate::store::{LeaseParts, Nanos, Refusal, Store};

/// A clock that is off by more than this is another clock.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000_000;

/// What every session is told of the pool.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// This start of the daemon.
    pub instance_id: InstanceId,
    /// Thread id of the loop.
    pub daemon_thread_id: u32,
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Unit of extents in bytes.
    pub align_bytes: u64,
    /// Payload bytes on huge pages.
    pub huge_page_bytes: u64,
    /// Entries of the index.
    pub entry_count: u32,
    /// Whether the payload is sealed against writing, so that every writer has a staging segment.
    pub is_sealed: bool,
}

/// A session that has just been opened.
#[derive(Debug)]
pub struct Opened {
    /// Its number.
    pub session: SessionId,
    /// Whether it may write.
    pub can_write: bool,
    /// What the client is told.
    pub reply: HelloReply,
    /// What became of its wish for a commit ring.
    pub ring: Ring,
    /// Its lease segment, for the client.
    pub lease: OwnedFd,
    /// The daemon's own descriptor of it.
    pub own_lease: OwnedFd,
    /// Its staging segment, for a client that may write and must not write into the payload.
    pub staging: Option<OwnedFd>,
}

/// What became of a wish for a commit ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// There was none.
    NotAsked,
    /// The session has one.
    Given,
    /// What the session commits must be copied by the daemon first.
    Staged,
    /// Each key must be weighed against its keyspace's quota when its room is reserved.
    KeyspaceQuota,
    /// An extent that goes back to the session's own grants would come to the next keyspace with the bytes of the one before.
    ZeroOnReuse,
}

impl Ring {
    fn of(is_staged: bool, store: &Store) -> Ring {
        if is_staged {
            Ring::Staged
        } else if store.has_keyspace_quota() {
            Ring::KeyspaceQuota
        } else if store.zeroes_on_reuse() {
            Ring::ZeroOnReuse
        } else {
            Ring::Given
        }
    }

    fn record_count(self) -> u32 {
        match self {
            Ring::Given => COMMIT_RECORDS,
            Ring::NotAsked | Ring::Staged | Ring::KeyspaceQuota | Ring::ZeroOnReuse => 0,
        }
    }

    /// What the log says of it.
    pub fn describe(self) -> &'static str {
        match self {
            Ring::NotAsked => "",
            Ring::Given => ", commits by ring",
            Ring::Staged => ", commits by socket because its writes are staged",
            Ring::KeyspaceQuota => ", commits by socket because of --keyspace-quota",
            Ring::ZeroOnReuse => ", commits by socket because of --zero-on-reuse",
        }
    }
}

/// Refuses a client of another version; its HELLO is not read further.
pub fn check_versions(prefix: &HelloPrefix) -> Result<(), Refusal> {
    let mismatch = |text| Refusal {
        status: Status::VersionMismatch,
        text,
    };
    if prefix.protocol_version != PROTOCOL_VERSION {
        return Err(mismatch(format!(
            "the client speaks protocol version {} and the daemon ({PACKAGE_VERSION}) {PROTOCOL_VERSION}; install the same \
             version of libhostkv and hostkvd",
            prefix.protocol_version
        )));
    }
    if prefix.abi_hash != ABI_HASH {
        return Err(mismatch(format!(
            "the client's shared layouts are {:#018x} and the daemon's ({PACKAGE_VERSION}) {ABI_HASH:#018x}; install the \
             same version of libhostkv and hostkvd",
            prefix.abi_hash
        )));
    }
    Ok(())
}

/// Opens a session for a user that may have one.
pub fn open(
    store: &mut Store,
    facts: &PoolFacts,
    limits: &LimitsConfig,
    applicant: &Applicant,
    hello: &Hello,
    now: Nanos,
) -> Result<Opened, Refusal> {
    let is_read_only = hello.flags & hello_flags::READ_ONLY != 0;
    if !is_read_only && !applicant.may_write {
        let uid = applicant.uid;
        return Err(Refusal {
            status: Status::Permission,
            text: format!(
                "uid {uid} may only read (--read-only-uid {uid}); open the session with HOSTKV_SESSION_READ_ONLY"
            ),
        });
    }
    let wants_ring = hello.flags & hello_flags::ASYNC_COMMIT != 0;
    if wants_ring && is_read_only {
        return Err(Refusal {
            status: Status::InvalidArgument,
            text: "HELLO asks for ASYNC_COMMIT with READ_ONLY, and a session that does not write commits nothing; leave one \
                   of them out"
                .to_owned(),
        });
    }
    ballast::refuse_more("open a session")?;
    let open_count = store.session_count();
    if open_count >= limits.max_sessions {
        return Err(Refusal {
            status: Status::Quota,
            text: format!(
                "{open_count} sessions are open and --max-sessions is {}; close some or raise it",
                limits.max_sessions
            ),
        });
    }
    let slot_count = slot_count(hello.pin_slot_count, limits.max_pins)?;

    let is_staged = !is_read_only && (!applicant.is_trusted || facts.is_sealed);
    let ring = match wants_ring {
        true => Ring::of(is_staged, store),
        false => Ring::NotAsked,
    };
    let geometry =
        LeaseGeometry::new(slot_count, facts.entry_count).with_commits(ring.record_count());
    let segment = segment::create_lease(geometry.segment_len()).map_err(|error| Refusal {
        status: Status::System,
        text: error.to_string(),
    })?;
    let lease = segment.writable_fd().map_err(|error| Refusal {
        status: Status::System,
        text: error.to_string(),
    })?;
    let staging_bytes = match is_staged {
        true => store
            .reserve_quota_bytes()
            .max(facts.align_bytes)
            .next_multiple_of(segment::HUGE_PAGE_BYTES),
        false => 0,
    };
    let staging = match is_staged {
        true => Some(segment::create_staging(staging_bytes)),
        false => None,
    };
    let staging = staging.transpose().map_err(|error| Refusal {
        status: Status::System,
        text: error.to_string(),
    })?;
    let session = store.next_session_id();
    let (mapping, own_lease) = segment.into_parts();
    let parts = lease_parts(mapping, &geometry, facts.instance_id, session)?;
    store.open_session(session, parts, !is_read_only, applicant.is_admin, now);
    let staging = staging.map(|staging| {
        store.give_staging(session, staging.daemon_fd, staging_bytes);
        staging.client_fd
    });
    warn_of_clock(session, hello.mono_ns, now);
    Ok(Opened {
        session,
        can_write: !is_read_only,
        ring,
        reply: HelloReply {
            instance_id: facts.instance_id,
            daemon_thread_id: facts.daemon_thread_id,
            session_id: session,
            capacity_bytes: facts.capacity_bytes,
            align_bytes: facts.align_bytes,
            huge_page_bytes: facts.huge_page_bytes,
            pin_quota_bytes: store.pin_quota_bytes(),
            reserve_quota_bytes: store.reserve_quota_bytes(),
            keyspace_quota_bytes: store.keyspace_quota_bytes(),
            staging_bytes,
            max_object_bytes: store.max_object_bytes(),
            pin_slot_count: slot_count,
            max_batch_keys: MAX_BATCH_KEYS as u32,
            chunk_size: limits.chunk_size,
            server_version: PACKAGE_VERSION.to_owned(),
        },
        lease,
        own_lease,
        staging,
    })
}

/// Pin slots of a session that wants `wanted`; 0 = as many as is usual.
fn slot_count(wanted: u32, max_pins: u32) -> Result<u32, Refusal> {
    match wanted {
        0 => Ok(DEFAULT_PIN_SLOTS.min(max_pins)),
        _ if wanted > max_pins => Err(Refusal {
            status: Status::InvalidArgument,
            text: format!(
                "pin_slot_count is {wanted} and --max-pins is {max_pins}; ask for fewer or raise it"
            ),
        }),
        _ => Ok(wanted.max(MIN_PIN_SLOTS)),
    }
}

/// The daemon's side of a new lease segment.
fn lease_parts(
    mapping: Mapping,
    geometry: &LeaseGeometry,
    instance_id: InstanceId,
    session: SessionId,
) -> Result<LeaseParts, Refusal> {
    // SAFETY: the mapping is page-aligned and at least as long as the segment; the store keeps `mapping` for as long as
    // it uses the parts, and drops them together. Nobody makes a reference to the bytes.
    let view = unsafe { View::new(mapping.base().as_ptr(), geometry.segment_len()) };
    let parts = geometry
        .initialise(&view, instance_id, session)
        .and_then(|()| {
            Ok((
                PinSlots::new(view, geometry)?,
                Recency::new(view, geometry)?,
                Counters::new(view)?,
                Events::new(view, geometry)?,
                Commits::new(view, geometry)?,
            ))
        });
    let (pins, recency, counters, events, commits) = parts.map_err(|error| Refusal {
        status: Status::Internal,
        text: error.to_string(),
    })?;
    Ok(LeaseParts {
        pins,
        recency,
        counters,
        events,
        commits,
        mapping: Box::new(mapping),
    })
}

/// A client in a time namespace of its own has another CLOCK_MONOTONIC; times that both sides compare are then wrong.
fn warn_of_clock(session: SessionId, client_ns: u64, now: Nanos) {
    let offset_ns = client_ns.abs_diff(now);
    if offset_ns > CLOCK_TOLERANCE_NS {
        log::warn!(
            "Session {}: the client's monotonic clock is off by {:.1} s, probably by a time namespace; ages in its log lines \
             and events are wrong",
            session.0,
            offset_ns as f64 / 1e9
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::{applicant, hello, limits, pool};

    #[test]
    fn another_version_is_refused_with_both_versions_named() {
        let mut prefix = hello().prefix;
        assert_eq!(check_versions(&prefix), Ok(()));
        prefix.abi_hash = 0xdead_beef;
        let refusal = check_versions(&prefix).unwrap_err();
        assert_eq!(refusal.status, Status::VersionMismatch);
        assert!(
            refusal.text.contains("0x00000000deadbeef"),
            "{}",
            refusal.text
        );
        assert!(
            refusal.text.contains(&format!("{ABI_HASH:#018x}")),
            "{}",
            refusal.text
        );
        prefix.protocol_version = 77;
        let refusal = check_versions(&prefix).unwrap_err();
        assert!(refusal.text.contains("version 77"), "{}", refusal.text);
        assert!(
            refusal.text.contains(&format!(" {PROTOCOL_VERSION};")),
            "{}",
            refusal.text
        );
    }

    #[test]
    fn slots_are_the_default_or_what_was_asked_within_the_limits() {
        assert_eq!(slot_count(0, 65_536), Ok(16_384));
        assert_eq!(slot_count(0, 1000), Ok(1000));
        assert_eq!(slot_count(1, 65_536), Ok(256));
        assert_eq!(slot_count(65_536, 65_536), Ok(65_536));
        let refusal = slot_count(65_537, 65_536).unwrap_err();
        assert_eq!(refusal.status, Status::InvalidArgument);
        assert!(refusal.text.contains("65537") && refusal.text.contains("65536"));
    }

    #[test]
    fn a_read_only_user_opens_read_only_sessions_and_no_others() {
        let (mut store, facts) = pool();
        let mut user = applicant(1001);
        user.may_write = false;
        let refusal = open(&mut store, &facts, &limits(), &user, &hello(), 0).unwrap_err();
        assert_eq!(refusal.status, Status::Permission);
        assert!(
            refusal.text.contains("--read-only-uid 1001"),
            "{}",
            refusal.text
        );
        let mut wish = hello();
        wish.flags = hello_flags::READ_ONLY;
        let opened = open(&mut store, &facts, &limits(), &user, &wish, 0).unwrap();
        assert!(!opened.can_write);
    }

    #[test]
    fn one_session_above_the_limit_is_a_quota_refusal() {
        let (mut store, facts) = pool();
        let mut few = limits();
        few.max_sessions = 2;
        for id in 1..=2 {
            let opened = open(&mut store, &facts, &few, &applicant(5), &hello(), 0).unwrap();
            assert_eq!(opened.session, SessionId(id));
        }
        let refusal = open(&mut store, &facts, &few, &applicant(5), &hello(), 0).unwrap_err();
        assert_eq!(refusal.status, Status::Quota);
        assert!(
            refusal.text.contains("--max-sessions is 2"),
            "{}",
            refusal.text
        );
    }

    #[test]
    fn the_client_gets_a_lease_segment_that_names_its_session() {
        let (mut store, facts) = pool();
        let opened = open(&mut store, &facts, &limits(), &applicant(5), &hello(), 0).unwrap();
        // SAFETY: the segment can't shrink, it is sealed.
        let map = unsafe { memmap2::MmapOptions::new().map_mut(&opened.lease) }.unwrap();
        // SAFETY: the map is page-aligned and outlives the view.
        let view = unsafe { View::new(map.as_ptr(), map.len() as u64) };
        let geometry = LeaseGeometry::read(&view).unwrap();
        assert_eq!(geometry.slot_count, opened.reply.pin_slot_count);
        assert_eq!(opened.reply.session_id, opened.session);
        assert_eq!(opened.reply.instance_id, facts.instance_id);
    }
}
