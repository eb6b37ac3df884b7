//! Frames on the socket.
//!
//! The socket is `SOCK_SEQPACKET`: one frame is one packet. A frame is a [`header::FrameHeader`] of 16 bytes
//! and a body whose length the header repeats. Receivers act in one order: header, descriptors, header check,
//! body, body check, act, reply. What does not decode is answered by an error and the end of the connection.
//!
//! [`hello`] opens a session, [`request`] and [`reply`] are everything after it, [`report`] what the replies to an
//! operator's questions hold as JSON, [`codec`] the cursor all are written with. No length in a frame is trusted before it has been compared with the frame's own.

pub mod codec;
pub mod header;
pub mod hello;
pub mod reply;
pub mod report;
pub mod request;

use crate::key::KeyError;
use thiserror::Error;

/// Longest frame in bytes, header included.
pub const MAX_FRAME_BYTES: usize = 128 * 1024;
/// Most keys or items of one call.
pub const MAX_BATCH_KEYS: usize = 1024;
/// Most requests of a session that wait for their reply; one GRANT may be under way beside them.
pub const MAX_OUTSTANDING: usize = 64;
/// Most prefetches that a session has open at a time, so that they never take all places for replies.
pub const MAX_PREFETCHES: usize = 32;
/// Longest model name in bytes; the shortest is 1.
pub const MAX_MODEL_NAME_BYTES: usize = 144;
/// Longest cache salt in bytes.
pub const MAX_CACHE_SALT_BYTES: usize = 128;
/// Longest request id in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Longest device name in bytes.
pub const MAX_DEVICE_BYTES: usize = 32;
/// Longest client name in bytes.
pub const MAX_CLIENT_NAME_BYTES: usize = 64;
/// Longest text of an error reply in bytes.
pub const MAX_ERROR_TEXT_BYTES: usize = 1024;
/// Longest JSON text of a page of LIST or STATE, or of the answer to RELOAD, in bytes.
pub const MAX_PAGE_BYTES: usize = 120 * 1024;
/// Most objects of a page of LIST.
pub const MAX_LIST_OBJECTS: usize = 1024;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The frame ends before a field does.
    #[error("the frame ends at byte {len}, inside {field}")]
    Short {
        /// Field that does not fit.
        field: &'static str,
        /// Length of the frame in bytes.
        len: usize,
    },
    /// Bytes are left over.
    #[error("the frame has {0} bytes behind its last field")]
    Trailing(usize),
    /// The header's length is not the packet's.
    #[error("the frame says {said} bytes and has {got}; at most {MAX_FRAME_BYTES} are allowed")]
    Length {
        /// Length in the header.
        said: usize,
        /// Length of the packet.
        got: usize,
    },
    /// No message has this number.
    #[error("no message has the number {0}")]
    UnknownType(u16),
    /// A bit that has no meaning is set.
    #[error("{field} has unknown bits set: {bits:#x}")]
    UnknownBits {
        /// Field with the bits.
        field: &'static str,
        /// Its unknown bits.
        bits: u32,
    },
    /// A count or length is not allowed.
    #[error("{field} is {value}; allowed are {least} to {most}")]
    Range {
        /// Field that is off.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Least allowed value.
        least: u64,
        /// Largest allowed value.
        most: u64,
    },
    /// A text is not UTF-8, or has bytes that it must not have.
    #[error("{0} is not UTF-8 text without control characters")]
    Text(&'static str),
    /// A key is malformed.
    #[error("a key is malformed: {0}")]
    Key(#[from] KeyError),
}
