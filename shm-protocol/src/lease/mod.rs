//! The lease segment: what one session writes and the daemon reads, one segment per session.
//!
//! ```text
//! 0        4096         then          then               then       then
//! | header | pin slots  | recency     | overflow bitmap  | events   | commits |
//!            8 B each     8 B each      8 B a word         256 B      64 B
//! ```
//!
//! "then" is the next multiple of 64. Every word that the client writes is data to the daemon: loaded once
//! into a local, checked, used. [`pins`] are the session's rights to read; [`recency`] tells the daemon what
//! was read; [`counters`] what was counted; [`events`] what telemetry and log lines want to know; [`commits`] what was
//! written, in a session that asked for it.

pub mod commits;
pub mod counters;
pub mod events;
pub mod header;
pub mod pins;
pub mod recency;

use crate::id::{InstanceId, SessionId};
use crate::sync::Ordering;
use crate::version::ABI_HASH;
use crate::view::{OutOfBounds, View};
use core::mem::offset_of;
use header::LeaseHeader;
use thiserror::Error;

/// Fewest pin slots a session may ask for.
pub const MIN_PIN_SLOTS: u32 = 256;
/// Pin slots of a session that asks for none.
pub const DEFAULT_PIN_SLOTS: u32 = 16_384;
/// Records of the recency ring.
pub const RECENCY_RECORDS: u32 = 16_384;

/// How large the parts of a lease segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGeometry {
    /// Pin slots.
    pub slot_count: u32,
    /// Records of the recency ring; a power of two.
    pub recency_capacity: u32,
    /// 64-bit words of the overflow bitmap: one bit for each entry of the index.
    pub bitmap_words: u32,
    /// Records of the event ring.
    pub event_capacity: u32,
    /// Records of the commit ring; a power of two, or 0 = none.
    pub commit_capacity: u32,
}

impl LeaseGeometry {
    /// The geometry of a session with `slot_count` pin slots over an index of `entry_count` entries.
    pub fn new(slot_count: u32, entry_count: u32) -> LeaseGeometry {
        LeaseGeometry {
            slot_count,
            recency_capacity: RECENCY_RECORDS,
            bitmap_words: entry_count.div_ceil(64),
            event_capacity: events::EVENT_RECORDS,
            commit_capacity: 0,
        }
    }

    /// The same with a commit ring of `commit_capacity` records.
    pub fn with_commits(self, commit_capacity: u32) -> LeaseGeometry {
        LeaseGeometry {
            commit_capacity,
            ..self
        }
    }

    /// Offset of the pin slots in bytes.
    pub fn slots_offset(&self) -> u64 {
        size_of::<LeaseHeader>() as u64
    }

    /// Offset of the recency ring in bytes.
    pub fn recency_offset(&self) -> u64 {
        (self.slots_offset() + u64::from(self.slot_count) * 8).next_multiple_of(64)
    }

    /// Offset of the overflow bitmap in bytes.
    pub fn bitmap_offset(&self) -> u64 {
        (self.recency_offset() + u64::from(self.recency_capacity) * 8).next_multiple_of(64)
    }

    /// Offset of the event ring in bytes.
    pub fn events_offset(&self) -> u64 {
        (self.bitmap_offset() + u64::from(self.bitmap_words) * 8).next_multiple_of(64)
    }

    /// Offset of the commit ring in bytes.
    pub fn commits_offset(&self) -> u64 {
        let record = size_of::<events::EventRecord>() as u64;
        self.events_offset() + u64::from(self.event_capacity) * record
    }

    /// Length of the segment in bytes.
    pub fn segment_len(&self) -> u64 {
        let record = size_of::<commits::CommitRecord>() as u64;
        self.commits_offset() + u64::from(self.commit_capacity) * record
    }

    /// Writes the daemon's part of the header of a zeroed segment; the magic comes last.
    pub fn initialise(
        &self,
        view: &View,
        instance: InstanceId,
        session: SessionId,
    ) -> Result<(), OutOfBounds> {
        let set64 = |offset: usize, value: u64| {
            view.u64(offset as u64)
                // Relaxed: the client gets the segment through the socket, whose hop orders these stores.
                .map(|word| word.store(value, Ordering::Relaxed))
        };
        let set32 = |offset: usize, value: u32| {
            view.u32(offset as u64)
                .map(|word| word.store(value, Ordering::Relaxed))
        };
        set64(offset_of!(LeaseHeader, abi_hash), ABI_HASH)?;
        for (i, word) in instance.words().into_iter().enumerate() {
            set64(offset_of!(LeaseHeader, instance_id) + i * 8, word)?;
        }
        set64(offset_of!(LeaseHeader, session_id), session.0)?;
        set32(offset_of!(LeaseHeader, slot_count), self.slot_count)?;
        set32(
            offset_of!(LeaseHeader, recency_capacity),
            self.recency_capacity,
        )?;
        set32(offset_of!(LeaseHeader, bitmap_words), self.bitmap_words)?;
        set32(offset_of!(LeaseHeader, event_capacity), self.event_capacity)?;
        set32(
            offset_of!(LeaseHeader, commit_capacity),
            self.commit_capacity,
        )?;
        set64(offset_of!(LeaseHeader, magic), header::MAGIC)
    }

    /// Reads the geometry of a mapped segment, after checking magic and layouts.
    pub fn read(view: &View) -> Result<LeaseGeometry, LeaseError> {
        let get64 = |offset: usize| {
            view.u64(offset as u64)
                .map(|word| word.load(Ordering::Relaxed))
        };
        let get32 = |offset: usize| {
            view.u32(offset as u64)
                .map(|word| word.load(Ordering::Relaxed))
        };
        let magic = get64(offset_of!(LeaseHeader, magic))?;
        let abi_hash = get64(offset_of!(LeaseHeader, abi_hash))?;
        if magic != header::MAGIC || abi_hash != ABI_HASH {
            return Err(LeaseError::Foreign { magic, abi_hash });
        }
        let geometry = LeaseGeometry {
            slot_count: get32(offset_of!(LeaseHeader, slot_count))?,
            recency_capacity: get32(offset_of!(LeaseHeader, recency_capacity))?,
            bitmap_words: get32(offset_of!(LeaseHeader, bitmap_words))?,
            event_capacity: get32(offset_of!(LeaseHeader, event_capacity))?,
            commit_capacity: get32(offset_of!(LeaseHeader, commit_capacity))?,
        };
        if !geometry.recency_capacity.is_power_of_two() {
            return Err(LeaseError::Recency(geometry.recency_capacity));
        }
        if geometry.commit_capacity != 0 && !geometry.commit_capacity.is_power_of_two() {
            return Err(LeaseError::Commits(geometry.commit_capacity));
        }
        view.words(0, geometry.segment_len() / 8)?;
        Ok(geometry)
    }
}

/// Why a mapped segment is not a lease segment that this build understands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// It is too short for what its header says.
    #[error("the lease segment is too short: {0}")]
    TooShort(#[from] OutOfBounds),
    /// Magic or layouts are another build's.
    #[error(
        "the lease segment has magic {magic:#018x} and layouts {abi_hash:#018x}, not this build's"
    )]
    Foreign {
        /// What stands at its start.
        magic: u64,
        /// The fingerprint of its layouts.
        abi_hash: u64,
    },
    /// The recency ring's capacity is no power of two.
    #[error("the lease segment's recency ring has {0} records, which is no power of two")]
    Recency(u32),
    /// The commit ring's capacity is no power of two.
    #[error("the lease segment's commit ring has {0} records, which is no power of two")]
    Commits(u32),
}
