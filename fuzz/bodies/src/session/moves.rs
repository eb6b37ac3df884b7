//! What clients and time can do, in a form that `arbitrary` makes from bytes.

use arbitrary::Arbitrary;

/// One play.
#[derive(Debug, Arbitrary)]
pub struct Play {
    /// A slice does as little as it can.
    pub has_short_slices: bool,
    /// Reservations expire after a second.
    pub has_write_ttl: bool,
    /// Pins expire after a second.
    pub has_read_ttl: bool,
    /// What happens, in order.
    pub moves: Vec<Move>,
}

/// One move; `who` is one of four clients.
#[derive(Debug, Arbitrary)]
pub enum Move {
    /// A client connects, if that place is free, and says HELLO unless it is `silent`.
    Connect {
        who: u8,
        is_silent: bool,
        is_read_only: bool,
        is_admin: bool,
    },
    /// A frame of the right form, or nearly.
    Ask {
        who: u8,
        ask: Ask,
        wants_reply: bool,
        damage: Option<Damage>,
    },
    /// Any bytes as a packet.
    Send { who: u8, bytes: Vec<u8> },
    /// The client leaves its replies unread from now on, or reads again.
    Listen { who: u8, is_listening: bool },
    /// The client pins a key as the library does.
    Pin { who: u8, slot: u8, key: u8 },
    /// It releases the slot.
    Unpin { who: u8, slot: u8 },
    /// It touches an entry as the library does.
    Touch { who: u8, entry: u8 },
    /// It writes words of its lease segment that it should not.
    Scribble { who: u8, words: Vec<Scribble> },
    /// Its socket is closed, its process lives.
    Close { who: u8 },
    /// Its process dies.
    Die { who: u8 },
    /// Time passes.
    Tick { tenths: u8 },
    /// The loop works on what is due.
    Slices { count: u8 },
}

/// A request of the right form.
#[derive(Debug, Arbitrary)]
pub enum Ask {
    /// Opens a keyspace.
    Resolve {
        model: u8,
        salt: u8,
        tokens: u8,
        as_it_stands: bool,
    },
    /// Reserves.
    Reserve {
        op: u8,
        keyspace: u8,
        items: Vec<(u8, u16)>,
    },
    /// Commits what an earlier reserve was granted, or nearly.
    Commit { op: u8, skew: u8 },
    /// Gives it back, or nearly.
    Abort { op: u8, skew: u8 },
    /// Removes keys.
    Remove { keyspace: u8, keys: Vec<u8> },
    /// Clears its own keyspaces or all.
    Clear { is_all: bool },
    /// The figures.
    Stats,
    /// A recount.
    Audit,
    /// A sign of life.
    Ping,
    /// The end.
    Bye,
    /// Has keys kept in the pool.
    Prefetch { op: u8, keyspace: u8, keys: Vec<u8> },
    /// Ends that.
    PrefetchEnd { op: u8 },
    /// Commits as above, and reserves in the same request.
    CommitReserve {
        op: u8,
        skew: u8,
        next: u8,
        keyspace: u8,
        items: Vec<(u8, u16)>,
    },
}

/// What happens to a frame on its way.
#[derive(Debug, Arbitrary)]
pub enum Damage {
    /// One byte is changed.
    Flip { at: u16, bits: u8 },
    /// The end is missing, and the length says so or not.
    Cut { by: u16, is_told: bool },
    /// Something follows.
    Append { bytes: [u8; 3], is_told: bool },
}

/// A word of a lease segment.
#[derive(Debug, Arbitrary)]
pub struct Scribble {
    /// Where.
    pub part: Part,
    /// Which word there.
    pub word: u16,
    /// What.
    pub value: Value,
}

/// A part of a lease segment.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Part {
    Header,
    Slots,
    Recency,
    Bitmap,
    Events,
}

/// A word's value.
#[derive(Debug, Arbitrary)]
pub enum Value {
    Any(u64),
    Small(u8),
    /// A small number in each half.
    Halves(u8, u8),
}

impl Value {
    /// As a word.
    pub fn word(&self) -> u64 {
        match self {
            Value::Any(word) => *word,
            Value::Small(word) => u64::from(*word),
            Value::Halves(high, low) => u64::from(*high) << 32 | u64::from(*low),
        }
    }
}
