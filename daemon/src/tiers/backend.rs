//! What a type of tier can do: plain calls that may take their time.
//!
//! The threads of a tier call it, several at once; nothing here knows tasks, queues or breakers.

use hostkv_shm_protocol::sum::Sum;

use super::figures::FailureReason;
use super::key::TierKey;
use super::{PayloadRange, StoreObject};

/// Why a call was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Error, timeout or full.
    pub(super) reason: FailureReason,
    /// What was tried and what came of it, for the log.
    pub(super) sentence: String,
}

impl Fault {
    /// The store answered with an error.
    pub(super) fn error(sentence: impl Into<String>) -> Fault {
        Fault {
            reason: FailureReason::Error,
            sentence: sentence.into(),
        }
    }

    /// The store has no room.
    pub(super) fn full(sentence: impl Into<String>) -> Fault {
        Fault {
            reason: FailureReason::Full,
            sentence: sentence.into(),
        }
    }

    /// The store did not answer in time.
    pub(super) fn timeout(sentence: impl Into<String>) -> Fault {
        Fault {
            reason: FailureReason::Timeout,
            sentence: sentence.into(),
        }
    }
}

/// What became of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It is there now.
    Stored,
    /// It was there before.
    Known,
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// It is at the destination, whole.
    Loaded(Sum),
    /// It is not there.
    Absent,
    /// What is there is not what was stored, or of another length; it was removed.
    Damaged,
}

/// What a tier holds, as far as this daemon knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// Bytes with headers and padding.
    pub(super) used_bytes: u64,
    /// Objects.
    pub(super) objects: u64,
    /// What it may use.
    pub(super) capacity_bytes: Option<u64>,
    /// Objects removed to keep to that.
    pub(super) evicted_keys_count: u64,
    /// Their bytes.
    pub(super) evicted_bytes: u64,
}

/// One type of tier, opened.
pub(super) trait Backend: Send + Sync {
    /// The length of each object that is there.
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault>;

    /// Stores an object.
    fn put(&self, object: &StoreObject) -> Result<Put, Fault>;

    /// Loads an object that is as long as its destination.
    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault>;

    /// Removes an object, or finds that it is not there.
    fn remove(&self, key: &TierKey) -> Result<(), Fault>;

    /// Whether the store works: the least request that shows it.
    fn probe(&self) -> Result<(), Fault>;

    /// What it holds.
    fn usage(&self) -> Usage;

    /// The daemon ends: whatever waits on purpose ends now.
    fn end(&self) {}
}
