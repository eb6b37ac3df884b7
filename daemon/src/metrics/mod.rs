//! What hostkvd tells Prometheus: the families, their text form, and the guarded HTTP endpoint.
//!
//! `main` binds the endpoint before the payload exists (a taken port is then a cheap start-up error),
//! and serves it once the loop runs. Nothing in the daemon ever waits for this module: the loop thread
//! answers a question when it comes round to it, and a question that waits too long is given up here.
//!
//! ```text
//!   scraper --TCP--> acceptor thread --inner Unix socket--> tiny_http --> render thread
//!                    (http/acceptor.rs)                                     |  SnapshotSource::snapshot
//!                                                                           v
//!                                                                     loop thread: folds the sessions'
//!                                                                     counters, copies one Snapshot
//! ```
//!
//! * `families.rs`: every family once, with its unit, sentence and kind; the fields of [`Snapshot`].
//! * `tiers.rs`: the families of each tier.
//! * `durations.rs`: how long requests take, which the server counts.
//! * `render.rs`: a snapshot as Prometheus text 0.0.4, through the `prometheus` crate.
//! * `process.rs`: the six standard `process_` families, read from `/proc/self`.
//! * `history.rs`: the last quarter of an hour, for the status page.
//! * `http.rs` and `http/`: the endpoint, its pages among them.

mod durations;
mod families;
mod history;
mod http;
mod process;
mod render;
mod tiers;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use durations::{RequestDurations, TimedRequest};
pub use families::{Snapshot, WriteFailures};
pub use http::{BindError, Bound, Endpoint, ServeError};
pub use render::{RenderError, Renderer};

/// Where the endpoint gets its figures from; the side of the loop thread.
///
/// The render thread calls it, one call at a time. Both methods must come back promptly when the loop
/// thread has ended, so that a stop need not wait for the deadline.
pub trait SnapshotSource: Send + 'static {
    /// One consistent copy of all figures, made by the loop thread after it has folded the counters of
    /// all sessions. `None`: the loop thread did not answer by `deadline`.
    fn snapshot(&self, deadline: Instant) -> Option<Snapshot>;

    /// Whether the daemon serves sessions now: `/healthz` says 200 or 503 by it. Must not wait.
    fn is_serving(&self) -> bool;
}
