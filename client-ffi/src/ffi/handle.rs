//! The only file that turns a pointer of the caller into something of Rust, or back.
//!
//! The extern functions come here first, with each argument and its name in the header. Whatever can be
//! checked about a pointer is checked (not NULL, aligned, a sensible length, UTF-8, a known struct size); the
//! rest is the caller's promise, written down as the rules for pointers in [`crate::ffi`].
//!
//! ```text
//!   handle    give -> *mut T ... lend -> &T ... take -> Box<T>       a handle is a Box's own pointer; a lease's is that
//!                                                                  of the memory that the session keeps for leases
//!   struct    struct_size of the caller against ours:
//!                smaller        its bytes, then zeros, i.e. defaults
//!                equal          its bytes
//!                larger         as equal, if all bytes behind ours are zero
//! ```

use super::types::{Versioned, hostkv_key, hostkv_lease, hostkv_request};
use crate::chunk_keys::ChunkKey;
use crate::error::{Error, Result};
use crate::lease::{Handle, Lease};
use crate::session::Request;
use hostkv_shm_protocol::text::is_printable_ascii;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;
use std::ffi::{CStr, OsStr, c_char};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, align_of, size_of};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

/// Largest `struct_size` that is looked at: far beyond any version's, and near enough that a size that was
/// never set does not make the library read through the caller's memory.
const MAX_STRUCT_BYTES: usize = 4096;

/// Makes a handle of a value; [`take`] is its end.
pub(super) fn give<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Makes a handle of a lease, whose memory is already where it stays; [`take_lease`] is its end.
pub(super) fn give_lease(lease: Lease) -> *mut hostkv_lease {
    let handle = lease.into_handle();
    handle.map_or(std::ptr::null_mut(), Box::into_raw).cast()
}

/// The lease behind a handle.
///
/// # Safety
///
/// As for [`lend`], with a handle from [`give_lease`].
pub(super) unsafe fn lend_lease<'a>(handle: *const hostkv_lease) -> Result<&'a Handle> {
    // SAFETY: the same promise; the handle is the address of what `give_lease` was given.
    unsafe { lend(handle.cast::<Handle>(), "lease") }
}

/// The lease behind a handle, back from the caller; nothing for NULL.
///
/// # Safety
///
/// As for [`take`], with a handle from [`give_lease`].
pub(super) unsafe fn take_lease(handle: *mut hostkv_lease) -> Result<Option<Lease>> {
    // SAFETY: the same promise; `give_lease` let go of a Box of this type.
    let handle = unsafe { take(handle.cast::<Handle>(), "lease") }?;
    Ok(handle.map(Lease::of))
}

/// The value behind a handle.
///
/// # Safety
///
/// The rules for pointers hold: `handle` is NULL or from [`give`], and is not ended while the result is used.
pub(super) unsafe fn lend<'a, T>(handle: *const T, name: &'static str) -> Result<&'a T> {
    let handle = checked(handle.cast_mut(), name)?;
    // SAFETY: not NULL and aligned, so by the caller's promise a live value that is only ever shared.
    Ok(unsafe { handle.as_ref() })
}

/// The value behind a handle, for a call that changes it.
///
/// # Safety
///
/// As for [`lend`], and nobody else uses the handle meanwhile.
pub(super) unsafe fn lend_mut<'a, T>(handle: *mut T, name: &'static str) -> Result<&'a mut T> {
    let mut handle = checked(handle, name)?;
    // SAFETY: not NULL and aligned, so by the caller's promise a live value that only this call uses.
    Ok(unsafe { handle.as_mut() })
}

/// The value behind a handle, for the getters, where NULL has an answer of its own.
///
/// # Safety
///
/// As for [`lend`].
pub(super) unsafe fn lend_or_none<'a, T>(handle: *const T) -> Option<&'a T> {
    // SAFETY: as in `lend`; what is not aligned is no handle.
    unsafe { lend(handle, "") }.ok()
}

/// The value behind a handle, back from the caller; nothing for NULL.
///
/// # Safety
///
/// The rules for pointers hold: `handle` is NULL or from [`give`], and this is its last use.
pub(super) unsafe fn take<T>(handle: *mut T, name: &'static str) -> Result<Option<Box<T>>> {
    if handle.is_null() {
        return Ok(None);
    }
    // SAFETY: the same promise.
    unsafe { take_some(handle, name) }.map(Some)
}

/// The value behind a handle, back from the caller, where NULL is no value.
///
/// # Safety
///
/// As for [`take`].
pub(super) unsafe fn take_some<T>(handle: *mut T, name: &'static str) -> Result<Box<T>> {
    let handle = checked(handle, name)?;
    // SAFETY: by the caller's promise it came from `give`, which made it of a Box, and nobody uses it any more.
    Ok(unsafe { Box::from_raw(handle.as_ptr()) })
}

/// Where an output goes; nothing is written before [`Out::write`] or [`Out::write_all`].
pub(super) struct Out<'a, T> {
    place: NonNull<T>,
    caller: PhantomData<&'a mut T>,
}

impl<T> Out<'_, T> {
    /// Hands the value out.
    pub(super) fn write(self, value: T) {
        // SAFETY: `out` checked the place, and its caller promised that it may be written.
        unsafe { self.place.write(value) }
    }
}

impl<T> Out<'_, T> {
    /// Hands an array out, converted to the form that the caller knows.
    ///
    /// # Safety
    ///
    /// The place has room for as many elements as `values` has.
    pub(super) unsafe fn write_all<V: Copy + Into<T>>(self, values: &[V]) {
        for (i, value) in values.iter().enumerate() {
            // SAFETY: within the room that the caller of this function vouches for.
            unsafe { self.place.add(i).write((*value).into()) };
        }
    }
}

/// A place for an output.
///
/// # Safety
///
/// The rules for pointers hold: `place` is NULL or may be written as long as the result lives.
pub(super) unsafe fn out<'a, T>(place: *mut T, name: &'static str) -> Result<Out<'a, T>> {
    Ok(Out {
        place: checked(place, name)?,
        caller: PhantomData,
    })
}

/// A place for an output that the caller may not want.
///
/// # Safety
///
/// As for [`out`].
pub(super) unsafe fn out_or_none<'a, T>(place: *mut T) -> Option<Out<'a, T>> {
    // SAFETY: the same promise.
    unsafe { out(place, "") }.ok()
}

/// An array of the caller.
///
/// # Safety
///
/// The rules for pointers hold: `first` is NULL or points to `count` elements that nobody changes while the
/// result is used.
pub(super) unsafe fn slice<'a, T>(
    first: *const T,
    count: usize,
    name: &'static str,
) -> Result<&'a [T]> {
    let first = checked(first.cast_mut(), name)?;
    let most = isize::MAX as usize / size_of::<T>();
    if count > most {
        return Err(Error::invalid(format!(
            "{name} has {count} elements; at most {most} fit in memory"
        )));
    }
    // SAFETY: not NULL, aligned, not longer than memory; the elements are there by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(first.as_ptr(), count) })
}

/// An array of keys or items of one call: 1 to 1024 of them.
///
/// # Safety
///
/// As for [`slice`].
pub(super) unsafe fn batch<'a, T>(
    first: *const T,
    count: usize,
    name: &'static str,
) -> Result<&'a [T]> {
    checked(first.cast_mut(), name)?;
    if !(1..=MAX_BATCH_KEYS).contains(&count) {
        return Err(Error::invalid(format!(
            "count is {count}; a call takes 1 to {MAX_BATCH_KEYS} {name}, so split the call"
        )));
    }
    // SAFETY: the same promise.
    unsafe { slice(first, count, name) }
}

/// The keys of one call, in the client's form.
///
/// # Safety
///
/// As for [`slice`].
pub(super) unsafe fn keys<'a>(first: *const hostkv_key, count: usize) -> Result<&'a [ChunkKey]> {
    // SAFETY: the same promise; the two structs are the same bytes, which `types` asserts.
    unsafe { batch(first.cast::<ChunkKey>(), count, "keys") }
}

/// A text of the caller, nothing for NULL.
///
/// # Safety
///
/// The rules for pointers hold: `text` is NULL or ends with a NUL byte, and nobody changes it while the result
/// is used.
pub(super) unsafe fn text<'a>(text: *const c_char, name: &'static str) -> Result<Option<&'a str>> {
    // SAFETY: the same promise.
    let Some(text) = (unsafe { c_text(text) }) else {
        return Ok(None);
    };
    if is_printable_ascii(text.to_bytes()) {
        // SAFETY: ASCII is UTF-8.
        return Ok(Some(unsafe { str::from_utf8_unchecked(text.to_bytes()) }));
    }
    text.to_str().map(Some).map_err(|error| {
        Error::invalid(format!(
            "{name} is not UTF-8 at byte {}; give UTF-8 text",
            error.valid_up_to()
        ))
    })
}

/// A path of the caller, nothing for NULL. Paths are bytes.
///
/// # Safety
///
/// As for [`text`].
pub(super) unsafe fn path<'a>(path: *const c_char) -> Option<&'a Path> {
    // SAFETY: the same promise.
    let path = unsafe { c_text(path) }?;
    Some(Path::new(OsStr::from_bytes(path.to_bytes())))
}

unsafe fn c_text<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and ends with a NUL byte by the promise of every caller of this function.
    Some(unsafe { CStr::from_ptr(text) })
}

/// The options of a reserve or acquire; NULL is none.
///
/// # Safety
///
/// The rules for pointers hold for the struct and the texts in it while the result is used.
pub(super) unsafe fn request<'a>(from: *const hostkv_request) -> Result<Request<'a>> {
    if from.is_null() {
        return Ok(Request::default());
    }
    // SAFETY: the same promise.
    unsafe {
        let from = versioned(from, "request")?;
        Ok(Request {
            flags: from.flags,
            request_id: text(from.request_id, "request.request_id")?,
            device: text(from.device, "request.device")?,
        })
    }
}

/// A struct of the caller that starts with its size; what an older caller does not have is zero.
///
/// # Safety
///
/// The rules for pointers hold: `from` is NULL or has as many bytes as its `struct_size` says.
pub(super) unsafe fn versioned<T: Versioned>(from: *const T, name: &'static str) -> Result<T> {
    // SAFETY: the same promise.
    let given_bytes = unsafe { known_bytes(from, name) }?;
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known_bytes` is at most the size of T and at most what the caller has; zeros and any bytes on
    // top of them are a value of T by the contract of `Versioned`.
    Ok(unsafe {
        std::ptr::copy_nonoverlapping(
            from.cast::<u8>(),
            value.as_mut_ptr().cast::<u8>(),
            given_bytes,
        );
        value.assume_init()
    })
}

/// Where an output goes that starts with its size, set by the caller.
pub(super) struct VersionedOut<'a, T> {
    place: NonNull<u8>,
    len_bytes: usize,
    caller: PhantomData<&'a mut T>,
}

impl<T: Versioned> VersionedOut<'_, T> {
    /// Hands out as much of the value as the caller has room for. `struct_size` stays what the caller set.
    pub(super) fn write(self, value: &T) {
        const SIZE_BYTES: usize = size_of::<u32>();
        let from = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: `versioned_out` checked that the place has `len_bytes`, at least its minimum and at most
        // size_of::<T>().
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.add(SIZE_BYTES),
                self.place.as_ptr().add(SIZE_BYTES),
                self.len_bytes - SIZE_BYTES,
            );
        }
    }
}

/// A place for an output that starts with its size.
///
/// # Safety
///
/// The rules for pointers hold: `place` is NULL or has as many bytes as its `struct_size` says, and may be
/// written as long as the result lives.
pub(super) unsafe fn versioned_out<'a, T: Versioned>(
    place: *mut T,
    name: &'static str,
) -> Result<VersionedOut<'a, T>> {
    // SAFETY: the same promise.
    let len_bytes = unsafe { known_bytes(place, name) }?;
    Ok(VersionedOut {
        place: checked(place, name)?.cast(),
        len_bytes,
        caller: PhantomData,
    })
}

/// How many bytes of the caller's struct are ones that this version knows.
///
/// # Safety
///
/// The rules for pointers hold: `from` is NULL or has as many bytes as its `struct_size` says.
unsafe fn known_bytes<T: Versioned>(from: *const T, name: &'static str) -> Result<usize> {
    let from = checked(from.cast_mut(), name)?;
    // SAFETY: not NULL and aligned; the size is the first field of every such struct.
    let said_bytes = unsafe { from.cast::<u32>().read() } as usize;
    let ours_bytes = size_of::<T>();
    // Sizes of structs with 64-bit fields are multiples of eight, so every boundary is one between fields.
    let is_known_form = said_bytes >= T::MINIMUM_BYTES
        && said_bytes <= MAX_STRUCT_BYTES
        && said_bytes.is_multiple_of(align_of::<u64>());
    if !is_known_form {
        return Err(Error::invalid(format!(
            "{name}.struct_size is {said_bytes}; set it to sizeof({}), which is {ours_bytes} here and at least {} \
             in any version",
            T::NAME,
            T::MINIMUM_BYTES
        )));
    }
    if said_bytes > ours_bytes {
        // SAFETY: the struct has `said_bytes` by the caller's promise, so these are its own, and bytes need no
        // alignment.
        let unknown = unsafe {
            std::slice::from_raw_parts(
                from.cast::<u8>().as_ptr().add(ours_bytes),
                said_bytes - ours_bytes,
            )
        };
        if let Some(at) = unknown.iter().position(|byte| *byte != 0) {
            return Err(Error::invalid(format!(
                "{name} has a field at byte {} that this version of libhostkv does not know ({} has {ours_bytes} \
                 bytes here); zero it or install a newer library",
                ours_bytes + at,
                T::NAME
            )));
        }
    }
    Ok(said_bytes.min(ours_bytes))
}

fn checked<T>(pointer: *mut T, name: &'static str) -> Result<NonNull<T>> {
    let Some(pointer) = NonNull::new(pointer) else {
        return Err(Error::invalid(format!("{name} is NULL; it must not be")));
    };
    if !pointer.is_aligned() {
        return Err(Error::invalid(format!(
            "{name} is {pointer:p}, which is not a multiple of {}",
            align_of::<T>()
        )));
    }
    Ok(pointer)
}
