//! What each fuzz target does with its bytes, as plain functions.
//!
//! The libFuzzer programs in `fuzz/fuzz_targets/` call these under the address sanitizer; `tests/corpus.rs` calls them
//! with the committed corpus on plain stable. A body returns when its bytes did no harm, and panics when a promise was
//! broken; bytes that mean nothing are no harm.
//!
//! ```text
//!   libFuzzer (scripts/fuzz.sh, cargo fuzz run) --\
//!                                                  >--> frames | session | lease | control | config ::run(bytes)
//!   cargo test: corpus/, regressions/, damaged ---/
//! ```
//!
//! | target | is given | looks at |
//! |---|---|---|
//! | [`frames`] | a frame | the decoders of both sides: no panic, and what is decoded encodes to the same |
//! | [`session`] | clients' moves | the daemon's state machine of a client and its store: audit, quotas, replies, grants |
//! | [`lease`] | what a client wrote into its lease segment | the daemon's scan, touches, events and counters |
//! | [`control`] | a control segment | a client's index reader |
//! | [`config`] | file, variables, arguments | the configuration: one sentence, or one that holds |

#![allow(
    clippy::unwrap_used,
    reason = "a fuzz target fails by panicking, with the place and the error"
)]

pub mod config;
pub mod control;
pub mod frames;
pub mod lease;
mod memory;
mod pool;
#[cfg(shuttle)]
pub mod schedules;
pub mod session;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("frames", frames::run),
    ("session", session::run),
    ("lease", lease::run),
    ("control", control::run),
    ("config", config::run),
];
