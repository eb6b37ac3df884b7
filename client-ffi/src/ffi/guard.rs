//! What stands around every extern function: no panic leaves the library, and a failure leaves its sentence.
//!
//! Every extern function runs its body in [`status`] or [`value`], on the caller's thread.
//!
//! ```text
//!   body returns Ok        -> OK              last error unchanged
//!   body returns Err(e)    -> e.status        last error = e.message
//!   body panics            -> INTERNAL        last error = where and what
//! ```
//!
//! A panic must not print either, because standard error belongs to the program. Rust's panic hook does print,
//! so the first call puts one in its place that keeps quiet while a thread is in here, and hands every other
//! panic on to the hook that was there. In the shared library that hook is the library's own copy of Rust's
//! runtime and is seen by nobody else.

use super::types::hostkv_status;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// This thread's last failure; none yet at its start.
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// Whether this thread is inside a call.
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where and what the panic was that this thread is unwinding from.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of a function that returns a status.
pub(super) fn status(body: impl FnOnce() -> Result<()>) -> hostkv_status {
    match run(body) {
        Ok(()) => hostkv_status::Ok,
        Err(error) => {
            remember(error.message);
            error.status.into()
        }
    }
}

/// Runs the body of a function that cannot fail; a panic gives `fallback`.
pub(super) fn value<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    run(|| Ok(body())).unwrap_or_else(|error| {
        remember(error.message);
        fallback
    })
}

/// The sentence of this thread's last failure, empty before the first.
pub(super) fn last_error() -> *const c_char {
    const NONE: &CStr = c"";
    LAST_ERROR
        .try_with(|last| match &*last.borrow() {
            Some(message) => message.as_ptr(),
            None => NONE.as_ptr(),
        })
        // A thread that is being torn down has no last error any more.
        .unwrap_or(NONE.as_ptr())
}

fn remember(message: String) {
    let mut bytes = message.into_bytes();
    // A NUL byte would end the sentence for a C caller.
    bytes
        .iter_mut()
        .filter(|b| **b == 0)
        .for_each(|b| *b = b' ');
    let message = CString::new(bytes).ok();
    // A thread that is being torn down has nobody left to ask for its last error.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = message);
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    install_hook();
    let was_inside = IS_INSIDE.replace(true);
    // Unwind safety: what a panic may have left half done is behind the locks of the client, which a later
    // call finds poisoned, or belongs to a handle that this call ends.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    IS_INSIDE.set(was_inside);
    outcome.unwrap_or_else(|_| {
        let what = PANIC.try_with(RefCell::take).unwrap_or_default();
        Err(Error::internal(format!(
            "a defect of libhostkv: {what}; please report this sentence"
        )))
    })
}

fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_INSIDE.get() {
                let _ = PANIC.try_with(|panic| *panic.borrow_mut() = describe(info));
            } else {
                previous(info);
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text");
    match info.location() {
        Some(place) => format!("{what} ({}:{})", place.file(), place.line()),
        None => what.to_owned(),
    }
}
