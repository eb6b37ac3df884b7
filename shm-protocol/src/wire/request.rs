//! What a client asks after HELLO.

use super::codec::{Cursor, Writer};
use super::header::{FrameHeader, MessageType, flags};
use super::reply::{COMMITTED_ITEM_BYTES, GRANTED_EXTENT_BYTES, RESERVED_ITEM_BYTES};
use super::{
    MAX_BATCH_KEYS, MAX_CACHE_SALT_BYTES, MAX_DEVICE_BYTES, MAX_LIST_OBJECTS, MAX_MODEL_NAME_BYTES,
    MAX_REQUEST_ID_BYTES, WireError,
};
use crate::id::{EntryNumber, OpId};
use crate::key::{KEY_BYTES, Key};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens a keyspace.
    Resolve(Resolve),
    /// Asks for extents.
    Reserve(Reserve),
    /// Makes entries of a reservation readable, the last first.
    Commit(Held),
    /// Commits a reservation and then makes the next one. What is wrong with the reserve is refused before anything is
    /// committed; what the commit does not do for every entry leaves the reserve undone.
    CommitReserve(Held, Reserve),
    /// Gives entries of a reservation back.
    Abort(Held),
    /// Removes keys.
    Remove(Vec<Key>),
    /// Removes all keys of the session's keyspaces, or of all.
    Clear {
        /// Bits of [`clear_flags`].
        flags: u32,
    },
    /// Asks for the pool's figures.
    Stats,
    /// Asks for a recount of everything (admin).
    Audit,
    /// Asks for a sign of life.
    Ping,
    /// Ends the session; its client has unmapped the payload and holds nothing any more.
    Bye,
    /// Asks for a page of the objects that there are (admin).
    List(List),
    /// Asks for a page of the daemon's state (admin).
    State {
        /// The session after which the page begins; 0 = the first page, which tells of the daemon itself too.
        cursor: u64,
    },
    /// Has the daemon read its configuration again, as SIGHUP does (admin).
    Reload,
    /// Has keys brought into the pool out of the tiers and kept there. Answered when that is over.
    Prefetch(Prefetch),
    /// Ends a prefetch: what it kept may be evicted again. One that still goes on is answered too.
    PrefetchEnd {
        /// The prefetch.
        op_id: OpId,
    },
    /// Asks for extents ahead of need, each with an entry of its own.
    Grant(Grant),
    /// Gives granted extents back; what is not granted under its generation any more is passed over.
    Return(Vec<HeldItem>),
    /// Makes granted entries readable, the last first, as records of the commit ring do.
    CommitGranted(Vec<GrantedItem>),
    /// Asks to be told when every commit of the session up to a position of its commit ring is carried out.
    Flush {
        /// The position: one more than that of the last record that counts.
        position: u64,
    },
}

/// Extents ahead of need. Fewer may be granted, or none: a grant never evicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Length of each in bytes.
    pub len_bytes: u32,
    /// How many, 1 to 1024.
    pub count: u32,
}

/// A granted entry that is to become readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedItem {
    /// Its key.
    pub key: Key,
    /// The entry.
    pub entry: EntryNumber,
    /// Length of its object in bytes.
    pub len_bytes: u32,
}

/// Bits of [`Request::Clear`].
pub mod clear_flags {
    /// Every key there is; admin users only.
    pub const ALL_KEYSPACES: u32 = 1;
    /// All bits that have a meaning.
    pub const ALL: u32 = ALL_KEYSPACES;
}

/// Bits of [`Resolve::flags`].
pub mod resolve_flags {
    /// Take the keyspace as it stands: any fingerprint and tokens per key, no take-over.
    pub const AS_IT_STANDS: u32 = 1;
    /// All bits that have a meaning.
    pub const ALL: u32 = AS_IT_STANDS;
}

/// Bits of [`List::flags`].
pub mod list_flags {
    /// Only objects of the model in [`List::model_name`](super::List::model_name).
    pub const BY_MODEL: u32 = 1;
    /// Only objects of the tenant in [`List::cache_salt`](super::List::cache_salt).
    pub const BY_SALT: u32 = 1 << 1;
    /// All bits that have a meaning.
    pub const ALL: u32 = BY_MODEL | BY_SALT;
}

/// A page of the objects that there are.
///
/// A walk begins with the cursor 0 and goes on with the one that each page gives. An object that is there during the
/// whole walk is in exactly one page; one that comes or goes meanwhile may be in one or in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Bits of [`list_flags`].
    pub flags: u32,
    /// Most objects of the page, 1 to 1024; it may have fewer, even none, and not be the last.
    pub limit: u32,
    /// Where the page begins; what is past the last entry gives the last page, without objects.
    pub cursor: u64,
    /// Name of the model, 0 to 144 bytes; not looked at without its flag.
    pub model_name: String,
    /// Salt of the tenant, 0 to 128 bytes; not looked at without its flag.
    pub cache_salt: String,
}

/// A keyspace to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// Bits of [`resolve_flags`].
    pub flags: u32,
    /// Tokens that one key stands for; 0 = the daemon's chunk size.
    pub tokens_per_key: u32,
    /// The caller's number for dtype, shape, layer count and quantisation.
    pub layout_fingerprint: u64,
    /// Name of the model, 1 to 144 bytes.
    pub model_name: String,
    /// Salt of the tenant, 0 to 128 bytes.
    pub cache_salt: String,
}

/// One key and the bytes wanted for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReserveItem {
    /// The key.
    pub key: Key,
    /// Length of its object in bytes.
    pub len_bytes: u32,
}

/// A reserve of 1 to 1024 keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// The client's number for the reservation, unique within the session.
    pub op_id: OpId,
    /// The caller's request id; empty = none.
    pub request_id: String,
    /// The caller's device name; may be empty.
    pub device: String,
    /// What is wanted.
    pub items: Vec<ReserveItem>,
}

/// An entry of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldItem {
    /// The entry that the reserve's reply named.
    pub entry: EntryNumber,
    /// The generation that the reserve's reply named.
    pub generation: u64,
}

/// Entries of one reservation, to be committed or aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The reservation.
    pub op_id: OpId,
    /// Which of its entries.
    pub items: Vec<HeldItem>,
}

/// A prefetch of 1 to 1024 keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// The client's number for the prefetch, unique within the session.
    pub op_id: OpId,
    /// The caller's request id; empty = none.
    pub request_id: String,
    /// The caller's device name; may be empty.
    pub device: String,
    /// What is wanted, in the order of the prefix.
    pub keys: Vec<Key>,
}

const RESERVE_ITEM_BYTES: usize = KEY_BYTES + 4;
const HELD_ITEM_BYTES: usize = 12;
const GRANTED_ITEM_BYTES: usize = KEY_BYTES + 8;

impl Request {
    /// The message type.
    pub fn message(&self) -> MessageType {
        match self {
            Request::Resolve(_) => MessageType::Resolve,
            Request::Reserve(_) => MessageType::Reserve,
            Request::Commit(_) => MessageType::Commit,
            Request::CommitReserve(..) => MessageType::CommitReserve,
            Request::Abort(_) => MessageType::Abort,
            Request::Remove(_) => MessageType::Remove,
            Request::Clear { .. } => MessageType::Clear,
            Request::Stats => MessageType::Stats,
            Request::Audit => MessageType::Audit,
            Request::Ping => MessageType::Ping,
            Request::Bye => MessageType::Bye,
            Request::List(_) => MessageType::List,
            Request::State { .. } => MessageType::State,
            Request::Reload => MessageType::Reload,
            Request::Prefetch(_) => MessageType::Prefetch,
            Request::PrefetchEnd { .. } => MessageType::PrefetchEnd,
            Request::Grant(_) => MessageType::Grant,
            Request::Return(_) => MessageType::Return,
            Request::CommitGranted(_) => MessageType::CommitGranted,
            Request::Flush { .. } => MessageType::Flush,
        }
    }

    /// At least the length of the reply in bytes, where that grows with the request.
    pub fn reply_bytes(&self) -> usize {
        const REST_BYTES: usize = 64;
        let reserved = |reserve: &Reserve| reserve.items.len() * RESERVED_ITEM_BYTES;
        let committed = |held: &Held| held.items.len() * COMMITTED_ITEM_BYTES;
        REST_BYTES
            + match self {
                Request::Reserve(reserve) => reserved(reserve),
                Request::Commit(held) => committed(held),
                Request::CommitReserve(held, reserve) => committed(held) + reserved(reserve),
                Request::CommitGranted(items) => items.len() * COMMITTED_ITEM_BYTES,
                Request::Grant(grant) => grant.count as usize * GRANTED_EXTENT_BYTES,
                _ => 0,
            }
    }

    /// The frame.
    pub fn encode(&self, request_id: u64, wants_reply: bool) -> Vec<u8> {
        let mut w = FrameHeader {
            message: self.message(),
            flags: if wants_reply { 0 } else { flags::NO_REPLY },
            request_id,
        }
        .start();
        match self {
            Request::Resolve(r) => {
                w.u32(r.flags);
                w.u32(r.tokens_per_key);
                w.u64(r.layout_fingerprint);
                w.text(&r.model_name);
                w.text(&r.cache_salt);
            }
            Request::Reserve(reserve) => encode_reserve(&mut w, reserve),
            Request::CommitReserve(held, reserve) => {
                encode_held(&mut w, held);
                encode_reserve(&mut w, reserve);
            }
            Request::Commit(held) | Request::Abort(held) => encode_held(&mut w, held),
            Request::Remove(keys) => encode_keys(&mut w, keys),
            Request::Prefetch(prefetch) => {
                encode_asked(
                    &mut w,
                    prefetch.op_id,
                    &prefetch.request_id,
                    &prefetch.device,
                );
                encode_keys(&mut w, &prefetch.keys);
            }
            Request::PrefetchEnd { op_id } => w.u64(op_id.0),
            Request::Grant(grant) => {
                w.u32(grant.len_bytes);
                w.u32(grant.count);
            }
            Request::Return(items) => encode_held_items(&mut w, items),
            Request::CommitGranted(items) => {
                w.u32(items.len() as u32);
                for item in items {
                    w.bytes(&item.key.to_bytes());
                    w.u32(item.entry.0);
                    w.u32(item.len_bytes);
                }
            }
            Request::Flush { position } => w.u64(*position),
            Request::Clear { flags } => w.u32(*flags),
            Request::List(list) => {
                w.u32(list.flags);
                w.u32(list.limit);
                w.u64(list.cursor);
                w.text(&list.model_name);
                w.text(&list.cache_salt);
            }
            Request::State { cursor } => w.u64(*cursor),
            Request::Stats | Request::Audit | Request::Ping | Request::Bye | Request::Reload => {}
        }
        w.finish()
    }

    /// Reads the body of a request whose header has been read.
    pub fn decode(header: &FrameHeader, mut c: Cursor<'_>) -> Result<Request, WireError> {
        if header.flags & flags::REPLY != 0 {
            return Err(WireError::UnknownBits {
                field: "a request's flags",
                bits: u32::from(flags::REPLY),
            });
        }
        let request = match header.message {
            MessageType::Resolve => Request::Resolve(Resolve {
                flags: known_bits(
                    c.u32("RESOLVE's flags")?,
                    resolve_flags::ALL,
                    "RESOLVE's flags",
                )?,
                tokens_per_key: c.u32("tokens_per_key")?,
                layout_fingerprint: c.u64("layout_fingerprint")?,
                model_name: c.text(1, MAX_MODEL_NAME_BYTES, "model_name")?.to_owned(),
                cache_salt: c.text(0, MAX_CACHE_SALT_BYTES, "cache_salt")?.to_owned(),
            }),
            MessageType::Reserve => Request::Reserve(decode_reserve(&mut c)?),
            MessageType::Commit => Request::Commit(decode_held(&mut c)?),
            MessageType::CommitReserve => {
                let held = decode_held(&mut c)?;
                Request::CommitReserve(held, decode_reserve(&mut c)?)
            }
            MessageType::Abort => Request::Abort(decode_held(&mut c)?),
            MessageType::Remove => Request::Remove(decode_keys(&mut c)?),
            MessageType::Prefetch => {
                let (op_id, request_id, device) = decode_asked(&mut c)?;
                Request::Prefetch(Prefetch {
                    op_id,
                    request_id,
                    device,
                    keys: decode_keys(&mut c)?,
                })
            }
            MessageType::PrefetchEnd => Request::PrefetchEnd {
                op_id: OpId(c.u64("op_id")?),
            },
            MessageType::Grant => Request::Grant(Grant {
                len_bytes: c.u32("len_bytes")?,
                count: c.within(1, MAX_BATCH_KEYS, "the extent count")?,
            }),
            MessageType::Return => Request::Return(decode_held_items(&mut c)?),
            MessageType::CommitGranted => {
                let count = c.count(1, MAX_BATCH_KEYS, GRANTED_ITEM_BYTES, "the item count")?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(GrantedItem {
                        key: c.key()?,
                        entry: EntryNumber(c.u32("an entry")?),
                        len_bytes: c.u32("len_bytes")?,
                    });
                }
                Request::CommitGranted(items)
            }
            MessageType::Flush => Request::Flush {
                position: c.u64("a position")?,
            },
            MessageType::Clear => Request::Clear {
                flags: known_bits(c.u32("CLEAR's flags")?, clear_flags::ALL, "CLEAR's flags")?,
            },
            MessageType::Stats => Request::Stats,
            MessageType::Audit => Request::Audit,
            MessageType::Ping => Request::Ping,
            MessageType::Bye => Request::Bye,
            MessageType::List => Request::List(List {
                flags: known_bits(c.u32("LIST's flags")?, list_flags::ALL, "LIST's flags")?,
                limit: c.within(1, MAX_LIST_OBJECTS, "LIST's limit")?,
                cursor: c.u64("LIST's cursor")?,
                model_name: c.text(0, MAX_MODEL_NAME_BYTES, "model_name")?.to_owned(),
                cache_salt: c.text(0, MAX_CACHE_SALT_BYTES, "cache_salt")?.to_owned(),
            }),
            MessageType::State => Request::State {
                cursor: c.u64("STATE's cursor")?,
            },
            MessageType::Reload => Request::Reload,
            MessageType::Challenge | MessageType::Hello | MessageType::Error => {
                return Err(WireError::UnknownType(header.message as u16));
            }
        };
        c.finish()?;
        Ok(request)
    }
}

fn known_bits(bits: u32, known: u32, field: &'static str) -> Result<u32, WireError> {
    if bits & !known != 0 {
        return Err(WireError::UnknownBits {
            field,
            bits: bits & !known,
        });
    }
    Ok(bits)
}

fn encode_asked(w: &mut Writer, op_id: OpId, request_id: &str, device: &str) {
    w.u64(op_id.0);
    w.text(request_id);
    w.text(device);
}

fn decode_asked(c: &mut Cursor<'_>) -> Result<(OpId, String, String), WireError> {
    let op_id = OpId(c.u64("op_id")?);
    let request_id = c.plain_text(0, MAX_REQUEST_ID_BYTES, "request_id")?;
    let device = c.plain_text(0, MAX_DEVICE_BYTES, "device")?;
    Ok((op_id, request_id.to_owned(), device.to_owned()))
}

fn encode_reserve(w: &mut Writer, reserve: &Reserve) {
    encode_asked(w, reserve.op_id, &reserve.request_id, &reserve.device);
    w.u32(reserve.items.len() as u32);
    for item in &reserve.items {
        w.bytes(&item.key.to_bytes());
        w.u32(item.len_bytes);
    }
}

fn decode_reserve(c: &mut Cursor<'_>) -> Result<Reserve, WireError> {
    let (op_id, request_id, device) = decode_asked(c)?;
    let count = c.count(1, MAX_BATCH_KEYS, RESERVE_ITEM_BYTES, "the item count")?;
    let mut items = Vec::with_capacity(count);
    for record in c.records::<RESERVE_ITEM_BYTES>(count, "the items")? {
        let [key @ .., l0, l1, l2, l3] = record;
        items.push(ReserveItem {
            key: Key::from_bytes(key)?,
            len_bytes: u32::from_le_bytes([*l0, *l1, *l2, *l3]),
        });
    }
    Ok(Reserve {
        op_id,
        request_id,
        device,
        items,
    })
}

fn encode_keys(w: &mut Writer, keys: &[Key]) {
    w.u32(keys.len() as u32);
    for key in keys {
        w.bytes(&key.to_bytes());
    }
}

fn decode_keys(c: &mut Cursor<'_>) -> Result<Vec<Key>, WireError> {
    let count = c.count(1, MAX_BATCH_KEYS, KEY_BYTES, "the key count")?;
    let mut keys = Vec::with_capacity(count);
    for record in c.records::<KEY_BYTES>(count, "the keys")? {
        keys.push(Key::from_bytes(record)?);
    }
    Ok(keys)
}

fn encode_held(w: &mut Writer, held: &Held) {
    w.u64(held.op_id.0);
    encode_held_items(w, &held.items);
}

fn encode_held_items(w: &mut Writer, items: &[HeldItem]) {
    w.u32(items.len() as u32);
    for item in items {
        w.u32(item.entry.0);
        w.u64(item.generation);
    }
}

fn decode_held(c: &mut Cursor<'_>) -> Result<Held, WireError> {
    let op_id = OpId(c.u64("op_id")?);
    let items = decode_held_items(c)?;
    Ok(Held { op_id, items })
}

fn decode_held_items(c: &mut Cursor<'_>) -> Result<Vec<HeldItem>, WireError> {
    let count = c.count(1, MAX_BATCH_KEYS, HELD_ITEM_BYTES, "the entry count")?;
    let mut items = Vec::with_capacity(count);
    for record in c.records::<HELD_ITEM_BYTES>(count, "the entries")? {
        let [e0, e1, e2, e3, generation @ ..] = record;
        items.push(HeldItem {
            entry: EntryNumber(u32::from_le_bytes([*e0, *e1, *e2, *e3])),
            generation: u64::from_le_bytes(*generation),
        });
    }
    Ok(items)
}
