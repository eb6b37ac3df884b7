//! The C ABI: a thin skin on the Rust client, from which `include/hostkv.h` is generated.
//!
//! Callers are programs in C, C++ or anything that speaks C; their threads run everything here. There is no
//! logic in this module. Each extern function does three things: it checks its pointers, calls the one
//! method of the client that does the work, and translates the outcome.
//!
//! ```text
//!   C caller --> guard (panic boundary, last error) --> handle (pointer -> owner, slice, text, struct)
//!                                                          |
//!            <-- hostkv_status, ret_* on success only <-- crate::{session, reservation, lease, ...}
//! ```
//!
//! Module order is the order of the header: [`types`], then [`library`], [`session`], then what writes
//! ([`reservation`]), what reads ([`lease`], [`prefetch`]), and [`admin`]. `handle` and `guard` serve them all and are
//! the only files that turn a pointer into something of Rust or a panic into a status.
//!
//! # What every pointer must be
//!
//! This is the contract that the extern functions call "the rules for pointers"; the caller keeps it.
//!
//! - A handle is NULL or came from this library and has not been ended. Ending it is the last use of it, on
//!   any thread.
//! - An array is NULL or has as many elements as the count beside it says.
//! - A text is NULL or ends with a NUL byte.
//! - A struct that starts with `struct_size` has that many bytes.
//! - An output is NULL or may be written.
//! - What is passed in is not changed by another thread during the call.
//!
//! Everything else is checked here: NULL where it is not allowed, an address that is not aligned, counts,
//! sizes, and texts that are not UTF-8 are `INVALID_ARGUMENT`, and nothing is read or written.

pub mod admin;
mod guard;
mod handle;
pub mod lease;
pub mod library;
pub mod prefetch;
pub mod reservation;
pub mod session;
pub mod types;

#[cfg(test)]
mod tests;
