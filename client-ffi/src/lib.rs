//! libhostkv: the client of hostkv, a KV-cache pool that the engines of one host share.
//!
//! An engine links this library, as Rust or through its C ABI, opens a [`session::Session`] at the daemon's socket
//! and maps the pool. It stores by reserving room, writing into it in place and committing; it loads by acquiring
//! keys and reading them where they lie. The library starts no thread, prints nothing and installs no handler;
//! its code runs on the callers' threads.
//!
//! ```text
//!   engine --> ffi --> session --> read_path --> shared memory        lookup, acquire, span, check, release
//!                         |                                            (no system call, no message, no wait)
//!                         |--> reservation, lease, prefetch            what is held; given back by drop
//!                         \--> connection ====> daemon's socket        open, reserve, commit, abort, remove, ...
//! ```
//!
//! Module order, each using only those above it: [`error`], `fork`, [`mapping`], [`connection`], [`chunk_keys`],
//! [`copy`], `lane`, `pin_slots`, `read_path`, `grants`, `lease_pool`, `session::inner`, [`lease`], [`reservation`], [`prefetch`],
//! [`session`], [`admin`], [`ffi`].

pub mod admin;
pub mod chunk_keys;
pub mod connection;
pub mod copy;
pub mod error;
mod events;
pub mod ffi;
mod fork;
mod grants;
mod lane;
pub mod lease;
mod lease_pool;
pub mod mapping;
#[cfg(shuttle)]
pub mod model;
mod pin_slots;
pub mod prefetch;
mod read_path;
pub mod reservation;
pub mod session;

pub use chunk_keys::ChunkKey;
pub use error::{Error, Result};
pub use hostkv_shm_protocol::id::KeyspaceId;
pub use hostkv_shm_protocol::status::Status;
