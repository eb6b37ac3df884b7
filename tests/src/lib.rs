//! The harness of the end-to-end tests: a real `hostkvd` in a temporary folder, worker processes to be killed,
//! and the small helpers that every test needs.
//!
//! Called by the tests under `e2e/` on their own threads, and by the worker program (`src/bin/worker.rs`).
//!
//! ```text
//!   test thread ── DaemonSpec::start ──> hostkvd   (stderr ──> collected; metrics port read from the log)
//!        │ ─────── Worker::start ──────> worker    (one command a line in, one answer a line out)
//!        │ ─────── Session / RawClient ─ socket ─> hostkvd
//!        └─ Daemon::finish: audit without a finding, SIGTERM, exit code 0, socket removed
//! ```
//!
//! Nothing outlives its test: the kernel kills each child when the thread that started it ends, and a drop kills
//! and reaps it before that. All is loopback and Unix sockets, all waits are bounded by [`PATIENCE`].

#![allow(
    clippy::unwrap_used,
    reason = "a harness of tests fails by panicking, with the place and the error"
)]

pub mod attack;
pub mod cgroup;
mod daemon;
mod manager;
pub mod pattern;
mod pool;
mod raw;
mod s3;
mod scrape;
mod skip;
pub mod torture;
mod worker;

pub use daemon::{Daemon, DaemonSpec, FailedStart, daemon_program};
pub use manager::{Manager, Notice};
pub use pool::{
    Random, assert_reads, fill, is_filled, key, keys, keyspace, keyspace_config, outcome, overfill,
    request, reserve_items, seed, statuses_of, store, store_sized, wait_until,
};
pub use raw::{RawClient, Refused};
pub use s3::S3Server;
pub use scrape::{NINE, Scrape};
pub use skip::{is_root, skip};
pub use worker::{Worker, end_with_parent};

use std::time::Duration;

/// The longest that anything may take; only a broken daemon needs it.
pub const PATIENCE: Duration = Duration::from_secs(30);
