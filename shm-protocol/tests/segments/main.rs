//! The shared words over a heap buffer that stands in for the map: index, pins, recency, counters.
//!
//! No file is mapped and nobody sleeps, so the tests can run under Miri.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

mod counters;
mod heap;
mod index;
mod pins;
mod recency;
