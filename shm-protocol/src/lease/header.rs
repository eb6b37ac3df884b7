//! The first 4096 bytes of a lease segment.

/// `HKVLSE01`, read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HKVLSE01");

crate::layout! {
    /// The lease header. Words that different sides write lie in different cache lines.
    pub struct LeaseHeader [4096] {
        /// [`MAGIC`]; the daemon writes it before it hands the segment over.
        0: magic: u64,
        /// Fingerprint of the layouts.
        8: abi_hash: u64,
        /// The daemon's instance.
        16: instance_id: [u64; 2],
        /// The session.
        32: session_id: u64,
        /// Pin slots.
        40: slot_count: u32,
        /// Records of the recency ring.
        44: recency_capacity: u32,
        /// Records of the event ring; 0 = none.
        48: event_capacity: u32,
        /// Records of the commit ring; 0 = none.
        52: commit_capacity: u32,
        /// 64-bit words of the overflow bitmap.
        56: bitmap_words: u32,
        /// Zero.
        60: flags: u32,
        /// Client: one more than the highest pin slot ever used.
        64: slot_high_water: u32,
        /// Zero.
        68: reserved_68: u32,
        /// Keeps the next word on a line of its own.
        72: reserved_72: [u64; 7],
        /// Client: records claimed in the recency ring.
        128: recency_head: u64,
        /// Keeps the next word on a line of its own.
        136: reserved_136: [u64; 7],
        /// Daemon: records taken from the recency ring.
        192: recency_tail: u64,
        /// Keeps the next word on a line of its own.
        200: reserved_200: [u64; 7],
        /// Client: records claimed in the event ring.
        256: event_head: u64,
        /// Client: events dropped.
        264: event_dropped: u64,
        /// Keeps the next word on a line of its own.
        272: reserved_272: [u64; 6],
        /// Daemon: records taken from the event ring.
        320: event_tail: u64,
        /// Keeps the next word on a line of its own.
        328: reserved_328: [u64; 7],
        /// Client: records claimed in the commit ring.
        384: commit_head: u64,
        /// Keeps the next word on a line of its own.
        392: reserved_392: [u64; 7],
        /// Daemon: records taken from the commit ring.
        448: commit_tail: u64,
        /// Keeps the next words on lines of their own.
        456: reserved_456: [u64; 7],
        /// Client: see [`crate::lease::counters`].
        512: counters: [u64; 16],
        /// Zero.
        640: reserved_640: [u64; 432],
    }
}
