//! The one list of outcomes.
//!
//! The same numbers are used on the wire, in the Rust client and in the C interface (`hostkv_status`). They
//! are append-only: a number is never given another meaning.

use core::fmt;

/// Outcome of a call or of one key of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The key is not in L1, or not readable yet.
    NotFound = -1,
    /// Reserve: already committed; nothing to write.
    Exists = -2,
    /// Reserve: another writer holds the key, or it stands twice in one call.
    Reserved = -3,
    /// Bytes or an index entry could not be made free, even by eviction.
    NoSpace = -4,
    /// A limit on pins, reserved bytes, keyspaces or sessions.
    Quota = -5,
    /// The lease or the reservation outlived its time to live.
    Expired = -7,
    /// An argument is not allowed.
    InvalidArgument = -8,
    /// A write on a read-only session.
    ReadOnly = -9,
    /// The daemon refuses this user, or this call of it.
    Permission = -10,
    /// Client and daemon speak different versions.
    VersionMismatch = -11,
    /// The keyspace is open with another layout fingerprint or tokens per key.
    LayoutMismatch = -12,
    /// No daemon at the socket, or the session's daemon is gone.
    Disconnected = -13,
    /// The daemon did not answer in time.
    Timeout = -14,
    /// The calling process is a forked child of the one that opened the session.
    Forked = -15,
    /// Operating system error.
    System = -16,
    /// A defect inside hostkv.
    Internal = -17,
}

impl Status {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Status; 17] = [
        Status::Ok,
        Status::NotFound,
        Status::Exists,
        Status::Reserved,
        Status::NoSpace,
        Status::Quota,
        Status::Expired,
        Status::InvalidArgument,
        Status::ReadOnly,
        Status::Permission,
        Status::VersionMismatch,
        Status::LayoutMismatch,
        Status::Disconnected,
        Status::Timeout,
        Status::Forked,
        Status::System,
        Status::Internal,
    ];

    /// The number of the outcome.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The outcome with this number; -6 is reserved and has none.
    pub fn from_number(number: i32) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.number() == number)
    }

    /// The name as the C interface spells it, without its prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::NotFound => "NOT_FOUND",
            Status::Exists => "EXISTS",
            Status::Reserved => "RESERVED",
            Status::NoSpace => "NO_SPACE",
            Status::Quota => "QUOTA",
            Status::Expired => "EXPIRED",
            Status::InvalidArgument => "INVALID_ARGUMENT",
            Status::ReadOnly => "READ_ONLY",
            Status::Permission => "PERMISSION",
            Status::VersionMismatch => "VERSION_MISMATCH",
            Status::LayoutMismatch => "LAYOUT_MISMATCH",
            Status::Disconnected => "DISCONNECTED",
            Status::Timeout => "TIMEOUT",
            Status::Forked => "FORKED",
            Status::System => "SYSTEM",
            Status::Internal => "INTERNAL",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a key of a reserve got no space: the detail behind `NO_SPACE` and `QUOTA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Nothing to explain.
    None = 0,
    /// No hole of that size, even after eviction.
    NoSpace = 1,
    /// No free index entry, even after eviction.
    NoEntry = 2,
    /// Every bucket within the probe limit is full.
    BucketFull = 3,
    /// The session's reserved bytes would pass its quota.
    SessionReserved = 4,
    /// The reserved bytes of all sessions together would pass their limit.
    PoolReserved = 5,
    /// The keyspace would pass its quota, and nothing more of it can be evicted.
    KeyspaceQuota = 6,
    /// No hole of that size in the session's staging segment.
    Staging = 7,
}

impl Reason {
    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Reason> {
        [
            Reason::None,
            Reason::NoSpace,
            Reason::NoEntry,
            Reason::BucketFull,
            Reason::SessionReserved,
            Reason::PoolReserved,
            Reason::KeyspaceQuota,
            Reason::Staging,
        ]
        .into_iter()
        .find(|r| *r as u8 == number)
    }

    /// The word that metrics and messages use.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::None => "none",
            Reason::NoSpace => "no_space",
            Reason::NoEntry => "no_entry",
            Reason::BucketFull => "bucket_full",
            Reason::SessionReserved => "session_reserved",
            Reason::PoolReserved => "pool_reserved",
            Reason::KeyspaceQuota => "keyspace_quota",
            Reason::Staging => "staging",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one_and_minus_six_is_nobodys() {
        for s in Status::ALL {
            assert_eq!(Status::from_number(s.number()), Some(s));
        }
        assert_eq!(Status::from_number(-6), None);
        assert_eq!(Status::from_number(1), None);
        let names: std::collections::BTreeSet<_> = Status::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Status::ALL.len());
    }
}
