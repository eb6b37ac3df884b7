//! The first 16 bytes of every frame.

use super::codec::{Cursor, Writer};
use super::{MAX_FRAME_BYTES, WireError};

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 16;

/// What a frame is. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MessageType {
    /// Daemon, first of all: a nonce to be echoed.
    Challenge = 1,
    /// Opens the session.
    Hello = 2,
    /// Opens a keyspace.
    Resolve = 3,
    /// Asks for extents.
    Reserve = 4,
    /// Makes reserved entries readable.
    Commit = 5,
    /// Gives reserved extents back.
    Abort = 6,
    /// Removes keys.
    Remove = 7,
    /// Removes all keys of keyspaces.
    Clear = 8,
    /// Asks for the pool's figures.
    Stats = 9,
    /// Asks for a recount of everything.
    Audit = 10,
    /// Asks for a sign of life.
    Ping = 11,
    /// Ends the session.
    Bye = 12,
    /// Reply only: the request was refused as a whole.
    Error = 13,
    /// Asks for the objects that there are, page by page.
    List = 14,
    /// Asks for the daemon's state, page by page.
    State = 15,
    /// Asks the daemon to read its configuration again.
    Reload = 16,
    /// Asks for keys to be brought into the pool out of the tiers.
    Prefetch = 17,
    /// Ends a prefetch.
    PrefetchEnd = 18,
    /// Makes reserved entries readable, and then asks for extents.
    CommitReserve = 19,
    /// Asks for extents ahead of need.
    Grant = 20,
    /// Gives granted extents back.
    Return = 21,
    /// Makes granted entries readable.
    CommitGranted = 22,
    /// Asks to be told when the commit ring has been drained.
    Flush = 23,
}

/// The doorbell: a packet that is no frame. It wakes the daemon's loop, which then looks into the commit rings, and has no
/// other effect and no reply.
pub const DOORBELL: [u8; 1] = [0];

impl MessageType {
    /// The type with this number.
    pub fn from_number(number: u16) -> Option<MessageType> {
        use MessageType::*;
        [
            Challenge,
            Hello,
            Resolve,
            Reserve,
            Commit,
            Abort,
            Remove,
            Clear,
            Stats,
            Audit,
            Ping,
            Bye,
            Error,
            List,
            State,
            Reload,
            Prefetch,
            PrefetchEnd,
            CommitReserve,
            Grant,
            Return,
            CommitGranted,
            Flush,
        ]
        .into_iter()
        .find(|t| *t as u16 == number)
    }
}

/// Bits of [`FrameHeader::flags`].
pub mod flags {
    /// The frame answers a request.
    pub const REPLY: u16 = 1;
    /// The sender wants no reply.
    pub const NO_REPLY: u16 = 1 << 1;
    /// All bits that have a meaning.
    pub const ALL: u16 = REPLY | NO_REPLY;
}

/// The header.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | length of the frame in bytes, header included |
/// | 4 | 2 | [`MessageType`] |
/// | 6 | 2 | [`flags`] |
/// | 8 | 8 | number of the request, repeated by its reply |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub message: MessageType,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Number of the request, repeated by its reply.
    pub request_id: u64,
}

impl FrameHeader {
    /// Reads and checks the header of a packet.
    pub fn decode(frame: &[u8]) -> Result<(FrameHeader, Cursor<'_>), WireError> {
        let mut cursor = Cursor::new(frame);
        let said = cursor.u32("the header")? as usize;
        if said != frame.len() || said > MAX_FRAME_BYTES {
            return Err(WireError::Length {
                said,
                got: frame.len(),
            });
        }
        let number = cursor.u16("the header")?;
        let message = MessageType::from_number(number).ok_or(WireError::UnknownType(number))?;
        let bits = cursor.u16("the header")?;
        if bits & !flags::ALL != 0 {
            return Err(WireError::UnknownBits {
                field: "the frame's flags",
                bits: u32::from(bits & !flags::ALL),
            });
        }
        let request_id = cursor.u64("the header")?;
        Ok((
            FrameHeader {
                message,
                flags: bits,
                request_id,
            },
            cursor,
        ))
    }

    /// Starts a frame; [`Writer::finish`] fills in its length.
    pub fn start(&self) -> Writer {
        let mut writer = Writer::new();
        writer.u32(0);
        writer.u16(self.message as u16);
        writer.u16(self.flags);
        writer.u64(self.request_id);
        writer
    }
}
