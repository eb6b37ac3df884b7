//! hostkvd: owner of the KV-cache pool of one host.
//!
//! The daemon makes the segments, hands them to its sessions by descriptor, and decides which bytes belong to whom.
//! Reads of its clients never reach it: they find and pin objects in shared memory. Everything else is a frame on the
//! socket.
//!
//! ```text
//!   client processes                                   hostkvd
//!   reserve, commit, remove ... ==SOCK_SEQPACKET==> server --> request --> store ----+
//!   find, verify            <---- control segment (index) -------------------------- | written by the loop alone
//!   pin, touch, count       ----> lease segment, one a session --------------------> | scanned and folded
//!   read and write objects  <===> payload segment <---- workers: sums (never the loop) |
//!   Prometheus              <---- metrics <---- snapshots --------------------------+
//! ```
//!
//! Threads:
//!
//! | thread | does | owns |
//! |---|---|---|
//! | main | starts all, then is the loop: sockets, requests, eviction, timers | everything that changes; no lock anywhere |
//! | hostkvd-log | writes log lines | standard error; a bounded queue before it |
//! | hostkvd-events | gives events to the processors, if telemetry is on | the processors; a bounded queue before it |
//! | metrics-accept, and a render thread | HTTP | the metrics port; asks the loop for a copy of the figures |
//! | payload-N | zeroes and copies payload bytes for the store | one job each; channels before and behind it |
//! | l2-N-M | store, load and look up in tier N | one job each; bounded queues before them |
//! | l2-watch, l2-scan, l2-net, l2-open | look after tiers that are late; scan a folder; talk to a store; open it | nothing |
//! | prefault workers | touch the payload's pages, at the start only | nothing |
//!
//! Modules, each using only those above it: [`random`], [`histogram`], [`logging`], [`specs`], [`telemetry`], [`workers`], [`tiers`], [`config`], [`systemd`],
//! [`segment`], [`sandbox`], [`metrics`], [`error`], [`signal`], [`store`], [`ballast`], [`request`], [`server`], and [`run`], which puts them together.

pub mod ballast;
pub mod config;
pub mod error;
pub mod histogram;
pub mod logging;
pub mod metrics;
pub mod random;
pub mod request;
pub mod sandbox;
pub mod segment;
pub mod server;
pub mod signal;
pub mod specs;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod tiers;
pub mod workers;

mod start;

pub use start::{run, store_config};
