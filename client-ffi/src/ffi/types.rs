//! The constants and structs of the C interface.
//!
//! Every other file of [`crate::ffi`] uses them; nothing here runs. The names are those of C, so that a
//! search for one finds it on both sides. The layouts are part of the ABI: const asserts below hold every
//! offset fast, on the 64-bit platforms that hostkv supports. A struct that starts with `struct_size` may
//! get new fields at its end, in multiples of eight bytes; nothing else here ever changes.

#![allow(
    non_camel_case_types,
    reason = "these are C's types under C's names; cbindgen copies them to the header as they stand"
)]

use crate::chunk_keys::ChunkKey;
use crate::lease::Handle;
use crate::prefetch::Prefetch;
use crate::reservation::Reservation;
use crate::session::{ReserveItem, Session};
use hostkv_shm_protocol::status::Status;
use std::ffi::{c_char, c_void};
use std::mem::{align_of, offset_of, size_of};

/// What this header declares. It grows when functions, constants or struct fields are added; compare it with
/// hostkv_abi_version(), which is what the loaded library has.
pub const HOSTKV_ABI_VERSION: u32 = 1;

/// Session flag: this session only reads. Reserve, remove and clear say READ_ONLY.
pub const HOSTKV_SESSION_READ_ONLY: u32 = 1;
/// Session flag: map every page of the payload at open, so that no later access takes a page fault.
pub const HOSTKV_SESSION_POPULATE: u32 = 2;
/// Session flag: reads use the writable mapping, so that one DMA registration serves loads and stores. A stray
/// write through a read pointer then no longer faults. INVALID_ARGUMENT with READ_ONLY, or for a user whom the
/// daemon does not let write in place.
pub const HOSTKV_SESSION_SINGLE_MAPPING: u32 = 4;
/// Session flag: stores take no round trip. The session holds room ahead of need, and a commit returns at once: its keys are
/// readable within a millisecond while the daemon runs, also if this process dies now, and for sure after
/// hostkv_session_flush(). Reserve does not say RESERVED then: of several commits of a key the first wins, and the others are
/// OK too. INVALID_ARGUMENT with READ_ONLY. For a user whom the daemon does not let write in place, and where it runs with
/// --keyspace-quota or --zero-on-reuse, commits go by the socket and wait as without the flag; the daemon's log says so.
pub const HOSTKV_SESSION_ASYNC_COMMIT: u32 = 8;

/// Request flag of an acquire: pin every key that is present, not only the leading run.
pub const HOSTKV_ACQUIRE_ALL: u32 = 1;
/// Request flag of a reserve, alone or behind a commit: send it and do not wait. hostkv_reservation_wait() comes before
/// the spans.
pub const HOSTKV_RESERVE_NO_WAIT: u32 = 2;

/// Mapping that read spans point into.
pub const HOSTKV_MAPPING_READ: u32 = 1;
/// Mapping that write spans point into.
pub const HOSTKV_MAPPING_WRITE: u32 = 2;

/// Clear flag: every key of every keyspace there is, not only of those this session opened. Admin users only.
pub const HOSTKV_CLEAR_ALL_KEYSPACES: u32 = 1;

/// Outcome of a call or of one key of a call. 0 is OK, all else is negative; a number never changes its
/// meaning, and new ones may come. -6 is reserved and never returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum hostkv_status {
    /// Done.
    Ok = 0,
    /// The key is not in the pool, or not readable yet.
    NotFound = -1,
    /// Reserve: already committed; nothing to write.
    Exists = -2,
    /// Reserve: another writer holds the key, or it stands twice in one call.
    Reserved = -3,
    /// Bytes or an index entry could not be made free, even by eviction; hostkv_last_error() says which.
    NoSpace = -4,
    /// A limit on pins, reserved bytes, keyspaces or sessions; hostkv_last_error() names it.
    Quota = -5,
    /// The lease or reservation outlived its time to live.
    Expired = -7,
    /// An argument is not allowed; hostkv_last_error() names it.
    InvalidArgument = -8,
    /// A write on a read-only session.
    ReadOnly = -9,
    /// The daemon refuses this user, or this call of it; hostkv_last_error() names the uid and the flag.
    Permission = -10,
    /// Library and daemon are of different releases; hostkv_last_error() names both versions.
    VersionMismatch = -11,
    /// The keyspace is open with another layout fingerprint or tokens_per_key; hostkv_last_error() has both.
    LayoutMismatch = -12,
    /// No daemon at the socket, or the session's daemon is gone; open a new session.
    Disconnected = -13,
    /// The daemon did not answer within the session's timeout_ms.
    Timeout = -14,
    /// This process is a forked child of the one that opened the session.
    Forked = -15,
    /// Operating system error; hostkv_last_error() has its text.
    System = -16,
    /// A defect inside hostkv; hostkv_last_error() says where.
    Internal = -17,
}

impl From<Status> for hostkv_status {
    fn from(status: Status) -> hostkv_status {
        match status {
            Status::Ok => hostkv_status::Ok,
            Status::NotFound => hostkv_status::NotFound,
            Status::Exists => hostkv_status::Exists,
            Status::Reserved => hostkv_status::Reserved,
            Status::NoSpace => hostkv_status::NoSpace,
            Status::Quota => hostkv_status::Quota,
            Status::Expired => hostkv_status::Expired,
            Status::InvalidArgument => hostkv_status::InvalidArgument,
            Status::ReadOnly => hostkv_status::ReadOnly,
            Status::Permission => hostkv_status::Permission,
            Status::VersionMismatch => hostkv_status::VersionMismatch,
            Status::LayoutMismatch => hostkv_status::LayoutMismatch,
            Status::Disconnected => hostkv_status::Disconnected,
            Status::Timeout => hostkv_status::Timeout,
            Status::Forked => hostkv_status::Forked,
            Status::System => hostkv_status::System,
            Status::Internal => hostkv_status::Internal,
        }
    }
}

/// One process's connection to the daemon, with the pool mapped into it. All functions may be called on it from
/// many threads at once, except hostkv_session_close(), which is the last.
pub struct hostkv_session(pub(super) Session);

/// Room for objects that one writer fills in and that nobody can see yet. Ended by commit or abort.
pub struct hostkv_reservation(pub(super) Reservation);

/// A right to read some objects where they lie, until it is released.
pub struct hostkv_lease(#[expect(dead_code, reason = "handles are only cast")] Handle);

/// Keys on their way into the pool out of the daemon's tiers, kept there until it is ended.
pub struct hostkv_prefetch(pub(super) Prefetch);

/// Number of an open keyspace, i.e. of a model and layout for one tenant. Good in the session that opened it,
/// until that session closes.
pub type hostkv_keyspace = u32;

/// Name of one object within a keyspace. Zero the struct before filling it in.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_key {
    /// Hash of the chunk and of all tokens before it; bytes behind chunk_hash_len are ignored.
    pub chunk_hash: [u8; 32],
    /// Bytes of chunk_hash that count, 1 to 32.
    pub chunk_hash_len: u32,
    /// Rank of the worker whose part of the chunk this is.
    pub kv_rank: u32,
    /// Number of the object group, 0 when a rank stores one object for each chunk.
    pub object_group_id: u32,
}

/// Bytes to read, valid until the lease they came from is released.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_span {
    /// First byte.
    pub data: *const c_void,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Bytes to write, valid until the reservation they came from is committed or aborted.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_span_mut {
    /// First byte.
    pub data: *mut c_void,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// One object to make room for.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_reserve_item {
    /// Its key.
    pub key: hostkv_key,
    /// Its length in bytes, 1 to hostkv_session_info.max_object_bytes.
    pub len_bytes: u64,
}

/// How to open a session. hostkv_session_config_init() fills in the defaults.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_session_config {
    /// sizeof(hostkv_session_config).
    pub struct_size: u32,
    /// HOSTKV_SESSION_* flags.
    pub flags: u32,
    /// The daemon's socket. NULL = the environment's HOSTKV_SOCKET, else the built-in path.
    pub socket_path: *const c_char,
    /// Name of this client in the daemon's log, UTF-8 without control characters, at most 64 bytes. NULL = none.
    pub client_name: *const c_char,
    /// Keys that this session can have pinned at once. 0 = 16384; at most the daemon's --max-pins.
    pub pin_slot_count: u32,
    /// Bound of every call that asks the daemon, in milliseconds. 0 = 5000.
    pub timeout_ms: u32,
}

/// Which keyspace to open.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_keyspace_config {
    /// sizeof(hostkv_keyspace_config).
    pub struct_size: u32,
    /// Tokens that one key stands for. 0 = the daemon's chunk size.
    pub tokens_per_key: u32,
    /// The model and whatever else changes the bytes, UTF-8, 1 to 144 bytes.
    pub model_name: *const c_char,
    /// The tenant, UTF-8, at most 128 bytes; keyspaces with different salts never see each other's keys. NULL = "".
    pub cache_salt: *const c_char,
    /// The caller's number for dtype, shape, layer count and quantisation. One value for all that have the
    /// keyspace open; a new one when nobody has, removes the old objects.
    pub layout_fingerprint: u64,
}

/// Options of one reserve, acquire or prefetch. A NULL pointer instead = no flags, no id, no device.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_request {
    /// sizeof(hostkv_request).
    pub struct_size: u32,
    /// HOSTKV_ACQUIRE_ALL or 0; 0 in a reserve and in a prefetch.
    pub flags: u32,
    /// The engine's id of the request, for telemetry: UTF-8 without control characters, 1 to 128 bytes. NULL = none.
    pub request_id: *const c_char,
    /// Device that the bytes come from or go to, for telemetry: as above, at most 32 bytes. NULL = none.
    pub device: *const c_char,
}

/// What a session is attached to; fixed while it lives.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_session_info {
    /// sizeof(hostkv_session_info), set by the caller before the call.
    pub struct_size: u32,
    /// What hostkv_abi_version() says.
    pub abi_version: u32,
    /// This start of the daemon; another start has another one.
    pub instance_id: [u8; 16],
    /// Number of the session within the instance.
    pub session_id: u64,
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Every object starts at a multiple of this, and takes a multiple of it.
    pub align_bytes: u64,
    /// Payload bytes that lie on huge pages.
    pub huge_page_bytes: u64,
    /// Most bytes that this session can have pinned at once.
    pub pin_quota_bytes: u64,
    /// Most bytes that this session can have reserved at once.
    pub reserve_quota_bytes: u64,
    /// Length of the longest object.
    pub max_object_bytes: u64,
    /// Most keys that this session can have pinned at once.
    pub pin_slot_count: u32,
    /// Most keys or items of one call.
    pub max_batch_keys: u32,
    /// The daemon's tokens for each key, where a keyspace does not say otherwise.
    pub chunk_size: u32,
    /// 0.
    pub reserved: u32,
    /// The daemon's version, ends with a NUL byte.
    pub server_version: [c_char; 32],
}

/// Figures of the whole pool, consistent with each other. What is counted is counted since the daemon's start.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct hostkv_stats {
    /// sizeof(hostkv_stats), set by the caller before the call.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Payload bytes that are not free.
    pub used_bytes: u64,
    /// Bytes of pinned objects, each counted once.
    pub pinned_bytes: u64,
    /// Bytes reserved and not committed yet.
    pub reserved_bytes: u64,
    /// Readable objects.
    pub object_count: u64,
    /// Open sessions.
    pub session_count: u64,
    /// Read requests.
    pub sm_read_requests: u64,
    /// Keys of read requests that were found.
    pub sm_read_succeed_keys: u64,
    /// Keys of read requests that were not.
    pub sm_read_failed_keys: u64,
    /// Reserve requests.
    pub sm_write_requests: u64,
    /// Keys of reserve requests that were granted.
    pub sm_write_succeed_keys: u64,
    /// Keys of reserve requests that were not.
    pub sm_write_failed_keys: u64,
    /// Keys whose lease was released.
    pub l1_read_keys: u64,
    /// Keys committed.
    pub l1_write_keys: u64,
    /// Keys evicted.
    pub l1_evicted_keys: u64,
}

/// A struct that starts with `struct_size`, and all of whose bytes mean something when they are zero.
///
/// # Safety
///
/// The type is `repr(C)`, starts with a `u32` that is the size, and any bytes are a value of it.
pub(super) unsafe trait Versioned: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// Bytes up to and including the last field that no caller can leave out.
    const MINIMUM_BYTES: usize;
}

// SAFETY: `repr(C)`, `struct_size` first; integers and raw pointers take any bytes.
unsafe impl Versioned for hostkv_session_config {
    const NAME: &'static str = "hostkv_session_config";
    const MINIMUM_BYTES: usize = offset_of!(hostkv_session_config, socket_path);
}
// SAFETY: as above.
unsafe impl Versioned for hostkv_keyspace_config {
    const NAME: &'static str = "hostkv_keyspace_config";
    const MINIMUM_BYTES: usize = offset_of!(hostkv_keyspace_config, cache_salt);
}
// SAFETY: as above.
unsafe impl Versioned for hostkv_request {
    const NAME: &'static str = "hostkv_request";
    const MINIMUM_BYTES: usize = offset_of!(hostkv_request, request_id);
}
// SAFETY: as above.
unsafe impl Versioned for hostkv_session_info {
    const NAME: &'static str = "hostkv_session_info";
    const MINIMUM_BYTES: usize = offset_of!(hostkv_session_info, server_version);
}
// SAFETY: as above.
unsafe impl Versioned for hostkv_stats {
    const NAME: &'static str = "hostkv_stats";
    const MINIMUM_BYTES: usize = offset_of!(hostkv_stats, used_bytes);
}

/// Length of `hostkv_session_info::server_version`, its NUL byte included.
pub(super) const SERVER_VERSION_BYTES: usize = 32;

/// Asserts size, alignment and every offset of a struct at compile time.
macro_rules! assert_layout {
    ($type:ident, $size:literal, $align:literal, $($field:ident: $offset:literal),+ $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);
            $(assert!(offset_of!($type, $field) == $offset);)+
        };
    };
}

assert_layout!(hostkv_key, 44, 4, chunk_hash: 0, chunk_hash_len: 32, kv_rank: 36, object_group_id: 40);
assert_layout!(hostkv_span, 16, 8, data: 0, len_bytes: 8);
assert_layout!(hostkv_span_mut, 16, 8, data: 0, len_bytes: 8);
assert_layout!(hostkv_reserve_item, 56, 8, key: 0, len_bytes: 48);
assert_layout!(hostkv_session_config, 32, 8, struct_size: 0, flags: 4, socket_path: 8, client_name: 16, pin_slot_count: 24, timeout_ms: 28);
assert_layout!(hostkv_keyspace_config, 32, 8, struct_size: 0, tokens_per_key: 4, model_name: 8, cache_salt: 16, layout_fingerprint: 24);
assert_layout!(hostkv_request, 24, 8, struct_size: 0, flags: 4, request_id: 8, device: 16);
assert_layout!(
    hostkv_session_info, 128, 8,
    struct_size: 0, abi_version: 4, instance_id: 8, session_id: 24, capacity_bytes: 32, align_bytes: 40, huge_page_bytes: 48,
    pin_quota_bytes: 56, reserve_quota_bytes: 64, max_object_bytes: 72, pin_slot_count: 80, max_batch_keys: 84, chunk_size: 88,
    reserved: 92, server_version: 96,
);
assert_layout!(
    hostkv_stats, 128, 8,
    struct_size: 0, reserved: 4, capacity_bytes: 8, used_bytes: 16, pinned_bytes: 24, reserved_bytes: 32, object_count: 40,
    session_count: 48, sm_read_requests: 56, sm_read_succeed_keys: 64, sm_read_failed_keys: 72, sm_write_requests: 80,
    sm_write_succeed_keys: 88, sm_write_failed_keys: 96, l1_read_keys: 104, l1_write_keys: 112, l1_evicted_keys: 120,
);

// The client's key is the same bytes, so that an array of keys crosses without a copy.
const _: () = {
    assert!(size_of::<ChunkKey>() == size_of::<hostkv_key>());
    assert!(align_of::<ChunkKey>() == align_of::<hostkv_key>());
    assert!(offset_of!(ChunkKey, chunk_hash) == offset_of!(hostkv_key, chunk_hash));
    assert!(offset_of!(ChunkKey, chunk_hash_len) == offset_of!(hostkv_key, chunk_hash_len));
    assert!(offset_of!(ChunkKey, kv_rank) == offset_of!(hostkv_key, kv_rank));
    assert!(offset_of!(ChunkKey, object_group_id) == offset_of!(hostkv_key, object_group_id));
};

// The flags are the client's own numbers.
const _: () = {
    assert!(HOSTKV_SESSION_READ_ONLY == crate::session::READ_ONLY);
    assert!(HOSTKV_SESSION_POPULATE == crate::session::POPULATE);
    assert!(HOSTKV_SESSION_SINGLE_MAPPING == crate::session::SINGLE_MAPPING);
    assert!(HOSTKV_SESSION_ASYNC_COMMIT == crate::session::ASYNC_COMMIT);
    assert!(HOSTKV_ACQUIRE_ALL == crate::session::ACQUIRE_ALL);
};

impl From<ChunkKey> for hostkv_key {
    fn from(key: ChunkKey) -> hostkv_key {
        hostkv_key {
            chunk_hash: key.chunk_hash,
            chunk_hash_len: key.chunk_hash_len,
            kv_rank: key.kv_rank,
            object_group_id: key.object_group_id,
        }
    }
}

impl From<hostkv_reserve_item> for ReserveItem {
    fn from(item: hostkv_reserve_item) -> ReserveItem {
        ReserveItem {
            key: ChunkKey {
                chunk_hash: item.key.chunk_hash,
                chunk_hash_len: item.key.chunk_hash_len,
                kv_rank: item.key.kv_rank,
                object_group_id: item.key.object_group_id,
            },
            len_bytes: item.len_bytes,
        }
    }
}
