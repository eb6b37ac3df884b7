//! What must never change by accident: layouts and frames byte for byte, and what no bytes may do.
//!
//! The numbers here are literals on purpose. A change that breaks one of these tests changes what another build
//! sees, and asks for a new layout or protocol version (SPEC.md).
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

mod frames;
mod layouts;
mod random;
mod refusals;
