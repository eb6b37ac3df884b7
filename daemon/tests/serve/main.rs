//! The real hostkvd, spoken to in raw frames: start, sessions, faults, end.
//!
//! Each test starts a daemon of its own in a temporary folder; `support` has the daemon and a bare client without any of
//! the library's care.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by a panic, in its helpers too"
)]

mod faults;
mod lifecycle;
mod support;
