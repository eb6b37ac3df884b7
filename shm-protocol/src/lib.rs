//! What the daemon and its clients must agree on.
//!
//! The daemon (`hostkvd`) and every client (`libhostkv`) share three kinds of segment and one socket. This
//! crate is the one place that says what stands in those segments, in which order their shared words are
//! read and written, and what the frames on the socket look like. It does no I/O, reads no clock, logs
//! nothing, and allocates nothing on the read path.
//!
//! ```text
//!            client process                                   daemon process
//!   +-----------------------------+              +------------------------------------+
//!   | find, verify   control::reader  <---- control segment ---- control::writer      |
//!   | pin, unpin     lease::pins      ----> lease segment  ----> lease::pins (scan)   |
//!   | touch, count   lease::recency, counters ------------------> drain, fold         |
//!   | reserve, commit  wire::request  ====> SOCK_SEQPACKET ====>  wire::codec         |
//!   +-----------------------------+              +------------------------------------+
//! ```
//!
//! Module order, each using only those above it: [`sync`], [`view`], [`mod@layout`], [`version`], [`status`],
//! [`text`], [`id`], [`extent`], [`key`], [`sum`], [`control`], [`lease`], [`wire`].
//!
//! Everything is little-endian; x86-64 and aarch64 are supported.

#[cfg(not(target_endian = "little"))]
compile_error!("the shared layouts are little-endian");

pub mod control;
pub mod extent;
pub mod id;
pub mod key;
pub mod layout;
pub mod lease;
pub mod status;
pub mod sum;
pub mod sync;
pub mod text;
pub mod version;
pub mod view;
pub mod wire;
