//! Opening a session.
//!
//! ```text
//! daemon: CHALLENGE(nonce) --> client: HELLO(nonce, versions, wishes) --> daemon: HELLO reply + descriptors
//! ```
//!
//! The descriptors of the reply, in this order: control segment (read-only), lease segment (read-write),
//! payload segment (read-write for a trusted writer, else read-only), for an untrusted writer its staging segment
//! (read-write), the daemon's own pidfd.
//! Nonce, protocol version and layout fingerprint stand first in HELLO in every version, so that any daemon
//! can name both versions when it refuses.

use super::codec::Cursor;
use super::header::{FrameHeader, MessageType, flags};
use super::{MAX_CLIENT_NAME_BYTES, WireError};
use crate::id::{InstanceId, SessionId};

/// Bytes of the nonce.
pub const NONCE_BYTES: usize = 16;
/// Descriptors that come with the HELLO reply.
pub const HELLO_DESCRIPTORS: usize = 4;
/// Descriptors that come with the HELLO reply of an untrusted writer: the staging segment stands before the last.
pub const STAGED_HELLO_DESCRIPTORS: usize = 5;
/// Bytes of a version text in a fixed field.
pub const VERSION_BYTES: usize = 32;

/// Bits of [`Hello::flags`].
pub mod hello_flags {
    /// The session will not write.
    pub const READ_ONLY: u32 = 1;
    /// The session wants a commit ring.
    pub const ASYNC_COMMIT: u32 = 1 << 1;
    /// All bits that have a meaning.
    pub const ALL: u32 = READ_ONLY | ASYNC_COMMIT;
}

/// The daemon's first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// To be echoed in HELLO.
    pub nonce: [u8; NONCE_BYTES],
}

impl Challenge {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = FrameHeader {
            message: MessageType::Challenge,
            flags: 0,
            request_id: 0,
        }
        .start();
        w.bytes(&self.nonce);
        w.finish()
    }

    /// Reads the body.
    pub fn decode(mut c: Cursor<'_>) -> Result<Challenge, WireError> {
        let nonce = c.array("the nonce")?;
        c.finish()?;
        Ok(Challenge { nonce })
    }
}

/// What stands first in HELLO in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloPrefix {
    /// The challenge's nonce.
    pub nonce: [u8; NONCE_BYTES],
    /// The client's protocol version.
    pub protocol_version: u32,
    /// Fingerprint of the client's layouts.
    pub abi_hash: u64,
}

/// A client's wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Nonce and versions.
    pub prefix: HelloPrefix,
    /// Bits of [`hello_flags`].
    pub flags: u32,
    /// Pin slots wanted; 0 = the default.
    pub pin_slot_count: u32,
    /// The client's CLOCK_MONOTONIC in nanoseconds, to find a shifted time namespace.
    pub mono_ns: u64,
    /// Version of the client's library.
    pub client_version: String,
    /// Name for logs; may be empty.
    pub client_name: String,
}

impl HelloPrefix {
    /// Reads the part that every version has; what follows is for [`Hello::decode_rest`].
    pub fn decode(c: &mut Cursor<'_>) -> Result<HelloPrefix, WireError> {
        Ok(HelloPrefix {
            nonce: c.array("the nonce")?,
            protocol_version: c.u32("the protocol version")?,
            abi_hash: c.u64("the layout fingerprint")?,
        })
    }
}

impl Hello {
    /// The frame.
    pub fn encode(&self, request_id: u64) -> Vec<u8> {
        let mut w = FrameHeader {
            message: MessageType::Hello,
            flags: 0,
            request_id,
        }
        .start();
        w.bytes(&self.prefix.nonce);
        w.u32(self.prefix.protocol_version);
        w.u64(self.prefix.abi_hash);
        w.u32(self.flags);
        w.u32(self.pin_slot_count);
        w.u64(self.mono_ns);
        w.text(&self.client_version);
        w.text(&self.client_name);
        w.finish()
    }

    /// Reads what follows the prefix of this build's version.
    pub fn decode_rest(prefix: HelloPrefix, mut c: Cursor<'_>) -> Result<Hello, WireError> {
        let bits = c.u32("HELLO's flags")?;
        if bits & !hello_flags::ALL != 0 {
            return Err(WireError::UnknownBits {
                field: "HELLO's flags",
                bits: bits & !hello_flags::ALL,
            });
        }
        let hello = Hello {
            prefix,
            flags: bits,
            pin_slot_count: c.u32("pin_slot_count")?,
            mono_ns: c.u64("the clock")?,
            client_version: c
                .plain_text(0, VERSION_BYTES, "the client's version")?
                .to_owned(),
            client_name: c
                .plain_text(0, MAX_CLIENT_NAME_BYTES, "client_name")?
                .to_owned(),
        };
        c.finish()?;
        Ok(hello)
    }
}

/// What a session gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloReply {
    /// The daemon's instance.
    pub instance_id: InstanceId,
    /// Thread id of the daemon's loop: what `daemon_alive` holds while it lives.
    pub daemon_thread_id: u32,
    /// Number of the session.
    pub session_id: SessionId,
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Unit of extents in bytes.
    pub align_bytes: u64,
    /// Payload bytes on huge pages.
    pub huge_page_bytes: u64,
    /// Most bytes that the session may pin.
    pub pin_quota_bytes: u64,
    /// Most bytes that the session may have reserved.
    pub reserve_quota_bytes: u64,
    /// Most bytes that one keyspace may use.
    pub keyspace_quota_bytes: u64,
    /// Length of the session's staging segment in bytes; 0 = it has none, and writes into the payload.
    pub staging_bytes: u64,
    /// Largest object in bytes.
    pub max_object_bytes: u64,
    /// Pin slots of the session.
    pub pin_slot_count: u32,
    /// Most keys of one call.
    pub max_batch_keys: u32,
    /// Tokens per key of a keyspace that names none.
    pub chunk_size: u32,
    /// Version of the daemon.
    pub server_version: String,
}

impl HelloReply {
    /// The frame.
    pub fn encode(&self, request_id: u64) -> Vec<u8> {
        let mut w = FrameHeader {
            message: MessageType::Hello,
            flags: flags::REPLY,
            request_id,
        }
        .start();
        w.bytes(&self.instance_id.0);
        w.u32(self.daemon_thread_id);
        w.u64(self.session_id.0);
        w.u64(self.capacity_bytes);
        w.u64(self.align_bytes);
        w.u64(self.huge_page_bytes);
        w.u64(self.pin_quota_bytes);
        w.u64(self.reserve_quota_bytes);
        w.u64(self.keyspace_quota_bytes);
        w.u64(self.staging_bytes);
        w.u64(self.max_object_bytes);
        w.u32(self.pin_slot_count);
        w.u32(self.max_batch_keys);
        w.u32(self.chunk_size);
        w.text(&self.server_version);
        w.finish()
    }

    /// Reads the body.
    pub fn decode(mut c: Cursor<'_>) -> Result<HelloReply, WireError> {
        let reply = HelloReply {
            instance_id: InstanceId(c.array("instance_id")?),
            daemon_thread_id: c.u32("daemon_thread_id")?,
            session_id: SessionId(c.u64("session_id")?),
            capacity_bytes: c.u64("capacity_bytes")?,
            align_bytes: c.u64("align_bytes")?,
            huge_page_bytes: c.u64("huge_page_bytes")?,
            pin_quota_bytes: c.u64("pin_quota_bytes")?,
            reserve_quota_bytes: c.u64("reserve_quota_bytes")?,
            keyspace_quota_bytes: c.u64("keyspace_quota_bytes")?,
            staging_bytes: c.u64("staging_bytes")?,
            max_object_bytes: c.u64("max_object_bytes")?,
            pin_slot_count: c.u32("pin_slot_count")?,
            max_batch_keys: c.u32("max_batch_keys")?,
            chunk_size: c.u32("chunk_size")?,
            server_version: c
                .plain_text(0, VERSION_BYTES - 1, "server_version")?
                .to_owned(),
        };
        c.finish()?;
        Ok(reply)
    }
}
