//! Functions that belong to no object: versions, names of outcomes, the last error, and keys.
//!
//! Any thread may call them at any time, without a session and without a daemon.

use super::types::{HOSTKV_ABI_VERSION, hostkv_key, hostkv_status};
use super::{guard, handle};
use crate::chunk_keys;
use hostkv_shm_protocol::status::Status;
use std::ffi::{CStr, c_char, c_void};

/// HOSTKV_ABI_VERSION of the loaded library. A program built against a newer header may find functions missing
/// and struct fields refused.
#[unsafe(no_mangle)]
pub extern "C" fn hostkv_abi_version() -> u32 {
    HOSTKV_ABI_VERSION
}

/// Version of the loaded library as "major.minor.patch". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn hostkv_version_string() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL byte"),
        };
    VERSION.as_ptr()
}

/// Name of a status without its prefix: "OK", "NOT_FOUND", ...; "UNKNOWN" for a number that is none. Valid for
/// ever.
#[unsafe(no_mangle)]
pub extern "C" fn hostkv_status_name(status: i32) -> *const c_char {
    guard::value(c"UNKNOWN".as_ptr(), || status_name(status).as_ptr())
}

/// What this thread's last failing call was refused for, in one sentence that names the value and the limit;
/// "" if none failed yet. Valid until the thread's next failing call. A function that returns another status
/// than OK has failed, also where that is expected, as with NOT_FOUND.
#[unsafe(no_mangle)]
pub extern "C" fn hostkv_last_error() -> *const c_char {
    guard::last_error()
}

/// A key from any name: `len` 1 to 32 bytes are taken as they are, longer ones become their BLAKE3-256. kv_rank
/// and object_group_id become 0.
///
/// INVALID_ARGUMENT: `len` is 0.
///
/// # Safety
///
/// `bytes` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_key_from_bytes(
    bytes: *const c_void,
    len: usize,
    ret_key: *mut hostkv_key,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (bytes, ret_key) = unsafe {
            (
                handle::slice(bytes.cast::<u8>(), len, "bytes")?,
                handle::out(ret_key, "ret_key")?,
            )
        };
        ret_key.write(chunk_keys::key_from_bytes(bytes)?.into());
        Ok(())
    })
}

/// The keys of a sequence of tokens, one for each whole chunk of `tokens_per_key`, each depending on all tokens
/// before it: h(0) = BLAKE3(12 zero bytes), h(i+1) = BLAKE3(h(i), then the tokens of chunk i as big-endian
/// 32-bit numbers), and key i is h(i+1). kv_rank and object_group_id are 0; the caller sets them.
///
/// `ret_keys` has room for `capacity` keys; `*ret_count` becomes the number written.
///
/// INVALID_ARGUMENT: `tokens_per_key` is 0, or there are more keys than `capacity`.
///
/// # Safety
///
/// `tokens` has `token_count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_chunk_keys(
    tokens: *const u32,
    token_count: usize,
    tokens_per_key: u32,
    ret_keys: *mut hostkv_key,
    capacity: usize,
    ret_count: *mut usize,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (tokens, first_key, ret_count) = unsafe {
            (
                handle::slice(tokens, token_count, "tokens")?,
                handle::out(ret_keys, "ret_keys")?,
                handle::out(ret_count, "ret_count")?,
            )
        };
        let keys = chunk_keys::chunk_keys(tokens, tokens_per_key, capacity)?;
        // SAFETY: the client made at most `capacity` keys, for which the caller has room.
        unsafe { first_key.write_all(&keys) };
        ret_count.write(keys.len());
        Ok(())
    })
}

/// The name of a status as C text.
pub(super) fn status_name(number: i32) -> &'static CStr {
    match Status::from_number(number) {
        None => c"UNKNOWN",
        Some(Status::Ok) => c"OK",
        Some(Status::NotFound) => c"NOT_FOUND",
        Some(Status::Exists) => c"EXISTS",
        Some(Status::Reserved) => c"RESERVED",
        Some(Status::NoSpace) => c"NO_SPACE",
        Some(Status::Quota) => c"QUOTA",
        Some(Status::Expired) => c"EXPIRED",
        Some(Status::InvalidArgument) => c"INVALID_ARGUMENT",
        Some(Status::ReadOnly) => c"READ_ONLY",
        Some(Status::Permission) => c"PERMISSION",
        Some(Status::VersionMismatch) => c"VERSION_MISMATCH",
        Some(Status::LayoutMismatch) => c"LAYOUT_MISMATCH",
        Some(Status::Disconnected) => c"DISCONNECTED",
        Some(Status::Timeout) => c"TIMEOUT",
        Some(Status::Forked) => c"FORKED",
        Some(Status::System) => c"SYSTEM",
        Some(Status::Internal) => c"INTERNAL",
    }
}
